"""The store: what was committed is loaded and counted, whatever the plan asks for, and kills cost nothing committed."""

import json
import random
import subprocess
import sys
import time

import pytest
from test_parts import make_cell, make_history, put

from lossjax.history import History, concatenate
from lossjax.sweeps import durable, parts, store
from lossjax.sweeps.plan import plan_changes, write_plan
from lossjax.sweeps.provenance import versions


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


def test_long_lists_are_in_the_plan_by_their_digest(root):
    """A random search has hundreds of values, of which nothing is ever read."""
    rates = [0.001 * (n + 1) for n in range(40)]

    def cell(rates, digest="0" * 64):
        return make_cell(4, digest=digest, hyperparams={"learning_rate": rates, "weight_decay": [0.0, 0.1]})

    plan(root, cell(rates))
    written = json.loads((root / "plan.json").read_text())["cells"][0]["description"]["hyperparams"]
    assert written["learning_rate"].startswith("40 numbers, 0.001 … 0.04 (")
    assert written["weight_decay"] == [0.0, 0.1]
    assert plan_changes(root, [cell(rates)]) == ""
    # that of an earlier lossjax holds them all: the same, said another way
    content = json.loads((root / "plan.json").read_text())
    content["cells"][0]["description"]["hyperparams"]["learning_rate"] = rates
    del content["sha256_of_this_file"]
    durable.write_json(root / "plan.json", content)
    assert plan_changes(root, [cell(rates)]) == ""
    changed = plan_changes(root, [cell([*rates[:-1], 0.5], digest="1" * 64)])
    assert 'hyperparams.learning_rate: "40 numbers, 0.001 … 0.04 (' in changed
    assert '→ "40 numbers, 0.001 … 0.5 (' in changed


def test_load_gives_back_what_was_committed(root):
    cell = make_cell(10)
    plan(root, cell)
    for first, last in [(4, 8), (0, 4), (8, 10)]:
        put(root, cell, first, last, nonfinite=(5,))
    assert_same(store.load(root, "W1"), make_history(0, 10, nonfinite=(5,)))
    assert_same(store.load(root)["W1"], make_history(0, 10, nonfinite=(5,)))
    assert store.load(root, "W1").info == make_history(0, 1).info


def test_damage_ends_load_and_deleting_the_part_makes_it_missing_again(root):
    cell = make_cell(8)
    plan(root, cell)
    put(root, cell, 0, 4)
    damaged = put(root, cell, 4, 8).path
    (damaged / "arrays.npz").write_bytes(b"x")
    with pytest.raises(parts.DamagedPart, match="00000004-00000008"):
        store.load(root)["W1"]
    for path in damaged.iterdir():
        path.unlink()
    damaged.rmdir()
    assert parts.missing(root, cell, 4) == [(4, 8)]


def test_status_adds_up_in_members(root):
    cells = make_cell(12), make_cell(5, name="W2")
    plan(root, *cells)
    put(root, cells[0], 0, 4, nonfinite=(1,))
    put(root, cells[0], 4, 8, nonfinite=(4, 5, 6, 7))
    parts.mark_failed(root, cells[0], 6, 11, "out of memory")  # as if killed after the commit, before the note went
    counts = {"planned": 12, "done": 3, "nonfinite": 5, "failed": 3, "pending": 1}
    empty = {"planned": 5, "done": 0, "nonfinite": 0, "failed": 0, "pending": 5}
    expected = {key: counts[key] + empty[key] for key in counts}
    assert store.status(root) == {**expected, "cells": {"W1": counts, "W2": empty}}
    assert json.loads(json.dumps(store.status(root))) == store.status(root)


