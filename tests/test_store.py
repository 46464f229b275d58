"""The store: what was committed comes back bit for bit, damage is noticed, and interruption costs nothing committed."""

import itertools
import json
import platform
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lossjax.history import History, concatenate
from lossjax.sweeps import durable, store
from lossjax.sweeps.plan import CellPlan, plan_changes, write_plan

STEPS = np.array([0, 7, 14], np.int32)


def make_history(first, last, nonfinite=()):
    """Members whose values tell their position, those in ``nonfinite`` stopped at step 3."""
    member = np.arange(first, last)
    return History(
        metrics={
            "val_loss": (member[:, None] + STEPS / 100).astype(np.float32),
            "val_group_loss": np.full((last - first, 3, 2), np.nan, np.float32),
        },
        steps=STEPS,
        seeds={"init": member.astype(np.uint32)},
        hyperparams={"learning_rate": (member * 1e-3).astype(np.float32)},
        nonfinite_step=np.where(np.isin(member, nonfinite), 3, -1).astype(np.int32),
        info={"task": {"name": "RandomLabels"}, "steps_per_epoch": 7},
    )


FACTS = {"device": "cpu", "num_devices": 1, "tile": 8, "elapsed_seconds": 1.5, "evaluation_seconds": 0.5}


def make_cell(num_members=10, name="W1", digest="0123456789abcdef" * 4, **description):
    return CellPlan(name, digest, num_members, description or {"task": {"num_features": 1}})


def put(root, cell, first, last, nonfinite=()):
    history = make_history(first, last, nonfinite)
    return store.commit(root, cell, first, last, history.to_arrays(), info=history.info, **FACTS)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "results" / "lstm"
    store.prepare(root)
    return root


def plan(root, *cells):
    return write_plan(root, cells, experiment="lstm", scale="full", command="lossjax run lstm.py")


def assert_same(found, expected):
    found, expected = found.to_arrays(), expected.to_arrays()
    assert durable.describe(found) == durable.describe(expected)


def test_imports_no_jax():
    code = "import sys, lossjax.sweeps.store; print([m for m in ('jax', 'flax', 'orbax') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_load_gives_back_what_was_committed(root):
    cell = make_cell(10)
    plan(root, cell)
    for first, last in [(4, 8), (0, 4), (8, 10)]:
        put(root, cell, first, last, nonfinite=(5,))
    assert_same(store.load(root, "W1"), make_history(0, 10, nonfinite=(5,)))
    assert_same(store.load(root)["W1"], make_history(0, 10, nonfinite=(5,)))
    assert store.load(root, "W1").info == make_history(0, 1).info


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    array=hnp.arrays(
        st.sampled_from(["<f4", ">f4", "<f8", "<f2", "<u4", "<i4", "|b1", "|u1", "<c8"]),
        hnp.array_shapes(min_dims=2, max_dims=4, min_side=0, max_side=4).map(lambda shape: (2, 3, *shape[2:])),
        elements=None,
    ),
    transposed=st.booleans(),
)
def test_arrays_of_every_dtype_come_back_bitwise(tmp_path_factory, array, transposed):
    root = tmp_path_factory.mktemp("store")
    arrays = make_history(0, 2).to_arrays()
    arrays["metrics/any"] = np.asfortranarray(array) if transposed else array
    part = store.commit(root, make_cell(2), 0, 2, arrays, info={}, **FACTS)
    found, manifest = store.read(part)
    assert durable.describe(found) == durable.describe(arrays) == manifest["arrays"]
    assert found["metrics/any"].tobytes() == array.tobytes()


def test_the_same_arrays_give_the_same_bytes(tmp_path):
    arrays, facts = make_history(0, 4).to_arrays(), {"info": {}, **FACTS}
    part = store.commit(tmp_path / "a", make_cell(), 0, 4, arrays, **facts)
    again = store.commit(tmp_path / "b", make_cell(), 0, 4, dict(reversed(arrays.items())), **facts)
    assert (part / "arrays.npz").read_bytes() == (again / "arrays.npz").read_bytes()


