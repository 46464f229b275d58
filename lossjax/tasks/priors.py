"""Class biases: what to add to a teacher's logits so that its labels have the frequencies of a prior."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

REFERENCE_EXAMPLES = 8192  # inputs, at least, over which a teacher's scores are standardised and its biases found
REFERENCES_A_CLASS = 40  # at least: a class's frequency among fewer is mostly chance
REFERENCE_CELLS = 2**18  # example-class entries that stay in the cache while biases are found for many classes
BIAS_TOLERANCE = 1e-3  # share of the reference labels that may still belong to other classes than the prior says
MANY_TOLERANCE = (0.05, 0.01)  # the same with many classes, of the first reference inputs and of all
BIAS_ITERATIONS = 200  # at most: temperatures below about 0.02 converge slowly


def num_references(num_classes: int) -> int:
    """Inputs over which scores are standardised and biases found: 8,192, and with many classes 40 or more a class.

    A power of two, so that it comes in whole blocks. Up to 204 classes it is 8,192.
    """
    return max(REFERENCE_EXAMPLES, 2 ** math.ceil(math.log2(REFERENCES_A_CLASS * num_classes)))


def matching_bias(logits: Float[Array, "example class"], prior: np.ndarray) -> Float[Array, " class"]:
    """Biases at which the mean posterior is the prior, by iterative proportional fitting from the log prior."""
    log_prior = np.log(prior).astype(np.float32)

    def log_frequency(bias: Float[Array, " class"]) -> Float[Array, " class"]:
        return jax.nn.logsumexp(jax.nn.log_softmax(logits + bias), axis=0) - math.log(len(logits))

    return _fitted(log_frequency, log_prior, jnp.asarray(log_prior), BIAS_TOLERANCE)


def matching_bias_in_blocks(
    hidden: Float[Array, "example hidden"], to_logits: Float[Array, "hidden class"], prior: np.ndarray
) -> Float[Array, " class"]:
    """The same for many classes, whose logits of all reference inputs are never held at once.

    First over some of the inputs, from far and therefore in many iterations; then over all, in a few.
    """
    log_prior = np.log(prior).astype(np.float32)
    size = 2 ** max(0, math.floor(math.log2(REFERENCE_CELLS / len(prior))))
    # of the logits' weights, so that it has a member axis under vmap; two columns, for XLA makes a sum of one
    ones = jnp.ones((len(prior), 2), jnp.float32) + 0.0 * to_logits[0, 0]
    bias = jnp.asarray(log_prior)
    for num_examples, tolerance in zip((REFERENCE_EXAMPLES, len(hidden)), MANY_TOLERANCE, strict=True):
        blocks = hidden[:num_examples].reshape(-1, min(size, num_examples), hidden.shape[1])

        def log_frequency(
            bias: Float[Array, " class"], blocks: Float[Array, "block example hidden"] = blocks
        ) -> Float[Array, " class"]:
            def add(total: Float[Array, " class"], block: Float[Array, "example hidden"]) -> tuple[Array, None]:
                logits = product(block, to_logits) + bias
                exps = jnp.exp(logits - logits.max(axis=1, keepdims=True))
                shares = 1 / product(exps, ones)[:, 0]
                return total + product(shares[None], exps)[0], None

            total, _ = jax.lax.scan(add, 0.0 * to_logits[0], blocks)
            # a class that no input is near is raised as far as this says
            smallest = jnp.finfo(jnp.float32).tiny
            return jnp.log(jnp.maximum(total, smallest)) - math.log(blocks.shape[0] * blocks.shape[1])

        bias = _fitted(log_frequency, log_prior, bias, tolerance)
    return bias


def _fitted(
    log_frequency: Callable[[Float[Array, " class"]], Float[Array, " class"]],
    log_prior: Float[np.ndarray, " class"],
    start: Float[Array, " class"],
    tolerance: float,
) -> Float[Array, " class"]:
    """Biases at which the frequencies of labels are the prior, but for a share of the labels.

    A class whose mean posterior is too small by some factor gets its bias raised by that factor's logarithm, all
    classes at once (Sinkhorn & Knopp 1967, with the examples' sums kept at 1 by the softmax).
    """

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        iteration, _, reached = state
        misplaced = jnp.abs(jnp.exp(reached) - jnp.exp(log_prior)).sum() / 2
        return (misplaced > tolerance) & (iteration < BIAS_ITERATIONS)

    def corrected(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        iteration, bias, reached = state
        bias = bias + log_prior - reached
        return iteration + 1, bias, log_frequency(bias)

    _, bias, _ = jax.lax.while_loop(unfinished, corrected, (jnp.int32(0), start, log_frequency(start)))
    return bias


def product(left: Array, right: Array) -> Array:
    # a GPU's default would round the factors to ten bits
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
