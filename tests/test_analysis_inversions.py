"""Inversions: every pair one at a time with SciPy's tests, what temperature does by hand, coverage, speed."""

import time

import hypothesis
import jaxtyping
import numpy as np
import pytest
from hypothesis import strategies
from scipy import stats

from lossjax.analysis.inversions import inversions
from lossjax.analysis.significance import refusal


@pytest.fixture
def unchecked(monkeypatch):
    """Without jaxtyping's import hook, should a test run have it: what a user meets is our own error."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def search(num_configs, num_seeds, seed, *, agreement=0.5, noise=0.3, shared=0.3):
    """Losses and accuracies whose qualities correlate by ``agreement``, with noise that runs and seeds share."""
    rng = np.random.default_rng(seed)
    quality = rng.normal(size=(2, num_configs))
    quality[1] = agreement * quality[0] + np.sqrt(1 - agreement**2) * quality[1]
    by_run = noise * rng.normal(size=(2, num_configs, num_seeds))
    by_run[1] = 0.5 * by_run[0] + np.sqrt(0.75) * by_run[1]
    scores = quality[:, :, None] + by_run + shared * rng.normal(size=(2, 1, num_seeds))
    return -scores[0], scores[1]


def one_pair_at_a_time(losses, accuracies, level=0.95):
    """Counts of inverted and concordant pairs, with SciPy's paired tests in a loop; nan where not finite."""
    p_values, signs = [], []
    for i in range(len(losses)):
        for j in range(i + 1, len(losses)):
            both = np.isfinite(losses[i] + losses[j] + accuracies[i] + accuracies[j])
            tests = [stats.ttest_rel(values[j][both], values[i][both]) for values in (losses, accuracies)]
            p_values.append(max(test.pvalue for test in tests))
            signs.append(np.sign(tests[0].statistic) == np.sign(tests[1].statistic))
    resolved = stats.false_discovery_control(p_values, method="by") <= 1 - level
    inverted = resolved & np.array(signs)
    return int(inverted.sum()), int(resolved.sum() - inverted.sum())


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_those_of_one_pair_at_a_time(seed):
    losses, accuracies = search(14, 8, seed)
    found = inversions(losses, accuracies, resamples=20)
    assert (found.inverted, found.concordant) == one_pair_at_a_time(losses, accuracies)
    assert min(found.inverted, found.concordant) > 0
    assert found.inverted + found.concordant + found.unresolved == 14 * 13 / 2
    assert found.rate.estimate == found.inverted / (found.inverted + found.concordant)
    np.testing.assert_allclose(
        found.kendall.estimate, stats.kendalltau(-losses.mean(axis=1), accuracies.mean(axis=1)).statistic
    )


def test_runs_that_were_not_finite_are_left_out_pair_by_pair():
    losses, accuracies = search(12, 8, 3)
    losses[0, 2] = np.nan
    losses[5, 4], accuracies[5, 4] = np.inf, np.nan
    found = inversions(losses, accuracies, resamples=20)
    assert (found.inverted, found.concordant) == one_pair_at_a_time(
        np.where(np.isfinite(losses), losses, np.nan), accuracies
    )
    assert found.nonfinite.tolist() == [0.125, 0, 0, 0, 0, 0.125, 0, 0, 0, 0, 0, 0]
    losses[7] = np.nan
    without = inversions(np.delete(losses, 7, axis=0), np.delete(accuracies, 7, axis=0), resamples=20)
    whole = inversions(losses, accuracies, resamples=20)
    np.testing.assert_array_equal(np.delete(np.delete(whole.relation, 7, axis=0), 7, axis=1), without.relation)
    assert not whole.relation[7].any()
    assert whole.nonfinite[7] == 1


def test_ties_are_kendalls():
    accuracies = np.repeat(np.array([0.5, 0.5, 0.6, 0.7, 0.7, 0.7, 0.4])[:, None], 6, axis=1)
    losses = np.repeat(np.array([0.7, 0.7, 0.7, 0.3, 0.5, 0.5, 0.6])[:, None], 6, axis=1)
    found = inversions(losses, accuracies, resamples=20)
    np.testing.assert_allclose(found.kendall.estimate, stats.kendalltau(-losses[:, 0], accuracies[:, 0]).statistic)
    # without any noise all that differs in both is resolved
    assert (found.inverted, found.concordant) == (3, 12)


