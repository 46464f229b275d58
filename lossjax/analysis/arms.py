"""Arms: the runs of one configuration by seed, and two configurations compared on the same seeds."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from lossjax.analysis.findings import Outcome
from lossjax.analysis.interval import Interval
from lossjax.analysis.onset import Best, Onset, best_evaluation, onset, patience_stop
from lossjax.analysis.proportions import bonett_price, wilson
from lossjax.analysis.regimes import FLAT, UNTOLD, Flat, observed_windows
from lossjax.analysis.resampling import Means, mean_interval, product_weights, two_way_distribution
from lossjax.analysis.significance import mean_beyond_p
from lossjax.analysis.summary import last_regimes, outcomes
from lossjax.analysis.verdicts import judge
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
    crossed = _crossed(tuple(parts), name)
    if crossed is not None:
        return crossed.intervals(0.95)[0]
    values = np.sum([weight * one.values[name] for weight, one in parts], axis=0)
    return mean_interval(values[np.isfinite(values)])


@functools.lru_cache(maxsize=2048)  # the same contrast is asked for its interval, its error, and by several rows
def _crossed(parts: tuple[tuple[float, Arm], ...], name: str) -> Means | None:
    """Over seeds × examples; None where examples are not shared."""
    tables = []
    for weight, one in parts:
        if one.examples is None or name not in one.examples:
            return None
        tables.append(weight * one.examples[name].astype(np.float64))
    table = np.sum(tables, axis=0)
    return two_way_distribution([(1, table[np.isfinite(table).all(axis=1), :, None])])


@functools.lru_cache(maxsize=2048)
def _resampled_share(one: Arm, letters: tuple[str, ...]) -> Float[np.ndarray, " resample"]:
    """With the same weights of the examples for all arms."""
    assert one.examples is not None
    weights = product_weights(one.examples["loss_rise"].shape[1], resamples=SHARE_RESAMPLES)
    return one.resampled_share(letters, weights)


class Limits(NamedTuple):
    """What counts, fixed before the result: the smallest effects of interest, and by how much the best may be worse."""

    paid: float  # nats of loss paid for choosing by accuracy
    parted: float  # share of runs with O or K at the end
    loss: float  # nats, of the best loss
    accuracy: float  # of the best accuracy
    nonfinite: float  # share of runs that may stop being finite


class Gate(NamedTuple):
    """Whether an arm's best is worse than the other's by no more than allowed."""

    outcome: Literal["non-inferior", "inferior", "unresolved"]
    turned: bool  # it is the untreated arm that must not be worse
    loss: Interval  # of the judged arm minus the other, nats
    accuracy: Interval


Measure = Literal["supported", "refuted", "unresolved"]


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

    def over_seeds(self) -> Pair:
        """The same with the test examples held fixed."""
        return Pair(*(dataclasses.replace(one, examples=None) for one in (self.treated, self.untreated)))

    def difference(self, name: str) -> Float[np.ndarray, " pair"]:
        """Of the pairs in which both runs are finite."""
        difference = self.treated.values[name] - self.untreated.values[name]
        return np.asarray(difference[np.isfinite(difference)])

    def mean(self, name: str) -> Interval:
        """The mean difference."""
        return weighted_mean(self._signed(), name)

    def share(self, letters: Collection[str]) -> Interval:
        """The difference in the share of all runs with one of these regimes at the end.

        Bonett and Price's interval; where examples are shared, the variance that resampling them adds is added to it.
        """
        now, before = self.treated.having(letters), self.untreated.having(letters)
        over_seeds = bonett_price(int((now & ~before).sum()), int((before & ~now).sum()), len(now))
        reach = stats.norm.ppf((1 + over_seeds.level) / 2) * self._example_error(letters)
        below, above = (
            float(np.hypot(over_seeds.estimate - bound, reach)) for bound in (over_seeds.low, over_seeds.high)
        )
        low, high = max(over_seeds.estimate - below, -1.0), min(over_seeds.estimate + above, 1.0)
        return Interval(over_seeds.estimate, low, high, over_seeds.level)

    @property
    def parted(self) -> Interval:
        """The difference in P, the share of all runs with O or K at the end."""
        return self.share(PARTED)

    @property
    def rose(self) -> Interval:
        """The difference in the share of all runs whose test loss is worse at the end, whatever accuracy did."""
        return self.share(ROSE)

    def gate(self, limits: Limits, *, either: bool = False) -> Gate:
        """Whether the best test loss, and the best test accuracy, of the treated are worse by no more than allowed.

        Else not to learn would be the best way not to part. Too many non-finite runs are inferior. With ``either`` it
        is the arm with the smaller loss paid that must not be worse than the other.
        """
        turned = either and self.mean("loss_paid").estimate > 0
        sign, judged = (-1.0, self.untreated) if turned else (1.0, self.treated)
        parts = [(sign * weight, one) for weight, one in self._signed()]
        differences = weighted_mean(parts, "loss_best"), weighted_mean(parts, "accuracy_best")
        if (~judged.finite).mean() > limits.nonfinite:
            return Gate("inferior", turned, *differences)
        loss = judge(differences[0], claim="less", threshold=limits.loss)
        accuracy = judge(differences[1], threshold=-limits.accuracy)
        if "refuted" in (loss, accuracy):
            return Gate("inferior", turned, *differences)
        met = (loss, accuracy) == ("supported", "supported")
        return Gate("non-inferior" if met else "unresolved", turned, *differences)

    def p_values(self, limits: Limits, *, either: bool = False, rises: bool = True) -> tuple[float, float]:
        """p that the loss paid, and the share of runs that part, are not less by more than the limits.

        With ``either``: that they differ by no more than the limits, in whichever direction. With ``rises`` the share
        of runs that part is only less where the share whose loss rose at all is, too: the larger p of both (Berger
        1982). By t tests; where examples are shared, with the standard error over seeds × examples.
        """
        paid = [self._paid_p(limits.paid, side) for side in SIDES]
        parted = [
            max(self._share_p(letters, limits.parted, side) for letters in ((PARTED, ROSE) if rises else (PARTED,)))
            for side in SIDES
        ]
        return _of_sides(paid, either), _of_sides(parted, either)

    def says(
        self,
        limits: Limits,
        adjusted_p: tuple[float, float],
        *,
        either: bool = False,
        rises: bool = True,
    ) -> tuple[Measure, Measure]:
        """What the loss paid, and the share of runs that part, say of the claim that they are less (or different).

        Args:
            adjusted_p: ``p_values``, corrected; a measure is supported where it is at most 0.05.
            rises: whether the share of runs that part must fall with the share whose loss rose at all; if the latter
                is resolved as no less, parting is refuted as reduced.
        """
        claim: Literal["different", "less"] = "different" if either else "less"
        paid = judge(self.mean("loss_paid"), claim=claim, smallest=limits.paid)
        shares = [self.parted, *([self.rose] if rises else [])]
        found = [judge(share, claim=claim, smallest=limits.parted) for share in shares]
        opposed = set(found) == {"supported"} and len({share.estimate > 0 for share in shares}) > 1
        if "refuted" in found or opposed:
            parted: Measure = "refuted"
        else:
            parted = "supported" if set(found) == {"supported"} else "unresolved"
        return tuple(  # type: ignore[return-value]
            "unresolved" if one == "supported" and p > 0.05 else one
            for one, p in zip((paid, parted), adjusted_p, strict=True)
        )

    def _signed(self) -> tuple[tuple[float, Arm], ...]:
        return (1.0, self.treated), (-1.0, self.untreated)

    def _paid_p(self, limit: float, side: Literal["below", "above"]) -> float:
        crossed, values = _crossed(self._signed(), "loss_paid"), self.difference("loss_paid")
        limit = -limit if side == "below" else limit
        if crossed is None:
            return mean_beyond_p(values, limit, side)
        return _tail_p(float(values.mean()), float(crossed.standard_error[0]), len(values) - 1, limit, side)

    def _share_p(self, letters: Collection[str], limit: float, side: Literal["below", "above"]) -> float:
        differences = self.treated.having(letters).astype(float) - self.untreated.having(letters)
        limit = -limit if side == "below" else limit
        examples = self._example_error(letters)
        if examples == 0:
            return mean_beyond_p(differences, limit, side)
        error = float(np.hypot(differences.std(ddof=1) / np.sqrt(len(differences)), examples))
        return _tail_p(float(differences.mean()), error, len(differences) - 1, limit, side)

    def _example_error(self, letters: Collection[str]) -> float:
        """Standard error of the difference in shares by the choice of test examples alone; 0 where it is not seen."""
        if self.treated.examples is None or self.untreated.examples is None:
            return 0.0
        treated, untreated = (_resampled_share(one, tuple(letters)) for one in (self.treated, self.untreated))
        return float((treated - untreated).std())


SIDES: tuple[Literal["below"], Literal["above"]] = ("below", "above")
SHARE_RESAMPLES = 500  # for a standard error


def concluded(measures: Sequence[str], gate: str) -> Outcome:
    """A remedy's outcome, of what its measures say and of the gate.

    Supported where all measures are and the best is non-inferior; in part where one is; refuted where all are, or where
    the best of one that is supported is inferior; else unresolved.
    """
    if "supported" in measures:
        if gate == "inferior":
            return "refuted"
        if gate == "unresolved":
            return "unresolved"
        return "supported" if set(measures) == {"supported"} else "in part"
    return "refuted" if set(measures) == {"refuted"} else "unresolved"


def _of_sides(p_values: Sequence[float], either: bool) -> float:
    below, above = p_values
    return min(1.0, 2 * min(below, above)) if either else below


def _tail_p(estimate: float, error: float, df: int, limit: float, side: Literal["below", "above"]) -> float:
    if error == 0:
        return 0.0 if (estimate < limit if side == "below" else estimate > limit) else 1.0
    t = (estimate - limit) / error
    return float(stats.t.cdf(t, df) if side == "below" else stats.t.sf(t, df))
