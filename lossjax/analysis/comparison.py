"""Comparison of two models, or two populations of models, on the same examples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from lossjax.analysis.attribution import CELLS, Cell, Influence, cell_shares, four_cells, influence, tail_examples
from lossjax.analysis.calibration import assign_folds, checked, fit_temperature, scores
from lossjax.analysis.interval import Interval
from lossjax.analysis.populations import intervals_at_levels
from lossjax.analysis.proportions import accuracy_change, mcnemar_p, two_examples_added
from lossjax.analysis.records import Records, as_members, check_pair
from lossjax.analysis.regimes import FLAT, UNDECIDED, Flat, flat_level, movement, regimes
from lossjax.analysis.significance import (
    detectable_effect,
    number_needed,
    refusal,
    smallest_attainable_p,
    smallest_flat_delta,
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Model b against model a on the same examples; every difference is b − a.

    Attributes:
        delta_loss: nats. Equal to the sum of ``cells`` and to the sum of ``by_group``.
        delta_accuracy: a fraction. Bonett–Price's interval for two models; where examples come in clusters, the same at
            their effective number; for populations that of resampling, to which their two examples are added. So it
            keeps a width where few examples, or none, are right with one side only (``proportions``).
        delta_refinement, delta_calibration: nats; None where refinement was not measured. Differences of bounds: they
            bound nothing themselves.
        contrast: 0.2·ΔL − ΔR, whose sign tells O from K.
        cells: what examples that were right (or wrong) under a and are right (or wrong) under b contribute to ΔL.
        cell_shares: the share of examples in each cell.
        scale_share: ΔC/ΔL, the share of ΔL that a change of logit scale explains; None where ΔL is not resolved.
            Where ΔL is barely resolved its bounds cover too seldom, for only the larger ΔL are seen (81 % at n = 200).
        by_group: group → its examples' contribution to ΔL.
        mcnemar: exact p that accuracy is unchanged; None for populations and clusters, where it does not hold.
        refused: why there is no verdict whatever the intervals: too few seeds for any test (``significance.refusal``).
            ΔL and ΔA are then both undecided. None for single models, and where there are seeds enough.
        smallest_p, detectable_loss: the least p that an exact test over these seeds can reach, and the difference in
            loss that they show with 80 % power, on these examples; None for single models.
        regime: the letter of the table in ``regimes``; refinement: the letter with what follows it, P-c where mostly
            calibration falls and P-r where mostly refinement does.
        kind_resolved: whether ``contrast`` is resolved from 0, for O and K only: an unresolved kind is divergence all
            the same, but no evidence for O against K.
        swapped: the unordered pair was judged as a − b, so that the second has the higher accuracy.
        tail_driven: for P with class counts, whether at least half of the drop is from classes below the median count.
        flat_delta_loss, flat_delta_accuracy: the least δ at which this pair would be flat.
        needed_loss, needed_accuracy: examples with which an unchanged pair would be shown flat at the δ used; inf where
            that is 0.
        scope: what the intervals generalise over.
    """

    delta_loss: Interval
    delta_accuracy: Interval
    delta_refinement: Interval | None
    delta_calibration: Interval | None
    contrast: Interval | None
    cells: Mapping[Cell, Interval]
    cell_shares: Mapping[Cell, float]
    scale_share: Interval | None
    by_group: Mapping[Hashable, Interval]
    mcnemar: float | None
    regime: str
    refinement: str
    kind_resolved: bool | None
    swapped: bool
    tail_driven: bool | None
    flat_delta_loss: float
    flat_delta_accuracy: float
    needed_loss: float
    needed_accuracy: float
    influence: Influence
    scope: str
    refused: str | None
    smallest_p: float | None
    detectable_loss: float | None


