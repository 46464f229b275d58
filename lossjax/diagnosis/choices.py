"""Which checkpoint to keep for each goal, and what another costs instead."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from lossjax.analysis.interval import Interval
from lossjax.analysis.onset import adequate_evaluations, best_evaluation
from lossjax.analysis.populations import cluster_values
from lossjax.analysis.proportions import accuracy_change, accuracy_interval, two_examples_added
from lossjax.diagnosis.answer import Choice, Goal
from lossjax.diagnosis.measured import (
    Measured,
    Settings,
    bounded,
    chosen_by_other_folds,
    difference_of,
    means_of,
    over_seeds,
)
from lossjax.diagnosis.subject import Subject

SCORES: Final[Mapping[Goal, str]] = {
    "probabilities": "loss (nats)",
    "recalibrated": "loss at the best temperature (nats)",
    "accuracy": "accuracy",
    "balanced": "balanced accuracy",
}

# what a checkpoint of a run may be chosen by
SELECTORS: Final[Mapping[Goal, str]] = {
    "probabilities": "the lowest loss",
    "recalibrated": "the lowest loss after recalibration",
    "accuracy": "the highest accuracy",
    "balanced": "the highest balanced accuracy",
}


def choose(
    subject: Subject,
    measured: Sequence[Measured],
    fold: np.ndarray,
    last: int,
    settings: Settings,
    *,
    judged: bool = True,
) -> tuple[Choice, ...]:
    """Each goal has a score of which less is better, a checkpoint: [seed, example].

    Without ``judged``, of seeds too few for a verdict, every checkpoint counts as good as the best.
    """
    counts = np.bincount(subject.labels)
    # each class that occurs counts the same
    weight = len(subject.labels) / (counts[subject.labels] * np.count_nonzero(counts))
    losses: dict[Goal, list[np.ndarray]] = {
        "probabilities": [one.loss for one in measured],
        "recalibrated": [one.refined for one in measured],
        "accuracy": [1.0 - one.correct for one in measured],
        "balanced": [(1.0 - one.correct) * weight for one in measured],
    }
    if subject.is_run:
        choices = _choices_in_run(subject, losses, fold, last, settings)
    else:
        choices = _choices_of_two(subject, losses, settings)
    return choices if judged else tuple(dataclasses.replace(one, as_good=tuple(subject.names)) for one in choices)


def _choices_of_two(
    subject: Subject, losses: Mapping[Goal, Sequence[np.ndarray]], settings: Settings
) -> tuple[Choice, ...]:
    names = subject.names
    keep = {
        goal: int(best_evaluation(np.array([one.mean() for one in values]), "lowest"))
        for goal, values in losses.items()
    }
    values, regrets = _judged(
        {goal: losses[goal][best] for goal, best in keep.items()},
        {(goal, names[1 - best]): losses[goal][1 - best] for goal, best in keep.items()},
        subject,
        settings,
    )
    choices = []
    for goal, best in keep.items():
        regret = regrets[goal, names[1 - best]]
        choices.append(
            Choice(
                goal=goal,
                score=SCORES[goal],
                keep=names[best],
                as_good=(names[best],) if regret.low > 0 else names,
                value=values[goal],
                regret={names[1 - best]: regret},
            )
        )
    return tuple(choices)


def _choices_in_run(
    subject: Subject,
    losses: Mapping[Goal, Sequence[np.ndarray]],
    fold: np.ndarray,
    last: int,
    settings: Settings,
) -> tuple[Choice, ...]:
    """What each goal chooses, and what that is held against, is judged on examples that had no part in choosing."""
    examples = np.arange(len(fold))
    stacked = {goal: np.stack(values) for goal, values in losses.items()}  # [checkpoint, seed, example]
    selectors: dict[str, np.ndarray] = {
        name: chosen_by_other_folds(stacked[goal].mean(axis=1), fold) for goal, name in SELECTORS.items()
    }
    selectors["the last checkpoint"] = np.full_like(fold, last)

    def picked(goal: Goal, selector: str) -> np.ndarray:
        return stacked[goal][selectors[selector], :, examples].T

    own = {goal: picked(goal, SELECTORS[goal]) for goal in losses}
    others = {
        (goal, name): picked(goal, name)
        for goal in losses
        for name in selectors
        if name not in (SELECTORS[goal], SELECTORS["balanced"])
    }
    values, regrets = _judged(own, others, subject, settings)
    for goal, name in others:
        if np.array_equal(selectors[SELECTORS[goal]], selectors[name]):  # the same choice: no sample of it could differ
            regrets[goal, name] = Interval(0.0, 0.0, 0.0, settings.level)
    choices = []
    for goal, score in stacked.items():
        units = score[:, 0] if subject.num_seeds is None else score.mean(axis=2)
        if subject.num_seeds is None and subject.clusters is not None:
            units = cluster_values(units.T[None], subject.clusters)[0].T
        adequate = adequate_evaluations(units, "lowest", level=settings.level, seed=settings.seed)
        choices.append(
            Choice(
                goal=goal,
                score=SCORES[goal],
                keep=subject.names[int(best_evaluation(score.mean(axis=(1, 2)), "lowest"))],
                as_good=tuple(name for name, kept in zip(subject.names, adequate, strict=True) if kept),
                value=values[goal],
                regret={name: regret for (for_goal, name), regret in regrets.items() if for_goal == goal},
            )
        )
    return tuple(choices)


def _judged(
    own: Mapping[Goal, np.ndarray],
    others: Mapping[tuple[Goal, str], np.ndarray],
    subject: Subject,
    settings: Settings,
) -> tuple[dict[Goal, Interval], dict[tuple[Goal, str], Interval]]:
    """The value of each goal's own choice, and what the others cost instead, over what the subject samples.

    Scores are [seed, example], less being better; the values of accuracies are given as accuracies.
    """
    values: dict[Goal, Interval] = {}
    regrets: dict[tuple[Goal, str], Interval] = {}
    columns: dict[tuple[Goal, str], np.ndarray] = {(goal, ""): score for goal, score in own.items()}
    for (goal, name), score in others.items():
        if subject.num_seeds is not None and not subject.same_seeds:
            regrets[goal, name] = difference_of(own[goal], score, subject, settings)
        elif subject.num_seeds is None and goal == "accuracy":
            # a bootstrap of a few discordant examples would be too narrow
            regrets[goal, name] = accuracy_change((score - own[goal])[0], subject.clusters, level=settings.level)
        else:
            columns[goal, name] = score - own[goal]
    means = means_of(columns, subject, settings)
    for goal, score in own.items():
        found = means.pop((goal, ""))
        if goal in ("accuracy", "balanced"):
            found = bounded(Interval(1 - found.estimate, 1 - found.high, 1 - found.low, found.level), 0, 1)
        if goal == "accuracy":
            found = accuracy_interval(score == 0, subject.clusters, found)
        values[goal] = found
    for key in means:
        if key[0] == "balanced" and not columns[key].any():
            # no example is right with one alone: what others would show, resamples of these cannot tell
            means[key] = dataclasses.replace(means[key], low=math.nan, high=math.nan)
    regrets |= means
    if subject.num_seeds is not None:
        for (goal, name), score in others.items():
            if goal == "accuracy":  # the same for populations
                change = over_seeds(score) - over_seeds(own[goal])
                regrets[goal, name] = two_examples_added(regrets[goal, name], change, subject.clusters)
    for key, regret in regrets.items():
        if key[0] in ("accuracy", "balanced"):
            regrets[key] = bounded(regret, -1, 1)
    return values, {key: regrets[key] for key in others}
