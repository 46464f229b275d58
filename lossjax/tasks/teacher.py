"""A teacher: a fixed random network that states the true posterior of every label it gives."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from flax import struct
from jaxtyping import Array, Float, Int, Key

from lossjax.devices import quiet_compilation
from lossjax.tasks.task import Bayes, Split, Splits, check_whole

Network = Literal["lstm", "dense"]
Prior = Literal["uniform", "zipf"] | tuple[float, ...]

REFERENCE_EXAMPLES = 8192  # inputs, at least, over which a teacher's scores are standardised and its biases found
REFERENCES_A_CLASS = 40  # at least: a class's frequency among fewer is mostly chance
REFERENCE_CELLS = 2**18  # example-class entries that stay in the cache while biases are found for many classes
BIAS_TOLERANCE = 1e-3  # share of the reference labels that may still belong to other classes than the prior says
MANY_TOLERANCE = (0.05, 0.01)  # the same with many classes, of the first reference inputs and of all
BIAS_ITERATIONS = 200  # at most: temperatures below about 0.02 converge slowly
BAYES_EXAMPLES = 2**16  # inputs behind Teacher.bayes and at_bayes_accuracy
MAX_CELLS = 2**22  # example-class entries of the posterior held at once
MANY_CLASSES = 256  # from here on labels are drawn in two steps; below, one random number a class is cheap
FORGET_BIAS = 2.0  # the LSTM teacher remembers about eight steps


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Standard normal sequences, labelled by the known posterior p*(y|x) of a random network.

    p*(y|x) = softmax(score_y(x) / temperature + bias_y). Each class's score has mean 0 and variance 1 over inputs, so
    that a temperature means the same at every size. The biases are such that E p*(y|x), the frequency of label y, is
    the class's prior. All three hold over the teacher's reference inputs (``num_references``: 8,192, and from 205
    classes on 40 or more a class), hence over the population up to sampling error: about 0.2 % of the labels belong to
    other classes than the prior says with 2 classes, up to 2 % with 4 or 10, and about 4 % with 3,000 at a Bayes
    accuracy of 0.6, with a uniform prior as with Zipf's. ``bayes_risk`` gives the frequencies.

    Members draw their own examples from their data key. With a ``teacher_seed`` all have the same teacher; with None
    each draws one of its own as well, so that replicating over members replicates over teachers. Label noise and the
    size of the training set are hyperparameters of members, not of the task.

    Attributes:
        num_features: features that the teacher reads. They come first, the irrelevant ones after them.
        prior: "uniform"; "zipf", where class k has probability in proportion to (k + 1) ** -zipf_exponent; or one
            positive number a class, summing to 1.
        hidden: width of the teacher's one hidden layer, and the rank of its scores.
        input_scale: multiplies the features after the labels are drawn, for example 1 / sqrt(num_features).
    """

    network: Network = "lstm"
    hidden: int = 8
    num_examples: int = 100
    seq_len: int = 20
    num_features: int = 5
    num_classes: int = 2
    temperature: float = 0.5
    prior: Prior = "uniform"
    zipf_exponent: float = 1.0
    num_val: int = 0
    num_test: int = 0
    num_irrelevant: int = 0
    input_scale: float = 1.0
    teacher_seed: int | None = 0

    def __post_init__(self) -> None:
        if self.network not in get_args(Network):
            raise ValueError(f"network={self.network!r} is none of {', '.join(get_args(Network))}")
        check_whole(self, hidden=1, num_examples=1, seq_len=1, num_features=1, num_classes=2)
        check_whole(self, num_val=0, num_test=0, num_irrelevant=0)
        for name in ("temperature", "input_scale"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name}={getattr(self, name)} must be finite and > 0")
        if not (math.isfinite(self.zipf_exponent) and self.zipf_exponent >= 0):
            raise ValueError(f"zipf_exponent={self.zipf_exponent} must be finite and >= 0")
        if self.teacher_seed is not None:
            check_whole(self, teacher_seed=0)
            if self.teacher_seed >= 2**32:
                raise ValueError(f"teacher_seed={self.teacher_seed} must lie in 0 … 4294967295, or be None")
        is_named = isinstance(self.prior, str) and self.prior in ("uniform", "zipf")
        if not isinstance(self.prior, tuple) and not is_named:
            raise ValueError(f"prior={self.prior!r} is neither uniform nor zipf nor a tuple of probabilities")
        if isinstance(self.prior, tuple):
            if len(self.prior) != self.num_classes:
                raise ValueError(f"prior has {len(self.prior)} probabilities for num_classes={self.num_classes}")
            if not all(p > 0 for p in self.prior) or abs(math.fsum(self.prior) - 1) > 1e-6:
                raise ValueError(f"prior sums to {math.fsum(self.prior)}; give positive numbers that sum to 1")

    @property
    def shared(self) -> bool:
        return False

    @property
    def num_tokens(self) -> None:
        return None

    @property
    def bayes(self) -> Bayes | None:
        """From ``bayes_risk`` over 65,536 inputs, computed once a process; standard errors are about 0.001.

        None with ``teacher_seed=None``: members then have different teachers; ask ``bayes_risk`` with a member's key.
        """
        if self.teacher_seed is None:
            return None
        return _cached_bayes(self)

    @property
    def class_prior(self) -> np.ndarray:
        """[class] the prior's probabilities, float64."""
        if isinstance(self.prior, tuple):
            return np.array(self.prior)
        exponent = self.zipf_exponent if self.prior == "zipf" else 0.0
        weights = np.arange(1, self.num_classes + 1) ** -exponent
        return weights / weights.sum()

    def splits(self, key: Key[Array, ""]) -> Splits:
        train_key, val_key, test_key, teacher_key = _split_key(key)
        weights = _weights(self, teacher_key)
        return Splits(
            train=self._draw(weights, train_key, self.num_examples),
            val=self._draw(weights, val_key, self.num_val),
            test=self._draw(weights, test_key, self.num_test),
        )

    def log_posterior(
        self, inputs: Float[Array, "example time feature"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "example class"]:
        """log p*(y|x) of inputs as ``splits`` gives them: scaled, irrelevant features included.

        ``key`` is the data key of the member whose teacher is asked; needed, and used, only with ``teacher_seed=None``.
        """
        weights = _weights(self, _own_teacher_key(self, key))
        hidden = _hidden(self, weights.to_hidden, inputs[..., : self.num_features] / self.input_scale)
        return _log_posterior(weights, hidden, self.temperature)

    def _draw(self, weights: "_Weights", key: Key[Array, ""], num_examples: int) -> Split:
        features_key, irrelevant_key, labels_key = jax.random.split(key, 3)
        features = jax.random.normal(features_key, (num_examples, self.seq_len, self.num_features), "float32")
        irrelevant = jax.random.normal(irrelevant_key, (num_examples, self.seq_len, self.num_irrelevant), "float32")

        hidden = _hidden(self, weights.to_hidden, features)

        def label(example: tuple[Float[Array, " hidden"], Key[Array, ""]]) -> Int[Array, ""]:
            hidden, label_key = example
            return _draw_class(label_key, _log_posterior(weights, hidden[None], self.temperature)[0])

        # in blocks: thousands of examples times thousands of classes times members are too much at once
        examples = (hidden, jax.random.split(labels_key, num_examples))
        labels = jax.lax.map(label, examples, batch_size=max(1, MAX_CELLS // self.num_classes))
        inputs = self.input_scale * jnp.concatenate([features, irrelevant], axis=-1)
        return Split(inputs=inputs, labels=labels.astype("int32"))


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
    weights = _weights(task, _own_teacher_key(task, key))
    inputs_key = jax.random.key(seed, impl="threefry2x32")
    with quiet_compilation():
        losses, accuracies, marginals = _risks(_architecture(task), weights, task.temperature, inputs_key, num_examples)
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
    key = _seed_key(task.teacher_seed)

    @functools.cache
    def excess(log_temperature: float) -> float:
        with quiet_compilation():
            return float(_accuracy_at(_architecture(task), key, math.exp(log_temperature))) - accuracy

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


class _Weights(struct.PyTreeNode):
    """A teacher's parameters. The output layer gives scores of mean 0 and variance 1."""

    to_hidden: Float[Array, "in unit"]  # lstm: rows are features, then the hidden state; columns the four gates
    to_scores: Float[Array, "hidden class"]
    score_bias: Float[Array, " class"]  # standardises the scores
    class_bias: Float[Array, " class"]  # matches the frequencies of the labels to the prior


def _own_teacher_key(task: Teacher, key: Key[Array, ""] | None) -> Key[Array, ""] | None:
    """What ``splits`` draws a member's own teacher from."""
    if task.teacher_seed is not None:
        return None
    if key is None:
        raise ValueError("teacher_seed=None gives every member a teacher of its own; pass a member's data key")
    return _split_key(key)[-1]


def _split_key(key: Key[Array, ""]) -> Key[Array, " use"]:
    """A data key's parts: training, validation and test examples, and the teacher."""
    return jax.random.split(key, 4)


def _weights(task: Teacher, own_key: Key[Array, ""] | None) -> _Weights:
    if task.teacher_seed is None:
        assert own_key is not None
        return _random_weights(task, own_key, task.temperature)
    return _shared_weights(task, task.teacher_seed)


@functools.cache
def _shared_weights(task: Teacher, seed: int) -> _Weights:
    """NumPy arrays, made once and never traced: in a program of many members the teacher is a small constant."""
    with quiet_compilation(), jax.ensure_compile_time_eval():
        weights = _compiled_random_weights(_architecture(task), _seed_key(seed), task.temperature)
        return jax.tree.map(np.asarray, weights)


def _architecture(task: Teacher) -> Teacher:
    """The task with every field at its default that changes no teacher's program: many then share a compilation."""
    names = ("network", "hidden", "seq_len", "num_features", "num_classes", "prior", "zipf_exponent")
    return Teacher(**{name: getattr(task, name) for name in names})


def _seed_key(seed: int) -> Key[Array, ""]:
    return jax.random.key(np.uint32(seed), impl="threefry2x32")


def num_references(num_classes: int) -> int:
    """Inputs over which scores are standardised and biases found: 8,192, and with many classes 40 or more a class.

    A power of two, so that it comes in whole blocks. Up to 204 classes it is 8,192.
    """
    return max(REFERENCE_EXAMPLES, 2 ** math.ceil(math.log2(REFERENCES_A_CLASS * num_classes)))


def _random_weights(task: Teacher, key: Key[Array, ""], temperature: float | Float[Array, ""]) -> _Weights:
    """Normal weights of variance 1 / fan-in, standardised and biased over ``num_references`` inputs."""
    hidden_key, scores_key, reference_key = jax.random.split(key, 3)
    if task.network == "lstm":
        fan_in = np.repeat([task.num_features, task.hidden], [task.num_features, task.hidden])
        num_units = 4 * task.hidden
    else:
        fan_in = np.full(task.seq_len * task.num_features, task.seq_len * task.num_features)
        num_units = task.hidden
    scale = (1 / np.sqrt(fan_in)).astype(np.float32)[:, None]
    to_hidden = scale * jax.random.normal(hidden_key, (len(fan_in), num_units), "float32")
    raw = jax.random.normal(scores_key, (task.hidden, task.num_classes), "float32")
    num_blocks = num_references(task.num_classes) // REFERENCE_EXAMPLES
    shape = (REFERENCE_EXAMPLES, task.seq_len, task.num_features)
    if num_blocks == 1:
        hidden = _hidden(task, to_hidden, jax.random.normal(reference_key, shape, "float32"))
    else:  # of all inputs no more than the hidden layer is held at once

        def hidden_of(block_key: Key[Array, ""]) -> Float[Array, "example hidden"]:
            return _hidden(task, to_hidden, jax.random.normal(block_key, shape, "float32"))

        hidden = jax.lax.map(hidden_of, jax.random.split(reference_key, num_blocks)).reshape(-1, task.hidden)
    mean = hidden.mean(axis=0)
    centred = hidden - mean
    if num_blocks == 1:
        to_scores = raw / _product(centred, raw).std(axis=0)
        class_bias = _matching_bias(_product(centred, to_scores) / temperature, task.class_prior)
    else:
        covariance = _product(centred.T, centred) / len(centred)
        to_scores = raw / jnp.sqrt((raw * _product(covariance, raw)).sum(axis=0))
        class_bias = _matching_bias_in_blocks(centred, to_scores / temperature, task.class_prior)
    return _Weights(
        to_hidden=to_hidden,
        to_scores=to_scores,
        score_bias=-_product(mean, to_scores),
        class_bias=class_bias,
    )


_compiled_random_weights = jax.jit(_random_weights, static_argnames=("task",))


def _matching_bias(logits: Float[Array, "example class"], prior: np.ndarray) -> Float[Array, " class"]:
    """Biases at which the mean posterior is the prior, by iterative proportional fitting from the log prior."""
    log_prior = np.log(prior).astype(np.float32)

    def log_frequency(bias: Float[Array, " class"]) -> Float[Array, " class"]:
        return jax.nn.logsumexp(jax.nn.log_softmax(logits + bias), axis=0) - math.log(len(logits))

    return _fitted(log_frequency, log_prior, jnp.asarray(log_prior), BIAS_TOLERANCE)


def _matching_bias_in_blocks(
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
                logits = _product(block, to_logits) + bias
                exps = jnp.exp(logits - logits.max(axis=1, keepdims=True))
                shares = 1 / _product(exps, ones)[:, 0]
                return total + _product(shares[None], exps)[0], None

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


def _hidden(
    task: Teacher, to_hidden: Float[Array, "in unit"], features: Float[Array, "example time feature"]
) -> Float[Array, "example hidden"]:
    """The LSTM's last hidden state, or the dense network's one layer over all steps at once."""
    if task.network == "dense":
        return jnp.tanh(_product(features.reshape(len(features), len(to_hidden)), to_hidden))

    def step(state: tuple[Array, Array], now: Float[Array, "example feature"]) -> tuple[tuple[Array, Array], None]:
        cell, hidden = state
        gates = _product(jnp.concatenate([now, hidden], axis=-1), to_hidden)
        enter, forget, candidate, leave = jnp.split(gates, 4, axis=-1)
        kept = jax.nn.sigmoid(forget + FORGET_BIAS) * cell
        cell = kept + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
        return (cell, jax.nn.sigmoid(leave) * jnp.tanh(cell)), None

    empty = jnp.zeros((len(features), task.hidden), "float32")
    (_, hidden), _ = jax.lax.scan(step, (empty, empty), jnp.swapaxes(features, 0, 1))
    return hidden


def _log_posterior(
    weights: _Weights, hidden: Float[Array, "example hidden"], temperature: float | Float[Array, ""]
) -> Float[Array, "example class"]:
    scores = _product(hidden, weights.to_scores) + weights.score_bias
    return jax.nn.log_softmax(scores / temperature + weights.class_bias)


def _draw_class(key: Key[Array, ""], log_posterior: Float[Array, " class"]) -> Int[Array, ""]:
    """A class with these log probabilities.

    Many classes are cut into blocks; first a block is drawn and then a class of it, so that a label takes about twice
    the square root of as many random numbers as there are classes.
    """
    num_classes = len(log_posterior)
    if num_classes < MANY_CLASSES:
        return jax.random.categorical(key, log_posterior)
    width = math.isqrt(num_classes)
    block_key, class_key = jax.random.split(key)
    blocks = jnp.pad(log_posterior, (0, -num_classes % width), constant_values=-jnp.inf).reshape(-1, width)
    block = jax.random.categorical(block_key, jax.nn.logsumexp(blocks, axis=1))
    return block * width + jax.random.categorical(class_key, blocks[block])


def _product(left: Array, right: Array) -> Array:
    # a GPU's default would round the factors to ten bits
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


@functools.cache
def _cached_bayes(task: Teacher) -> Bayes:
    with jax.ensure_compile_time_eval():
        risk = bayes_risk(task, BAYES_EXAMPLES)
    return Bayes(loss=risk.loss, accuracy=risk.accuracy)


def _block_size(task: Teacher) -> int:
    return max(1, min(8192, MAX_CELLS // task.num_classes))


def _fresh_hidden(
    task: Teacher, weights: _Weights, key: Key[Array, ""], block: Int[Array, ""]
) -> Float[Array, "example hidden"]:
    """The hidden layer at the inputs of one block of the population."""
    shape = (_block_size(task), task.seq_len, task.num_features)
    return _hidden(task, weights.to_hidden, jax.random.normal(jax.random.fold_in(key, block), shape, "float32"))


@functools.partial(jax.jit, static_argnames=("task", "num_examples"))
def _risks(
    task: Teacher, weights: _Weights, temperature: Float[Array, ""], key: Key[Array, ""], num_examples: int
) -> tuple[Float[Array, "block example"], Float[Array, "block example"], Float[Array, "block class"]]:
    """Entropy and largest probability of the posterior at each input; the posterior's sum over each block.

    The last block is drawn whole; its surplus over ``num_examples`` is missing from the sums only.
    """
    size = _block_size(task)

    def risk(block: Int[Array, ""]) -> tuple[Array, Array, Array]:
        hidden = _fresh_hidden(task, weights, key, block)
        log_posterior = _log_posterior(weights, hidden, temperature)
        posterior = jnp.exp(log_posterior)
        used = block * size + jnp.arange(size) < num_examples
        # a probability that underflows adds nothing: 0 times a finite logarithm
        return -(posterior * log_posterior).sum(-1), posterior.max(-1), (posterior * used[:, None]).sum(0)

    return jax.lax.map(risk, jnp.arange(-(-num_examples // size)))


@functools.partial(jax.jit, static_argnames=("task",))
def _accuracy_at(task: Teacher, teacher_key: Key[Array, ""], temperature: Float[Array, ""]) -> Float[Array, ""]:
    """Bayes accuracy at another temperature, on the inputs of ``Teacher.bayes`` in whole blocks."""
    weights = _random_weights(task, teacher_key, temperature)
    inputs_key = jax.random.key(0, impl="threefry2x32")

    def accuracy(block: Int[Array, ""]) -> Float[Array, ""]:
        hidden = _fresh_hidden(task, weights, inputs_key, block)
        return jnp.exp(_log_posterior(weights, hidden, temperature).max(-1)).mean()

    return jax.lax.map(accuracy, jnp.arange(-(-BAYES_EXAMPLES // _block_size(task)))).mean()
