"""Folders and files that a crash leaves whole or absent, and in which a flipped bit is noticed.

A sealed folder holds files and a ``manifest.json`` that lists each file's size and SHA-256, each array's SHA-256, dtype
and shape, and its own digest. It is written under another name, forced to disk and renamed, so that whoever sees it
sees all of it. Parts of results and checkpoints are sealed folders.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

MANIFEST: Final = "manifest.json"
_OWN_DIGEST: Final = "sha256_of_this_file"


class Damaged(ValueError):
    """A file is not what was written: the message names the file and the fact."""


class Foreign(Damaged):
    """A folder holds a file that is not its own, beside all of its own."""


def seal(temporary: Path, final: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Write the manifest of the folder ``temporary``, force all of it to disk, and rename it to ``final``.

    Args:
        temporary: a folder on the same file system as ``final``, with all its files written.
        final: a name that does not exist yet.
        arrays: the arrays that the files hold.
        facts: JSON's types, kept in the manifest as they are.

    Raises:
        OSError: ``final`` exists, or the disk refuses.
    """
    files = {
        path.relative_to(temporary).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256_of_file(path)}
        for path in sorted(temporary.rglob("*"))
        if path.is_file()
    }
    write_json(temporary / MANIFEST, {**facts, "arrays": describe(arrays), "files": files})
    for path in temporary.rglob("*"):
        _force_to_disk(path)
    _force_to_disk(temporary)
    os.rename(temporary, final)
    _force_to_disk(final.parent)


def read_seal(folder: Path) -> dict[str, Any]:
    """The manifest of a sealed folder, after every file in it was compared with its size and SHA-256.

    Nothing but the manifest has been parsed when this returns, so no reader meets damaged bytes.

    Raises:
        Damaged: a file is missing, foreign, or differs from what was written.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest.get("files"), dict) or not isinstance(manifest.get("arrays"), dict):
        raise Damaged(f"{folder / MANIFEST} was not written by lossjax: it lists no files and arrays")
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    if present != set(manifest["files"]):
        lost, foreign = sorted(set(manifest["files"]) - present), sorted(present - set(manifest["files"]))
        if not lost:
            raise Foreign(f"{folder} holds what was not written with it: foreign {foreign}")
        raise Damaged(f"{folder} does not hold the files it was written with: missing {lost}, foreign {foreign}")
    for name, written in manifest["files"].items():
        path = folder / name
        if path.stat().st_size != written["bytes"]:
            raise Damaged(f"{path} has {path.stat().st_size} bytes where {written['bytes']} were written")
        if _sha256_of_file(path) != written["sha256"]:
            raise Damaged(f"{path} has another SHA-256 than what was written")
    return manifest


def check_arrays(folder: Path, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> None:
    """Compare arrays as they were read with the SHA-256, dtype and shape of each in the manifest.

    Raises:
        Damaged: naming the first array that differs, and how.
    """
    found, written = describe(arrays), manifest["arrays"]
    if set(found) != set(written):
        raise Damaged(f"{folder} gives the arrays {sorted(found)} where {sorted(written)} were written")
    for name in written:
        for fact in ("dtype", "shape", "sha256"):
            if found[name][fact] != written[name][fact]:
                raise Damaged(
                    f"array {name!r} in {folder} has {fact} {found[name][fact]} where {written[name][fact]} was written"
                )


def describe(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """name → SHA-256 of the bytes in row-major order, dtype, shape; the names sorted.

    Raises:
        TypeError: an array is no NumPy array of bools, integers, floats or complex numbers.
    """
    description = {}
    for name in sorted(arrays):
        array = arrays[name]
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biufc":
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise TypeError(
                f"array {name!r} is of {kind}; stored are NumPy arrays of bool, int, float or complex; convert it"
            )
        description[name] = {
            "sha256": hashlib.sha256(np.asarray(array, order="C").data).hexdigest(),
            "dtype": array.dtype.str,
            "shape": list(array.shape),
        }
    return description


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with its own digest, replacing ``path`` in one move."""
    plain = json.loads(json.dumps(content, allow_nan=False))  # keys and tuples as they will be read back
    sealed = {**plain, _OWN_DIGEST: _sha256_of_json(plain)}
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(json.dumps(sealed, indent=1, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _force_to_disk(path.parent)


def read_json(path: Path) -> dict[str, Any]:
    """What ``write_json`` wrote.

    Raises:
        Damaged: the file is absent, is no JSON object, or does not match its own digest.
    """
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Damaged(f"{path} does not exist") from error
    except ValueError as error:
        raise Damaged(f"{path} is not JSON ({error})") from error
    if not isinstance(content, dict) or _OWN_DIGEST not in content:
        raise Damaged(f"{path} was not written by lossjax: it has no {_OWN_DIGEST!r}")
    written = content.pop(_OWN_DIGEST)
    if _sha256_of_json(content) != written:
        raise Damaged(f"{path} was changed after it was written: its digest is not that of its content")
    return content


def _sha256_of_json(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _force_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
