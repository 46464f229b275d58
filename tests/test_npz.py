"""Reading other people's ``.npz``: what NumPy writes comes back; what is damaged or hostile ends in a ValueError."""

import io
import random
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from lossjax.npz import read_npz

ARRAYS = {
    "x": np.arange(30, dtype=np.float64).reshape(5, 6),
    "y": np.arange(5),
    "metrics/mask": np.eye(5, 2, dtype=bool),
    "scalar": np.array(3, np.uint8),
    "none": np.zeros((0, 4), np.float32),
}


def npy(array):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array)
    return stream.getvalue()


def npy_header(descr="'<f8'", shape="(5,)", order="False", data=b"\0" * 40):
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def zip_of(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_comes_back(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, **ARRAYS)
    read = read_npz(path, max_bytes=10_000)
    assert set(read) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_fortran_order_and_byte_order(tmp_path):
    array = np.arange(12).reshape(3, 4)
    np.savez(tmp_path / "a.npz", fortran=np.asfortranarray(array), big=array.astype(">i8"))
    read = read_npz(tmp_path / "a.npz", max_bytes=10_000)
    np.testing.assert_array_equal(read["fortran"], array)
    np.testing.assert_array_equal(read["big"], array)
    assert read["big"].dtype == np.dtype("=i8")
    read["big"][0, 0] = 7  # writable


class Explodes:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (npy_header("'|O'"), "dtype object"),
        (npy_header("'<U10'"), "dtype <U10"),
        (npy_header("[('a', '<f8')]"), "dtype"),
        (npy_header(shape="(10**15,)"), "no readable header"),
        (npy_header(shape="(1000000000000,)"), "declares shape"),
        (npy_header(shape="(0, 1000000000000)", data=b""), "declares shape"),
        (npy_header(shape="(-5, -1)"), "declares shape"),
        (npy_header(shape="(" + "1, " * 40 + "5)"), "declares shape"),
        (npy_header(shape="(4,)"), "declares 32 bytes of data and holds 40"),
        (npy_header(shape="(6,)"), "declares 48 bytes of data and holds 40"),
        (npy_header(shape="'5'"), "no readable header"),
        (npy_header(shape="(5,"), "no readable header"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 60000) + b"(" * 60000, "no readable header"),
        (b"\x93NUMPY\x09\x00" + b"\0" * 50, "no readable header"),
        (b"not an array", "no readable header"),
        (b"", "no readable header"),
    ],
)
def test_hostile_member_is_refused(tmp_path, content, match):
    with pytest.raises(ValueError, match=match):
        read_npz(zip_of(tmp_path / "a.npz", x=content), max_bytes=10**6)


def test_pickle_is_never_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([Explodes()], dtype=object))
    with pytest.raises(ValueError, match="dtype object"):
        read_npz(tmp_path / "a.npz", max_bytes=10**6)


def test_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = zip_of(tmp_path / "a.npz", x=npy(np.zeros(10**6)), y=npy(np.zeros(10**6)))
    assert path.stat().st_size < 10**5
    with pytest.raises(ValueError, match="take 160"):
        read_npz(path, max_bytes=10**7)
    assert read_npz(path, max_bytes=2 * 10**7)["x"].size == 10**6


def test_member_larger_than_it_declares(tmp_path):
    """The directory says 168 bytes; the compressed stream goes on for 8 million."""
    path = zip_of(tmp_path / "a.npz", x=npy(np.zeros(10**6)))
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 168)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="Bad CRC"):
        read_npz(path, max_bytes=10**6)


@pytest.mark.parametrize("name", ["../x.npy", "/etc/x.npy", "a/../x.npy", "C:\\x.npy", "x.txt", "x.npy/", "a//x.npy"])
def test_name_that_is_no_array_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr(name, npy(np.zeros(3)))
    with pytest.raises(ValueError, match="not the name of an array"):
        read_npz(tmp_path / "a.npz", max_bytes=10**6)


def test_duplicate_encrypted_and_foreign_compression(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", npy(np.zeros(3)))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.npy", npy(np.ones(3)))
    with pytest.raises(ValueError, match="more than once"):
        read_npz(path, max_bytes=10**6)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", npy(np.zeros(3)))
    with pytest.raises(ValueError, match="compressed by a method"):
        read_npz(path, max_bytes=10**6)
    data = bytearray(zip_of(path, x=npy(np.zeros(3))).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="encrypted"):
        read_npz(path, max_bytes=10**6)


def test_file_beyond_the_limit_and_no_zip(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"x" * 1000)
    with pytest.raises(ValueError, match="1000 bytes, more than max_bytes=999"):
        read_npz(path, max_bytes=999)
    with pytest.raises(ValueError, match="is no readable"):
        read_npz(path, max_bytes=1000)
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "absent.npz", max_bytes=1000)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_is_an_error_or_harmless(tmp_path, save):
    """Any cut and any changed byte: a ValueError, or every array as it was (some bytes are dates and padding)."""
    path = tmp_path / "a.npz"
    save(path, **ARRAYS)
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    for trial in range(500):
        data = bytearray(whole)
        if trial % 4 == 0:
            del data[rng.randrange(len(data)) :]
        else:
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            read = read_npz(path, max_bytes=10**6)
        except ValueError:
            refused += 1
            continue
        assert set(read) == set(ARRAYS)
        assert all(np.array_equal(read[name], array) for name, array in ARRAYS.items())
    assert refused > 250


def test_imports_no_jax():
    code = "import lossjax.npz, sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
