"""A teacher: a fixed random network that states the true posterior of every label it gives."""

import dataclasses
import functools
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Key

from lossjax.devices import quiet_compilation
from lossjax.tasks.priors import REFERENCE_EXAMPLES, matching_bias, matching_bias_in_blocks, num_references, product
from lossjax.tasks.task import Bayes, Split, Splits, check_whole

Network = Literal["lstm", "dense"]
Prior = Literal["uniform", "zipf"] | tuple[float, ...]

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
        from lossjax.tasks.bayes import cached_bayes  # which asks teachers

        return cached_bayes(self)

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
        weights = weights_of(self, teacher_key)
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
        weights = weights_of(self, own_teacher_key(self, key))
        hidden = hidden_layer(self, weights.to_hidden, inputs[..., : self.num_features] / self.input_scale)
        return log_posterior_of(weights, hidden, self.temperature)

    def _draw(self, weights: "Weights", key: Key[Array, ""], num_examples: int) -> Split:
        features_key, irrelevant_key, labels_key = jax.random.split(key, 3)
        features = jax.random.normal(features_key, (num_examples, self.seq_len, self.num_features), "float32")
        irrelevant = jax.random.normal(irrelevant_key, (num_examples, self.seq_len, self.num_irrelevant), "float32")

        hidden = hidden_layer(self, weights.to_hidden, features)

        def label(example: tuple[Float[Array, " hidden"], Key[Array, ""]]) -> Int[Array, ""]:
            hidden, label_key = example
            return _draw_class(label_key, log_posterior_of(weights, hidden[None], self.temperature)[0])

        # in blocks: thousands of examples times thousands of classes times members are too much at once
        examples = (hidden, jax.random.split(labels_key, num_examples))
        labels = jax.lax.map(label, examples, batch_size=max(1, MAX_CELLS // self.num_classes))
        inputs = self.input_scale * jnp.concatenate([features, irrelevant], axis=-1)
        return Split(inputs=inputs, labels=labels.astype("int32"))


class Weights(struct.PyTreeNode):
    """A teacher's parameters. The output layer gives scores of mean 0 and variance 1."""

    to_hidden: Float[Array, "in unit"]  # lstm: rows are features, then the hidden state; columns the four gates
    to_scores: Float[Array, "hidden class"]
    score_bias: Float[Array, " class"]  # standardises the scores
    class_bias: Float[Array, " class"]  # matches the frequencies of the labels to the prior


def own_teacher_key(task: Teacher, key: Key[Array, ""] | None) -> Key[Array, ""] | None:
    """What ``splits`` draws a member's own teacher from."""
    if task.teacher_seed is not None:
        return None
    if key is None:
        raise ValueError("teacher_seed=None gives every member a teacher of its own; pass a member's data key")
    return _split_key(key)[-1]


def _split_key(key: Key[Array, ""]) -> Key[Array, " use"]:
    """A data key's parts: training, validation and test examples, and the teacher."""
    return jax.random.split(key, 4)


def weights_of(task: Teacher, own_key: Key[Array, ""] | None) -> Weights:
    if task.teacher_seed is None:
        assert own_key is not None
        return random_weights(task, own_key, task.temperature)
    return _shared_weights(task, task.teacher_seed)


@functools.cache
def _shared_weights(task: Teacher, seed: int) -> Weights:
    """NumPy arrays, made once and never traced: in a program of many members the teacher is a small constant."""
    with quiet_compilation(), jax.ensure_compile_time_eval():
        weights = _compiled_random_weights(architecture(task), seed_key(seed), task.temperature)
        return jax.tree.map(np.asarray, weights)


def architecture(task: Teacher) -> Teacher:
    """The task with every field at its default that changes no teacher's program: many then share a compilation."""
    names = ("network", "hidden", "seq_len", "num_features", "num_classes", "prior", "zipf_exponent")
    return Teacher(**{name: getattr(task, name) for name in names})


def seed_key(seed: int) -> Key[Array, ""]:
    return jax.random.key(np.uint32(seed), impl="threefry2x32")


def random_weights(task: Teacher, key: Key[Array, ""], temperature: float | Float[Array, ""]) -> Weights:
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
        hidden = hidden_layer(task, to_hidden, jax.random.normal(reference_key, shape, "float32"))
    else:  # of all inputs no more than the hidden layer is held at once

        def hidden_of(block_key: Key[Array, ""]) -> Float[Array, "example hidden"]:
            return hidden_layer(task, to_hidden, jax.random.normal(block_key, shape, "float32"))

        hidden = jax.lax.map(hidden_of, jax.random.split(reference_key, num_blocks)).reshape(-1, task.hidden)
    mean = hidden.mean(axis=0)
    centred = hidden - mean
    if num_blocks == 1:
        to_scores = raw / product(centred, raw).std(axis=0)
        class_bias = matching_bias(product(centred, to_scores) / temperature, task.class_prior)
    else:
        covariance = product(centred.T, centred) / len(centred)
        to_scores = raw / jnp.sqrt((raw * product(covariance, raw)).sum(axis=0))
        class_bias = matching_bias_in_blocks(centred, to_scores / temperature, task.class_prior)
    return Weights(
        to_hidden=to_hidden,
        to_scores=to_scores,
        score_bias=-product(mean, to_scores),
        class_bias=class_bias,
    )


_compiled_random_weights = jax.jit(random_weights, static_argnames=("task",))


def hidden_layer(
    task: Teacher, to_hidden: Float[Array, "in unit"], features: Float[Array, "example time feature"]
) -> Float[Array, "example hidden"]:
    """The LSTM's last hidden state, or the dense network's one layer over all steps at once."""
    if task.network == "dense":
        return jnp.tanh(product(features.reshape(len(features), len(to_hidden)), to_hidden))

    def step(state: tuple[Array, Array], now: Float[Array, "example feature"]) -> tuple[tuple[Array, Array], None]:
        cell, hidden = state
        gates = product(jnp.concatenate([now, hidden], axis=-1), to_hidden)
        enter, forget, candidate, leave = jnp.split(gates, 4, axis=-1)
        kept = jax.nn.sigmoid(forget + FORGET_BIAS) * cell
        cell = kept + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
        return (cell, jax.nn.sigmoid(leave) * jnp.tanh(cell)), None

    empty = jnp.zeros((len(features), task.hidden), "float32")
    (_, hidden), _ = jax.lax.scan(step, (empty, empty), jnp.swapaxes(features, 0, 1))
    return hidden


def log_posterior_of(
    weights: Weights, hidden: Float[Array, "example hidden"], temperature: float | Float[Array, ""]
) -> Float[Array, "example class"]:
    scores = product(hidden, weights.to_scores) + weights.score_bias
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
