"""One member: against loops written by hand, and what each hyperparameter does to its data and its program."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from programs import quickly
from scipy.special import log_softmax

from lossjax.hyperparams import Hyperparams
from lossjax.keys import streams_from_seeds
from lossjax.models import LSTM, Dense
from lossjax.tasks import RandomLabels
from lossjax.training import train
from lossjax.training.config import Measure, TrainConfig
from lossjax.training.train import Cell, Span

LEAN = Measure(calibration=False, num_groups=0)
# ten examples in batches of four: the last batch of an epoch holds two
TASK = RandomLabels(num_examples=10, seq_len=4, num_features=2, num_heldout=6)
CELL = Cell(TASK, LSTM(hidden=3), TrainConfig(4, epochs=3, measure=LEAN))
DENSE = Cell(TASK, Dense(width=4, layers=1), TrainConfig(4, epochs=3, measure=LEAN))


def scalars(**values: float) -> Hyperparams:
    return Hyperparams(**{name: jnp.float32(value) for name, value in values.items()})


def member(cell: Cell, hparams: Hyperparams, seed: int = 1, **other_seeds: int):
    """Streams, data and state of one member, as ``population`` makes them."""
    names = ("data", "init", "order", "noise")
    streams = streams_from_seeds(jnp.array([other_seeds.get(name, seed) for name in names], jnp.uint32))
    data = train.prepare(cell, streams, hparams, cell.task.splits(streams.data))
    return streams, data, train.init(cell, streams, hparams, data)


@functools.cache
def compiled_run(cell: Cell):
    return quickly(functools.partial(train.run, cell))


def span(cell: Cell, last: int) -> Span:
    """From the start, the evaluation before any step included, to ``last``."""
    evaluations = cell.config.eval_steps(cell.sizes["train"])
    bounds = (0, last, 0, int(np.searchsorted(evaluations, last)) + 1)
    return Span(*(jnp.int32(bound) for bound in bounds))


def assert_trees_close(actual, expected, **tolerance: float) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), actual, expected)


# Training -----------------------------------------------------------------------------------------------------------


def test_training_is_a_plain_loop_over_epochs_and_batches_the_short_one_included():
    """Against Flax and optax without padding, weights, tracing of steps, or anything else of lossjax's training."""
    hparams = scalars(learning_rate=0.05)
    streams, data, state = member(CELL, hparams)
    trained = compiled_run(CELL)(state, streams, hparams, data, span(CELL, 9))

    network = LSTM(hidden=3, num_classes=2)
    splits = TASK.splits(streams.data)
    params = quickly(network.init)(streams.init, splits.train.inputs[:1])["params"]
    optimizer = optax.adam(0.05)
    opt_state = quickly(optimizer.init)(params)
    apply = quickly(network.apply)

    def mean_loss(params, inputs, labels):
        logits = network.apply({"params": params}, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @quickly
    def advance(params, opt_state, inputs, labels):
        loss, gradients = jax.value_and_grad(mean_loss)(params, inputs, labels)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return loss, optax.apply_updates(params, updates), opt_state

    curves = {name: [] for name in ("batch_loss", "train_loss", "val_loss", "train_accuracy")}
    batch_loss = np.nan

    def record():
        curves["batch_loss"].append(float(batch_loss))
        for name, split in (("train_loss", splits.train), ("val_loss", splits.val)):
            logits, labels = jax.device_get((apply({"params": params}, split.inputs), split.labels))
            curves[name].append(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())
            if name == "train_loss":
                curves["train_accuracy"].append((logits.argmax(-1) == labels).mean())

    record()
    for epoch in range(3):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(streams.order, epoch), 10))
        for batch in (order[:4], order[4:8], order[8:]):
            inputs, labels = (np.asarray(part)[batch] for part in (splits.train.inputs, splits.train.labels))
            batch_loss, params, opt_state = advance(params, opt_state, inputs, labels)
        record()

    assert_trees_close(trained.params, params, rtol=2e-4, atol=2e-5)
    for name, curve in curves.items():
        np.testing.assert_allclose(trained.records[name], curve, rtol=2e-4, atol=1e-6, err_msg=name)
    assert trained.nonfinite_step == -1


