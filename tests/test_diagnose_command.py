"""``lossjax diagnose`` as it is typed: what it prints and writes, and that wrong input costs one line."""

import json
import resource
import subprocess
import sys

import numpy as np
import pytest

import lossjax


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    """Runs ``lossjax diagnose`` in a folder of its own: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            lossjax.main(arguments=["diagnose", *(str(argument) for argument in arguments)])
            code = 0
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def files(tmp_path):
    """before.npz, after.npz: the truth, and the same three times as sure."""
    rng = np.random.default_rng(0)
    truth = 1.5 * rng.normal(size=(300, 4))
    labels = (truth + rng.gumbel(size=truth.shape)).argmax(axis=1)
    np.savez(tmp_path / "before.npz", logits=truth, labels=labels)
    np.savez(tmp_path / "after.npz", logits=3 * truth, labels=labels)
    np.savez(tmp_path / "run.npz", logits=np.stack([0.3 * truth, truth, 3 * truth]), labels=labels)
    np.save(tmp_path / "counts.npy", np.array([50, 50, 30, 20]))
    return tmp_path


def test_two_files_give_text_json_and_a_page(command, files):
    code, out, err = command(
        "before.npz", "after.npz", "--groups", "counts.npy", "--json", "a.json", "--html", "a.html"
    )
    assert code == 0, err
    assert err == ""
    answer = json.loads((files / "a.json").read_text(encoding="utf-8"))
    assert out.startswith("The loss rose by ")
    assert answer["verdict"].startswith("The loss rose by ")
    assert [group["name"] for group in answer["groups"]] == ["head", "middle", "tail"]
    page = (files / "a.html").read_text(encoding="utf-8")
    assert answer["verdict"] in page
    assert "before.npz and after.npz" in page


def test_a_run(command, files):
    code, out, err = command("run.npz")
    assert code == 0, err
    assert out.startswith("From checkpoint 1 to checkpoint 2, the loss rose")


def test_a_curve(command, files):
    (files / "log.csv").write_text("epoch,val_loss,val_accuracy\n0,0.9,0.5\n1,0.5,0.7\n2,0.8,0.75\n")
    code, out, err = command("log.csv", "--examples", 1000)
    assert code == 0, err
    assert out.startswith("From epoch 1 to epoch 2, the loss rose by 0.3 nats and accuracy rose by 5 points.")


def test_the_same_command_gives_the_same_bytes(command, files):
    written = []
    for name in ("a", "b"):
        command("run.npz", "--json", f"{name}.json", "--html", f"{name}.html")
        written.append([(files / f"{name}.{kind}").read_bytes() for kind in ("json", "html")])
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "0 files were given; give one run or curve, or one before and one after"),
        (["before.npz"] * 3, "3 files were given"),
        (["nowhere.npz"], "there is no file nowhere.npz"),
        (["before.npz"], "holds one model (300, 4); give a second file"),
        (["before.npz", "after.npz", "--groups", "nowhere.npy"], "nowhere.npy"),
        (["before.npz", "after.npz", "--groups", "before.npz"], "--groups takes an .npy file"),
        (["before.npz", "after.npz", "--max-gigabytes", "0.00001"], "--max-gigabytes"),
        (["before.npz", "after.npz", "--max-gigabytes", "nan"], "--max-gigabytes=nan"),
        (["before.npz", "after.npz", "--level", "2"], "level=2.0"),
        (["before.npz", "after.npz", "--flat-loss", "nan"], "flat_loss=nan"),
        (["before.npz", "after.npz", "--html", "no/such/folder.html"], "no/such/folder.html"),
        (["before.npz", "after.npz", "--json", "./after.npz"], "after.npz is what is to be read"),
        (["before.npz", "after.npz", "--html", "a", "--json", "a"], "a cannot hold both"),
        (["before.npz", "log.csv"], "there is no file log.csv"),
        (["counts.npy"], "is no readable .npz file"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(command, files, arguments, message):
    code, out, err = command(*arguments)
    assert code == 2
    assert err.startswith("lossjax: ")
    assert err.count("\n") == 1
    assert message in err
    assert out == ""


def test_help_is_quick_and_the_command_starts_no_jax(files):
    """In CPU time, which other work on the machine does not change."""
    main = "from lossjax.cli import main; main()"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, "-c", main, "diagnose", "--help"], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "before.npz after.npz" in result.stdout
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 0.5
    code = f"""
import sys
from lossjax.cli import main
try:
    main(arguments=["diagnose", {str(files / "run.npz")!r}, "--html", {str(files / "a.html")!r}])
finally:
    assert not {{"jax", "jaxlib", "flax", "matplotlib"}} & set(sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
