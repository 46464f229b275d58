"""Arms and pairs of them, on histories whose answer is known."""

import dataclasses

import numpy as np
import pytest

import lossjax as lj
from lossjax.analysis.arms import Limits, Pair, Stop, arm
from lossjax.analysis.regimes import Flat

SEEDS, EVALS = 40, 17
PROGRESS = np.linspace(0, 1, EVALS)
ACCURACY = 0.6 + 0.3 * PROGRESS  # rises to the end, where it is highest: t_A is the last evaluation


def history(rise, *, dip=0.6, accuracy=ACCURACY, missing=0, seed=0, **hyperparams):
    """The loss falls to ``dip`` in the middle, then rises by ``rise`` to the end, give or take 0.005 a seed."""
    rng = np.random.default_rng(seed)
    shape = np.where(PROGRESS < 0.5, 0.7 + (dip - 0.7) * 2 * PROGRESS, dip + rise * 2 * (PROGRESS - 0.5))
    after = np.maximum(PROGRESS - 0.5, 0) * 2
    losses = shape + 0.005 * rng.standard_normal((SEEDS, 1)) * after
    level = np.broadcast_to(accuracy, (SEEDS, EVALS)).astype(float)
    metrics = {}
    for split in ("val", "test"):
        metrics |= {f"{split}_loss": losses, f"{split}_accuracy": level}
        metrics |= {f"{split}_brier": losses, f"{split}_refinement": losses}
    status = np.full(SEEDS, -1, np.int32)
    status[:missing] = 40
    metrics = {name: np.where((status >= 0)[:, None] & (PROGRESS > 0.3), np.nan, one) for name, one in metrics.items()}
    return lj.History(
        metrics=metrics,
        steps=np.arange(EVALS) * 10,
        seeds={"data": np.arange(SEEDS, dtype=np.uint32)},
        hyperparams={name: np.full(SEEDS, value, np.float32) for name, value in hyperparams.items()},
        nonfinite_step=status,
        info={"steps_per_epoch": 10, "num_classes": 2},
    )


UNTREATED = history(0.3)


def arm_of(history, stop=None):
    return arm(history, flat=Flat(loss=0.02, accuracy=0.02), stop=stop)


def test_an_arm_by_hand():
    one = arm_of(UNTREATED)
    assert one.mean("loss_paid").estimate == pytest.approx(0.3, abs=0.01)
    assert one.mean("accuracy_gained").estimate == pytest.approx(0.15)
    assert one.parted.all()
    # by 0.02 nats above the best, from the first evaluation after it
    assert set(one.onset.event) == {"onset"}
    assert set(one.onset.evaluation.tolist()) == {9}


def test_a_stopped_run_is_judged_where_it_stopped():
    stopped = arm_of(UNTREATED, stop=Stop("loss", "lowest", 2))
    # best at 8, stopped at 10: a quarter of the rise
    assert stopped.mean("loss_end").estimate == pytest.approx(0.675, abs=0.01)
    assert stopped.mean("loss_paid").estimate == pytest.approx(0.075, abs=0.01)
    assert stopped.mean("loss_best").estimate == pytest.approx(0.6, abs=0.01)
    assert not stopped.onset.observed.any()  # never seen three evaluations running
    by_accuracy = arm_of(UNTREATED, stop=Stop("accuracy", "highest", 2))
    assert by_accuracy.mean("loss_end").estimate == pytest.approx(0.9, abs=0.01)


def test_arms_of_other_seeds_are_no_pair():
    other = dataclasses.replace(UNTREATED, seeds={"data": UNTREATED.seeds["data"] + 1})
    with pytest.raises(ValueError, match="same seeds"):
        Pair(arm_of(UNTREATED), arm_of(other))


def test_differences_are_of_the_pairs_that_stayed_finite():
    pair = Pair(arm_of(history(0.1, seed=1, missing=4)), arm_of(UNTREATED))
    assert len(pair.difference("loss_paid")) == SEEDS - 4
    assert pair.mean("loss_paid").estimate == pytest.approx(-0.2, abs=0.01)
    # a run that is not finite has not parted
    assert pair.parted.estimate == pytest.approx(-4 / SEEDS)


def test_the_best_may_be_worse_by_no_more_than_the_limits():
    limits = Limits(paid=0.01, parted=0.1, loss=0.01, accuracy=0.005, nonfinite=0.05)

    def best(treated, **changes):
        return Pair(arm_of(treated), arm_of(UNTREATED)).best(limits, **changes)

    assert best(history(0.0, seed=1)) == "non-inferior"
    assert best(history(0.0, seed=1, dip=0.63)) == "inferior"
    assert best(history(0.0, seed=1, missing=4)) == "inferior"
    # in either direction it is the one that pays less that must not be worse
    assert best(history(0.5, seed=1, dip=0.63), either=True) == "non-inferior"
    assert best(history(0.5, seed=1, dip=0.55), either=True) == "inferior"
