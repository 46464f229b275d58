"""Rules for stopping: on histories whose answer is known."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from histories import history_of

import lossjax as lj
from lossjax.history import concatenate
from lossjax.reports.report import read_findings, write_findings
from lossjax.sweeps.experiment import load_experiment

EXPERIMENT = load_experiment(Path(__file__).parents[1] / "experiments" / "stopping.py")
stopping = sys.modules[EXPERIMENT.sweep.__module__]
SEEDS, EVALS = 40, 21
PROGRESS = np.linspace(0, 1, EVALS)


def valley(at, depth=0.2, rise=0.3):
    """From 0.7 down by ``depth`` at ``at``, then up again by ``rise`` to the end."""
    down, up = PROGRESS / at, (PROGRESS - at) / max(1 - at, 1e-9)
    return np.where(at >= PROGRESS, 0.7 - depth * down, 0.7 - depth + rise * up)


# loss best at 0.3, loss at T* at 0.5, Brier at 0.4; accuracy best from 0.7 to 0.9
LOSS, REFINEMENT, BRIER = valley(0.3), valley(0.5, rise=0.05), valley(0.4)
ACCURACY = np.interp(PROGRESS, [0, 0.3, 0.7, 0.9, 1], [0.5, 0.8, 0.85, 0.85, 0.84])


def history(loss=LOSS, refinement=REFINEMENT, accuracy=ACCURACY, missing=0, **hyperparams):
    rng = np.random.default_rng(0)
    metrics = {}
    for split in ("val", "test"):
        for name, curve in (("loss", loss), ("refinement", refinement), ("brier", BRIER), ("accuracy", accuracy)):
            level = 0.001 * rng.standard_normal((SEEDS, 1))
            metrics[f"{split}_{name}"] = np.broadcast_to(curve, (SEEDS, EVALS)) + level
    return history_of(metrics, missing=missing, broke_at=130, **hyperparams)


def summarised(given):
    return stopping.stopped(given, stopping.STOP, flat=stopping.FLAT)


def with_examples(made):
    """Records of 200 examples whose means are the curves."""
    rng = np.random.default_rng(1)
    factor = rng.lognormal(0, 1, 200)
    factor /= factor.mean()
    records = {
        "test_example_loss": made.metrics["test_loss"][..., None] * factor,
        "test_example_refined_loss": made.metrics["test_refinement"][..., None] * factor,
        "test_example_correct": np.arange(200) < np.round(200 * made.metrics["test_accuracy"][..., None]),
    }
    return dataclasses.replace(made, metrics=made.metrics | records)


def test_every_rule_keeps_what_it_should():
    runs = summarised(history())
    expected = {"loss": 0.3, "refinement": 0.5, "brier": 0.4, "accuracy": 0.7, "error": 0.9, "end": 1.0}
    for rule, at in expected.items():
        np.testing.assert_allclose(runs.progress[runs.kept[rule]], at)


def test_rules_are_judged_on_test_by_pairs():
    runs = summarised(history())
    by_loss, by_accuracy = (round(20 * at) for at in (0.3, 0.7))
    difference = runs.difference("accuracy", "loss", "loss")
    assert difference.estimate == pytest.approx(LOSS[by_accuracy] - LOSS[by_loss])
    assert difference.high - difference.low < 1e-9  # a run's level cancels
    assert runs.difference("loss", "accuracy", "loss").estimate == pytest.approx(-difference.estimate)
    accuracy, refinement = stopping.costs(runs)
    assert accuracy.estimate == pytest.approx(0.05)
    assert refinement.estimate == pytest.approx(REFINEMENT[by_loss] - REFINEMENT.min())


def verdict(**changes):
    return stopping.verdicts({"teacher": summarised(history(**changes))})[0]


def test_what_it_costs_decided_as_the_rule_was_written():
    found = verdict()
    assert "minus at the end: -0.3 [" in found.note
    assert found.as_written == "in part"  # five points of accuracy forgone
    early = np.interp(PROGRESS, [0, 0.3, 1], [0.5, 0.85, 0.84])
    assert verdict(accuracy=early, refinement=valley(0.35)).as_written == "in part"  # of the recalibrated loss, 0.028
    assert verdict(accuracy=early, refinement=valley(0.3)).as_written == "supported"
    falling = valley(1.0)
    assert verdict(loss=falling, accuracy=early).as_written == "refuted"  # nothing to prevent


def test_the_disagreement_decides_as_it_was_amended():
    # stopped at 0.55: accuracy was best at 0.55 in place of 0.7, and the loss had risen by 0.107 in place of 0.3
    found = verdict(accuracy=np.interp(PROGRESS, [0, 0.3, 0.7, 0.9, 1], [0.5, 0.8, 0.804, 0.804, 0.8]))
    assert found.estimate.estimate == pytest.approx(LOSS[11] - LOSS[14], abs=1e-3)
    assert "P 100 → 100 %" in found.note  # by then it has risen by more than what counts
    assert found.outcome == "in part"
    # a rise that is too late for patience to spare anything
    late = valley(0.8)
    assert verdict(loss=late, accuracy=np.interp(PROGRESS, [0, 0.8, 1], [0.5, 0.85, 0.84])).outcome == "refuted"


def test_each_step_of_the_rule():
    cheap, dear, open_ = lj.Interval(0.0, -0.001, 0.001), lj.Interval(0.05, 0.04, 0.06), lj.Interval(0.008, 0.0, 0.02)
    assert stopping.concluded("supported", cheap, cheap) == "supported"
    assert stopping.concluded("supported", cheap, open_) == "unresolved"
    assert stopping.concluded("supported", dear, open_) == "in part"
    assert stopping.concluded("refuted", cheap, cheap) == "refuted"
    assert stopping.concluded("unresolved", cheap, cheap) == "unresolved"
    both = ("supported", "supported")
    assert stopping.concluded_of_measures(both, cheap, cheap) == "supported"
    assert stopping.concluded_of_measures(both, cheap, open_) == "unresolved"
    assert stopping.concluded_of_measures(both, dear, cheap) == "in part"
    assert stopping.concluded_of_measures(("supported", "refuted"), cheap, cheap) == "in part"
    assert stopping.concluded_of_measures(("refuted", "refuted"), cheap, cheap) == "refuted"
    assert stopping.concluded_of_measures(("refuted", "unresolved"), cheap, cheap) == "unresolved"


def test_examples_that_runs_share_are_sampled_too():
    made = with_examples(history())
    found, fixed = summarised(made), summarised(history())
    for metric in stopping.JUDGES:
        wide, narrow = (one.difference("end", "loss", metric) for one in (found, fixed))
        assert wide.estimate == pytest.approx(narrow.estimate, abs=0.01)
        assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
        assert found.difference("end", "loss", metric, fixed=True).high == pytest.approx(narrow.high, abs=0.01)
    assert "seeds × test examples" in stopping.verdicts({"digits": found})[0].scope


def test_rules_pass_over_what_is_not_finite():
    runs = summarised(history(missing=10))
    assert runs.progress[runs.kept["accuracy"][:10]].max() <= 0.61
    np.testing.assert_allclose(runs.progress[runs.kept["end"]], [0.6] * 10 + [1.0] * 30)
    found = stopping.numbers("teacher", runs)
    assert found["teacher: runs not finite"].estimate == 0.25
    assert np.isfinite([one.estimate for one in found.values()]).all()


def test_figures_need_the_tables_alone(tmp_path):
    cells = {
        name: with_examples(history(missing=2)) if cell.task.shared else history()
        for name, cell in EXPERIMENT.sweep("smoke").cells.items()
    }
    cells["digits"] = concatenate([with_examples(history(label_noise=noise)) for noise in (0.0, stopping.NOISE)])
    findings = EXPERIMENT.analyse(cells)
    assert [one.as_written for one in findings.verdicts] == ["in part"] * 6
    write_findings(findings, tmp_path)
    figures = EXPERIMENT.plot(read_findings(tmp_path))
    assert set(figures) == {"rules", "when"}


def test_the_smoke_sweep_differs_in_size_only():
    full, smoke = EXPERIMENT.sweep("full"), EXPERIMENT.sweep("smoke")
    assert list(smoke.cells) == list(full.cells)
    for name, cell in full.cells.items():
        assert cell.task == smoke.cells[name].task
        assert cell.config.num_evals == stopping.EVALS
