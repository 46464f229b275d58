"""Variance between runs: effects of streams that are known, and runs whose errors are drawn as Jordan has them."""

import sys
from pathlib import Path

import numpy as np
import pytest

import lossjax as lj
from lossjax.analysis.components import sampling
from lossjax.analysis.spread import disagreement, seed_variance, spread_over_draws
from lossjax.keys import redrawn, seeds_by_stream
from lossjax.reports.report import read_findings, write_findings
from lossjax.sweeps.experiment import load_experiment

EXPERIMENT = load_experiment(Path(__file__).parents[1] / "experiments" / "seed_variance.py")
variance = sys.modules[EXPERIMENT.sweep.__module__]


def history(metrics, seeds, hyperparams=None, steps=(0, 16), classes=2):
    num_members = len(seeds)
    return lj.History(
        metrics=metrics,
        steps=np.array(steps),
        seeds=seeds_by_stream(seeds.table),
        hyperparams=hyperparams or {},
        nonfinite_step=np.full(num_members, -1, np.int32),
        info={"steps_per_epoch": 16, "num_classes": classes},
    )


def normals(seeds, effects, seed=0):
    """[member]: a normal a stream's seed times the stream's effect."""
    rng = np.random.default_rng(seed)
    total = np.zeros(len(seeds))
    for column, effect in zip(seeds.table.T, effects, strict=True):
        values, index = np.unique(column, return_inverse=True)
        total += effect * rng.normal(size=len(values))[index]
    return total


def calibrated(num_runs, num_examples, seed):
    """[run, example] 1 where correct: the share of runs that predict a class is its probability (two classes)."""
    rng = np.random.default_rng(seed)
    share = rng.beta(0.4, 0.4, size=num_examples)
    labels = rng.random(num_examples) < share
    return ((rng.random((num_runs, num_examples)) < share) == labels).astype(np.int64)


def test_runs_on_the_same_data_share_nothing_else():
    table = variance.runs_on_the_same_data(3, 4).table
    assert table[:, 0].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert all(len(np.unique(column)) == 12 for column in table.T[1:])


def test_components_of_known_effects():
    """Over 'teachers' whose streams explain 4 : 1 : 1 : 0 of the variance."""
    seeds = redrawn(200, all_anew=True)
    given = []
    for teacher in range(10):
        loss = normals(seeds, (2.0, 1.0, 1.0, 0.0), seed=teacher)
        examples = np.random.default_rng(teacher).normal(size=(len(seeds), 1, 50)) + loss[:, None, None]
        given.append(history({"test_loss": loss[:, None], "test_example_loss": examples}, seeds, steps=(16,)))
    found = variance.components(given, "loss")
    np.testing.assert_allclose([share.estimate for share in found.first], [4 / 6, 1 / 6, 1 / 6, 0], atol=0.05)
    np.testing.assert_allclose([share.estimate for share in found.total], [4 / 6, 1 / 6, 1 / 6, 0], atol=0.05)
    assert abs(found.interactions.estimate) < 0.08
    assert found.deviation.estimate == pytest.approx(np.sqrt(6), rel=0.05)
    assert found.sampling.estimate == pytest.approx((1 / 50) / 6, rel=0.1)


def test_components_of_one_data_set():
    seeds = redrawn(200, ("init", "order"), all_anew=True)
    accuracy = normals(seeds, (0.0, 3.0, 1.0, 0.0))
    given = history({"test_accuracy": accuracy[:, None]}, seeds, steps=(16,))
    found = variance.components([given], "accuracy")
    assert found.streams == ("init", "order")
    assert not found.first[0].excludes(0.9)
    assert not found.first[1].excludes(0.1)
    assert found.sampling is None


def test_the_sampling_of_accuracy_is_binomial():
    correct = np.zeros((2, 1, 100), dtype=bool)
    correct[:, :, :80] = True
    given = history({"test_example_correct": correct}, lj.tied(2), steps=(16,))
    assert sampling(given, "accuracy") == pytest.approx(0.8 * 0.2 / 99)


def test_over_draws_the_estimators_are_those_of_each_draw():
    draws = [calibrated(12, 80, seed) for seed in range(5)]
    found = spread_over_draws(draws, 2)
    each = [seed_variance(correct == 1) for correct in draws]
    pairs = [disagreement(correct, np.ones(80, dtype=np.int64)) for correct in draws]
    for ours, theirs in (
        (found.ratio, [one.ratio for one in each]),
        (found.independent_ratio, [one.independent_ratio for one in each]),
        (found.disagreement, [one.disagreement for one in pairs]),
        (found.difference, [one.difference for one in pairs]),
        (found.error, [one.error for one in each]),
    ):
        assert ours.estimate == pytest.approx(np.mean([one.estimate for one in theirs]))
    for ours, theirs in (
        (found.observed, "observed"),
        (found.independent, "independent"),
        (found.predicted, "predicted"),
    ):
        assert ours.estimate**2 == pytest.approx(np.mean([getattr(one, theirs).estimate for one in each]))
    mean = np.mean([one.distribution.estimate for one in each])
    assert found.distribution.estimate**2 == pytest.approx(max(mean, 0.0))


