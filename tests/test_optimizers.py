"""Optimisers and schedules against torch.optim, published updates and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from programs import quickly

from lossjax.hyperparams import FIELDS, Hyperparams
from lossjax.training.config import Optimizer, Schedule, TrainConfig
from lossjax.training.optimizers import check_hyperparams, make_optimizer, schedule

STEPS = 20
rng = np.random.default_rng(0)
INPUTS = rng.normal(size=(30, 4)).astype(np.float32)
LABELS = (INPUTS @ [1, -2, 0.5, 0] + rng.normal(size=30) > 0).astype(np.float32)
WEIGHT = rng.normal(size=4).astype(np.float32)
BIAS = np.float32(0.3)


def _config(optimizer: Optimizer = "adam", schedule: Schedule = "constant") -> TrainConfig:
    return TrainConfig(batch_size=1, num_steps=STEPS, optimizer=optimizer, schedule=schedule)


def _hparams(**values: float) -> Hyperparams:
    return Hyperparams(**{name: jnp.float32(value) for name, value in values.items()})


def _loss(params: dict) -> jax.Array:
    """Logistic regression, scaled so that clipping at 1 sometimes acts."""
    logits = INPUTS @ params["weight"] + params["bias"]
    return 3 * jnp.mean(jnp.logaddexp(0, logits) - LABELS * logits)


def _run(config: TrainConfig, hparams: Hyperparams) -> dict[str, jax.Array]:
    """The parameters after each of the steps, name → [step, …]."""
    optimizer = make_optimizer(config, hparams, STEPS)
    params = {"weight": jnp.asarray(WEIGHT), "bias": jnp.asarray(BIAS)}

    def step(carry, index):
        params, opt_state = carry
        updates, opt_state = optimizer.update(jax.grad(_loss)(params), opt_state, params, step=index)
        params = optax.apply_updates(params, updates)
        return (params, opt_state), params

    return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(STEPS))[1]


CASES = [
    ("sgd", {}, {}),
    ("sgd", {"l2": 0.1}, {"weight_decay": 0.1}),
    ("momentum", {}, {"momentum": 0.9}),
    ("momentum", {"momentum": 0.5, "l2": 0.1, "clip_norm": 0.5}, {"momentum": 0.5, "weight_decay": 0.1}),
    ("adam", {}, {}),
    ("adam", {"beta1": 0.8, "beta2": 0.95, "l2": 0.1}, {"betas": (0.8, 0.95), "weight_decay": 0.1}),
    ("adamw", {"weight_decay": 0.1, "clip_norm": 1.0}, {"weight_decay": 0.1}),
    ("adam", {"weight_decay": 0.1}, {"weight_decay": 0.1}),
]


@pytest.mark.parametrize(("name", "hparams", "options"), CASES)
def test_parameters_of_every_step_equal_torch(name, hparams, options) -> None:
    torch = pytest.importorskip("torch")
    kind = torch.optim.SGD if name in ("sgd", "momentum") else torch.optim.Adam
    if "weight_decay" in hparams:
        kind = torch.optim.AdamW
    weight = torch.tensor(WEIGHT.astype(np.float64), requires_grad=True)
    bias = torch.tensor(float(BIAS), dtype=torch.float64, requires_grad=True)
    optimizer = kind([weight, bias], lr=0.05, **options)
    inputs, labels = torch.tensor(INPUTS.astype(np.float64)), torch.tensor(LABELS.astype(np.float64))
    actual = quickly(lambda: _run(_config(name), _hparams(learning_rate=0.05, **hparams)))()
    clipped = 0
    for step in range(STEPS):
        optimizer.zero_grad()
        logits = inputs @ weight + bias
        (3 * torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)).backward()
        if "clip_norm" in hparams:
            norm = torch.nn.utils.clip_grad_norm_([weight, bias], hparams["clip_norm"])
            clipped += bool(norm > hparams["clip_norm"])
        optimizer.step()
        np.testing.assert_allclose(actual["weight"][step], weight.detach().numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(actual["bias"][step], bias.item(), rtol=1e-5, atol=1e-6)
    assert clipped > 0 or "clip_norm" not in hparams


def test_lion_is_its_published_update() -> None:
    """Chen et al. 2023, program 1, in float64."""
    params, momentum = np.append(WEIGHT, BIAS).astype(np.float64), np.zeros(5)
    actual = quickly(lambda: _run(_config("lion"), _hparams(learning_rate=0.01, weight_decay=0.2)))()
    design = np.column_stack([INPUTS, np.ones(30)]).astype(np.float64)
    for step in range(STEPS):
        gradient = 3 * design.T @ (1 / (1 + np.exp(-design @ params)) - LABELS) / 30
        params -= 0.01 * (np.sign(0.9 * momentum + 0.1 * gradient) + 0.2 * params)
        momentum = 0.99 * momentum + 0.01 * gradient
        np.testing.assert_allclose(actual["weight"][step], params[:4], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(actual["bias"][step], params[4], rtol=1e-5, atol=1e-6)


def _multipliers(name: Schedule, num_steps: int = STEPS, **hparams: float) -> np.ndarray:
    config, values = _config(schedule=name), _hparams(learning_rate=1, **hparams)
    return np.array([schedule(config, values, jnp.int32(step), num_steps) for step in range(num_steps)])


def test_cosine_without_warmup_equals_torch() -> None:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    expected = []
    for _ in range(STEPS):
        expected.append(cosine.get_last_lr()[0])
        optimizer.step()
        cosine.step()
    np.testing.assert_allclose(_multipliers("warmup_cosine", warmup_fraction=0.0), expected, atol=1e-6)


def test_warmup_rises_linearly_to_one_and_the_decay_ends_at_its_fraction() -> None:
    multipliers = _multipliers("warmup_cosine", warmup_fraction=0.2, decay_fraction=0.8)
    np.testing.assert_allclose(multipliers[:4], [0.25, 0.5, 0.75, 1.0], rtol=1e-6)
    np.testing.assert_allclose(multipliers[4:16], 0.5 * (1 + np.cos(np.pi * np.arange(12) / 12)), atol=1e-6)
    np.testing.assert_allclose(multipliers[16:], 0, atol=1e-7)


def test_warmup_may_last_for_the_whole_training() -> None:
    multipliers = _multipliers("warmup_cosine", warmup_fraction=1.0)
    np.testing.assert_allclose(multipliers, np.arange(1, STEPS + 1) / STEPS, rtol=1e-6)


def test_step_falls_to_a_tenth() -> None:
    np.testing.assert_allclose(_multipliers("step", decay_fraction=0.5), [1] * 10 + [0.1] * 10)


@pytest.mark.parametrize("num_steps", [25, 50, 100, 10_000])
def test_step_falls_at_the_whole_step_that_is_meant(num_steps: int) -> None:
    percent = np.arange(1, 101)  # in float32, 0.6 · 100 is above 60, and others are too
    fractions = jnp.asarray(percent / 100, jnp.float32)
    first = -(-percent * num_steps // 100)  # the first whole step not before percent / 100 · num_steps

    def multipliers(steps: np.ndarray) -> np.ndarray:
        hparams = Hyperparams(learning_rate=jnp.float32(1), decay_fraction=fractions)
        return np.asarray(schedule(_config(schedule="step"), hparams, jnp.asarray(steps), num_steps))

    np.testing.assert_allclose(multipliers(first - 1), 1)
    np.testing.assert_allclose(multipliers(first), 0.1)


def test_decoupled_decay_follows_the_schedule() -> None:
    hparams = _hparams(learning_rate=0.1, weight_decay=0.5, decay_fraction=0.5)
    optimizer = make_optimizer(_config("sgd", "step"), hparams, STEPS)
    params = jnp.float32(2)
    updates = [optimizer.update(jnp.float32(0), optimizer.init(params), params, step=step)[0] for step in (0, 15)]
    np.testing.assert_allclose(updates, [-0.1, -0.01], rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "lion"])
def test_mapped_over_members_equals_looped(name: Optimizer) -> None:
    rates = np.float32([1e-3, 1e-2, 1e-1])
    decays = np.float32([0.0, 0.1, 0.3])

    def run(rate, decay):
        hparams = Hyperparams(learning_rate=rate, weight_decay=decay, warmup_fraction=jnp.float32(0.2))
        return _run(_config(name, "warmup_cosine"), hparams)

    mapped = quickly(jax.vmap(run))(rates, decays)
    for member in range(3):
        looped = quickly(run)(rates[member], decays[member])
        np.testing.assert_allclose(mapped["weight"][member], looped["weight"], rtol=2e-5, atol=1e-6)


def test_what_is_absent_is_not_in_the_program() -> None:
    def size(name: Optimizer = "sgd", schedule: Schedule = "constant", **hparams: float) -> int:
        params = jnp.ones(3)

        def update(step):
            optimizer = make_optimizer(_config(name, schedule), _hparams(learning_rate=1, **hparams), STEPS)
            return optimizer.update(params, optimizer.init(params), params, step=step)[0]

        return len(jax.make_jaxpr(update)(0).eqns)

    # the rate times 1, its sign, and the product with the gradient
    assert size() <= 4
    for name in ("weight_decay", "l2", "clip_norm"):
        assert size(**{name: 0.1}) > size()
    assert size(schedule="step", decay_fraction=0.5) > size()


@pytest.mark.parametrize(
    ("config", "present", "message"),
    [
        ({"objective": "focal"}, (), "needs focal_gamma"),
        ({"objective": "flooding"}, (), "needs flood_level"),
        ({"objective": "class_weighted"}, (), "needs effective_number_beta"),
        ({"optimizer": "adamw"}, (), "needs weight_decay"),
        ({"schedule": "warmup_cosine"}, (), "needs warmup_fraction"),
        ({"schedule": "step"}, (), "needs decay_fraction"),
        ({}, ("focal_gamma",), "focal_gamma is given.* choose focal"),
        ({}, ("momentum",), "momentum is given.* choose momentum"),
        ({"optimizer": "momentum"}, ("beta1",), "beta1 is given"),
        ({}, ("warmup_fraction",), "warmup_fraction is given"),
        ({"objective": "brier"}, ("label_smoothing",), "label_smoothing is given"),
        ({}, ("logit_adjustment",), "logit_adjustment is given"),
    ],
)
def test_hyperparameters_that_do_not_fit_are_refused(config, present, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_hyperparams(TrainConfig(batch_size=1, epochs=1, **config), {"learning_rate", *present})


def test_every_hyperparameter_is_used_by_some_configuration() -> None:
    fits = [
        (
            {},
            [
                "beta1",
                "beta2",
                "dropout",
                "label_smoothing",
                "label_noise",
                "train_size",
                "class_balance",
                "init_scale",
                "l2",
            ],
        ),
        ({"optimizer": "momentum", "objective": "focal"}, ["momentum", "focal_gamma", "clip_norm"]),
        ({"schedule": "warmup_cosine", "optimizer": "adamw"}, ["warmup_fraction", "decay_fraction", "weight_decay"]),
        ({"objective": "flooding"}, ["flood_level"]),
        ({"objective": "logit_adjusted"}, ["logit_adjustment", "label_smoothing"]),
        ({"objective": "class_weighted"}, ["effective_number_beta"]),
    ]
    for config, present in fits:
        check_hyperparams(TrainConfig(batch_size=1, epochs=1, **config), {"learning_rate", *present})
    assert {"learning_rate"}.union(*(present for _, present in fits)) == set(FIELDS)
