"""Pairs: intervals of statistics over all pairs of units, as of configurations that were each run with several seeds.

Pairs share units, so they are never resampled themselves: the rows and columns of the table of scores are.
"""

import math
import warnings
from typing import Literal

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


def disagreeing_share(
    loss: Float[np.ndarray, "config seed"],
    accuracy: Float[np.ndarray, "config seed"],
    among: Literal["seeds", "configurations"],
    *,
    resamples: int = 500,
    seed: int = 0,
) -> Interval:
    """The share of pairs of runs in which one has the better loss and the other the better accuracy.

    Of all pairs of ``"seeds"`` of one configuration, or of ``"configurations"`` at one seed; the interval holds for
    fresh ones of both. Runs whose loss is not finite are in no pair.
    """
    by_pair = (loss, accuracy) if among == "seeds" else (loss.T, accuracy.T)
    a, b = np.triu_indices(by_pair[0].shape[1], 1)
    loss_change, accuracy_change = (values[:, b] - values[:, a] for values in by_pair)
    exists = np.isfinite(loss_change)
    disagrees = exists & (loss_change * accuracy_change > 0)

    def share(configs: Float[np.ndarray, " config"], seeds: Float[np.ndarray, " seed"]) -> float:
        units, paired = (configs, seeds) if among == "seeds" else (seeds, configs)
        weight = paired[a] * paired[b]
        return float(np.sum(units * (weight * disagrees).sum(axis=1)) / np.sum(units * (weight * exists).sum(axis=1)))

    every_config, every_seed = np.ones(loss.shape[0]), np.ones(loss.shape[1])
    configs, seeds = crossed_weights(loss.shape[0], loss.shape[1], resamples, seed)
    with np.errstate(invalid="ignore"):  # a resample of a single seed has no pairs
        by_config, by_seed, by_both = (
            np.array([[share(*weights)] for weights in zip(*drawn, strict=True)])
            for drawn in ((configs, [every_seed] * resamples), ([every_config] * resamples, seeds), (configs, seeds))
        )
    estimate = share(every_config, every_seed)
    variance, df = crossed_variance(np.array([estimate]), by_config, by_seed, by_both, loss.shape)
    return pair_share(estimate, float(variance[0]), float(df[0]), loss.shape[0])
