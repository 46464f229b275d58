"""The command: what each subcommand writes and prints, and that wrong input ends in one message with nothing lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lossjax
from lossjax.sweeps import store
from lossjax.sweeps.experiment import load_experiment


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    """Runs ``lossjax`` with these arguments in a folder of its own: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            lossjax.main(arguments=[str(argument) for argument in arguments])
            code = 0
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "results" / "tiny"


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but locks."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def members_are_there(root: Path) -> int:
    return store.load(root, "a").num_members


# What it does ---------------------------------------------------------------------------------------------------------


def test_run_trains_analyses_draws_and_reports(command, write_experiment, root):
    code, out, err = command("run", write_experiment())
    assert code == 0, err
    assert {path.name for path in root.iterdir()} >= {
        "plan.json",
        "summary.json",
        "curve.csv",
        "curve.png",
        "report.md",
    }
    assert "C1 unresolved: final loss" in out
    assert str(Path("results") / "tiny" / "report.md") in out
    assert "6 members" in err
    summary = json.loads((root / "summary.json").read_text())
    assert summary["meta"]["members"] == {"planned": 6, "done": 6, "nonfinite": 0, "failed": 0, "pending": 0}
    assert 0 <= summary["meta"]["wall_seconds"] <= summary["meta"]["core_seconds"]
    history = lossjax.load(root)["a"]
    np.testing.assert_allclose(summary["numbers"]["final loss"]["estimate"], history.metrics["val_loss"][:, -1].mean())


def test_each_scale_has_a_folder_of_its_own_and_another_is_refused(command, write_experiment, root):
    file = write_experiment(seeds=2)
    text = file.read_text()
    file.write_text(text.replace("sweep, analyse, plot)", 'sweep, analyse, plot, ("smoke", "laptop", "paper"))'))
    code, out, _ = command("run", file, "--scale", "paper", "--dry-run")
    assert code == 0
    assert "a: 2 members × " in out
    assert "in all: 2 members" in out
    assert not root.parent.exists()
    assert command("run", file, "--scale", "paper")[0] == 0
    assert members_are_there(root.with_name("tiny-paper")) == 2
    assert command("run", file)[0] == 0
    assert members_are_there(root) == 2
    assert "core-hours, if a member-step takes what it took in results" in command("run", file, "--dry-run")[1]
    assert json.loads((root / "plan.json").read_text())["scale"] == "laptop"
    assert command("figures", file, "--scale", "paper")[0] == 0
    one_message(command("run", file, "--scale", "full"), "has no scale 'full'; it has smoke, laptop, paper")
    one_message(command("run", file, "--smoke", "--scale", "paper"), "--smoke and --scale paper were given")
    one_message(command("figures", file, "--smoke"), "tiny-smoke")
    one_message(command("run", file, "--dry-run", "--checkpoint-seconds", -1), "must be at least 0")


def test_smoke_has_a_folder_of_its_own_and_seeds_add_members(command, write_experiment, root):
    file = write_experiment(seeds=2)
    assert command("run", file, "--smoke")[0] == 0
    assert members_are_there(root.with_name("tiny-smoke")) == 2
    assert not root.exists()
    assert command("run", file, "--seeds", 4)[0] == 0
    assert members_are_there(root) == 4
    code, _, err = command("run", file, "--seeds", 6)
    assert code == 0
    assert "4 → 6 members" in err
    assert members_are_there(root) == 6


def test_status_adds_up_for_a_folder_and_for_all(command, write_experiment, root):
    command("run", write_experiment(hyperparams="learning_rate=[0.05, 3e38]", seeds=3))
    code, out, _ = command("status", root, "--json")
    assert code == 0
    counts = json.loads(out)
    totals = {key: counts[key] for key in ("planned", "done", "nonfinite", "failed", "pending")}
    assert totals == {"planned": 6, "done": 3, "nonfinite": 3, "failed": 0, "pending": 0}
    assert counts["cells"]["a"] == totals
    code, out, _ = command("status", root)
    assert "tiny: 6 planned, 3 done, 3 nonfinite, 0 failed, 0 pending" in out
    code, out, _ = command("status", root.parent, "--json")
    assert json.loads(out) == {"tiny": counts}


def test_figures_need_the_committed_files_only(command, write_experiment, root):
    file = write_experiment()
    command("run", file)
    before = content(root)
    shutil.rmtree(root / "cells")
    (root / "plan.json").unlink()
    for name in ("curve.png", "report.md"):
        (root / name).unlink()
    code, _, err = command("figures", file)
    assert code == 0, err
    after = content(root)
    for name in ("summary.json", "curve.csv", "curve.png", "report.md"):
        assert after[name] == before[name], name


def test_claims_prints_the_ledger(command, write_experiment):
    command("run", write_experiment())
    code, out, _ = command("claims", "results")
    assert code == 0
    assert "C1" in out
    assert "unresolved" in out


