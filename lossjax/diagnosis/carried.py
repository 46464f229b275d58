"""Which class-frequency groups and which examples carry a change."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from lossjax.analysis.attribution import frequency_groups
from lossjax.analysis.comparison import Comparison, Records, accuracy_change
from lossjax.analysis.interval import Interval
from lossjax.diagnosis.answer import Example, Group
from lossjax.diagnosis.measured import Measured, Settings, bounded, over_seeds
from lossjax.diagnosis.subject import Subject
from lossjax.diagnosis.window import Window

TOP_EXAMPLES = 20
GROUP_NAMES = ("head", "middle", "tail")


def groups_of_examples(subject: Subject) -> Int[np.ndarray, " example"] | None:
    """The class-frequency group of each example, by its label; None without training counts."""
    return None if subject.train_counts is None else frequency_groups(subject.train_counts)[subject.labels]


def groups_carrying(
    subject: Subject, pair: tuple[Records, Records], comparison: Comparison, settings: Settings
) -> tuple[Group, ...]:
    """What the examples of each group that occurs contribute to ΔL and to ΔA."""
    of_example = groups_of_examples(subject)
    if of_example is None or subject.train_counts is None:
        return ()
    of_class = frequency_groups(subject.train_counts)
    moved = over_seeds(pair[1].correct) - over_seeds(pair[0].correct)
    groups = []
    for group, name in enumerate(GROUP_NAMES):
        if group not in comparison.by_group:
            continue
        within = np.where(of_example == group, moved, 0.0)
        if subject.num_seeds is None:
            change = bounded(accuracy_change(within, subject.clusters, level=settings.level), -1, 1)
        else:  # over these seeds only, so without bounds
            change = Interval(float(within.mean()), math.nan, math.nan, settings.level)
        groups.append(
            Group(
                name=name,
                num_classes=int((of_class == group).sum()),
                share=float((of_example == group).mean()),
                delta_loss=comparison.by_group[group],
                delta_accuracy=change,
            )
        )
    return tuple(groups)


def examples_carrying(subject: Subject, pair: tuple[Records, Records], window: Window) -> tuple[Example, ...]:
    """Those whose loss changed most, in size; the lower index first among equals."""
    change = over_seeds(pair[1].loss) - over_seeds(pair[0].loss)
    order = np.argsort(-np.abs(change), kind="stable")[:TOP_EXAMPLES]

    def predicted(index: int, example: int) -> str | None:
        logits = subject.logits[index]
        return subject.class_name(int(logits[example].argmax())) if logits.ndim == 2 else None

    return tuple(
        Example(
            index=example,
            label=subject.class_name(int(subject.labels[example])),
            predicted_before=predicted(int(window.first[example]), example),
            predicted_after=predicted(window.last, example),
            probability_before=float(np.mean(np.exp(-np.atleast_2d(pair[0].loss)[:, example]))),
            probability_after=float(np.mean(np.exp(-np.atleast_2d(pair[1].loss)[:, example]))),
            change=float(change[example]),
            share=float(abs(change[example]) / np.abs(change).sum()) if change.any() else 0.0,
        )
        for example in order.tolist()
    )


def confidence_where_both_wrong(measured: Sequence[Measured], window: Window) -> tuple[float, float] | None:
    """Mean confidence before and after in wrong predictions that stayed wrong; None where there are none."""
    before, after = measured[window.shown], measured[window.last]
    if before.correct.shape != after.correct.shape:
        return None
    both = ~before.correct & ~after.correct
    if not both.any():
        return None
    return float(before.confidence[both].mean()), float(after.confidence[both].mean())
