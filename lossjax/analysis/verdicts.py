"""Verdicts: what an interval says of a claim, by one rule for all claims."""

import math
from typing import Literal, get_args

from lossjax.analysis.interval import Interval
from lossjax.analysis.significance import refusal

Claim = Literal["greater", "less", "equivalent", "different"]


def judge(
    interval: Interval,
    *,
    threshold: float = 0.0,
    claim: Claim = "greater",
    smallest: float | None = None,
    num_seeds: int | None = None,
) -> Literal["supported", "refuted", "unresolved"]:
    """Whether the interval of a claim's primary contrast supports or refutes it.

    The claim, the threshold and ``smallest``, the smallest effect of interest, are fixed before the result.

    - ``"greater"``: supported where the interval lies wholly above ``threshold + smallest``; refuted where it lies
      wholly below: within ``threshold ± smallest`` (negligible), beyond it in the opposite direction, or across both.
    - ``"less"``: the mirror image.
    - ``"equivalent"`` needs ``smallest``: supported within ``threshold ± smallest``, refuted wholly beyond.
    - ``"different"``, in either direction, is its opposite: supported wholly beyond, refuted within.

    Unresolved otherwise, without bounds, and where ``num_seeds`` pairs, the units that the interval is over, could not
    reach the interval's level by an exact test (fewer than 6 at 95 %). A bound that touches the
    limit resolves nothing, except for equivalence.
    """
    margin = 0.0 if smallest is None else smallest
    if margin < 0:
        raise ValueError(f"smallest={smallest} must be >= 0")
    if claim not in get_args(Claim):
        raise ValueError(f"claim={claim!r} is none of {', '.join(get_args(Claim))}")
    if claim in ("equivalent", "different") and margin == 0:
        raise ValueError(f"claim={claim!r} needs the smallest effect of interest; pass smallest > 0")
    if math.isnan(interval.low) or math.isnan(interval.high):
        return "unresolved"
    if num_seeds is not None and refusal(num_seeds, level=interval.level) is not None:
        return "unresolved"

    above, below = threshold + margin, threshold - margin
    within, beyond = interval.within(below, above), interval.low > above or interval.high < below
    supported, refuted = {
        "greater": (interval.low > above, interval.high < above),
        "less": (interval.high < below, interval.low > below),
        "equivalent": (within, beyond),
        "different": (beyond, within),
    }[claim]
    if supported:
        return "supported"
    return "refuted" if refuted else "unresolved"
