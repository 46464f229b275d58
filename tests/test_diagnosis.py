"""Diagnoses of models whose truth is known, what the sentences say of them, and the JSON contract."""

import dataclasses
import json
import math

import numpy as np
import pytest

import lossjax as lj
from lossjax.analysis.calibration import assign_folds
from lossjax.analysis.comparison import compare
from lossjax.diagnosis.measured import chosen_by_other_folds
from lossjax.diagnosis.page import to_page
from lossjax.diagnosis.text import to_text


def teacher(num_examples=2000, num_classes=4, seed=0, spread=1.5):
    """Logits of the truth and labels drawn from it."""
    rng = np.random.default_rng(seed)
    truth = spread * rng.normal(size=(num_examples, num_classes))
    return truth, (truth + rng.gumbel(size=truth.shape)).argmax(axis=1)


def run(scales, seed=0, noise=0.0, **size):
    """A run whose checkpoints are the truth at these scales, with some noise of their own."""
    truth, labels = teacher(seed=seed, **size)
    rng = np.random.default_rng(seed + 1)
    return np.stack([scale * (truth + noise * rng.normal(size=truth.shape)) for scale in scales]), labels


def test_over_confidence_is_found_and_repaired():
    truth, labels = teacher()
    found = lj.diagnose(truth, 3 * truth, labels)
    assert found.regime == "O"
    assert found.regime_detail == "O0"
    assert found.kind_resolved
    assert found.temperature["after"] == pytest.approx(3, rel=0.1)
    assert found.temperature["before"] == pytest.approx(1, rel=0.1)
    assert found.delta_accuracy.estimate == 0
    assert found.verdict.startswith("The loss rose by ")
    assert "wrong predictions became more confident" in found.verdict
    assert f"Dividing its logits by {found.temperature['after']:.3g} recovers all of it" in found.verdict
    assert "Keep the earlier model if its probabilities are used as they are." in found.recommendation
    assert "seed variance unobserved" in found.scope
    assert found.next_steps[0].action.startswith("Divide the logits of the later model by")


