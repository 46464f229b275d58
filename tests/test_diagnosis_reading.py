"""Reading logits for a diagnosis: every form that is meant, and one line for everything that is wrong."""

import io
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from scipy import special

from lossjax.diagnosis.reading import NAME_LENGTH, Arrays, InputError, shown
from lossjax.diagnosis.subject import read_files, subject

NUM_EXAMPLES, NUM_CLASSES = 12, 3
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, NUM_EXAMPLES, NUM_CLASSES))
LABELS = RNG.integers(0, NUM_CLASSES, NUM_EXAMPLES)


def source(name="a", **arrays):
    return Arrays(name, {"logits": LOGITS[0], "labels": LABELS, **arrays})


@pytest.fixture
def save(tmp_path):
    def save(name="a.npz", **arrays):
        np.savez(tmp_path / name, **{"logits": LOGITS[0], "labels": LABELS, **arrays})
        return tmp_path / name

    return save


# What is meant --------------------------------------------------------------------------------------------------------


def test_two_models(save):
    found = read_files([save("a.npz"), save("b.npz", logits=LOGITS[1])])
    assert found.names == ("before", "after")
    assert not found.is_run
    assert found.num_seeds is None
    np.testing.assert_array_equal(found.logits[1], LOGITS[1])


def test_a_run_and_its_steps(save):
    found = read_files([save(logits=LOGITS, steps=np.array([0, 10, 20, 40]))])
    assert found.is_run
    assert found.names == ("step 0", "step 10", "step 20", "step 40")
    found = read_files([save(logits=LOGITS)])
    assert found.names[0] == "checkpoint 0"
    assert any("taken in their order" in note for note in found.notes)


def test_seeds(save):
    several = np.stack([LOGITS, LOGITS + 1])  # [seed, checkpoint, example, class]
    found = read_files([save(logits=several)])
    assert found.is_run
    assert found.num_seeds == 2
    assert found.same_seeds
    assert found.logits[3].shape == (2, NUM_EXAMPLES, NUM_CLASSES)
    pair = [save("a.npz", logits=LOGITS[:3]), save("b.npz", logits=LOGITS[1:])]
    assert not read_files(pair).same_seeds
    pair = [save("a.npz", logits=LOGITS[:3], seeds=np.arange(3)), save("b.npz", logits=LOGITS[1:], seeds=np.arange(3))]
    assert read_files(pair).same_seeds


def test_recordings_of_one_evaluation_each_are_two_models(save):
    first, second = (save(f"{i}.npz", logits=LOGITS[i : i + 1], steps=np.array([i])) for i in range(2))
    found = read_files([first, second])
    assert found.num_seeds is None
    assert found.names == ("before", "after")
    np.testing.assert_array_equal(found.logits[1], LOGITS[1])


def test_one_seed_is_no_population(save):
    found = read_files([save("a.npz", logits=LOGITS[:1]), save("b.npz", logits=LOGITS[1:2])])
    assert found.num_seeds is None
    assert found.logits[0].shape == (NUM_EXAMPLES, NUM_CLASSES)


def test_log_probabilities_and_probabilities_are_recognised():
    log_probabilities = special.log_softmax(LOGITS[0], axis=1)
    found = subject([source(logits=log_probabilities), source("b")])
    assert any("holds log-probabilities" in note for note in found.notes)
    np.testing.assert_array_equal(found.logits[0], log_probabilities)
    found = subject([source(logits=np.exp(log_probabilities).astype(np.float32)), source("b")])
    assert any("holds probabilities" in note and "exactly" not in note for note in found.notes)
    np.testing.assert_allclose(found.logits[0], log_probabilities, atol=1e-5)
    plain = subject([source(), source("b")])
    assert not any("probabilities" in note for note in plain.notes)


def test_probabilities_of_zero_and_one_are_warned_of():
    certain = np.eye(NUM_CLASSES, dtype=np.float32)[(LABELS + (np.arange(NUM_EXAMPLES) < 2)) % NUM_CLASSES]
    found = subject([source(logits=certain), source("b")])
    note = next(note for note in found.notes if "exactly 0" in note)
    assert "24 are exactly 0 and 12 exactly 1" in note
    assert "the 2 losses at labels of probability 0 are lower bounds" in note
    assert np.isfinite(found.logits[0]).all()


def test_half_precision_probabilities_are_recognised():
    probabilities = special.softmax(3 * RNG.normal(size=(50, 1000)), axis=1).astype(np.float16)
    labels = RNG.integers(0, 1000, 50)
    found = subject([source(logits=probabilities, labels=labels), source("b", logits=probabilities, labels=labels)])
    assert any("holds probabilities" in note for note in found.notes)


def test_other_names_of_the_arrays():
    arrays = {"predictions": LOGITS[0], "label_ids": LABELS}  # as Hugging Face's Trainer.predict calls them
    found = subject([Arrays("a", arrays), Arrays("b", arrays)])
    np.testing.assert_array_equal(found.labels, LABELS)


def test_labels_of_one_file_serve_both():
    found = subject([source(), Arrays("b", {"logits": LOGITS[1]})])
    assert any("Only a holds labels" in note for note in found.notes)