def test_an_experiment_file_runs_by_itself_from_any_folder(write_experiment, tmp_path):
    file = write_experiment("elsewhere.py", seeds=2)
    (tmp_path / "folder").mkdir()
    result = subprocess.run(
        [sys.executable, str(file), "--smoke"],
        cwd=tmp_path / "folder",
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert members_are_there(tmp_path / "folder" / "results" / "tiny-smoke") == 2


def test_two_files_of_one_name_do_not_meet(write_experiment, tmp_path):
    first = load_experiment(write_experiment(seeds=2))
    (tmp_path / "other").mkdir()
    second = load_experiment(write_experiment("other/tiny.py", seeds=3))
    assert len(first.sweep("full").members("a")) == 2
    assert len(second.sweep("full").members("a")) == 3


# Wrong input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        ({"hyperparams": "learing_rate=0.1"}, "no hyperparameter named 'learing_rate'; did you mean learning_rate?"),
        ({"hyperparams": "learning_rate=-0.1"}, "learning_rate=-0.1 must be > 0"),
        ({"hyperparams": "learning_rate=0.1, focal_gamma=1.0"}, "focal_gamma is given, but"),
        ({"hyperparams": "learning_rate=0.1, train_size=11"}, "train_size=11 exceeds the 10 training examples"),
        ({"config": "16, epochs=3"}, "batch_size=16 exceeds the 10 training examples; lower it"),
        ({"config": "4, epochs=3, num_evals=50"}, "num_evals=50 exceeds num_steps=9; lower num_evals or train longer"),
        ({"config": "4, epochs=3, optimizer='adma'"}, "optimizer='adma' is none of sgd, momentum, adam"),
        ({"seeds": 0}, "seeds=0 names no seeds; give a positive number"),
    ],
)
def test_an_experiment_that_cannot_be_trained_ends_in_one_message(command, write_experiment, root, experiment, message):
    file = write_experiment()
    command("run", file)
    before = content(root)
    code, out, err = command("run", write_experiment(**experiment))
    assert code == 2
    assert out == ""
    assert message in err
    assert err.startswith("lossjax: ")
    assert err.count("\n") == 1
    assert content(root) == before


def one_message(result: tuple[int, str, str], *parts: str) -> None:
    code, _, err = result
    lines = [line for line in err.splitlines() if line.startswith("lossjax: ")]
    assert code == 2, err
    assert len(lines) == 1
    assert "Traceback" not in err
    for part in parts:
        assert part in lines[0]


def test_files_that_are_no_experiments(command, tmp_path):
    one_message(command("run", "missing.py"), "missing.py is no file; give the path of an experiment file")
    (tmp_path / "empty.py").write_text("experiment = 3\n")
    one_message(command("run", "empty.py"), "empty.py defines no experiment")
    (tmp_path / "notes.txt").write_text("notes")
    one_message(command("run", "notes.txt"), "notes.txt is not a Python file; an experiment file ends in .py")
    (tmp_path / "needs.py").write_text("import a_library_that_nobody_has\n")
    one_message(command("run", "needs.py"), "a_library_that_nobody_has")


def test_a_results_folder_that_cannot_be_written(command, write_experiment, tmp_path):
    (tmp_path / "taken").write_text("a file")
    one_message(command("run", write_experiment(), "--results", "taken"), "cannot write in taken", "choose another")
    assert (tmp_path / "taken").read_text() == "a file"


def test_a_folder_of_somebody_else(command, write_experiment, root):
    root.mkdir(parents=True)
    (root / "plan.json").write_text('{"holiday": "Rome"}')
    before = content(root)
    one_message(command("run", write_experiment()), "plan.json was not written by lossjax")
    assert {name: content(root)[name] for name in before} == before


def test_a_folder_of_another_experiment(command, write_experiment, root):
    command("run", write_experiment())
    before = content(root)
    other = write_experiment("other.py")
    other.write_text(other.read_text().replace('lj.Experiment("tiny"', 'lj.Experiment("other"'))
    root.rename(root.with_name("other"))
    one_message(command("run", other), "holds tiny (full) and not other (full)")
    assert content(root.with_name("other")) == before