def compare(
    logits_a: Float[np.ndarray, "*member_a example class"],
    logits_b: Float[np.ndarray, "*member_b example class"],
    labels: Int[np.ndarray, " example"],
    *,
    groups: Shaped[np.ndarray, " example"] | None = None,
    clusters: Shaped[np.ndarray, " example"] | None = None,
    class_counts: Int[np.ndarray, " class"] | None = None,
    ordered: bool = True,
    same_seeds: bool = False,
    flat: Flat = FLAT,
    folds: int = 5,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compares two models, or two populations of models, by their logits on the same examples.

    Args:
        logits_a: of the first, [example, class], or [member, example, class] for intervals over seeds and examples.
        logits_b: of the second.
        labels: whole numbers in 0 … class − 1.
        groups: a group for each example, as ``frequency_groups(counts)[labels]``.
        clusters: examples that are not independent (one user's, duplicates) share a cluster; resampled whole.
        class_counts: training examples of each class, for ``tail_driven``.
        ordered: whether a precedes b, as two times of a run do.
        same_seeds: whether member i of a and member i of b share their seeds, so that they are pairs.
        flat: the differences taken for none; set before the data are seen.
        folds: of the cross-fitted temperatures; shared by both models, stratified by both correctnesses.
    """
    stacked = [
        np.asarray(logits)[None] if np.ndim(logits) == 2 else np.asarray(logits) for logits in (logits_a, logits_b)
    ]
    if np.ndim(logits_a) != np.ndim(logits_b) or stacked[0].ndim != 3 or stacked[0].shape[1:] != stacked[1].shape[1:]:
        raise ValueError(
            f"logits_a {np.shape(logits_a)} and logits_b {np.shape(logits_b)} must both be [example, class] or "
            "[member, example, class], over the same examples and classes"
        )
    measured = [[scores(*checked(logits, labels)) for logits in members] for members in stacked]
    correct = [np.stack([one.correct for one in members]) for members in measured]
    often = [hits.mean(axis=0) >= 0.5 for hits in correct]
    fold = assign_folds(2 * often[0] + often[1], folds=folds, seed=seed)
    records = [
        Records(
            loss=np.stack([one.loss for one in members]),
            correct=hits,
            refined=np.stack([fit_temperature(*checked(z, labels), fold, folds).refined for z in logits]),
        )
        for members, hits, logits in zip(measured, correct, stacked, strict=True)
    ]
    if np.ndim(logits_a) == 2:
        records = [Records(*(field[0] for field in one if field is not None)) for one in records]
    return compare_records(
        records[0],
        records[1],
        groups=groups,
        clusters=clusters,
        tail=None if class_counts is None else tail_examples(class_counts, labels),
        ordered=ordered,
        same_seeds=same_seeds,
        flat=flat,
        level=level,
        seed=seed,
    )


def compare_records(
    a: Records,
    b: Records,
    *,
    groups: Shaped[np.ndarray, " example"] | None = None,
    clusters: Shaped[np.ndarray, " example"] | None = None,
    tail: Bool[np.ndarray, " example"] | None = None,
    ordered: bool = True,
    same_seeds: bool = False,
    flat: Flat = FLAT,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """``compare`` from stored per-example losses and correctness, where logits were not kept.

    Without refined losses O and K are not told apart and the letter is ``"O/K"``. Populations of too few seeds for any
    exact test at ``level``, below 6 pairs or two groups of 4 at 95 %, get no verdict (``Comparison.refused``). ``tail``
    marks the examples of classes below the median training count (``tail_examples``).
    """
    side_a, side_b = as_members(a), as_members(b)
    single = np.ndim(a.loss) == 1
    check_pair(a, b, same_seeds, {"groups": groups, "clusters": clusters, "tail": tail})
    change = side_b.loss.mean(axis=0) - side_a.loss.mean(axis=0)  # [example], means over members
    hit_change = side_b.correct.mean(axis=0) - side_a.correct.mean(axis=0)

    scale_share = _scale_share(side_a, side_b)
    columns_a, columns_b = (_columns(side, groups, scale_share) for side in (side_a, side_b))
    paired = single or same_seeds
    if paired:
        cells = four_cells(side_a.loss, side_b.loss, side_a.correct, side_b.correct)
        differences = {name: columns_b[name] - columns_a[name] for name in columns_b}
        populations = [(1, differences | {str(cell): values for cell, values in cells.items()})]
    else:
        populations = [(-1, columns_a), (1, columns_b)]
    wide, narrow = intervals_at_levels(populations, clusters, (level, flat_level(level)), seed)
    for found in (wide, narrow):
        resampled = found["accuracy"]
        if single:
            found["accuracy"] = accuracy_change(hit_change, clusters, level=resampled.level)
        else:
            found["accuracy"] = two_examples_added(resampled, hit_change, clusters)
    mcnemar = None
    if single and clusters is None:
        mcnemar = mcnemar_p(int((hit_change > 0).sum()), int((hit_change < 0).sum()))

    seeds = None if single else _num_seeds(side_a, side_b, same_seeds)
    refused = None if seeds is None else refusal(*seeds, level=level)
    contrast = wide.get("contrast")
    judged = regimes(
        UNDECIDED if refused else movement(narrow["loss"], wide["loss"], flat.loss),
        UNDECIDED if refused else movement(narrow["accuracy"], wide["accuracy"], flat.accuracy),
        contrast=None if contrast is None else np.asarray(contrast.estimate),
        ordered=ordered,
    )
    letter, refinement, swapped = str(judged.letter), str(judged.refinement), bool(judged.swapped)
    sign = -1 if swapped else 1  # of the pair as it was judged
    tail_driven = None
    if letter == "P":
        if contrast is not None:
            refinement = "P-c" if sign * wide["calibration"].estimate < sign * wide["refinement"].estimate else "P-r"
        if tail is not None:
            tail_driven = bool(sign * change[tail].sum() <= sign * change.sum() / 2)
    return Comparison(
        delta_loss=wide["loss"],
        delta_accuracy=wide["accuracy"],
        delta_refinement=wide.get("refinement"),
        delta_calibration=wide.get("calibration"),
        contrast=contrast,
        cells={cell: wide[cell] for cell in CELLS} if paired else _cells_of_all_pairs(side_a, side_b, level),
        cell_shares=_cell_shares(side_a, side_b, paired),
        scale_share=(
            None if scale_share is None or refused else _ratio(scale_share, wide["scale_share"], wide["loss"])
        ),
        by_group={} if groups is None else {group.item(): wide[f"group {group}"] for group in np.unique(groups)},
        mcnemar=mcnemar,
        regime=letter,
        refinement=refinement,
        kind_resolved=contrast.excludes(0.0) if contrast is not None and letter in ("O", "K") else None,
        swapped=swapped,
        tail_driven=tail_driven,
        flat_delta_loss=smallest_flat_delta(narrow["loss"]),
        flat_delta_accuracy=smallest_flat_delta(narrow["accuracy"]),
        needed_loss=_needed(float(change.var(ddof=1)), flat.loss, level),
        needed_accuracy=_needed(float(np.mean(hit_change**2)), flat.accuracy, level),
        influence=influence(change),
        scope="examples; seed variance unobserved" if single else "seeds×examples",
        refused=refused,
        smallest_p=None if seeds is None else smallest_attainable_p(*seeds),
        detectable_loss=None if seeds is None else _detectable_loss(side_a, side_b, seeds, level),
    )


def _needed(variance: float, delta: float, level: float) -> float:
    return number_needed(variance, delta, level=level) if delta > 0 else math.inf


def _columns(
    side: Records, groups: np.ndarray | None, scale_share: float | None
) -> dict[str, Float[np.ndarray, "member example"]]:
    """What is averaged over members and examples, one model's part of each difference."""
    columns = {"loss": side.loss, "accuracy": side.correct.astype(np.float64)}
    if side.refined is not None:
        columns["refinement"] = side.refined
        columns["calibration"] = side.loss - side.refined
        columns["contrast"] = 0.2 * side.loss - side.refined
    if side.refined is not None and scale_share is not None:
        # a ratio of means, linearised: its differences have mean 0 and the ratio's spread, in units of ΔL
        columns["scale_share"] = side.loss - side.refined - scale_share * side.loss
    for group in np.unique(groups) if groups is not None else []:
        columns[f"group {group}"] = np.where(groups == group, side.loss, 0.0)
    return columns


def _scale_share(a: Records, b: Records) -> float | None:
    """ΔC/ΔL, where there is a ΔL at all."""
    change = b.loss.mean() - a.loss.mean()
    if a.refined is None or b.refined is None or change == 0:
        return None
    return float(1 - (b.refined.mean() - a.refined.mean()) / change)


def _num_seeds(a: Records, b: Records, same_seeds: bool) -> tuple[int, int | None]:
    return len(a.loss), None if same_seeds else len(b.loss)


def _detectable_loss(a: Records, b: Records, seeds: tuple[int, int | None], level: float) -> float:
    by_seed = [side.loss.mean(axis=1) for side in (a, b)]
    if seeds[1] is None:
        spread = np.std(by_seed[1] - by_seed[0], ddof=1)
    else:  # pooled
        squares = [((losses - losses.mean()) ** 2).sum() for losses in by_seed]
        spread = np.sqrt(sum(squares) / (seeds[0] + seeds[1] - 2))
    return detectable_effect(float(spread), *seeds, level=level)


def _ratio(share: float, spread: Interval, change: Interval) -> Interval | None:
    """The share with its bounds, from the interval of its linearised column; None where ΔL is not resolved."""
    if not change.excludes(0.0):
        return None
    bounds = sorted(share + bound / change.estimate for bound in (spread.low, spread.high))
    return Interval(share, bounds[0], bounds[1], spread.level)


def _cells_of_all_pairs(a: Records, b: Records, level: float) -> dict[Cell, Interval]:
    """The cells' contributions over all pairs of members; without bounds, for they are products of both groups."""
    cells = {}
    for cell, (a_in, b_in) in zip(CELLS, _sides_of_cells(a, b), strict=True):
        b_part = (b.loss * b_in).mean(axis=0) * a_in.mean(axis=0)
        a_part = (a.loss * a_in).mean(axis=0) * b_in.mean(axis=0)
        cells[cell] = Interval(float((b_part - a_part).mean()), np.nan, np.nan, level)
    return cells


def _cell_shares(a: Records, b: Records, paired: bool) -> dict[Cell, float]:
    if paired:
        return cell_shares(a.correct, b.correct)
    return {
        cell: float((a_in.mean(axis=0) * b_in.mean(axis=0)).mean())
        for cell, (a_in, b_in) in zip(CELLS, _sides_of_cells(a, b), strict=True)
    }


def _sides_of_cells(a: Records, b: Records) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each of ``CELLS``, which [member, example] of a, and which of b, it asks for."""
    right = (a.correct, b.correct)
    wrong = (~a.correct, ~b.correct)
    return [(right[0], right[1]), (right[0], wrong[1]), (wrong[0], right[1]), (wrong[0], wrong[1])]
