"""Spread: how runs of one configuration differ, in error rate (Jordan 2024) and in predictions (Jiang et al. 2022)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from lossjax.analysis.interval import Interval
from lossjax.analysis.resampling import difference_interval, mean_interval, two_way_interval


@dataclasses.dataclass(frozen=True)
class SeedVariance:
    """The variance of the error rate between runs of one configuration; for fresh runs and fresh test examples.

    What is observed of 10 runs is skewed, and intervals of its ratio, and of the variance on the distribution, cover
    89 %; of 50 runs they cover 94–95 %, and ``independent_ratio`` 95–96 % of either (results/coverage).

    Attributes:
        error: mean error rate.
        observed: variance of the error rate on a test set of this size.
        independent: what it would be if errors on different examples were independent (Jordan 2024, definition 1).
        distribution: variance of the error rate on the whole distribution, the unbiased estimate (theorem 2, eq. 3). It
            may be negative and is not cut.
        predicted: error/(n·classes): for two classes what a class-wise calibrated algorithm shows (eq. 6), for more
            a lower bound (theorem 4, eq. 7).
        ratio: observed/predicted; None where no run was ever wrong.
        independent_ratio: independent/predicted, which leaves out the variance on the whole distribution as eq. 6 does;
            for two classes it is disagreement over error. None where no run was ever wrong.
        num_members, num_examples: runs, and n.
    """

    error: Interval
    observed: Interval
    independent: Interval
    distribution: Interval
    predicted: Interval
    ratio: Interval | None
    independent_ratio: Interval | None
    num_members: int
    num_examples: int


def seed_variance(
    correct: Bool[np.ndarray, "member example"], *, num_classes: int = 2, level: float = 0.95, seed: int = 0
) -> SeedVariance:
    """How much runs of one configuration differ in error rate, and how much of that is the test set's size.

    After Jordan (2024), "On the variance of neural network training with respect to test sets and distributions".
    ``predicted`` leaves out (1 − 1/n)·``distribution``, as its eq. 6 does of eq. 5: where that is not small, compare
    it with ``independent``, which is then what calibration predicts.

    Args:
        correct: of finite members, all on the same examples.
        num_classes: of the task.
    """
    correct = np.asarray(correct)
    _check(correct)
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes} must be at least 2")
    wrong = 1.0 - correct
    num_members, num_examples = wrong.shape
    deviation = (wrong - wrong.mean(axis=0)) * np.sqrt(num_members / (num_members - 1))
    # a run's and an example's part: in the variance of an example's error, and in the covariance of two examples'
    alone = deviation**2 / num_examples
    together = deviation * (deviation.sum(axis=1, keepdims=True) - deviation) / (num_examples - 1)
    shrunk = (1 - 1 / num_examples) * together

    error = two_way_interval(wrong, level=level, seed=seed)
    size = num_examples * num_classes

    def over_predicted(part: np.ndarray, influence: np.ndarray) -> Interval | None:
        if error.estimate == 0:
            return None
        expected = error.estimate / size
        estimate = float(part.mean() / expected)
        # linearised: its mean is the ratio, and its spread the ratio's
        linear = [estimate + (values - estimate * wrong / size) / expected for values in (part, influence)]
        return _crossed(linear[0], influence=linear[1], level=level, seed=seed)

    return SeedVariance(
        error=error,
        # covariances are of two examples, so an example counts twice in them
        observed=_crossed(alone + shrunk, influence=alone + 2 * shrunk, level=level, seed=seed),
        independent=_crossed(alone, influence=alone, level=level, seed=seed),
        distribution=_crossed(together, influence=2 * together, level=level, seed=seed),
        predicted=Interval(error.estimate / size, error.low / size, error.high / size, level),
        ratio=over_predicted(alone + shrunk, alone + 2 * shrunk),
        independent_ratio=over_predicted(alone, alone),
        num_members=num_members,
        num_examples=num_examples,
    )


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """How often two runs of one configuration predict different classes, against how often one is wrong.

    Attributes:
        disagreement: share of examples on which a random pair of runs differs.
        error: mean error rate.
        difference: disagreement − error; 0 where the generalisation disagreement equality holds (Jiang et al. 2022,
            definition 4.1), as it does for a class-wise calibrated algorithm (theorem 4.1).
    """

    disagreement: Interval
    error: Interval
    difference: Interval


def disagreement(
    predictions: Int[np.ndarray, "member example"],
    labels: Int[np.ndarray, " example"],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Disagreement:
    """Disagreement of all pairs of runs, and their error, over fresh runs and fresh examples.

    Args:
        predictions: each finite member's class of each example. With two classes, whether it was correct will do, with
            labels that are all 1: two runs agree where both are right or both are wrong.
        labels: of the examples that all members share.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    _check(predictions)
    if labels.shape != predictions.shape[1:]:
        raise ValueError(f"labels {labels.shape} must name one class for each of {predictions.shape[1]} examples")
    num_members = len(predictions)
    same = np.zeros(predictions.shape)  # members that predict what this one does, itself included
    for predicted in np.unique(predictions):
        chosen = predictions == predicted
        same += chosen * chosen.sum(axis=0)
    differ = (num_members - same) / (num_members - 1)
    wrong = (predictions != labels).astype(np.float64)
    # pairs are of two runs, so a run counts twice
    return Disagreement(
        disagreement=_crossed(differ.T, influence=2 * differ.T, level=level, seed=seed),
        error=two_way_interval(wrong, level=level, seed=seed),
        difference=_crossed((differ - wrong).T, influence=(2 * differ - wrong).T, level=level, seed=seed),
    )


