"""Selection: what choosing a configuration by one metric costs by another, as a function of validation size."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import special, stats

from lossjax.analysis.calibration import assign_folds, checked, refined_losses, scores
from lossjax.analysis.interval import Intervals
from lossjax.analysis.resampling import mean_intervals, two_way_distribution


@dataclasses.dataclass(frozen=True, eq=False)
class SelectionRegret:
    """What each selector's choice is worth to each judge; leading axes are validation sizes.

    Intervals are over searches, or over searches × examples where judged example by example. Where two selectors choose
    alike in nearly all of 50 searches, what the few others show is too narrow an interval of their difference: it
    covers 83 %, and of five searches 88 % (results/coverage).

    Attributes:
        selectors: what was selected by, on validation; judges: what the choice is judged by, on other data.
        judged: [*size selector judge] mean judged score of what was selected.
        difference: [*size selector selector judge] judged score when selected by the first minus when selected by the
            second, paired by search, in the judge's unit: above 0 the first is better for accuracy, worse for losses.
        regret: [*size selector judge] by how much the choice is worse than the oracle's; below 0 it is better. None
            without an oracle.
        optimism: [*size selector] by how much the choice looked better in selection than it is when judged by the same
            metric (the winner's curse); nan for selectors that are no judges.
        nonfinite: [*size selector] share of searches in which the choice is judged non-finite. These are left out of
            the means.
        num_searches: independent searches.
    """

    selectors: tuple[str, ...]
    judges: tuple[str, ...]
    judged: Intervals
    difference: Intervals
    regret: Intervals | None
    optimism: Intervals
    nonfinite: np.ndarray
    num_searches: int


def selection_regret(
    selecting: Mapping[str, Float[np.ndarray, "*size search config"]],
    judging: Mapping[str, Float[np.ndarray, "search config *example"]],
    *,
    oracle: Mapping[str, Float[np.ndarray, "search config"]] | None = None,
    higher: Collection[str] = ("accuracy",),
    clusters: Shaped[np.ndarray, " search"] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> SelectionRegret:
    """Selects a configuration in every search by each metric of ``selecting`` and judges it by each of ``judging``.

    Both are on disjoint data. A search is what was repeated independently: configurations of its own, or the same
    with fresh seeds and data. Non-finite scores rank last. Where configurations tie for best, as accuracies on few
    examples do, each is chosen equally often. With evaluations in the place of configurations it compares rules for
    stopping.

    Args:
        selecting: selector → scores on validation, with leading axes for its size if it varies.
        judging: judge → scores on test; with a last axis of examples where all searches have the same. Intervals are
            then over searches (or clusters) × examples, both sampled (Owen & Eckles 2012); what was selected by, and
            the oracle, are taken as they are.
        oracle: judge → scores on a third split, by which the oracle chooses. Its choice is then judged on test like
            all others, so it has no luck there.
        higher: the metrics of which more is better; of all others less is.
        clusters: names the searches that are not independent of one another, as those among different configurations
            on the same data; intervals are then over clusters.
    """
    selecting = {name: np.asarray(values, dtype=np.float64) for name, values in selecting.items()}
    judging = {name: np.asarray(values, dtype=np.float64) for name, values in judging.items()}
    shape = _check(selecting, judging, oracle)
    selectors, judges = tuple(selecting), tuple(judging)
    sign = {name: -1.0 if name in higher else 1.0 for name in (*selectors, *judges)}  # times it, less is better
    chosen = np.stack([_chosen(sign[name] * selecting[name]) for name in selectors], axis=-3)
    crossed = {values.ndim for values in judging.values()} == {3}
    by_example = {name: values if crossed else values[..., None] for name, values in judging.items()}
    # [*size selector search example judge]; one example, the mean, where they are not crossed
    judged = np.stack([_judged(chosen, by_example[name]) for name in judges], axis=-1)
    regret = None
    if oracle is not None:
        best = {name: _judged(_chosen(sign[name] * np.asarray(oracle[name])), by_example[name]) for name in judges}
        regret = np.stack([sign[j] * (judged[..., n] - best[j]) for n, j in enumerate(judges)], axis=-1)
    optimism = np.full(judged.shape[:-1], np.nan)
    for index, name in enumerate(selectors):
        if name in judges:
            looked = _expected(chosen[..., index, :, :], selecting[name])[..., None]
            optimism[..., index, :, :] = sign[name] * (judged[..., index, :, :, judges.index(name)] - looked)
    across = len(shape) - 2  # sizes come first; then the selector, and then the search

    def over_searches(values: np.ndarray) -> Intervals:
        values = np.moveaxis(values, (-3, -2), (0, 1))
        if crossed:
            return _over_searches_and_examples(values, clusters, level, seed)
        return _over_searches(values[:, 0], clusters, level, seed)

    differences = [
        over_searches(judged[..., [one], :, :, :] - judged[..., one + 1 :, :, :, :])
        for one in range(len(selectors) - 1)
    ]
    return SelectionRegret(
        selectors=selectors,
        judges=judges,
        judged=over_searches(judged),
        difference=_antisymmetric(differences, (*shape[:across], len(selectors), len(judges)), across, level),
        regret=None if regret is None else over_searches(regret),
        optimism=_squeezed(over_searches(optimism[..., None])),
        nonfinite=(~np.isfinite(judged)).any(axis=(-2, -1)).mean(axis=-1),
        num_searches=shape[-2],
    )


def validation_scores(
    logits: Float[np.ndarray, "config example class"],
    labels: Int[np.ndarray, " example"],
    sizes: Sequence[int],
    *,
    folds: int = 5,
    seed: int = 0,
) -> dict[str, Float[np.ndarray, "size config"]]:
    """Scores on the first ``size`` examples of one random order, for each size: what a smaller set would have shown.

    Returns loss, accuracy, Brier score, and ``refinement``, the loss at temperatures that are cross-fitted within each
    size, on folds that all configurations share. Stack the searches' results to [size, search, config] for
    ``selection_regret``. A configuration whose logits are not all finite has nan scores.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    order = np.random.default_rng(seed).permutation(len(labels))
    for size in sizes:
        if not folds <= size <= len(labels):
            raise ValueError(f"sizes has {size}, which must lie in {folds} … {len(labels)}, from folds to all examples")
    logits = np.where(np.isfinite(logits).all(axis=(1, 2), keepdims=True), logits, np.nan)
    by_size = [example_scores(logits[:, order[:size]], labels[order[:size]], folds=folds, seed=seed) for size in sizes]
    return {name: np.stack([found[name].mean(axis=1) for found in by_size]) for name in SCORES}


SCORES = ("loss", "accuracy", "brier", "refinement")


def example_scores(
    logits: Float[np.ndarray, "config example class"],
    labels: Int[np.ndarray, " example"],
    *,
    folds: int = 5,
    seed: int = 0,
) -> dict[str, Float[np.ndarray, "config example"]]:
    """What ``validation_scores`` are the means of: each example's loss, correctness, Brier score and refined loss."""
    logits, labels = np.asarray(logits), np.asarray(labels)
    num_examples = len(labels)
    found = {name: np.full((len(logits), num_examples), np.nan) for name in SCORES}
    finite = np.flatnonzero(np.isfinite(logits).all(axis=(1, 2)))
    if len(finite) == 0:
        return found
    flat, repeated = checked(logits[finite].reshape(-1, logits.shape[2]), np.tile(labels, len(finite)))
    measured = scores(flat, repeated)
    loss, correct, brier = (
        values.reshape(len(finite), num_examples) for values in (measured.loss, measured.correct, measured.brier)
    )
    # one fold an example for all configurations, which are compared with one another
    fold = assign_folds(correct.sum(axis=0), folds=folds, seed=seed)
    refined = refined_losses(flat.reshape(len(finite), num_examples, -1), labels, fold, folds)
    for name, values in zip(SCORES, (loss, correct, brier, refined), strict=True):
        found[name][finite] = values
    return found


def winner_weights(
    scores: Float[np.ndarray, "*search config"], size: int, *, higher: bool = False
) -> Float[np.ndarray, "*search config"]:
    """How often each configuration wins a search among ``size`` of them, taken at random without replacement.

    Exact: the configuration of rank r among N is the best of those taken in C(N − r, size − 1) of C(N, size) cases. The
    tied share what they win together, and what is not finite ranks last. ``(weights * values).sum(axis=-1)`` is the
    expected value of a winner, as the expected validation performance of Dodge et al. (2019, sec. 3) is, there with
    replacement.
    """
    costs = np.asarray(scores, dtype=np.float64)
    num_configs = costs.shape[-1]
    if not 1 <= size <= num_configs:
        raise ValueError(f"size={size} must lie in 1 … {num_configs}, the number of configurations")
    costs = np.where(np.isfinite(costs), -costs if higher else costs, np.inf)
    below, through = (stats.rankdata(costs, axis=-1, method=how) for how in ("min", "max"))
    # [k] probability that none of the best k is taken
    left = num_configs - np.arange(num_configs - size + 1)  # at least ``size`` of them
    none_of = np.zeros(num_configs + 1)
    # C(left, size) / C(N, size), by logarithms: the numbers themselves overflow from some thousand configurations
    none_of[: len(left)] = np.exp(
        special.gammaln(left + 1)
        - special.gammaln(left - size + 1)
        - special.gammaln(num_configs + 1)
        + special.gammaln(num_configs - size + 1)
    )
    below, through = below.astype(np.int64) - 1, through.astype(np.int64)
    return np.asarray((none_of[below] - none_of[through]) / (through - below))


def _chosen(costs: Float[np.ndarray, "*size search config"]) -> Float[np.ndarray, "*size search config"]:
    """How often each configuration is chosen: 1 for the lowest cost, shared among the tied."""
    costs = np.where(np.isfinite(costs), costs, np.inf)
    tied = costs == costs.min(axis=-1, keepdims=True)
    return tied / tied.sum(axis=-1, keepdims=True)


def _expected(
    chosen: Float[np.ndarray, "*choice search config"], values: Float[np.ndarray, "*size search config"]
) -> Float[np.ndarray, "*choice search"]:
    """The chosen configurations' mean value; not finite where one of them is not."""
    with np.errstate(invalid="ignore"):
        return np.where(chosen > 0, chosen * values, 0.0).sum(axis=-1)


def _judged(
    chosen: Float[np.ndarray, "*choice search config"], values: Float[np.ndarray, "search config example"]
) -> Float[np.ndarray, "*choice search example"]:
    """``_expected`` of each example."""
    finite = np.isfinite(values)
    if values.shape[2] == 1:
        return _expected(chosen, values[..., 0])[..., None]
    found = np.matmul(chosen[..., None, :], np.where(finite, values, 0.0))[..., 0, :]
    lost = (chosen * ~finite.all(axis=2)).sum(axis=-1) > 0
    return np.where(lost[..., None], np.nan, found)


def _over_searches_and_examples(
    values: Float[np.ndarray, "search example *column"],
    clusters: Shaped[np.ndarray, " search"] | None,
    level: float,
    seed: int,
) -> Intervals:
    """As ``_over_searches``, of means over searches × examples; a cluster is the mean of its searches."""
    units = np.arange(len(values)) if clusters is None else np.asarray(clusters)
    shape = values.shape[2:]
    columns = values.reshape(*values.shape[:2], -1)
    finite = np.isfinite(columns).all(axis=1)  # [search, column]
    estimate, low, high = np.full((3, columns.shape[2]), np.nan)
    for rows, members in _finite_together(finite):
        _, index, counts = np.unique(units[rows], return_inverse=True, return_counts=True)
        means = np.zeros((len(counts), columns.shape[1], len(members)))
        np.add.at(means, index, columns[rows][:, :, members])
        means /= counts[:, None, None]
        estimate[members] = means.mean(axis=(0, 1))
        if min(means.shape[:2]) >= 2:
            found = two_way_distribution([(1, means)], seed=seed).intervals(level)
            low[members], high[members] = found.low, found.high
    return Intervals(estimate.reshape(shape), low.reshape(shape), high.reshape(shape), level)


def _over_searches(
    values: Shaped[np.ndarray, "search *column"],
    clusters: Shaped[np.ndarray, " search"] | None,
    level: float,
    seed: int,
) -> Intervals:
    """Means over the searches in which each column is finite; nan bounds, or estimates, where there are too few."""
    units = np.arange(len(values)) if clusters is None else np.asarray(clusters)
    shape = values.shape[1:]
    columns = values.reshape(len(values), -1)
    finite = np.isfinite(columns)
    estimate, low, high = np.full((3, columns.shape[1]), np.nan)
    for rows, members in _finite_together(finite):
        if len(np.unique(units[rows])) >= 2:
            found = mean_intervals(
                columns[np.ix_(rows, members)],
                clusters=None if clusters is None else units[rows],
                level=level,
                seed=seed,
            )
            estimate[members], low[members], high[members] = found.estimate, found.low, found.high
        else:
            estimate[members] = columns[np.ix_(rows, members)].mean(axis=0)
    return Intervals(estimate.reshape(shape), low.reshape(shape), high.reshape(shape), level)


def _finite_together(
    finite: Bool[np.ndarray, "search column"],
) -> Iterator[tuple[Int[np.ndarray, " row"], Int[np.ndarray, " member"]]]:
    """The columns, those that are finite in the same searches together: these searches, and these columns.

    Columns without a finite search are left out.
    """
    patterns, which = np.unique(finite, axis=1, return_inverse=True)
    for pattern in range(patterns.shape[1]):
        rows = np.flatnonzero(patterns[:, pattern])
        if len(rows):
            yield rows, np.flatnonzero(which.reshape(-1) == pattern)


def _antisymmetric(above: Sequence[Intervals], shape: tuple[int, ...], axis: int, level: float) -> Intervals:
    """[*size selector selector judge] from the differences of each selector with those after it."""
    full = np.zeros((3, *shape[: axis + 1], *shape[axis:]))
    for one, differences in enumerate(above):
        after = np.stack([differences.estimate, differences.low, differences.high])
        ahead = np.moveaxis(full, (axis + 1, axis + 2), (0, 1))  # a view: selector, selector, then the rest
        ahead[one, one + 1 :] = np.moveaxis(after, axis + 1, 0)
        ahead[one + 1 :, one] = -np.moveaxis(after, axis + 1, 0)[:, [0, 2, 1]]
    return Intervals(full[0], full[1], full[2], level)


def _squeezed(intervals: Intervals) -> Intervals:
    return Intervals(intervals.estimate[..., 0], intervals.low[..., 0], intervals.high[..., 0], intervals.level)


def _check(
    selecting: Mapping[str, np.ndarray], judging: Mapping[str, np.ndarray], oracle: Mapping[str, np.ndarray] | None
) -> tuple[int, ...]:
    if not selecting or not judging:
        raise ValueError("selecting and judging must each have a metric at least")
    shapes = {values.shape for values in selecting.values()}
    shape = min(shapes)
    if len(shapes) > 1 or len(shape) < 2:
        raise ValueError(f"selecting has arrays of shapes {sorted(shapes)}; all must be [*size, search, config] alike")
    judged = {f"judging {name!r}": values.shape[:2] for name, values in judging.items()}
    for name, found in (judged | {f"oracle {name!r}": np.shape(one) for name, one in (oracle or {}).items()}).items():
        if found != shape[-2:]:
            raise ValueError(f"{name} has shape {found} where selecting has searches × configs {shape[-2:]}")
    if len({values.shape[2:] for values in judging.values()}) > 1 or any(one.ndim > 3 for one in judging.values()):
        raise ValueError(
            f"judging has arrays of shapes {[values.shape for values in judging.values()]}; all must be [search, "
            "config], or all [search, config, example] of the same examples"
        )
    if oracle is not None and not set(judging) <= set(oracle):
        raise ValueError(f"oracle has no {sorted(set(judging) - set(oracle))}; it needs every judge's metric")
    return shape
