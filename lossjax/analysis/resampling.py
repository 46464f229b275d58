"""The one place where intervals are resampled: over seeds, over examples, over both, in clusters.

Below 20 units the interval is Student's; from 20 on it is the bootstrap-t, which follows the skewness of losses where a
percentile interval does not (Efron & Tibshirani 1993, ch. 12). Resampling is by independent Poisson(1) weights, so that
seeds and examples can be weighted crosswise (Owen & Eckles 2012). Proportions have closed forms: see ``proportions``;
statistics of pairs of units: see ``pairs``.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Shaped
from scipy import special, stats

from lossjax.analysis.interval import Interval, Intervals
from lossjax.analysis.proportions import check_names, unseen_bounds

FEW_UNITS = 20  # below it, Student's t; METHODS fixes the number
RESAMPLES = 2000
# for few values, as a verdict is judged by: with the seed, bounds then vary by √5 less
MANY_RESAMPLES = 10_000
_FEW_VALUES = 200  # units times columns: below it, 10 ms or less


def mean_interval(
    values: Float[np.ndarray, " unit"],
    *,
    clusters: Shaped[np.ndarray, " unit"] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean over independent units (seeds, or examples), with its interval.

    ``clusters`` names the cluster of each unit (a user, a document, a set of duplicates); clusters are then what is
    resampled, whole. Of unequal clusters (Σm)²/Σm² count, as many equal ones as would tell as much, both for Student's
    degrees of freedom and for whether there are 20: one cluster with nearly all units explains itself and would else
    make the interval too narrow (after Carter, Schnepel & Steigerwald 2017). Differences of pairs are means of their
    differences: pass ``b - a``.

    Of 5 values Student's interval covers 75–89 % where they are skewed or some collapse. Of 20 or 50 the bootstrap-t
    takes an outlier for skewness and moves away from it: of heavy tails (Student's t with 3 degrees of freedom) and of
    lognormal values it covers 92 %, where a tenth of 20 collapses 87 %; else 94–97 % (results/coverage).

    All values equal give an interval of no width; for shares use ``proportions.wilson``, which knows that unseen
    events happen, and for means of shares ``mean_share_interval``. Raises ValueError where a value is not finite or
    there are fewer than two units.
    """
    return mean_intervals(np.asarray(values)[:, None], clusters=clusters, level=level, seed=seed)[0]


