"""Simulations: stored, counted, resumed and stopped as a sweep's members are."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import lossjax as lj
from lossjax.sweeps import store
from lossjax.sweeps.signals import STOPPED
from lossjax.sweeps.simulation import Simulations

SOURCE = """
import dataclasses
import os
import time

import numpy as np

import lossjax as lj


@dataclasses.dataclass(frozen=True)
class Coin:
    chance: float
    seconds: float = 0.0

    def __call__(self, seed):
        time.sleep(self.seconds)
        return {{"heads": float(np.random.default_rng(seed).random() < self.chance), "seed": float(seed)}}


def sweep(scale):
    return lj.Simulations({{"fair": Coin(0.5), "bent": Coin({chance}, {seconds})}}, draws={draws}, part_size=4)


def analyse(histories):
    heads = {{name: float(histories[name].metrics["heads"].mean()) for name in histories}}
    return lj.Findings(numbers={{name: lj.Interval(share, 0.0, 1.0) for name, share in heads.items()}})


experiment = lj.Experiment("coins", "How often heads?", (), sweep, analyse, lambda findings: {{}})

if __name__ == "__main__":
    lj.main(experiment)
"""


@pytest.fixture
def run(tmp_path):
    """Runs the experiment's own file in a process; what it is, is given by keywords."""

    def command(*arguments, chance=0.25, seconds=0.0, draws=10):
        path = tmp_path / "coins.py"
        path.write_text(SOURCE.format(chance=chance, seconds=seconds, draws=draws))
        return [sys.executable, str(path), "--results", str(tmp_path), *arguments]

    def start(*arguments, **fields):
        return subprocess.run(command(*arguments, **fields), capture_output=True, text=True, timeout=120)

    start.command = command
    return start


def written(root):
    return {path: path.stat().st_mtime_ns for path in root.glob("cells/*/parts/*/arrays.npz")}


def test_every_draw_is_its_seeds_and_is_stored_once(run, tmp_path):
    done = run()
    assert done.returncode == 0, done.stderr
    root = tmp_path / "coins"
    histories = store.load(root)
    assert list(histories) == ["fair", "bent"]
    for name, chance in (("fair", 0.5), ("bent", 0.25)):
        history = histories[name]
        np.testing.assert_array_equal(history.seeds["data"], np.arange(10))
        np.testing.assert_array_equal(history.metrics["seed"][:, 0], np.arange(10))
        expected = [float(np.random.default_rng(seed).random() < chance) for seed in range(10)]
        np.testing.assert_array_equal(history.metrics["heads"][:, 0], expected)
    status = store.status(root)
    assert (status["planned"], status["done"], status["pending"]) == (20, 20, 0)
    assert status["cells"]["fair"]["planned"] == 10
    assert json.loads((root / "summary.json").read_text())["meta"]["members"]["done"] == 20

    before = written(root)
    assert run().returncode == 0
    assert written(root) == before  # nothing is drawn again
    assert run("--seeds", "13").returncode == 0
    after = written(root)
    assert before.items() <= after.items()  # more draws only add parts
    assert store.load(root)["fair"].num_members == 13


def test_an_edited_case_starts_anew_and_the_other_stays(run, tmp_path):
    assert run().returncode == 0
    before = written(tmp_path / "coins")
    edited = run(chance=0.75)
    assert edited.returncode == 0
    assert "changes to the plan" in edited.stderr
    history = store.load(tmp_path / "coins")["bent"]
    expected = [float(np.random.default_rng(seed).random() < 0.75) for seed in range(10)]
    np.testing.assert_array_equal(history.metrics["heads"][:, 0], expected)
    fair = {path: time for path, time in before.items() if "/fair-" in str(path)}
    assert fair.items() <= written(tmp_path / "coins").items()


def test_a_stop_keeps_finished_parts_and_the_same_command_goes_on(run, tmp_path):
    root = tmp_path / "coins"
    process = subprocess.Popen(run.command(seconds=0.1, draws=80), stderr=subprocess.PIPE, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not list(root.glob("cells/bent-*/parts/*/arrays.npz")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGTERM)  # processes that draw get it too, as from a terminal's Ctrl-C
        assert process.wait(timeout=60) == STOPPED
    finally:
        if process.poll() is None:
            process.kill()
    kept = written(root)
    status = store.status(root)["cells"]["bent"]
    assert 0 < status["done"] < 80
    assert run(seconds=0.1, draws=80).returncode == 0
    assert kept.items() <= written(root).items()
    np.testing.assert_array_equal(store.load(root)["bent"].metrics["seed"][:, 0], np.arange(80))


@pytest.mark.parametrize("field", ["draws", "part_size"])
def test_numbers_that_make_no_simulation(field):
    with pytest.raises(ValueError, match=f"{field}=0 must be at least 1"):
        Simulations({}, **{"draws": 5, "part_size": 5, field: 0})


def test_another_number_of_draws():
    assert lj.Simulations({}, draws=5).with_seeds(7).draws == 7
