"""What is measured of every checkpoint, and means over what a subject samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from lossjax.analysis.calibration import assign_folds, calibration_interval, checked, fit_temperature, scores
from lossjax.analysis.interval import Interval
from lossjax.analysis.onset import best_evaluation
from lossjax.analysis.populations import cluster_values
from lossjax.analysis.regimes import Flat
from lossjax.analysis.resampling import mean_intervals, two_way_difference, two_way_interval
from lossjax.diagnosis.outputs import FOLDS
from lossjax.diagnosis.subject import Subject

Key = TypeVar("Key")


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """One checkpoint's records: [seed, example], with one seed where there is no seed axis."""

    loss: Float[np.ndarray, "seed example"]
    correct: Bool[np.ndarray, "seed example"]
    brier: Float[np.ndarray, "seed example"]
    confidence: Float[np.ndarray, "seed example"]
    refined: Float[np.ndarray, "seed example"]
    fold_temperatures: Float[np.ndarray, "seed fold"]
    temperatures: Float[np.ndarray, " seed"]
    at_edge: bool
    tied: float
    calibration: Interval | None  # of the only seed, where examples are independent

    @property
    def gain(self) -> Float[np.ndarray, "seed example"]:
        """What the temperature of the other folds takes from each example's loss."""
        return self.loss - self.refined

    @property
    def temperature(self) -> float:
        return float(np.exp(np.log(self.temperatures).mean()))


@dataclasses.dataclass(frozen=True)
class Settings:
    flat: Flat
    level: float
    seed: int


def measure(subject: Subject, settings: Settings) -> tuple[Int[np.ndarray, " example"], list[Measured]]:
    """Folds, shared by all checkpoints, and each checkpoint's records."""
    labels = subject.labels
    found = [[scores(z, labels) for z in by_seed(logits)] for logits in subject.logits]
    right = np.stack([np.mean([one.correct for one in seeds], axis=0) >= 0.5 for seeds in found])
    # by both correctnesses of a pair; along a run by how often an example is right
    strata = 2 * right[0] + right[1] if len(right) == 2 else right.sum(axis=0)
    fold = assign_folds(strata, folds=FOLDS, seed=settings.seed)
    measured = []
    for seeds, logits in zip(found, subject.logits, strict=True):
        fits = [fit_temperature(*checked(z, labels), fold, FOLDS) for z in by_seed(logits)]
        calibration = None
        if subject.num_seeds is None and subject.clusters is None:  # its interval takes examples for independent
            calibration = calibration_interval(seeds[0].loss, fits[0], level=settings.level)
        measured.append(
            Measured(
                loss=np.stack([one.loss for one in seeds]),
                correct=np.stack([one.correct for one in seeds]),
                brier=np.stack([one.brier for one in seeds]),
                confidence=np.stack([one.confidence for one in seeds]),
                refined=np.stack([fit.refined for fit in fits]),
                fold_temperatures=np.stack([fit.fold_temperatures for fit in fits]),
                temperatures=np.array([fit.temperature for fit in fits]),
                at_edge=any(fit.at_edge for fit in fits),
                tied=float(np.mean([one.tied for one in seeds])),
                calibration=calibration,
            )
        )
    return fold, measured


def by_seed(logits: np.ndarray) -> Sequence[np.ndarray]:
    return list(logits) if logits.ndim == 3 else [logits]


def best_by_loss(measured: Sequence[Measured]) -> int:
    return int(best_evaluation(np.array([one.loss.mean() for one in measured]), "lowest"))


def chosen_by_other_folds(
    values: Float[np.ndarray, "checkpoint example"], fold: Int[np.ndarray, " example"]
) -> Int[np.ndarray, " example"]:
    """For each example, the checkpoint whose mean over the other folds is lowest."""
    chosen = np.array([int(best_evaluation(values[:, fold != k].mean(axis=1), "lowest")) for k in range(FOLDS)])
    return chosen[fold]


def over_seeds(values: Float[np.ndarray, "*seed example"]) -> Float[np.ndarray, " example"]:
    values = np.asarray(values, dtype=np.float64)
    return values.mean(axis=0) if values.ndim == 2 else values


def means_of(
    columns: Mapping[Key, Float[np.ndarray, "seed example"]], subject: Subject, settings: Settings
) -> dict[Key, Interval]:
    """Over examples, or clusters of them, and over seeds where there are several; one set of resamples for all."""
    if not columns:
        return {}
    if subject.num_seeds is None:
        values = np.stack([column[0] for column in columns.values()], axis=1)
        intervals = mean_intervals(values, clusters=subject.clusters, level=settings.level, seed=settings.seed)
        return {name: intervals[index] for index, name in enumerate(columns)}
    found = {}
    for name, column in columns.items():
        if subject.clusters is not None:
            column = cluster_values(column[..., None], subject.clusters)[..., 0]
        found[name] = two_way_interval(column, level=settings.level, seed=settings.seed)
    return found


def difference_of(
    a: Float[np.ndarray, "seed_a example"], b: Float[np.ndarray, "seed_b example"], subject: Subject, settings: Settings
) -> Interval:
    """Mean of b − a: seeds in pairs where they are the same, else the two groups of seeds apart."""
    if subject.num_seeds is None or subject.same_seeds:
        return means_of({"": b - a}, subject, settings)[""]
    if subject.clusters is not None:
        a, b = (cluster_values(one[..., None], subject.clusters)[..., 0] for one in (a, b))
    return two_way_difference(a, b, level=settings.level, seed=settings.seed)


def bounded(interval: Interval, low: float, high: float) -> Interval:
    """Without what cannot be: with few seeds, bounds of an accuracy or of its change can lie beyond 0 or 1."""
    ends = np.clip((interval.low, interval.high), low, high)
    return Interval(interval.estimate, float(ends[0]), float(ends[1]), interval.level)
