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


def test_equivalence_without_a_margin_is_refused():
    with pytest.raises(ValueError, match="smallest"):
        judge(Interval(0.0, -1.0, 1.0), claim="equivalent")
    with pytest.raises(ValueError, match="smallest"):
        judge(Interval(0.0, -1.0, 1.0), claim="different")
