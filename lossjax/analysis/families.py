"""Families: the verdicts of one claim together, with Holm's correction for being several (METHODS: within a claim).

A family is the rows of a claim in one experiment, which is what a report can hold to: another experiment on the same
claim, run later, does not change the verdicts of this one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from lossjax.analysis.findings import Verdict
from lossjax.analysis.interval import Interval
from lossjax.analysis.resampling import FEW_UNITS
from lossjax.analysis.significance import holm

HOLM_AMENDED = (
    "what is supported or refuted must pass Holm's correction at 5 % over the rows of the claim in this experiment; as "
    "written each row was judged by its own interval"
)


def corrected(
    verdicts: Sequence[Verdict],
    limits: Callable[[Verdict], tuple[float, ...]],
    num_units: Callable[[Verdict], int] = lambda verdict: verdict.num_seeds,
) -> tuple[Verdict, ...]:
    """The same verdicts; what does not pass Holm's correction at 5 % over the rows of its claim is unresolved.

    The note of what is supported or refuted says its adjusted p. A row that changes is amended, with its outcome by its
    own interval beside.

    Args:
        verdicts: of one experiment, by the rule of each alone; the rows of a claim are one family, also where some are
            unresolved.
        limits: what a verdict's interval was compared with, one number, or both of an equivalence.
        num_units: what its interval is over.
    """
    found = list(verdicts)
    for claim in dict.fromkeys(verdict.claim for verdict in verdicts):
        rows = [row for row, verdict in enumerate(verdicts) if verdict.claim == claim]
        if len(rows) < 2:
            continue
        alone = [
            max(beyond_p(verdicts[row].estimate, limit, num_units(verdicts[row])) for limit in limits(verdicts[row]))
            for row in rows
        ]
        for row, p in zip(rows, holm(np.array(alone)).tolist(), strict=True):
            if verdicts[row].outcome != "unresolved":
                found[row] = _passed(verdicts[row], p)
    return tuple(found)


def beyond_p(interval: Interval, limit: float, num_units: int) -> float:
    """Two-sided p that the estimate differs from ``limit``, from its interval alone (Altman & Bland 2011).

    The standard error is that of the side that faces the limit: its reach over the quantile it was made with, Student's
    below 20 units and the normal one from there; half the width where the estimate lies outside its own interval, as a
    shifted one may. Without bounds 1; without a width 0, or 1 at the limit itself.
    """
    if np.isnan([interval.low, interval.high]).any() or num_units < 2:
        return 1.0
    distance = abs(interval.estimate - limit)
    reach = interval.high - interval.estimate if limit > interval.estimate else interval.estimate - interval.low
    if reach < 0:
        reach = (interval.high - interval.low) / 2
    if reach == 0:
        return 0.0 if distance > 0 else 1.0
    distribution = stats.t(num_units - 1) if num_units < FEW_UNITS else stats.norm()
    return float(2 * distribution.sf(distance / reach * distribution.ppf((1 + interval.level) / 2)))


def _passed(verdict: Verdict, p: float) -> Verdict:
    shown = "Holm's p " + ("below 0.0001" if p < 1e-4 else f"{p:.2g}")
    verdict = dataclasses.replace(verdict, note=f"{verdict.note}; {shown}" if verdict.note else shown)
    if p <= 0.05:
        return verdict
    amended = f"{verdict.amended}; {HOLM_AMENDED}" if verdict.amended else HOLM_AMENDED
    as_written = verdict.as_written if verdict.amended else verdict.outcome
    return dataclasses.replace(verdict, outcome="unresolved", amended=amended, as_written=as_written)
