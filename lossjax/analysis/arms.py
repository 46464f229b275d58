"""Arms: the runs of one configuration by seed. ``contrasts`` compares two of them, ``doses`` has them by dose."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from lossjax.analysis.interval import Interval
from lossjax.analysis.onset import Best, Onset, best_evaluation, onset, patience_stop
from lossjax.analysis.proportions import wilson
from lossjax.analysis.regimes import FLAT, UNTOLD, Flat, observed_windows
from lossjax.analysis.resampling import Means, mean_interval, two_way_distribution
from lossjax.analysis.summary import last_regimes, outcomes
from lossjax.history import History

PARTED = (UNTOLD,)  # loss worse at the end, accuracy not
ROSE = (UNTOLD, "W")  # loss worse at the end, whatever accuracy did


class Stop(NamedTuple):
    """Early stopping: after ``patience`` evaluations without a new best of the validation split's metric."""

    metric: str
    best: Best
    patience: int


@dataclasses.dataclass(frozen=True, eq=False)
class Arm:
    """What the runs of one configuration did, a number a seed; times from validation, values on test.

    Attributes:
        seeds: [seed] of the data stream, by which arms are paired.
        finite: [seed] whether the run stayed finite.
        values: name → [seed] as in ``summary.outcomes``, ``val_loss`` and ``val_accuracy``, the best on validation, and
            ``loss_rise`` and ``accuracy_rise`` from the best validation loss to the end; nan where the run stopped
            being finite.
        letters: [seed] the regime from the best validation loss to the end, by estimates; ``"none"`` where that is the
            end, ``"nonfinite"`` where the run is.
        repaired: [seed] whether one temperature repairs four fifths of the loss's growth by then, by estimates.
        onset: when loss and accuracy parted, by estimates. None for runs that were stopped early: onset needs
            evaluations after the best, which stopping takes away, so its absence there would be arithmetic.
        num_evals: evaluations of a run.
        flat: the differences taken for none.
        examples: name → [seed, example] whose means over examples are ``values``, where all runs share their test
            examples: intervals are then over seeds × examples. None: over seeds.
    """

    seeds: np.ndarray
    finite: np.ndarray
    values: Mapping[str, np.ndarray]
    letters: np.ndarray
    repaired: np.ndarray
    onset: Onset | None
    num_evals: int
    flat: Flat = FLAT
    examples: Mapping[str, np.ndarray] | None = None

    def having(self, letters: Collection[str]) -> Bool[np.ndarray, " seed"]:
        """Whether the regime at the end is one of these."""
        return np.isin(self.letters, list(letters))

    def mean(self, name: str) -> Interval:
        """Over the finite runs, and over examples where these are shared."""
        return weighted_mean([(1.0, self)], name)

    @property
    def share_nonfinite(self) -> Interval:
        return wilson(int((~self.finite).sum()), len(self.finite))

    def share(self, letter: str) -> Interval:
        """Of all runs on these test examples, the non-finite ones in the denominator."""
        return wilson(int((self.letters == letter).sum()), len(self.letters))

    @property
    def share_repaired(self) -> Interval:
        """Of the runs with O or K, those in which it is O; nan where there is none."""
        parted = self.having(PARTED)
        if not parted.any():
            return Interval(float("nan"), float("nan"), float("nan"))
        return wilson(int((parted & self.repaired).sum()), int(parted.sum()))

    def resampled_share(
        self, letters: Collection[str], weights: Float[np.ndarray, "resample example"]
    ) -> Float[np.ndarray, " resample"]:
        """``having`` as a share of all runs, had the test examples had these weights."""
        assert self.examples is not None
        loss, accuracy = (
            weights @ np.nan_to_num(self.examples[name], nan=0.0).T.astype(np.float64)
            for name in ("loss_rise", "accuracy_rise")
        )
        worse = (loss > self.flat.loss) & self.finite
        fell = accuracy < -self.flat.accuracy
        found = np.zeros_like(worse)
        for letter, is_so in ((UNTOLD, worse & ~fell), ("W", worse & fell)):
            if letter in letters:
                found |= is_so
        return np.asarray(found.mean(axis=1))


