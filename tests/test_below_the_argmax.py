"""Four cells of a falling loss: on histories whose answer is known, and the case of the discussion in closed form."""

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import lossjax as lj
from lossjax.analysis.attribution import CELLS
from lossjax.history import concatenate
from lossjax.reports.report import read_findings, write_findings
from lossjax.sweeps.experiment import load_experiment

EXPERIMENT = load_experiment(Path(__file__).parents[1] / "experiments" / "below_the_argmax.py")
argmax = sys.modules[EXPERIMENT.sweep.__module__]
SEEDS, EXAMPLES = 8, 1000


def history(probability, task="teacher", missing=0):
    """Members whose true class has these probabilities [eval, example], of two classes, and some that broke."""
    rng = np.random.default_rng(0)
    # seeds differ a little, or there would be nothing to make an interval of
    probabilities = probability * np.exp(0.004 * rng.standard_normal((SEEDS, 1, probability.shape[1])))
    split = np.array_split(np.arange(probability.shape[1]), 2 if task != "teacher" else 1)
    names = ("test",) if task == "teacher" else ("val", "test")
    metrics = {}
    for name, examples in zip(names, split, strict=True):
        loss = -np.log(probabilities[..., examples]).astype(np.float32)
        broken = np.full((missing, *loss.shape[1:]), np.nan, np.float32)
        metrics[f"{name}_example_loss"] = np.concatenate([loss, broken])
        metrics[f"{name}_example_correct"] = metrics[f"{name}_example_loss"] < math.log(2)
    num_evals = len(probability)
    return lj.History(
        metrics=metrics,
        steps=np.arange(num_evals) * 16,
        seeds={"data": np.arange(SEEDS + missing, dtype=np.uint32)},
        hyperparams={},
        nonfinite_step=np.array([-1] * SEEDS + [3] * missing, np.int32),
        info={"steps_per_epoch": 16, "num_classes": 2},
    )


def spread(*levels):
    """[eval, example]: three quarters right at 0.9 throughout, the others at these levels one after another."""
    return np.stack([np.where(np.arange(EXAMPLES) % 4 > 0, 0.9, level) for level in levels])


BELOW = spread(0.299, 0.36, 0.42, 0.49)  # the case of the discussion: a quarter of the examples, never crossing
ACROSS = spread(0.40, 0.45, 0.75, 0.80)


def test_the_case_of_the_discussion():
    assert pytest.approx(math.log(0.49 / 0.30)) == argmax.CASE
    form = argmax.closed_form()
    np.testing.assert_allclose(np.exp(-form["loss"]), form["probability"])


def test_examples_below_the_argmax_are_the_whole_drop():
    runs = argmax.summarise(history(BELOW))
    assert runs.falls.all()
    assert len(runs.flat_cells) == SEEDS
    drop = math.log(0.49 / 0.299) / 4
    np.testing.assert_allclose(runs.flat_cells[:, CELLS.index("wrong→wrong")], -drop, rtol=1e-5)
    np.testing.assert_allclose(runs.flat_cells.sum(axis=1), -drop, rtol=1e-5)
    np.testing.assert_allclose(argmax.beyond_half(runs.flat_cells), drop / 2, rtol=1e-5)
    assert runs.moves.sum() == SEEDS * EXAMPLES


def test_examples_that_cross_are_the_whole_drop():
    runs = argmax.summarise(history(ACROSS))
    total = runs.steps_cells.sum(axis=1)
    np.testing.assert_allclose(runs.accuracy[:, [0, -1]], [[0.75, 1.0]] * SEEDS)
    crossing = math.log(0.75 / 0.45) / 4
    np.testing.assert_allclose(total[:, CELLS.index("wrong→right")], -crossing, rtol=1e-5)
    # the two windows on one side of the argmax are flat; the one across is not in any of them
    assert (np.abs(runs.flat_cells[:, CELLS.index("wrong→right")]) < 1e-9).all()


def test_cells_add_up_to_the_change_in_loss():
    rng = np.random.default_rng(1)
    runs = argmax.summarise(history(rng.uniform(0.05, 0.95, (5, EXAMPLES)), task="digits"))
    given = history(rng.uniform(0.05, 0.95, (5, EXAMPLES)), task="digits")
    runs = argmax.summarise(given)
    losses = np.concatenate([given.metrics[f"{s}_example_loss"] for s in ("val", "test")], axis=2).mean(axis=2)
    np.testing.assert_allclose(runs.steps_cells.sum(axis=2), np.diff(losses, axis=1), atol=1e-5)


def test_runs_that_broke_count_in_the_denominator():
    runs = argmax.summarise(history(BELOW, missing=2))
    assert runs.flat_share.estimate == pytest.approx(0.8)
    numbers = argmax.numbers("teacher", runs)
    assert numbers["teacher: runs not finite"].estimate == pytest.approx(0.2)


def findings(probability):
    """The same in every cell, with label noise and without."""
    cells = {name: history(probability, name.split("-")[0]) for name in EXPERIMENT.sweep("smoke").cells}
    clean, noisy = (
        dataclasses.replace(cells["digits-lstm"], hyperparams={"label_noise": np.full(SEEDS, noise, np.float32)})
        for noise in (0.0, 0.2)
    )
    found = EXPERIMENT.analyse(cells | {"digits-lstm": concatenate([clean, noisy])})
    assert [verdict.where for verdict in found.verdicts] == [
        f"{name}; {kind}" for name in argmax.CELL_NAMES.values() for kind in ("all resolved drops", "accuracy flat")
    ]
    return found


def test_verdicts():
    for probability, outcomes in ((BELOW, {"supported"}), (ACROSS, {"refuted", "supported"})):
        verdicts = findings(probability).verdicts
        by_kind = {kind: {v.outcome for v in verdicts if v.where.endswith(kind)} for kind in ("drops", "flat")}
        assert by_kind == {"drops": {min(outcomes)}, "flat": {"supported"}}
    share = findings(BELOW).numbers
    (key,) = [key for key in share if key.startswith("teacher, LSTM: what those take")]
    assert share[key].estimate == pytest.approx(1.0, rel=1e-4)


def test_without_a_plateau_it_is_said_so():
    rising = spread(0.3, 0.2, 0.1, 0.05)
    verdicts = findings(rising).verdicts
    assert {v.outcome for v in verdicts if v.where.endswith("accuracy flat")} == {"unresolved"}


def test_figures_need_the_tables_alone(tmp_path):
    write_findings(findings(BELOW), tmp_path)
    figures = EXPERIMENT.plot(read_findings(tmp_path))
    assert set(figures) == {"below_the_argmax", "four_cells"}
    right = figures["below_the_argmax"].figure.axes[1]
    assert any("wrong → wrong\n+100 % of the drop" in text.get_text() for text in right.texts)


def test_the_smoke_sweep_differs_in_size_only():
    full, smoke = EXPERIMENT.sweep("full"), EXPERIMENT.sweep("smoke")
    assert list(smoke.cells) == list(full.cells)
    assert set(full.members("digits-lstm").hyperparams["label_noise"]) == {np.float32(0), np.float32(0.2)}
    assert "label_noise" not in full.members("teacher-lstm").hyperparams
    assert len(full.members("teacher-lstm")) == 200
