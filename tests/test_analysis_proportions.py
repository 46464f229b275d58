"""Shares, their differences, and what a design can show: published numbers, SciPy and coverage by enumeration."""

import math

import numpy as np
import pytest
from scipy import stats

from lossjax.analysis import proportions, significance
from lossjax.analysis.interval import Interval
from lossjax.analysis.verdicts import judge


def test_wilson_closed_form():
    z, n, p = stats.norm.ppf(0.975), 20, 0.0
    interval = proportions.wilson(0, n)
    np.testing.assert_allclose(interval.high, (p + z**2 / n) / (1 + z**2 / n))
    assert interval.low == 0.0


def test_wilson_of_arrays_is_wilson_of_each():
    successes, totals = np.array([[0, 3, 20], [7, 0, 1]]), np.array([[5, 8, 20], [30, 0, 2]])
    found = proportions.wilson_intervals(successes, totals, level=0.9)
    for index in np.ndindex(2, 3):
        if totals[index] == 0:
            assert np.isnan([found.estimate[index], found.low[index], found.high[index]]).all()
            continue
        expected = proportions.wilson(int(successes[index]), int(totals[index]), level=0.9)
        np.testing.assert_allclose([found.low[index], found.high[index]], [expected.low, expected.high], atol=1e-12)
    with pytest.raises(ValueError, match="successes"):
        proportions.wilson_intervals(np.array([3]), np.array([2]))


def test_newcombes_published_example():
    """Newcombe (1998), Statistics in Medicine 17:873, table II, method 10: 56/70 against 48/80."""
    interval = proportions.newcombe(48, 80, 56, 70)
    np.testing.assert_allclose([interval.low, interval.high], [0.0524, 0.3339], atol=5e-5)


def test_bonett_price_closed_form():
    interval = proportions.bonett_price(8, 2, 98)
    up, down = 0.09, 0.03
    reach = 1.959964 * math.sqrt((0.12 - 0.0036) / 100)
    np.testing.assert_allclose([interval.low, interval.high], [up - down - reach, up - down + reach], rtol=1e-6)
    np.testing.assert_allclose(interval.estimate, 6 / 98)


def test_bonett_price_covers_where_few_examples_differ():
    """Exact coverage by summing the trinomial, n = 60 with 4 % gained and 2 % lost."""
    total, covered = 60, 0.0
    for gained in range(15):
        for lost in range(12):
            probability = stats.multinomial.pmf([gained, lost, total - gained - lost], total, [0.04, 0.02, 0.94])
            covered += probability * (not proportions.bonett_price(gained, lost, total).excludes(0.02))
    assert covered > 0.93


def changes(gained, lost, total):
    return np.repeat([1.0, -1.0, 0.0], [gained, lost, total - gained - lost])


@pytest.mark.parametrize(("gained", "lost", "total"), [(0, 0, 60), (3, 1, 100), (20, 5, 300)])
def test_bonett_price_of_clusters_of_one_is_bonett_price(gained, lost, total):
    alone = proportions.bonett_price(gained, lost, total)
    clustered = proportions.clustered_bonett_price(changes(gained, lost, total), np.arange(total))
    np.testing.assert_allclose([clustered.low, clustered.high], [alone.low, alone.high], rtol=1e-12)
    # and added to an interval that has the variance alone, whatever that was estimated by
    change = changes(gained, lost, total)
    reach = stats.norm.ppf(0.975) * change.std() / math.sqrt(total)
    plain = Interval(change.mean(), change.mean() - reach, change.mean() + reach)
    added = proportions.two_examples_added(plain, change)
    np.testing.assert_allclose([added.low, added.high], [alone.low, alone.high], rtol=1e-12)


