"""Recorder: what is appended comes back as one file, also after an interruption at any point."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import lossjax
from lossjax.diagnosis.subject import read_files
from lossjax.npz import read_npz
from lossjax.recorder import Recorder

LABELS = np.array([0, 2, 1, 1, 0, 2])


def logits_of(step, dtype=np.float32):
    return np.random.default_rng(step).normal(size=(6, 3)).astype(dtype)


def test_what_was_appended_comes_back(tmp_path):
    path = tmp_path / "run.npz"
    about = {
        "class_names": ["a", "b", "c"],
        "train_counts": np.array([5, 3, 1]),
        "clusters": np.array([0, 0, 1, 1, 2, 2]),
    }
    with Recorder(path, LABELS, **about) as recorder:
        for step in (10, 0, 200):  # order of steps, not of calls
            recorder.append(step, logits_of(step))
    read = read_npz(path, max_bytes=10**6, text=("class_names",))
    assert set(read) == {"logits", "labels", "steps", *about}
    assert read["logits"].dtype == np.float32
    np.testing.assert_array_equal(read["logits"], np.stack([logits_of(step) for step in (0, 10, 200)]))
    np.testing.assert_array_equal(read["steps"], [0, 10, 200])
    np.testing.assert_array_equal(read["labels"], LABELS)
    assert read["class_names"].tolist() == ["a", "b", "c"]
    with np.load(path, allow_pickle=False) as loaded:  # NumPy's own reader agrees
        np.testing.assert_array_equal(loaded["logits"], read["logits"])
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]


def test_epochs_are_called_epochs(tmp_path):
    """Also by who goes on with an interrupted recording, and by who reads it."""
    path = tmp_path / "run.npz"
    Recorder(path, LABELS, unit="epoch").append(1, logits_of(1))
    with pytest.raises(ValueError, match="other unit"):
        Recorder(path, LABELS)
    recorder = Recorder(path, LABELS, unit="epoch")
    recorder.append(2, logits_of(2))
    unfinished = read_files([path])
    recorder.close()
    for found in (unfinished, read_files([path])):
        assert found.names == ("epoch 1", "epoch 2")
        assert found.unit == "epoch"
        np.testing.assert_array_equal(found.steps, [1, 2])
    with pytest.raises(ValueError, match="unit='day'"):
        Recorder(tmp_path / "other.npz", LABELS, unit="day")


def test_the_same_recording_gives_the_same_bytes(tmp_path):
    files = []
    for name in ("a.npz", "b.npz"):
        with Recorder(tmp_path / name, LABELS) as recorder:
            recorder.append(1, logits_of(1))
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


def test_an_interrupted_recording_can_be_read_and_goes_on(tmp_path):
    path = tmp_path / "run.npz"

    def train():
        with Recorder(path, LABELS) as recorder:
            recorder.append(1, logits_of(1))
            recorder.append(2, logits_of(2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert not path.exists()
    subject = read_files([path])
    assert subject.names == ("step 1", "step 2")
    assert "not finished" in subject.notes[0]
    with Recorder(path, LABELS) as recorder:
        recorder.append(2, logits_of(20))  # again, after going back to a checkpoint: replaced
        recorder.append(3, logits_of(3))
    read = read_npz(path, max_bytes=10**6)
    np.testing.assert_array_equal(read["logits"], np.stack([logits_of(1), logits_of(20), logits_of(3)]))


def test_a_killed_process_loses_nothing_that_was_appended(tmp_path):
    """Killed without warning again and again while it appends: every evaluation it reported is there and whole."""
    path = tmp_path / "run.npz"
    code = f"""
import numpy as np
from lossjax.recorder import Recorder, recorded_steps
recorder = Recorder({str(path)!r}, np.arange(50) % 3)
start = max(recorded_steps(recorder._folder), default=-1) + 1
for step in range(start, 10**6):
    recorder.append(step, np.full((50, 3), step, np.float32))
    print(step, flush=True)
"""
    reported = -1
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(4):
            reported = int(process.stdout.readline())
        time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read().split()
        process.wait()
        reported = int(rest[-1]) if rest else reported
    subject = read_files([path])
    assert subject.steps[-1] >= reported
    np.testing.assert_array_equal(subject.steps, np.arange(len(subject.steps)))
    for step, logits in enumerate(subject.logits):
        assert (logits == step).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.append(1, np.zeros((5, 3))), r"float64 \(5, 3\); give floats"),
        (lambda r: r.append(1, np.zeros(6)), "give floats"),
        (lambda r: r.append(1, np.zeros((6, 3), int)), "give floats"),
        (lambda r: r.append(-1, np.zeros((6, 3))), "step=-1"),
        (lambda r: (r.append(1, logits_of(1)), r.append(2, np.zeros((6, 4), np.float32))), "same kind every time"),
        (lambda r: (r.append(1, logits_of(1)), r.append(2, np.zeros((6, 3)))), "same kind every time"),
        (lambda r: r.append(1, (logits_of(1), None)), "are a tuple; give the one array"),
        (lambda r: r.append(1, logits_of(1)[:, :2]), "of 2 classes and labels go up to 2"),
        (lambda r: (r.append(1, logits_of(1)), r.close(), r.append(2, logits_of(2))), "is closed"),
        (lambda r: r.close(), "nothing was recorded"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(Recorder(tmp_path / "run.npz", LABELS))


def test_wrong_labels_names_and_files(tmp_path):
    with pytest.raises(ValueError, match="whole numbers"):
        Recorder(tmp_path / "run.npz", LABELS.astype(float))
    for labels, remedy in ((LABELS[:, None], r"labels\[:, 0\]"), (np.eye(3)[LABELS], r"labels.argmax\(axis=1\)")):
        with pytest.raises(ValueError, match=remedy):
            Recorder(tmp_path / "run.npz", labels)
    with pytest.raises(ValueError, match="-100 at example 2; leave out"):
        Recorder(tmp_path / "run.npz", np.array([0, 1, -100]))
    with pytest.raises(ValueError, match=r"does not end in \.npz"):
        Recorder(tmp_path / "run", LABELS)
    Recorder(tmp_path / "run.npz", LABELS).append(1, logits_of(1))
    with pytest.raises(ValueError, match="other labels"):
        Recorder(tmp_path / "run.npz", LABELS[::-1].copy() * 0)
    with pytest.raises(ValueError, match="other class_names, train_counts"):
        Recorder(tmp_path / "run.npz", LABELS, train_counts=np.array([1, 2, 3]), class_names=["a", "b", "c"])
    (tmp_path / "done.npz").write_bytes(b"")
    with pytest.raises(FileExistsError, match="choose another name"):
        Recorder(tmp_path / "done.npz", LABELS)


def test_it_starts_neither_jax_nor_scipy():
    code = "import lossjax as lj, sys; lj.Recorder; sys.exit(any(m in sys.modules for m in ('jax', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert lossjax.Recorder is Recorder
