"""Intervals of shares and of differences of shares, by their closed forms."""

import math

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped
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


def clustered_wilson(
    hits: Bool[np.ndarray, " example"], clusters: Shaped[np.ndarray, " example"], *, level: float = 0.95
) -> Interval:
    """``wilson`` where examples come in clusters that are sampled whole: at their effective number (Korn & Graubard
    1998), as in ``clustered_bonett_price``. Clusters of one example each give ``wilson`` itself."""
    hits = np.asarray(hits, dtype=np.float64)
    sizes, between, within = _spread_by_cluster(hits, clusters)
    widened = _clustered_quantile(sizes, level) / float(stats.norm.ppf((1 + level) / 2))
    # of 0 examples, or nearly so, there would be no bounds to compute; those of a thousandth are 0 and 1 to 3 digits
    total = max(_effective_number(sizes, between, within) / widened / widened, 1e-3)
    low, high = wilson_bounds(np.asarray(hits.mean()), np.asarray(total), level=level)
    return Interval(float(hits.mean()), float(low), float(high), level)


def unseen_bounds(interval: Interval, total: int) -> Interval:
    """An interval of a mean of shares over ``total`` units, with bounds that know that unseen events happen.

    The upper bound is at least Wilson's for none of so many, the lower one at most that for all of them. With a mean of
    μ, shares in [0, 1] are all 0 with a probability of at most (1 − μ)ⁿ, which shares of 0 and 1 alone reach.
    """
    unseen = float(wilson_bounds(np.zeros(()), np.asarray(total), level=interval.level)[1])
    low, high = max(interval.low, 0.0), min(interval.high, 1.0)
    return Interval(interval.estimate, min(low, 1 - unseen), max(high, unseen), interval.level)


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


def clustered_bonett_price(
    change: Float[np.ndarray, " example"], clusters: Shaped[np.ndarray, " example"], *, level: float = 0.95
) -> Interval:
    """``bonett_price`` where examples come in clusters (users, documents, duplicates) that are sampled whole.

    Each example changes by +1 (gained), −1 (lost) or 0. The variance of their mean is that between clusters (a ratio of
    sums, Cochran 1977, ch. 6), at least that of independent examples. The two examples that Bonett and Price add count
    at the effective number of examples, n over the design effect (Korn & Graubard 1998), so that the interval keeps a
    width where no example changed: of that alone the data tell no design effect, and it is the greatest there can be.
    Student's t has the degrees of freedom of equal clusters that would tell as much, (Σm)²/Σm² − 1 of sizes m, hence
    a few clusters with most of the examples settle nothing. Clusters of one example each give ``bonett_price`` itself.
    METHODS resamples clusters whole; of a ΔA, which it never resamples, this is the closed form that does as much.
    """
    change = np.asarray(change, dtype=np.float64)
    sizes, between, within = _spread_by_cluster(change, clusters)
    quantile = _clustered_quantile(sizes, level)
    total = _effective_number(sizes, between, within)
    mean = float(change.mean())
    low, high = _with_two_added(mean, quantile * math.sqrt(max(between, within)) / len(change), quantile, total)
    return Interval(mean, low, high, level)


def two_examples_added(
    interval: Interval, change: Float[np.ndarray, " example"], clusters: Shaped[np.ndarray, " example"] | None = None
) -> Interval:
    """An interval of a mean change of correctness that keeps a width where few examples change: for populations.

    ``interval`` is over models and examples, ``change`` each example's mean over models. As Bonett and Price (2012) do
    for two models, an example that all models gain and one that all lose are added; what they add to the variance joins
    each side's reach as a sum of squares (Zou & Donner 2008), so an interval that is not symmetric stays so. With
    ``clusters`` they are added at the effective number, as in ``clustered_bonett_price``. Never narrower than what was
    given. METHODS has Bonett–Price for two models and product weights for populations; this joins the two.
    """
    change = np.asarray(change, dtype=np.float64)
    total, quantile = float(len(change)), float(stats.norm.ppf((1 + interval.level) / 2))
    if clusters is not None:
        sizes, between, within = _spread_by_cluster(change, clusters)
        total, quantile = _effective_number(sizes, between, within), _clustered_quantile(sizes, interval.level)
    low, _ = _with_two_added(interval.estimate, interval.estimate - interval.low, quantile, total)
    _, high = _with_two_added(interval.estimate, interval.high - interval.estimate, quantile, total)
    return Interval(interval.estimate, min(low, interval.low), max(high, interval.high), interval.level)


def _with_two_added(mean: float, reach: float, quantile: float, total: float) -> tuple[float, float]:
    """Bounds of a mean of changes with this reach when one +1 and one −1 are added to ``total`` of them.

    Of independent examples they are those of ``bonett_price_bounds``, by algebra.
    """
    kept = total / (total + 2)
    added = quantile * math.sqrt(2 * (1 + kept * mean**2)) / (total + 2)
    reach = math.hypot(kept * reach, added)
    return max(kept * mean - reach, -1.0), min(kept * mean + reach, 1.0)


