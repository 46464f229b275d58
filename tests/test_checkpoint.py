"""Checkpoints: restored bit for bit or passed over loudly, whatever was flipped, cut or killed."""

import errno
import os
import random
import subprocess
import sys
import time
import types
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lossjax.sweeps import checkpoint, durable

DTYPES = ["float32", "float16", "float64", "uint32", "int32", "int64", "uint8", "bool", "complex64"]


def make_arrays(seed=0):
    """Leaves of the kinds that a member's state has, and two that break careless stores: scalar and empty."""
    rng = np.random.default_rng(seed)
    return {
        "params/dense/kernel": rng.normal(size=(3, 50, 20)).astype(np.float32),
        "key": rng.integers(0, 2**32, size=(3, 2), dtype=np.uint32),
        "stopped": np.array([True, False, True]),
        "nonfinite_step": np.array([-1, 3, -1], np.int32),
        "special": np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32),
        "count": np.array(seed, np.int32),
        "record/empty": np.zeros((3, 0, 2), np.float32),
    }


def assert_same(found, expected):
    assert durable.describe(found) == durable.describe(expected)


def test_restored_bitwise_as_numpy(tmp_path):
    checkpoint.save(tmp_path / "ck", 120, make_arrays())
    template = {name: (array.shape, array.dtype) for name, array in make_arrays().items()}
    for expected in (template, None):
        step, arrays = checkpoint.restore(tmp_path / "ck", expected)
        assert step == 120
        assert all(type(array) is np.ndarray for array in arrays.values())
        assert_same(arrays, make_arrays())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text("abc/_. é", min_size=1, max_size=6),
        hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
        max_size=4,
    )
)
def test_every_dtype_shape_and_name_comes_back_bitwise(tmp_path_factory, arrays):
    folder = tmp_path_factory.mktemp("ck")
    checkpoint.save(folder, 3, arrays)
    step, found = checkpoint.restore(folder)
    assert step == 3
    assert_same(found, arrays)


