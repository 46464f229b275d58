"""Reading ``.npz`` files that somebody else wrote: nothing is unpickled, and sizes are checked before memory is taken.

Imports no jax, so that what only looks at stored arrays can use it.
"""

import collections
import io
import math
import os
import re
import struct
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Mapping
from typing import IO

import numpy as np

KINDS = {"b": "booleans", "i": "integers", "u": "unsigned integers", "f": "floats"}
TEXT = {"U": "text"}
MAX_DIMENSIONS = 32
MAX_DIRECTORY_BYTES = 2**22  # of an archive's list of members, which is read as a whole: some ten thousand names
_PIECE = 2**20  # bytes read at once
MAX_HEADER_BYTES = 10_000  # of one array: NumPy's own limit, which it looks at when the header is in memory
# version → how the header's length is written, and what reads it
_HEADER_READERS = {
    (1, 0): ("<H", np.lib.format.read_array_header_1_0),
    (2, 0): ("<I", np.lib.format.read_array_header_2_0),
}
# what NumPy's header reader raises on text that is no header
_HEADER_ERRORS = (
    ValueError,
    SyntaxError,
    TypeError,
    RecursionError,
    MemoryError,
    OverflowError,
    tokenize.TokenError,
    struct.error,  # it ends within the length
)
# what zipfile raises on damaged archives: OSError where an offset is before the start of the file, RuntimeError for an
# encrypted member, NotImplementedError for a compression it does not know
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, OSError)