def arm(history: History, *, flat: Flat = FLAT, stop: Stop | None = None, shared_examples: bool = False) -> Arm:
    """The members of one configuration, trained to the end or stopped early.

    Args:
        history: with loss, accuracy and refinement of the splits val and test, and the metric to stop by of val.
        flat: the differences taken for none; a difference beyond has its sign, whatever its error.
        shared_examples: whether all members are tested on the same examples, whose losses and correctness the history
            then has (``per_example=("test",)``).
    """
    curves = {name: np.asarray(values, np.float64) for name, values in history.metrics.items() if values.ndim == 2}
    last = np.full(history.num_members, history.num_evals - 1)
    if stop is not None:
        last = patience_stop(curves[f"val_{stop.metric}"], stop.best, stop.patience)
    # what comes after the end has not been seen
    after = np.arange(history.num_evals) > last[:, None]
    curves = {name: np.where(after, np.nan, values) for name, values in curves.items()}
    finite, end = history.finite, last[history.finite]
    val_loss, val_accuracy, loss, accuracy, refinement = (
        curves[name][finite] for name in ("val_loss", "val_accuracy", "test_loss", "test_accuracy", "test_refinement")
    )
    found = outcomes(val_loss, val_accuracy, loss, accuracy, history.steps, last=end)
    rows, start = np.arange(len(loss)), best_evaluation(val_loss, "lowest")
    rise, gain, remaining = (curve[rows, end] - curve[rows, start] for curve in (loss, accuracy, refinement))
    found |= {"val_loss": np.nanmin(val_loss, axis=1), "val_accuracy": np.nanmax(val_accuracy, axis=1)}
    found |= {"loss_rise": rise, "accuracy_rise": gain}
    values = {name: _of_all(finite, array) for name, array in found.items()}
    letters = np.full(history.num_members, "nonfinite", dtype="<U9")
    letters[finite] = last_regimes(val_loss, loss, accuracy, flat=flat, last=end)
    repaired = np.zeros(history.num_members, dtype=bool)
    repaired[finite] = 0.2 * rise - remaining > 0
    broke = np.where(finite, history.num_evals, np.searchsorted(history.steps, history.nonfinite_step))
    return Arm(
        seeds=history.seeds["data"],
        finite=finite,
        values=values,
        letters=letters,
        repaired=repaired,
        onset=None
        if stop is not None
        else onset(
            observed_windows(curves["test_loss"], curves["test_accuracy"], flat=flat).letters,
            best_evaluation(curves["val_loss"], "lowest"),
            nonfinite=broke,
        ),
        num_evals=history.num_evals,
        flat=flat,
        examples=_examples(history, val_accuracy, start, end) if shared_examples else None,
    )


def _of_all(finite: np.ndarray, array: np.ndarray) -> np.ndarray:
    """[seed …] of all members from that of the finite ones; nan elsewhere."""
    every = np.full((len(finite), *array.shape[1:]), np.nan, dtype=array.dtype)
    every[finite] = array
    return every


def _examples(history: History, val_accuracy: np.ndarray, start: np.ndarray, end: np.ndarray) -> dict[str, np.ndarray]:
    rows = np.flatnonzero(history.finite)
    at_accuracy = best_evaluation(val_accuracy, "highest")
    loss, right = (
        {name: history.metrics[f"test_example_{what}"][rows, at].astype(np.float32) for name, at in times.items()}
        for what, times in (
            (what, {"start": start, "end": end, "accuracy": at_accuracy}) for what in ("loss", "correct")
        )
    )
    found = {
        "loss_best": loss["start"],
        "loss_end": loss["end"],
        "loss_paid": loss["accuracy"] - loss["start"],
        "loss_rise": loss["end"] - loss["start"],
        "accuracy_best": right["accuracy"],
        "accuracy_end": right["end"],
        "accuracy_gained": right["accuracy"] - right["start"],
        "accuracy_rise": right["end"] - right["start"],
    }
    return {name: _of_all(history.finite, array) for name, array in found.items()}


def weighted_mean(parts: Sequence[tuple[float, Arm]], name: str) -> Interval:
    """The mean over seeds of Σ weight · value over arms of the same seeds, all of whose runs are finite."""
    crossed = crossed_mean(tuple(parts), name)
    if crossed is not None:
        return crossed.intervals(0.95)[0]
    values = np.sum([weight * one.values[name] for weight, one in parts], axis=0)
    return mean_interval(values[np.isfinite(values)])


@functools.lru_cache(maxsize=2048)  # the same contrast is asked for its interval, its error, and by several rows
def crossed_mean(parts: tuple[tuple[float, Arm], ...], name: str) -> Means | None:
    """Over seeds × examples; None where examples are not shared."""
    tables = []
    for weight, one in parts:
        if one.examples is None or name not in one.examples:
            return None
        tables.append(weight * one.examples[name].astype(np.float64))
    table = np.sum(tables, axis=0)
    return two_way_distribution([(1, table[np.isfinite(table).all(axis=1), :, None])])