@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_a_damaged_part_is_named_and_everything_else_kept(command, write_experiment, root, how):
    file = write_experiment()
    command("run", file)
    history = store.load(root, "a")
    part = min(root.glob("cells/*/parts/*/arrays.npz"))
    if how == "flipped":
        data = bytearray(part.read_bytes())
        data[len(data) // 2] ^= 1
        part.write_bytes(data)
    else:
        part.unlink()
    before = content(root)
    one_message(command("run", file), "arrays.npz", f"delete the folder {Path('results') / 'tiny'}")
    assert content(root) == before
    # what the message says to do
    shutil.rmtree(part.parent)
    assert command("run", file)[0] == 0
    repaired = store.load(root, "a").to_arrays()
    assert all(repaired[name].tobytes() == array.tobytes() for name, array in history.to_arrays().items())


def test_status_and_figures_of_what_is_not_there(command, write_experiment, tmp_path):
    one_message(command("status", tmp_path), "holds no results: there is no plan.json in it")
    one_message(command("status", tmp_path / "nowhere"), "holds no results")
    one_message(command("figures", write_experiment()), "summary.json does not exist; run the experiment first")


def test_a_cell_name_that_is_no_folder(command, write_experiment):
    file = write_experiment()
    file.write_text(file.read_text().replace('{"a": cell}', '{"../a": cell}'))
    one_message(command("run", file), "cell name '../a'", "rename the cell")


@pytest.mark.parametrize(
    ("correct", "wrong", "message"),
    [
        ("lj.TrainConfig(4,", "lj.TrainConfig(batchsize=4,", "unexpected keyword argument 'batchsize'"),
        ("TASK, lj.models", "TSAK, lj.models", "NameError: name 'TSAK' is not defined"),
        ("return lj.Sweep(", "lj.Sweep(", "sweep('full') of experiment 'tiny' gave None and no Sweep"),
        ("TASK = ", "TASK = 1 +* ", "SyntaxError"),
        ("TASK = ", "TASK = 1 / 0, ", "ZeroDivisionError"),
        ("part_size=5", "part_size=2.5", "part_size=2.5 must be at least 1"),
        ('"tiny", "Does', '"../up", "Does', "experiment name '../up' names a folder"),
        ('"tiny", "Does', '"", "Does', "experiment name '' names a folder"),
        ('"tiny", "Does', '"a/b", "Does', "experiment name 'a/b' names a folder"),
        ('"tiny", "Does', '"tiny-smoke", "Does', "ends as the folder of a smoke run does; rename it"),
        (
            "sweep, analyse, plot)",
            'sweep, analyse, plot, ("laptop", "paper"))',
            "must be 'smoke', the usual one, and any",
        ),
        ("sweep, analyse, plot)", "sweep, None, plot)", "analyse=None of experiment 'tiny' must be a function"),
    ],
)
def test_a_slip_in_an_experiment_is_one_line_with_its_place(
    command, write_experiment, tmp_path, correct, wrong, message
):
    file = write_experiment()
    text = file.read_text()
    assert correct in text
    text = text.replace(correct, wrong)
    file.write_text(text)
    result = command("run", file)
    one_message(result, message)
    if "gave None" not in message:
        number = next(number for number, line in enumerate(text.splitlines(), start=1) if wrong in line)
        one_message(result, f"{file}, line {number}: ")
    assert {path.name for path in tmp_path.iterdir()} <= {"tiny.py", "__pycache__"}


@pytest.mark.parametrize(
    ("correct", "wrong", "message"),
    [
        ('["val_loss"].mean', '["val_los"].mean', "KeyError: 'val_los'; what was trained is kept in results"),
        ("return lj.Findings(", "lj.Findings(", "analyse of experiment 'tiny' gave None and no Findings"),
        ('["step"], findings', '["stp"], findings', "KeyError: 'stp'; what was trained is kept in results"),
    ],
)
def test_a_slip_in_analysis_or_drawing_keeps_what_was_trained(command, write_experiment, root, correct, wrong, message):
    file = write_experiment(seeds=2)
    file.write_text(file.read_text().replace(correct, wrong))
    one_message(command("run", file), message)
    assert members_are_there(root) == 2


def test_an_experiment_imports_what_lies_beside_it(write_experiment, tmp_path):
    (tmp_path / "beside_the_experiment.py").write_text("SEEDS = 3\n")
    file = write_experiment(seeds="SEEDS")
    file.write_text("from beside_the_experiment import SEEDS\n" + file.read_text())
    assert len(load_experiment(file).sweep("full").members("a")) == 3


def test_a_signal_outside_of_training_is_a_line(command, write_experiment, monkeypatch, request):
    def interrupted(number):
        assert signal.getsignal(number) is not signal.SIG_DFL, "it would end the process without a word"
        signal.raise_signal(number)

    file = write_experiment(seeds=2)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born without
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    for number in (signal.SIGINT, signal.SIGTERM):  # the second time nothing is trained
        monkeypatch.setattr(store, "load", lambda *arguments, number=number: interrupted(number))
        code, _, err = command("run", file)
        assert code == 75
        assert "Traceback" not in err
        assert "lossjax: stopped; what is committed is kept" in err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_error_nobody_foresaw_is_not_taken_for_failed_parts(command, write_experiment, monkeypatch):
    monkeypatch.setattr(store, "status", lambda root: 1 / 0)
    (write_experiment().parent / "plan.json").write_text("{}")
    code, _, err = command("status", ".")
    assert code == 70
    assert "ZeroDivisionError" in err


def test_output_that_nobody_reads_to_the_end_is_no_error():
    results = Path(__file__).parents[1] / "results"
    command = [sys.executable, "-m", "lossjax", "claims", str(results)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1


@pytest.mark.parametrize("module", ["lossjax", "lossjax.cli"])
def test_the_command_is_a_module_too(module):
    result = subprocess.run([sys.executable, "-m", module, "claims", "--help"], capture_output=True, text=True)
    assert result.returncode == 0
    assert "ledger of claims" in result.stdout