def read_npz(path: str | os.PathLike[str], *, max_bytes: int, text: Collection[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file by name: booleans, integers and floats, in the machine's byte order.

    ``max_bytes`` bounds the file's size and what its arrays take in memory together, as they declare it. A member that
    holds more or less than it declares is an error. The arrays named in ``text`` may hold strings of fixed width.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged, not a zip archive, larger than ``max_bytes``, or holds what is not a plain array.
    """
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > max_bytes:
            raise ValueError(f"{path} has {size} bytes, more than max_bytes={max_bytes}; raise it if this is meant")
        try:
            with zipfile.ZipFile(_Bounded(stream)) as archive:
                members = archive.infolist()
                _check_members(path, members, max_bytes)
                if len(members) != _declared_count(stream, archive):
                    raise zipfile.BadZipFile("its directory lists more members than can be read")
                return {_name(member): _read_member(path, member, archive, max_bytes, text) for member in members}
        except _BROKEN_ZIP as error:
            raise ValueError(f"{path} is no readable .npz file ({error}); write it again with numpy.savez") from error


def read_npy(path: str | os.PathLike[str], *, max_bytes: int) -> np.ndarray:
    """The one array of an ``.npy`` file, under the same rules as ``read_npz``."""
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > max_bytes:
            raise ValueError(f"{path} has {size} bytes, more than max_bytes={max_bytes}; raise it if this is meant")
        return _read_array(str(path), stream, size, max_bytes, KINDS)


class _Bounded:
    """A file that refuses to be read in a piece of several megabytes, as a huge directory would be; members are not."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell, self.seekable, self.close = stream.seek, stream.tell, stream.seekable, stream.close

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(min(size, MAX_DIRECTORY_BYTES + 1) if size >= 0 else MAX_DIRECTORY_BYTES + 1)
        if len(data) > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its directory takes more than {MAX_DIRECTORY_BYTES} bytes")
        return data


def _declared_count(stream: IO[bytes], archive: zipfile.ZipFile) -> int:
    """Members by the record that ends the archive, which zipfile does not compare with those it finds.

    A damaged length in the directory can hide the members after it, a mask for example. 65,535 members or more count as
    damaged.
    """
    stream.seek(-22 - len(archive.comment), os.SEEK_END)
    (count,) = struct.unpack_from("<H", stream.read(22), 10)
    return count


def _name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _check_members(path: str | os.PathLike[str], members: list[zipfile.ZipInfo], max_bytes: int) -> None:
    times = collections.Counter(member.filename for member in members)
    for member in members:
        # nothing is ever extracted under these names; they are refused because no writer of arrays makes them
        if not re.fullmatch(r"[\w .+=-]+(/[\w .+=-]+)*\.npy", member.filename) or ".." in member.filename:
            raise ValueError(f"{path} holds {member.filename!r}, not the name of an array; save it with numpy.savez")
        if times[member.filename] > 1:
            raise ValueError(f"{path} holds {member.filename!r} more than once; each array has one name")
        if member.flag_bits & 1:
            raise ValueError(f"{member.filename} in {path} is encrypted; save it without a password")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member.filename} in {path} is compressed by a method NumPy does not use; save it again")
    declared = sum(member.file_size for member in members)
    if declared > max_bytes:
        raise ValueError(
            f"the arrays of {path} take {declared} bytes, more than max_bytes={max_bytes}; raise max_bytes if meant"
        )


def _read_member(
    path: str | os.PathLike[str],
    member: zipfile.ZipInfo,
    archive: zipfile.ZipFile,
    max_bytes: int,
    text: Collection[str],
) -> np.ndarray:
    kinds = KINDS | TEXT if _name(member) in text else KINDS
    with archive.open(member) as stream:
        return _read_array(f"{member.filename} in {path}", stream, member.file_size, max_bytes, kinds)


def _read_array(where: str, stream: IO[bytes], size: int, max_bytes: int, kinds: Mapping[str, str]) -> np.ndarray:
    """What the stream of ``size`` bytes holds, its header held against that size before anything is allocated."""
    shape, fortran_order, dtype = _read_header(where, stream, kinds)
    # a dimension of 0 must not hide others too large for any array
    extent = math.prod(max(length, 1) for length in shape) * dtype.itemsize
    if len(shape) > MAX_DIMENSIONS or any(length < 0 for length in shape) or extent > max_bytes:
        raise ValueError(f"{where} declares shape {shape}, which no array within max_bytes={max_bytes} has")
    num_bytes, held = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if num_bytes != held:
        raise ValueError(f"{where} declares {num_bytes} bytes of data and holds {held}; save it again")
    # these are the member's last bytes, at which zipfile compares the checksum
    data = _read_exactly(where, stream, num_bytes)
    if dtype.kind == "U" and np.frombuffer(data, dtype.byteorder + "u4").max(initial=0) > sys.maxunicode:
        raise ValueError(f"{where} holds numbers that are no letters; save it again as strings")
    array = np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran_order else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _read_exactly(where: str, stream: IO[bytes], num_bytes: int) -> bytearray:
    """In pieces, so that the array is in memory once."""
    data = bytearray(num_bytes)
    view, filled = memoryview(data), 0
    while filled < num_bytes:
        piece = stream.read(min(_PIECE, num_bytes - filled))
        if not piece:
            raise ValueError(f"{where} ends after {filled} of {num_bytes} bytes; the file is truncated")
        view[filled : filled + len(piece)] = piece
        filled += len(piece)
    return data


def _read_header(where: str, stream: IO[bytes], kinds: Mapping[str, str]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and dtype."""
    try:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADER_READERS:
            raise ValueError(f"version {version} holds structured arrays")
        length_format, reader = _HEADER_READERS[version]
        prefix = stream.read(struct.calcsize(length_format))
        (length,) = struct.unpack(length_format, prefix)
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"it declares {length} bytes of header, more than {MAX_HEADER_BYTES}")
        shape, fortran_order, dtype = reader(io.BytesIO(prefix + stream.read(length)))
    except _HEADER_ERRORS as error:
        raise ValueError(f"{where} has no readable header ({error}); save it again with numpy.savez") from error
    if dtype.kind not in kinds or dtype.itemsize == 0:
        raise ValueError(
            f"{where} has dtype {dtype}; only {', '.join(kinds.values())} are read: save array.astype(one of them)"
        )
    return shape, fortran_order, dtype
