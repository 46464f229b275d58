"""Intervals of means: closed forms, SciPy as the independent implementation, and coverage."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from scipy import stats

from lossjax.analysis import resampling
from lossjax.analysis.interval import Interval, Intervals
from lossjax.analysis.proportions import wilson


def test_few_units_are_students_t():
    values = np.random.default_rng(0).exponential(size=7)
    interval = resampling.mean_interval(values, level=0.9)
    low, high = stats.t.interval(0.9, 6, values.mean(), stats.sem(values))
    np.testing.assert_allclose([interval.estimate, interval.low, interval.high], [values.mean(), low, high])


def test_many_units_agree_with_scipys_bca():
    values = np.random.default_rng(1).lognormal(size=3000)
    ours = resampling.mean_interval(values, seed=1)
    bca = stats.bootstrap((values,), np.mean, method="BCa", rng=1).confidence_interval
    width = bca.high - bca.low
    assert abs(ours.low - bca.low) < 0.08 * width
    assert abs(ours.high - bca.high) < 0.08 * width


def test_rare_events_take_bca_and_stay_finite():
    values = np.zeros(400)
    values[:3] = [0.5, 1.0, 2.5]
    ours = resampling.mean_interval(values)
    bca = stats.bootstrap((values,), np.mean, method="BCa", rng=1, batch=1000).confidence_interval
    np.testing.assert_allclose(ours.high, bca.high, rtol=0.06)
    assert 0 < ours.low < 2 * bca.low


@pytest.mark.parametrize("acceleration", [0.0, 0.05])
def test_bca_of_a_normal_that_is_half_an_error_off(acceleration):
    """Efron (1987), eq. 2.3, with bias-correction ½: no resample has a spread, so no bootstrap-t is possible."""
    shift = stats.norm.ppf((np.arange(400_000) + 0.5) / 400_000)[:, None] - 0.5
    means = resampling.BootstrapMeans(np.zeros(1), np.ones(1), shift, np.zeros_like(shift), np.array([acceleration]))
    found = means.intervals(0.95)
    reach = 0.5 + stats.norm.ppf([0.025, 0.975])
    expected = 0.5 + reach / (1 - acceleration * reach) - 0.5
    np.testing.assert_allclose([found.low[0], found.high[0]], expected, atol=0.01)


def test_welch_below_twenty_units():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=6), rng.normal(size=9) * 3
    ours = resampling.difference_interval(a, b)
    welch = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose([ours.low, ours.high], [welch.low, welch.high])


def test_columns_share_nothing_but_resamples():
    values = np.random.default_rng(3).gamma(1.0, size=(60, 3))
    together = resampling.mean_intervals(values, seed=4)
    for column in range(3):
        alone = resampling.mean_interval(values[:, column], seed=4)
        np.testing.assert_allclose(together.low[column], alone.low)
        np.testing.assert_allclose(together.high[column], alone.high)


def test_a_wider_level_contains_a_narrower_one():
    means = resampling.mean_distribution(np.random.default_rng(5).exponential(size=(50, 4)))
    wide, narrow = means.intervals(0.95), means.intervals(0.9)
    assert np.all(wide.low < narrow.low)
    assert np.all(wide.high > narrow.high)


@hypothesis.given(
    shift=strategies.floats(-50, 50), scale=strategies.floats(0.01, 100), count=strategies.sampled_from([5, 40])
)
@hypothesis.settings(max_examples=20, deadline=None)
def test_intervals_follow_shift_and_scale(shift, scale, count):
    values = np.random.default_rng(6).exponential(size=count)
    base, moved = resampling.mean_interval(values), resampling.mean_interval(shift + scale * values)
    np.testing.assert_allclose(
        [moved.low, moved.high], [shift + scale * base.low, shift + scale * base.high], rtol=1e-7, atol=1e-7
    )


@pytest.mark.parametrize("copies", [2, 5])
@pytest.mark.parametrize("count", [10, 40])
def test_duplicates_in_clusters_add_no_information(copies, count):
    values = np.random.default_rng(7).normal(size=count)
    alone = resampling.mean_interval(values)
    clustered = resampling.mean_interval(np.repeat(values, copies), clusters=np.repeat(np.arange(count), copies))
    np.testing.assert_allclose([clustered.low, clustered.high], [alone.low, alone.high])


def test_unequal_clusters_are_a_ratio_of_sums():
    """The linearised variance of a ratio (Cochran 1977, ch. 6), written out."""
    clusters = np.array([0, 0, 0, 1, 1, 2, 3, 3])
    values = np.array([1.0, 2, 3, 2, 2, 9, 0, 1])
    interval = resampling.mean_interval(values, clusters=clusters)
    df = 8**2 / (9 + 4 + 1 + 4) - 1  # of as many equal clusters as would tell as much
    sums, sizes = np.array([6.0, 4, 9, 1]), np.array([3, 2, 1, 2])
    residuals = sums - sizes * values.mean()
    error = np.sqrt(4 / 3 * (residuals**2).sum()) / 8
    np.testing.assert_allclose(interval.high - interval.estimate, stats.t.ppf(0.975, df) * error)


def test_one_cluster_with_most_units_settles_nothing():
    """It is most of the mean that its residual is taken from; 21 clusters are then no sample of 21."""
    values = np.random.default_rng(16).uniform(size=200)
    clustered = resampling.mean_interval(values, clusters=np.r_[np.zeros(180), np.arange(1, 21)])
    alone = resampling.mean_interval(values)
    assert clustered.high - clustered.low > 10 * (alone.high - alone.low)


@pytest.mark.parametrize(("spread", "seed"), [(0.3, 8), (0.0, 22)])  # the second: fewer than m − 1 df
def test_two_way_below_twenty_is_the_analysis_of_variance(spread, seed):
    """Mean squares from sums over loops, as a textbook two-way layout without replication has them."""
    values = np.random.default_rng(seed).normal(size=(4, 30)) + spread * np.arange(4)[:, None]
    m, n = values.shape
    grand = values.mean()
    ms_member = n * sum((values[s].mean() - grand) ** 2 for s in range(m)) / (m - 1)
    ms_example = m * sum((values[:, e].mean() - grand) ** 2 for e in range(n)) / (n - 1)
    ms_both = sum(
        (values[s, e] - values[s].mean() - values[:, e].mean() + grand) ** 2 for s in range(m) for e in range(n)
    ) / ((m - 1) * (n - 1))
    variance = (ms_member + ms_example - ms_both) / (m * n)
    variance = max(variance, ms_both / (m * n))
    df = variance**2 / ((ms_member / (m * n)) ** 2 / (m - 1) + (ms_example / (m * n)) ** 2 / (n - 1))
    assert (df < m - 1) == (seed == 22)
    interval = resampling.two_way_interval(values)
    expected = stats.t.ppf(0.975, max(df, m - 1)) * np.sqrt(variance)
    np.testing.assert_allclose(interval.high - interval.estimate, expected)


def coverage(interval_of, truth, repetitions):
    return np.mean([not interval_of(index).excludes(truth) for index in range(repetitions)])


def test_coverage_of_a_skewed_mean():
    rng = np.random.default_rng(9)
    assert 0.90 < coverage(lambda i: resampling.mean_interval(rng.exponential(size=50), seed=i), 1.0, 400) < 0.985


@pytest.mark.parametrize("shape", [(5, 60), (25, 60)])
@pytest.mark.parametrize("spread", [(1, 1, 1), (0, 0, 1), (1, 0, 0.1)])
def test_coverage_over_members_and_examples(shape, spread):
    rng = np.random.default_rng(10)

    def draw(index):
        by_member, by_example, by_both = spread
        values = by_member * rng.normal(size=(shape[0], 1)) + by_example * rng.normal(size=shape[1])
        return resampling.two_way_interval(values + by_both * rng.normal(size=shape), seed=index)

    assert coverage(draw, 0.0, 200) > 0.90


@pytest.mark.parametrize("members", [(5, 7), (20, 24)])
def test_two_groups_of_seeds_of_one_configuration_rarely_differ(members):
    rng = np.random.default_rng(11)

    def draw(index):
        examples = rng.normal(size=50)
        groups = [rng.normal(size=(m, 1)) * 0.3 + examples * rng.normal(1, 0.3, (m, 50)) for m in members]
        return resampling.two_way_difference(*groups, seed=index)

    assert coverage(draw, 0.0, 300) > 0.92


def test_pairs_of_members_are_narrower_than_independent_groups():
    rng = np.random.default_rng(12)
    a = rng.normal(size=(30, 1)) + rng.normal(size=(30, 40))
    b = a + 0.1 * rng.normal(size=a.shape)
    paired, independent = resampling.two_way_interval(b - a), resampling.two_way_difference(a, b)
    assert paired.high - paired.low < 0.3 * (independent.high - independent.low)
    np.testing.assert_allclose(paired.estimate, independent.estimate)


def test_any_statistic_by_scipys_bootstrap():
    rng = np.random.default_rng(13)
    values = rng.lognormal(size=80)
    median = resampling.statistic_interval(np.median, values, method="percentile", seed=3)
    # the order statistics of a binomial interval, which no resampling is needed for
    low, high = np.sort(values)[np.array(stats.binom.ppf([0.025, 0.975], 80, 0.5), dtype=int)]
    np.testing.assert_allclose([median.low, median.high], [low, high], rtol=0.1)

    def correlation(a, b, axis):
        a, b = (x - x.mean(axis=axis, keepdims=True) for x in (a, b))
        return (a * b).sum(axis=axis) / np.sqrt((a**2).sum(axis=axis) * (b**2).sum(axis=axis))

    other = values + rng.lognormal(size=80)
    paired = resampling.statistic_interval(correlation, values, other, paired=True)
    expected = stats.bootstrap((values, other), correlation, paired=True, rng=0, n_resamples=resampling.RESAMPLES)
    bounds = expected.confidence_interval
    np.testing.assert_allclose([paired.estimate, paired.low, paired.high], [correlation(values, other, -1), *bounds])
    assert resampling.statistic_interval(np.max, np.full(9, 2.0)) == Interval(2.0, 2.0, 2.0)


def test_constant_values_have_no_width():
    assert resampling.mean_interval(np.full(30, 0.5)) == Interval(0.5, 0.5, 0.5)


def test_shares_that_are_all_zero_do_not_show_that_their_mean_is():
    nothing, everything = (resampling.mean_share_interval(np.full(86, share)) for share in (0.0, 1.0))
    for ours, expected in ((nothing, wilson(0, 86)), (everything, wilson(86, 86))):
        np.testing.assert_allclose([ours.low, ours.high], [expected.low, expected.high])
    # one run with a little: hardly less is unknown
    almost = resampling.mean_share_interval(np.r_[0.01, np.zeros(85)])
    assert almost.high == nothing.high
    # farther from the ends than that, it is the mean of any values
    values = np.random.default_rng(14).uniform(size=86)
    assert resampling.mean_share_interval(values, seed=3) == resampling.mean_interval(values, seed=3)
    with pytest.raises(ValueError, match=r"1\.2"):
        resampling.mean_share_interval(np.array([0.5, 1.2]))


def test_means_of_rare_shares_are_covered():
    """One run in fifty has a share of 1 and the others 0: the worst of all shares in [0, 1]."""
    rng = np.random.default_rng(15)
    draws = 1.0 * (rng.random((100, 60)) < 0.02)
    assert coverage(lambda i: resampling.mean_share_interval(draws[i], seed=i), 0.02, 100) > 0.92
    assert coverage(lambda i: resampling.mean_interval(draws[i], seed=i), 0.02, 100) < 0.8


@pytest.mark.parametrize("values", [np.array([1.0]), np.array([1.0, np.nan, 2.0]), np.array([1.0, np.inf])])
def test_what_cannot_be_judged_is_refused(values):
    with pytest.raises(ValueError, match="unit"):
        resampling.mean_interval(values)


def test_intervals_index_into_an_interval():
    intervals = Intervals(np.array([1.0, 2.0]), np.array([0.0, np.nan]), np.array([2.0, np.nan]))
    assert intervals[0] == Interval(1.0, 0.0, 2.0)
    assert not intervals.excludes(5.0)[1]
    assert intervals.excludes(5.0)[0]
    assert (-intervals).high[0] == 0.0
