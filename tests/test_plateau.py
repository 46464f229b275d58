"""Plateaus and overfitting: on histories whose answer is known."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

import lossjax as lj
from lossjax.analysis.proportions import wilson
from lossjax.history import concatenate
from lossjax.reports.report import read_findings, write_findings
from lossjax.sweeps.experiment import load_experiment

EXPERIMENT = load_experiment(Path(__file__).parents[1] / "experiments" / "plateau.py")
plateau = sys.modules[EXPERIMENT.sweep.__module__]
SEEDS, EXAMPLES, EVALS = 8, 1000, 21


def history(held_out, training, accuracy=0.8, missing=0):
    """Members with these curves [eval] of held-out and training loss; accuracy is one level, or [eval]."""
    rng = np.random.default_rng(0)
    accuracy = np.broadcast_to(accuracy, EVALS)
    rank = np.linspace(0, 1, EXAMPLES, endpoint=False)
    correct = np.broadcast_to(rank < accuracy[:, None], (SEEDS, EVALS, EXAMPLES))
    # what an example has in every evaluation cancels in differences
    losses = (
        held_out[:, None]
        + 0.3 * rng.standard_normal((SEEDS, 1, EXAMPLES))
        + 0.01 * rng.standard_normal((SEEDS, EVALS, EXAMPLES))
    )
    metrics = {"batch_loss": np.where(np.arange(EVALS) > 0, np.broadcast_to(training, (SEEDS, EVALS)), np.nan)}
    for split, part in (("val", slice(0, EXAMPLES // 2)), ("test", slice(EXAMPLES // 2, EXAMPLES))):
        # every other example, so that both splits have the same accuracy
        examples = np.roll(np.arange(EXAMPLES).reshape(-1, 2).T.ravel(), 0)[part]
        metrics[f"{split}_example_loss"] = losses[..., examples]
        metrics[f"{split}_example_correct"] = correct[..., examples]
        metrics[f"{split}_loss"] = losses[..., examples].mean(axis=2)
        metrics[f"{split}_accuracy"] = correct[..., examples].mean(axis=2)
        metrics[f"{split}_refinement"] = np.broadcast_to(0.4, (SEEDS, EVALS))
    metrics["train_loss"] = np.broadcast_to(training, (SEEDS, EVALS)) + 1e-4 * rng.standard_normal((SEEDS, 1))
    metrics["train_accuracy"] = np.broadcast_to(0.9, (SEEDS, EVALS))
    metrics = {
        name: np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)])
        for name, values in metrics.items()
    }
    return lj.History(
        metrics=metrics,
        steps=np.arange(EVALS) * 16,
        seeds={"data": np.arange(SEEDS + missing, dtype=np.uint32)},
        hyperparams={},
        nonfinite_step=np.array([-1] * SEEDS + [3] * missing, np.int32),
        info={"steps_per_epoch": 16, "num_classes": 2},
    )


FALLING = np.linspace(0.7, 0.3, EVALS)
RISING = np.linspace(0.5, 1.5, EVALS)
LEVEL = np.full(EVALS, 0.5)


def analysed(held_out, **changes):
    one = plateau.summarise(history(held_out, FALLING, **changes))
    return one, plateau.plateau_verdict("teacher-lstm", one), plateau.overfitting_verdict("teacher-lstm", one)


def test_a_plateau_that_is_no_overfitting():
    runs, plateaus, overfitting = analysed(FALLING)
    np.testing.assert_array_equal(runs.plateaus.resolved, 1.0)
    assert (runs.letters == "P").all()
    assert plateaus.outcome == "supported"
    assert overfitting.estimate.estimate == 1.0
    assert overfitting.outcome == "refuted"


def test_flat_accuracy_while_the_held_out_loss_rises_is_overfitting():
    runs, plateaus, overfitting = analysed(RISING)
    assert (runs.plateaus.resolved == 0).all()
    assert (runs.letters == "O").all()  # refinement does not move: one temperature repairs it all
    assert runs.flat.all()
    assert plateaus.outcome == "refuted"
    assert overfitting.outcome == "supported"
    # no run of 8 had such a window: Wilson's bound, and of the number that decides
    assert overfitting.estimate.high == pytest.approx(wilson(0, SEEDS).high)
    assert overfitting.contrast.endswith("resolved or not")
    assert overfitting.note == f"resolved as falling: {wilson(0, SEEDS)}"


def test_a_held_out_loss_that_stands_still_settles_nothing():
    runs, _, overfitting = analysed(LEVEL)
    assert set(runs.falls.ravel()) == {"0"}
    assert overfitting.estimate.estimate == 0.0
    assert overfitting.outcome == "unresolved"  # by its estimate the loss falls in about half of them


def test_rising_accuracy_is_no_plateau():
    runs, plateaus, overfitting = analysed(FALLING, accuracy=np.linspace(0.6, 0.9, EVALS))
    assert not runs.flat.any()
    assert (runs.letters == "G").all()
    assert np.isnan(overfitting.estimate.estimate)
    assert overfitting.outcome == "unresolved"
    assert plateaus.estimate.estimate == 0.0


@pytest.mark.parametrize("accuracy", [0.5, 1.0])
def test_plateaus_at_chance_or_at_the_ceiling_are_counted_apart(accuracy):
    runs, plateaus, _ = analysed(FALLING, accuracy=accuracy)
    assert plateaus.estimate.estimate == 0.0
    assert runs.plateaus.share(runs.plateaus.at_limit).estimate == 1.0
    assert not runs.flat.any()


def test_runs_that_broke_count_in_the_denominator():
    runs, plateaus, _ = analysed(FALLING, missing=8)
    assert plateaus.estimate.estimate == 0.5
    table = plateau.regime_table({"teacher-lstm": runs})
    for letter, share in (("P", 0.5), ("N", 0.5), ("G", 0.0), (plateau.DIVERGED, 0.5)):
        mine = table["letter"] == letter
        # runs are what was sampled, the broken ones too
        expected = wilson(int(share * 2 * SEEDS), 2 * SEEDS)
        for column, bound in (("share", share), ("share_low", expected.low), ("share_high", expected.high)):
            np.testing.assert_allclose(table[column][mine], bound, atol=1e-12)


def test_shares_of_windows_have_intervals_over_runs():
    runs, _, _ = analysed(RISING)
    found = plateau.plateau_table({"teacher-lstm": runs})
    assert (found["O"][0], found["P"][0]) == (1.0, 0.0)
    assert found["P_high"][0] == pytest.approx(wilson(0, SEEDS).high)
    one = dataclasses.replace(runs, flat=runs.flat & (np.arange(SEEDS) == 0)[:, None])
    assert one.among_flat(runs.letters == "O").estimate == 1.0
    assert np.isnan(one.among_flat(runs.letters == "O").low)


def test_figures_need_the_tables_alone(tmp_path):
    cells = {name: history(FALLING, FALLING) for name in EXPERIMENT.sweep("smoke").cells}
    for model in plateau.MODELS:
        clean, noisy = (
            dataclasses.replace(history(curve, FALLING), hyperparams={"label_noise": np.full(SEEDS, noise, np.float32)})
            for curve, noise in ((RISING, 0.0), (LEVEL, 0.2))
        )
        cells[f"digits-{model}"] = concatenate([clean, noisy])
    findings = EXPERIMENT.analyse(cells)
    assert [v.outcome for v in findings.verdicts if v.claim == "C1"] == ["supported", "refuted", "refuted", "supported"]
    write_findings(findings, tmp_path)
    figures = EXPERIMENT.plot(read_findings(tmp_path))
    assert set(figures) == {"regimes_along_training", "plateau_shares", "plateau_or_overfitting", "lstm_curves"}


def test_the_smoke_sweep_differs_in_size_only():
    full, smoke = EXPERIMENT.sweep("full"), EXPERIMENT.sweep("smoke")
    assert list(smoke.cells) == list(full.cells)
    for name, cell in full.cells.items():
        assert cell.task == smoke.cells[name].task
        assert cell.config.num_evals == plateau.EVALS
    assert set(full.members("digits-conv").hyperparams["label_noise"]) == {np.float32(0), np.float32(0.2)}