def test_manifest_says_what_made_the_part_and_names_no_host(root):
    part = put(root, make_cell(), 0, 4, nonfinite=(1, 2))
    manifest = store.read(part)[1]
    assert manifest["nonfinite"] == 2
    assert manifest["members"] == [0, 4]
    assert manifest["tile"] == 8
    assert manifest["versions"]["numpy"] == np.__version__
    assert manifest["arrays"]["metrics/val_loss"]["shape"] == [4, 3]
    assert platform.node() not in (part / "manifest.json").read_text() or not platform.node()


@pytest.mark.parametrize("name", ["arrays.npz", "manifest.json"])
def test_any_flipped_byte_is_noticed(root, name):
    path = put(root, make_cell(), 0, 4) / name
    whole = path.read_bytes()
    rng = random.Random(0)
    for position in [0, len(whole) - 1, *rng.sample(range(len(whole)), 60)]:
        flipped = bytearray(whole)
        flipped[position] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        if name == "manifest.json" and _same_json(flipped, whole):
            continue  # a space became another: the content is as it was
        with pytest.raises(store.DamagedPart, match=f"{name} .*delete the folder"):
            store.read(path.parent)
    path.write_bytes(whole)
    store.read(path.parent)


def _same_json(one, other):
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def test_a_truncated_missing_or_foreign_file_is_noticed(root):
    part = put(root, make_cell(), 0, 4)
    whole = (part / "arrays.npz").read_bytes()
    (part / "arrays.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(store.DamagedPart, match=r"arrays.npz has \d+ bytes where"):
        store.read(part)
    (part / "arrays.npz").unlink()
    with pytest.raises(store.DamagedPart, match=r"missing \['arrays.npz'\]"):
        store.read(part)
    (part / "arrays.npz").write_bytes(whole)
    (part / "more.npy").write_bytes(b"")
    with pytest.raises(store.DamagedPart, match=r"foreign \['more.npy'\]"):
        store.read(part)


def test_damage_ends_load_and_deleting_the_part_makes_it_missing_again(root):
    cell = make_cell(8)
    plan(root, cell)
    put(root, cell, 0, 4)
    damaged = put(root, cell, 4, 8)
    (damaged / "arrays.npz").write_bytes(b"x")
    with pytest.raises(store.DamagedPart, match="00000004-00000008"):
        store.load(root)["W1"]
    for path in damaged.iterdir():
        path.unlink()
    damaged.rmdir()
    assert store.missing(root, cell, 4) == [(4, 8)]


def test_objects_that_need_pickle_are_refused(root):
    arrays = make_history(0, 2).to_arrays() | {"metrics/any": np.array([[{}] * 3] * 2)}
    with pytest.raises(TypeError, match="metrics/any"):
        store.commit(root, make_cell(), 0, 2, arrays, info={}, **FACTS)
    assert store.parts(root, make_cell()) == []


def test_a_range_is_committed_once(root):
    put(root, make_cell(), 0, 4)
    for first, last in [(0, 4), (3, 6)]:
        with pytest.raises(store.StoreError, match="overlap the committed part"):
            put(root, make_cell(), first, last)
    history = make_history(4, 6)
    with pytest.raises(ValueError, match="arrays of 2 members"):
        store.commit(root, make_cell(), 4, 8, history.to_arrays(), info={}, **FACTS)


def test_more_members_only_add_parts(root):
    cell = make_cell(10)
    assert store.missing(root, cell, 4) == [(0, 4), (4, 8), (8, 10)]
    for first, last in store.missing(root, cell, 4):
        put(root, cell, first, last)
    assert store.missing(root, cell, 4) == []
    assert store.missing(root, make_cell(6), 4) == []
    assert store.missing(root, make_cell(19), 4) == [(10, 14), (14, 18), (18, 19)]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_missing_ranges_and_committed_parts_are_the_plan_exactly(data):
    num_members, part_size = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 9))
    edges = sorted(data.draw(st.sets(st.integers(0, 50), max_size=8)))
    committed = [pair for pair in itertools.pairwise(edges) if data.draw(st.booleans())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "parts", lambda root, cell: [(first, last, None) for first, last in committed])
        ranges = store.missing("", make_cell(num_members), part_size)
    assert all(0 < last - first <= part_size for first, last in ranges)
    covered = [member for pair in committed for member in range(*pair) if member < num_members]
    todo = [member for pair in ranges for member in range(*pair)]
    assert sorted(covered + todo) == list(range(num_members))