def _spread_by_cluster(
    change: Float[np.ndarray, " example"], clusters: Shaped[np.ndarray, " example"]
) -> tuple[Float[np.ndarray, " cluster"], float, float]:
    """Clusters' sizes; sums of squares from the mean, of clusters' sums (unbiased as of examples') and of examples."""
    clusters = np.asarray(clusters)
    if clusters.shape != change.shape or len(change) == 0:
        raise ValueError(
            f"clusters has shape {clusters.shape}; name one cluster for each of the {len(change)} examples"
        )
    check_names(clusters, "clusters")
    _, index, counts = np.unique(clusters, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        raise ValueError("clusters names a single cluster; an interval needs two or more")
    residuals = change - change.mean()
    number, total = len(counts), len(change)
    between = float((np.bincount(index, residuals) ** 2).sum()) * number / (number - 1) * (total - 1) / total
    return counts.astype(np.float64), between, float((residuals**2).sum())


def _effective_number(sizes: Float[np.ndarray, " cluster"], between: float, within: float) -> float:
    """Independent examples that tell as much: n over the design effect, which is at least 1.

    The ratio of the two sums of squares, each with the two examples added: as clusters that change whole, their design
    effect is Σm²/n.
    """
    total = float(sizes.sum())
    return total / max((between + 2 * float((sizes**2).sum()) / total) / (within + 2), 1.0)


def _clustered_quantile(sizes: Float[np.ndarray, " cluster"], level: float) -> float:
    """The normal quantile, widened as Student's is from n − 1 degrees of freedom to those of the clusters."""
    total, tail = float(sizes.sum()), (1 + level) / 2
    df = np.array([total**2 / float((sizes**2).sum()), total]) - 1
    clustered, independent = stats.t.ppf(tail, df)
    return float(stats.norm.ppf(tail) * clustered / independent)


def mcnemar_p(gained: int, lost: int) -> float:
    """Exact two-sided p that b is right as often as a, given the discordant examples (McNemar 1947)."""
    return float(stats.binomtest(int(gained), int(gained + lost)).pvalue) if gained + lost else 1.0


def differs_from(
    shares: Float[np.ndarray, "..."], total: int, null_share: float, *, level: float = 0.95
) -> Bool[np.ndarray, "..."]:
    """Whether Wilson's interval of each share of ``total`` excludes ``null_share``: the score test, hence no bounds."""
    if not 0 <= null_share <= 1:
        raise ValueError(f"null_share={null_share} must lie in [0, 1]")
    if total < 1:
        raise ValueError(f"total={total} must be at least 1")
    reach = stats.norm.ppf((1 + level) / 2) * math.sqrt(null_share * (1 - null_share) / total)
    return np.asarray(np.abs(shares - null_share) > reach)


def _check_count(count: int, total: int, name: str) -> None:
    if total < 1:
        raise ValueError(f"total={total} must be at least 1")
    if count != int(count) or total != int(total):
        raise ValueError(f"{name}={count} of total={total} are no counts; give whole numbers")
    if not 0 <= count <= total:
        raise ValueError(f"{name}={count} must lie in 0 … total={total}")


def check_names(names: Shaped[np.ndarray, " example"], what: str) -> None:
    """Raises ValueError where a name is missing or of another kind than the others, so that equal ones are not told."""
    names = np.asarray(names)
    kinds = {type(name) for name in names.tolist()} if names.dtype.hasobject else set()
    missing = names.dtype.kind in "fc" and np.isnan(names)
    if len(kinds) > 1 or not kinds <= {str, int} or np.any(missing):
        raise ValueError(
            f"{what} has names that are missing or of several kinds; give all whole numbers or all texts, and to an "
            "example without a name one of its own"
        )


def accuracy_change(
    change: Float[np.ndarray, " example"],
    clusters: Shaped[np.ndarray, " example"] | None = None,
    *,
    level: float = 0.95,
) -> Interval:
    """Accuracy of b minus that of a, from each example's change: +1 where right with b only, −1 with a only, else 0."""
    if clusters is not None:
        return clustered_bonett_price(change, clusters, level=level)
    return bonett_price(int((change > 0).sum()), int((change < 0).sum()), len(change), level=level)


def accuracy_interval(
    correct: Bool[np.ndarray, "member example"],
    clusters: Shaped[np.ndarray, " example"] | None,
    resampled: Interval,
) -> Interval:
    """Accuracy of one model by Wilson's interval, in clusters at their effective number; of several ``resampled``, over
    members and examples, with bounds that know of errors not seen."""
    if len(correct) > 1:
        return unseen_bounds(resampled, correct.shape[1])
    if clusters is not None:
        return clustered_wilson(correct[0], clusters, level=resampled.level)
    return wilson(int(correct.sum()), correct.size, level=resampled.level)
