"""Pairs: intervals of statistics over all pairs of units, as of configurations that were each run with several seeds.

Pairs share units, so they are never resampled themselves: the rows and columns of the table of scores are.
"""

import math
import warnings

import numpy as np
from jaxtyping import Float
from scipy import stats

from lossjax.analysis.interval import Interval
from lossjax.analysis.proportions import wilson_bounds
from lossjax.analysis.resampling import satterthwaite


def pair_share(estimate: float, variance: float, df: float, num_units: int, *, level: float = 0.95) -> Interval:
    """A share of pairs of units, from its variance, as of ``crossed_variance``; nan gives no bounds.

    Wilson's interval at the effective number of independent pairs, p(1 − p) over the variance, with Student's t for
    the normal (Korn & Graubard 1998). Where all pairs are alike no variance is seen; the number is then half the
    units, for a share of pairs varies no more than one of pairs without a common unit (Hoeffding 1963).
    """
    if math.isnan(estimate) or math.isnan(variance) or num_units < 2:
        return Interval(estimate, math.nan, math.nan, level)
    if variance == 0 or estimate in (0, 1):
        effective, df = num_units / 2, num_units - 1
    else:
        effective = estimate * (1 - estimate) / variance
    tail = (1 + level) / 2
    effective *= float(stats.norm.ppf(tail) / stats.t.ppf(tail, df)) ** 2
    low, high = wilson_bounds(np.asarray(estimate), np.asarray(effective), level=level)
    return Interval(estimate, float(low), float(high), level)


def crossed_weights(
    num_rows: int, num_columns: int, resamples: int, seed: int
) -> tuple[Float[np.ndarray, "resample row"], Float[np.ndarray, "resample column"]]:
    """How often each row and each column of a table is drawn in each resample, with replacement and independently
    (the pigeonhole bootstrap, Owen 2007), for statistics that are no means; see ``crossed_variance``."""
    rng = np.random.default_rng(seed)
    rows, columns = (
        rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
        for count in (num_rows, num_columns)
    )
    return rows, columns


def crossed_variance(
    whole: Float[np.ndarray, " statistic"],
    by_row: Float[np.ndarray, "resample statistic"],
    by_column: Float[np.ndarray, "resample statistic"],
    by_both: Float[np.ndarray, "resample statistic"],
    shape: tuple[int, int],
) -> tuple[Float[np.ndarray, " statistic"], Float[np.ndarray, " statistic"]]:
    """Variance of a statistic of a table for fresh rows and columns, with its degrees of freedom (Satterthwaite).

    From the statistic with weights of ``crossed_weights`` on rows, on columns, and the same on both; nan where it did
    not exist. As for means below 20 units, the interaction, which rows and columns both contain, counts once:
    V_row + V_column − V_interaction, at least the greater of the first two. Of a single column no variance is seen.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Degrees of freedom")  # a statistic that never existed: nan
        row, column, both = (
            np.nanvar(draws, axis=0, ddof=1) for draws in (by_row, by_column, by_both - by_row - by_column + whole)
        )
    # drawing n of n shrinks a variance by (n − 1)/n
    more_rows, more_columns = (count / max(count - 1, 1) for count in shape)
    row, column, both = row * more_rows, column * more_columns, both * more_rows * more_columns
    variance = np.maximum(row + column - both, np.maximum(row, column))
    df = satterthwaite([row, np.maximum(column - both, 0)], [max(count - 1, 1) for count in shape], variance)
    return variance, df
