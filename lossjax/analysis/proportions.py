"""Intervals of shares and of differences of shares, by their closed forms."""

import math

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from scipy import stats

from lossjax.analysis.interval import Interval, Intervals


def wilson(successes: int, total: int, *, level: float = 0.95) -> Interval:
    """A share with Wilson's score interval (Wilson 1927); the total counts every member, non-finite ones too."""
    _check_count(successes, total, "successes")
    bounds = stats.binomtest(int(successes), int(total)).proportion_ci(level, method="wilson")
    return Interval(successes / total, float(bounds.low), float(bounds.high), level)


def wilson_intervals(
    successes: Int[np.ndarray, "..."], totals: Int[np.ndarray, "..."], *, level: float = 0.95
) -> Intervals:
    """``wilson`` for arrays of counts of one shape; all nan where the total is 0."""
    successes, totals = np.broadcast_arrays(successes, totals)
    if np.any(successes < 0) or np.any(successes > totals):
        raise ValueError("successes must lie in 0 … totals; at least one does not")
    share = np.divide(successes, totals, out=np.full(totals.shape, np.nan), where=totals > 0)
    low, high = wilson_bounds(share, totals, level=level)
    return Intervals(share, low, high, level)


def wilson_bounds(
    share: Float[np.ndarray, "..."], total: Real[np.ndarray, "..."], *, level: float = 0.95
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Bounds of ``wilson`` from shares; the total may be an effective number, as p(1 − p) over a variance is."""
    z = stats.norm.ppf((1 + level) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = z**2 / np.asarray(total, dtype=np.float64)
        centre = (share + unit / 2) / (1 + unit)
        reach = np.sqrt(unit * share * (1 - share) + unit**2 / 4) / (1 + unit)
    # at shares of 0 and 1 rounding would put a bound on the far side of the share
    low, high = np.minimum(np.maximum(centre - reach, 0.0), share), np.maximum(np.minimum(centre + reach, 1.0), share)
    return np.asarray(low), np.asarray(high)


def newcombe(successes_a: int, total_a: int, successes_b: int, total_b: int, *, level: float = 0.95) -> Interval:
    """Share b minus share a of independent groups, from their Wilson limits (Newcombe 1998, method 10)."""
    a, b = wilson(successes_a, total_a, level=level), wilson(successes_b, total_b, level=level)
    difference = b.estimate - a.estimate
    below = math.hypot(b.estimate - b.low, a.high - a.estimate)
    above = math.hypot(b.high - b.estimate, a.estimate - a.low)
    return Interval(difference, difference - below, difference + above, level)


def bonett_price(gained: int, lost: int, total: int, *, level: float = 0.95) -> Interval:
    """Accuracy of b minus accuracy of a on the same examples (Bonett & Price 2012).

    ``gained`` examples are right with b only, ``lost`` with a only. One is added to each count and two to the total, so
    that the interval keeps its width where few examples differ.
    """
    _check_count(gained, total, "gained")
    _check_count(lost, total, "lost")
    _check_count(gained + lost, total, "gained + lost")
    low, high = bonett_price_bounds(np.asarray(gained), np.asarray(lost), total, level=level)
    return Interval((gained - lost) / total, float(low), float(high), level)


def bonett_price_bounds(
    gained: np.ndarray, lost: np.ndarray, total: int, *, level: float = 0.95
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Bounds of ``bonett_price`` for arrays of counts of one shape; cut to [−1, 1], where differences lie."""
    up, down = (gained + 1) / (total + 2), (lost + 1) / (total + 2)
    reach = stats.norm.ppf((1 + level) / 2) * np.sqrt((up + down - (up - down) ** 2) / (total + 2))
    return np.asarray(np.maximum(up - down - reach, -1.0)), np.asarray(np.minimum(up - down + reach, 1.0))


def mcnemar_p(gained: int, lost: int) -> float:
    """Exact two-sided p that b is right as often as a, given the discordant examples (McNemar 1947)."""
    return float(stats.binomtest(int(gained), int(gained + lost)).pvalue) if gained + lost else 1.0


def differs_from(
    shares: Float[np.ndarray, "..."], total: int, null_share: float, *, level: float = 0.95
) -> Bool[np.ndarray, "..."]:
    """Whether Wilson's interval of each share of ``total`` excludes ``null_share``: the score test, hence no bounds."""
    if not 0 <= null_share <= 1:
        raise ValueError(f"null_share={null_share} must lie in [0, 1]")
    reach = stats.norm.ppf((1 + level) / 2) * math.sqrt(null_share * (1 - null_share) / total)
    return np.asarray(np.abs(shares - null_share) > reach)


def _check_count(count: int, total: int, name: str) -> None:
    if total < 1:
        raise ValueError(f"total={total} must be at least 1")
    if not 0 <= count <= total:
        raise ValueError(f"{name}={count} must lie in 0 … total={total}")
