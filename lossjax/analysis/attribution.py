"""Attribution: which examples a change in loss comes from."""

from __future__ import annotations

import dataclasses
import math
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from lossjax.frequency import class_groups

Cell = Literal["right→right", "right→wrong", "wrong→right", "wrong→wrong"]
CELLS: Final[tuple[Cell, ...]] = ("right→right", "right→wrong", "wrong→right", "wrong→wrong")


def four_cells(
    loss_a: Float[np.ndarray, "*member example"],
    loss_b: Float[np.ndarray, "*member example"],
    correct_a: Bool[np.ndarray, "*member example"],
    correct_b: Bool[np.ndarray, "*member example"],
) -> dict[Cell, Float[np.ndarray, "*member example"]]:
    """Each example's change of loss, in the cell of its correctness under a and b, and 0 in the others.

    Exact and additive: the means of the four arrays add up to ΔL = mean(loss_b − loss_a).
    """
    change = np.asarray(loss_b, dtype=np.float64) - loss_a
    return {cell: np.where(chosen, change, 0.0) for cell, chosen in _membership(correct_a, correct_b).items()}


def cell_shares(
    correct_a: Bool[np.ndarray, "*member example"], correct_b: Bool[np.ndarray, "*member example"]
) -> dict[Cell, float]:
    """The share of examples in each cell; ΔA is that of wrong→right less that of right→wrong."""
    return {cell: float(chosen.mean()) for cell, chosen in _membership(correct_a, correct_b).items()}


def _membership(correct_a: np.ndarray, correct_b: np.ndarray) -> dict[Cell, np.ndarray]:
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    return {"right→right": a & b, "right→wrong": a & ~b, "wrong→right": ~a & b, "wrong→wrong": ~a & ~b}


@dataclasses.dataclass(frozen=True)
class Influence:
    """How few examples the loss difference hangs on.

    ``effective_count`` is (Σ|d|)²/Σd²; below 30 (``few``) a handful of examples, possibly mislabelled, decides it.
    ``without_top_percent`` is ΔL over the other examples when the 1 % with the largest |d| are left out.
    """

    effective_count: float
    without_top_percent: float
    few: bool


def influence(change: Float[np.ndarray, " example"]) -> Influence:
    """How concentrated a loss difference is, from each example's difference."""
    change = np.asarray(change, dtype=np.float64)
    size = np.abs(change)
    squares = float((change**2).sum())
    effective = float(size.sum() ** 2 / squares) if squares > 0 else math.nan  # nothing changed: no count
    kept = np.argsort(size, kind="stable")[: len(change) - math.ceil(len(change) / 100)]
    return Influence(effective, float(change[kept].mean()) if len(kept) else math.nan, effective < 30)


def frequency_groups(class_counts: Int[np.ndarray, " class"], num_groups: int = 3) -> Int[np.ndarray, " class"]:
    """The group of each class, 0 the most frequent: groups with equal shares of the training examples.

    With three groups: head, middle, tail, as ``class_groups`` has them, by which training measures too.
    """
    counts = np.asarray(class_counts)
    if counts.ndim != 1 or num_groups < 1 or np.any(counts < 0) or counts.sum() == 0:
        raise ValueError(f"class_counts {counts.tolist()} and num_groups={num_groups} name no groups of examples")
    return np.asarray(class_groups(counts, num_groups))


def tail_examples(
    class_counts: Int[np.ndarray, " class"], labels: Int[np.ndarray, " example"]
) -> Bool[np.ndarray, " example"]:
    """Whether each example's class has fewer training examples than the median class."""
    counts = np.asarray(class_counts)
    return counts[np.asarray(labels)] < np.median(counts)
