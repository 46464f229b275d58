"""Which class-frequency groups, which classes and which examples carry a change."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from scipy import stats

from lossjax.analysis.attribution import frequency_groups
from lossjax.analysis.comparison import Comparison
from lossjax.analysis.interval import Interval
from lossjax.analysis.proportions import accuracy_change
from lossjax.analysis.records import Records
from lossjax.diagnosis.answer import ClassChange, Example, Group
from lossjax.diagnosis.measured import Measured, Settings, bounded, over_seeds
from lossjax.diagnosis.subject import Subject
from lossjax.diagnosis.window import Window

TOP_EXAMPLES = 20
TOP_CLASSES = 10
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


def classes_carrying(subject: Subject, pair: tuple[Records, Records]) -> tuple[ClassChange, ...]:
    """Those whose examples contribute most to ΔL, in size; the lower index first among equals."""
    labels = subject.labels
    change = over_seeds(pair[1].loss) - over_seeds(pair[0].loss)
    counts, sums = np.bincount(labels), np.bincount(labels, weights=change)
    right = [np.bincount(labels, weights=over_seeds(one.correct)) for one in pair]
    order = np.argsort(-np.abs(sums), kind="stable")[: min(TOP_CLASSES, np.count_nonzero(sums))]
    level = 0.05 / np.count_nonzero(counts)
    # of all that pushes the same way: where other classes push back, one may have all of what is left and yet be one
    # of many
    half = {sign: 0.5 * sums[np.sign(sums) == sign].sum() for sign in (-1, 1)}
    independent = subject.num_seeds is None and subject.clusters is None
    return tuple(
        ClassChange(
            name=subject.class_name(index),
            num_examples=int(counts[index]),
            share=float(counts[index] / len(labels)),
            delta_loss=float(sums[index] / len(labels)),
            accuracy_before=float(right[0][index] / counts[index]),
            accuracy_after=float(right[1][index] / counts[index]),
            singled_out=bool(
                independent
                and abs(sums[index]) >= abs(half[np.sign(sums[index])])
                and bool(_differ_p(change[labels == index], change[labels != index]) < level)
            ),
        )
        for index in order.tolist()
    )


def _differ_p(own: np.ndarray, rest: np.ndarray) -> float:
    """Welch's two-sided p that two groups of changes have one mean; 1 where one is too small to tell."""
    if min(len(own), len(rest)) < 2:
        return 1.0
    size = max(np.abs(own).max(), np.abs(rest).max())  # squares of the largest losses overflow
    own, rest = own / size, rest / size
    if own.std() + rest.std() < 1e-9:  # no spread but rounding
        return float(abs(own[0] - rest[0]) < 1e-9)
    found = stats.ttest_ind_from_stats(
        own.mean(), own.std(ddof=1), len(own), rest.mean(), rest.std(ddof=1), len(rest), equal_var=False
    )
    return float(found.pvalue)


def examples_carrying(subject: Subject, pair: tuple[Records, Records], window: Window) -> tuple[Example, ...]:
    """Those whose loss changed most, in size; the lower index first among equals."""
    before, after = over_seeds(pair[0].loss), over_seeds(pair[1].loss)
    change = after - before
    order = np.argsort(-np.abs(change), kind="stable")[: min(TOP_EXAMPLES, np.count_nonzero(change))]

    def predicted(index: int, example: int) -> str | None:
        logits = subject.logits[index]
        return subject.class_name(int(logits[example].argmax())) if logits.ndim == 2 else None

    return tuple(
        Example(
            index=example,
            label=subject.class_name(int(subject.labels[example])),
            predicted_before=predicted(int(window.first[example]), example),
            predicted_after=predicted(window.last, example),
            probability_before=math.exp(-before[example]),
            probability_after=math.exp(-after[example]),
            change=float(change[example]),
            share=float(abs(change[example]) / np.abs(change).sum()),
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