def test_it_is_the_comparison_that_is_told():
    """Every number is that of ``compare``, whatever the wording."""
    truth, labels = teacher(500, seed=3)
    rng = np.random.default_rng(3)
    a, b = truth + rng.normal(size=truth.shape), 2 * truth + rng.normal(size=truth.shape)
    counts = np.array([100, 100, 60, 40])
    groups = np.array([0, 1, 2, 2])[labels]  # the middles of the classes lie at 50, 150, 230 and 280 of 300
    expected = compare(a, b, labels, class_counts=counts, groups=groups)
    found = lj.diagnose(a, b, labels, train_counts=counts)
    for name in ("delta_loss", "delta_accuracy", "delta_refinement", "delta_calibration", "regime", "influence"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.regime_detail == expected.refinement
    assert {cell: change.change for cell, change in found.cells.items()} == expected.cells
    assert {cell: change.share for cell, change in found.cells.items()} == expected.cell_shares
    assert [group.delta_loss for group in found.groups] == list(expected.by_group.values())
    assert found.settling.needed_loss == expected.needed_loss


def test_cells_groups_and_parts_add_up():
    logits, labels = run([1, 2.5], noise=0.5)
    found = lj.diagnose(logits[0], logits[1], labels, train_counts=np.array([900, 300, 50, 2]))
    total = found.delta_loss.estimate
    assert sum(change.change.estimate for change in found.cells.values()) == pytest.approx(total)
    assert sum(change.share for change in found.cells.values()) == pytest.approx(1)
    assert sum(group.delta_loss.estimate for group in found.groups) == pytest.approx(total)
    assert sum(group.delta_accuracy.estimate for group in found.groups) == pytest.approx(found.delta_accuracy.estimate)
    assert found.delta_refinement.estimate + found.delta_calibration.estimate == pytest.approx(total)
    changes = [abs(example.change) for example in found.examples]
    assert len(changes) == 20
    assert changes == sorted(changes, reverse=True)


def test_an_example_is_told_as_it_is():
    truth, labels = teacher(300)
    other = truth.copy()
    other[7] = 0
    other[7, (labels[7] + 1) % 4] = 20  # one example becomes very wrong
    found = lj.diagnose(truth, other, labels, class_names=["a", "b", "c", "d"])
    first = found.examples[0]
    assert first.index == 7
    assert first.label == "abcd"[labels[7]]
    assert first.predicted_after == "abcd"[(labels[7] + 1) % 4]
    assert first.probability_after == pytest.approx(math.exp(-20), rel=1e-4)
    assert first.share == 1
    assert found.influence.few
    assert any("Look at the examples listed first" in step.action for step in found.next_steps)
    assert found.regime == "N"


@pytest.mark.parametrize(
    ("before", "after", "regime", "words"),
    [
        (1.0, 1.0, "N-e", "Neither loss nor accuracy changed"),
        (0.2, 1.0, "P-c", "accuracy stayed within ±0.5 points"),
    ],
)
def test_scale_alone_never_moves_accuracy(before, after, regime, words):
    truth, labels = teacher(3000)
    found = lj.diagnose(before * truth, after * truth, labels)
    assert found.regime_detail == regime
    assert words in found.verdict


def awkward():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    logits = rng.normal(size=(60, 3))
    masked = np.where(np.arange(3) == 2, np.finfo(np.float32).min, logits)
    certain = 1000 * np.eye(3)[labels]
    nothing = np.zeros((60, 3))
    return {
        "the same": (logits, logits, labels, {}),
        "no opinion": (nothing, logits, labels, {}),
        "no opinion twice": (nothing, nothing, labels, {}),
        "certain and right": (certain, 2 * certain, labels, {}),
        "masked classes": (masked, logits, labels, {}),
        "huge": (1e99 * logits, logits, labels, {}),
        "five examples": (logits[:5], logits[5:10], labels[:5], {}),
        "one class only": (logits, 2 * logits, 0 * labels, {"train_counts": [5, 0, 1]}),
        "two clusters": (logits, 2 * logits, labels, {"clusters": np.arange(60) % 2}),
        "whole numbers": ((9 * logits).astype(int), (3 * logits).astype(int), labels, {}),
        "half precision": (logits.astype(np.float16), logits.astype(np.float16)[:, ::-1], labels, {}),
        "clustered seeds": (
            np.stack([logits, 2 * logits, 3 * logits]),
            np.stack([logits + 0.1, 2 * logits]),
            labels,
            {"clusters": np.arange(60) // 2, "train_counts": [3, 2, 1]},
        ),
    }


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", awkward())
def test_awkward_models_have_an_answer_in_every_form(name):
    before, after, labels, more = awkward()[name]
    found = lj.diagnose(before, after, labels, **more)
    assert found.verdict in to_page(found, name).replace("&#39;", "'")
    assert finite(json.loads(found.to_json()))
    assert all(len(line) < 140 for line in to_text(found).splitlines())


def test_what_is_flat_is_not_called_undecided():
    truth, labels = teacher(60)
    found = lj.diagnose(truth, truth, labels)
    assert found.regime_detail == "N-u"  # 60 examples cannot show that accuracy is unchanged
    assert found.verdict.startswith("The loss stayed within ±0.005 nats (0 [0, 0] nats), and whether accuracy changed")
    assert found.regime_name == "undecided: whether accuracy moved cannot be told"


def test_better_and_worse():
    truth, labels = teacher(1500)
    noisy = truth + 2 * np.random.default_rng(1).normal(size=truth.shape)
    better = lj.diagnose(noisy, truth, labels)
    assert better.regime == "G"
    assert better.recommendation.startswith("Keep the later model: it is better by loss")
    worse = lj.diagnose(truth, noisy, labels)
    assert worse.regime == "W"
    assert worse.recommendation.startswith("Keep the earlier model: it is better by loss")


def test_too_few_examples_are_undecided_and_say_how_many_would_do():
    truth, labels = teacher(40)
    other = truth + 0.3 * np.random.default_rng(0).normal(size=truth.shape)
    found = lj.diagnose(truth, other, labels)
    assert found.regime_detail == "N-u"
    assert "undecided" in found.verdict.lower()
    assert any(step.action.startswith("Evaluate on more examples") for step in found.next_steps)
    assert any("40 examples are few" in note for note in found.notes)
    assert found.recommendation.startswith("Nothing here speaks for one over the other")


def test_two_models_in_no_order_are_turned_to_the_better_one():
    truth, labels = teacher(1500)
    noisy = truth + 2 * np.random.default_rng(1).normal(size=truth.shape)
    found = lj.diagnose(truth, noisy, labels, ordered=False)
    assert (found.before.name, found.after.name) == ("second", "first")
    assert found.regime == "G"
    assert found.delta_accuracy.low > 0
    mirrored = lj.diagnose(noisy, truth, labels, ordered=False)
    assert (mirrored.before.name, mirrored.after.name) == ("first", "second")
    assert mirrored.delta_loss == found.delta_loss


def test_clusters_are_resampled_whole():
    truth, labels = teacher(400)
    repeated, their_labels = np.repeat(truth, 5, axis=0), np.repeat(labels, 5)
    alone = lj.diagnose(truth, 3 * truth, labels)
    naive = lj.diagnose(repeated, 3 * repeated, their_labels)
    whole = lj.diagnose(repeated, 3 * repeated, their_labels, clusters=np.repeat(np.arange(400), 5))
    width = {
        name: d.delta_loss.high - d.delta_loss.low for name, d in (("alone", alone), ("whole", whole), ("naive", naive))
    }
    assert width["whole"] == pytest.approx(width["alone"], rel=0.1)
    assert width["naive"] < 0.6 * width["whole"]
    assert "clusters resampled whole" in whole.scope
    assert whole.settling.num_clusters == 400
    # what the temperature takes away has an interval over clusters too
    assert whole.after.calibration.estimate == pytest.approx(naive.after.calibration.estimate, rel=0.02)
    assert whole.after.calibration.low < alone.after.calibration.estimate < whole.after.calibration.high
    assert whole.next_steps[0].action.startswith("Divide the logits of the later model by")


def forgotten_class(num_examples=3000, seed=0):
    """Two classes told apart and a third that is right in a tenth of all cases, and never the most probable: (before,
    after, labels), where the later model gives the third a probability of 1 in 1,000."""
    rng = np.random.default_rng(seed)
    sign = rng.normal(size=num_examples)
    before = np.stack([2 * sign, -2 * sign, np.zeros(num_examples)], axis=1)
    before[:, 2] = np.logaddexp(before[:, 0], before[:, 1]) + np.log(0.1 / 0.9)
    labels = (before + rng.gumbel(size=before.shape)).argmax(axis=1)
    after = before.copy()
    after[:, 2] += np.log(0.01)
    return before, after, labels


def test_a_bias_for_each_class_repairs_what_a_temperature_does_not():
    before, after, labels = forgotten_class()
    found = lj.diagnose(before, after, labels)
    assert found.regime_detail == "K0"
    bias = found.repairs[0]
    assert bias.kind == "bias"
    assert abs(bias.left.estimate) < 0.005
    assert bias.contrast.low > 0
    # what it takes from the later model is the divergence of the truth from it
    p, q = np.array([0.9, 0.1]), np.array([0.9, 0.001]) / 0.901
    assert bias.gain.low < np.sum(p * np.log(p / q)) < bias.gain.high
    assert "A bias for each class, fitted with the temperature, makes up for it" in found.verdict
    assert any(step.action.startswith("Fit a bias for each class") for step in found.next_steps)
    assert {"kind", "num_examples", "left", "contrast", "gain"} == set(json.loads(found.to_json())["repairs"][0])


def test_what_no_scale_and_bias_repairs_is_said_to_be_so():
    truth, labels = teacher(3000)
    rng = np.random.default_rng(0)
    other = rng.permuted(truth, axis=1)
    top = truth.argmax(axis=1)  # the most probable class stays, the others change places
    best, at = other.argmax(axis=1), np.arange(3000)
    other[at, best], other[at, top] = other[at, top], other[at, best]
    found = lj.diagnose(truth, other, labels)
    assert found.regime_detail == "K0"
    assert all(repair.contrast.high < 0 for repair in found.repairs)
    assert "Nor does a scale and a bias for each class repair it." in found.verdict
    assert any(step.action.startswith("Look for what the later model has unlearned") for step in found.next_steps)


def test_richer_repairs_with_clusters_seeds_and_too_many_logits(monkeypatch):
    found = lj.diagnose(*forgotten_class(1200), clusters=np.arange(1200) // 2)
    assert found.regime == "K"
    assert found.repairs[0].contrast.low > 0
    before, after, labels = forgotten_class(600)
    found = lj.diagnose(np.stack([before] * 4), np.stack([0.98 * after, after] * 2), labels)
    assert found.regime == "K"
    assert abs(found.repairs[0].left.estimate) < 0.02
    monkeypatch.setattr("lossjax.diagnosis.repairs.MOST", {"bias": 1800, "vector": 80})
    found = lj.diagnose(before, after, labels)
    assert [(repair.kind, repair.num_examples) for repair in found.repairs] == [("bias", 600)]
    monkeypatch.setattr("lossjax.diagnosis.repairs.MOST", {"bias": 1500, "vector": 80})
    found = lj.diagnose(before, after, labels)
    assert [(repair.kind, repair.num_examples) for repair in found.repairs] == [("bias", 500)]
    assert abs(found.repairs[0].left.estimate) < 0.05
    assert any("fitted and judged on 500 examples at random" in line for line in found.evidence)
    monkeypatch.setattr("lossjax.diagnosis.repairs.MOST", {"bias": 80, "vector": 80})
    found = lj.diagnose(before, after, labels)
    assert found.repairs == ()
    assert "was not tried: with 3 classes it would take too long on these 600 examples" in found.verdict
    assert any("were not tried here" in step.because for step in found.next_steps)


def test_a_bias_that_costs_accuracy_is_found_too():
    truth, labels = teacher(800)
    found = lj.diagnose(truth, truth + np.array([2.0, 0, 0, 0]), labels)
    assert found.regime == "W"
    assert found.repairs[0].contrast.low > 0
    assert "A bias for each class, fitted with the temperature, makes up for it" in found.verdict
    assert any(step.action.startswith("Fit a bias for each class") for step in found.next_steps)


def test_too_little_confidence_is_not_called_too_much():
    truth, labels = teacher(1000)
    found = lj.diagnose(truth, truth / 8, labels)
    assert found.regime == "O"
    assert found.regime_name.startswith("under-confidence")
    assert "over-confidence" not in to_text(found)


def test_what_is_shown_equal_is_not_called_untold():
    truth, labels = teacher()
    found = lj.diagnose(truth, 3 * truth, labels)
    assert "By the loss after recalibration and accuracy they differ by less than counts." in found.verdict
    assert "cannot be told apart" not in found.verdict
    balanced = next(choice for choice in found.choices if choice.goal == "balanced")
    assert math.isnan(balanced.regret["after"].low)  # no width of 0 where no example is right with one alone
    same = lj.diagnose(truth, truth, labels)
    assert same.recommendation.endswith("they differ by less than counts. Choose by cost.")
    assert same.examples == same.classes == ()
    assert any("For the loss there is none" in line for line in same.evidence)
    assert not any("To show that nothing changed" in line or "0 nats with" in line for line in same.evidence)


def test_no_example_that_changed_sides_does_not_mean_that_none_are_needed():
    """Bonett and Price add two examples: n shows no change within ±δ where 1.645·√2/(n + 2) ≤ δ."""
    truth, labels = teacher(40)
    found = lj.diagnose(truth, 3 * truth, labels)
    needed = found.settling.needed_accuracy
    assert needed == pytest.approx(1.6449 * math.sqrt(2) / 0.005 - 2, rel=1e-3)
    assert any("at least 470 examples for accuracy" in step.action for step in found.next_steps)
    many = 5 * math.ceil(needed / 5)  # of them all are right with both models, or wrong with both
    wide, few = (lj.diagnose(z, 3 * z, y).settling.flat_accuracy for z, y in (teacher(many), teacher(many - 10)))
    assert wide <= 0.005 < few


def test_a_margin_of_nothing_needs_no_number_of_examples():
    truth, labels = teacher(100)
    found = lj.diagnose(truth, 3 * truth, labels, flat_loss=0, flat_accuracy=0)
    assert found.settling.needed_loss is found.settling.needed_accuracy is None


def test_the_class_that_carries_a_rise_is_named():
    truth, labels = teacher(800, 10)
    worse = truth.copy()
    worse[labels == 7, 7] -= 2
    found = lj.diagnose(truth, worse, labels)
    share = np.mean(labels == 7)
    assert found.classes[0].name == "class 7"
    assert found.classes[0].num_examples == np.sum(labels == 7)
    assert sum(one.delta_loss for one in found.classes) == pytest.approx(found.delta_loss.estimate)
    assert f"The examples of class 7 alone, {100 * share:.1f} % of all, carry all of it." in found.verdict
    step = next(step for step in found.next_steps if step.action.startswith("Look at class 7"))
    before, after = (np.mean(z[labels == 7].argmax(axis=1) == 7) for z in (truth, worse))
    assert f"{100 * before:.1f} % were right before and {100 * after:.1f} % after" in step.because
    # nor where it has all that is left of what several do, and others undo
    worse = truth + np.where(labels[:, None] == np.arange(10), [2, 2, 2, 0, 0, -2, 0, -2, -2, 0], 0)
    some = lj.diagnose(truth, worse, labels)
    assert max(one.delta_loss for one in some.classes) > 0.5 * some.delta_loss.estimate > 0
    assert not any(one.singled_out for one in some.classes)
    # where it is all classes alike, none is named
    assert "alone" not in lj.diagnose(truth, 3 * truth, labels).verdict


def test_answers_that_are_all_wrong_are_asked_about():
    labels = np.arange(100) % 3
    wrong = 5.0 * np.eye(3)[(labels + 1) % 3]
    found = lj.diagnose(wrong, 2 * wrong, labels)
    assert found.next_steps[0].action.startswith("See first that labels and logits are of the same examples")
    assert not any("Divide the logits" in step.action for step in found.next_steps)  # it would hide that
    assert sum("number the classes alike" in note for note in found.notes) == 2


def test_a_temperature_that_both_need_repairs_nothing():
    """The second is made worse, and both are four times too unsure: what each gains alone is no part of the rise."""
    truth, labels = teacher(800)
    noise = np.random.default_rng(1).normal(size=truth.shape)
    found = lj.diagnose(truth / 4, (truth + 1.5 * noise) / 4, labels)
    assert found.delta_refinement.low > 0.05
    assert "but a temperature lowers that of the earlier model too" in found.verdict
    assert "recovers" not in found.verdict


# Runs -----------------------------------------------------------------------------------------------------------------


def test_a_run_goes_from_its_lowest_loss_to_its_end():
    logits, labels = run([0.2, 0.6, 1.0, 2.0, 3.5])
    found = lj.diagnose(logits, labels=labels, steps=[0, 100, 200, 300, 400])
    assert found.kind == "run"
    assert (found.before.name, found.after.name) == ("step 200", "step 400")
    assert found.regime == "O"
    assert found.timing.lowest_loss == "step 200"
    assert found.timing.lowest_loss_set == ("step 200",)
    assert found.choices[0].keep == "step 200"
    assert found.choices[0].regret["the last checkpoint"].low > 0
    # the checkpoints differ in scale alone: for accuracy all are as good
    by_goal = {choice.goal: choice for choice in found.choices}
    assert len(by_goal["accuracy"].as_good) == 5
    assert [point.step for point in found.path] == [0, 100, 200, 300, 400]
    assert "Keep step 200 for probabilities as they are" in found.recommendation
    evidence = " ".join(found.evidence)
    assert "by accuracy no checkpoint is resolved as worse than another" in evidence
    assert "before the lowest loss" not in evidence


def test_the_temperature_told_is_of_the_checkpoint_to_keep():
    """The last is worse in ranking: for recalibrated probabilities another is kept, and its temperature matters."""
    truth, labels = teacher(1000)
    noise = np.random.default_rng(1).normal(size=truth.shape)
    found = lj.diagnose(np.stack([truth / 5, 2 * (truth + noise), 2 * (truth + 2 * noise)]), labels=labels)
    best = next(choice.keep for choice in found.choices if choice.goal == "recalibrated")
    assert best == "checkpoint 0"
    assert f"recalibrated ones (logits divided by {found.path[0].temperature:.3g})" in found.recommendation
    assert found.next_steps[0].action.startswith(f"Divide the logits of {best} by {found.path[0].temperature:.3g}")


def test_a_run_that_still_improves_is_judged_over_its_second_half():
    logits, labels = run([0.1, 0.3, 0.5, 0.7, 0.9], num_examples=4000)
    found = lj.diagnose(logits, labels=labels)
    assert (found.before.name, found.after.name) == ("checkpoint 2", "checkpoint 4")
    assert found.regime == "P"
    assert any(step.action == "Train longer." for step in found.next_steps)


def test_choosing_the_lowest_loss_does_not_flatter_it():
    """Twelve checkpoints that are equally good but for noise: the lowest loss less the last is biased, by more than
    ten standard errors over these draws; the cross-fitted choice is not by three."""
    rng = np.random.default_rng(0)
    naive, fair = [], []
    for _ in range(400):
        losses = rng.normal(size=(12, 200))
        fold = assign_folds(np.zeros(200), seed=0)
        chosen = losses[chosen_by_other_folds(losses, fold), np.arange(200)]
        naive.append(losses[-1].mean() - losses.mean(axis=1).min())
        fair.append((losses[-1] - chosen).mean())
    errors = np.std(fair, ddof=1) / np.sqrt(len(fair))
    assert np.mean(naive) > 10 * errors
    assert abs(np.mean(fair)) < 3 * errors


def test_seeds_of_a_run():
    one, labels = run([0.3, 1.0, 3.0], noise=0.2)
    rng = np.random.default_rng(0)
    logits = np.stack([one + 0.1 * rng.normal(size=one.shape) for _ in range(3)])
    found = lj.diagnose(logits, labels=labels)
    assert found.scope == "seeds×examples"
    assert found.settling.num_seeds == 3
    assert found.settling.smallest_p == 0.25
    # 3 seeds, however much they agree, are told to be too few, and nothing is kept, repaired or advised on them
    assert found.regime_detail == "N-u"
    assert "undecided: 3 pairs of seeds decide nothing at 95 %" in found.verdict
    assert "train more seeds" in found.recommendation
    assert found.regime_name == "undecided: whether the loss and accuracy moved cannot be told"
    assert not any(choice.resolved for choice in found.choices)
    assert [step.action for step in found.next_steps if step.action.startswith(("Stop", "Train"))] == [
        "Train with more seeds."
    ]
    assert any("It cannot be ruled out: 3 pairs" in line for line in found.evidence)
    assert found.before.name == "checkpoint 1"
    assert found.examples[0].predicted_after is None
    for example in found.examples:  # the two columns of the table agree
        ratio = example.probability_before / example.probability_after
        assert math.log(ratio) == pytest.approx(example.change)
    assert found.delta_loss.low > 0
    assert found.temperature["checkpoint 2"] == pytest.approx(3, rel=0.15)
    assert found.after.accuracy.high <= 1


def test_accuracies_of_few_seeds_stay_between_0_and_1():
    labels = np.arange(60) % 2
    right, wrong = 4.0 * np.eye(2)[labels], 4.0 * np.eye(2)[1 - labels]
    found = lj.diagnose(np.stack([right, wrong]), np.stack([right, right]), labels, train_counts=[3, 2])
    for value in (found.before.accuracy, *(choice.value for choice in found.choices[2:])):
        assert 0 <= value.low <= value.high <= 1
    for change in (found.delta_accuracy, *(regret for c in found.choices[2:] for regret in c.regret.values())):
        assert -1 <= change.low <= change.high <= 1
    assert found.delta_accuracy.estimate == 0.5


def test_seeds_of_two_recipes():
    truth, labels = teacher(600)
    rng = np.random.default_rng(0)
    a = np.stack([truth + 0.5 * rng.normal(size=truth.shape) for _ in range(4)])
    b = np.stack([3 * (truth + 0.5 * rng.normal(size=truth.shape)) for _ in range(3)])
    found = lj.diagnose(a, b, labels)
    assert found.scope == "seeds×examples"
    assert found.delta_loss.low > 0
    assert found.regime_detail == "N-u"
    assert "4 and 3 seeds decide nothing at 95 %: the least p of an exact test over them is 0.057" in to_text(found)


# The answer as data ---------------------------------------------------------------------------------------------------


def finite(value):
    if isinstance(value, dict):
        return all(finite(entry) for entry in value.values())
    if isinstance(value, list):
        return all(finite(entry) for entry in value)
    return not isinstance(value, float) or math.isfinite(value)


def test_the_json_keeps_its_contract():
    logits, labels = run([1, 3])
    found = lj.diagnose(logits[0], logits[1], labels)
    answer = json.loads(found.to_json())
    assert answer["schema"] == 1
    assert answer["regime"] == "O"
    for name in ("delta_loss", "delta_accuracy", "delta_calibration", "delta_refinement"):
        assert {"estimate", "low", "high"} <= set(answer[name])
        assert answer[name]["low"] <= answer[name]["estimate"] <= answer[name]["high"]
    assert set(answer["cells"]) == {"right→right", "right→wrong", "wrong→right", "wrong→wrong"}
    assert set(answer["cells"]["right→wrong"]) == {"estimate", "low", "high", "level", "share"}
    assert set(answer["temperature"]) == {"before", "after"}
    assert isinstance(answer["recommendation"], str)
    assert finite(answer)
    assert {field.name for field in dataclasses.fields(found)} == set(answer)


def test_the_same_input_gives_the_same_bytes():
    logits, labels = run([1, 3], noise=0.1)
    first, second = (lj.diagnose(logits[0], logits[1], labels) for _ in range(2))
    assert first.to_json() == second.to_json()
    assert to_text(first) == to_text(second)
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.verdict = ""


def test_the_text_begins_with_the_verdict_and_names_every_part():
    logits, labels = run([0.3, 1, 3])
    text = to_text(lj.diagnose(logits, labels=labels, train_counts=np.array([9, 5, 2, 1])))
    assert text.startswith("From checkpoint 1 to checkpoint 2, the loss rose")
    for heading in ("Regime O", "Evidence", "What was right", "By training frequency", "Examples that", "Which to keep",
                    "Path", "What to try next", "Notes"):  # fmt: skip
        assert f"\n{heading}" in text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z, y: lj.diagnose(z, z), "labels are missing"),
        (lambda z, y: lj.diagnose("a.npz"), "there is no file a.npz"),
        (lambda z, y: lj.diagnose(z, "a.npz", y), "there is no file"),
        (lambda z, y: lj.diagnose(z, z, y, level=1.5), "level=1.5"),
        (lambda z, y: lj.diagnose(z, z, y, flat_loss=-1), "flat_loss=-1"),
        (lambda z, y: lj.diagnose(z, z, y, seed=-1), "seed=-1 .* from 0 on"),
        (lambda z, y: lj.diagnose(z, np.where(z < 0, -np.inf, z), y), "or give -1e4 where a class is masked"),
    ],
)
def test_wrong_arguments(call, message):
    logits, labels = teacher(20)
    with pytest.raises(ValueError, match=message):
        call(logits, labels)


