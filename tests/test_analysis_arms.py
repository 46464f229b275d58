"""Arms and pairs of them, on histories whose answer is known."""

import dataclasses

import numpy as np
import pytest
from histories import history_of

from lossjax.analysis.arms import PARTED, Stop, arm
from lossjax.analysis.contrasts import Limits, Pair
from lossjax.analysis.regimes import Flat
from lossjax.analysis.resampling import two_way_interval

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
    curves = {"loss": losses, "accuracy": level, "brier": losses, "refinement": losses}
    both = {f"{split}_{name}": curve for split in ("val", "test") for name, curve in curves.items()}
    return history_of(both, missing=missing, broke_at=50, **hyperparams)


UNTREATED = history(0.3)


def arm_of(history, stop=None):
    return arm(history, flat=Flat(loss=0.02, accuracy=0.02), stop=stop)


def test_an_arm_by_hand():
    one = arm_of(UNTREATED)
    assert one.mean("loss_paid").estimate == pytest.approx(0.3, abs=0.01)
    assert one.mean("accuracy_gained").estimate == pytest.approx(0.15)
    assert one.having(PARTED).all()
    # by 0.02 nats above the best, from the first evaluation after it
    assert set(one.onset.event) == {"onset"}
    assert set(one.onset.evaluation.tolist()) == {9}


def test_a_stopped_run_is_judged_where_it_stopped():
    stopped = arm_of(UNTREATED, stop=Stop("loss", "lowest", 2))
    # best at 8, stopped at 10: a quarter of the rise
    assert stopped.mean("loss_end").estimate == pytest.approx(0.675, abs=0.01)
    assert stopped.mean("loss_paid").estimate == pytest.approx(0.075, abs=0.01)
    assert stopped.mean("loss_best").estimate == pytest.approx(0.6, abs=0.01)
    assert stopped.onset is None  # which would have to be seen at three evaluations after the best
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


LIMITS = Limits(paid=0.01, parted=0.1, loss=0.01, accuracy=0.005, nonfinite=0.05)


def test_the_best_may_be_worse_by_no_more_than_the_limits():
    def best(treated, **changes):
        return Pair(arm_of(treated), arm_of(UNTREATED)).gate(LIMITS, **changes).outcome

    assert best(history(0.0, seed=1)) == "non-inferior"
    assert best(history(0.0, seed=1, dip=0.63)) == "inferior"
    assert best(history(0.0, seed=1, missing=4)) == "inferior"
    # in either direction it is the one that pays less that must not be worse
    assert best(history(0.5, seed=1, dip=0.63), either=True) == "non-inferior"
    assert best(history(0.5, seed=1, dip=0.55), either=True) == "inferior"
    # and its differences are those that are given
    turned = Pair(arm_of(history(0.5, seed=1, dip=0.63)), arm_of(UNTREATED)).gate(LIMITS, either=True)
    assert turned.turned
    assert turned.loss.estimate == pytest.approx(-0.03, abs=0.005)


def falling_late(by, seed=1):
    """Accuracy rises to the middle and then falls by this much to the end: beyond 2 pp a risen loss is W."""
    accuracy = np.interp(PROGRESS, [0, 0.5, 1], [0.6, 0.8, 0.8 - by])
    return history(0.3, accuracy=accuracy, seed=seed)


def says(pair, **changes):
    return pair.says(LIMITS, pair.p_values(LIMITS, **changes), **changes)


def test_a_run_whose_accuracy_falls_too_is_no_gain():
    pair = Pair(arm_of(falling_late(0.1)), arm_of(falling_late(0.0, seed=0)))
    assert (pair.untreated.share("O/K").estimate, pair.treated.share("W").estimate) == (1.0, 1.0)
    assert pair.parted.estimate == -1.0
    assert pair.rose.estimate == 0.0
    assert says(pair, rises=False)[1] == "supported"
    assert says(pair)[1] == "refuted"
    assert says(pair, either=True)[1] == "refuted"
    # what takes the loss's rise away is one
    assert says(Pair(arm_of(history(0.0, seed=1)), arm_of(UNTREATED))) == ("supported", "supported")


def test_what_one_temperature_repairs_is_told_from_what_it_does_not():
    whole = UNTREATED  # its refinement grows with its loss
    flat = {name: np.minimum(one, 0.6) if "refinement" in name else one for name, one in whole.metrics.items()}
    assert arm_of(whole).share_repaired.estimate == 0.0
    assert arm_of(dataclasses.replace(whole, metrics=flat)).share_repaired.estimate == 1.0


EXAMPLES = 300


def with_examples(history, seed=0, spread=0.5):
    """Records whose means over examples are the curves of loss, and accuracies that they round to."""
    rng = np.random.default_rng(seed)
    noise = spread * rng.standard_normal(EXAMPLES)
    noise -= noise.mean()
    away = history.metrics["test_loss"][..., None] * (1 + noise)
    right = np.arange(EXAMPLES) < np.round(EXAMPLES * history.metrics["test_accuracy"][..., None])
    records = {"test_example_loss": away.astype(np.float32), "test_example_correct": right}
    accuracy = {"test_accuracy": right.mean(axis=-1)}
    return dataclasses.replace(history, metrics=history.metrics | records | accuracy)


def test_shared_examples_are_sampled_too():
    one, other = (with_examples(each) for each in (history(0.1, seed=1), UNTREATED))
    pair = Pair(*(arm(each, flat=Flat(0.02, 0.02), shared_examples=True) for each in (one, other)))
    fixed = pair.over_seeds()
    crossed, alone = pair.mean("loss_paid"), fixed.mean("loss_paid")
    assert crossed.estimate == pytest.approx(alone.estimate, abs=1e-6)
    table = np.stack([arm_.examples["loss_paid"] for arm_ in (pair.treated, pair.untreated)])
    expected = two_way_interval((table[0] - table[1]).astype(float))
    assert (crossed.low, crossed.high) == pytest.approx((expected.low, expected.high))
    # the examples' part: 0.2 times their spread over sqrt(300)
    assert crossed.high - crossed.low == pytest.approx(2 * 1.96 * 0.2 * 0.5 / np.sqrt(EXAMPLES), rel=0.25)
    assert crossed.high - crossed.low > 3 * (alone.high - alone.low)
    assert pair.p_values(LIMITS)[0] > fixed.p_values(LIMITS)[0]


def test_a_share_of_runs_varies_with_the_examples_by_which_it_is_told():
    """A loss that rises by just what counts: other examples would tell other runs."""
    barely, well = (
        arm(with_examples(history(rise), spread=5), flat=Flat(0.02, 0.02), shared_examples=True) for rise in (0.02, 0.3)
    )
    pair = Pair(barely, well)
    assert pair.parted.estimate == pair.over_seeds().parted.estimate
    assert pair.parted.high - pair.parted.low > 1.5 * (pair.over_seeds().parted.high - pair.over_seeds().parted.low)
    weights = np.full((1, EXAMPLES), 1 / EXAMPLES)
    for one in (barely, well):
        for letters in (("O/K",), ("O/K", "W")):
            assert one.resampled_share(letters, weights)[0] == pytest.approx(one.having(letters).mean(), abs=0.05)
