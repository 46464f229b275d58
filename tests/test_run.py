"""Running a sweep: what is stored is what training gives, once, through stops, kills, failures and edits."""

import contextlib
import dataclasses
import errno
import hashlib
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import lossjax
from lossjax import devices
from lossjax.hyperparams import grid
from lossjax.identity import digest
from lossjax.keys import crossed, streams_from_seeds, tied
from lossjax.models import LSTM, Dense
from lossjax.sweeps import checkpoint, parts, run, signals, store
from lossjax.sweeps.experiment import load_experiment
from lossjax.sweeps.forecast import forecast
from lossjax.sweeps.params import load_model, with_kernels
from lossjax.sweeps.plan import StoreError, read_plan
from lossjax.sweeps.sweep import Sweep
from lossjax.tasks import RandomLabels
from lossjax.training import memory, population, program
from lossjax.training.config import Measure, TrainConfig
from lossjax.training.train import Cell

TASK = RandomLabels(num_examples=10, seq_len=4, num_features=2, num_heldout=8)
LEAN = Measure(splits=("train", "val"), calibration=False, num_groups=0)
CELL = Cell(TASK, Dense(width=4, layers=1), TrainConfig(4, epochs=3, measure=LEAN))
BREAKS = 3e38  # the first update at this rate makes parameters that are no numbers
SWEEP = Sweep({"a": CELL}, grid(learning_rate=[0.05, BREAKS]), seeds=6, part_size=5)


@pytest.fixture(autouse=True)
def one_tile(monkeypatch):
    """The same tile for every number of members: a program of its own for each takes longer than all that is tested."""
    monkeypatch.setattr(memory, "FEWEST", 8)
    monkeypatch.setattr(memory, "MOST_ON_CPU", 8)


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "results" / "tiny"


def train(sweep: Sweep, root: Path, **options) -> None:
    run.run_sweep(sweep, root, experiment="tiny", scale="full", command="lossjax run tiny.py", **options)


def arrays(root: Path, cell: str = "a") -> dict[str, np.ndarray]:
    return store.load(root, cell).to_arrays()


