"""What a design can show at all, and p-values of several contrasts of one claim."""

import itertools
import math
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import stats

from lossjax.analysis.interval import Interval


def holm(p_values: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjusted p-values that keep the family-wise error (Holm 1979): reject where they are at most alpha.

    For maps of many cells use ``scipy.stats.false_discovery_control``.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    if p_values.ndim != 1 or not np.all((p_values >= 0) & (p_values <= 1)):
        raise ValueError("p_values is an array [test] of numbers in [0, 1]; at least one is not")
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def mean_beyond_p(values: Float[np.ndarray, " unit"], limit: float, side: Literal["below", "above"]) -> float:
    """One-sided p of a t test that the mean over independent units is not ``side`` this limit.

    Pass differences of pairs. Values that are all equal leave no doubt: the p is then 0 or 1.
    """
    values = np.asarray(values, dtype=np.float64)
    if side not in ("below", "above"):
        raise ValueError(f"side={side!r} is neither below nor above")
    if len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"{len(values)} values, not all finite or too few; a mean with an error needs two finite ones")
    if np.ptp(values) <= 1e-9 * np.abs(values).max():  # no spread but rounding
        return 0.0 if (values[0] < limit if side == "below" else values[0] > limit) else 1.0
    alternative = {"below": "less", "above": "greater"}[side]
    return float(stats.ttest_1samp(values, limit, alternative=alternative).pvalue)


def smallest_attainable_p(num_seeds: int, num_seeds_b: int | None = None) -> float:
    """The least two-sided p of an exact test: sign flips of pairs or, with two numbers of seeds, permutations.

    With 5 pairs no exact test reaches 0.05: 2·2⁻⁵ = 0.0625.
    """
    for name, count in (("num_seeds", num_seeds), ("num_seeds_b", num_seeds_b)):
        if count is not None and count < 1:
            raise ValueError(f"{name}={count} must be at least 1")
    arrangements = 2**num_seeds if num_seeds_b is None else math.comb(num_seeds + num_seeds_b, num_seeds)
    return min(1.0, 2 / arrangements)


def refusal(num_seeds: int, num_seeds_b: int | None = None, *, level: float = 0.95) -> str | None:
    """Why this many pairs of seeds, or two groups of them, get no verdict at ``level``: not even seeds that all agree
    would give an exact test a p of 1 − level. None where they would. Takes what ``smallest_attainable_p`` takes."""
    if _decides(num_seeds, num_seeds_b, level):
        return None
    if num_seeds_b is None:
        seeds = f"{num_seeds} pair{'s' * (num_seeds != 1)} of seeds"
        enough = f"{fewest_pairs(level)} do"
    else:
        seeds = f"{num_seeds} and {num_seeds_b} seeds"
        enough = "{0} and {0} do".format(next(n for n in itertools.count(1) if _decides(n, n, level)))
    return (
        f"{seeds} decide nothing at {100 * level:g} %: the least p of an exact test over them is "
        f"{smallest_attainable_p(num_seeds, num_seeds_b):.2g}; {enough}"
    )


def fewest_pairs(level: float = 0.95) -> int:
    """The fewest pairs of seeds that can decide anything at ``level``: 6 at 95 %."""
    return next(count for count in itertools.count(1) if _decides(count, None, level))


def _decides(num_seeds: int, num_seeds_b: int | None, level: float) -> bool:
    return smallest_attainable_p(num_seeds, num_seeds_b) <= (1 - level) * (1 + 1e-9)  # 1 − 0.9 is less than 0.1


def detectable_effect(
    standard_deviation: float,
    num_seeds: int,
    num_seeds_b: int | None = None,
    *,
    level: float = 0.95,
    power: float = 0.8,
) -> float:
    """The mean difference that pairs with this spread show at ``level`` with ``power``: (t₁₋α⸝₂ + t_power)·s/√n.

    With two numbers of seeds, the groups being independent, s is the spread within either and 1/n the sum of both.
    """
    counts = [num_seeds] if num_seeds_b is None else [num_seeds, num_seeds_b]
    if min(counts) < 2:
        raise ValueError(f"{min(counts)} seed has no spread to judge by; two or more are needed")
    quantiles = stats.t.ppf([(1 + level) / 2, power], sum(counts) - len(counts))
    return float(quantiles.sum() * standard_deviation * math.sqrt(sum(1 / count for count in counts)))


def number_needed(variance: float, delta: float, *, level: float = 0.95, power: float = 0.8) -> float:
    """Examples with which an unchanged mean would be shown to lie within ±δ: about 8.6 · variance/δ².

    ``variance`` is that of the paired difference of one example; for accuracies it is the discordant share.
    Two one-sided tests at ``1 − level``, each of which must succeed (Schuirmann 1987).
    """
    if delta <= 0:
        raise ValueError(f"delta={delta} must be > 0")
    return float(stats.norm.ppf([level, (1 + power) / 2]).sum() ** 2 * variance / delta**2)


def smallest_flat_delta(interval: Interval) -> float:
    """The least δ at which this difference would be classed flat; the interval is the 90 % one."""
    return max(abs(interval.low), abs(interval.high))
