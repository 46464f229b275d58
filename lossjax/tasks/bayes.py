"""What the best classifier of a teacher's labels reaches, and the teacher at which that is a stated accuracy."""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Float, Int, Key

from lossjax.devices import quiet_compilation
from lossjax.tasks.task import Bayes
from lossjax.tasks.teacher import (
    MAX_CELLS,
    Teacher,
    Weights,
    architecture,
    hidden_layer,
    log_posterior_of,
    own_teacher_key,
    random_weights,
    seed_key,
    weights_of,
)

BAYES_EXAMPLES = 2**16  # inputs behind Teacher.bayes and at_bayes_accuracy


class BayesRisk(NamedTuple):
    """What the best classifier reaches, by Monte Carlo over inputs; the posterior at each input is exact."""

    loss: float  # nats: E H(p*(·|x))
    loss_standard_error: float
    accuracy: float  # E max_y p*(y|x)
    accuracy_standard_error: float
    class_marginal: np.ndarray  # [class] E p*(y|x), the frequencies that labels have


def bayes_risk(task: Teacher, num_examples: int = 10**6, seed: int = 0, key: Key[Array, ""] | None = None) -> BayesRisk:
    """Bayes loss and accuracy of a teacher over ``num_examples`` fresh inputs drawn from ``seed``.

    ``key`` is the data key of a member, needed, and used, only with ``teacher_seed=None``.
    """
    if num_examples < 2:
        raise ValueError(f"num_examples={num_examples} gives no standard error; draw at least 2")
    weights = weights_of(task, own_teacher_key(task, key))
    inputs_key = jax.random.key(seed, impl="threefry2x32")
    with quiet_compilation():
        losses, accuracies, marginals = _risks(architecture(task), weights, task.temperature, inputs_key, num_examples)
    loss, accuracy = (
        np.asarray(values, dtype=np.float64).reshape(-1)[:num_examples] for values in (losses, accuracies)
    )
    return BayesRisk(
        loss=float(loss.mean()),
        loss_standard_error=float(loss.std(ddof=1) / math.sqrt(num_examples)),
        accuracy=float(accuracy.mean()),
        accuracy_standard_error=float(accuracy.std(ddof=1) / math.sqrt(num_examples)),
        class_marginal=np.asarray(marginals, dtype=np.float64).sum(axis=0) / num_examples,
    )


def at_bayes_accuracy(task: Teacher, accuracy: float) -> Teacher:
    """The same teacher at the temperature, to four digits, that gives a stated Bayes accuracy within about 0.002.

    Searched from the task's own temperature outwards, within 0.001 to 1,000, on the inputs of ``task.bayes``, by
    Brent's method: seconds, or about a minute with thousands of classes, less if the task's temperature is near, so an
    experiment is best given the result. Raises ValueError where these temperatures do not reach the accuracy, and with
    ``teacher_seed=None``, where each member's teacher needs its own.
    """
    if task.teacher_seed is None:
        raise ValueError("teacher_seed=None has no one teacher to tune; give a seed, and use several for several draws")
    key = seed_key(task.teacher_seed)

    @functools.cache
    def excess(log_temperature: float) -> float:
        with quiet_compilation():
            return float(_accuracy_at(architecture(task), key, math.exp(log_temperature))) - accuracy

    def within(log_temperature: float) -> float:
        return min(max(log_temperature, math.log(1e-3)), math.log(1e3))

    near = far = within(math.log(task.temperature))
    # the colder the more accurate, and the slower: none is tried without need
    outwards = math.copysign(math.log(2), excess(near))
    while excess(near) * excess(far) > 0:
        near, far = far, within(far + outwards)
        if near == far:
            raise ValueError(
                f"accuracy={accuracy} is out of reach: temperatures from 0.001 to 1000 end at "
                f"{accuracy + excess(far):.4f}, that of {math.exp(far):.4g}"
            )
    found = scipy.optimize.brentq(excess, near, far, xtol=5e-4)
    return dataclasses.replace(task, temperature=float(f"{math.exp(found):.4g}"))


@functools.cache
def cached_bayes(task: Teacher) -> Bayes:
    with jax.ensure_compile_time_eval():
        risk = bayes_risk(task, BAYES_EXAMPLES)
    return Bayes(loss=risk.loss, accuracy=risk.accuracy)


def _block_size(task: Teacher) -> int:
    return max(1, min(8192, MAX_CELLS // task.num_classes))


def _fresh_hidden(
    task: Teacher, weights: Weights, key: Key[Array, ""], block: Int[Array, ""]
) -> Float[Array, "example hidden"]:
    """The hidden layer at the inputs of one block of the population."""
    shape = (_block_size(task), task.seq_len, task.num_features)
    return hidden_layer(task, weights.to_hidden, jax.random.normal(jax.random.fold_in(key, block), shape, "float32"))


@functools.partial(jax.jit, static_argnames=("task", "num_examples"))
def _risks(
    task: Teacher, weights: Weights, temperature: Float[Array, ""], key: Key[Array, ""], num_examples: int
) -> tuple[Float[Array, "block example"], Float[Array, "block example"], Float[Array, "block class"]]:
    """Entropy and largest probability of the posterior at each input; the posterior's sum over each block.

    The last block is drawn whole; its surplus over ``num_examples`` is missing from the sums only.
    """
    size = _block_size(task)

    def risk(block: Int[Array, ""]) -> tuple[Array, Array, Array]:
        hidden = _fresh_hidden(task, weights, key, block)
        log_posterior = log_posterior_of(weights, hidden, temperature)
        posterior = jnp.exp(log_posterior)
        used = block * size + jnp.arange(size) < num_examples
        # a probability that underflows adds nothing: 0 times a finite logarithm
        return -(posterior * log_posterior).sum(-1), posterior.max(-1), (posterior * used[:, None]).sum(0)

    return jax.lax.map(risk, jnp.arange(-(-num_examples // size)))


@functools.partial(jax.jit, static_argnames=("task",))
def _accuracy_at(task: Teacher, teacher_key: Key[Array, ""], temperature: Float[Array, ""]) -> Float[Array, ""]:
    """Bayes accuracy at another temperature, on the inputs of ``Teacher.bayes`` in whole blocks."""
    weights = random_weights(task, teacher_key, temperature)
    inputs_key = jax.random.key(0, impl="threefry2x32")

    def accuracy(block: Int[Array, ""]) -> Float[Array, ""]:
        hidden = _fresh_hidden(task, weights, inputs_key, block)
        return jnp.exp(log_posterior_of(weights, hidden, temperature).max(-1)).mean()

    return jax.lax.map(accuracy, jnp.arange(-(-BAYES_EXAMPLES // _block_size(task)))).mean()