def test_names_and_clusters_as_text(save):
    names = np.array(["cat", "dog\x1b[31m", "<b>x</b>" + "y" * 300])
    clusters = np.array([f"user {i % 4}" for i in range(NUM_EXAMPLES)])
    found = read_files([save(class_names=names, clusters=clusters), save("b.npz", logits=LOGITS[1])])
    assert found.class_names[0] == "cat"
    assert "\x1b" not in found.class_names[1]
    assert len(found.class_names[2]) == NAME_LENGTH
    assert found.class_name(0) == "cat"
    assert len(np.unique(found.clusters)) == 4


def test_groups_from_a_file(save, tmp_path):
    np.save(tmp_path / "counts.npy", np.array([5, 2, 1]))
    found = read_files([save(), save("b.npz")], groups=tmp_path / "counts.npy")
    np.testing.assert_array_equal(found.train_counts, [5, 2, 1])


def test_text_that_nobody_should_see():
    assert shown("a\nb\x00c\u202ed\ud800") == "a b\ufffdc\ufffdd\ufffd"


# What is wrong --------------------------------------------------------------------------------------------------------


def changed(array, index, value):
    copy = np.array(array, dtype=np.result_type(array, type(value)) if isinstance(value, float) else None)
    copy[index] = value
    return copy


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"logits": changed(LOGITS[0], (3, 1), np.nan)},
            "1 of 36 logits is not finite, the first nan at example 3, class 1",
        ),
        ({"logits": changed(LOGITS[0], (3, slice(None)), np.inf)}, "3 of 36 logits are not finite, the first inf at"),
        ({"logits": changed(LOGITS[0], (0, 0), 1e200)}, "logit of size 1e\\+200"),
        ({"logits": LOGITS[0][:, :1]}, r"one class; two are needed.*numpy.concatenate\(\[1 - p, p\]"),
        ({"logits": LOGITS[0][:, 0]}, r"one class; two are needed.*numpy.stack\(\[1 - p, p\]"),
        ({"logits": LOGITS[0][:1], "labels": LABELS[:1]}, "1 example; a temperature is fitted over 5"),
        ({"logits": LOGITS[0][:0], "labels": LABELS[:0]}, "is empty"),
        ({"logits": np.zeros((2, 2, 2, 9, 3))}, "has shape .*save \\[example, class\\]"),
        ({"logits": np.zeros((9, 3), bool)}, "holds bool; save floats"),
        ({"labels": LABELS.astype(float)}, "holds float64; labels are whole numbers: labels.astype"),
        ({"labels": changed(LABELS, 4, 3)}, "1 label outside 0 … 2.*the first 3 at example 4"),
        ({"labels": changed(LABELS, 4, -1)}, "1 label outside 0 … 2.*the first -1 at example 4"),
        ({"labels": LABELS[:-1]}, "has shape \\(11,\\) and the logits are of 12 examples"),
        ({"labels": np.eye(3, dtype=int)[LABELS]}, "save one whole number an example: labels.argmax"),
        ({"class_names": np.array(["a", "b"])}, "one name for each of the 3 classes"),
        ({"train_counts": np.array([1.0, 2, 3])}, "train_counts is float64"),
        ({"train_counts": np.array([1, -2, 3])}, "train_counts lie in -2"),
        ({"train_counts": np.array([0, 0, 0])}, "not all 0"),
        ({"clusters": np.zeros(NUM_EXAMPLES, int)}, "clusters puts all examples into one"),
        ({"clusters": np.arange(5)}, "clusters has shape"),
        ({"clusters": np.array(["x" * 1001] * NUM_EXAMPLES)}, "1001 letters wide"),
    ],
)
def test_each_wrong_array_is_named(arrays, message):
    shared = {name: value for name, value in arrays.items() if name != "logits"}
    with pytest.raises(InputError, match=message) as error:
        subject([source(**arrays), source("b", **arrays) if shared else source("b")])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([source()], "holds one model \\(12, 3\\); give a second file"),
        ([source(logits=LOGITS[:1])], "holds one checkpoint"),
        ([source(logits=LOGITS, seeds=np.arange(4))], "holds seeds of one checkpoint"),
        ([source(logits=LOGITS, steps=np.arange(3))], "one number for each of the 4 checkpoints"),
        ([source(logits=LOGITS, steps=np.array([0, 2, 1, 3]))], "do not increase"),
        ([source(logits=LOGITS, steps=np.arange(4)), source()], "give a run as the only file"),
        (
            [source(), source("b", logits=LOGITS[0][:, :2], labels=LABELS % 2)],
            "both need the same examples and classes",
        ),
        ([source(), source("b", logits=LOGITS[0][:9], labels=LABELS[:9])], r"a has logits \(12, 3\) and b \(9, 3\)"),
        ([source(), source("b", logits=np.zeros((12, 4)))], "both need the same examples and classes"),
        ([source(), source("b", labels=(LABELS + 1) % 3)], "labels of a and b differ from example 0 on"),
        ([source(), source("b", train_counts=np.array([1, 2, 3])), source()], "3 files were given"),
        ([Arrays("a", {"labels": LABELS})], "a holds labels and no logits"),
        ([Arrays("a", {"logits": LOGITS})], "a holds no labels"),
        ([source(train_counts=np.array([1, 2, 3])), source(train_counts=np.array([1, 2, 4]))], "differs between"),
        ([source(logits=LOGITS[:2]), source("b", logits=LOGITS[:1])], "give two or more of each"),
    ],
)
def test_sources_that_do_not_belong_together(sources, message):
    with pytest.raises(InputError, match=message):
        subject(sources)


