"""Regimes: how loss and accuracy moved together between two models, or two times of a run.

Each of ΔL and ΔA is classed once, in this order: ``"0"`` where its 90 % interval lies within ±δ, else ``"+"`` or
``"-"`` where its 95 % interval excludes 0, else ``"?"``. The pair of classes gives the regime:

=======  ==========  ==========  ===========  ====
..       ΔA −        ΔA 0        ΔA +         ΔA ?
=======  ==========  ==========  ===========  ====
ΔL −     S           P           G            N-u
ΔL 0     N-m         N-e         N-m          N-u
ΔL +     W           O0 / K0     O+ / K+      N-u
ΔL ?     N-u         N-u         N-u          N-u
=======  ==========  ==========  ===========  ====

S sacrifice, P plateau, G agree and better, W agree and worse, O over-confidence (repaired by one temperature), K not
repaired by one temperature, N none resolved: both flat (N-e), accuracy moved and loss flat (N-m), undecided (N-u).
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Real, Shaped
from scipy import stats

from lossjax.analysis.interval import Interval, Intervals
from lossjax.analysis.proportions import bonett_price_bounds, differs_from
from lossjax.analysis.significance import refusal

Letter = Literal["S", "P", "G", "W", "O", "K", "N", "O/K"]
UNDECIDED = np.asarray("?")  # how a loss or an accuracy moved where there is no telling
UNTOLD = "O/K"  # loss worse, accuracy not, and no refinement measured that would tell O from K
DIVERGENCE = ("P", "O", "K", "S", UNTOLD)


@dataclasses.dataclass(frozen=True)
class Flat:
    """The differences taken for none, fixed before the data are seen."""

    loss: float = 0.005  # nats
    accuracy: float = 0.005  # half a percentage point

    def __post_init__(self) -> None:
        for name in ("loss", "accuracy"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} is the half-width of a flat range; it must be >= 0")


FLAT = Flat()


class Regimes(NamedTuple):
    """Arrays of one shape; ``""`` where there is no pair."""

    letter: np.ndarray  # S P G W O K N, or "O/K" where refinement was not measured
    refinement: np.ndarray  # "O0", "K+", "N-e" …; the letter itself where there is none
    swapped: np.ndarray  # an unordered pair that was turned round


def flat_level(level: float) -> float:
    """The level of the interval that must lie within ±δ: two one-sided tests, so 90 % beside 95 %."""
    return 2 * level - 1


def movement(narrow: Interval | Intervals, wide: Interval | Intervals, delta: float) -> Shaped[np.ndarray, "..."]:
    """``"0"``, ``"+"``, ``"-"`` or ``"?"`` for each difference.

    Args:
        narrow: the 90 % interval, which decides on flatness.
        wide: the 95 % interval of the same difference, which decides on its sign.
        delta: the half-width of the flat range.
    """
    if not np.isclose(narrow.level, flat_level(wide.level)):
        needed = flat_level(wide.level)
        raise ValueError(f"levels {narrow.level} and {wide.level} do not belong together; flatness takes {needed:.3g}")
    return np.select(
        [np.asarray(narrow.within(-delta, delta)), np.asarray(wide.low > 0), np.asarray(wide.high < 0)],
        ["0", "+", "-"],
        default="?",
    )


def regimes(
    loss: Shaped[np.ndarray, "..."],
    accuracy: Shaped[np.ndarray, "..."],
    *,
    contrast: Float[np.ndarray, "..."] | None = None,
    ordered: bool = True,
) -> Regimes:
    """The table above, for arrays of movements.

    Args:
        loss: movements of b − a in loss, from ``movement``.
        accuracy: movements of b − a in accuracy.
        contrast: 0.2·ΔL − ΔR. Positive: one temperature repairs at least four fifths of the loss's growth (O); else K.
            Without it the two are not told apart.
        ordered: whether a precedes b. An unordered pair is oriented so that b has the higher accuracy (if flat, the
            lower loss), so S, O0 and K0 do not occur.
    """
    loss, accuracy = np.asarray(loss), np.asarray(accuracy)
    swapped = np.zeros(np.broadcast(loss, accuracy).shape, dtype=bool)
    if not ordered:
        swapped = (accuracy == "-") | ((accuracy == "0") & (loss == "+"))
        loss, accuracy = np.where(swapped, _turned(loss), loss), np.where(swapped, _turned(accuracy), accuracy)
    if contrast is None:
        kind = np.asarray(UNTOLD)
    else:
        kind = np.where(np.where(swapped, -np.asarray(contrast), contrast) > 0, "O", "K")

    undecided = (loss == "?") | (accuracy == "?")
    worse = (loss == "+") & (accuracy != "-")
    conditions = [undecided, loss == "0", worse, loss == "+", accuracy == "-", accuracy == "0"]
    letter = np.select(conditions, ["N", "N", kind, "W", "S", "P"], default="G")
    refinement = np.select(
        [undecided, (loss == "0") & (accuracy == "0"), loss == "0", worse],
        ["N-u", "N-e", "N-m", np.strings.add(np.asarray(kind), accuracy)],
        default=letter,
    )
    return Regimes(letter, refinement, swapped)


def _turned(moves: np.ndarray) -> np.ndarray:
    return np.select([moves == "+", moves == "-"], ["-", "+"], default=moves)


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """All pairs of evaluations i < j of a run, or of each member's run; other entries are ``""`` and False.

    Attributes:
        letters: [… eval eval] the regime from i to j.
        refinements: [… eval eval] its refinement.
        loss: [… eval eval] how the loss moved, "-", "0", "+" or "?"; ``accuracy`` the same of accuracy.
        ceiling: [… eval eval] accuracy is 100 % at i and at j, so it could not rise.
        chance: [… eval eval] accuracy is resolved from chance neither at i nor at j.
    """

    letters: np.ndarray
    refinements: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    ceiling: np.ndarray
    chance: np.ndarray

    @property
    def interior(self) -> Bool[np.ndarray, "... eval eval"]:
        """Pairs neither at the ceiling nor at chance."""
        return (self.letters != "") & ~self.ceiling & ~self.chance


def windows(
    losses: Float[np.ndarray, "*member eval example"],
    correct: Bool[np.ndarray, "*member eval example"],
    *,
    chance: float,
    refined_losses: Float[np.ndarray, "*member eval example"] | None = None,
    flat: Flat = FLAT,
    level: float = 0.95,
) -> Windows:
    """The regime of every window of a run, over examples: one member, or several that are taken one at a time.

    ΔL has a paired t interval, ΔA Bonett–Price's; both come from the evaluations' Gram matrices, so 51 evaluations cost
    three matrix products a member. Seed variance is not in these intervals. Evaluations at which the member was no
    longer finite belong to no pair.

    Args:
        losses: nats per example.
        correct: whether the argmax is the label.
        chance: the accuracy of guessing: 1/K for balanced classes, the largest class's share otherwise.
        refined_losses: losses at the cross-fitted temperature, where O and K are to be told apart.
    """
    losses, correct = np.asarray(losses), np.asarray(correct)
    if losses.shape != correct.shape or losses.ndim not in (2, 3):
        raise ValueError(
            f"losses {losses.shape} and correct {correct.shape} must both be [eval, example] or [member, eval, example]"
        )
    if refined_losses is not None and refined_losses.shape != losses.shape:
        raise ValueError(f"refined_losses {refined_losses.shape} must have the shape of losses, {losses.shape}")
    if losses.ndim == 3:
        members = [
            windows(
                losses[member],
                correct[member],
                chance=chance,
                refined_losses=None if refined_losses is None else refined_losses[member],
                flat=flat,
                level=level,
            )
            for member in range(len(losses))
        ]
        return Windows(*(np.stack([getattr(w, f.name) for w in members]) for f in dataclasses.fields(Windows)))

    measured = np.isfinite(losses).all(axis=1)
    if not measured.all():
        rest = None if refined_losses is None else refined_losses[measured]
        within = windows(
            losses[measured], correct[measured], chance=chance, refined_losses=rest, flat=flat, level=level
        )
        return _embedded(within, measured)
    num_examples = losses.shape[1]
    loss_change = pair_differences(losses, level=level)
    accuracy_change = _accuracy_differences(correct, level)
    contrast = None
    if refined_losses is not None:
        contrast = 0.2 * loss_change[0].estimate - _pairwise(refined_losses.mean(axis=1))
    accuracies = correct.mean(axis=1)
    guessing = ~differs_from(accuracies, num_examples, chance, level=level)
    return _windows(loss_change, accuracy_change, accuracies == 1.0, guessing, contrast, flat)


def seed_windows(
    losses: Float[np.ndarray, "member eval"],
    accuracies: Float[np.ndarray, "member eval"],
    *,
    flat: Flat = FLAT,
    level: float = 0.95,
) -> Windows:
    """The regime of every window of the seed-mean curves, over seeds (these examples): paired t over members.

    Fewer members than an exact test needs at ``level`` (6 at 95 %) decide nothing: every window is then "N-u". A mean
    is at the ceiling where every member is. Chance is not judged here, for the examples are held fixed.
    """
    losses, accuracies = np.asarray(losses), np.asarray(accuracies)
    ceiling = (accuracies == 1.0).all(axis=0)
    return _windows(
        pair_differences(losses.T, level=level),
        pair_differences(accuracies.T, level=level),
        ceiling,
        np.zeros_like(ceiling),
        None,
        flat,
        refused=refusal(len(losses), level=level) is not None,
    )


def observed_windows(
    losses: Float[np.ndarray, "*member eval"], accuracies: Float[np.ndarray, "*member eval"], *, flat: Flat = FLAT
) -> Windows:
    """The regime of every window where nothing was sampled: the curves are facts about a set, as on training examples.

    A difference is flat where it is at most δ in size, else it has its sign. Chance is not judged. Evaluations that are
    not finite belong to no pair.
    """
    losses, accuracies = np.asarray(losses, dtype=np.float64), np.asarray(accuracies, dtype=np.float64)
    ceiling = accuracies == 1.0
    exact = [
        (Intervals(change, change, change, flat_level(0.95)), Intervals(change, change, change, 0.95))
        for change in (_pairwise(losses), _pairwise(accuracies))
    ]
    return _windows(exact[0], exact[1], ceiling, np.zeros_like(ceiling), None, flat)


def longest_window(
    letters: Shaped[np.ndarray, "*member eval eval"],
    steps: Real[np.ndarray, " eval"],
    *,
    letter: str = "P",
    among: Bool[np.ndarray, "*member eval eval"] | None = None,
) -> Float[np.ndarray, "*member"]:
    """The longest window with this letter, as a fraction of training; 0 where there is none.

    ``among`` restricts the pairs, to count apart: ``windows.interior``, ``windows.ceiling``, ``windows.chance``.
    """
    steps = np.asarray(steps, dtype=np.float64)
    if letters.shape[-2:] != (len(steps), len(steps)):
        raise ValueError(f"letters {letters.shape} and {len(steps)} steps do not belong together")
    chosen = letters == letter if among is None else (letters == letter) & among
    span = _pairwise(steps) / (steps[-1] - steps[0])
    return np.asarray(np.where(chosen, span, 0.0).max(axis=(-2, -1)))


def pair_differences(values: Float[np.ndarray, "eval unit"], *, level: float = 0.95) -> tuple[Intervals, Intervals]:
    """Means at j minus means at i for all pairs (i, j) of evaluations, with paired t intervals.

    Returns two Intervals [eval, eval]: the narrower, which decides on flatness, and that of ``level``. Units are
    examples or seeds.
    """
    values = np.asarray(values, dtype=np.float64)
    num_units = values.shape[1]
    if num_units < 2:
        raise ValueError(f"{num_units} unit has no spread to judge by; an interval needs two or more")
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("values are not all finite; pass the finite members and report the share of the others")
    estimate = _pairwise(values.mean(axis=1))
    # what all evaluations share cancels in every difference; taken out first, it leaves no rounding behind
    residuals = values - values.mean(axis=0)
    residuals -= residuals.mean(axis=1, keepdims=True)
    gram = residuals @ residuals.T
    square = np.diag(gram)
    variance = np.maximum(square[:, None] + square - 2 * gram, 0.0) / (num_units - 1)
    error = np.sqrt(variance / num_units)

    def intervals(level: float) -> Intervals:
        reach = stats.t.ppf((1 + level) / 2, num_units - 1) * error
        return Intervals(estimate, estimate - reach, estimate + reach, level)

    return intervals(flat_level(level)), intervals(level)


def _accuracy_differences(correct: np.ndarray, level: float) -> tuple[Intervals, Intervals]:
    total = correct.shape[1]
    hits = correct.astype(np.float64)  # products of counts are exact, and BLAS makes them
    both, right = hits @ hits.T, hits.sum(axis=1)
    gained, lost = right[None, :] - both, right[:, None] - both
    estimate = (gained - lost) / total

    def intervals(level: float) -> Intervals:
        return Intervals(estimate, *bonett_price_bounds(gained, lost, total, level=level), level)

    return intervals(flat_level(level)), intervals(level)


def _windows(
    loss: tuple[Intervals, Intervals],
    accuracy: tuple[Intervals, Intervals],
    ceiling: np.ndarray,
    guessing: np.ndarray,
    contrast: np.ndarray | None,
    flat: Flat,
    *,
    refused: bool = False,
) -> Windows:
    loss_moves, accuracy_moves = movement(*loss, flat.loss), movement(*accuracy, flat.accuracy)
    if refused:
        loss_moves = accuracy_moves = np.broadcast_to(UNDECIDED, loss_moves.shape)
    found = regimes(loss_moves, accuracy_moves, contrast=contrast)
    # i < j, and both measured
    ahead = np.triu(np.isfinite(loss[0].estimate) & np.isfinite(accuracy[0].estimate), k=1)
    return Windows(
        letters=np.where(ahead, found.letter, ""),
        refinements=np.where(ahead, found.refinement, ""),
        loss=np.where(ahead, loss_moves, ""),
        accuracy=np.where(ahead, accuracy_moves, ""),
        ceiling=ahead & ceiling[..., :, None] & ceiling[..., None, :],
        chance=ahead & guessing[..., :, None] & guessing[..., None, :],
    )


def _embedded(within: Windows, measured: Bool[np.ndarray, " eval"]) -> Windows:
    """The windows of the measured evaluations in their places among all."""
    places = np.ix_(measured, measured)
    arrays = {}
    for field in dataclasses.fields(Windows):
        part = getattr(within, field.name)
        arrays[field.name] = np.zeros((len(measured), len(measured)), dtype=part.dtype)
        arrays[field.name][places] = part
    return Windows(**arrays)


def _pairwise(values: Float[np.ndarray, "*member eval"]) -> Float[np.ndarray, "*member eval eval"]:
    """Entry [i, j] is the value at j minus that at i."""
    return values[..., None, :] - values[..., :, None]
