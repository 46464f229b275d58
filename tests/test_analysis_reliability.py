"""Reliability of a metric: pairs, seeds and examples in loops, closed forms of normal scores, coverage."""

import itertools
import time

import hypothesis
import jaxtyping
import numpy as np
import pytest
from hypothesis import strategies
from scipy import stats

from lossjax.analysis.reliability import metric_reliability


@pytest.fixture
def unchecked(monkeypatch):
    """Without jaxtyping's import hook, should a test run have it: what a user meets is our own error."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def measured(num_configs, num_seeds, seed, noise=1.0):
    """Normal qualities, measured twice with independent normal noise."""
    rng = np.random.default_rng(seed)
    quality = rng.normal(size=(num_configs, 1))
    return [quality + noise * rng.normal(size=(num_configs, num_seeds)) for _ in range(2)]


def in_loops(first, fresh, same_seeds):
    kept, top, correlations = [], [], []
    better = stats.rankdata(first, axis=0) <= (len(first) + 1) / 2
    for r, q in itertools.product(range(first.shape[1]), range(fresh.shape[1])):
        if same_seeds and r == q:
            continue
        correlations.append(stats.spearmanr(first[:, r], fresh[:, q]).statistic)
        for i, j in itertools.combinations(range(len(first)), 2):
            agreement = np.sign(first[i, r] - first[j, r]) * np.sign(fresh[i, q] - fresh[j, q])
            kept.append((1 + agreement) / 2)
            if better[i, r] and better[j, r]:
                top.append((1 + agreement) / 2)
    return np.mean(kept), np.mean(top), np.mean(correlations)


@pytest.mark.parametrize("same_seeds", [True, False])
def test_every_pair_in_loops(same_seeds):
    first, fresh = measured(9, 4, 0)
    if not same_seeds:
        fresh = fresh[:, :3]
    found = metric_reliability(first, fresh, same_seeds=same_seeds)
    estimates = [found.kept.estimate, found.kept_top.estimate, found.rank_correlation.estimate]
    np.testing.assert_allclose(estimates, in_loops(first, fresh, same_seeds), rtol=1e-5)


def test_ties_keep_half():
    first = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    found = metric_reliability(first, first, same_seeds=True)
    np.testing.assert_allclose(found.kept.estimate, (5 + 0.5) / 6, rtol=1e-6)
    np.testing.assert_allclose(found.kept_top.estimate, 0.5, rtol=1e-6)


def test_the_correlation_is_the_intraclass_correlation_of_ranks():
    """ICC(C,1) from the mean squares of a two-way layout (McGraw & Wong 1996, table 4)."""
    scores, _ = measured(12, 5, 1)
    ranks = stats.rankdata(scores, axis=0)
    n, k = ranks.shape
    rows = k * ((ranks.mean(axis=1) - ranks.mean()) ** 2).sum() / (n - 1)
    columns = k * ((ranks - ranks.mean(axis=0)) ** 2).sum() / k  # the total within columns
    errors = (columns - (n - 1) * rows) / ((n - 1) * (k - 1))
    expected = (rows - errors) / (rows + (k - 1) * errors)
    found = metric_reliability(scores, scores, same_seeds=True)
    np.testing.assert_allclose(found.rank_correlation.estimate, expected, rtol=1e-5)


def test_normal_scores_keep_their_order_by_the_arcsine():
    """Sheppard: two normals of correlation ρ agree in sign with probability ½ + arcsin(ρ)/π; here ρ = ½."""
    first, fresh = measured(250, 12, 2)
    found = metric_reliability(first, fresh, same_seeds=False, resamples=50)
    np.testing.assert_allclose(found.kept.estimate, 2 / 3, atol=0.03)
    assert 0.55 < found.kept_top.estimate < found.kept.estimate


@hypothesis.given(seed=strategies.integers(0, 1000))
@hypothesis.settings(max_examples=8, deadline=None)
def test_only_ranks_count(seed):
    first, fresh = measured(8, 3, seed)
    base = metric_reliability(first, fresh, same_seeds=True)
    stretched = metric_reliability(np.exp(first), fresh**3, same_seeds=True)
    turned = metric_reliability(-first, -fresh, same_seeds=True, higher=True)
    assert base == stretched == turned


def test_what_is_not_finite_ranks_last():
    first, fresh = measured(8, 3, 3)
    broken = first.copy()
    broken[2, 1], broken[5, 1] = np.nan, -np.inf
    replaced = first.copy()
    replaced[[2, 5], 1] = 1e9
    assert metric_reliability(broken, fresh, same_seeds=True) == metric_reliability(replaced, fresh, same_seeds=True)


def test_coverage():
    truth = 2 / 3
    covered = [
        not metric_reliability(*measured(30, 3, seed), same_seeds=True, seed=seed).kept.excludes(truth)
        for seed in range(100, 220)
    ]
    assert 0.88 < np.mean(covered) <= 1


def test_two_hundred_configurations_take_seconds():
    first, fresh = measured(200, 20, 5)
    start = time.process_time()
    metric_reliability(first, fresh, same_seeds=True)
    assert time.process_time() - start < 15


@pytest.mark.usefixtures("unchecked")
def test_measurements_that_do_not_match_are_refused():
    first, fresh = measured(8, 3, 4)
    with pytest.raises(ValueError, match="same configs"):
        metric_reliability(first, fresh[:7], same_seeds=False)
    with pytest.raises(ValueError, match="two seeds"):
        metric_reliability(first[:, :1], fresh[:, :1], same_seeds=True)
