"""Selection regret: searches by hand and in loops, what ties and non-finite scores do, and validation sizes."""

import itertools

import hypothesis
import jaxtyping
import numpy as np
import pytest
from hypothesis import strategies
from scipy import special, stats

from lossjax.analysis import calibration
from lossjax.analysis.resampling import two_way_interval
from lossjax.analysis.selection import selection_regret, validation_scores, winner_weights


@pytest.fixture
def unchecked(monkeypatch):
    """Without jaxtyping's import hook, should a test run have it: what a user meets is our own error."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def searches(num_searches, num_configs, seed, noise=1.0):
    """Loss and accuracy, on validation, test and a third split: accuracies are much the noisier."""
    rng = np.random.default_rng(seed)
    quality = rng.normal(size=(num_searches, num_configs))

    def split():
        error = rng.normal(size=(2, *quality.shape))
        return {"loss": -quality + 0.2 * noise * error[0], "accuracy": 0.7 + 0.1 * (quality + noise * error[1])}

    return [split() for _ in range(3)]


def test_a_search_by_hand():
    validation = {"loss": np.array([[0.3, 0.2, 0.4], [0.5, 0.6, 0.4]]), "accuracy": np.array([[0.9, 0.8, 0.7]] * 2)}
    test = {"loss": np.array([[0.35, 0.3, 0.45], [0.5, 0.7, 0.6]]), "accuracy": np.array([[0.85, 0.8, 0.6]] * 2)}
    third = {"loss": np.array([[0.3, 0.4, 0.5], [0.5, 0.6, 0.7]]), "accuracy": np.array([[0.1, 0.2, 0.3]] * 2)}
    found = selection_regret(validation, test, oracle=third)
    # loss selects 1 and 2, accuracy 0 and 0
    np.testing.assert_allclose(found.judged.estimate, [[(0.3 + 0.6) / 2, (0.8 + 0.6) / 2], [(0.35 + 0.5) / 2, 0.85]])
    np.testing.assert_allclose(found.difference.estimate[0, 1], [0.45 - 0.425, 0.7 - 0.85])
    np.testing.assert_allclose(found.difference.estimate[1, 0], -found.difference.estimate[0, 1])
    # the oracle takes 0 and 0 by loss, 2 and 2 by accuracy
    np.testing.assert_allclose(found.regret.estimate, [[0.45 - 0.425, 0.6 - 0.7], [0, 0.6 - 0.85]])
    np.testing.assert_allclose(found.optimism.estimate, [0.45 - (0.2 + 0.4) / 2, 0.9 - 0.85])


def test_intervals_are_paired_over_searches():
    validation, test, third = searches(15, 8, 0)
    found = selection_regret(validation, test, oracle=third)
    rows = np.arange(15)
    chosen = {"loss": validation["loss"].argmin(axis=1), "accuracy": validation["accuracy"].argmax(axis=1)}
    by_loss, by_accuracy = (test["accuracy"][rows, chosen[name]] for name in ("loss", "accuracy"))
    expected = stats.ttest_rel(by_loss, by_accuracy).confidence_interval(0.95)
    difference = found.difference[0, 1, 1]
    np.testing.assert_allclose([difference.low, difference.high], [expected.low, expected.high])
    regret = test["accuracy"][rows, third["accuracy"].argmax(axis=1)] - by_loss
    low, high = stats.t.interval(0.95, 14, regret.mean(), stats.sem(regret))
    np.testing.assert_allclose([found.regret[0, 1].low, found.regret[0, 1].high], [low, high])
    assert found.num_searches == 15


def test_the_less_noisy_metric_selects_better_and_looks_less_too_good():
    validation, test, third = searches(200, 20, 1, noise=2.0)
    found = selection_regret(validation, test, oracle=third)
    for judge in range(2):
        worse = found.difference[1, 0, judge] if judge == 0 else found.difference[0, 1, judge]
        assert worse.low > 0  # selected by accuracy: a higher loss; selected by loss: a higher accuracy
    assert found.optimism[1].low > 0.05
    # an oracle that goes by accuracy is no better than the choice by accuracy, one that goes by loss is
    assert not found.regret[1, 1].excludes(0.0)
    assert found.regret[1, 0].low > 0


def test_ties_are_chosen_equally_often():
    validation = {"accuracy": np.array([[0.9, 0.9, 0.5], [0.8, 0.8, 0.8]])}
    test = {"loss": np.array([[1.0, 2.0, 9.0], [3.0, 6.0, 9.0]])}
    found = selection_regret(validation, test)
    np.testing.assert_allclose(found.judged.estimate, [[(1.5 + 6.0) / 2]])
    assert np.isnan(found.optimism.estimate).all()
    assert found.regret is None


@hypothesis.given(seed=strategies.integers(0, 1000))
@hypothesis.settings(max_examples=10, deadline=None)
def test_the_order_of_configurations_does_not_matter(seed):
    validation, test, _ = searches(6, 5, seed)
    validation["accuracy"] = np.round(validation["accuracy"], 1)  # with ties
    order = np.random.default_rng(seed).permutation(5)
    base = selection_regret(validation, test)
    moved = selection_regret(*({name: v[:, order] for name, v in split.items()} for split in (validation, test)))
    np.testing.assert_allclose(moved.judged.estimate, base.judged.estimate)
    np.testing.assert_allclose(moved.difference.low, base.difference.low)
    # by any increasing function of the loss the same is selected
    stretched = selection_regret(validation | {"loss": np.exp(validation["loss"])}, test)
    np.testing.assert_array_equal(stretched.judged.estimate, base.judged.estimate)


def test_what_is_not_finite_ranks_last():
    validation, test, _ = searches(30, 6, 2)
    broken, worst = ({name: values.copy() for name, values in validation.items()} for _ in range(2))
    broken["loss"][:, 3] = np.nan
    broken["accuracy"][:, 3] = np.inf
    worst["loss"][:, 3], worst["accuracy"][:, 3] = 1e9, -1e9
    judged = {name: np.where(np.arange(6) == 3, np.nan, values) for name, values in test.items()}
    found, expected = selection_regret(broken, judged), selection_regret(worst, test)
    np.testing.assert_array_equal(found.judged.low, expected.judged.low)
    assert not found.nonfinite.any()


def test_a_search_without_a_finite_choice_is_counted():
    validation, test, _ = searches(10, 3, 3)
    validation["loss"][4] = np.nan
    test["loss"][4, 1] = np.nan
    found = selection_regret(validation, {"loss": test["loss"]})
    assert found.nonfinite[0] == 0.1
    rows = np.delete(np.arange(10), 4)
    expected = np.take_along_axis(test["loss"], validation["loss"].argmin(axis=1)[:, None], axis=1)[rows].mean()
    np.testing.assert_allclose(found.judged.estimate[0, 0], expected)


def test_validation_sizes_lead():
    splits = [searches(12, 5, seed) for seed in (4, 5)]
    validation = {name: np.stack([split[0][name] for split in splits]) for name in ("loss", "accuracy")}
    test, third = splits[0][1:]
    found = selection_regret(validation, test, oracle=third)
    assert found.difference.shape == (2, 2, 2, 2)
    assert found.nonfinite.shape == (2, 2)
    for size in range(2):
        alone = selection_regret({name: values[size] for name, values in validation.items()}, test, oracle=third)
        for part in ("judged", "difference", "regret", "optimism"):
            np.testing.assert_allclose(getattr(found, part).low[size], getattr(alone, part).low)


def test_scores_of_nested_validation_sets():
    rng = np.random.default_rng(6)
    truth = rng.normal(size=(60, 3))
    labels = special.softmax(truth, axis=1).argmax(axis=1)
    logits = np.stack([scale * (truth + rng.normal(size=truth.shape)) for scale in (0.5, 3.0, 1.0)])
    logits[2, 0, 0] = np.nan
    found = validation_scores(logits, labels, [20, 60], seed=1)
    whole = calibration.decompose(logits[1], labels, seed=1)
    measured = calibration.scores(logits[1], labels)
    np.testing.assert_allclose(found["loss"][1, 1], measured.loss.mean())
    np.testing.assert_allclose(found["accuracy"][1, 1], measured.correct.mean())
    np.testing.assert_allclose(found["brier"][1, 1], measured.brier.mean())
    # the folds are dealt to other examples, so this is the same only nearly
    np.testing.assert_allclose(found["refinement"][1, 1], whole.refinement.estimate, rtol=0.05)
    chosen = np.random.default_rng(1).permutation(60)[:20]
    np.testing.assert_allclose(found["loss"][0, 0], calibration.scores(logits[0, chosen], labels[chosen]).loss.mean())
    assert all(np.isnan(values[:, 2]).all() for values in found.values())
    assert found["refinement"][1, 1] < found["loss"][1, 1]
    with pytest.raises(ValueError, match="sizes has 61"):
        validation_scores(logits, labels, [61])


def test_configurations_that_are_compared_share_their_folds():
    rng = np.random.default_rng(8)
    labels = rng.integers(0, 3, size=40)
    logits = 2 * rng.normal(size=(4, 40, 3))
    logits[3, 7] = np.inf
    found = validation_scores(logits, labels, [40], seed=2)
    order = np.random.default_rng(2).permutation(40)
    logits, labels = logits[:3, order], labels[order]
    often = (logits.argmax(axis=2) == labels).sum(axis=0)
    fold = calibration.assign_folds(often, seed=2)
    expected = [calibration.fit_temperature(z, labels, fold, 5).refined.mean() for z in logits]
    np.testing.assert_allclose(found["refinement"][0], [*expected, np.nan], rtol=1e-7)


def test_intervals_over_clusters_of_searches():
    """Two searches in each cluster that find the same: as many units as clusters."""
    validation, test, third = searches(30, 5, 9)
    twice = [{name: np.repeat(values, 2, axis=0) for name, values in s.items()} for s in (validation, test, third)]
    found = selection_regret(*twice[:2], oracle=twice[2], clusters=np.repeat(np.arange(30), 2))
    once = selection_regret(validation, test, oracle=third)
    for part in ("judged", "difference", "regret", "optimism"):
        np.testing.assert_allclose(getattr(found, part).low, getattr(once, part).low)
    assert found.num_searches == 60
    alone = selection_regret(*twice[:2])
    assert alone.difference[0, 1, 1].high < found.difference[0, 1, 1].high


@pytest.mark.parametrize("size", [1, 2, 4, 6])
def test_winners_of_every_subset(size):
    scores = np.array([[0.3, 0.9, 0.5, 0.5, np.nan, 0.1], [0.2, 0.2, 0.2, 0.1, np.inf, np.nan]])
    expected = np.zeros_like(scores)
    for row, values in zip(expected, np.where(np.isfinite(scores), scores, -1.0), strict=True):
        for subset in itertools.combinations(range(6), size):
            tied = [config for config in subset if values[config] == max(values[list(subset)])]
            row[tied] += 1 / len(tied)
        row /= row.sum()
    np.testing.assert_allclose(winner_weights(scores, size, higher=True), expected)
    np.testing.assert_allclose(winner_weights(-scores, size), expected)


def test_a_winner_of_one_is_any_and_of_all_the_best():
    scores = np.random.default_rng(10).normal(size=(3, 2, 7))
    np.testing.assert_allclose(winner_weights(scores, 1), 1 / 7)
    np.testing.assert_array_equal(winner_weights(scores, 7), scores == scores.min(axis=-1, keepdims=True))
    with pytest.raises(ValueError, match="size=8"):
        winner_weights(scores, 8)


def test_winners_among_thousands():
    """Half of 2,000 taken: the best wins with ½, the next with just over ¼; the numbers of cases are beyond floats."""
    weights = winner_weights(np.arange(2000.0), 1000)
    np.testing.assert_allclose(weights[:2], [0.5, 0.5 * 1000 / 1999])
    np.testing.assert_allclose(weights.sum(), 1.0)
    assert (weights[1001:] == 0).all()


def test_coverage_of_the_difference():
    truth, intervals = [], []
    for seed in range(150):
        validation, test, _ = searches(25, 6, 100 + seed)
        intervals.append(selection_regret(validation, test, seed=seed).difference[0, 1, 1])
        truth.append(intervals[-1].estimate)
    assert np.mean([not interval.excludes(np.mean(truth)) for interval in intervals]) > 0.88


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"judging": {}}, "at least"),
        ({"judging": {"loss": np.zeros((5, 3))}}, "shape"),
        ({"selecting": {"loss": np.zeros((4, 3)), "accuracy": np.zeros((4, 2))}}, "alike"),
        ({"oracle": {"accuracy": np.zeros((4, 3))}}, "every judge"),
    ],
)
def test_scores_that_do_not_match_are_refused(change, message):
    given = {"selecting": {"loss": np.zeros((4, 3))}, "judging": {"loss": np.zeros((4, 3))}} | change
    with pytest.raises(ValueError, match=message):
        selection_regret(given["selecting"], given["judging"], oracle=given.get("oracle"))


def test_examples_that_searches_share_are_sampled_too():
    """The judged difference, example by example, has the two-way interval of its table; clusters are averaged first."""
    rng = np.random.default_rng(3)
    validation, _, third = searches(60, 6, 3)
    right = (rng.random((60, 6, 80)) < rng.beta(6, 2, 80)).astype(float)
    loss = rng.exponential(size=(60, 6, 80))
    judging = {"loss": loss, "accuracy": right}
    clusters = np.repeat(np.arange(30), 2)
    found = selection_regret(validation, judging, oracle=third, clusters=clusters)
    means = {name: values.mean(axis=2) for name, values in judging.items()}
    fixed = selection_regret(validation, means, oracle=third, clusters=clusters)
    for name in ("judged", "difference", "regret", "optimism"):
        np.testing.assert_allclose(getattr(found, name).estimate, getattr(fixed, name).estimate, atol=1e-12)
    rows = np.arange(60)
    by = {"loss": validation["loss"].argmin(axis=1), "accuracy": validation["accuracy"].argmax(axis=1)}
    table = (right[rows, by["loss"]] - right[rows, by["accuracy"]]).reshape(30, 2, 80).mean(axis=1)
    expected, ours = two_way_interval(table), found.difference[0, 1, 1]
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), rel=0.1)
    assert ours.high - ours.low > 1.1 * (fixed.difference[0, 1, 1].high - fixed.difference[0, 1, 1].low)


def test_a_choice_that_broke_is_left_out_of_examples_too():
    validation = {"loss": np.tile([[0.3, 0.2]], (4, 1))}
    judging = {"loss": np.random.default_rng(0).exponential(size=(4, 2, 30))}
    judging["loss"][0, 1, 7] = np.nan
    found = selection_regret(validation, judging)
    assert found.nonfinite.tolist() == [0.25]
    assert found.judged.estimate[0, 0] == pytest.approx(judging["loss"][1:, 1].mean())
    with pytest.raises(ValueError, match="same examples"):
        selection_regret(validation, judging | {"accuracy": judging["loss"].mean(axis=2)})