def test_steps_that_differ_late_have_names_of_their_own():
    found = subject([source(logits=LOGITS, steps=300_000_000_000 + np.arange(4))])
    assert found.names[1] == "step 300000000001"
    assert len(set(found.names)) == 4


# Hostile files: every one is refused, in little memory and time -------------------------------------------------------


def npy(descr="'<f8'", shape="(12, 3)", data=b"\0" * 288):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def zip_with(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


class Explodes:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def pickled(path):
    stream = io.BytesIO()
    np.save(stream, np.array([Explodes()] * 12, dtype=object), allow_pickle=True)
    return zip_with(path, {"logits.npy": npy(), "labels.npy": stream.getvalue()})


def bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("logits.npy", "w") as member:
        member.write(npy(shape="(10000000, 3)", data=b""))
        for _ in range(240):
            member.write(b"\0" * 10**6)
    return path


def many_members(path):
    """A directory of megabytes, for whoever reads it before counting."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number in range(60_000):
            archive.writestr(f"{number:060d}.npy", b"")
    return path


HOSTILE = {
    "pickled": pickled,
    "terabytes": lambda path: zip_with(path, {"logits.npy": npy(shape="(1000000000000, 3)"), "labels.npy": npy()}),
    "negative": lambda path: zip_with(path, {"logits.npy": npy(shape="(-12, -3)")}),
    "objects": lambda path: zip_with(path, {"logits.npy": npy("'|O'")}),
    "structured": lambda path: zip_with(path, {"logits.npy": npy("[('a', '<f8')]")}),
    "nested": lambda path: zip_with(
        path, {"logits.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", 60000) + b"(" * 60000}
    ),
    "names": lambda path: zip_with(path, {"../../etc/passwd.npy": npy()}),
    "terminal": lambda path: zip_with(path, {"\x1b[2Jlogits.npy": npy()}),
    "text": lambda path: path.write_text("epoch,loss\n1,2\n") and path,
    "empty": lambda path: path.write_bytes(b"") or path,
    "truncated": lambda path: path.write_bytes(zip_with(path, {"logits.npy": npy()}).read_bytes()[:200]) and path,
    "bomb": bomb,
    "many members": many_members,
    "header of megabytes": lambda path: zip_with(
        path, {"logits.npy": b"\x93NUMPY\x02\x00" + struct.pack("<I", 60_000_000) + b" " * 60_000_000}
    ),
    "code points": lambda path: zip_with(
        path,
        {
            "logits.npy": npy(data=np.arange(36.0).tobytes()),
            "labels.npy": npy("'<i8'", "(12,)", b"\0" * 96),
            "class_names.npy": npy("'<U1'", "(3,)", b"\xff" * 12),
        },
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_costs_one_line(tmp_path, kind):
    path = HOSTILE[kind](tmp_path / "a.npz")
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as error:
            read_files([path, path], max_bytes=10**8)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(error.value)
    assert message.isprintable()
    assert len(message) < 600
    assert peak < 10**8


def test_sizes_of_all_files_are_summed(save):
    one, two = save("a.npz", logits=np.zeros((1000, 3)), labels=np.zeros(1000, int)), save("b.npz")
    assert one.stat().st_size < 40_000
    with pytest.raises(InputError, match="max-gigabytes"):
        read_files([two, one], max_bytes=32_100)


def test_what_grows_when_it_is_worked_on_is_refused(save):
    """A byte a logit becomes eight, and every example is measured."""
    small = save("a.npz", logits=np.zeros((1000, 10), np.int8), labels=np.zeros(1000, int))
    with pytest.raises(InputError, match=r"take about 336000 bytes to work on, more than 100000; .* --max-gigabytes"):
        read_files([small], max_bytes=100_000)


def test_reading_a_hostile_directory_is_bounded_in_memory(tmp_path):
    """In a process of its own, whose address space is limited: a directory that claims 2 GB is not read at once."""
    path = zip_with(tmp_path / "a.npz", {"logits.npy": npy()})
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    data[end + 12 : end + 16] = struct.pack("<I", 2**31)  # size of the directory
    with open(path, "wb") as file:
        file.write(data[:end])
        file.seek(2**31 + 1000)  # sparse: takes no disk
        file.write(data[end:])
    code = f"""
import resource
from lossjax.diagnosis.reading import InputError
from lossjax.diagnosis.subject import read_files
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
try:
    read_files([{str(path)!r}], max_bytes=2**33)
except InputError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "directory takes more than" in result.stdout, result.stderr