def mean_share_interval(values: Float[np.ndarray, " unit"], *, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean over independent units of a share in [0, 1] that each of them has, as of a run's windows.

    ``mean_interval`` with the bounds of ``proportions.unseen_bounds``: values that are all 0 do not show that the mean
    is. Raises ValueError as ``mean_interval``, and where a share lies outside [0, 1].
    """
    values = np.asarray(values, dtype=np.float64)
    if np.any((values < 0) | (values > 1)):
        raise ValueError(f"shares reach from {values.min():.4g} to {values.max():.4g}; they must lie in [0, 1]")
    return unseen_bounds(mean_interval(values, level=level, seed=seed), len(values))


def mean_intervals(
    values: Float[np.ndarray, "unit column"],
    *,
    clusters: Shaped[np.ndarray, " unit"] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """Mean over units of each column, with pointwise intervals of shape [column]; all columns share their resamples."""
    return mean_distribution(values, clusters=clusters, seed=seed).intervals(level)


def difference_interval(
    group_a: Float[np.ndarray, " unit_a"],
    group_b: Float[np.ndarray, " unit_b"],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean of ``group_b`` minus mean of ``group_a``, the groups being independent (different seeds).

    Welch's t where either group has fewer than 20 units, else the bootstrap-t with Welch's standard error.
    """
    arrays = [_checked(np.asarray(group)[:, None]) for group in (group_a, group_b)]
    means = [array.mean(axis=0) for array in arrays]
    variances = [array.var(axis=0, ddof=1) / len(array) for array in arrays]
    estimate, variance = means[1] - means[0], variances[0] + variances[1]
    if min(len(array) for array in arrays) < FEW_UNITS:
        df = satterthwaite(variances, [len(array) - 1 for array in arrays])
        return StudentMeans(estimate, np.sqrt(variance), df).intervals(level)[0]

    rng = np.random.default_rng(seed)
    resamples = min(_num_resamples(array) for array in arrays)
    resampled = [
        _resampled(array - mean, np.ones(len(array)), rng, resamples) for array, mean in zip(arrays, means, strict=True)
    ]
    plug_in = [_linear_variance(array - mean) for array, mean in zip(arrays, means, strict=True)]
    bootstrapped = BootstrapMeans(
        estimate,
        np.sqrt(plug_in[0] + plug_in[1]),
        shift=resampled[1][0] - resampled[0][0],
        error=np.sqrt(resampled[0][1] + resampled[1][1]),
        acceleration=np.zeros(1),
    )
    return bootstrapped.intervals(level)[0]


def two_way_interval(values: Float[np.ndarray, "member example"], *, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean over members and examples, both sampled: the interval holds for fresh seeds *and* fresh examples.

    Every member is measured on the same examples. Below 20 members (or examples) the variance is
    (MS_member + MS_example − MS_interaction)/(mn), at least MS_interaction/(mn), with Satterthwaite's degrees of
    freedom, at least m − 1; from 20 on, product weights. Members with test examples of their own are no crossed
    design: average each member first and use ``mean_interval``.
    """
    return two_way_distribution([(1, np.asarray(values)[..., None])], seed=seed).intervals(level)[0]


def two_way_difference(
    values_a: Float[np.ndarray, "member_a example"],
    values_b: Float[np.ndarray, "member_b example"],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean of b minus mean of a over independent groups of members and the same examples, all three sampled.

    Members that share their seeds are pairs: give ``two_way_interval`` their differences, which is narrower.
    """
    groups = [(-1, np.asarray(values_a)[..., None]), (1, np.asarray(values_b)[..., None])]
    return two_way_distribution(groups, seed=seed).intervals(level)[0]


def statistic_interval(
    statistic: Callable[..., Float[np.ndarray, "..."]],
    *samples: Float[np.ndarray, " unit"],
    paired: bool = False,
    method: Literal["BCa", "percentile"] = "BCa",
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Any statistic of one or more samples, by SciPy's bootstrap; for means ``mean_interval`` covers better.

    Args:
        statistic: ``statistic(*samples, axis=-1)``, reducing that axis, as ``np.median`` does.
        samples: each [unit], resampled one by one, or together where they are ``paired``.
        method: ``"BCa"`` (Efron 1987), or ``"percentile"`` for statistics that jump when one unit is left out.
    """
    arrays = [_checked(np.asarray(sample)[:, None])[:, 0] for sample in samples]
    estimate = float(statistic(*arrays, axis=-1))
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # nan, where no resample differs
        found = stats.bootstrap(
            arrays,
            statistic,
            n_resamples=RESAMPLES,
            batch=max(1, 4_000_000 // max(len(array) for array in arrays)),
            vectorized=True,
            paired=paired,
            confidence_level=level,
            method=method,
            rng=seed,
        )
    if np.ptp(found.bootstrap_distribution) == 0:
        return Interval(estimate, estimate, estimate, level)
    return Interval(estimate, float(found.confidence_interval.low), float(found.confidence_interval.high), level)


@dataclasses.dataclass(frozen=True, eq=False)
class StudentMeans:
    """Means [column] with a standard error [column] and degrees of freedom."""

    estimate: np.ndarray
    standard_error: np.ndarray
    df: np.ndarray

    def intervals(self, level: float) -> Intervals:
        reach = stats.t.ppf((1 + level) / 2, self.df) * self.standard_error
        return Intervals(self.estimate, self.estimate - reach, self.estimate + reach, level)


@dataclasses.dataclass(frozen=True, eq=False)
class BootstrapMeans:
    """Means [column] with a standard error [column], and what resampling made of both.

    ``shift`` is mean* − mean and ``error`` the standard error of mean*, both [resample, column]; ``acceleration``
    [column] is BCa's constant. The interval is the bootstrap-t. Where nearly all values are equal, so many resamples
    have no spread that the quantile of shift/error is infinite; there, and only there, it is BCa (Efron 1987).
    """

    estimate: np.ndarray
    standard_error: np.ndarray
    shift: np.ndarray
    error: np.ndarray
    acceleration: np.ndarray

    def intervals(self, level: float) -> Intervals:
        tails = np.array([(1 - level) / 2, (1 + level) / 2])
        spread = self.error > 1e-6 * self.standard_error  # rounding leaves no resample's error exactly 0
        with np.errstate(divide="ignore", invalid="ignore"):
            pivots = np.where(spread, self.shift / self.error, np.copysign(np.inf, self.shift))
        # an observed quantile: interpolating between infinite pivots would give nan
        high, low = np.quantile(pivots, tails, axis=0, method="inverted_cdf")
        with np.errstate(invalid="ignore"):
            low, high = (self.estimate - pivot * self.standard_error for pivot in (low, high))
        constant = self.standard_error == 0
        for column in np.flatnonzero(~(np.isfinite(low) & np.isfinite(high)) & ~constant):
            low[column], high[column] = self._bca(int(column), tails)
        low, high = np.where(constant, self.estimate, low), np.where(constant, self.estimate, high)
        return Intervals(self.estimate, low, high, level)

    def _bca(self, column: int, tails: np.ndarray) -> np.ndarray:
        shift = self.shift[:, column]
        below = np.mean(shift < 0) + np.mean(shift == 0) / 2
        bias = special.ndtri(np.clip(below, 1 / len(shift), 1 - 1 / len(shift)))
        reach = bias + special.ndtri(tails)
        adjusted = special.ndtr(bias + reach / (1 - self.acceleration[column] * reach))
        return self.estimate[column] + np.quantile(shift, adjusted, method="inverted_cdf")


Means = StudentMeans | BootstrapMeans


def mean_distribution(
    values: Float[np.ndarray, "unit column"],
    *,
    clusters: Shaped[np.ndarray, " unit"] | None = None,
    seed: int = 0,
) -> Means:
    """What ``mean_intervals`` takes its intervals from: ask it for several levels without resampling again."""
    values = _checked(np.asarray(values))
    sums, sizes = values, np.ones(len(values))
    if clusters is not None:
        sums, sizes = _cluster_sums(values, np.asarray(clusters))
    estimate = sums.sum(axis=0) / sizes.sum()
    # a mean over clusters is a ratio: its spread is that of the sums less what their sizes explain
    residuals = sums - sizes[:, None] * estimate
    residuals = np.where(np.ptp(values, axis=0) == 0, 0.0, residuals)
    count = len(sums)
    effective = sizes.sum() ** 2 / (sizes**2).sum()  # equal clusters that would tell as much
    if effective < FEW_UNITS - 1e-9:
        variance = _linear_variance(residuals) * (count / sizes.sum()) ** 2 * count / (count - 1)
        return StudentMeans(estimate, np.sqrt(variance), np.full_like(estimate, effective - 1))
    shift, variance = _resampled(residuals, sizes, np.random.default_rng(seed), _num_resamples(residuals))
    squares = (residuals**2).sum(axis=0)
    acceleration = np.divide(
        (residuals**3).sum(axis=0), 6 * squares**1.5, out=np.zeros_like(squares), where=squares > 0
    )
    return BootstrapMeans(estimate, np.sqrt(squares) / sizes.sum(), shift, np.sqrt(variance), acceleration)


def two_way_distribution(
    groups: Sequence[tuple[int, Float[np.ndarray, "_ example column"]]], *, seed: int = 0
) -> Means:
    """Σ sign · mean over (sign, values) groups of independent members that share their examples.

    Groups may differ in members, not in examples or columns. ``two_way_interval`` is the case of one group.
    """
    groups = [(sign, np.asarray(values, dtype=np.float64)) for sign, values in groups]
    for _, values in groups:
        if values.ndim != 3 or values.shape[1:] != groups[0][1].shape[1:]:
            raise ValueError(
                f"values have shape {values.shape[:2]}; groups are [member, example] over the same examples"
            )
        if min(values.shape[:2]) < 2:
            raise ValueError(
                f"values have shape {values.shape[:2]}; both ways need two or more: with one member use mean_interval "
                "over its examples, and say that the variance between seeds was not observed"
            )
        if not np.isfinite(values).all():
            raise ValueError("values are not all finite; pass the finite members and report the share of the others")
    estimate = np.sum([sign * values.mean(axis=(0, 1)) for sign, values in groups], axis=0)
    if min(min(values.shape[:2]) for _, values in groups) < FEW_UNITS:
        return _two_way_student(groups, estimate)

    rng = np.random.default_rng(seed)
    num_examples = groups[0][1].shape[1]
    centred = [(sign, values - values.mean(axis=(0, 1))) for sign, values in groups]
    columns = np.sum([sign * values.mean(axis=0) for sign, values in centred], axis=0)  # [example, column]
    variance = _linear_variance(columns) + np.sum([_linear_variance(v.mean(axis=1)) for _, v in centred], axis=0)
    shifts, errors = [], []
    per_resample = len(estimate) * max(num_examples, *(len(values) for _, values in groups))
    for chunk in _chunks(per_resample, RESAMPLES):
        by_example = _normalised(_poisson(rng, (chunk, num_examples)))
        shift, spread = np.zeros((chunk, len(estimate))), np.zeros((chunk, len(estimate)))
        by_column = np.zeros((chunk, num_examples, len(estimate)))
        for sign, values in centred:
            by_member = _normalised(_poisson(rng, (chunk, len(values))))
            rows = np.stack([by_example @ values[..., c].T for c in range(len(estimate))], axis=-1)
            mean = np.einsum("rm,rmc->rc", by_member, rows)
            shift += sign * mean
            spread += np.einsum("rm,rmc->rc", by_member, (rows - mean[:, None]) ** 2) / len(values)
            by_column += sign * np.stack([by_member @ values[..., c] for c in range(len(estimate))], axis=-1)
        spread += np.einsum("re,rec->rc", by_example, (by_column - shift[:, None]) ** 2) / num_examples
        shifts.append(shift)
        errors.append(np.sqrt(spread))
    return BootstrapMeans(
        estimate, np.sqrt(variance), np.concatenate(shifts), np.concatenate(errors), np.zeros_like(estimate)
    )


def _two_way_student(groups: Sequence[tuple[int, np.ndarray]], estimate: np.ndarray) -> StudentMeans:
    num_examples = groups[0][1].shape[1]
    parts, dfs = [], []
    interaction = np.zeros_like(estimate)
    columns = np.sum([sign * values.mean(axis=0) for sign, values in groups], axis=0)
    for _, values in groups:
        num_members = len(values)
        by_member, by_example = values.mean(axis=1), values.mean(axis=0)
        parts.append(by_member.var(axis=0, ddof=1) / num_members)
        dfs.append(num_members - 1)
        residuals = values - by_member[:, None] - by_example + values.mean(axis=(0, 1))
        mean_square = (residuals**2).sum(axis=(0, 1)) / ((num_members - 1) * (num_examples - 1))
        interaction += mean_square / (num_members * num_examples)
    parts.append(columns.var(axis=0, ddof=1) / num_examples)
    dfs.append(num_examples - 1)
    variance = np.maximum(np.sum(parts, axis=0) - interaction, interaction)
    fewest = min(len(values) for _, values in groups)
    df = np.maximum(satterthwaite(parts, dfs, variance), fewest - 1)
    return StudentMeans(estimate, np.sqrt(variance), df)


def satterthwaite(parts: Sequence[np.ndarray], dfs: Sequence[int], variance: np.ndarray | None = None) -> np.ndarray:
    """Degrees of freedom of a sum of variances (Satterthwaite 1946)."""
    total = np.sum(parts, axis=0) if variance is None else variance
    weighted = np.sum([part**2 / df for part, df in zip(parts, dfs, strict=True)], axis=0)
    # without any variance the degrees of freedom do not matter
    return np.divide(total**2, weighted, out=np.full_like(total, np.inf), where=weighted > 0)


def _linear_variance(residuals: Float[np.ndarray, "unit column"]) -> Float[np.ndarray, " column"]:
    """The plug-in variance of a mean, which is what the weighted means are studentised with too."""
    return (residuals**2).sum(axis=0) / len(residuals) ** 2


def _resampled(
    residuals: Float[np.ndarray, "unit column"],
    sizes: Float[np.ndarray, " unit"],
    rng: np.random.Generator,
    resamples: int,
) -> tuple[Float[np.ndarray, "resample column"], Float[np.ndarray, "resample column"]]:
    """Weighted mean minus mean, and its variance, for every resample; ``residuals`` have mean 0."""
    moments = np.concatenate([residuals, residuals**2, residuals * sizes[:, None]], axis=1)
    shifts, variances = [], []
    for chunk in _chunks(len(residuals), resamples):
        weights = _poisson(rng, (chunk, len(residuals)))
        total = (weights @ sizes)[:, None]
        sums, squares, products = np.split(weights @ moments, 3, axis=1)
        shift = sums / total
        spread = squares - 2 * shift * products + shift**2 * (weights @ sizes**2)[:, None]
        shifts.append(shift)
        variances.append(np.maximum(spread, 0) / total**2)  # below 0 only by rounding
    return np.concatenate(shifts), np.concatenate(variances)


def _poisson(rng: np.random.Generator, shape: tuple[int, int]) -> Float[np.ndarray, "resample unit"]:
    """Poisson(1) weights; by table, because drawing them is otherwise most of the time (error below 2⁻¹⁶)."""
    # a table of bytes stays in the nearest cache: three times as fast as one of floats
    return _POISSON_TABLE.take(rng.integers(0, 2**16, size=shape, dtype=np.uint16)).astype(np.float64)


_POISSON_TABLE = stats.poisson.ppf((np.arange(2**16) + 0.5) / 2**16, 1.0).astype(np.uint8)


def product_weights(num_units: int, *, resamples: int = RESAMPLES, seed: int = 0) -> Float[np.ndarray, "resample unit"]:
    """Poisson(1) weights of units that add up to 1 in each resample, for statistics that are no means."""
    return _normalised(_poisson(np.random.default_rng(seed), (resamples, num_units)))


def _normalised(weights: Float[np.ndarray, "resample unit"]) -> Float[np.ndarray, "resample unit"]:
    return weights / weights.sum(axis=1, keepdims=True)


def _num_resamples(values: Float[np.ndarray, "unit column"]) -> int:
    return MANY_RESAMPLES if values.size < _FEW_VALUES else RESAMPLES


def _chunks(num_units: int, resamples: int) -> list[int]:
    """Sizes of the pieces that resamples are drawn in, so that weights take at most some 30 MB."""
    size = max(1, min(RESAMPLES, 4_000_000 // num_units))
    whole, rest = divmod(resamples, size)
    return [size] * whole + [rest] * (rest > 0)


def _cluster_sums(values: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if clusters.shape != values.shape[:1]:
        raise ValueError(f"clusters has shape {clusters.shape}; name one cluster for each of the {len(values)} units")
    check_names(clusters, "clusters")
    _, index, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise ValueError("clusters names a single cluster; an interval needs two or more")
    sums = np.zeros((len(sizes), values.shape[1]))
    np.add.at(sums, index, values)
    return sums, sizes.astype(np.float64)


def _checked(values: np.ndarray) -> np.ndarray:
    if values.ndim != 2:
        raise ValueError(f"values has {values.ndim} axes, not [unit, column]; pass one value a unit")
    if len(values) < 2:
        raise ValueError(f"{len(values)} unit has no spread to judge by; an interval needs two or more")
    values = values.astype(np.float64)
    bad = int(np.sum(~np.isfinite(values).all(axis=1)))
    if bad:
        raise ValueError(
            f"{bad} of {len(values)} units are not finite; pass the finite ones and report the share of the rest"
        )
    return values