def test_status_adds_up_in_members(root):
    cells = make_cell(12), make_cell(5, name="W2")
    plan(root, *cells)
    put(root, cells[0], 0, 4, nonfinite=(1,))
    put(root, cells[0], 4, 8, nonfinite=(4, 5, 6, 7))
    store.mark_failed(root, cells[0], 6, 11, "out of memory")  # as if killed after the commit, before the note went
    counts = {"planned": 12, "done": 3, "nonfinite": 5, "failed": 3, "pending": 1}
    empty = {"planned": 5, "done": 0, "nonfinite": 0, "failed": 0, "pending": 5}
    expected = {key: counts[key] + empty[key] for key in counts}
    assert store.status(root) == {**expected, "cells": {"W1": counts, "W2": empty}}
    assert json.loads(json.dumps(store.status(root))) == store.status(root)


@pytest.mark.parametrize("num_members", range(1, 10))
def test_status_is_exact_when_the_plan_ends_within_a_part(root, num_members):
    nonfinite = (0, 2, 5)
    put(root, make_cell(10), 0, 4, nonfinite)
    put(root, make_cell(10), 4, 8, nonfinite)
    cell = make_cell(num_members)
    plan(root, cell)
    expected = make_history(0, min(num_members, 8), nonfinite)
    counts = store.status(root)
    assert counts["nonfinite"] == int((~expected.finite).sum())
    assert counts["done"] == int(expected.finite.sum())
    assert counts["pending"] == max(num_members - 8, 0)
    assert_same(store.load(root, "W1", allow_partial=True), expected)


def test_a_commit_clears_failure_notes_and_checkpoints_of_its_members(root):
    cell = make_cell(8)
    plan(root, cell)
    store.mark_failed(root, cell, 0, 4, "out of memory")
    store.mark_failed(root, cell, 4, 8, "out of memory")
    for first, last in [(0, 4), (4, 8)]:
        store.checkpoint_folder(root, cell, first, last).mkdir(parents=True)
    put(root, cell, 0, 4)
    assert store.status(root)["failed"] == 4
    assert not store.checkpoint_folder(root, cell, 0, 4).exists()
    assert store.checkpoint_folder(root, cell, 4, 8).exists()


def test_an_unfinished_commit_is_ignored_and_removed(root):
    cell = make_cell(4)
    plan(root, cell)
    unfinished = store.cell_folder(root, cell) / "parts" / ".00000000-00000004.tmp"
    unfinished.mkdir(parents=True)
    (unfinished / "arrays.npz").write_bytes(b"half of it")
    assert store.status(root)["pending"] == 4
    with store.lock(root):
        assert not unfinished.exists()
    unfinished.mkdir()
    put(root, cell, 0, 4)
    assert_same(store.load(root, "W1"), make_history(0, 4))


def test_missing_results_are_named_and_partial_ones_are_asked_for(root):
    cells = make_cell(8), make_cell(4, name="W2")
    with pytest.raises(store.StoreError, match="there is no plan"):
        store.load(root)
    plan(root, *cells)
    with pytest.raises(store.StoreError, match="choose one of its folders: lstm"):
        store.status(root.parent)
    put(root, cells[0], 4, 8)
    with pytest.raises(store.StoreError, match=r"'W1' has 4 of 8 members \(0 failed, 4 pending\)"):
        store.load(root)
    with pytest.raises(store.StoreError, match="no cell 'W3'"):
        store.load(root, "W3")
    partial = store.load(root, allow_partial=True)
    assert list(partial) == ["W1"]
    assert_same(partial["W1"], make_history(4, 8))
    with pytest.raises(store.StoreError, match="'W2' has 0 of 4"):
        store.load(root, "W2", allow_partial=True)


def test_an_edited_cell_has_a_place_of_its_own_and_a_diff(root):
    before = make_cell(8, task={"num_features": 1, "seq_len": 20}, config={"epochs": 50})
    assert plan_changes(root, [before]) == ""
    plan(root, before)
    assert plan_changes(root, [before]) == ""
    put(root, before, 0, 8)
    after = make_cell(8, digest="f" * 64, task={"num_features": 5, "seq_len": 20}, config={"epochs": 50, "batch": 16})
    text = plan_changes(root, [after, make_cell(2, name="W2")])
    assert "task.num_features: 1 → 5" in text
    assert "config.batch: 16 added" in text
    assert "W2: new, 2 members" in text
    assert "seq_len" not in text
    assert plan_changes(root, [make_cell(16, task=before.description["task"])]) == "W1: 8 → 16 members"
    plan(root, after)
    assert store.missing(root, after, 8) == [(0, 8)]
    assert store.parts(root, before)[0][2].exists()


