"""Objectives against PyTorch's autograd and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import quickly
from scipy.special import log_softmax, softmax

from lossjax.hyperparams import Hyperparams
from lossjax.training.config import TrainConfig
from lossjax.training.objective import cross_entropy, objective

BATCH, CLASSES = 12, 5
rng = np.random.default_rng(0)
LOGITS = (3 * rng.normal(size=(BATCH, CLASSES))).astype(np.float32)
LABELS = rng.integers(0, CLASSES - 1, BATCH).astype(np.int32)
WEIGHTS = np.array([1.0] * 9 + [0.0] * 3, np.float32)
COUNTS = np.array([50, 20, 7, 3, 0], np.float32)  # of 80 training examples; the last class has none


def _objective(name: str, logits=LOGITS, labels=LABELS, weights=WEIGHTS, counts=COUNTS, **hparams: float):
    config = TrainConfig(batch_size=BATCH, epochs=1, objective=name)
    fields = {field: jnp.float32(value) for field, value in hparams.items()}
    return objective(config, Hyperparams(learning_rate=jnp.float32(1), **fields), logits, labels, weights, counts)


def _torch_objective(name: str, logits, **hparams: float):
    """The definitions once more, in float64 and only over the examples of weight 1."""
    torch = pytest.importorskip("torch")
    used = WEIGHTS > 0
    labels = torch.tensor(LABELS[used].astype(np.int64))
    smoothing = hparams.get("label_smoothing", 0.0)

    def entropy(logits):
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)

    logits = logits[used]
    probabilities = torch.softmax(logits, dim=1)
    match name:
        case "cross_entropy":
            return entropy(logits).mean()
        case "focal":
            own = probabilities[torch.arange(len(labels)), labels]
            return (-((1 - own) ** hparams["focal_gamma"]) * own.log()).mean()
        case "flooding":
            return (entropy(logits).mean() - hparams["flood_level"]).abs() + hparams["flood_level"]
        case "logit_adjusted":
            prior = torch.tensor([50, 20, 7, 3, 1]) / 80.0
            return entropy(logits + hparams.get("logit_adjustment", 1.0) * prior.log()).mean()
        case "class_weighted":
            beta, counts = hparams["effective_number_beta"], torch.tensor([50.0, 20, 7, 3, 1], dtype=torch.float64)
            weights = (1 - beta) / (1 - beta**counts)
            weights = weights * 80 / (weights * torch.tensor([50, 20, 7, 3, 0])).sum()
            return (weights[labels] * entropy(logits)).mean()
        case "brier":
            return ((probabilities - torch.nn.functional.one_hot(labels, CLASSES)) ** 2).sum(1).mean()


CASES = [
    ("cross_entropy", {}),
    ("cross_entropy", {"label_smoothing": 0.1}),
    ("focal", {"focal_gamma": 2.0}),
    ("focal", {"focal_gamma": 0.5}),
    ("flooding", {"flood_level": 0.3}),
    ("flooding", {"flood_level": 9.0}),
    ("logit_adjusted", {}),
    ("logit_adjusted", {"logit_adjustment": 0.7, "label_smoothing": 0.2}),
    ("class_weighted", {"effective_number_beta": 0.9, "label_smoothing": 0.1}),
    ("class_weighted", {"effective_number_beta": 0.0}),
    ("brier", {}),
]


@pytest.mark.parametrize(("name", "hparams"), CASES)
def test_value_and_gradient_equal_torch(name: str, hparams: dict[str, float]) -> None:
    torch = pytest.importorskip("torch")
    logits = torch.tensor(LOGITS.astype(np.float64), requires_grad=True)
    expected = _torch_objective(name, logits, **hparams)
    expected.backward()
    value, gradient = quickly(jax.value_and_grad(lambda z: _objective(name, logits=z, **hparams)))(LOGITS)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, logits.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_cross_entropy_of_an_example_is_minus_the_log_probability_of_its_label() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], np.float32)) + 100
    np.testing.assert_allclose(cross_entropy(logits, np.int32([1, 2])), -np.log([0.3, 0.8]), rtol=1e-4)


@pytest.mark.parametrize("num_classes", [2, 10, 300])
def test_gradient_of_cross_entropy_is_softmax_less_the_label(num_classes: int) -> None:
    rng = np.random.default_rng(num_classes)
    logits, labels = 30 * rng.normal(size=(5, num_classes)), rng.integers(0, num_classes, 5)
    weights = rng.normal(size=5)
    losses, pull = jax.vjp(lambda z: cross_entropy(z, jnp.asarray(labels)), jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(losses, -log_softmax(logits, axis=1)[np.arange(5), labels], rtol=1e-5, atol=1e-5)
    (gradient,) = pull(jnp.asarray(weights, jnp.float32))
    expected = weights[:, None] * (softmax(logits, axis=1) - np.eye(num_classes)[labels])
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_gradient_is_finite_where_the_loss_is_zero(gamma: float) -> None:
    logits = np.tile(np.float32([0, 200, 0, 0, 0]), (BATCH, 1))
    labels = np.ones(BATCH, np.int32)
    gradient = jax.grad(lambda z: _objective("focal", logits=z, labels=labels, focal_gamma=gamma))(logits)
    np.testing.assert_array_equal(gradient, 0)


def test_effective_number_weights_average_one_over_the_training_examples() -> None:
    # every example of the training set once, each with the same loss: only the mean weight is left
    labels = np.repeat(np.arange(CLASSES, dtype=np.int32), COUNTS.astype(int))
    logits = np.zeros((80, CLASSES), np.float32)
    ones = np.ones(80, np.float32)
    value = _objective("class_weighted", logits, labels, ones, effective_number_beta=0.9999)
    np.testing.assert_allclose(value, np.log(CLASSES), rtol=1e-5)


def test_effective_number_keeps_its_digits_near_one() -> None:
    # beta as float32 has it; 1 - beta**2 computed naively in float32 is off by about 1e-3 here
    beta = np.float64(np.float32(0.9999))
    counts = np.array([2, 3, 0, 0, 0], np.float32)
    logits, ones = np.zeros((1, CLASSES), np.float32), np.ones(1, np.float32)
    value = _objective("class_weighted", logits, np.zeros(1, np.int32), ones, counts, effective_number_beta=0.9999)
    weights = 1 / (1 - beta ** np.array([2.0, 3.0]))
    np.testing.assert_allclose(value, np.log(CLASSES) * weights[0] * 5 / (weights @ [2, 3]), rtol=1e-6)


def test_what_is_absent_is_not_in_the_program() -> None:
    def size(name: str, **hparams: float) -> int:
        return len(jax.make_jaxpr(lambda z: _objective(name, logits=z, **hparams))(LOGITS).eqns)

    assert size("cross_entropy") < size("cross_entropy", label_smoothing=0.0)
    assert size("logit_adjusted") < size("logit_adjusted", logit_adjustment=1.0)
    text = str(jax.make_jaxpr(jax.grad(lambda z: _objective("cross_entropy", logits=z)))(LOGITS))
    assert "scatter" not in text
    assert "gather" not in text


def test_mapped_equals_looped() -> None:
    def of_member(gamma, logits):
        hparams = Hyperparams(learning_rate=jnp.float32(1), focal_gamma=gamma)
        config = TrainConfig(batch_size=BATCH, epochs=1, objective="focal")
        return jax.value_and_grad(lambda z: objective(config, hparams, z, LABELS, WEIGHTS, COUNTS))(logits)

    gammas = np.float32([0.5, 1, 2])
    logits = np.stack([LOGITS, 2 * LOGITS, -LOGITS])
    values, gradients = quickly(jax.vmap(of_member))(gammas, logits)
    for member in range(3):
        value, gradient = quickly(of_member)(gammas[member], logits[member])
        np.testing.assert_allclose(values[member], value, rtol=1e-6)
        np.testing.assert_allclose(gradients[member], gradient, rtol=1e-5, atol=1e-8)
