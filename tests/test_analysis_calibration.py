"""Temperature, refinement and calibration: SciPy's minimiser, known posteriors, closed forms and coverage."""

import jaxtyping
import numpy as np
import pytest
from scipy import optimize, special

from lossjax.analysis import calibration
from lossjax.analysis.calibration_error import confidence_error, ece, ece_by_group
from lossjax.analysis.resampling import mean_interval


@pytest.fixture
def unchecked(monkeypatch):
    """Without jaxtyping's import hook, should a test run have it: what a user meets is our own error."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def drawn(num_examples, num_classes, scale, seed, spread=1.5):
    """Logits whose labels come from softmax(logits / scale): the optimum temperature is ``scale``."""
    rng = np.random.default_rng(seed)
    truth = spread * rng.normal(size=(num_examples, num_classes))
    gumbel = rng.gumbel(size=truth.shape)
    return scale * truth, (truth + gumbel).argmax(axis=1)


def test_scores_of_one_example_by_hand():
    found = calibration.scores(np.log([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]]), np.array([2, 1]))
    np.testing.assert_allclose(found.loss, -np.log([0.3, 0.4]))
    np.testing.assert_allclose(found.brier, [0.04 + 0.25 + 0.49, 0.16 + 0.36 + 0.04])
    np.testing.assert_allclose(found.confidence, [0.5, 0.4])
    assert found.correct.tolist() == [False, False]  # the tie goes to class 0
    assert found.tied.tolist() == [False, True]


@pytest.mark.parametrize("margin", [0.569, 0.6269, 0.6849, 3.0])
def test_a_small_set_that_is_all_right(margin):
    """Its temperature balances the penalty; Newton's steps alone go round in circles there."""
    logits, labels = np.tile([0.0, margin], (5, 1)), np.ones(5, dtype=int)

    def penalised(inverse_log):
        return 5 * np.log1p(np.exp(-margin * np.exp(inverse_log))) + inverse_log**2 / 2

    best = optimize.minimize_scalar(penalised, bounds=(0, 4), method="bounded", options={"xatol": 1e-10}).x
    found = calibration.fit_temperature(logits, labels, np.arange(5), 5)
    assert found.temperature == pytest.approx(np.exp(-best), rel=1e-5)
    together = calibration.refined_losses(np.stack([logits, -logits]), labels, np.arange(5), 5)
    np.testing.assert_allclose(together[0], found.refined)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_many_models_at_once_are_refined_as_each_alone(num_classes):
    """Also where the optimum is at an edge of the bracket, and where Newton's step leaves it."""
    logits, labels = drawn(60, num_classes, 2.0, 3)
    models = np.stack([logits, 0.01 * logits, 30 * logits, -logits, np.zeros_like(logits)])
    fold = calibration.assign_folds(np.arange(60) % 2, seed=1)
    expected = [calibration.fit_temperature(z, labels, fold, 5).refined for z in models]
    np.testing.assert_allclose(calibration.refined_losses(models, labels, fold, 5), expected, rtol=1e-9, atol=1e-12)


def test_scores_agree_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    logits, labels = drawn(200, 4, 2.0, 0)
    found = calibration.scores(logits, labels)
    probabilities = special.softmax(logits, axis=1)
    np.testing.assert_allclose(found.loss.mean(), metrics.log_loss(labels, probabilities))
    np.testing.assert_allclose(
        calibration.brier(logits, labels).estimate, ((probabilities - np.eye(4)[labels]) ** 2).sum(1).mean()
    )


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_temperature_is_scipys_minimum(scale):
    logits, labels = drawn(300, 5, scale, 1)

    def penalised(log_temperature):
        z = logits / np.exp(log_temperature)
        return (special.logsumexp(z, axis=1) - z[np.arange(300), labels]).sum() + log_temperature**2 / 2

    best = optimize.minimize_scalar(
        penalised, bounds=(-np.log(64), np.log(64)), method="bounded", options={"xatol": 1e-9}
    )
    found = calibration.decompose(logits, labels)
    np.testing.assert_allclose(found.temperature, np.exp(best.x), rtol=1e-5)
    assert not found.at_edge


def test_refinement_is_each_example_at_the_other_folds_temperature():
    logits, labels = drawn(100, 3, 3.0, 2)
    found = calibration.decompose(logits, labels, folds=4, seed=5)
    fold = calibration.assign_folds(logits.argmax(axis=1) == labels, folds=4, seed=5)
    for k in range(4):
        rest = calibration.decompose(logits[fold != k], labels[fold != k])
        np.testing.assert_allclose(found.fold_temperatures[k], rest.temperature, rtol=1e-6)
        scaled = calibration.scores(logits[fold == k] / rest.temperature, labels[fold == k])
        np.testing.assert_allclose(found.refined[fold == k], scaled.loss, rtol=1e-6)
    np.testing.assert_allclose(found.loss.estimate, found.refinement.estimate + found.calibration.estimate)


