"""Contrasts: two arms of the same seeds, compared; and what several of them say of one claim."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from lossjax.analysis.arms import PARTED, ROSE, Arm, crossed_mean, weighted_mean
from lossjax.analysis.findings import Outcome, Verdict
from lossjax.analysis.interval import Interval
from lossjax.analysis.onset import logrank_p
from lossjax.analysis.proportions import bonett_price
from lossjax.analysis.resampling import product_weights
from lossjax.analysis.significance import holm, mean_beyond_p
from lossjax.analysis.verdicts import judge


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

    def told(self, measures: tuple[Measure, Measure]) -> str:
        """Both measures before and after, their differences, and what they say, in words."""
        paid = " → ".join(f"{one.mean('loss_paid').estimate:.3f}" for one in (self.untreated, self.treated))

        def shares(letter: str) -> str:
            return " → ".join(f"{100 * one.share(letter).estimate:.0f}" for one in (self.untreated, self.treated))

        return (
            f"D {paid} nats ({measures[0]}); P {shares('O/K')} %, difference {self.parted}, both worse (W) "
            f"{shares('W')} %, difference of P + W {self.rose} (P {measures[1]})"
        )

    def onsets_told(self) -> str:
        """The share of runs with onset before and after, with the log-rank test's p, in words."""
        before, after = (one.onset for one in (self.untreated, self.treated))
        if before is None or after is None:
            return "onset is not defined for runs that are stopped, which ends them before it could be seen"
        p_value = logrank_p(*(part for one in (after, before) for part in (one.evaluation, one.observed)))
        shares = [100 * one.share().estimate for one in (before, after)]
        return f"onset in {shares[0]:.0f} → {shares[1]:.0f} % of runs (log-rank p = {p_value:.2g})"

    def _signed(self) -> tuple[tuple[float, Arm], ...]:
        return (1.0, self.treated), (-1.0, self.untreated)

    def _paid_p(self, limit: float, side: Literal["below", "above"]) -> float:
        crossed, values = crossed_mean(self._signed(), "loss_paid"), self.difference("loss_paid")
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


@dataclasses.dataclass(frozen=True, eq=False)
class Contrast:
    """A pair in one place as it bears on a claim.

    Attributes:
        told: what is compared, in words.
        as_written: what the rule compared before it was amended; None: nothing.
        either: whether any difference counts, or only a reduction.
        claim, statement, where, rule, scope, amended: as in ``Verdict``.
    """

    claim: str
    statement: str
    where: str
    told: str
    rule: str
    scope: str
    pair: Pair
    as_written: Pair | None
    amended: str
    either: bool = False


def judged(contrasts: Sequence[Contrast], limits: Limits) -> list[Verdict]:
    """Every contrast's verdict, claim after claim, with Holm's correction over both measures of all of a claim.

    As written, the share of runs that part was less whether or not more of them got worse in both.
    """
    verdicts = []
    for claim in dict.fromkeys(one.claim for one in contrasts):
        own = [one for one in contrasts if one.claim == claim]
        either = own[0].either
        measures = measured_together([one.pair for one in own], limits, either=either)
        before = [one.as_written for one in own if one.as_written is not None]
        first = iter(measured_together(before, limits, either=either, rises=False))
        for one, says in zip(own, measures, strict=True):
            as_written: Outcome = "unresolved"
            if one.as_written is not None:
                as_written = concluded(next(first), one.as_written.gate(limits, either=either).outcome)
            verdicts.append(_verdict(one, limits, says, as_written))
    return verdicts


def _verdict(one: Contrast, limits: Limits, measures: tuple[Measure, Measure], as_written: Outcome) -> Verdict:
    pair, gate = one.pair, one.pair.gate(limits, either=one.either)

    def change(name: str) -> str:
        return f"{pair.untreated.mean(name).estimate:.3f} → {pair.treated.mean(name).estimate:.3f}"

    judged_arm = "" if not one.either else f" (of the {'second' if gate.turned else 'first'} against the other)"
    return Verdict(
        claim=one.claim,
        statement=one.statement,
        where=one.where,
        contrast="D with minus without (nats)",
        rule=one.rule,
        estimate=pair.mean("loss_paid"),
        outcome=concluded(measures, gate.outcome),
        num_seeds=len(pair.treated.seeds),
        scope=one.scope,
        note=(
            f"{one.told}: {pair.told(measures)}; best {gate.outcome}{judged_arm}: loss by {gate.loss}, accuracy by "
            f"{gate.accuracy}; final loss {change('loss_end')}, accuracy {change('accuracy_end')}; {pair.onsets_told()}"
        ),
        amended=one.amended,
        as_written=as_written,
    )


def measured_together(
    pairs: Sequence[Pair], limits: Limits, *, either: bool = False, rises: bool = True
) -> list[tuple[Measure, Measure]]:
    """``Pair.says`` of pairs that belong to one claim, with Holm's correction over both measures of all of them."""
    if not pairs:
        return []
    p_values = np.array([pair.p_values(limits, either=either, rises=rises) for pair in pairs])
    adjusted = holm(p_values.ravel()).reshape(-1, 2).tolist()
    return [
        pair.says(limits, (paid, parted), either=either, rises=rises)
        for pair, (paid, parted) in zip(pairs, adjusted, strict=True)
    ]


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


@functools.lru_cache(maxsize=2048)
def _resampled_share(one: Arm, letters: tuple[str, ...]) -> Float[np.ndarray, " resample"]:
    """With the same weights of the examples for all arms."""
    assert one.examples is not None
    weights = product_weights(one.examples["loss_rise"].shape[1], resamples=SHARE_RESAMPLES)
    return one.resampled_share(letters, weights)


def _of_sides(p_values: Sequence[float], either: bool) -> float:
    below, above = p_values
    return min(1.0, 2 * min(below, above)) if either else below


def _tail_p(estimate: float, error: float, df: int, limit: float, side: Literal["below", "above"]) -> float:
    if error == 0:
        return 0.0 if (estimate < limit if side == "below" else estimate > limit) else 1.0
    t = (estimate - limit) / error
    return float(stats.t.cdf(t, df) if side == "below" else stats.t.sf(t, df))