def test_cost_is_that_of_the_parts_that_the_plan_reaches(root):
    for first, last in [(0, 4), (4, 8), (8, 10)]:
        put(root, make_cell(10), first, last)
    plan(root, make_cell(6), make_cell(5, name="W2"))
    cost = store.cost(root)
    assert (cost["wall_seconds"], cost["core_seconds"]) == (2 * 1.5, 2 * 1.5)
    assert cost["evaluation_share"] == pytest.approx(1 / 3, abs=1e-3)
    assert cost["device"] == "cpu × 1"
    assert cost["members"] == {"planned": 11, "done": 6, "nonfinite": 0, "failed": 0, "pending": 5}


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


def test_an_unfinished_commit_is_ignored_and_removed(root):
    cell = make_cell(4)
    plan(root, cell)
    unfinished = parts.cell_folder(root, cell) / "parts" / ".00000000-00000004.tmp"
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
    fewer = plan_changes(root, [make_cell(4, task=before.description["task"])])
    assert fewer == "W1: 8 → 4 members; the others stay and are no longer read, so summary and report are of fewer"
    plan(root, after)
    assert parts.missing(root, after, 8) == [(0, 8)]
    assert parts.committed(root, before)[0].path.exists()


def test_a_part_in_the_wrong_place_is_refused(root):
    cell, other = make_cell(4), make_cell(4, digest="f" * 64)
    plan(root, other)
    put(root, cell, 0, 4).path.parent.parent.rename(parts.cell_folder(root, other))
    for use in (store.load, store.status):
        with pytest.raises(parts.DamagedPart, match="belongs elsewhere"):
            use(root)
    (parts.cell_folder(root, other) / "parts" / "notes").mkdir()
    with pytest.raises(store.StoreError, match="not put there by lossjax"):
        store.status(root)


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
from tests.test_parts import make_cell, put
from lossjax.sweeps import parts, store
with store.lock(Path(sys.argv[1])):
    for first, last in parts.missing(Path(sys.argv[1]), make_cell(100_000), 3):
        put(Path(sys.argv[1]), make_cell(100_000), first, last, nonfinite=range(0, 100_000, 7))
        print("committed", flush=True)
"""


def test_a_kill_at_any_moment_leaves_whole_parts(root, request):
    """Killed five times while committing: what is there is whole, in order, and the next process goes on from it."""
    cell, rng, before = make_cell(100_000), random.Random(1), 0
    for _ in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", COMMITS, str(root)], stdout=subprocess.PIPE, text=True, cwd=request.config.rootpath
        )
        for _ in range(3):
            assert writer.stdout.readline() == "committed\n"
        time.sleep(rng.uniform(0.0, 0.02))  # a commit takes a few milliseconds
        writer.kill()
        writer.communicate()
        there = parts.committed(root, cell)
        arrays = [parts.read(cell, part) for part in there]
        assert [part[:2] for part in there] == [(first, first + 3) for first in range(0, 3 * len(there), 3)]
        assert len(there) >= before + 3
        before = len(there)
    found = concatenate([History.from_arrays(read, manifest["info"]) for read, manifest in arrays])
    assert_same(found, make_history(0, found.num_members, nonfinite=range(0, 100_000, 7)))
    plan(root, cell)
    counts = store.status(root)
    assert counts["done"] + counts["nonfinite"] == found.num_members


def test_cost_is_of_the_planned_parts_and_names_every_version(root, monkeypatch):
    cell = make_cell(6)
    plan(root, cell)
    put(root, cell, 0, 4)
    with monkeypatch.context() as patch:
        patch.setattr(parts, "versions", lambda: {"jax": "9.9", "lossjax": None})
        put(root, cell, 4, 8)
    elsewhere = put(root, cell, 8, 12).path
    (elsewhere / "manifest.json").write_text("not one of ours")
    facts = store.cost(root)
    assert facts["wall_seconds"] == 3.0
    assert facts["versions"]["jax"] == f"{versions()['jax']} and 9.9"
    assert facts["versions"]["lossjax"] == f"{versions()['lossjax']} and None"
    assert facts["stored_members_beyond_the_plan"] == 6
    plan(root, make_cell(4))
    assert store.cost(root)["versions"] == versions()
    assert store.cost(root)["stored_members_beyond_the_plan"] == 8