def test_an_edge_is_reported():
    rng = np.random.default_rng(3)
    noise = 1e4 * rng.normal(size=(400, 2))  # labels have nothing to do with huge logits
    assert calibration.decompose(noise, rng.integers(0, 2, 400)).at_edge


def test_a_small_accurate_set_does_not_run_to_the_edge():
    logits = 3.0 * np.eye(3)[np.arange(12) % 3]
    found = calibration.decompose(logits, np.arange(12) % 3, folds=3)
    assert not found.at_edge
    assert found.temperature < 1


def test_a_constant_added_to_an_examples_logits_changes_nothing():
    logits, labels = drawn(150, 4, 2.0, 4)
    moved = logits + 100 * np.random.default_rng(4).normal(size=(150, 1))
    base, found = calibration.decompose(logits, labels), calibration.decompose(moved, labels)
    np.testing.assert_allclose(found.refined, base.refined, rtol=1e-8)
    np.testing.assert_allclose(found.calibration.high, base.calibration.high, rtol=1e-6)


def test_folds_are_even_within_strata():
    strata = np.random.default_rng(5).random(203) < 0.1
    fold = calibration.assign_folds(strata, folds=5, seed=1)
    for part in (strata, ~strata, np.ones(203, bool)):
        counts = np.bincount(fold[part], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert (fold != calibration.assign_folds(strata, folds=5, seed=2)).any()


def parts(logits, labels):
    """Losses and fit of ``decompose``: to resample the loss and the refinement takes nine tenths of its time."""
    measured = calibration.scores(logits, labels)
    fold = calibration.assign_folds(measured.correct)
    return measured.loss, calibration.fit_temperature(logits, labels, fold, 5)


def test_a_decomposition_is_its_parts():
    logits, labels = drawn(200, 3, 1.15, 0)
    found, (losses, fit) = calibration.decompose(logits, labels), parts(logits, labels)
    assert found.calibration == calibration.calibration_interval(losses, fit)
    assert found.refinement == mean_interval(fit.refined)
    assert found.loss == mean_interval(losses)


def test_calibration_of_a_calibrated_model_is_rarely_above_zero():
    above = 0
    for seed in range(200):
        above += calibration.calibration_interval(*parts(*drawn(200, 3, 1.0, seed))).low > 0
    assert above <= 8


def test_bounds_of_calibration_are_those_of_the_gain_in_sample():
    """By finite differences of the loss in log T: κ = V/H."""
    logits, labels = drawn(300, 3, 2.5, 6)
    found, count, step = calibration.decompose(logits, labels), 300, 1e-4

    def losses(log_temperature):
        return calibration.scores(logits / np.exp(log_temperature), labels).loss

    at = np.log(found.temperature)
    slopes = (losses(at + step) - losses(at - step)) / (2 * step)
    curvature = ((losses(at + step) - 2 * losses(at) + losses(at - step)) / step**2).mean() + 1 / count
    gains, kappa = losses(0.0) - losses(at), np.mean(slopes**2) / curvature
    variance, optimism, z = gains.var(ddof=1) / count, kappa / (2 * count), 1.959964
    low = gains.mean() - optimism - z * np.sqrt(variance + 2 * optimism**2)
    high = gains.mean() + z * np.sqrt(variance) + z**2 * optimism
    np.testing.assert_allclose([found.calibration.low, found.calibration.high], [low, high], rtol=1e-5)


@pytest.mark.parametrize("right", [1.0, 0.0, 0.5])
def test_calibration_lies_within_its_bounds_where_examples_are_alike(right):
    """All as right or as wrong, or copies of one of each: what parts the cross-fitted estimate is the penalty alone."""
    logits, labels = np.tile([4.0, 0.0, -1.0], (40, 1)), np.where(np.arange(40) < 40 * right, 0, 1)
    found = calibration.decompose(logits, labels).calibration
    assert found.low <= found.estimate <= found.high


def test_small_calibration_losses_are_covered_too():
    """Where nC is about 2κ, the worst place of the symmetric interval: it covers 88 %."""
    logits, labels = drawn(400_000, 3, 1.15, 10_000)
    truth = np.mean(calibration.scores(logits, labels).loss - calibration.scores(logits / 1.15, labels).loss)
    assert 1 < 300 * truth < 4
    covered = sum(
        not calibration.calibration_interval(*parts(*drawn(300, 3, 1.15, seed))).excludes(truth) for seed in range(400)
    )
    assert covered / 400 > 0.92


def test_calibration_and_refinement_cover_their_population_values():
    """Population values of the temperature family, from 400,000 draws of the same teacher."""
    logits, labels = drawn(400_000, 3, 2.5, 10_000)
    truth = calibration.scores(logits / 2.5, labels).loss.mean()
    calibration_loss = calibration.scores(logits, labels).loss.mean() - truth
    covered = np.zeros(2)
    for seed in range(200):
        losses, fit = parts(*drawn(300, 3, 2.5, seed))
        found = mean_interval(fit.refined), calibration.calibration_interval(losses, fit)
        covered += [not found[0].excludes(truth), not found[1].excludes(calibration_loss)]
    assert (covered / 200 > 0.89).all()


def test_expected_calibration_error_by_hand():
    """Two bins: confidences 0.6 with 1 of 2 right, 0.9 with 2 of 2 right."""
    logits = np.log([[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.9, 0.1]])
    found = ece(logits, np.array([0, 1, 0, 0]), bins=10)
    np.testing.assert_allclose(found.estimate.estimate, 0.5 * 0.1 + 0.5 * 0.1)
    by_mass = ece(logits, np.array([0, 1, 0, 0]), bins=1, scheme="mass")
    np.testing.assert_allclose(by_mass.estimate.estimate, 0.0, atol=1e-12)
    squared = ece(logits, np.array([0, 1, 0, 0]), bins=10, debias=True)
    np.testing.assert_allclose(squared.estimate.estimate, 0.5 * (0.01 - 0.25) + 0.5 * 0.01)


@pytest.mark.parametrize("debias", [False, True])
def test_ties_in_bins_of_equal_mass_do_not_depend_on_the_order_of_examples(debias):
    rng = np.random.default_rng(0)
    confidence = rng.integers(1, 12, 203) / 12
    correct = rng.random(203) < 0.8 * confidence

    def mass(order):
        found = confidence_error(confidence[order], correct[order], scheme="mass", debias=debias)
        return [found.estimate.estimate, found.estimate.high - found.estimate.low, found.null_mean]

    expected = mass(np.arange(203))
    for order in (np.argsort(correct), np.argsort(~correct), rng.permutation(203)):
        moved = mass(order)
        np.testing.assert_allclose(moved[0], expected[0], atol=1e-12)
        np.testing.assert_allclose(moved[1:], expected[1:], rtol=0.15, atol=0.003)  # they are drawn


@pytest.mark.parametrize("debias", [False, True])
def test_bins_that_share_one_confidence_are_as_one(debias):
    """90 of 100 right at a confidence of 0.9, sorted by correctness: no error. 80 of them: the error of the whole."""
    for right in (90, 80):
        confidence, correct = np.full(100, 0.9), np.arange(100) < right
        many, one = (confidence_error(confidence, correct, bins=b, scheme="mass", debias=debias) for b in (15, 1))
        gap, rate = 0.9 - right / 100, right / 100
        expected = gap**2 - rate * (1 - rate) / 99 if debias else gap
        for found in (many, one):
            np.testing.assert_allclose(found.estimate.estimate, expected, atol=1e-12)
        np.testing.assert_allclose(many.null_mean, one.null_mean, atol=1e-12)
        assert many.p_value == one.p_value


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    """0.5, exactly, twice right, and 0.7 once wrong: the first bin's gap is 0.5, the second's 0.7."""
    logits = np.array([[0.0, 0.0], [0.0, 0.0], [np.log(0.7), np.log(0.3)]])
    found = ece(logits, np.array([0, 0, 1]), bins=2)
    np.testing.assert_allclose(found.estimate.estimate, (2 * 0.5 + 0.7) / 3)


def test_confidence_one_belongs_to_the_last_bin():
    logits = np.array([[800.0, 0.0]] * 4)
    assert ece(logits, np.array([0, 0, 0, 1])).estimate.estimate == 0.25


def test_a_calibrated_model_shows_its_null_mean():
    logits, labels = drawn(1000, 3, 1.0, 6)
    found = ece(logits, labels)
    assert found.null_mean > 0.01
    assert found.p_value > 0.01
    draws = [ece(*drawn(1000, 3, 1.0, seed)) for seed in range(7, 27)]
    np.testing.assert_allclose(found.null_mean, np.mean([draw.estimate.estimate for draw in draws]), rtol=0.15)
    # what the test does not reject is in the interval
    not_rejected = [draw for draw in draws if draw.p_value > 0.05]
    assert len(not_rejected) > 15
    assert all(draw.estimate.low <= 0 < draw.estimate.high for draw in not_rejected)
    squares = [ece(*drawn(1000, 3, 1.0, seed), debias=True).estimate.estimate for seed in range(7, 47)]
    assert abs(np.mean(squares)) < 2.5 * np.std(squares) / np.sqrt(40)


def test_over_confidence_is_found():
    for scheme in ("width", "mass"):
        found = ece(*drawn(1000, 3, 3.0, 8), scheme=scheme)
        assert found.p_value < 0.002
        assert found.estimate.low > 2 * found.null_mean


def test_groups_are_measured_apart():
    logits, labels = drawn(400, 3, 2.0, 9)
    groups = np.arange(400) % 2
    found = ece_by_group(logits, labels, groups)
    assert found[1].estimate == ece(logits[1::2], labels[1::2]).estimate


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((4, 2)), np.array([0, 1, 2, 0]), "0 … 1"),
        (np.zeros((4, 2)), np.array([0.0, 1, 1, 0]), "whole numbers"),
        (np.full((4, 2), np.nan), np.array([0, 1, 1, 0]), "finite"),
        (np.zeros((4, 2)), np.array([0, 1]), "example"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_input_is_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        calibration.decompose(logits, labels)
