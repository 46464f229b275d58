"""The winner's curse: on runs whose luck is known."""

import sys
from pathlib import Path

import numpy as np
import pytest

import lossjax as lj
from lossjax.reports.report import read_findings, write_findings
from lossjax.sweeps.experiment import load_experiment

EXPERIMENT = load_experiment(Path(__file__).parents[1] / "experiments" / "search.py")
search = sys.modules[EXPERIMENT.sweep.__module__]
ALL = search.CONFIGS


def runs(val, test):
    """[split, seed, config] accuracies, the default first; losses are what is left of 1."""
    found = {"val_accuracy": val, "val_loss": 1 - val, "test_accuracy": test, "test_loss": 1 - test}
    return found | {"longer_accuracy": test[..., :1] + 0.02}  # the default gains two points by longer training


def test_a_search_by_hand():
    """Two seeds, two configurations beside the default: the first seed takes the first, the second the other."""
    val = np.array([[[0.5, 0.8, 0.6], [0.5, 0.6, 0.9]]])
    test = np.array([[[0.50, 0.55, 0.65], [0.60, 0.50, 0.75]]])
    found = search.advantages(runs(val, test), 2)
    assert set(found) == {"looked", "test", "fresh", "longer"}
    assert found["longer"] == pytest.approx(found["fresh"] - 0.02)
    assert found["looked"] == pytest.approx((0.3 + 0.4) / 2)
    assert found["test"] == pytest.approx((0.05 + 0.15) / 2)
    assert found["fresh"] == pytest.approx(((0.50 - 0.60) + (0.65 - 0.50)) / 2)
    # of one configuration each wins half the time
    assert search.advantages(runs(val, test), 1)["looked"] == pytest.approx((0.2 + 0.25) / 2)


def test_with_two_splits_the_other_one_is_fresh():
    val = np.array([[[0.5, 0.9, 0.1]] * 2, [[0.5, 0.1, 0.9]] * 2])
    test = np.array([[[0.5, 0.6, 0.7]] * 2, [[0.5, 0.4, 0.8]] * 2])
    test[:, 1] += 0.01  # of all in one seed: no advantage
    found = search.advantages(runs(val, test), 2)
    assert found["seeds"] == pytest.approx((0.1 + 0.3) / 2)
    assert found["fresh"] == pytest.approx((-0.1 + 0.2) / 2)
    assert found["longer"] == pytest.approx((-0.1 + 0.2) / 2 - 0.02)


def test_luck_alone_is_worth_nothing():
    rng = np.random.default_rng(0)
    pools = [runs(rng.normal(0.8, 0.03, (1, 10, 33)), np.full((1, 10, 33), 0.8)) for _ in range(10)]
    found = search.by_stage(pools, 32)
    assert found["looked"].low > 0.04
    assert (found["test"].estimate, found["fresh"].estimate) == (0, 0)
    assert search.verdict("teacher", pools).outcome == "refuted"
    skilled = [runs(p["val_accuracy"], 0.8 + 0.1 * (np.arange(33) > 0) + 0 * p["val_accuracy"]) for p in pools]
    assert search.verdict("teacher", skilled).outcome == "supported"


def test_a_run_that_broke_never_wins():
    val = np.array([[[0.5, np.nan, 0.6], [0.5, 0.7, 0.6]]])
    test = np.array([[[0.5, np.nan, 0.55], [0.5, 0.6, 0.55]]])
    found = search.advantages(runs(val, test), 2)
    assert found["looked"] == pytest.approx((0.1 + 0.2) / 2)
    assert found["fresh"] == pytest.approx(0.05)  # the second seed's winner broke in the other one
    # sixteen copies of each, as many as a search tries
    val, test = (np.concatenate([v[..., :1], np.repeat(v[..., 1:], 16, axis=-1)], axis=-1) for v in (val, test))
    numbers = search.numbers("teacher", [runs(val, test)] * 2)
    assert numbers["teacher: runs not finite"].estimate == pytest.approx(16 / 66)