def test_a_part_in_the_wrong_place_is_refused(root):
    cell, other = make_cell(4), make_cell(4, digest="f" * 64)
    plan(root, other)
    put(root, cell, 0, 4).parent.parent.rename(store.cell_folder(root, other))
    for use in (store.load, store.status):
        with pytest.raises(store.DamagedPart, match="belongs elsewhere"):
            use(root)
    (store.cell_folder(root, other) / "parts" / "notes").mkdir()
    with pytest.raises(store.StoreError, match="not put there by lossjax"):
        store.status(root)


def test_parts_of_other_versions_are_refused(root):
    cell = make_cell(4)
    put(root, cell, 0, 4)
    current = store.versions()
    store.check_versions(root, cell, current)
    store.check_versions(root, cell, current | {"numpy": "0.1"})
    for package in ("lossjax", "jax", "jaxlib"):
        with pytest.raises(store.StoreError, match=f"this is {package} 99"):
            store.check_versions(root, cell, current | {package: "99"})


def test_a_folder_that_cannot_be_written_or_is_foreign_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(store.StoreError, match=r"cannot write in .*choose another results folder"):
        store.prepare(tmp_path / "file" / "lstm")
    root = tmp_path / "lstm"
    root.mkdir()
    (root / "plan.json").write_text('{"cells": []}')
    with pytest.raises(store.StoreError, match="not written by lossjax"):
        store.prepare(root)
    (root / "plan.json").unlink()
    store.prepare(root)
    plan(root, make_cell())
    with pytest.raises(store.StoreError, match="one experiment at one scale"):
        write_plan(root, [make_cell()], experiment="lstm", scale="smoke", command="")
    with pytest.raises(ValueError, match="share a name"):
        plan(root, make_cell(), make_cell())


@pytest.mark.parametrize(
    ("change", "message"),
    [({"name": "../W1"}, "names a folder"), ({"digest": "xyz"}, "hexadecimal"), ({"num_members": 0}, "at least 1")],
)
def test_a_cell_that_has_no_place_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make_cell(**change)


def test_one_writer_at_a_time(root):
    code = f"from lossjax.sweeps import store\nwith store.lock({str(root)!r}): print('held', flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(store.StoreError, match=f"is being written by process {other.pid};"), store.lock(root):
            pass
    finally:
        other.kill()
        other.communicate()
    with store.lock(root), pytest.raises(store.StoreError, match="is being written"), store.lock(root):
        pass
    with store.lock(root):
        pass


COMMITS = """
import sys
from pathlib import Path
from tests.test_store import make_cell, put
from lossjax.sweeps import store
with store.lock(Path(sys.argv[1])):
    for first, last in store.missing(Path(sys.argv[1]), make_cell(100_000), 3):
        put(Path(sys.argv[1]), make_cell(100_000), first, last, nonfinite=range(0, 100_000, 7))
        print("committed", flush=True)
"""


def test_a_kill_at_any_moment_leaves_whole_parts(root, request):
    """Killed five times while committing: what is there is whole, in order, and the next process goes on from it."""
    rng, before = random.Random(1), 0
    for _ in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", COMMITS, str(root)], stdout=subprocess.PIPE, text=True, cwd=request.config.rootpath
        )
        for _ in range(3):
            assert writer.stdout.readline() == "committed\n"
        time.sleep(rng.uniform(0.0, 0.02))  # a commit takes a few milliseconds
        writer.kill()
        writer.communicate()
        parts = store.parts(root, make_cell(100_000))
        arrays = [store.read(folder) for _, _, folder in parts]
        assert [pair[:2] for pair in parts] == [(first, first + 3) for first in range(0, 3 * len(parts), 3)]
        assert len(parts) >= before + 3
        before = len(parts)
    found = concatenate([History.from_arrays(read, manifest["info"]) for read, manifest in arrays])
    assert_same(found, make_history(0, found.num_members, nonfinite=range(0, 100_000, 7)))
    plan(root, make_cell(100_000))
    counts = store.status(root)
    assert counts["done"] + counts["nonfinite"] == found.num_members