def test_two_are_kept_and_the_newest_is_restored_even_when_steps_go_back(tmp_path):
    for step in (10, 20, 30, 20):
        checkpoint.save(tmp_path, step, make_arrays(step))
        found_step, arrays = checkpoint.restore(tmp_path)
        assert found_step == step
        assert_same(arrays, make_arrays(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000002", "00000003"]


def test_nothing_saved_is_none_without_a_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.restore(tmp_path / "absent") is None
        checkpoint.save(tmp_path / "ck", 1, make_arrays())
        checkpoint.clear(tmp_path / "ck")
        checkpoint.clear(tmp_path / "ck")
        assert checkpoint.restore(tmp_path / "ck") is None


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_flipped_bit_in_any_file_falls_back_to_the_older_checkpoint(tmp_path):
    checkpoint.save(tmp_path, 10, make_arrays(10))
    checkpoint.save(tmp_path, 20, make_arrays(20))
    rng = random.Random(0)
    files = files_of(tmp_path / "00000001")
    assert any("orbax" in path.parts for path in files)
    for path in files:
        whole = bytearray(path.read_bytes())
        position = rng.randrange(len(whole))
        flipped = whole.copy()
        flipped[position] ^= 1
        path.write_bytes(flipped)
        with pytest.warns(RuntimeWarning, match=f"passed over: .*{path.name}.*the one before it is tried"):
            step, arrays = checkpoint.restore(tmp_path)
        assert step == 10
        assert_same(arrays, make_arrays(10))
        path.write_bytes(whole)
    assert checkpoint.restore(tmp_path)[0] == 20


def test_orbax_itself_would_not_notice(tmp_path):
    """Why the manifest is there: if Orbax learns to notice, the manifest may go."""
    import orbax.checkpoint as ocp

    arrays = {"kernel": np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)}
    checkpoint.save(tmp_path, 10, arrays)
    leaves = (tmp_path / "00000000" / "orbax").absolute()
    largest = max(files_of(leaves), key=lambda path: path.stat().st_size)
    flipped = bytearray(largest.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    largest.write_bytes(flipped)
    with ocp.PyTreeCheckpointer() as checkpointer:
        found = checkpointer.restore(leaves)
    assert durable.describe(found) != durable.describe(arrays)


def test_leaves_that_orbax_changes_on_the_way_are_noticed(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 10, make_arrays())
    intact = checkpoint.ocp.PyTreeCheckpointer.restore
    changes = {
        "dtype": lambda leaves: leaves | {"key": leaves["key"].astype(np.int64)},
        "shape": lambda leaves: leaves | {"key": leaves["key"].reshape(-1)},
        "sha256": lambda leaves: leaves | {"key": leaves["key"] + np.uint32(1)},
        "gives the arrays": lambda leaves: {name: leaf for name, leaf in leaves.items() if name != "key"},
    }
    for told, change in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(
                checkpoint.ocp.PyTreeCheckpointer,
                "restore",
                lambda self, *args, change=change, **kwargs: change(intact(self, *args, **kwargs)),
            )
            with pytest.warns(RuntimeWarning, match=told):
                assert checkpoint.restore(tmp_path) is None


def test_cut_and_lost_files_fall_back_and_two_bad_ones_start_anew(tmp_path):
    checkpoint.save(tmp_path, 10, make_arrays(10))
    checkpoint.save(tmp_path, 20, make_arrays(20))
    cut = files_of(tmp_path / "00000001" / "orbax")[0]
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match=f"{cut.name} has"):
        assert checkpoint.restore(tmp_path)[0] == 10
    (tmp_path / "00000000" / "manifest.json").unlink()
    with pytest.warns(RuntimeWarning) as told:
        assert checkpoint.restore(tmp_path) is None
    assert "manifest.json does not exist; this part starts from step 0" in str(told[1].message)
    checkpoint.save(tmp_path, 5, make_arrays(5))
    assert checkpoint.restore(tmp_path)[0] == 5


def test_a_checkpoint_of_another_program_is_passed_over_with_the_leaf_named(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 10, {"kernel": np.zeros((8, 3), np.float32)})
    for template, message in [
        ({"kernel": ((4, 3), np.float32)}, r"leaf 'kernel' is float32\[8, 3\] there and float32\[4, 3\] here"),
        ({"kernel": ((8, 3), np.float16)}, r"float32\[8, 3\] there and float16\[8, 3\] here"),
        ({}, "and absent here"),
        ({"kernel": ((8, 3), np.float32), "bias": ((8,), np.float32)}, "leaf 'bias' is absent there"),
    ]:
        with pytest.warns(RuntimeWarning, match=message):
            assert checkpoint.restore(tmp_path, template) is None
    monkeypatch.setattr(checkpoint, "versions", lambda packages: {package: "99" for package in packages})
    with pytest.warns(RuntimeWarning, match="was made with lossjax .* and this is 99"):
        assert checkpoint.restore(tmp_path) is None


def test_a_checkpoint_of_other_members_is_passed_over(tmp_path):
    first, other = ({"digest": "a1", "members": [begin, begin + 4]} for begin in (0, 4))
    checkpoint.save(tmp_path, 10, make_arrays(), of=first)
    assert checkpoint.restore(tmp_path, of=first)[0] == 10
    for asked in (other, None):
        with pytest.warns(RuntimeWarning, match=r"is of .*'members': \[0, 4\].* and not of .*starts from step 0"):
            assert checkpoint.restore(tmp_path, of=asked) is None


def test_an_unfinished_save_is_ignored_and_removed(tmp_path):
    checkpoint.save(tmp_path, 10, make_arrays(10))
    (tmp_path / ".00000001" / "orbax").mkdir(parents=True)
    assert checkpoint.restore(tmp_path)[0] == 10
    checkpoint.save(tmp_path, 20, make_arrays(20))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000000", "00000001"]


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 3, make_arrays())
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=2**17))
    with pytest.raises(OSError, match=rf"{tmp_path} .*No space left on device: 0\.1 MiB are free and it takes 0\.3"):
        checkpoint.save(tmp_path, 4, make_arrays())
    assert [path.name for path in tmp_path.iterdir()] == ["00000000"]
    assert checkpoint.restore(tmp_path)[0] == 3


