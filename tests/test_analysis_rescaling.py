"""Bias and vector scaling: SciPy's own minimum, known shifts of the class frequencies, and what must not matter."""

import numpy as np
import pytest
from scipy import optimize, special

from lossjax.analysis import rescaling
from lossjax.analysis.calibration import assign_folds


def drawn(num_examples, num_classes, seed=0):
    """Logits of the truth, and labels drawn from it."""
    rng = np.random.default_rng(seed)
    truth = 1.5 * rng.normal(size=(num_examples, num_classes))
    return truth, (truth + rng.gumbel(size=truth.shape)).argmax(axis=1)


def mean_loss(logits, labels):
    return -special.log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()


@pytest.mark.parametrize("repair", rescaling.REPAIRS)
def test_it_is_the_minimum_of_what_is_said(repair):
    """The objective written out anew, and minimised by another method without derivatives given."""
    truth, labels = drawn(60, 3)
    logits = 2 * truth + np.array([1.0, -1.0, 0.5])
    fold = assign_folds(np.zeros(60), folds=3)
    found = rescaling.repaired_losses(logits, labels, fold, repair)

    def repaired(values, x):
        own = np.exp(values[4:]) if repair == "vector" else 1.0
        return np.exp(values[0]) * own * x + values[1:4]

    x = np.log(special.softmax(logits, axis=1))
    for k in range(3):
        inside = fold != k

        def objective(values, inside=inside):
            return inside.sum() * mean_loss(repaired(values, x[inside]), labels[inside]) + np.sum(values**2) / 2

        best = optimize.minimize(objective, np.zeros(4 if repair == "bias" else 7), method="BFGS").x
        for i in np.flatnonzero(~inside):
            expected = mean_loss(repaired(best, x[i : i + 1]), labels[i : i + 1])
            assert found[i] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("repair", rescaling.REPAIRS)
def test_gradient(repair, monkeypatch):
    monkeypatch.setattr(rescaling, "_BLOCK", 30)  # several blocks, the last of them shorter
    truth, labels = drawn(47, 3)
    x = special.log_softmax(truth, axis=1)
    values = np.random.default_rng(1).normal(size=4 if repair == "bias" else 7) / 2
    error = optimize.check_grad(
        lambda v: rescaling._objective(v, x, labels, repair)[0],
        lambda v: rescaling._objective(v, x, labels, repair)[1],
        values,
    )
    assert error < 1e-4


def test_a_shift_of_class_frequencies_is_repaired_by_biases_alone():
    truth, labels = drawn(3000, 4)
    fold = assign_folds(np.zeros(3000))
    expected = mean_loss(truth, labels)
    shifted = truth + np.array([2.0, 0, -1, 0])
    assert mean_loss(shifted, labels) > expected + 0.2
    assert rescaling.repaired_losses(shifted, labels, fold, "bias").mean() == pytest.approx(expected, abs=3e-3)


def test_classes_of_other_scales_are_repaired_by_scales():
    truth, labels = drawn(3000, 4)
    fold = assign_folds(np.zeros(3000))
    log_probabilities = special.log_softmax(truth, axis=1)
    stretched = log_probabilities * np.array([3.0, 1, 0.4, 1])
    found = {name: rescaling.repaired_losses(stretched, labels, fold, name).mean() for name in rescaling.REPAIRS}
    assert found["vector"] < found["bias"] - 0.02
    assert found["vector"] < mean_loss(truth, labels) + 0.02  # not all of it: normalising has mixed the classes


def test_what_must_not_matter():
    """A constant added to an example's logits, the order of the classes, and other examples' own folds."""
    truth, labels = drawn(200, 3)
    fold = assign_folds(np.zeros(200))
    for repair in rescaling.REPAIRS:
        found = rescaling.repaired_losses(truth, labels, fold, repair)
        moved = truth + np.random.default_rng(0).normal(size=(200, 1))
        np.testing.assert_allclose(rescaling.repaired_losses(moved, labels, fold, repair), found, rtol=1e-4)
        turned = rescaling.repaired_losses(truth[:, ::-1], 2 - labels, fold, repair)
        np.testing.assert_allclose(turned, found, rtol=1e-3)


def test_a_class_that_no_example_has_stays_finite():
    truth, labels = drawn(100, 3)
    labels = np.minimum(labels, 1)
    for repair in rescaling.REPAIRS:
        assert np.isfinite(rescaling.repaired_losses(30 * truth, labels, assign_folds(labels), repair)).all()
