"""Baselines, against scikit-learn's classifiers that look at no input."""

import numpy as np
import pytest

from lossjax.analysis.baselines import class_prior, uniform
from lossjax.analysis.calibration import fit_temperature


def test_the_class_prior_is_scikit_learns_dummy_classifier() -> None:
    dummy = pytest.importorskip("sklearn.dummy")
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    train, labels = ((10 * rng.random(size) ** 2).astype(int) for size in (500, 300))
    model = dummy.DummyClassifier(strategy="prior").fit(np.zeros((500, 1)), train)
    inputs = np.zeros((300, 1))
    found = class_prior(np.bincount(train, minlength=10), labels, pseudo_count=0.0)
    expected = metrics.log_loss(labels, model.predict_proba(inputs), labels=np.arange(10))
    np.testing.assert_allclose(found.loss, expected, rtol=1e-12)
    np.testing.assert_allclose(found.accuracy, model.score(inputs, labels))
    balanced = metrics.balanced_accuracy_score(labels, model.predict(inputs))
    np.testing.assert_allclose(found.balanced_accuracy, balanced)
    fit = fit_temperature(np.log(model.predict_proba(inputs)), labels, np.arange(300) % 2, 2)
    np.testing.assert_allclose(found.refinement, fit.in_sample.mean(), atol=1e-7)


def test_a_class_never_trained_on_counts_once() -> None:
    found = class_prior(np.array([3, 0]), np.array([0, 1]))
    np.testing.assert_allclose(found.loss, -(np.log(4 / 5) + np.log(1 / 5)) / 2)
    with pytest.raises(ValueError, match="infinite loss; raise it"):
        class_prior(np.array([3, 0]), np.array([0, 1]), pseudo_count=0.0)
    with pytest.raises(ValueError, match="whole number in 0 … 1"):
        class_prior(np.array([3, 0]), np.array([0, 2]))


def test_uniform_is_chance() -> None:
    np.testing.assert_allclose(uniform(4), (np.log(4), 1 / 4, 1 / 4, np.log(4)))
    with pytest.raises(ValueError, match="at least 1"):
        uniform(0)
