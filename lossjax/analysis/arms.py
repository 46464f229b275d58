"""Arms: the runs of one configuration by seed, and two configurations compared on the same seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from lossjax.analysis.interval import Interval
from lossjax.analysis.onset import Best, Onset, best_evaluation, onset, patience_stop
from lossjax.analysis.proportions import bonett_price, wilson
from lossjax.analysis.regimes import FLAT, UNTOLD, Flat, observed_windows
from lossjax.analysis.resampling import mean_interval
from lossjax.analysis.significance import mean_beyond_p
from lossjax.analysis.summary import last_regimes, outcomes
from lossjax.analysis.verdicts import judge
from lossjax.history import History


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
        values: name → [seed] as in ``summary.outcomes``, and ``val_loss`` and ``val_accuracy``, the best on validation;
            nan where the run stopped being finite.
        letters: [seed] the regime from the best validation loss to the end, by estimates; ``"none"`` where that is the
            end, ``"nonfinite"`` where the run is.
        onset: when loss and accuracy parted, by estimates.
        num_evals: evaluations of a run.
    """

    seeds: np.ndarray
    finite: np.ndarray
    values: Mapping[str, np.ndarray]
    letters: np.ndarray
    onset: Onset
    num_evals: int

    @property
    def parted(self) -> Bool[np.ndarray, " seed"]:
        """Whether O or K at the end."""
        return np.asarray(self.letters == UNTOLD)

    def mean(self, name: str) -> Interval:
        """Over the finite runs."""
        return mean_interval(self.values[name][self.finite])

    @property
    def share_nonfinite(self) -> Interval:
        return wilson(int((~self.finite).sum()), len(self.finite))

    def share(self, letter: str) -> Interval:
        """Of all runs, the non-finite ones in the denominator."""
        return wilson(int((self.letters == letter).sum()), len(self.letters))


def arm(history: History, *, flat: Flat = FLAT, stop: Stop | None = None) -> Arm:
    """The members of one configuration, trained to the end or stopped early.

    Args:
        history: with loss and accuracy of the splits val and test, and the metric to stop by of val.
        flat: the differences taken for none; a difference beyond has its sign, whatever its error.
    """
    curves = {name: np.asarray(values, np.float64) for name, values in history.metrics.items() if values.ndim == 2}
    last = np.full(history.num_members, history.num_evals - 1)
    if stop is not None:
        last = patience_stop(curves[f"val_{stop.metric}"], stop.best, stop.patience)
    # what comes after the end has not been seen
    after = np.arange(history.num_evals) > last[:, None]
    curves = {name: np.where(after, np.nan, values) for name, values in curves.items()}
    finite = history.finite
    val_loss, val_accuracy, loss, accuracy = (
        curves[name][finite] for name in ("val_loss", "val_accuracy", "test_loss", "test_accuracy")
    )
    found = outcomes(val_loss, val_accuracy, loss, accuracy, history.steps, last=last[finite])
    found |= {"val_loss": np.nanmin(val_loss, axis=1), "val_accuracy": np.nanmax(val_accuracy, axis=1)}
    values = {name: np.full(history.num_members, np.nan) for name in found}
    for name in found:
        values[name][finite] = found[name]
    letters = np.full(history.num_members, "nonfinite", dtype="<U9")
    letters[finite] = last_regimes(val_loss, loss, accuracy, flat=flat, last=last[finite])
    broke = np.where(finite, history.num_evals, np.searchsorted(history.steps, history.nonfinite_step))
    return Arm(
        seeds=history.seeds["data"],
        finite=finite,
        values=values,
        letters=letters,
        onset=onset(
            observed_windows(curves["test_loss"], curves["test_accuracy"], flat=flat).letters,
            best_evaluation(curves["val_loss"], "lowest"),
            nonfinite=broke,
        ),
        num_evals=history.num_evals,
    )


class Limits(NamedTuple):
    """What counts, fixed before the result: the smallest effects of interest, and by how much the best may be worse."""

    paid: float  # nats of loss paid for choosing by accuracy
    parted: float  # share of runs with O or K at the end
    loss: float  # nats, of the best loss
    accuracy: float  # of the best accuracy
    nonfinite: float  # share of runs that may stop being finite


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """Two arms of the same seeds; differences are treated minus untreated.

    Raises ValueError where the seeds are not the same, in the same order.
    """

    treated: Arm
    untreated: Arm

    def __post_init__(self) -> None:
        if not np.array_equal(self.treated.seeds, self.untreated.seeds):
            raise ValueError("the arms have other seeds, or in another order; pair runs of the same seeds")

    def difference(self, name: str) -> Float[np.ndarray, " pair"]:
        """Of the pairs in which both runs are finite."""
        difference = self.treated.values[name] - self.untreated.values[name]
        return np.asarray(difference[np.isfinite(difference)])

    def mean(self, name: str) -> Interval:
        """The mean difference."""
        return mean_interval(self.difference(name))

    @property
    def parted(self) -> Interval:
        """The difference in the share of all runs with O or K at the end; Bonett and Price's interval."""
        now, before = self.treated.parted, self.untreated.parted
        return bonett_price(int((now & ~before).sum()), int((before & ~now).sum()), len(now))

    def best(self, limits: Limits, *, either: bool = False) -> Literal["non-inferior", "inferior", "unresolved"]:
        """Whether the best test loss, and the best test accuracy, of the treated are worse by no more than allowed.

        Else not to learn would be the best way not to part. Too many non-finite runs are inferior. With ``either`` it
        is the arm with the smaller loss paid that must not be worse than the other.
        """
        turned = either and self.mean("loss_paid").estimate > 0
        sign, judged = (-1.0, self.untreated) if turned else (1.0, self.treated)
        if (~judged.finite).mean() > limits.nonfinite:
            return "inferior"
        loss = judge(mean_interval(sign * self.difference("loss_best")), claim="less", threshold=limits.loss)
        accuracy = judge(mean_interval(sign * self.difference("accuracy_best")), threshold=-limits.accuracy)
        if "refuted" in (loss, accuracy):
            return "inferior"
        return "non-inferior" if (loss, accuracy) == ("supported", "supported") else "unresolved"

    def p_values(self, limits: Limits, *, either: bool = False) -> tuple[float, float]:
        """p, by t tests, that the loss paid and the share of runs that part are not less by more than the limits.

        With ``either``: that they differ by no more than the limits, in whichever direction.
        """
        parted = self.treated.parted.astype(float) - self.untreated.parted
        return (
            _beyond_p(self.difference("loss_paid"), limits.paid, either),
            _beyond_p(parted, limits.parted, either),
        )


def _beyond_p(differences: Float[np.ndarray, " pair"], smallest: float, either: bool) -> float:
    below = mean_beyond_p(differences, -smallest, "below")
    return min(1.0, 2 * min(below, mean_beyond_p(differences, smallest, "above"))) if either else below
