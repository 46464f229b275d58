"""Parts: what was committed comes back bit for bit, damage is noticed, and members are committed once."""

import itertools
import json
import platform
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lossjax.history import History
from lossjax.sweeps import durable, parts
from lossjax.sweeps.plan import CellPlan, StoreError
from lossjax.sweeps.provenance import versions

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
    return parts.commit(root, cell, first, last, history.to_arrays(), info=history.info, **FACTS)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "results" / "lstm"


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
    part = parts.commit(root, make_cell(2), 0, 2, arrays, info={}, **FACTS)
    found, manifest = parts.read(make_cell(2), part)
    assert durable.describe(found) == durable.describe(arrays) == manifest["arrays"]
    assert found["metrics/any"].tobytes() == array.tobytes()


def test_the_same_arrays_give_the_same_bytes(tmp_path):
    arrays, facts = make_history(0, 4).to_arrays(), {"info": {}, **FACTS}
    part = parts.commit(tmp_path / "a", make_cell(), 0, 4, arrays, **facts)
    again = parts.commit(tmp_path / "b", make_cell(), 0, 4, dict(reversed(arrays.items())), **facts)
    assert (part.path / "arrays.npz").read_bytes() == (again.path / "arrays.npz").read_bytes()


def test_manifest_says_what_made_the_part_and_names_no_host(root):
    part = put(root, make_cell(), 0, 4, nonfinite=(1, 2))
    manifest = parts.read_manifest(make_cell(), part)
    assert manifest == parts.read(make_cell(), part)[1]
    assert manifest["nonfinite"] == 2
    assert manifest["members"] == [0, 4]
    assert manifest["tile"] == 8
    assert manifest["versions"]["numpy"] == np.__version__
    assert manifest["arrays"]["metrics/val_loss"]["shape"] == [4, 3]
    assert platform.node() not in (part.path / "manifest.json").read_text() or not platform.node()


@pytest.mark.parametrize("name", ["arrays.npz", "manifest.json"])
def test_any_flipped_byte_is_noticed(root, name):
    part = put(root, make_cell(), 0, 4)
    path = part.path / name
    whole = path.read_bytes()
    rng = random.Random(0)
    for position in [0, len(whole) - 1, *rng.sample(range(len(whole)), 60)]:
        flipped = bytearray(whole)
        flipped[position] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        if name == "manifest.json" and _same_json(flipped, whole):
            continue  # a space became another: the content is as it was
        with pytest.raises(parts.DamagedPart, match=f"{name} .*delete the folder"):
            parts.read(make_cell(), part)
    path.write_bytes(whole)
    parts.read(make_cell(), part)


def _same_json(one, other):
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def test_a_truncated_missing_or_foreign_file_is_noticed(root):
    part = put(root, make_cell(), 0, 4)
    path = part.path / "arrays.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(parts.DamagedPart, match=r"arrays.npz has \d+ bytes where"):
        parts.read(make_cell(), part)
    path.unlink()
    with pytest.raises(parts.DamagedPart, match=r"missing \['arrays.npz'\]"):
        parts.read(make_cell(), part)
    path.write_bytes(whole)
    (part.path / "more.npy").write_bytes(b"")
    with pytest.raises(parts.DamagedPart, match=r"foreign \['more.npy'\]; move that away"):
        parts.read(make_cell(), part)


def test_objects_that_need_pickle_are_refused(root):
    arrays = make_history(0, 2).to_arrays() | {"metrics/any": np.array([[{}] * 3] * 2)}
    with pytest.raises(TypeError, match="metrics/any"):
        parts.commit(root, make_cell(), 0, 2, arrays, info={}, **FACTS)
    assert parts.committed(root, make_cell()) == []


def test_a_range_is_committed_once(root):
    put(root, make_cell(), 0, 4)
    for first, last in [(0, 4), (3, 6)]:
        with pytest.raises(StoreError, match="overlap the committed part"):
            put(root, make_cell(), first, last)
    history = make_history(4, 6)
    with pytest.raises(ValueError, match="arrays of 2 members"):
        parts.commit(root, make_cell(), 4, 8, history.to_arrays(), info={}, **FACTS)


def test_more_members_only_add_parts(root):
    cell = make_cell(10)
    assert parts.missing(root, cell, 4) == [(0, 4), (4, 8), (8, 10)]
    for first, last in parts.missing(root, cell, 4):
        put(root, cell, first, last)
    assert parts.missing(root, cell, 4) == []
    assert parts.missing(root, make_cell(6), 4) == []
    assert parts.missing(root, make_cell(19), 4) == [(10, 14), (14, 18), (18, 19)]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_missing_ranges_and_committed_parts_are_the_plan_exactly(data):
    num_members, part_size = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 9))
    edges = sorted(data.draw(st.sets(st.integers(0, 50), max_size=8)))
    there = [pair for pair in itertools.pairwise(edges) if data.draw(st.booleans())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "committed", lambda root, cell: [parts.Part(first, last, None) for first, last in there])
        ranges = parts.missing("", make_cell(num_members), part_size)
    assert all(0 < last - first <= part_size for first, last in ranges)
    covered = [member for pair in there for member in range(*pair) if member < num_members]
    todo = [member for pair in ranges for member in range(*pair)]
    assert sorted(covered + todo) == list(range(num_members))


def test_a_commit_clears_failure_notes_and_checkpoints_of_its_members(root):
    cell = make_cell(8)
    parts.mark_failed(root, cell, 0, 4, "out of memory")
    parts.mark_failed(root, cell, 4, 8, "out of memory")
    for first, last in [(0, 4), (4, 8)]:
        parts.checkpoint_folder(root, cell, first, last).mkdir(parents=True)
    put(root, cell, 0, 4)
    assert parts.failed(root, cell) == [(4, 8)]
    assert not parts.checkpoint_folder(root, cell, 0, 4).exists()
    assert parts.checkpoint_folder(root, cell, 4, 8).exists()


def test_parts_of_other_versions_are_refused(root):
    cell = make_cell(4)
    put(root, cell, 0, 4)
    current = versions()
    parts.check_versions(root, cell, current)
    parts.check_versions(root, cell, current | {"numpy": "0.1"})
    for package in ("lossjax", "jax", "jaxlib"):
        with pytest.raises(StoreError, match=f"this is {package} 99"):
            parts.check_versions(root, cell, current | {package: "99"})
