"""What is computed of a split's logits at every evaluation, on the device.

One pass over the logits serves everything but the temperature. With K up to 32 classes the logits are turned so that
examples run along the vector unit; with more they are taken in blocks of examples that stay in the cache.
"""

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lossjax.training.config import Measure

Metrics = dict[str, Array]

NARROW: Final = 32  # classes up to which logits are turned
BLOCK: Final = 2**17  # logits in a block where there are more classes
LOG_RANGE: Final = math.log(64)  # the temperature lies in [1/64, 64]
NEWTON_STEPS: Final = 12


def measure(
    logits: Float[Array, "example class"],
    labels: Int[Array, " example"],
    groups: Int[Array, " class"] | None,
    config: Measure,
    weights: Float[Array, " example"] | None = None,
) -> Metrics:
    """Every metric of a split by name, without the split's prefix.

    Scalars: ``loss`` (plain cross-entropy, nats), ``accuracy``, ``top5_accuracy`` (absent where there are at most 5
    classes), ``brier``, ``confidence``, ``entropy`` (nats), ``tied`` (share of examples whose highest logit is not
    unique), ``ece_width``; and with ``config.calibration`` also ``refinement``, ``calibration``, ``ece_mass``,
    ``temperature``, ``temperature_edge`` (1 where it, or that of a fold, is 1/64 or 64, else 0), and
    ``margin_quantiles`` [quantile].

    Each scalar except the temperature and its edge comes by class-frequency group too, ``group_loss`` [group] and so
    on, if ``groups`` are given: over the examples whose label is in the group, nan where there are none. A group's
    refinement is at the temperature of all examples. Margin quantiles by group are not computed.

    Args:
        groups: group of each class, in 0 … config.num_groups - 1.
        weights: 1 for examples that count, 0 for others; None: all count. With weights, all is as if the others were
            not there, except that folds go by position among all.
    """
    examples = _per_example(logits, labels)
    slices = _slices(labels, groups, config.num_groups, weights)
    counts = jnp.sum(slices, axis=1)

    columns = {
        "loss": examples.loss,
        "accuracy": examples.rank == 0,
        "top5_accuracy": examples.rank < 5,
        "brier": examples.brier,
        "confidence": examples.confidence,
        "entropy": examples.entropy,
        "tied": examples.is_tied,
    }
    if logits.shape[1] <= 5:
        del columns["top5_accuracy"]
    whole: Metrics = {}  # what only all examples have
    if config.calibration:
        fit = _fit_temperature(logits, labels, examples, slices[0], config.folds)
        columns["refinement"] = fit.loss
        columns["calibration"] = examples.loss - fit.loss
        whole = {"temperature": fit.temperature, "temperature_edge": fit.is_edge}

    stacked = jnp.stack([values.astype(jnp.float32) for values in columns.values()], axis=1)
    means = _dot(slices, stacked) / counts[:, None]
    sliced = {name: means[:, column] for column, name in enumerate(columns)}
    gap = examples.confidence - (examples.rank == 0)
    sliced["ece_width"] = _ece_width(examples.confidence, gap, slices, config.bins) / counts
    if config.calibration:
        by_mass = jax.vmap(_ece_mass, in_axes=(None, None, 0, None))(examples.confidence, gap, slices, config.bins)
        sliced["ece_mass"] = by_mass / counts
        whole["margin_quantiles"] = _quantiles(examples.margin, weights, config.quantiles)

    overall = {name: values[0] for name, values in sliced.items()}
    by_group = {} if groups is None else {f"group_{name}": values[1:] for name, values in sliced.items()}
    return overall | whole | by_group


def per_example(logits: Float[Array, "example class"], labels: Int[Array, " example"]) -> Metrics:
    """Records of each example: ``example_loss`` (nats), ``example_correct`` (bool), ``example_margin``; [example]."""
    examples = _per_example(logits, labels)
    return {
        "example_loss": examples.loss,
        "example_correct": examples.rank == 0,
        "example_margin": examples.margin,
    }