def test_accuracy_bought_for_frequent_classes_is_seen():
    """The second model prefers class 0, of which there are most training examples: the head gains, the tail loses."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(4000, 4)) + np.array([1.5, 0.5, 0, 0])
    labels = (truth + rng.gumbel(size=truth.shape)).argmax(axis=1)
    found = lj.diagnose(truth - np.array([2.0, 0, 0, 0]), truth + np.array([1.0, 0, 0, 0]), labels,
                        train_counts=np.array([100, 60, 40, 30]))  # fmt: skip
    groups = {group.name: group for group in found.groups}
    assert groups["head"].delta_accuracy.low > 0
    assert groups["tail"].delta_accuracy.high < 0
    assert any("class prior" in step.action for step in found.next_steps)
    assert "the earlier model if every class counts the same" in found.recommendation
    # the mean over classes of the share that is right, of both models
    balanced = next(choice for choice in found.choices if choice.goal == "balanced")
    values = {"before": balanced.value.estimate, "after": balanced.value.estimate}
    for name, regret in balanced.regret.items():
        values[name] -= regret.estimate
    for name, shift in (("before", -2.0), ("after", 1.0)):
        right = (truth + np.array([shift, 0, 0, 0])).argmax(axis=1) == labels
        assert values[name] == pytest.approx(np.mean([right[labels == k].mean() for k in range(4)]))