def assert_bytes_equal(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(actual) == set(expected)
    for name, array in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (array.dtype, array.shape), name
        assert actual[name].tobytes() == array.tobytes(), name


def assert_adds_up(counts: dict) -> None:
    assert counts["planned"] == sum(counts[key] for key in ("done", "nonfinite", "failed", "pending"))


def files(root: Path) -> dict[Path, tuple[int, str]]:
    """Every file of the committed parts: when it was written and what it holds."""
    found = sorted(path for path in root.glob("cells/*/parts/**/*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in found}


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    """The same population trained in memory."""
    return lossjax.train(
        CELL.task, CELL.model, CELL.config, hyperparams=grid(learning_rate=[0.05, BREAKS]), seeds=6
    ).to_arrays()


# What is stored -------------------------------------------------------------------------------------------------------


def test_what_is_stored_is_what_training_in_memory_gives(root, expected):
    train(SWEEP, root)
    assert_bytes_equal(arrays(root), expected)
    assert [path.name for _, _, path in parts.committed(root, read_plan(root).cells[0])] == [
        "00000000-00000005",
        "00000005-00000010",
        "00000010-00000012",
    ]
    history = store.load(root, "a")
    assert history.info["model"] == {"type": "Dense", "width": 4, "layers": 1, "embedding": None} | {
        "num_classes": None,
        "num_tokens": None,
    }
    manifest = next(parts.manifests(root, read_plan(root).cells[0]))
    assert manifest["num_devices"] == len(jax.devices())
    assert manifest["evaluation_seconds"] > 0


def test_parts_of_any_size_hold_the_same_bytes(root, expected):
    train(dataclasses.replace(SWEEP, part_size=256), root)
    assert_bytes_equal(arrays(root), expected)
    assert len(files(root)) == 2


def test_counts_add_up_and_nonfinite_members_are_counted(root):
    train(SWEEP, root)
    counts = store.status(root)
    assert {key: counts[key] for key in ("planned", "done", "nonfinite", "failed", "pending")} == {
        "planned": 12,
        "done": 6,
        "nonfinite": 6,
        "failed": 0,
        "pending": 0,
    }
    assert_adds_up(counts["cells"]["a"])


def test_what_is_stored_is_not_trained_again(root, monkeypatch):
    train(SWEEP, root)
    before = files(root)
    monkeypatch.setattr(run, "compile_cell", lambda *arguments, **options: pytest.fail("compiled"))
    train(SWEEP, root)
    assert files(root) == before


def test_more_seeds_only_add_parts(root, expected):
    train(SWEEP.with_seeds(3), root)
    before = files(root)
    train(SWEEP, root)
    after = files(root)
    assert {path: after[path] for path in before} == before
    assert len(after) > len(before)
    assert_bytes_equal(arrays(root), expected)
    # fewer again: the same members, read from what is there
    train(SWEEP.with_seeds(2), root)
    assert files(root) == after
    assert store.load(root, "a").num_members == 4


def test_seeds_of_a_design_are_not_changed_by_a_number():
    with pytest.raises(ValueError, match="cell 'a' has seeds of its own design; edit the experiment file"):
        dataclasses.replace(SWEEP, seeds=crossed(init=2)).with_seeds(5)


def test_seeds_that_are_listed_are_part_of_what_a_cell_is():
    cell = next(iter(SWEEP.cells.values()))
    sweeps = [Sweep({"a": cell}, SWEEP.hyperparams, tied(seeds)) for seeds in ([5, 6], [8, 9], [5, 6, 7])]
    assert len({sweep.description("a")["seeds"] for sweep in sweeps}) == 3
    with pytest.raises(ValueError, match="seeds of its own design"):
        Sweep({"a": cell}, SWEEP.hyperparams, tied([5, 6])).with_seeds(4)


def test_an_edited_cell_gets_a_place_of_its_own(root, capsys):
    train(SWEEP, root)
    before = files(root)
    edited = dataclasses.replace(SWEEP, hyperparams=grid(learning_rate=0.1))
    capsys.readouterr()
    train(edited, root)
    said = capsys.readouterr().err
    assert "a: edited, starts anew; parts of the earlier edit stay in a-" in said
    assert "hyperparams.learning_rate: [0.05" in said
    after = files(root)
    assert {path: after[path] for path in before} == before
    rates = store.load(root, "a").hyperparams["learning_rate"]
    assert set(rates) == {np.float32(0.1)}
    # and back: the first edit's members are there still
    train(SWEEP, root)
    assert "a: edited, goes on with what is stored in a-" in capsys.readouterr().err
    assert files(root) == after
    assert store.load(root, "a").num_members == 12


def test_everything_a_result_depends_on_is_in_the_description():
    base = SWEEP.description("a")
    others = [
        dataclasses.replace(SWEEP, cells={"a": dataclasses.replace(CELL, task=RandomLabels())}),
        dataclasses.replace(SWEEP, cells={"a": dataclasses.replace(CELL, model=Dense(width=5))}),
        dataclasses.replace(SWEEP, cells={"a": dataclasses.replace(CELL, config=TrainConfig(4, epochs=4))}),
        dataclasses.replace(SWEEP, hyperparams=grid(learning_rate=0.1)),
        dataclasses.replace(SWEEP, hyperparams=grid(learning_rate=[0.05, BREAKS], dropout=0.0)),
        dataclasses.replace(SWEEP, seeds=crossed(init=6)),
        dataclasses.replace(SWEEP, seeds=crossed(data=6)),
    ]
    assert all(other.description("a") != base for other in others)
    # neither the number of tied seeds nor how they are kept changes a member
    assert dataclasses.replace(SWEEP, seeds=60, part_size=7, keep_params=(1,)).description("a") == base


def test_the_rule_for_compiler_options_is_in_the_description(monkeypatch):
    """As it is for every platform, so that a cell started on one machine is found on another."""
    small = Sweep({"a": Cell(TASK, LSTM(hidden=16), CELL.config)}, SWEEP.hyperparams).description("a")
    wide = Sweep({"a": Cell(TASK, LSTM(hidden=17), CELL.config)}, SWEEP.hyperparams).description("a")
    no_fusion = {"xla_cpu_experimental_ynn_fusion_type": ""}
    assert small["compiler_options"] == {"cpu": {"xla_cpu_multi_thread_eigen": False} | no_fusion, "gpu": {}}
    assert wide["compiler_options"] == {"cpu": {"xla_cpu_multi_thread_eigen": False}, "gpu": {}}
    base = digest(SWEEP.description("a"))
    monkeypatch.setattr(devices, "compiler_options", lambda platform, ynn_fusion: {"xla_of_another_rule": platform})
    changed = SWEEP.description("a")
    assert changed["compiler_options"] == {name: {"xla_of_another_rule": name} for name in ("cpu", "gpu")}
    assert digest(changed) != base


def test_programs_are_compiled_with_the_options_described(monkeypatch):
    monkeypatch.setattr(devices, "compiler_options", lambda platform, ynn_fusion: {"xla_of_another_rule": platform})
    program.compile_program.cache_clear()
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_of_another_rule"):
        population.compile_cell(CELL, SWEEP.members("a"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cells": {}}, "at least one cell"),
        ({"part_size": 0}, "part_size=0 must be at least 1"),
        ({"part_size": 2.5}, "part_size=2.5 must be at least 1, a whole number"),
        ({"cells": {"a": 3}}, "cell 'a' is 3; it must be a Cell"),
        ({"cells": {"a": Cell("digits", CELL.model, CELL.config)}}, "task='digits' of cell 'a' is no task"),
        ({"cells": {"a": Cell(TASK, 3, CELL.config)}}, "model=3 of cell 'a' is no model"),
        ({"cells": {"a": Cell(TASK, CELL.model, None)}}, "config=None of cell 'a' is no config"),
        ({"hyperparams": {"a": {"learning_rate": 0.1}}}, "must be Hyperparams, as grid"),
        ({"keep_params": [0.5]}, r"keep_params=\[0.5\] must be a tuple of members"),
        ({"seeds": {"b": 2}}, r"seeds names \['b'\] and the cells are \['a'\]"),
        ({"hyperparams": {}}, r"hyperparams names \[\] and the cells are \['a'\]"),
    ],
)
def test_a_sweep_that_does_not_fit_itself_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SWEEP, **fields)


def test_other_versions_are_not_mixed_unless_asked_for(root, monkeypatch, expected):
    train(SWEEP.with_seeds(3), root)
    monkeypatch.setattr(run, "versions", lambda: {"lossjax": "9.9", "jax": "9.9", "jaxlib": "9.9"})
    with pytest.raises(StoreError, match=r"parts made with lossjax .* and this is lossjax 9\.9"):
        train(SWEEP, root)
    assert store.status(root)["planned"] == 6  # the plan is as it was
    with pytest.warns(
        RuntimeWarning, match=r"made with lossjax .* and this is lossjax 9\.9, .*; its members are mixed"
    ):
        train(SWEEP, root, mix_versions=True)
    assert_bytes_equal(arrays(root), expected)


# Failures and stops ---------------------------------------------------------------------------------------------------


def interrupting(monkeypatch, at: int, action) -> None:
    """Does something after the ``at``-th segment of a run, counted over its parts; segments take 3 steps, then 1."""
    seen = iter(range(1, 10_000))
    original = population.train_members

    def train_members(*arguments, **options):
        training = original(*arguments, **options)
        while True:
            try:
                segment = next(training)
            except StopIteration as finished:
                return finished.value
            if next(seen) == at:
                action()
            yield segment

    monkeypatch.setattr(run, "train_members", train_members)
    monkeypatch.setattr(population, "SEGMENT_SECONDS", 0.0)
    monkeypatch.setattr(population, "FIRST_STEPS", 3)


def test_a_part_that_fails_is_noted_and_tried_again(root, monkeypatch, expected):
    def fail():
        raise RuntimeError("the device is gone")

    with monkeypatch.context() as patch:
        interrupting(patch, 12, fail)  # parts have eight segments, so in the second
        with pytest.raises(run.PartsFailed, match="cell a, members 5 … 9: RuntimeError: the device is gone"):
            train(SWEEP, root)
    counts = store.status(root)
    assert (counts["failed"], counts["pending"]) == (5, 2)
    assert_adds_up(counts)
    train(SWEEP, root)
    assert store.status(root)["failed"] == 0
    assert_bytes_equal(arrays(root), expected)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("at", [1, 4, 11])
def test_a_signal_ends_the_segment_and_keeps_a_checkpoint(root, monkeypatch, capfd, expected, number, at):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interrupting(patch, at, lambda: os.kill(os.getpid(), number))
        with pytest.raises(signals.Stopped, match="stopped in cell a after a checkpoint"):
            train(SWEEP, root)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert f"{number.name}: stopping after this segment" in capfd.readouterr().err
    kept = list(root.glob("cells/*/checkpoints/*/[0-9]*"))
    assert len(kept) == 1
    assert_adds_up(store.status(root))

    resumed = []
    original = population.train_members
    monkeypatch.setattr(run, "train_members", lambda *a, **o: resumed.append(a[3]) or original(*a, **o))
    train(SWEEP, root)
    assert resumed[0].step == {1: 0, 4: 5, 11: 4}[at]
    assert_bytes_equal(arrays(root), expected)
    assert not list(root.glob("cells/*/checkpoints/*"))


def test_a_part_has_cost_what_all_processes_spent_on_it(root, monkeypatch):
    """By a clock that stands still but for 100 s in the process that is stopped, and 10 s in the one that goes on."""
    now = [0.0]
    monkeypatch.setattr(run, "time", types.SimpleNamespace(monotonic=lambda: now[0]))

    def stop():
        now[0] += 100
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        interrupting(patch, 4, stop)
        with pytest.raises(signals.Stopped):
            train(SWEEP, root)
    now[0] += 1000  # before it is started again
    with monkeypatch.context() as patch:
        interrupting(patch, 1, lambda: now.__setitem__(0, now[0] + 10))
        train(SWEEP, root)
    made = list(parts.manifests(root, read_plan(root).cells[0]))
    assert [manifest["elapsed_seconds"] for manifest in made] == [110, 0, 0]
    # the first part was evaluated for the first time, which says what an evaluation costs, before the stop
    assert made[0]["evaluation_seconds"] > 0
    # estimated from the first evaluation: never more than all
    assert all(manifest["evaluation_seconds"] <= manifest["elapsed_seconds"] for manifest in made)
    assert store.cost(root)["wall_seconds"] == 110


def test_a_signal_in_the_last_segment_of_a_cell_starts_no_other(root, monkeypatch):
    two = Sweep({"a": CELL, "b": CELL}, grid(learning_rate=0.05), seeds=2)
    with monkeypatch.context() as patch:
        interrupting(patch, 8, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(signals.Stopped, match="before cell b"):
            train(two, root)
    assert store.status(root)["cells"]["a"]["done"] == 2
    assert store.status(root)["cells"]["b"]["pending"] == 2


def test_a_signal_in_the_last_segment_of_all_stops_before_the_analysis(root, monkeypatch):
    with monkeypatch.context() as patch:
        interrupting(patch, 8, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(signals.Stopped, match="nothing left to train"):
            train(SWEEP.with_seeds(1), root)
    assert store.status(root)["pending"] == 0


def test_a_second_signal_ends_the_process_at_once():
    """At a terminal, which is left with its cursor: a progress bar hides it."""
    script = """
import time
from lossjax.sweeps.signals import stop_request
with stop_request():
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
"""
    screen, terminal = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=terminal, text=True)
    os.close(terminal)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    shown = b""
    while b"SIGTERM: stopping" not in shown:
        assert process.poll() is None
        shown += os.read(screen, 1000)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=5) == 128 + signal.SIGINT
    with contextlib.suppress(OSError):  # how a terminal ends that nobody writes to any more
        while more := os.read(screen, 1000):
            shown += more
    assert shown.endswith(b"\x1b[?25h")
    os.close(screen)


def test_a_signal_is_answered_while_python_cannot_run_its_handler_and_another_ends_the_process():
    """As in a compilation: the main thread is in one long call, and standard error is kept away."""
    script = """
import ctypes
from lossjax import devices
from lossjax.sweeps.signals import stop_request
sleep = ctypes.CDLL(None).sleep
with stop_request(), devices.quiet_compilation():
    print("ready", flush=True)
    [*map(sleep, [60] * 100)]  # C code alone runs in this thread
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    while "SIGINT: stopping" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=5) == 128 + signal.SIGINT


def test_a_signal_during_compilation_starts_no_training(root, monkeypatch):
    original = run.compile_cell

    def compile_cell(*arguments, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments, **options)

    monkeypatch.setattr(run, "compile_cell", compile_cell)
    monkeypatch.setattr(run, "train_members", lambda *arguments, **options: pytest.fail("trained"))
    with pytest.raises(signals.Stopped, match="stopped before cell a"):
        train(SWEEP, root)


# Disks that refuse ----------------------------------------------------------------------------------------------------


def full(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_training_goes_on_where_a_checkpoint_cannot_be_written(root, monkeypatch, expected):
    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.warns(RuntimeWarning, match=r"going on without a checkpoint: .*checkpoints.* No space left"):
        train(SWEEP, root, checkpoint_seconds=0)
    assert_bytes_equal(arrays(root), expected)


def test_a_stop_whose_checkpoint_cannot_be_written_says_so(root, monkeypatch):
    monkeypatch.setattr(checkpoint, "_write", full)
    interrupting(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGINT))
    with (
        pytest.warns(RuntimeWarning, match="going on without a checkpoint"),
        pytest.raises(signals.Stopped, match="without a new checkpoint, which could not be written"),
    ):
        train(SWEEP, root)


def test_results_that_cannot_be_written_name_the_folder_and_fail_no_part(root, monkeypatch):
    monkeypatch.setattr(parts.np, "savez", full)
    with pytest.raises(StoreError, match=rf"writing in {root} failed .*No space left.*mend that"):
        train(SWEEP, root)
    assert store.status(root)["failed"] == 0


# Kept parameters ------------------------------------------------------------------------------------------------------


def test_kept_parameters_give_the_recorded_loss(root):
    sweep = Sweep({"a": CELL}, grid(learning_rate=0.05), seeds=6, part_size=4, keep_params=(1, 5))
    train(sweep, root)
    history = store.load(root, "a")
    for member in (1, 5):
        network, variables = load_model(root, "a", member)
        streams = streams_from_seeds(np.full(4, member, np.uint32))
        val = TASK.splits(streams.data).val
        logits = network.apply(variables, val.inputs)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, val.labels).mean()
        np.testing.assert_allclose(loss, history.metrics["val_loss"][member, -1], rtol=1e-5)
    assert not [name for name in history.metrics if "params" in name]
    with pytest.raises(ValueError, match=r"parameters of member 2 of cell 'a' were not kept; kept are \[1, 5\]"):
        load_model(root, "a", 2)
    # named too late: said, and the remedy works
    with pytest.warns(RuntimeWarning, match=r"parameters of members \[2\] of cell 'a' were not kept .* delete .*"):
        train(dataclasses.replace(sweep, keep_params=(1, 2)), root)
    for part in root.glob("cells/*/parts/*"):
        shutil.rmtree(part)
    with pytest.raises(ValueError, match="no part of cell 'a' is committed yet"):
        load_model(root, "a", 1)
    train(dataclasses.replace(sweep, keep_params=(1, 2)), root)
    load_model(root, "a", 2)


def test_an_lstm_stored_with_pytorchs_layout_is_read_as_kernels():
    model = LSTM(hidden=3, layers=2, num_classes=2)
    params = jax.device_get(model.init(jax.random.key(0), np.zeros((1, 4, 2), np.float32))["params"])
    before = {
        layer: {
            name.replace("kernel_", "weight_"): array.T if name.startswith("kernel_") else array
            for name, array in leaves.items()
        }
        for layer, leaves in params.items()
    }
    assert before["layer_1"]["weight_ih"].shape == (12, 3)
    for stored in (before, params):
        read = with_kernels(stored)
        assert jax.tree.structure(read) == jax.tree.structure(params)
        assert jax.tree.all(jax.tree.map(np.array_equal, read, params))


@pytest.mark.parametrize("member", [-1, 12])
def test_members_that_there_are_not_cannot_be_kept(root, member):
    sweep = dataclasses.replace(SWEEP, keep_params=(0, member))
    with pytest.raises(ValueError, match=f"keep_params names member {member} and cell 'a' has the members 0 … 11"):
        train(sweep, root)
    with pytest.raises(ValueError, match=f"keep_params names member {member}"):  # a dry run
        forecast(sweep)


@pytest.mark.parametrize(("before", "after"), [((), (0,)), ((0,), ())])
def test_parameters_asked_for_after_a_stop_are_those_of_a_whole_run(root, tmp_path, monkeypatch, before, after):
    many = dataclasses.replace(SWEEP, hyperparams=grid(learning_rate=0.05), seeds=18, part_size=18)
    with monkeypatch.context() as patch:
        interrupting(patch, 12, lambda: os.kill(os.getpid(), signal.SIGTERM))  # in the second wave of the part
        with pytest.raises(signals.Stopped):
            train(dataclasses.replace(many, keep_params=before), root)
    with pytest.warns(RuntimeWarning, match="keep_params was edited since; this part starts from step 0"):
        train(dataclasses.replace(many, keep_params=after), root)
    train(dataclasses.replace(many, keep_params=(0,)), tmp_path / "whole")
    assert_bytes_equal(arrays(root), arrays(tmp_path / "whole"))
    if after:
        kept, whole = (load_model(folder, "a", 0)[1]["params"] for folder in (root, tmp_path / "whole"))
        assert jax.tree.all(jax.tree.map(np.array_equal, kept, whole))


# Killed processes -----------------------------------------------------------------------------------------------------


def test_killed_and_stopped_at_random_moments_gives_the_bytes_of_an_uninterrupted_run(tmp_path, write_experiment):
    file = write_experiment(config="4, num_steps=4000, num_evals=7", hyperparams="learning_rate=[0.001, 0.05]", seeds=6)
    train(load_experiment(file).sweep("full"), tmp_path / "whole")

    results = tmp_path / "results"
    command = [sys.executable, "-c", "import lossjax; lossjax.main()", "run", str(file)]
    command += ["--results", str(results), "--checkpoint-seconds", "0"]
    # short segments, each with a checkpoint, so that a run of a moment has many places to be killed at
    environment = {**os.environ, "TEST_SEGMENT_SECONDS": "0.01", "JAX_NUM_CPU_DEVICES": "2"}

    def start() -> subprocess.Popen:
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def checkpoints() -> set[str]:
        return {str(path) for path in results.glob("tiny/cells/*/checkpoints/*/[0-9]*")}

    def wait_for_progress(process: subprocess.Popen, delay: float) -> None:
        before = checkpoints()
        while not checkpoints() - before:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.005)
        time.sleep(delay)

    moments = random.Random(7)
    process = start()
    wait_for_progress(process, 0.1)
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert process.returncode == signals.STOPPED, said
    assert time.monotonic() - asked < 5  # a segment, a checkpoint and Python's own end, on a busy machine
    assert "SIGTERM: stopping after this segment" in said
    assert "Traceback" not in said
    assert checkpoints()
    for _ in range(3):
        process = start()
        wait_for_progress(process, moments.uniform(0, 0.3))
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, "the run ended before it was killed; give it more steps"
        assert_adds_up(store.status(results / "tiny"))
    process = start()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said

    assert_bytes_equal(arrays(results / "tiny"), arrays(tmp_path / "whole"))
    for part in sorted((tmp_path / "whole").glob("cells/*/parts/*/arrays.npz")):
        twin = results / "tiny" / part.relative_to(tmp_path / "whole")
        assert twin.read_bytes() == part.read_bytes()
    assert not checkpoints()