def test_a_pool_begins_with_the_default():
    drawn = search.pool(3, noises=(0.0, 0.2))
    assert drawn.learning_rate.shape == (2 * (ALL + 1),)
    assert drawn.learning_rate[[0, ALL + 1]].tolist() == [np.float32(1e-3)] * 2
    np.testing.assert_array_equal(drawn.learning_rate[: ALL + 1], drawn.learning_rate[ALL + 1 :])
    assert drawn.label_noise.tolist() == [0.0] * (ALL + 1) + [np.float32(0.2)] * (ALL + 1)
    assert search.pool(3).label_noise is None
    assert not np.array_equal(search.pool(3).learning_rate, search.pool(4).learning_rate)


def histories():
    """Of the smoke sweep's cells: every configuration 10 points above the default, but for noise in validation."""
    rng = np.random.default_rng(5)
    found = {}
    for key in EXPERIMENT.sweep("smoke").cells:
        name = key.rsplit("-", 2)[0]
        noises = (0.0, 0.2) if name.endswith("digits") else (0.0,)
        every = 1 if key.startswith(search.LONGER_CELL) else ALL + 1
        num_configs, seeds = every * len(noises), 3
        test = np.tile(np.where(np.arange(num_configs) % every == 0, 0.7, 0.8), seeds)
        if every == 1:
            test += 0.04
        val = test + 0.05 * rng.normal(size=len(test))
        metrics = {"val_accuracy": val, "test_accuracy": test, "val_loss": 1 - val, "test_loss": 1 - test}
        found[key] = lj.History(
            metrics={m: np.stack([np.zeros_like(v), v], axis=1) for m, v in metrics.items()},
            steps=np.array([0, 16]),
            seeds={"init": np.repeat(np.arange(seeds, dtype=np.uint32), num_configs)},
            hyperparams={"label_noise": np.tile(np.repeat(np.float32(noises), every), seeds)},
            nonfinite_step=np.full(len(test), -1, np.int32),
            info={"steps_per_epoch": 16, "num_classes": 2},
        )
    return found


def test_figures_need_the_tables_alone(tmp_path):
    found = EXPERIMENT.analyse(histories())
    assert [verdict.estimate.estimate for verdict in found.verdicts] == pytest.approx([0.1] * 4)
    for name in search.TASK_NAMES.values():
        assert found.numbers[f"{name}: winner's curse, as selected minus trained anew on fresh data"].estimate > 0.04
        longer = found.numbers[f"{name}: advantage of the best of 16, {search.STAGES['longer']}"]
        assert longer.estimate == pytest.approx(0.06)
    write_findings(found, tmp_path)
    figures = EXPERIMENT.plot(read_findings(tmp_path))
    assert set(figures) == {"winners_curse", "advantage"}


def test_the_full_sweep():
    full = EXPERIMENT.sweep("full")
    assert len(full.cells) == 100
    for key in list(full.cells)[:50]:
        cell, longer = full.cells[key], full.cells[f"{search.LONGER_CELL}{key}"]
        assert longer.task == cell.task
        assert longer.config.epochs == search.LONGER * cell.config.epochs
        assert set(full.hyperparams_of(f"{search.LONGER_CELL}{key}").learning_rate.tolist()) == {np.float32(1e-3)}
    assert len({cell.task.teacher_seed for key, cell in full.cells.items() if key.startswith("teacher")}) == 10
    assert len({cell.task.split_seed for key, cell in full.cells.items() if key.startswith("digits")}) == 20
    # two splits of a pool have the same configurations
    one, other = (full.hyperparams_of(f"digits-4-{split}").learning_rate for split in (0, 1))
    np.testing.assert_array_equal(one, other)
    assert len(full.members("teacher-0-0")) == 16 * (ALL + 1)