@dataclasses.dataclass(frozen=True)
class Spread:
    """Runs on the same data at one evaluation; where data were drawn several times, means over the draws."""

    ratio: Interval  # of the variance between runs to err/Kn
    independent_ratio: Interval  # of the variance by independent errors to err/Kn
    observed: Interval  # standard deviation of accuracy between runs
    independent: Interval  # what it would be if errors on different examples were independent
    predicted: Interval  # √(err/Kn)
    distribution: Interval  # standard deviation of accuracy on the whole distribution
    disagreement: Interval
    error: Interval
    difference: Interval  # disagreement − error


def spread_of(predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> Spread:
    """Of [run, example] predictions on one data set."""
    found, none = seed_variance(predictions == labels, num_classes=num_classes), Interval(math.nan, math.nan, math.nan)
    pairs = disagreement(predictions, labels)
    return Spread(
        ratio=found.ratio or none,
        independent_ratio=found.independent_ratio or none,
        observed=deviation_of(found.observed),
        independent=deviation_of(found.independent),
        predicted=deviation_of(found.predicted),
        distribution=deviation_of(found.distribution),
        disagreement=pairs.disagreement,
        error=pairs.error,
        difference=pairs.difference,
    )


def spread_over_draws(predictions: Sequence[np.ndarray], num_classes: int) -> Spread:
    """Of one [run, example] array a data set, 1 where correct; intervals over data sets."""
    wrong = [1.0 - correct for correct in predictions]
    error = np.array([w.mean() for w in wrong])
    expected = error / (num_classes * np.array([w.shape[1] for w in wrong]))
    observed = np.array([w.mean(axis=1).var(ddof=1) for w in wrong])
    # of each example: the variance between runs; two runs of two classes disagree twice as often
    alone = np.array([w.var(axis=0, ddof=1).mean() for w in wrong])
    sizes = np.array([w.shape[1] for w in wrong])
    beyond = sizes / (sizes - 1) * (observed - alone / sizes)  # Jordan (2024), eq. 3
    return Spread(
        ratio=mean_interval(observed / expected),
        independent_ratio=mean_interval(alone / sizes / expected),
        observed=deviation_of(mean_interval(observed)),
        independent=deviation_of(mean_interval(alone / sizes)),
        predicted=deviation_of(mean_interval(expected)),
        distribution=deviation_of(mean_interval(beyond)),
        disagreement=mean_interval(2 * alone),
        error=mean_interval(error),
        difference=mean_interval(2 * alone - error),
    )


def deviation_of(variance: Interval) -> Interval:
    """The standard deviation; bounds below 0, which an unbiased estimate may have, become 0."""
    estimate, low, high = np.sqrt(np.maximum([variance.estimate, variance.low, variance.high], 0.0)).tolist()
    return Interval(estimate, low, high, variance.level)


def _crossed(
    values: Float[np.ndarray, "row column"], *, influence: Float[np.ndarray, "row column"], level: float, seed: int
) -> Interval:
    """The mean of a statistic whose terms are pairs of columns, with an interval over fresh rows and columns.

    The sum of two independent means: of the rows' means of ``values``, which hold the noise of single cells too, and
    of the columns' means of ``influence``, shrunk to the spread that they have beyond that noise.
    """
    num_rows, num_columns = values.shape
    rows, columns = values.mean(axis=1), influence.mean(axis=0)
    residuals = influence - influence.mean(axis=1, keepdims=True) - columns + influence.mean()
    noise = (residuals**2).sum() / ((num_rows - 1) * (num_columns - 1) * num_rows)
    spread = columns.var(ddof=1)
    beyond = np.sqrt(max(0.0, 1 - noise / spread)) if spread > 0 else 0.0
    return difference_interval(beyond * (columns.mean() - columns), rows, level=level, seed=seed)


def _check(values: np.ndarray) -> None:
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(f"{values.shape} must be [member, example], two of each at least")
