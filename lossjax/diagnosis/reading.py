"""Others' files, read for a diagnosis: the arrays of an ``.npz``, or of a recording that is not finished.

Nothing is unpickled, sizes are summed before anything is expanded, and whatever is wrong ends in one ``InputError``.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lossjax.npz import read_npy, read_npz
from lossjax.recorder import named_times, parts_of, recorded_steps

MAX_BYTES = 2**32  # what the arrays of all files may take together, unless the caller raises it
NAME_LENGTH = 80  # longer names of classes are cut

_TEXT = ("class_names", "clusters", "unit")


class InputError(ValueError):
    """What a user can mend: one line that states the fact, the rule and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(_printable(message))  # names of files and columns are others' text


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
    """The arrays of one file, or of one argument, as they came."""

    where: str
    arrays: Mapping[str, np.ndarray]
    notes: tuple[str, ...] = ()


def read_arrays(paths: Sequence[str | os.PathLike[str]], *, max_bytes: int = MAX_BYTES) -> list[Arrays]:
    """What each ``.npz`` file holds, or each recording that is not finished.

    Raises:
        InputError: a file is damaged, hostile, or with the others larger than ``max_bytes``.
        OSError: a file cannot be opened.
    """
    sources = []
    for path in paths:
        source = _read(Path(path), max_bytes)
        max_bytes -= sum(array.nbytes for array in source.arrays.values())
        sources.append(source)
    return sources


def read_counts(path: str | os.PathLike[str]) -> np.ndarray:
    """The array of an ``.npy`` file with one count a class."""
    try:
        return read_npy(path, max_bytes=2**24)
    except ValueError as error:
        raise InputError(f"{one_line(error)}; --groups takes an .npy file with one count a class") from error


def found_at(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file, or a recording that is not finished."""
    return os.path.isfile(path) or parts_of(Path(path)).is_dir()


def is_curve(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a training curve by its name."""
    return re.search(r"\.(csv|json)$", os.fspath(path), re.IGNORECASE) is not None


def shown(text: str) -> str:
    """Others' text, safe in a terminal and on a page: what cannot be printed is replaced, and it is cut to a length."""
    printable = _printable(text)
    return printable if len(printable) <= NAME_LENGTH else printable[: NAME_LENGTH - 1] + "…"


def one_line(error: Exception) -> str:
    """A message in one line of bounded length, without control characters, whatever the file put into it."""
    printable = _printable(str(error))
    return printable if len(printable) <= 400 else printable[:250] + " … " + printable[-140:]


def _printable(text: str) -> str:
    flat = " ".join(str(text).split())
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in flat)


def listed(names: Mapping[str, object] | Sequence[str]) -> str:
    some = [shown(name) for name in list(names)[:8]]
    return (", ".join(some) + (", …" if len(names) > 8 else "")) or "nothing"


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _read(path: Path, max_bytes: int) -> Arrays:
    folder = parts_of(path)
    if not path.exists() and folder.is_dir():
        return _read_parts(path, folder, max_bytes)
    try:
        return Arrays(path.name, read_npz(path, max_bytes=max_bytes, text=_TEXT))
    except ValueError as error:
        raise InputError(_with_option(error)) from error


def _with_option(error: ValueError) -> str:
    option = " (on the command line: --max-gigabytes)" if "max_bytes" in str(error) else ""
    return one_line(error) + option


def _read_parts(path: Path, folder: Path, max_bytes: int) -> Arrays:
    """What a recorder that was interrupted had written."""
    steps = recorded_steps(folder)
    if not steps:
        raise InputError(f"{folder} holds no recorded evaluation yet; wait for the first")
    size = sum(file.stat().st_size for file in steps.values())
    if size > max_bytes:
        raise InputError(f"the evaluations in {folder} take {size} bytes, more than {max_bytes}; raise --max-gigabytes")
    try:
        arrays = dict(read_npz(folder / "about.npz", max_bytes=max_bytes, text=_TEXT))
        first = read_npy(next(iter(steps.values())), max_bytes=max_bytes)
        logits = np.empty((len(steps), *first.shape), first.dtype)
        for row, file in zip(logits, steps.values(), strict=True):
            one = read_npy(file, max_bytes=max_bytes)
            if one.shape != first.shape or one.dtype != first.dtype:
                raise InputError(f"{file} holds {one.dtype} {one.shape}, others {first.dtype} {first.shape}; delete it")
            row[...] = one
    except ValueError as error:
        raise InputError(_with_option(error)) from error
    arrays = {**named_times(arrays, list(steps)), "logits": logits}
    note = f"{path.name} is not finished: these are the {len(steps)} evaluations recorded so far."
    return Arrays(path.name, arrays, (note,))