def test_wilson_of_clusters():
    hits = np.arange(100) < 97
    alone = proportions.wilson(97, 100)
    for clustered in (proportions.clustered_wilson(hits, of) for of in (np.arange(100), 3 * np.arange(100))):
        np.testing.assert_allclose([clustered.low, clustered.high], [alone.low, alone.high])
    # where all are right no cluster tells how alike its examples are: 20 of 20, but for Student's quantile
    for share in (0, 1):
        few = proportions.clustered_wilson(np.full(100, bool(share)), np.arange(100) // 5)
        least, most = (proportions.wilson(share * n, n) for n in (17, 20))
        assert least.low <= few.low <= most.low
        assert most.high <= few.high <= least.high
    one = proportions.clustered_wilson(hits, np.r_[np.zeros(80), np.arange(1, 21)])
    assert one.high - one.low > 0.99


def test_clusters_in_which_nothing_changed_are_as_many_examples():
    """No change tells how alike a cluster's examples are, so 100 in clusters of 5 are 20, with Student's quantile."""
    alone, widened = proportions.bonett_price(0, 0, 20), stats.t.ppf(0.975, 19) / stats.t.ppf(0.975, 99)
    clustered = proportions.clustered_bonett_price(np.zeros(100), np.arange(100) // 5)
    np.testing.assert_allclose([clustered.low, clustered.high], [alone.low * widened, alone.high * widened])


def test_repeated_examples_add_nothing_to_a_change_of_accuracy():
    alone = proportions.bonett_price(8, 3, 200)
    repeated = proportions.clustered_bonett_price(np.repeat(changes(8, 3, 200), 4), np.repeat(np.arange(200), 4))
    np.testing.assert_allclose([repeated.low, repeated.high], [alone.low, alone.high], atol=5e-4)


def test_one_cluster_with_most_examples_settles_nothing():
    found = proportions.clustered_bonett_price(changes(5, 0, 200), np.r_[np.zeros(180), np.arange(1, 21)])
    assert (found.low, found.high) == (-1.0, 1.0)


@pytest.mark.parametrize(("clusters", "size", "correlation"), [(50, 10, 0.3), (50, 10, 0.0), (20, 20, 0.3)])
def test_changes_of_accuracy_in_clusters_are_covered(clusters, size, correlation):
    """5 % of examples gained and 2 % lost; with probability √ρ an example changes as its cluster does."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        common, own = (rng.choice([1.0, -1.0, 0.0], (clusters, k), p=[0.05, 0.02, 0.93]) for k in (1, size))
        change = np.where(rng.random((clusters, size)) < math.sqrt(correlation), common, own).ravel()
        found = proportions.clustered_bonett_price(change, np.repeat(np.arange(clusters), size))
        covered += not found.excludes(0.03)
    assert covered > 0.925 * 400


def test_mcnemar_is_the_binomial_tail():
    np.testing.assert_allclose(proportions.mcnemar_p(1, 5), 2 * (1 + 6) / 64)
    assert proportions.mcnemar_p(0, 0) == 1.0


def test_differs_from_is_wilsons_interval_inverted():
    for successes in range(0, 101):
        expected = proportions.wilson(successes, 100).excludes(0.3)
        assert proportions.differs_from(np.array(successes / 100), 100, 0.3) == expected


@pytest.mark.parametrize(("successes", "total"), [(3, 2), (-1, 5), (0, 0)])
def test_impossible_counts_are_refused(successes, total):
    with pytest.raises(ValueError, match="must"):
        proportions.wilson(successes, total)


def test_a_mean_beyond_a_limit_is_a_one_sided_t_test():
    values = np.array([-0.3, -0.1, -0.4, -0.2, 0.1])
    t = (values.mean() + 0.05) / (values.std(ddof=1) / np.sqrt(5))
    assert significance.mean_beyond_p(values, -0.05, "below") == pytest.approx(stats.t.cdf(t, 4))
    assert significance.mean_beyond_p(values, -0.05, "above") == pytest.approx(stats.t.sf(t, 4))
    same = np.full(5, -0.1) + 1e-12 * np.arange(5)
    assert [significance.mean_beyond_p(same, limit, "below") for limit in (-0.05, -0.1, -0.2)] == [0.0, 1.0, 1.0]
    assert significance.mean_beyond_p(same, -0.2, "above") == 0.0
    with pytest.raises(ValueError, match="too few"):
        significance.mean_beyond_p(np.ones(1), 0.0, "above")


def test_holm_by_hand():
    np.testing.assert_allclose(significance.holm(np.array([0.04, 0.01, 0.03])), [0.06, 0.03, 0.06])
    np.testing.assert_allclose(significance.holm(np.array([0.6, 0.7])), [1.0, 1.0])


def test_smallest_p_is_that_of_scipys_permutation_test():
    result = stats.permutation_test(
        (np.arange(4.0), np.arange(4.0) + 10), lambda a, b: np.mean(b) - np.mean(a), alternative="two-sided"
    )
    np.testing.assert_allclose(significance.smallest_attainable_p(4, 4), result.pvalue)
    np.testing.assert_allclose(significance.smallest_attainable_p(5), stats.wilcoxon(np.arange(1.0, 6.0)).pvalue)


def test_detectable_effect_is_detected_with_its_power():
    rng = np.random.default_rng(0)
    effect = significance.detectable_effect(1.0, 10)
    p_values = stats.ttest_1samp(rng.normal(effect, 1.0, size=(10, 4000)), 0.0).pvalue
    assert abs(np.mean(p_values < 0.05) - 0.8) < 0.04
    effect = significance.detectable_effect(2.0, 6, 10)
    groups = (rng.normal(0.0, 2.0, size=(6, 4000)), rng.normal(effect, 2.0, size=(10, 4000)))
    assert abs(np.mean(stats.ttest_ind(*groups).pvalue < 0.05) - 0.8) < 0.04


def test_number_needed_is_the_rule_of_thumb():
    np.testing.assert_allclose(significance.number_needed(0.1, 0.005), 8.6 * 0.1 / 0.005**2, rtol=0.01)


@pytest.mark.parametrize(
    ("low", "high", "claim", "smallest", "outcome"),
    [
        (0.1, 0.2, "greater", None, "supported"),
        (-0.1, 0.2, "greater", None, "unresolved"),
        (-0.2, -0.1, "greater", None, "refuted"),
        (0.01, 0.2, "greater", 0.05, "unresolved"),
        (-0.01, 0.01, "greater", 0.05, "refuted"),  # negligible
        (-0.2, -0.1, "less", 0.05, "supported"),
        (0.0, 0.01, "less", 0.05, "refuted"),
        (-0.01, 0.05, "equivalent", 0.05, "supported"),
        (0.01, 0.06, "equivalent", 0.05, "unresolved"),
        (0.06, 0.07, "equivalent", 0.05, "refuted"),
        (-0.01, 0.05, "different", 0.05, "refuted"),
        (0.01, 0.06, "different", 0.05, "unresolved"),
        (-0.07, -0.06, "different", 0.05, "supported"),
        (math.nan, math.nan, "greater", None, "unresolved"),
        (math.nan, math.nan, "different", 0.05, "unresolved"),
    ],
)
def test_verdicts(low, high, claim, smallest, outcome):
    interval = Interval(0.5, low + 0.5, high + 0.5)
    assert judge(interval, threshold=0.5, claim=claim, smallest=smallest) == outcome


def test_few_seeds_give_no_verdict():
    assert judge(Interval(1.0, 0.5, 1.5), num_seeds=5) == "unresolved"
    assert judge(Interval(1.0, 0.5, 1.5), num_seeds=6) == "supported"
    for seeds, enough in (((5,), (6,)), ((3, 3), (4, 4)), ((2, 7), (2, 8))):
        assert significance.refusal(*enough) is None
        told = significance.refusal(*seeds)
        assert f"{significance.smallest_attainable_p(*seeds):.2g}; {'6' if len(seeds) == 1 else '4 and 4'} do" in told
    assert significance.refusal(3, 3, level=0.9) is None  # p = 0.1, which 1 − 0.9 falls short of by rounding


def test_equivalence_without_a_margin_is_refused():
    with pytest.raises(ValueError, match="smallest"):
        judge(Interval(0.0, -1.0, 1.0), claim="equivalent")
    with pytest.raises(ValueError, match="smallest"):
        judge(Interval(0.0, -1.0, 1.0), claim="different")
