"""Grids and random searches: which configurations they give, and what they refuse."""

import jax
import numpy as np
import pytest

from lossjax.hyperparams import FIELDS, Hyperparams, as_configs, grid, sample


def test_grid_is_every_combination_the_last_named_varying_fastest():
    configs = as_configs(grid(weight_decay=[0.0, 1e-2], learning_rate=[1e-3, 1e-2, 1e-1]))
    pairs = list(zip(configs["weight_decay"].tolist(), configs["learning_rate"].tolist(), strict=True))
    expected = [(decay, rate) for decay in (0.0, 1e-2) for rate in (1e-3, 1e-2, 1e-1)]
    np.testing.assert_allclose(pairs, expected, rtol=1e-6)
    assert all(array.dtype == np.float32 for array in configs.values())


def test_fields_that_nobody_gave_are_absent_from_the_tree():
    hyperparams = grid(learning_rate=1e-2, dropout=0.1)
    assert len(jax.tree.leaves(hyperparams)) == 2
    assert hyperparams.weight_decay is None
    assert list(as_configs(hyperparams)) == ["learning_rate", "dropout"]


def test_configs_come_in_the_order_of_fields_and_single_values_are_repeated():
    given = Hyperparams(dropout=np.array([0.0, 0.5]), learning_rate=0.01)
    configs = as_configs(given)
    assert list(configs) == [name for name in FIELDS if name in configs]
    assert configs["learning_rate"].tolist() == [np.float32(0.01)] * 2


def test_sample_lies_in_its_ranges_and_repeats_with_its_seed():
    drawn = as_configs(sample(500, seed=3, learning_rate=(1e-4, 1e-1), dropout=(0, 0.5), l2=1e-3, train_size=(3, 9)))
    again = as_configs(sample(500, seed=3, learning_rate=(1e-4, 1e-1), dropout=(0, 0.5), l2=1e-3, train_size=(3, 9)))
    other = as_configs(sample(500, seed=4, learning_rate=(1e-4, 1e-1), dropout=(0, 0.5), l2=1e-3, train_size=(3, 9)))
    assert all(np.array_equal(drawn[name], again[name]) for name in drawn)
    assert not np.array_equal(drawn["dropout"], other["dropout"])
    exponents = np.log10(drawn["learning_rate"])
    # uniform on [-4, -1]: four standard errors of the mean, 3 / sqrt(12 · 500)
    assert abs(exponents.mean() + 2.5) < 4 * 3 / np.sqrt(12 * 500)
    assert exponents.min() > -4.001
    assert exponents.max() < -0.999
    assert abs(drawn["dropout"].mean() - 0.25) < 4 * 0.5 / np.sqrt(12 * 500)
    assert set(drawn["l2"]) == {np.float32(1e-3)}
    assert set(drawn["train_size"]) <= set(range(3, 10))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learing_rate": 1e-2}, "no hyperparameter named 'learing_rate'; did you mean learning_rate?"),
        ({"zzz": 1.0}, "the hyperparameters are learning_rate, weight_decay"),
        ({"learning_rate": -1e-2}, "learning_rate=-0.01 must be > 0"),
        ({"learning_rate": [1e-2, 0.0]}, "learning_rate=0 must be > 0"),
        ({"learning_rate": np.nan}, "learning_rate=nan must be > 0"),
        ({"learning_rate": 1e39}, "learning_rate=inf must be > 0"),
        ({"learning_rate": []}, "non-empty"),
        ({"learning_rate": [[1e-2]]}, r"learning_rate has shape \(1, 1\)"),
        ({"learning_rate": 1e-2, "dropout": 1.0}, r"dropout=1 must be in \[0, 1\)"),
        ({"learning_rate": 1e-2, "weight_decay": -1e-3}, "weight_decay=-0.001 must be >= 0"),
        ({"learning_rate": 1e-2, "train_size": 2.5}, "train_size=2.5 must be a whole number"),
        ({"learning_rate": 1e-2, "label_noise": 1.1}, r"label_noise=1.1 must be in \[0, 1\]"),
        ({"learning_rate": 1e-2, "class_balance": 1.5}, r"class_balance=1.5 must be in \[0, 1\]"),
        ({"weight_decay": 1e-2}, "learning_rate is missing"),
        ({}, "learning_rate is missing"),
    ],
)
def test_grid_refuses_what_is_no_configuration(values, message):
    with np.errstate(over="raise"), pytest.raises(ValueError, match=message):
        grid(**values)


@pytest.mark.parametrize(
    ("num_configs", "ranges", "message"),
    [
        (0, {"learning_rate": (1e-3, 1e-2)}, "num_configs=0"),
        (4, {"learning_rate": (1e-2, 1e-3)}, "is not a range"),
        (4, {"learning_rate": (1e-3, 1e-2, 1e-1)}, "is not a range"),
        (4, {"dropout": (0.0, 0.5)}, "learning_rate is missing"),
    ],
)
def test_sample_refuses_what_is_no_range(num_configs, ranges, message):
    with pytest.raises(ValueError, match=message):
        sample(num_configs, seed=0, **ranges)


def test_fields_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="give one or as many each"):
        as_configs(Hyperparams(learning_rate=np.ones(3), dropout=np.zeros(2)))
