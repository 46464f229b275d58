"""What is kept of models' outputs on each example, and what two of them must have in common to be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from lossjax.analysis.proportions import check_names


class Records(NamedTuple):
    """What is kept of a model's logits: each [example], or [member, example] for a population."""

    loss: Float[np.ndarray, "*member example"]
    correct: Bool[np.ndarray, "*member example"]
    refined: Float[np.ndarray, "*member example"] | None = None  # the loss at the cross-fitted temperature


def as_members(records: Records) -> Records:
    """With a member axis and float64 losses. Raises ValueError for other shapes, or values that cannot be."""
    loss, correct = np.atleast_2d(np.asarray(records.loss, dtype=np.float64)), np.atleast_2d(records.correct)
    refined = None if records.refined is None else np.atleast_2d(np.asarray(records.refined, dtype=np.float64))
    if correct.shape != loss.shape or loss.ndim != 2 or (refined is not None and refined.shape != loss.shape):
        raise ValueError(f"loss {loss.shape}, correct {correct.shape} and refined must be [member, example] all three")
    if not np.isin(correct, (0, 1)).all():
        raise ValueError("correct has values that are neither true nor false; leave out what was not predicted")
    if not np.isfinite(loss).all():
        raise ValueError("losses are not all finite; leave non-finite members out and report their share")
    return Records(loss, correct.astype(bool), refined)


def check_pair(a: Records, b: Records, same_seeds: bool, by_example: Mapping[str, np.ndarray | None]) -> None:
    """ValueError unless both are over the same examples, of which each array of ``by_example`` has one entry each."""
    shapes = np.shape(a.loss), np.shape(b.loss)
    if len(shapes[0]) != len(shapes[1]) or shapes[0][-1] != shapes[1][-1]:
        raise ValueError(f"records of shapes {shapes[0]} and {shapes[1]} are not over the same examples")
    if len(shapes[0]) == 2 and min(shapes[0][0], shapes[1][0]) < 2:
        raise ValueError("a population of one member shows no variance between seeds; drop its member axis")
    if same_seeds and shapes[0] != shapes[1]:
        raise ValueError(f"same_seeds=True needs pairs of members, but there are {shapes[0][0]} and {shapes[1][0]}")
    if (a.refined is None) != (b.refined is None):
        raise ValueError("refined losses are given for one of the two models only; give both or neither")
    for name, array in by_example.items():
        if array is not None and np.shape(array) != shapes[0][-1:]:
            raise ValueError(f"{name} has shape {np.shape(array)}, not one entry for each of {shapes[0][-1]} examples")
        if array is not None:
            check_names(array, name)
