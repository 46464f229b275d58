"""Holm's correction over the rows of a claim: by hand, and against the tests that the intervals invert."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

import lossjax as lj
from lossjax.analysis.families import beyond_p, corrected
from lossjax.analysis.proportions import wilson
from lossjax.analysis.resampling import mean_interval
from lossjax.analysis.verdicts import judge


def verdict(interval, claim="C1", num_seeds=100, **changes):
    one = lj.Verdict(claim, "it is so", "here", "what", "its rule", interval, judge(interval), num_seeds, "seeds")
    return dataclasses.replace(one, **changes)


def normal(p):
    """A mean whose two-sided p against 0 is this, with a standard error of 1."""
    z = stats.norm.isf(p / 2)
    return lj.Interval(z, z - stats.norm.ppf(0.975), z + stats.norm.ppf(0.975))


def against_nothing(_):
    return (0.0,)


def test_p_is_that_of_the_test_whose_inverse_the_interval_is():
    values = np.random.default_rng(0).normal(0.4, 1, size=12)
    for limit in (-0.3, 0.0, 0.2):
        expected = stats.ttest_1samp(values, limit).pvalue
        assert beyond_p(mean_interval(values), limit, 12) == pytest.approx(expected)
    # from the side that faces the limit
    skewed = lj.Interval(1.0, 0.5, 3.0)
    assert beyond_p(skewed, 0.0, 100) == pytest.approx(2 * stats.norm.sf(2 * stats.norm.ppf(0.975)))
    assert beyond_p(skewed, 5.0, 100) == pytest.approx(2 * stats.norm.sf(2 * stats.norm.ppf(0.975)))
    # Wilson's bound is where the score test has p = 0.05
    share = wilson(60, 100)
    assert beyond_p(share, share.low, 100) == pytest.approx(0.05)


def test_no_bounds_and_no_width():
    assert beyond_p(lj.Interval.without_bounds(3.0), 0.0, 50) == 1.0
    assert beyond_p(lj.Interval(1.0, 1.0, 1.0), 0.0, 50) == 0.0
    assert beyond_p(lj.Interval(1.0, 1.0, 1.0), 1.0, 50) == 1.0
    # an estimate outside its own interval: half the width
    expected = 2 * stats.norm.sf(0.5 / 0.1 * stats.norm.ppf(0.975))
    assert beyond_p(lj.Interval(0.5, 0.6, 0.8), 0.0, 50) == pytest.approx(expected)


def test_what_stands_alone_may_not_stand_among_several():
    """0.04, 0.02 and 0.001: by Holm 0.04, 0.04 and 0.003; with a fourth row of 0.03 the larger ones become 0.06."""
    three = [verdict(normal(p)) for p in (0.04, 0.02, 0.001)]
    assert [one.outcome for one in corrected(three, against_nothing)] == ["supported"] * 3
    four = corrected([*three, verdict(normal(0.03))], against_nothing)
    assert [one.outcome for one in four] == ["unresolved", "unresolved", "supported", "unresolved"]
    assert [one.as_written for one in four] == ["supported", "supported", None, "supported"]
    assert four[0].note == "Holm's p 0.06"
    assert "Holm" in four[0].amended
    assert four[2].note == "Holm's p 0.004"
    assert not four[2].amended


def test_rows_of_other_claims_do_not_count_and_a_single_row_stays_as_it_is():
    rows = [verdict(normal(0.04)), verdict(normal(0.04), claim="C2"), verdict(normal(0.001), claim="C2")]
    first, second, third = corrected(rows, against_nothing)
    assert first == rows[0]
    assert (second.outcome, third.outcome) == ("supported", "supported")


def test_what_is_unresolved_counts_and_stays_as_it_is():
    rows = [verdict(normal(0.02)), verdict(normal(0.5)), verdict(lj.Interval.without_bounds())]
    found = corrected(rows, against_nothing)
    assert found[0].outcome == "unresolved"  # 3 × 0.02
    assert found[1:] == tuple(rows[1:])


def test_an_amended_rule_keeps_its_outcome_as_written():
    row = verdict(normal(0.04), amended="the limit", as_written="refuted", note="a word")
    (found, _) = corrected([row, verdict(normal(0.5))], against_nothing)
    assert (found.outcome, found.as_written) == ("unresolved", "refuted")
    assert found.amended.startswith("the limit; ")
    assert found.note == "a word; Holm's p 0.08"


def test_equivalence_is_against_both_limits():
    inside = lj.Interval(0.2, -0.1, 0.5)
    row = verdict(inside, outcome="supported")
    (found, _) = corrected([row, verdict(normal(0.5))], lambda _: (-1.0, 0.52))
    p = 2 * stats.norm.sf(0.32 / 0.3 * stats.norm.ppf(0.975))
    assert found.note == f"Holm's p {2 * p:.2g}"
    assert found.outcome == "unresolved"