@hypothesis.given(seed=strategies.integers(0, 1000), scale=strategies.floats(0.1, 10), turned=strategies.booleans())
@hypothesis.settings(max_examples=10, deadline=None)
def test_only_the_order_counts(seed, scale, turned):
    losses, accuracies = search(10, 6, seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(10)
    base = inversions(losses, accuracies, resamples=50)
    moved = inversions((scale * losses + 5 * rng.normal(size=6))[order], accuracies[order], resamples=50)
    np.testing.assert_array_equal(moved.relation, base.relation[np.ix_(order, order)])
    opposite = inversions(losses, -accuracies, resamples=50)
    np.testing.assert_array_equal(opposite.relation, -base.relation)
    np.testing.assert_allclose(opposite.kendall.low, -base.kendall.high)
    np.testing.assert_allclose(opposite.rate.low, 1 - base.rate.high)


@pytest.mark.parametrize("missing", [False, True])
def test_copies_of_a_configuration_are_never_resolved(missing):
    """The same numbers, whatever rounding makes of their means."""
    losses, accuracies = search(6, 7, 4)
    if missing:
        losses[0, 3] = losses[4, 1] = np.nan
    copies = [np.repeat(values, 5, axis=0) for values in (losses, accuracies)]
    found = inversions(*copies, resamples=50)
    for block in range(6):
        assert not found.relation[5 * block : 5 * block + 5, 5 * block : 5 * block + 5].any()
    if not missing:
        expected = stats.kendalltau(-copies[0].mean(axis=1), copies[1].mean(axis=1)).statistic
        np.testing.assert_allclose(found.kendall.estimate, expected)


def test_differences_that_are_constant_but_for_rounding():
    """A constant difference is certain, whatever rounding makes of its spread; one of rounding alone is none."""
    accuracies = np.array([0.1, 0.2, 0.3])[:, None] + np.array([0.7, 0.1, 0.2, 0.3, 0.6, 0.5])
    seeds = np.array([0.8, 0.9, 1.0, 0.7, 1.1, 1.2])
    losses = np.stack([seeds, np.nextafter(seeds, 2), seeds + 0.1])
    found = inversions(losses, accuracies, resamples=20)
    assert found.relation.tolist() == [[0, 0, -1], [0, 0, -1], [-1, -1, 0]]
    np.testing.assert_allclose(found.kendall.estimate, -2 / np.sqrt(6))


def test_what_temperature_does_to_inversions():
    """Ever more accurate and ever worse in loss; at T* the first half of the configurations come into order."""
    rng = np.random.default_rng(5)
    accuracies = np.linspace(0.6, 0.9, 24)[:, None] + 1e-4 * rng.normal(size=(24, 10))
    losses = np.linspace(0.5, 1.5, 24)[:, None] + 1e-4 * rng.normal(size=(24, 10))
    tempered = np.where(np.arange(24)[:, None] < 12, 1 - losses, losses)
    found = inversions(losses, accuracies, tempered_losses=tempered)
    assert (found.inverted, found.concordant, found.unresolved) == (276, 0, 0)
    assert (found.tempered.inverted, found.tempered.concordant) == (210, 66)
    assert {fate: interval.estimate for fate, interval in found.fates.items()} == {
        "reversed": 66 / 276,
        "unresolved": 0,
        "persists": 210 / 276,
    }
    assert found.kendall.estimate == -1
    np.testing.assert_allclose(found.kendall_change.estimate, 132 / 276)
    assert found.kendall_change.low > 0
    # twenty-four configurations that are all inverted do not show that every pair is
    assert 0.5 < found.rate.low < 0.9
    assert found.rate.high == 1


def test_nothing_resolved_is_no_rate():
    losses, accuracies = search(8, 6, 6, noise=5.0)
    found = inversions(losses, accuracies, tempered_losses=losses, resamples=20)
    assert found.unresolved == 28
    assert np.isnan([found.rate.estimate, found.rate.low, found.fates["persists"].estimate]).all()
    assert found.kendall.low < found.kendall.high


@pytest.mark.parametrize("num_seeds", [5, 6])
def test_too_few_seeds_resolve_no_pair(num_seeds):
    """However surely they differ: the same number, and the same words, that give ``compare`` no verdict."""
    losses, accuracies = search(9, num_seeds, 7, noise=1e-6, shared=0.0)
    found = inversions(losses, accuracies, tempered_losses=losses, resamples=20)
    assert found.refused == refusal(num_seeds)
    assert found.kendall.low <= found.kendall.estimate  # which takes no pair for resolved
    if num_seeds == 5:
        assert "5 pairs of seeds decide nothing" in found.refused
        assert (found.unresolved, found.tempered.unresolved) == (36, 36)
        assert np.isnan([found.rate.estimate, found.rate.low, found.fates["persists"].estimate]).all()
        # at another level they do
        assert inversions(losses, accuracies, level=0.9, resamples=20).unresolved == 0
    else:
        assert found.refused is None
        assert found.unresolved == 0


def test_a_pair_with_too_few_seeds_in_common_is_not_resolved():
    losses, accuracies = search(9, 9, 7, noise=1e-6, shared=0.0)
    losses[0, :2] = losses[1, 2:4] = np.nan  # 7 finite seeds each, of which 5 are the same
    found = inversions(losses, accuracies, resamples=20)
    assert found.refused is None
    assert found.unresolved == 1
    assert found.relation[0, 1] == 0


def test_coverage_of_the_rate_and_of_kendalls_tau():
    """What independent searches of the same design give on average; 150 of them here."""
    searches = [search(30, 6, seed) for seed in range(150)]
    found = [inversions(*one, resamples=200, seed=seed) for seed, one in enumerate(searches)]
    for quantity in ("rate", "kendall"):
        intervals = [getattr(one, quantity) for one in found]
        truth = np.mean([interval.estimate for interval in intervals])
        covered = np.mean([not interval.excludes(truth) for interval in intervals])
        assert 0.88 < covered < 1


def test_two_hundred_configurations_take_a_second():
    losses, accuracies = search(200, 20, 7)
    seconds = []
    for _ in range(2):  # the better of two, since other work may share the machine
        start = time.process_time()
        inversions(losses, accuracies)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 6


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_compared_is_refused():
    losses, accuracies = search(5, 4, 8)
    with pytest.raises(ValueError, match="shapes"):
        inversions(losses, accuracies[:, :3])
    with pytest.raises(ValueError, match="two seeds"):
        inversions(losses[:, :1], accuracies[:, :1])
    with pytest.raises(ValueError, match="finite run"):
        inversions(np.where(np.arange(5)[:, None] < 2, losses, np.nan), accuracies)