def test_what_orbax_logs_of_a_write_that_fails_is_not_printed_beside_the_error(tmp_path, caplog, monkeypatch):
    """A write that fails in one of Orbax's threads, as where a quota ends."""

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("orbax.checkpoint._src.metadata.checkpoint._MetadataStoreImpl.write", full)
    with pytest.raises(OSError, match=rf"{tmp_path} could not be written \(.*No space left"):
        checkpoint.save(tmp_path, 3, make_arrays())
    assert not caplog.records
    assert list(tmp_path.iterdir()) == []


def test_leaves_that_would_be_changed_are_refused_and_the_last_checkpoint_stays(tmp_path):
    import jax.numpy as jnp

    checkpoint.save(tmp_path, 10, make_arrays(10))
    for leaf in (
        jnp.ones(3),
        3,
        "text",
        np.array(["text"]),
        np.array([None]),
        np.ones(3, jnp.bfloat16),
        np.ones(3, ">f4"),
    ):
        with pytest.raises(TypeError, match="'leaf' is of"):
            checkpoint.save(tmp_path, 20, {"leaf": leaf})
    assert checkpoint.restore(tmp_path)[0] == 10


SAVES = """
import itertools, sys
from tests.test_checkpoint import make_arrays
from lossjax.sweeps import checkpoint
found = checkpoint.restore(sys.argv[1])
for step in itertools.count(found[0] + 1 if found else 1):
    checkpoint.save(sys.argv[1], step, make_arrays(step))
    print(step, flush=True)
"""


def test_a_kill_at_any_moment_leaves_the_newest_finished_checkpoint(tmp_path, request):
    rng = random.Random(2)
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", SAVES, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=request.config.rootpath,
        )
        for _ in range(2):
            told = int(writer.stdout.readline())
        time.sleep(rng.uniform(0.0, 0.08))  # a save takes about 30 ms
        writer.kill()
        rest, noise = writer.communicate()
        told = max([told, *map(int, rest.split())])
        assert noise == "", "Orbax has begun to write to the terminal; silence that logger narrowly"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            step, arrays = checkpoint.restore(tmp_path)
        assert step in (told, told + 1)
        assert_same(arrays, make_arrays(step))


def test_params_of_a_flax_model_come_back_and_apply(tmp_path):
    import jax
    import jax.numpy as jnp
    from flax import linen as nn

    model, inputs = nn.Dense(3), jnp.ones((4, 5))
    params = jax.vmap(lambda key: model.init(key, inputs))(jax.random.split(jax.random.key(0), 2))
    checkpoint.save_params(tmp_path / "kept" / "W1", params)
    found = checkpoint.load_params(tmp_path / "kept" / "W1")
    assert jax.tree.structure(found) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, found, jax.device_get(params))
    second = jax.tree.map(lambda leaf: leaf[1], found)
    np.testing.assert_array_equal(
        model.apply(second, inputs), model.apply(jax.tree.map(lambda leaf: leaf[1], params), inputs)
    )
    with pytest.raises(FileExistsError, match="never overwritten"):
        checkpoint.save_params(tmp_path / "kept" / "W1", params)


def test_kept_params_notice_damage_and_refuse_what_names_cannot_tell(tmp_path):
    checkpoint.save_params(tmp_path / "W1", {"dense": {"kernel": np.ones((2, 3), np.float32)}})
    path = files_of(tmp_path / "W1")[-1]
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ValueError, match="bytes where"):
        checkpoint.load_params(tmp_path / "W1")
    for params in ({"a/b": np.ones(2)}, {"dense": {}}):
        with pytest.raises(ValueError, match="empty dict or a key with a slash"):
            checkpoint.save_params(tmp_path / "W2", params)
    assert not (tmp_path / "W2").exists()