def of_data(correct, num_draws, noises=(0.0,)):
    """A history of runs on the same data: one evaluation at the start, one at the end."""
    seeds = variance.runs_on_the_same_data(num_draws, len(correct) // num_draws)
    metrics = {"test_example_correct": np.stack([np.zeros_like(correct), correct], axis=1).astype(bool)}
    if len(noises) == 1:
        return history(metrics, seeds)
    twice = lj.Seeds(np.repeat(seeds.table, len(noises), axis=0), "listed")
    metrics = {name: np.repeat(values, len(noises), axis=0) for name, values in metrics.items()}
    return history(metrics, twice, {"label_noise": np.tile(np.float32(noises), len(seeds))})


def test_calibrated_runs_vary_as_predicted():
    correct = np.concatenate([calibrated(50, 600, seed) for seed in range(20)])
    found = variance.course(of_data(correct, 20), None)
    assert len(found.spreads) == 1  # the evaluation before any step is left out
    assert (found.num_runs, found.num_draws) == (1000, 20)
    first, second = variance.verdicts("teacher", found)
    assert (first.outcome, second.outcome) == ("supported", "supported")
    assert first.seeds_text == second.seeds_text == "1000 (interval over 20 draws)"


def test_two_errors_that_cancel_are_no_support():
    """Too little disagreement, and a level of each run's own that makes up for it."""
    rng = np.random.default_rng(8)
    base = rng.random((20, 1, 600)) < 0.9
    flips = rng.random((20, 50, 600)) < 0.03 * rng.lognormal(0, 0.3, (20, 50, 1))
    correct = np.where(flips, ~base, base).reshape(1000, 600).astype(np.int64)
    first, second = variance.verdicts("teacher", variance.course(of_data(correct, 20), None))
    assert first.outcome == second.outcome == "refuted"
    assert first.estimate.estimate == pytest.approx(1 + second.estimate.estimate / float(1 - correct.mean()), rel=0.05)
    assert first.as_written == "supported"


def test_runs_that_are_alike_vary_too_little():
    rng = np.random.default_rng(3)
    base = rng.random((20, 1, 600)) < 0.9
    alike = np.where(rng.random((20, 50, 600)) < 0.02, ~base, base).reshape(1000, 600).astype(np.int64)
    first, second = variance.verdicts("teacher", variance.course(of_data(alike, 20), None))
    assert (first.outcome, second.outcome) == ("refuted", "refuted")
    assert second.estimate.high < 0


def test_only_independent_runs_count():
    """Of a base seed and its variations, the first and the last share no stream."""
    seeds = redrawn(30, ("init", "order"), all_anew=True)
    correct = np.zeros((len(seeds), 2, 40), dtype=bool)
    correct[::4] = correct[3::4] = True
    correct[::4, :, 0] = False
    found = variance.course(history({"test_example_correct": correct}, seeds), variance.ITALY)
    assert found.num_runs == 60
    assert found.spreads[0].error.estimate == pytest.approx(1 / 80)


def findings():
    rng = np.random.default_rng(9)
    seeds = redrawn(30, all_anew=True)
    cells = {}
    for name in ("teacher-0", "teacher-1"):
        loss = normals(seeds, (2.0, 1.0, 1.0, 0.5), seed=len(cells))
        examples = rng.normal(size=(len(seeds), 1, 50)) + loss[:, None, None]
        cells[name] = history(
            {
                "test_loss": loss[:, None],
                "test_accuracy": 0.8 + 0.01 * loss[:, None],
                "test_example_loss": examples,
                "test_example_correct": examples < 0,
            },
            seeds,
            steps=(16,),
        )
    runs = np.concatenate([calibrated(50, 300, seed) for seed in range(8)])
    cells["teacher-runs"] = of_data(runs, 8, noises=(0.0, 0.2))
    for name, streams in variance.STREAMS.items():
        seeds = redrawn(30, streams, all_anew=True)
        loss = normals(seeds, (0.0, 1.0, 1.0, 0.5))
        metrics = {
            "test_loss": np.stack([loss] * 2, axis=1),
            "test_accuracy": np.stack([0.9 + 0.01 * loss] * 2, axis=1),
        }
        if name == "italy":
            correct = calibrated(len(seeds), 200, 1)
            metrics["test_example_correct"] = np.stack([correct] * 2, axis=1).astype(bool)
        else:
            metrics["test_logits"] = rng.normal(size=(len(seeds), 2, 1258, 10)).astype(np.float32)
        cells[name] = history(metrics, seeds, classes=2 if name == "italy" else 10)
    return EXPERIMENT.analyse(cells)


def test_figures_need_the_tables_alone(tmp_path):
    pytest.importorskip("sklearn")
    found = findings()
    assert [verdict.claim for verdict in found.verdicts] == ["Q4"] * 10
    # logits that are noise err nine times in ten, and two of them disagree as often
    assert found.numbers["digits, runs on the same data: error rate"].estimate == pytest.approx(0.9, abs=0.01)
    assert found.numbers["digits, runs on the same data: disagreement"].estimate == pytest.approx(0.9, abs=0.01)
    write_findings(found, tmp_path)
    figures = EXPERIMENT.plot(read_findings(tmp_path))
    assert set(figures) == {"components", "predicted_spread"}


def test_the_full_sweep():
    full, smoke = EXPERIMENT.sweep("full"), EXPERIMENT.sweep("smoke")
    assert len(full.members("teacher-3")) == 200 * 6
    assert len(full.members("digits")) == 200 * 4
    assert len(full.members("teacher-runs")) == 20 * 50 * 2
    assert set(smoke.cells) < set(full.cells)
