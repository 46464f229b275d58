"""What is computed of a split's logits at every evaluation, on the device.

One pass over the logits serves everything but the temperature. With K up to 32 classes the logits are turned so that
examples run along the vector unit; with more they are taken in blocks of examples that stay in the cache.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lossjax.training.blocks import in_blocks
from lossjax.training.config import Measure
from lossjax.xla import apart, last_max, last_sum

Metrics = dict[str, Array]

NARROW: Final = 32  # classes up to which logits are turned
BLOCK: Final = 2**17  # logits in a block where there are more classes
LOG_RANGE: Final = math.log(64)  # the temperature lies in [1/64, 64]
NEWTON_STEPS: Final = 12  # at most
CONVERGED: Final = 1e-5  # in log T, what is left to go: it moves the loss by about 1e-10


def measure(
    logits: Float[Array, "example class"],
    labels: Int[Array, " example"],
    groups: Int[Array, " class"] | None,
    config: Measure,
    weights: Float[Array, " example"] | None = None,
    *,
    records: bool = False,
) -> Metrics:
    """Every metric of a split by name, without the split's prefix.

    Scalars: ``loss`` (plain cross-entropy, nats), ``accuracy``, ``balanced_accuracy`` (the mean over the classes that
    the split holds of the share of their examples that is correct), ``top5_accuracy`` (absent where there are at most 5
    classes), ``brier``, ``confidence``, ``entropy`` (nats), ``tied`` (share of examples whose highest logit is not
    unique), ``ece_width``; and with ``config.calibration`` also ``refinement``, ``calibration``,
    ``refined_confidence`` (the mean highest probability at the temperatures that give ``refinement``), ``ece_mass``,
    ``temperature``, ``temperature_edge`` (1 where it, or that of a fold, is 1/64 or 64, else 0), and
    ``margin_quantiles`` [quantile].

    Each comes by class-frequency group too, ``group_loss`` [group], ``group_margin_quantiles`` [group, quantile] and so
    on, if ``groups`` are given: over the examples whose label is in the group, nan where there are none. Then also
    ``group_share``, the share of the examples in each, by which means over groups add up to means over all.

    ``group_temperature`` is fitted on the group's examples alone, and its edge is that of this one temperature. But
    ``group_refinement`` and ``group_calibration`` are at the temperature of all examples, so that, weighted by the
    groups' shares, they add up to ``refinement`` and ``calibration``: they say where in the classes the loss of one
    model with one temperature lies.

    Args:
        groups: group of each class, in 0 … config.num_groups - 1.
        weights: 1 for examples that count, 0 for others; None: all count. With weights, all is as if the others were
            not there, except that folds go by position among all.
        records: also of each example, [example]: ``example_loss`` (nats), ``example_correct`` (bool),
            ``example_margin``, and with ``config.calibration`` ``example_refined_loss``, the loss at the temperature
            fitted without the example's fold (one Newton step from that of all), whose mean is ``refinement``.
    """
    examples = _per_example(logits, labels)
    # always true, and of the logits: so the slices have a member axis under vmap whatever the labels and weights have.
    # A product with what all members share is one product for a whole tile, and its last bits depend on the tile
    everything = (examples.rank >= 0).astype(jnp.float32)
    slices = _slices(everything if weights is None else everything * weights, labels, groups, config.num_groups)
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
    by_slice: Metrics = {}  # name → [slice, …]: of all examples, then of each group
    if config.calibration:
        fit = _fit_temperature(logits, labels, examples, slices, config.folds)
        columns["refinement"] = fit.loss
        columns["calibration"] = examples.loss - fit.loss
        columns["refined_confidence"] = fit.confidence
        by_slice |= {"temperature": fit.temperature, "temperature_edge": fit.is_edge}

    stacked = jnp.stack([values.astype(jnp.float32) for values in columns.values()], axis=1)
    means = _dot(slices, stacked) / counts[:, None]
    by_slice |= {name: means[:, column] for column, name in enumerate(columns)}
    each_class = slices / _class_sizes(labels, weights, logits.shape[1])[labels]  # sums to 1 over a class
    of_classes = _dot(each_class, stacked[:, list(columns).index("accuracy"), None])[:, 0]
    by_slice["balanced_accuracy"] = of_classes / jnp.sum(each_class, axis=1)
    gap = examples.confidence - (examples.rank == 0)
    by_slice["ece_width"] = _ece_width(examples.confidence, gap, slices, config.bins) / counts
    if config.calibration:
        by_slice["ece_mass"] = _ece_mass(examples.confidence, gap, slices, config.bins) / counts
        by_slice["margin_quantiles"] = _quantiles(examples.margin, slices, config.quantiles)

    overall = {name: values[0] for name, values in by_slice.items()}
    by_group = {} if groups is None else {f"group_{name}": values[1:] for name, values in by_slice.items()}
    if groups is not None:
        by_group["group_share"] = counts[1:] / counts[0]
    of_examples: Metrics = {}
    if records:
        of_examples = {
            "example_loss": examples.loss,
            "example_correct": examples.rank == 0,
            "example_margin": examples.margin,
        }
        if config.calibration:
            of_examples["example_refined_loss"] = fit.loss
    return overall | by_group | of_examples


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
    def of_example(over: _OverClasses, logits: Float[Array, "class ..."], label: Int[Array, "..."]) -> _Examples:
        index = jax.lax.broadcasted_iota(label.dtype, logits.shape, 0)
        highest = over.max(logits)
        shifted = over.apart(jnp.subtract)(logits, highest)
        exps = over.apart(jnp.exp)(shifted)
        total = over.sum(exps)
        log_total = jnp.log(total)
        label_gap = over.sum(jnp.where(index == label, shifted, 0))
        # negated, so that a nan ranks as the highest, as in argmax, and is never counted as correct
        is_above = jnp.where(index < label, ~(shifted < label_gap), ~(shifted <= label_gap))
        return _Examples(
            loss=log_total - label_gap,
            rank=over.sum(is_above.astype(jnp.int32)),
            margin=label_gap - over.max(jnp.where(index == label, -jnp.inf, shifted)),
            brier=over.sum(exps * exps) / (total * total) - 2 * jnp.exp(label_gap) / total + 1,
            confidence=1 / total,
            entropy=log_total - over.sum(exps * shifted) / total,
            is_tied=over.sum((shifted == 0).astype(jnp.int32)) > 1,
            highest=highest,
            label_gap=label_gap,
        )

    return _over_examples(of_example, logits, labels)


class _OverClasses(NamedTuple):
    """Sum and maximum over the classes, the leading axis of logits [class] or [class, example]."""

    sum: Callable[[Array], Array]
    max: Callable[[Array], Array]
    apart: Callable[[Callable], Callable]


def _over_examples(
    of_example: Callable, logits: Float[Array, "example class"], *others: Float[Array, " example"]
) -> Any:
    """Maps ``of_example(over, logits [class], *others [])`` over examples; it reduces by ``over`` only.

    So it takes the turned logits of all examples, [class, example], just as well.
    """
    num_classes = logits.shape[1]
    if num_classes <= NARROW:
        return of_example(
            _OverClasses(partial(jnp.sum, axis=0), partial(jnp.max, axis=0), lambda function: function),
            logits.T,
            *others,
        )
    each = jax.vmap(partial(of_example, _OverClasses(last_sum, last_max, apart)))
    return in_blocks(lambda block: each(*block), (logits, *others), max(1, BLOCK // num_classes))


def _slices(
    weights: Float[Array, " example"],
    labels: Int[Array, " example"],
    groups: Int[Array, " class"] | None,
    num_groups: int,
) -> Float[Array, "slice example"]:
    """Which examples count: of all, in row 0, then of each group."""
    if groups is None:
        return weights[None]
    in_group = groups[labels] == jnp.arange(num_groups, dtype=groups.dtype)[:, None]
    return jnp.concatenate([weights[None], in_group * weights])


def _class_sizes(
    labels: Int[Array, " example"], weights: Float[Array, " example"] | None, num_classes: int
) -> Float[Array, " class"]:
    """Examples of each class, at least 1; whole numbers, so the order of addition does not matter."""
    counts = jnp.zeros(num_classes, jnp.float32).at[labels].add(1.0 if weights is None else weights)
    return jnp.maximum(counts, 1)


class _TemperatureFit(NamedTuple):
    temperature: Array  # [slice]
    is_edge: Array  # [slice]
    loss: Array  # [example], at the temperature fitted without the example's fold
    confidence: Array  # [example], the highest probability at that temperature


def _fit_temperature(
    logits: Float[Array, "example class"],
    labels: Int[Array, " example"],
    examples: _Examples,
    slices: Float[Array, "slice example"],
    num_folds: int,
) -> _TemperatureFit:
    """Minimises Σ loss(logits/T) + ½ (log T)² over u = log 1/T by safeguarded Newton steps; then one step a fold.

    The sum of losses is convex in 1/T but not in u, so a step divides by the second derivative only where that is at
    least a quarter of its positive part, and steps out of the interval known to hold a minimum halve it instead.
    From u = 0 this ends in a local minimum, which is the only one unless the logits are minute.

    An example's fold is its position modulo ``num_folds``: positions are exchangeable, and stratifying by correctness,
    as the analysis of stored logits does, would need a sort at every evaluation. Groups have no folds.
    """

    def moments(log_inverse: Float[Array, " example"]) -> tuple[Array, Array]:
        """First and second derivative of each example's loss by u; the second without the part that may be negative."""
        scale = jnp.exp(log_inverse)

        def of_example(over: _OverClasses, logits: Array, highest: Array, scale: Array) -> tuple[Array, Array]:
            scaled = over.apart(lambda logits, highest, scale: (logits - highest) * scale)(logits, highest, scale)
            exps = jnp.exp(scaled)
            total = over.sum(exps)
            mean = over.sum(exps * scaled) / total
            return mean, over.sum(exps * scaled * scaled) / total - mean * mean

        mean, variance = _over_examples(of_example, logits, examples.highest, scale)
        return mean - scale * examples.label_gap, variance

    def newton(position: Array, first: Array, second: Array, slices: Array) -> tuple[Array, Array, Array]:
        """Slope of each slice's penalised sum, where the step leads, and whether it is Newton's own."""
        slope_sum = jnp.sum(first * slices, axis=1)
        slope = slope_sum + position
        positive_part = jnp.sum(second * slices, axis=1) + 1
        curvature = positive_part + slope_sum
        target = position - slope / jnp.maximum(curvature, positive_part / 4)
        return slope, target, curvature >= positive_part / 4

    def minimum(slices: Float[Array, "slice example"], start: Array) -> Float[Array, " slice"]:
        """Where each slice has its minimum. No two slices share an example, so a pass over the examples serves all.

        Each member stops by itself: under vmap the state of one that is done stays as it is while others go on. What is
        left to go after a step of Newton's own is about its square.
        """

        def unfinished(state: tuple[Array, Array, Array, Array, Array]) -> Array:
            return (state[3] < NEWTON_STEPS) & (state[4] > CONVERGED)

        def step(state: tuple[Array, Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array, Array]:
            before, low, high, count, _ = state
            first, second = moments(jnp.sum(before[:, None] * slices, axis=0))
            slope, target, is_newtons = newton(before, first, second, slices)
            low, high = jnp.where(slope < 0, before, low), jnp.where(slope < 0, high, before)
            midpoint = (before + jnp.where(target >= high, high, low)) / 2
            is_within = (low < target) & (target < high)
            position = jnp.clip(jnp.where(is_within, target, midpoint), -LOG_RANGE, LOG_RANGE)
            moved = jnp.abs(position - before)
            return position, low, high, count + 1, jnp.max(jnp.where(is_newtons & is_within, moved * moved, moved))

        # twice as wide as the bracket, so that the first step that halves it can reach an edge
        low = jnp.full(len(slices), -2 * LOG_RANGE, jnp.float32)
        begin = (jnp.broadcast_to(start, low.shape), low, -low, jnp.asarray(0, jnp.int32), jnp.asarray(jnp.inf))
        return jax.lax.while_loop(unfinished, step, begin)[0]

    position = minimum(slices[:1], jnp.zeros(1, jnp.float32))
    first, second = moments(jnp.broadcast_to(position, labels.shape))
    weights = slices[0]
    fold = np.arange(len(labels)) % num_folds
    is_other = (fold != np.arange(num_folds)[:, None]).astype(np.float32)
    _, by_fold, _ = newton(position, first, second, is_other * weights)
    by_fold = jnp.clip(by_fold, -LOG_RANGE, LOG_RANGE)
    scale = jnp.exp(by_fold)[fold]

    def refined(over: _OverClasses, logits: Array, highest: Array, scale: Array, label_gap: Array) -> tuple:
        total = over.sum(jnp.exp((logits - highest) * scale))
        return jnp.log(total) - scale * label_gap, 1 / total

    losses, confidences = _over_examples(refined, logits, examples.highest, scale, examples.label_gap)
    is_edge = jnp.any(jnp.abs(jnp.append(by_fold, position)) >= np.float32(LOG_RANGE), keepdims=True)
    if len(slices) > 1:
        of_groups = minimum(slices[1:], position)
        position = jnp.append(position, of_groups)
        is_edge = jnp.append(is_edge, jnp.abs(of_groups) >= np.float32(LOG_RANGE))
    # comparisons with nan are false, and would leave a temperature where there is none
    has_one = jnp.isfinite(jnp.sum(first * weights)) & (jnp.sum(slices, axis=1) > 0)
    return _TemperatureFit(
        temperature=jnp.where(has_one, jnp.exp(-position), jnp.nan),
        is_edge=jnp.where(has_one, is_edge.astype(jnp.float32), jnp.nan),
        loss=losses,
        confidence=confidences,
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
    confidence: Float[Array, " example"],
    gap: Float[Array, " example"],
    slices: Float[Array, "slice example"],
    bins: int,
) -> Float[Array, " slice"]:
    """Σ_bin |Σ gap| of each slice, bin b holding the ranks r with floor(r·bins/n) = b (Roelofs et al. 2022, sec. 3).

    Equal confidences that two bins share are divided in proportion: the order of examples does not matter. Only the
    confidences at the bins' edges are taken from the sort, so it has a single operand.
    """
    keys, of_rank = _sorted(confidence, slices)

    def of_slice(keys: Array, edges: Array, ranks: Array, weights: Array) -> Float[Array, ""]:
        columns = jnp.stack([weights, gap * weights], axis=1)
        below = _dot((keys < edges[:, None]).astype(jnp.float32), columns)
        equal = _dot((keys == edges[:, None]).astype(jnp.float32), columns)
        share = (ranks - below[:, 0]) / jnp.maximum(equal[:, 0], 1)
        cumulative = below[:, 1] + share * equal[:, 1]
        ends = jnp.concatenate([jnp.zeros(1), cumulative, jnp.sum(columns[:, 1], keepdims=True)])
        return jnp.sum(jnp.abs(jnp.diff(ends)))

    counts = jnp.sum(slices, axis=1).astype(jnp.int32)[:, None]
    ranks = -(-jnp.arange(1, bins) * counts // bins)  # the first of each bin but the lowest
    # with fewer examples than bins the last ones are empty: they begin where the slice ends
    edges = of_rank(jnp.clip(ranks, 0, counts - 1))
    return jax.vmap(of_slice)(keys, edges, ranks, slices)


def _quantiles(
    values: Float[Array, " example"], slices: Float[Array, "slice example"], quantiles: tuple[float, ...]
) -> Float[Array, "slice quantile"]:
    """Linear interpolation between order statistics, as ``np.quantile`` by default; nan where there are no examples."""
    _, of_rank = _sorted(values, slices)
    counts = jnp.sum(slices, axis=1)[:, None]
    position = jnp.asarray(quantiles, jnp.float32) * jnp.maximum(counts - 1, 0)
    lower = jnp.floor(position)
    below, above = (_from_sort_keys(of_rank(rank.astype(jnp.int32))) for rank in (lower, jnp.ceil(position)))
    return jnp.where(counts > 0, below + (position - lower) * (above - below), jnp.nan)


def _sorted(
    values: Float[Array, " example"], slices: Float[Array, "slice example"]
) -> tuple[Int[Array, "slice example"], Callable[[Int[Array, "slice rank"]], Int[Array, "slice rank"]]]:
    """Sort keys of the values, and what finds those of given ranks, from 0, among a slice's examples.

    All groups are one sort, with the group in the highest bits of the keys. The lowest bits of the values give way:
    with three groups a group's keys are good to 2⁻²¹ of a value. Those of all examples are exact.
    """
    keys = _sort_keys(values)
    ordered = jax.lax.sort(jnp.where(slices[0] > 0, keys, jnp.iinfo(jnp.int32).max), is_stable=False)
    last = len(keys) - 1
    if len(slices) == 1:
        return keys[None], lambda ranks: ordered[jnp.minimum(ranks, last)]

    num_groups = len(slices) - 1
    bits = num_groups.bit_length()  # of the groups' numbers, and one more for the examples that are in none
    in_group = slices[1:] > 0
    group = jnp.where(jnp.any(in_group, axis=0), jnp.argmax(in_group, axis=0), num_groups).astype(jnp.uint32)
    unsigned = jax.lax.bitcast_convert_type(keys, jnp.uint32) ^ jnp.uint32(2**31)
    by_group = jax.lax.bitcast_convert_type((group << (32 - bits) | unsigned >> bits) ^ jnp.uint32(2**31), jnp.int32)
    ordered_by_group = jax.lax.sort(by_group, is_stable=False)
    sizes = jnp.sum(in_group, axis=1, dtype=jnp.int32)
    starts = jnp.cumsum(sizes) - sizes

    def of_rank(ranks: Int[Array, "slice rank"]) -> Int[Array, "slice rank"]:
        found = ordered_by_group[jnp.minimum(starts[:, None] + ranks[1:], last)]
        of_groups = jax.lax.bitcast_convert_type(found, jnp.uint32) << bits ^ jnp.uint32(2**31)
        whole = ordered[jnp.minimum(ranks[:1], last)]
        return jnp.concatenate([whole, jax.lax.bitcast_convert_type(of_groups, jnp.int32)])

    truncated = jax.lax.bitcast_convert_type(unsigned >> bits << bits ^ jnp.uint32(2**31), jnp.int32)
    return jnp.concatenate([keys[None], jnp.broadcast_to(truncated, in_group.shape)]), of_rank


def _sort_keys(values: Float[Array, "..."]) -> Int[Array, "..."]:
    """Integers in the order of the floats: XLA sorts them four times as fast on a CPU."""
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)
    return bits ^ ((bits >> 31) & jnp.int32(0x7FFFFFFF))


def _from_sort_keys(keys: Int[Array, "..."]) -> Float[Array, "..."]:
    return jax.lax.bitcast_convert_type(keys ^ ((keys >> 31) & jnp.int32(0x7FFFFFFF)), jnp.float32)


def _dot(left: Float[Array, "row example"], right: Float[Array, "example column"]) -> Float[Array, "row column"]:
    # a GPU would round both factors to TensorFloat-32
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
