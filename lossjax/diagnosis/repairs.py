"""For a rise of the loss that no temperature repairs: whether a bias, or a scale and a bias, for each class does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from lossjax.analysis.calibration import assign_folds
from lossjax.analysis.comparison import Records
from lossjax.analysis.rescaling import REPAIRS, repaired_losses
from lossjax.analysis.rescaling import Repair as Kind
from lossjax.diagnosis.answer import Repair
from lossjax.diagnosis.measured import Settings, by_seed, difference_of, means_of
from lossjax.diagnosis.outputs import FOLDS
from lossjax.diagnosis.subject import Subject
from lossjax.diagnosis.window import Window

MOST: Final[Mapping[Kind, int]] = {"bias": 4_000_000, "vector": 1_000_000}  # logits of a model; ten seconds each
_LARGEST_LOSS = 1e4  # nats: classes that are masked out have no finite scale


def try_repairs(
    subject: Subject,
    pair: tuple[Records, Records],
    window: Window,
    fold: Int[np.ndarray, " example"],
    settings: Settings,
) -> tuple[tuple[Repair, ...], str]:
    """Each repair, fitted to both models on the other folds; without those that would take too long.

    Where none is left, also why.
    """
    before, after = (np.atleast_2d(one.loss) for one in pair)
    size = subject.logits[window.last].size
    tried = [kind for kind in REPAIRS if size <= MOST[kind]]
    if not tried:
        return (), f"a model has {size:,} logits, and above {max(MOST.values()):,} it would take too long"
    if max(before.max(), after.max()) > _LARGEST_LOSS:
        return (), f"some losses are above {_LARGEST_LOSS:,.0f} nats, as where classes are masked"
    if subject.clusters is not None:  # with as many parameters as classes, duplicates in two folds would flatter
        _, cluster = np.unique(subject.clusters, return_inverse=True)
        num_clusters = int(cluster.max()) + 1
        fold = assign_folds(np.zeros(num_clusters), folds=min(FOLDS, num_clusters), seed=settings.seed)[cluster]
    found = []
    for kind in tried:
        first = _losses(subject, window.first, fold, kind)
        last = _losses(subject, np.full_like(window.first, window.last), fold, kind)
        found.append(
            Repair(
                kind=kind,
                left=difference_of(first, last, subject, settings),
                contrast=difference_of(0.2 * before - first, 0.2 * after - last, subject, settings),
                gain=means_of({kind: after - last}, subject, settings)[kind],
            )
        )
    return tuple(found), ""


def _losses(
    subject: Subject, index: Int[np.ndarray, " example"], fold: Int[np.ndarray, " example"], kind: Kind
) -> Float[np.ndarray, "seed example"]:
    """Each example's loss at its checkpoint, repaired."""
    used = np.unique(index).tolist()
    repaired = {
        at: np.stack([repaired_losses(z, subject.labels, fold, kind) for z in by_seed(subject.logits[at])])
        for at in used
    }
    losses = repaired[used[0]]
    for at in used[1:]:
        losses = np.where(index == at, repaired[at], losses)
    return losses