class _Linear(nn.Module):
    num_classes: int | None = None

    @nn.compact
    def __call__(self, inputs, mask=None, *, dropout_rate=None):
        return nn.Dense(self.num_classes, name="output")(inputs.reshape(len(inputs), -1))


def test_all_of_training_at_once_is_a_loop_in_numpy():
    """Objective, optimiser, schedule, decays, clipping and what changes the data together, with gradients by hand."""
    task = RandomLabels(num_examples=10, seq_len=2, num_features=2, num_classes=3)
    choices = {"optimizer": "adamw", "schedule": "warmup_cosine", "objective": "class_weighted"}
    cell = Cell(task, _Linear(), TrainConfig(4, num_steps=9, num_evals=9, measure=LEAN, **choices))
    of_data = {"label_noise": 0.5, "train_size": 7, "init_scale": 2}
    of_objective = {"label_smoothing": 0.3, "effective_number_beta": 0.9}
    of_steps = {"learning_rate": 0.2, "weight_decay": 0.5, "l2": 0.1, "beta1": 0.8, "beta2": 0.95, "clip_norm": 0.6}
    of_schedule = {"warmup_fraction": 0.3, "decay_fraction": 0.8}
    hparams = scalars(**of_data, **of_objective, **of_steps, **of_schedule)
    streams, data, state = member(cell, hparams)
    trained = compiled_run(cell)(state, streams, hparams, data, span(cell, 9))

    labels = np.asarray(data.train_labels)
    design = np.column_stack([np.asarray(data.examples.inputs, np.float64).reshape(10, 4), np.ones(10)])
    kernel = cell.network.init(streams.init, data.examples.inputs[:1])["params"]["output"]["kernel"]
    params = 2 * np.concatenate([kernel, np.zeros((1, 3))]).astype(np.float64)
    targets = 0.7 * np.eye(3)[labels] + 0.3 / 3
    counts = np.bincount(labels[:7], minlength=3)
    class_weights = 1 / (1 - 0.9 ** np.maximum(counts, 1))
    class_weights *= 7 / (class_weights @ counts)
    first = second = np.zeros_like(params)
    batch_losses, norms = [], []
    for step in range(9):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(streams.order, step // 3), 10)) % 7
        rows = order[4 * (step % 3) :][:4]
        log_probabilities = log_softmax(design[rows] @ params, axis=1)
        batch_losses.append(-np.mean(log_probabilities[np.arange(len(rows)), labels[rows]]))
        errors = class_weights[labels[rows], None] * (np.exp(log_probabilities) - targets[rows])
        gradient = design[rows].T @ errors / len(rows)
        norms.append(np.linalg.norm(gradient))
        gradient = gradient * min(1, 0.6 / norms[-1]) + 0.1 * params
        first, second = 0.8 * first + 0.2 * gradient, 0.95 * second + 0.05 * gradient**2
        corrected = first / (1 - 0.8 ** (step + 1)), second / (1 - 0.95 ** (step + 1))
        decay = 0.5 * (1 + np.cos(np.pi * np.clip((step - 0.3 * 9) / ((0.8 - 0.3) * 9), 0, 1)))
        rate = 0.2 * min((step + 1) / (0.3 * 9), 1) * decay
        params = params - rate * (corrected[0] / (np.sqrt(corrected[1]) + 1e-8) + 0.5 * params)
    assert min(norms) < 0.6 < max(norms), "clip_norm should act in some steps and not in others: change it"
    assert (labels != np.asarray(task.splits(streams.data).train.labels)).any()
    output = trained.params["output"]
    np.testing.assert_allclose(np.vstack([output["kernel"], output["bias"]]), params, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(trained.records["batch_loss"][1:], batch_losses, rtol=2e-5)
    used = log_softmax(design[:7] @ params, axis=1)[np.arange(7), labels[:7]]
    np.testing.assert_allclose(trained.records["train_loss"][-1], -used.mean(), rtol=2e-5)


def test_run_is_step_after_step():
    hparams = scalars(learning_rate=0.05)
    streams, data, state = member(CELL, hparams)
    whole = compiled_run(CELL)(state, streams, hparams, data, span(CELL, 9))
    step = quickly(functools.partial(train.step, CELL))
    for index in range(9):
        order = jax.random.permutation(jax.random.fold_in(streams.order, index // 3), 10)
        padded = jnp.concatenate([order, order[:2]])  # filled up by starting the order again
        state = step(state, streams, hparams, data, padded, jnp.int32(index))
    assert_trees_close(state.params, whole.params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.batch_loss, whole.batch_loss, rtol=1e-5)


@pytest.mark.parametrize(
    ("num_examples", "length", "rows"),
    [
        (100, {"epochs": 1}, 4),  # 12 of 112 rows would be filling
        (96, {"epochs": 1}, None),
        (93, {"epochs": 1}, None),  # 3 of 96
        (1000, {"epochs": 1}, None),  # 8 of 1,008
        (100, {"num_steps": 6}, None),  # never gets there
    ],
)
def test_a_short_batch_has_a_program_of_its_own_where_filling_it_up_is_wasteful(num_examples, length, rows):
    task = RandomLabels(num_examples=num_examples, seq_len=4, num_features=2)
    assert Cell(task, LSTM(hidden=3), TrainConfig(16, **length)).short_batch == rows


def test_every_example_is_seen_once_an_epoch_and_what_fills_the_last_batch_weighs_nothing():
    hparams = scalars(learning_rate=0.05)
    streams, data, state = member(DENSE, hparams)
    order = jnp.asarray(np.r_[np.arange(10), 0, 1])
    other_filling = jnp.asarray(np.r_[np.arange(10), 5, 5])
    step = quickly(functools.partial(train.step, DENSE))
    a, b = (step(state, streams, hparams, data, rows, jnp.int32(2)) for rows in (order, other_filling))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, a.params, b.params)))
    other_example = jnp.asarray(np.r_[np.arange(9), 0, 0, 1])
    c = step(state, streams, hparams, data, other_example, jnp.int32(2))
    assert not np.array_equal(a.params["output"]["kernel"], c.params["output"]["kernel"])
    for epoch in range(3):
        assert sorted(train._order(DENSE, streams, hparams, data, jnp.int32(epoch))[:10].tolist()) == list(range(10))


def test_a_loss_that_is_no_number_is_dated_by_its_step():
    hparams = scalars(learning_rate=3e38)
    streams, data, state = member(CELL, hparams)
    trained = compiled_run(CELL)(state, streams, hparams, data, span(CELL, 9))
    assert trained.nonfinite_step == 2  # the first update breaks the parameters, the second step's loss shows it
    assert np.isfinite(trained.records["val_loss"]).tolist() == [True, False, False, False]


# What no member uses ------------------------------------------------------------------------------------------------


def draws_in_a_step(hparams: Hyperparams) -> int:
    """How many random draws the program of a step holds."""
    streams, data, state = member(DENSE, hparams)
    order = jnp.zeros(12, jnp.int32)
    step = functools.partial(train.step, DENSE)
    return str(jax.make_jaxpr(step)(state, streams, hparams, data, order, jnp.int32(0))).count("random_bits")


def test_without_dropout_a_step_draws_nothing():
    assert draws_in_a_step(scalars(learning_rate=0.1)) == 0
    assert draws_in_a_step(scalars(learning_rate=0.1, dropout=0.0)) == 1


def test_absent_hyperparameters_leave_no_argument_and_no_operation():
    order = jnp.zeros(12, jnp.int32)

    def program(**fields):
        hparams = scalars(learning_rate=0.1, **fields)
        streams, data, state = member(DENSE, hparams)
        return jax.make_jaxpr(lambda h: train.step(DENSE, state, streams, h, data, order, jnp.int32(0)).params)(hparams)

    lean = program()
    assert len(lean.jaxpr.invars) == 1
    for name in ("weight_decay", "l2", "clip_norm", "label_smoothing"):
        fuller = program(**{name: 0.1})
        assert len(fuller.jaxpr.invars) == 2
        assert len(fuller.jaxpr.eqns) > len(lean.jaxpr.eqns)


# Label noise and training-set size ----------------------------------------------------------------------------------

LARGE = Cell(
    RandomLabels(num_examples=4000, seq_len=1, num_classes=4, num_heldout=40),
    Dense(width=2),
    TrainConfig(40, epochs=1, measure=LEAN),
)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_label_noise_redraws_its_share_of_training_labels_and_no_others(share):
    hparams = scalars(learning_rate=0.1, label_noise=share)
    streams, data, _ = member(LARGE, hparams)
    clean = LARGE.task.splits(streams.data)
    changed = np.asarray(data.train_labels) != np.asarray(clean.train.labels)
    expected = share * 3 / 4  # one redrawn label in four is the old one
    assert abs(changed.mean() - expected) <= 4 * np.sqrt(expected * (1 - expected) / 4000)
    joined = np.concatenate([clean.train.labels, clean.val.labels, clean.test.labels])
    np.testing.assert_array_equal(data.examples.labels, joined)
    np.testing.assert_array_equal(data.class_counts, np.bincount(data.train_labels, minlength=4))


def test_more_label_noise_keeps_the_labels_already_redrawn():
    given = (scalars(learning_rate=0.1, label_noise=share) for share in (0.2, 1.0))
    few, many = (np.asarray(member(LARGE, hparams)[1].train_labels) for hparams in given)
    clean = np.asarray(member(LARGE, scalars(learning_rate=0.1))[1].train_labels)
    assert np.array_equal(few[few != clean], many[few != clean])


def test_train_size_takes_the_first_examples_and_an_order_of_them():
    hparams = scalars(learning_rate=0.1, train_size=3)
    streams, data, _ = member(DENSE, hparams)
    order = np.asarray(train._order(DENSE, streams, hparams, data, jnp.int32(0)))
    assert order.shape == (12,)
    assert set(order) == {0, 1, 2}
    # ten places shared by three examples as evenly as can be
    assert sorted(np.bincount(order[:10])) == [3, 3, 4]
    assert data.class_counts.sum() == 3
    np.testing.assert_array_equal(data.class_counts, np.bincount(data.train_labels[:3], minlength=2))


def test_a_train_size_of_all_examples_changes_nothing():
    streams, data, _ = member(DENSE, scalars(learning_rate=0.1))
    hparams = scalars(learning_rate=0.1, train_size=10)
    _, whole, _ = member(DENSE, hparams)
    for epoch in range(2):
        a, b = (train._order(DENSE, streams, h, data, jnp.int32(epoch)) for h in (hparams, scalars(learning_rate=0.1)))
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(whole.class_counts, data.class_counts)


@pytest.mark.parametrize(("balance", "shares"), [(1.0, [0.5, 0.5]), (0.5, [0.25, 0.75]), (0.0, [0.1, 0.9])])
def test_class_balance_draws_classes_in_proportion_to_a_power_of_their_counts(balance, shares):
    """Classes of 100 and 900 examples; with q = 1/2 in proportion to 10 and 30."""
    cell = Cell(RandomLabels(1000, 1, 1), Dense(width=2), TrainConfig(10, epochs=1, measure=LEAN))
    hparams = scalars(learning_rate=0.1, class_balance=balance)
    streams, data, _ = member(cell, hparams)
    labels = (np.arange(1000) >= 100).astype(np.int32)
    data = data.replace(train_labels=jnp.asarray(labels), class_counts=jnp.array([100.0, 900.0]))
    order = jax.vmap(lambda epoch: train._order(cell, streams, hparams, data, epoch))(jnp.arange(100))
    drawn = np.bincount(labels[np.asarray(order)].reshape(-1)) / order.size
    np.testing.assert_allclose(drawn, shares, atol=4 * np.sqrt(0.25 / order.size))
    each = np.bincount(np.asarray(order).reshape(-1), minlength=1000)
    np.testing.assert_allclose(each[:100].mean(), shares[0] * 1000, rtol=0.05)
    assert each.min() > 0


def test_class_balance_draws_only_the_examples_that_are_used():
    hparams = scalars(learning_rate=0.1, train_size=3, class_balance=1.0)
    streams, data, _ = member(DENSE, hparams)
    orders = [np.asarray(train._order(DENSE, streams, hparams, data, jnp.int32(epoch))) for epoch in range(20)]
    assert set(np.concatenate(orders)) == {0, 1, 2}


# Streams and initialisation -----------------------------------------------------------------------------------------


def test_each_stream_feeds_its_own_purpose():
    hparams = scalars(learning_rate=0.1, label_noise=0.5, dropout=0.5)
    streams, data, state = member(DENSE, hparams)

    def unchanged(**seeds: int) -> set[str]:
        other_streams, other_data, other_state = member(DENSE, hparams, **seeds)
        kernels = [s.params["output"]["kernel"] for s in (state, other_state)]
        orders = [train._order(DENSE, s, hparams, data, jnp.int32(0)) for s in (streams, other_streams)]
        dropout = [jax.random.bits(train._dropout_key(s)) for s in (streams, other_streams)]
        pairs = {
            "inputs": (data.examples.inputs, other_data.examples.inputs),
            "labels": (data.train_labels, other_data.train_labels),
            "params": kernels,
            "order": orders,
            "dropout": dropout,
        }
        return {name for name, (a, b) in pairs.items() if np.array_equal(a, b)}

    everything = {"inputs", "labels", "params", "order", "dropout"}
    assert unchanged() == everything
    assert unchanged(init=9) == everything - {"params"}
    assert unchanged(order=9) == everything - {"order"}
    assert unchanged(noise=9) == everything - {"labels", "dropout"}
    assert unchanged(data=9) == everything - {"inputs", "labels"}


def test_init_scale_multiplies_parameters():
    plain = member(DENSE, scalars(learning_rate=0.1))[2].params
    halved = member(DENSE, scalars(learning_rate=0.1, init_scale=0.5))[2].params
    assert_trees_close(halved, jax.tree.map(lambda leaf: leaf / 2, plain), rtol=0, atol=0)


class _Scaled(nn.Module):
    num_classes: int | None = None

    @nn.compact
    def __call__(self, inputs, mask=None, *, dropout_rate=None):
        return nn.Dense(self.num_classes)(nn.LayerNorm()(inputs[:, -1]))


def test_init_scale_leaves_normalisation_gains():
    cell = dataclasses.replace(DENSE, model=_Scaled())
    params = member(cell, scalars(learning_rate=0.1, init_scale=0.5))[2].params
    np.testing.assert_array_equal(params["LayerNorm_0"]["scale"], 1)


def test_a_cell_fills_in_what_the_model_takes_from_the_task():
    assert Cell(LARGE.task, Dense(width=2), LARGE.config).network.num_classes == 4
    assert Cell(LARGE.task, Dense(width=2, num_classes=7), LARGE.config).network.num_classes == 7
    assert DENSE.sizes == {"train": 10, "val": 3, "test": 3}
    assert (DENSE.num_steps, DENSE.steps_per_epoch) == (9, 3)


def test_splits_without_examples_or_not_asked_for_are_not_measured():
    alone = Cell(RandomLabels(num_examples=10), Dense(width=2), TrainConfig(4, epochs=1, measure=LEAN))
    assert alone.measured == ["train"]
    held_out = dataclasses.replace(
        DENSE, config=TrainConfig(4, epochs=1, measure=Measure(splits=("val",), calibration=False))
    )
    hparams = scalars(learning_rate=0.1)
    streams, data, state = member(held_out, hparams)
    assert {name.split("_")[0] for name in state.records} == {"val", "batch"}
    # evaluated examples are those of the split, not of its position among all
    measured = quickly(functools.partial(train.evaluate, held_out))(state.params, hparams, data, state.batch_loss)
    val = held_out.task.splits(streams.data).val
    logits = np.asarray(held_out.network.apply({"params": state.params}, val.inputs))
    expected = -log_softmax(logits, axis=1)[np.arange(len(logits)), np.asarray(val.labels)].mean()
    np.testing.assert_allclose(measured["val_loss"], expected, rtol=1e-5)


def test_blocks_of_an_evaluation_give_the_logits_of_all_examples():
    hparams = scalars(learning_rate=0.1)
    _, data, state = member(DENSE, hparams)
    small = dataclasses.replace(
        DENSE, config=dataclasses.replace(DENSE.config, measure=dataclasses.replace(LEAN, block=5))
    )
    whole = DENSE.network.apply({"params": state.params}, data.examples.inputs)
    np.testing.assert_allclose(train._logits(small, state.params, data.examples), whole, rtol=1e-5, atol=1e-6)
