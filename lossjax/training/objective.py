"""Objectives: what training minimises. What is *measured* is always ``cross_entropy`` (see ``measure``)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lossjax.hyperparams import Hyperparams
from lossjax.training.config import TrainConfig
from lossjax.xla import last_max, last_sum


def objective(
    config: TrainConfig,
    hparams: Hyperparams,
    logits: Float[Array, "batch class"],
    labels: Int[Array, " batch"],
    weights: Float[Array, " batch"],
    class_counts: Float[Array, " class"],
) -> Float[Array, ""]:
    """The trained loss of a batch: the mean over examples, each counted ``weights`` times; nats, except Brier.

    - ``cross_entropy``, with ``label_smoothing`` where present: the target is (1 - s) of the label and s of the uniform
      distribution over all classes.
    - ``focal``: (1 - p_y)^gamma · cross-entropy (Lin et al. 2017, eq. 4).
    - ``flooding``: |L - b| + b of the batch's mean cross-entropy L (Ishida et al. 2020, eq. 1).
    - ``logit_adjusted``: cross-entropy of logits + tau · log prior (Menon et al. 2021, eq. 10); tau is 1 where
      ``logit_adjustment`` is absent. A class without training examples gets the prior of a class with one.
    - ``class_weighted``: cross-entropy weighted by 1/(1 - beta^count) of the label's class (Cui et al. 2019, eq. 5),
      scaled so that the mean weight over training examples is 1. The sum is divided by the sum of ``weights``, hence
      not by the batch's class weights as in PyTorch: the scale does not depend on which classes a batch holds.
    - ``brier``: Σ_k (p_k - [k = y])².

    Args:
        class_counts: training examples of each class; only ``logit_adjusted`` and ``class_weighted`` look at it.
    """
    smoothing = hparams.label_smoothing
    match config.objective:
        case "cross_entropy":
            losses = _smoothed_cross_entropy(logits, labels, smoothing)
        case "focal":
            assert hparams.focal_gamma is not None  # optimizers.check_hyperparams has refused it
            losses = _focal(cross_entropy(logits, labels), hparams.focal_gamma)
        case "flooding":
            assert hparams.flood_level is not None
            mean = weighted_mean(cross_entropy(logits, labels), weights)
            return jnp.abs(mean - hparams.flood_level) + hparams.flood_level
        case "logit_adjusted":
            shift = log_prior(class_counts)
            if hparams.logit_adjustment is not None:
                shift = hparams.logit_adjustment * shift
            losses = _smoothed_cross_entropy(logits + shift, labels, smoothing)
        case "class_weighted":
            assert hparams.effective_number_beta is not None
            class_weights = _effective_number_weights(class_counts, hparams.effective_number_beta)
            losses = class_weights[labels] * _smoothed_cross_entropy(logits, labels, smoothing)
        case "brier":
            probabilities = jax.nn.softmax(logits)
            losses = jnp.sum(probabilities**2, axis=-1) - 2 * _of_label(probabilities, labels) + 1
    return weighted_mean(losses, weights)


def cross_entropy(logits: Float[Array, "batch class"], labels: Int[Array, " batch"]) -> Float[Array, " batch"]:
    """-log softmax(logits)[label] of each example, in nats."""
    return _smoothed_cross_entropy(logits, labels, None)


def log_prior(class_counts: Float[Array, " class"]) -> Float[Array, " class"]:
    """Logarithm of each class's share of the training examples; without any, a class counts as one with one."""
    return jnp.log(jnp.maximum(class_counts, 1) / jnp.sum(class_counts))


def _smoothed_cross_entropy(
    logits: Float[Array, "batch class"], labels: Int[Array, " batch"], smoothing: Float[Array, ""] | None
) -> Float[Array, " batch"]:
    target_logit = _of_label(logits, labels)
    if smoothing is not None:
        target_logit = (1 - smoothing) * target_logit + smoothing * jnp.mean(logits, axis=-1)
    return _logsumexp(logits) - target_logit


@jax.custom_vjp
def _logsumexp(logits: Float[Array, "batch class"]) -> Float[Array, " batch"]:
    """``jax.nn.logsumexp`` of each row, faster on a CPU where classes are many; nan where a logit is inf."""
    return _logsumexp_forward(logits)[0]


def _logsumexp_forward(logits: Array) -> tuple[Array, tuple[Array, Array]]:
    highest = last_max(logits)
    exponentials = jnp.exp(logits - highest[:, None])
    total = last_sum(exponentials)
    return jnp.log(total) + highest, (exponentials, total)


def _logsumexp_backward(saved: tuple[Array, Array], gradient: Float[Array, " batch"]) -> tuple[Array]:
    exponentials, total = saved
    return (exponentials * (gradient / total)[:, None],)


_logsumexp.defvjp(_logsumexp_forward, _logsumexp_backward)


def _focal(losses: Float[Array, " batch"], gamma: Float[Array, ""]) -> Float[Array, " batch"]:
    # at a loss of exactly 0 the derivative of (1 - p)^gamma would be infinite for gamma < 1; the limit is 0
    positive = losses > 0
    safe = jnp.where(positive, losses, 1.0)
    return jnp.where(positive, (-jnp.expm1(-safe)) ** gamma * safe, 0.0)


def _effective_number_weights(class_counts: Float[Array, " class"], beta: Float[Array, ""]) -> Float[Array, " class"]:
    """1/(1 - beta^count), scaled to mean 1 over training examples; a class without examples weighs as one with one."""
    # expm1 and log1p: 1 - beta^count loses its digits where beta is near 1
    weights = -1 / jnp.expm1(jnp.maximum(class_counts, 1) * jnp.log1p(beta - 1))
    return weights * (jnp.sum(class_counts) / jnp.sum(class_counts * weights))


@jax.custom_vjp
def _of_label(values: Float[Array, "batch class"], labels: Int[Array, " batch"]) -> Float[Array, " batch"]:
    """values[i, labels[i]]."""
    # a comparison instead of a gather: the gradient of a gather is a scatter, which is slow on a CPU
    return last_sum(jnp.where(_is_label(values, labels), values, 0))


_of_label.defvjp(
    lambda values, labels: (_of_label(values, labels), _is_label(values, labels)),
    lambda is_label, gradient: (jnp.where(is_label, gradient[:, None], 0.0), None),
)


def _is_label(values: Float[Array, "batch class"], labels: Int[Array, " batch"]) -> Bool[Array, "batch class"]:
    return jnp.arange(values.shape[-1], dtype=labels.dtype) == labels[:, None]


def weighted_mean(values: Float[Array, " batch"], weights: Float[Array, " batch"]) -> Float[Array, ""]:
    # times the reciprocal: a division by a traced scalar has other last bits on one device than on two
    return jnp.sum(values * weights) * (1.0 / jnp.sum(weights))
