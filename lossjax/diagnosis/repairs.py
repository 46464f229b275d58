"""For a rise of the loss that no temperature repairs: whether a bias, or a scale and a bias, for each class does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from lossjax.analysis.calibration import assign_folds
from lossjax.analysis.records import Records
from lossjax.analysis.rescaling import REPAIRS, repaired_losses
from lossjax.analysis.rescaling import Repair as Kind
from lossjax.diagnosis.answer import Repair
from lossjax.diagnosis.measured import Settings, by_seed, difference_of, means_of
from lossjax.diagnosis.outputs import FOLDS
from lossjax.diagnosis.subject import Subject
from lossjax.diagnosis.window import Window

MOST: Final[Mapping[Kind, int]] = {"bias": 4_000_000, "vector": 1_000_000}  # logits of a model; ten seconds each
LEAST_A_CLASS: Final = 10  # examples, on average, where only some of them are fitted to
_LARGEST_LOSS = 1e4  # nats: classes that are masked out have no finite scale


def try_repairs(
    subject: Subject,
    pair: tuple[Records, Records],
    window: Window,
    fold: Int[np.ndarray, " example"],
    settings: Settings,
) -> tuple[tuple[Repair, ...], str]:
    """Each repair, fitted to both models on the other folds, of a random sample of the examples where there are too
    many logits; without those of which a sample would hold too few. Where none is left, also why.
    """
    if max(one.loss.max() for one in pair) > _LARGEST_LOSS:
        return (), f"some losses are above {_LARGEST_LOSS:,.0f} nats, as where classes are masked"
    found = []
    for kind in REPAIRS:
        chosen = _sample(subject, kind, settings.seed)
        if chosen is not None:
            found.append(_try(kind, *_part(subject, pair, window, fold, chosen), settings))
    if found:
        return tuple(found), ""
    num_examples, num_classes = subject.logits[window.last].shape[-2:]
    return (), (
        f"with {num_classes:,} classes it would take too long on these {num_examples:,} examples, and on so few that "
        "it would not, too few are of each"
    )


def _sample(subject: Subject, kind: Kind, seed: int) -> Int[np.ndarray, " example"] | None:
    """Examples to fit a repair to: all of them, a random part, or None where a part would be too small."""
    num_examples, num_classes = subject.logits[0].shape[-2:]
    most = MOST[kind] // (num_classes * (subject.num_seeds or 1))
    if num_examples <= most:
        return np.arange(num_examples)
    if most < LEAST_A_CLASS * num_classes:
        return None
    return np.sort(np.random.default_rng(seed).choice(num_examples, most, replace=False))


def _part(
    subject: Subject,
    pair: tuple[Records, Records],
    window: Window,
    fold: Int[np.ndarray, " example"],
    chosen: Int[np.ndarray, " example"],
) -> tuple[Subject, tuple[Records, Records], Window, Int[np.ndarray, " example"]]:
    """The chosen examples alone."""
    if len(chosen) == len(fold):
        return subject, pair, window, fold
    needed = {*np.unique(window.first).tolist(), window.last}
    part = dataclasses.replace(
        subject,
        logits=tuple(z[..., chosen, :] if at in needed else z[..., :0, :] for at, z in enumerate(subject.logits)),
        labels=subject.labels[chosen],
        clusters=None if subject.clusters is None else subject.clusters[chosen],
    )
    before, after = (Records(one.loss[..., chosen], one.correct[..., chosen]) for one in pair)  # no more is used
    return part, (before, after), dataclasses.replace(window, first=window.first[chosen]), fold[chosen]


def _try(
    kind: Kind,
    subject: Subject,
    pair: tuple[Records, Records],
    window: Window,
    fold: Int[np.ndarray, " example"],
    settings: Settings,
) -> Repair:
    before, after = (np.atleast_2d(one.loss) for one in pair)
    if subject.clusters is not None:  # with as many parameters as classes, duplicates in two folds would flatter
        _, cluster = np.unique(subject.clusters, return_inverse=True)
        num_clusters = int(cluster.max()) + 1
        fold = assign_folds(np.zeros(num_clusters), folds=min(FOLDS, num_clusters), seed=settings.seed)[cluster]
    first = _losses(subject, window.first, fold, kind)
    last = _losses(subject, np.full_like(window.first, window.last), fold, kind)
    return Repair(
        kind=kind,
        num_examples=len(subject.labels),
        left=difference_of(first, last, subject, settings),
        contrast=difference_of(0.2 * before - first, 0.2 * after - last, subject, settings),
        gain=means_of({kind: after - last}, subject, settings)[kind],
    )


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
