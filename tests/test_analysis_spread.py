"""How runs differ: Jordan's and Jiang's formulas in loops, runs whose errors are drawn as assumed, coverage."""

import itertools

import hypothesis
import jaxtyping
import numpy as np
import pytest
from hypothesis import strategies

from lossjax.analysis.spread import disagreement, seed_variance


@pytest.fixture
def unchecked(monkeypatch):
    """Without jaxtyping's import hook, should a test run have it: what a user meets is our own error."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def runs(num_members, num_examples, seed, *, luck=0.0):
    """Predictions of two classes by a class-wise calibrated algorithm, and the labels.

    The share q of runs that predict class 1 is what its probability is, so GDE and err/2n hold. With ``luck`` whole
    runs are better or worse: correct predictions are turned, or wrong ones mended, at a rate of the run's own.
    """
    rng = np.random.default_rng(seed)
    share = rng.beta(0.4, 0.4, size=num_examples)
    labels = (rng.random(num_examples) < share).astype(int)
    predictions = (rng.random((num_members, num_examples)) < share).astype(int)
    turned = rng.random((num_members, num_examples)) < luck * rng.random((num_members, 1))
    return np.where(turned, 1 - labels, predictions), labels


def test_jordans_estimators_in_loops():
    """Definition 1, eqs. 3 and 6, with variances over runs that are unbiased."""
    predictions, labels = runs(6, 40, 0, luck=0.3)
    wrong = predictions != labels
    n = 40
    observed = np.var([row.mean() for row in wrong], ddof=1)
    independent = sum(np.var(wrong[:, i], ddof=1) for i in range(n)) / n**2
    found = seed_variance(~wrong)
    np.testing.assert_allclose(found.observed.estimate, observed)
    np.testing.assert_allclose(found.independent.estimate, independent)
    np.testing.assert_allclose(found.distribution.estimate, n / (n - 1) * (observed - independent))
    np.testing.assert_allclose(found.predicted.estimate, wrong.mean() / (2 * n))
    np.testing.assert_allclose(found.ratio.estimate, observed / (wrong.mean() / (2 * n)))
    assert seed_variance(~wrong, num_classes=5).predicted.estimate == pytest.approx(wrong.mean() / (5 * n))


def test_disagreement_in_loops():
    rng = np.random.default_rng(1)
    predictions, labels = rng.integers(0, 3, size=(5, 30)), rng.integers(0, 3, size=30)
    found = disagreement(predictions, labels)
    pairs = [np.mean(a != b) for a, b in itertools.combinations(predictions, 2)]
    np.testing.assert_allclose(found.disagreement.estimate, np.mean(pairs))
    np.testing.assert_allclose(found.error.estimate, np.mean(predictions != labels))
    np.testing.assert_allclose(found.difference.estimate, np.mean(pairs) - np.mean(predictions != labels))


def test_a_calibrated_algorithm():
    """Jiang et al. (2022), theorem 4.1, and Jordan (2024), theorem 3, hold for it by construction."""
    predictions, labels = runs(200, 2000, 2)
    found = disagreement(predictions, labels)
    assert not found.difference.excludes(0.0)
    assert found.difference.high - found.difference.low < 0.05
    variance = seed_variance(predictions == labels)
    assert not variance.ratio.excludes(1.0)
    assert not variance.distribution.excludes(0.0)
    lucky, labels = runs(200, 2000, 3, luck=0.2)
    assert seed_variance(lucky == labels).distribution.low > 0


def distribution(wrong):
    """Jordan (2024), eq. 3, with variances over runs that are unbiased."""
    n = wrong.shape[1]
    return n / (n - 1) * (wrong.mean(axis=1).var(ddof=1) - wrong.var(axis=0, ddof=1).sum() / n**2)


def jackknifed(statistic, values):
    """The standard error over rows and columns, by leaving each out in turn."""
    variance = 0.0
    for axis in (0, 1):
        left_out = [statistic(np.delete(values, index, axis=axis)) for index in range(values.shape[axis])]
        variance += (len(left_out) - 1) * np.var(left_out)
    return np.sqrt(variance)


def test_intervals_hold_for_fresh_examples_too():
    """Runs that differ in luck on half of the examples only: which examples there are matters as much as which runs."""
    rng = np.random.default_rng(7)
    affected = rng.random(40) < 0.5
    wrong = affected & (rng.random((60, 40)) < rng.random((60, 1)))
    found = seed_variance(~wrong).distribution
    error = jackknifed(distribution, wrong)
    assert error > 1.3 * jackknifed(distribution, wrong[:, affected]) * affected.mean() ** 2  # that of runs alone
    np.testing.assert_allclose((found.high - found.low) / (2 * 1.96), error, rtol=0.25)
    few = wrong[::3]
    difference = disagreement(few.astype(int), np.zeros(40, dtype=int)).difference
    error = jackknifed(
        lambda w: np.mean([np.mean(one != other) for one, other in itertools.combinations(w, 2)]) - w.mean(), few
    )
    np.testing.assert_allclose((difference.high - difference.low) / (2 * 1.96), error, rtol=0.25)


def test_two_classes_need_only_correctness():
    predictions, labels = runs(8, 50, 4)
    by_class = disagreement(predictions, labels)
    by_correctness = disagreement((predictions == labels).astype(int), np.ones(50, dtype=int))
    assert by_class == by_correctness


@hypothesis.given(seed=strategies.integers(0, 1000))
@hypothesis.settings(max_examples=10, deadline=None)
def test_the_order_of_runs_and_examples_and_the_names_of_classes_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    predictions, labels = rng.integers(0, 4, size=(6, 25)), rng.integers(0, 4, size=25)
    names, members, examples = rng.permutation(4), rng.permutation(6), rng.permutation(25)
    base = disagreement(predictions, labels)
    moved = disagreement(names[predictions][np.ix_(members, examples)], names[labels][examples])
    variance = seed_variance(predictions == labels)
    permuted = seed_variance((predictions == labels)[np.ix_(members, examples)])
    for one, other in (
        (base.disagreement, moved.disagreement),
        (base.difference, moved.difference),
        (variance.distribution, permuted.distribution),
        (variance.ratio, permuted.ratio),
    ):
        ours, theirs = ([i.estimate, i.low, i.high] for i in (one, other))
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-15)  # a variance of 0 but for rounding


def test_runs_that_are_all_alike():
    labels = np.arange(30) % 3
    predictions = np.tile(np.where(np.arange(30) < 6, (labels + 1) % 3, labels), (25, 1))
    found = disagreement(predictions, labels)
    assert found.disagreement.high == 0
    assert found.difference.estimate == pytest.approx(-0.2)
    assert found.difference.high < 0
    assert seed_variance(predictions == labels).observed.high == 0
    perfect = seed_variance(np.ones((4, 10), dtype=bool))
    assert perfect.ratio is None


@pytest.mark.parametrize("luck", [0.0, 0.2])
def test_coverage(luck):
    """Of the variance of the true error rate and of GDE's difference, from fresh runs and fresh examples each time."""
    studies = []
    for seed in range(120):
        predictions, labels = runs(40, 200, 5000 + seed, luck=luck)
        correct = predictions == labels
        studies.append(
            (seed_variance(correct, seed=seed).distribution, disagreement(predictions, labels, seed=seed).difference)
        )
    # a run of luck u is wrong at the rate e + u(1 − e), e = E[2q(1 − q)] for q of Beta(0.4, 0.4); u is uniform
    error = 2 * 0.4 * 0.4 / (0.8 * 1.8)
    variance = (1 - error) ** 2 * luck**2 / 12
    assert np.mean([not found.excludes(variance) for found, _ in studies]) > 0.86
    difference = np.mean([found.estimate for _, found in studies])
    assert np.mean([not found.excludes(difference) for _, found in studies]) > 0.86


@pytest.mark.usefixtures("unchecked")
def test_what_shows_no_difference_between_runs_is_refused():
    with pytest.raises(ValueError, match="two of each"):
        seed_variance(np.ones((1, 5), dtype=bool))
    with pytest.raises(ValueError, match="num_classes"):
        seed_variance(np.ones((3, 5), dtype=bool), num_classes=1)
    with pytest.raises(ValueError, match="one class"):
        disagreement(np.zeros((3, 5), dtype=int), np.zeros(4, dtype=int))


def test_independent_errors_of_two_classes_vary_as_often_as_runs_disagree():
    rng = np.random.default_rng(11)
    correct = rng.random((30, 200)) < rng.beta(4, 1, 200)
    found = seed_variance(correct)
    pairs = disagreement(correct.astype(np.int64), np.ones(200, dtype=np.int64))
    expected = pairs.disagreement.estimate / pairs.error.estimate
    assert found.independent_ratio.estimate == pytest.approx(expected)
    assert found.independent_ratio.low < expected < found.independent_ratio.high