def class_groups(counts: Float[Array, " class"] | Int[Array, " class"], num_groups: int) -> Int[Array, " class"]:
    """The class-frequency group of each class: 0 the head, num_groups - 1 the tail, of equal shares of training mass.

    With classes laid end to end, the most frequent first (the lower index first where counts are equal), a class is
    in the group in which its examples begin. So the most frequent class is always in group 0, and a group may have no
    class where a single one has more than a group's share. Classes without examples are in the tail.
    """
    order = jnp.argsort(-counts, stable=True)
    ordered = counts[order]
    begin = jnp.cumsum(ordered) - ordered
    group = jnp.minimum((begin * num_groups) // jnp.sum(counts), num_groups - 1).astype(jnp.int32)
    return jnp.zeros(counts.shape, jnp.int32).at[order].set(group)


class _Examples(NamedTuple):
    """What one pass over the logits gives, each [example]."""

    loss: Array
    rank: Array  # of the label: classes with a higher logit, or an equal one and a lower index; 0 is correct
    margin: Array
    brier: Array
    confidence: Array
    entropy: Array
    is_tied: Array
    highest: Array  # logit
    label_gap: Array  # the label's logit minus the highest


def _per_example(logits: Float[Array, "example class"], labels: Int[Array, " example"]) -> _Examples:
    def of_example(logits: Float[Array, "class ..."], label: Int[Array, "..."]) -> _Examples:
        index = jax.lax.broadcasted_iota(label.dtype, logits.shape, 0)
        highest = jnp.max(logits, axis=0)
        shifted = logits - highest
        exps = jnp.exp(shifted)
        total = jnp.sum(exps, axis=0)
        log_total = jnp.log(total)
        label_gap = jnp.sum(jnp.where(index == label, shifted, 0), axis=0)
        # negated, so that a nan ranks as the highest, as in argmax, and is never counted as correct
        is_above = jnp.where(index < label, ~(shifted < label_gap), ~(shifted <= label_gap))
        return _Examples(
            loss=log_total - label_gap,
            rank=jnp.sum(is_above, axis=0, dtype=jnp.int32),
            margin=label_gap - jnp.max(jnp.where(index == label, -jnp.inf, shifted), axis=0),
            brier=jnp.sum(exps * exps, axis=0) / (total * total) - 2 * jnp.exp(label_gap) / total + 1,
            confidence=1 / total,
            entropy=log_total - jnp.sum(exps * shifted, axis=0) / total,
            is_tied=jnp.sum(shifted == 0, axis=0, dtype=jnp.int32) > 1,
            highest=highest,
            label_gap=label_gap,
        )

    return _over_examples(of_example, logits, labels)


def _over_examples(
    of_example: Callable, logits: Float[Array, "example class"], *others: Float[Array, " example"]
) -> Any:
    """Maps ``of_example(logits [class], *others [])`` over examples; it reduces over the leading axis only.

    So it takes the turned logits of all examples, [class, example], just as well.
    """
    num_classes = logits.shape[1]
    if num_classes <= NARROW:
        return of_example(logits.T, *others)
    return jax.lax.map(lambda one: of_example(*one), (logits, *others), batch_size=max(1, BLOCK // num_classes))


def _slices(
    labels: Int[Array, " example"],
    groups: Int[Array, " class"] | None,
    num_groups: int,
    weights: Float[Array, " example"] | None,
) -> Float[Array, "slice example"]:
    """Which examples count: of all, in row 0, then of each group."""
    everything = jnp.ones((1, labels.shape[0]), jnp.float32) if weights is None else weights[None]
    if groups is None:
        return everything
    in_group = groups[labels] == jnp.arange(num_groups, dtype=groups.dtype)[:, None]
    return jnp.concatenate([everything, in_group * everything])


class _TemperatureFit(NamedTuple):
    temperature: Array
    is_edge: Array
    loss: Array  # [example], at the temperature fitted without the example's fold


def _fit_temperature(
    logits: Float[Array, "example class"],
    labels: Int[Array, " example"],
    examples: _Examples,
    weights: Float[Array, " example"],
    num_folds: int,
) -> _TemperatureFit:
    """Minimises Σ loss(logits/T) + ½ (log T)² over u = log 1/T by safeguarded Newton steps; then one step a fold.

    The sum of losses is convex in 1/T but not in u, so a step divides by the second derivative only where that is at
    least a quarter of its positive part, and steps out of the interval known to hold a minimum halve it instead.
    From u = 0 this ends in a local minimum, which is the only one unless the logits are minute.

    An example's fold is its position modulo ``num_folds``: positions are exchangeable, and stratifying by correctness,
    as the analysis of stored logits does, would need a sort at every evaluation.
    """

    def moments(log_inverse: Float[Array, "..."]) -> tuple[Array, Array]:
        """First and second derivative of each example's loss by u; the second without the part that may be negative."""
        scale = jnp.exp(jnp.broadcast_to(log_inverse, labels.shape))

        def of_example(logits: Array, highest: Array, scale: Array) -> tuple[Array, Array]:
            scaled = (logits - highest) * scale
            exps = jnp.exp(scaled)
            total = jnp.sum(exps, axis=0)
            mean = jnp.sum(exps * scaled, axis=0) / total
            return mean, jnp.sum(exps * scaled * scaled, axis=0) / total - mean * mean

        mean, variance = _over_examples(of_example, logits, examples.highest, scale)
        return mean - scale * examples.label_gap, variance

    def newton(log_inverse: Array, slope_sum: Array, variance_sum: Array) -> tuple[Array, Array]:
        """Slope of the penalised sum, and the position to which the step leads."""
        slope = slope_sum + log_inverse
        positive_part = variance_sum + 1
        curvature = jnp.maximum(positive_part + slope_sum, positive_part / 4)
        return slope, log_inverse - slope / curvature

    def step(_: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        position, low, high = state
        first, second = moments(position)
        slope, target = newton(position, jnp.sum(first * weights), jnp.sum(second * weights))
        low, high = jnp.where(slope < 0, position, low), jnp.where(slope < 0, high, position)
        midpoint = (position + jnp.where(target >= high, high, low)) / 2
        position = jnp.where((low < target) & (target < high), target, midpoint)
        return jnp.clip(position, -LOG_RANGE, LOG_RANGE), low, high

    # twice as wide as the bracket, so that the first step that halves it can reach an edge
    start = (jnp.float32(0), jnp.float32(-2 * LOG_RANGE), jnp.float32(2 * LOG_RANGE))
    position, _, _ = jax.lax.fori_loop(0, NEWTON_STEPS, step, start)

    first, second = moments(position)
    fold = np.arange(len(labels)) % num_folds
    is_other = (fold != np.arange(num_folds)[:, None]).astype(np.float32)
    sums = _dot(is_other, jnp.stack([first * weights, second * weights], axis=1))
    _, by_fold = newton(position, sums[:, 0], sums[:, 1])
    by_fold = jnp.clip(by_fold, -LOG_RANGE, LOG_RANGE)
    scale = jnp.exp(by_fold)[fold]

    def loss(logits: Array, highest: Array, scale: Array, label_gap: Array) -> Array:
        return jnp.log(jnp.sum(jnp.exp((logits - highest) * scale), axis=0)) - scale * label_gap

    losses = _over_examples(loss, logits, examples.highest, scale, examples.label_gap)
    # comparisons with nan are false, and would leave a temperature where there is none
    is_number = jnp.isfinite(jnp.sum(first * weights))
    is_edge = jnp.any(jnp.abs(jnp.append(by_fold, position)) >= np.float32(LOG_RANGE))
    return _TemperatureFit(
        temperature=jnp.where(is_number, jnp.exp(-position), jnp.nan),
        is_edge=jnp.where(is_number, is_edge.astype(jnp.float32), jnp.nan),
        loss=losses,
    )


def _ece_width(
    confidence: Float[Array, " example"],
    gap: Float[Array, " example"],
    slices: Float[Array, "slice example"],
    bins: int,
) -> Float[Array, " slice"]:
    """Σ_bin |Σ gap| of each slice; bin b is (b/bins, (b+1)/bins], so 1 is in the last (Guo et al. 2017, eq. 3)."""
    bin_of = jnp.ceil(confidence * bins).astype(jnp.int32) - 1
    in_bin = (bin_of == jnp.arange(bins)[:, None]).astype(jnp.float32)
    return jnp.sum(jnp.abs(_dot(in_bin, (slices * gap).T)), axis=0)


def _ece_mass(
    confidence: Float[Array, " example"], gap: Float[Array, " example"], weights: Float[Array, " example"], bins: int
) -> Float[Array, ""]:
    """Σ_bin |Σ gap|, bin b holding the ranks r with floor(r·bins/n) = b (Roelofs et al. 2022, sec. 3).

    Equal confidences that two bins share are divided in proportion: the order of examples does not matter. Only the
    confidences at the bins' edges are taken from the sort, so it has a single operand.
    """
    keys = jnp.where(weights > 0, _sort_keys(confidence), jnp.iinfo(jnp.int32).max)
    count = jnp.sum(weights).astype(jnp.int32)
    ranks = -(-jnp.arange(1, bins) * count // bins)  # the first of each bin but the lowest
    edges = jax.lax.sort(keys, is_stable=False)[jnp.minimum(ranks, len(keys) - 1)]
    columns = jnp.stack([weights, gap * weights], axis=1)
    below = _dot((keys < edges[:, None]).astype(jnp.float32), columns)
    equal = _dot((keys == edges[:, None]).astype(jnp.float32), columns)
    share = (ranks - below[:, 0]) / jnp.maximum(equal[:, 0], 1)
    cumulative = below[:, 1] + share * equal[:, 1]
    ends = jnp.concatenate([jnp.zeros(1), cumulative, jnp.sum(columns[:, 1], keepdims=True)])
    return jnp.sum(jnp.abs(jnp.diff(ends)))


def _quantiles(
    values: Float[Array, " example"], weights: Float[Array, " example"] | None, quantiles: tuple[float, ...]
) -> Float[Array, " quantile"]:
    """Linear interpolation between order statistics, as ``np.quantile`` by default."""
    keys = _sort_keys(values)
    count = len(values) if weights is None else jnp.sum(weights)
    if weights is not None:
        keys = jnp.where(weights > 0, keys, jnp.iinfo(jnp.int32).max)
    ordered = jax.lax.sort(keys, is_stable=False)
    position = jnp.asarray(quantiles, jnp.float32) * (count - 1)
    lower = jnp.floor(position)
    below, above = (_from_sort_keys(ordered[rank.astype(jnp.int32)]) for rank in (lower, jnp.ceil(position)))
    return below + (position - lower) * (above - below)


def _sort_keys(values: Float[Array, "..."]) -> Int[Array, "..."]:
    """Integers in the order of the floats: XLA sorts them four times as fast on a CPU."""
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)
    return bits ^ ((bits >> 31) & jnp.int32(0x7FFFFFFF))


def _from_sort_keys(keys: Int[Array, "..."]) -> Float[Array, "..."]:
    return jax.lax.bitcast_convert_type(keys ^ ((keys >> 31) & jnp.int32(0x7FFFFFFF)), jnp.float32)


def _dot(left: Float[Array, "row example"], right: Float[Array, "example column"]) -> Float[Array, "row column"]:
    # a GPU would round both factors to TensorFloat-32
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
