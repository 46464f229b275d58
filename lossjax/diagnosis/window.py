"""From which checkpoint to which a subject is diagnosed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from lossjax.analysis.records import Records
from lossjax.diagnosis.measured import Measured, best_by_loss, chosen_by_other_folds
from lossjax.diagnosis.subject import Subject


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
    """From where to where: ``first`` [example] is the checkpoint that each example's first loss is taken from."""

    first: Int[np.ndarray, " example"]
    shown: int  # the one checkpoint that stands for ``first``
    last: int
    notes: tuple[str, ...] = ()


def choose_window(subject: Subject, measured: Sequence[Measured], fold: np.ndarray) -> Window:
    """Of two models, from one to the other; of a run, from the lowest loss, or its middle, to its end (``examine``)."""
    last = len(measured) - 1
    if not subject.is_run:
        return Window(np.zeros_like(fold), 0, last)
    best = best_by_loss(measured)
    if best == last:
        middle = last // 2
        note = (
            f"The loss is lowest at the last checkpoint; the window is the second half of the run, from "
            f"{subject.names[middle]}."
        )
        return Window(np.full_like(fold, middle), middle, last, (note,))
    losses = np.stack([one.loss.mean(axis=0) for one in measured])
    first = chosen_by_other_folds(losses, fold)
    names = [subject.names[index] for index in np.unique(first)]
    note = "The window goes from the lowest loss to the last checkpoint. "
    note += (
        f"Whichever fifth of the examples is left out, the others choose {names[0]}."
        if len(names) == 1
        else f"Leaving out a fifth of the examples at a time, the others choose {', '.join(names)}; every example is "
        "compared from the one that was chosen without it, so a change is not quite the difference of two columns."
    )
    return Window(first, best, last, (note,))


def records_at(subject: Subject, measured: Sequence[Measured], index: Int[np.ndarray, " example"]) -> Records:
    """Each example's record at its checkpoint; without the seed axis where there is none."""
    used = np.unique(index)
    fields = []
    for name in ("loss", "correct", "refined"):
        values = getattr(measured[used[0]], name)
        for other in used[1:]:
            values = np.where(index == other, getattr(measured[other], name), values)
        fields.append(values[0] if subject.num_seeds is None else values)
    return Records(*fields)
