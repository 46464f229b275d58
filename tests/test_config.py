"""TrainConfig and Measure: when members are measured, and what is refused before anything starts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossjax.training.config import Measure, TrainConfig


def test_an_epoch_counts_its_short_batch():
    assert TrainConfig(16, epochs=3).steps_per_epoch(100) == 7
    assert TrainConfig(16, epochs=3).total_steps(100) == 21
    assert TrainConfig(16, epochs=3).steps_per_epoch(96) == 6
    assert TrainConfig(16, num_steps=10).total_steps(100) == 10


def test_one_evaluation_an_epoch_by_default():
    assert TrainConfig(16, epochs=3).eval_steps(100).tolist() == [0, 7, 14, 21]
    # training that ends within an epoch is measured at its end
    assert TrainConfig(16, num_steps=10).eval_steps(100).tolist() == [0, 7, 10]


@given(total=st.integers(1, 3000), data=st.data(), spacing=st.sampled_from(["linear", "log"]))
def test_evaluations_are_as_many_as_asked_distinct_and_end_at_the_last_step(total, data, spacing):
    num_evals = data.draw(st.integers(1, total))
    config = TrainConfig(1, num_steps=total, num_evals=num_evals, eval_spacing=spacing)
    steps = config.eval_steps(7)
    assert len(steps) == num_evals + 1
    assert (np.diff(steps) >= 1).all()
    assert steps[0] == 0
    assert steps[-1] == total


def test_log_spacing_starts_at_the_first_step_and_widens():
    steps = TrainConfig(1, num_steps=10_000, num_evals=5, eval_spacing="log").eval_steps(7)
    assert steps.tolist() == [0, 1, 10, 100, 1000, 10_000]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give exactly one of the two"),
        ({"epochs": 2, "num_steps": 5}, "give exactly one of the two"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"epochs": 1, "batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"epochs": 1, "num_evals": 0}, "num_evals=0 must be at least 1"),
        ({"epochs": 1, "num_evals": 1.5}, "num_evals=1.5 must be a whole number"),
        ({"epochs": 1, "optimizer": "adamax"}, "optimizer='adamax' is none of sgd, momentum, adam, adamw, lion"),
        ({"epochs": 1, "schedule": "linear"}, "schedule='linear' is none of"),
        ({"epochs": 1, "objective": "mse"}, "objective='mse' is none of"),
        ({"epochs": 1, "eval_spacing": "cubic"}, "eval_spacing='cubic' is none of linear, log"),
        ({"epochs": 1, "precision": "float64"}, "precision='float64' is none of"),
    ],
)
def test_a_config_that_cannot_be_trained_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{"batch_size": 4, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"splits": ("valid",)}, "splits names no split 'valid'; the splits are train, val, test"),
        ({"splits": ("train",), "logits": ("val",)}, r"records of \['val'\] are asked for but not measured"),
        ({"splits": ("train",), "per_example": ("test",)}, "add them to splits"),
        ({"bins": 0}, "bins=0 must be at least 1"),
        ({"folds": 1}, "folds=1 must be at least 2"),
        ({"quantiles": (0.5, 1.5)}, "must lie in"),
        ({"adjusted": float("inf")}, "adjusted=inf must be a finite number, or None"),
        ({"adjusted": "1"}, "adjusted='1' must be a finite number"),
        ({"quantiles": ("median",)}, "must lie in"),
        ({"budget_gib": "4"}, "budget_gib='4' must be a number > 0"),
        ({"budget_gib": 0}, "budget_gib=0 must be a number > 0"),
        ({"calibration": "no"}, "calibration='no' must be True or False"),
    ],
)
def test_measures_that_cannot_be_taken_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Measure(**arguments)


def test_more_steps_than_are_counted_are_refused():
    for config in (TrainConfig(1, num_steps=2**31, num_evals=2), TrainConfig(1, epochs=2**30)):
        with pytest.raises(ValueError, match="2147483648 steps are more than the 2147483647"):
            config.eval_steps(2)


def test_sizes_that_do_not_fit_the_data_are_refused():
    with pytest.raises(ValueError, match="batch_size=16 exceeds the 10 training examples; lower it"):
        TrainConfig(16, epochs=2).steps_per_epoch(10)
    with pytest.raises(ValueError, match="batch_size=16 exceeds the 10 training examples"):
        TrainConfig(16, num_steps=2).total_steps(10)
    with pytest.raises(ValueError, match="num_evals=50 exceeds num_steps=40; lower num_evals or train longer"):
        TrainConfig(4, num_steps=40, num_evals=50).eval_steps(10)


def test_lists_of_a_measure_become_tuples_so_that_it_can_be_a_key():
    measure = Measure(splits=["train", "val"], per_example=["val"])
    assert measure == Measure(splits=("train", "val"), per_example=("val",))
    assert hash(measure) == hash(Measure(splits=("train", "val"), per_example=("val",)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"splits": "train"}, "splits='train' must be a tuple"), ({"bins": 2.5}, "bins=2.5 must be at least 1, a whole")],
)
def test_a_measure_of_other_types_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Measure(**fields)


def test_a_config_takes_a_measure():
    with pytest.raises(ValueError, match="measure=None must be a Measure"):
        TrainConfig(4, epochs=3, measure=None)
