"""Recorder: logits of a fixed evaluation set from any training loop, for ``lossjax diagnose``.

NumPy arrays in, one ``.npz`` out. Needs NumPy only. Every evaluation is on disk as soon as ``append`` returns: until
``close``, beside the file in the folder ``<file>.parts``, which ``lossjax diagnose`` reads too.
"""

from __future__ import annotations

import operator
import os
import re
import shutil
import types
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Literal, Self

import numpy as np

_STEP_FILE = re.compile(r"logits-(\d{18})\.npy")


class Recorder:
    """Appends the logits of a fixed evaluation set at steps of a training.

    ::

        with lj.Recorder("run.npz", labels=labels) as recorder:
            for step in ...:
                recorder.append(step, logits)  # [example, class], in the order of labels

    Leaving the block normally, or ``close()``, writes the ``.npz``. An interrupted run keeps what was recorded; the
    same lines go on with it, and a step that is recorded again is replaced.

    Args:
        path: of the ``.npz`` file; it must not exist yet.
        labels: [example] whole numbers in 0 … class − 1.
        class_names: [class] names, for the report.
        train_counts: [class] training examples of each class, for rare and frequent classes.
        clusters: [example] what belongs together: users, documents, duplicates.
        unit: what ``append`` counts, for the report.

    Raises:
        FileExistsError: the file exists.
        ValueError: labels are no whole numbers, or any of these are others than those of the recording that this one
            goes on with.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        labels: np.ndarray,
        *,
        class_names: Sequence[str] | None = None,
        train_counts: np.ndarray | None = None,
        clusters: np.ndarray | None = None,
        unit: Literal["step", "epoch"] = "step",
    ) -> None:
        self.path = Path(path)
        if self.path.suffix != ".npz":
            raise ValueError(f"{self.path} does not end in .npz; name the file to write with that ending")
        if self.path.exists():
            raise FileExistsError(
                f"{self.path} exists and holds a finished recording; delete it or choose another name"
            )
        if unit not in ("step", "epoch"):
            raise ValueError(f"unit={unit!r} is neither 'step' nor 'epoch'; give what append counts")
        about = {"labels": _whole_numbers(labels)}
        optional = {
            "class_names": class_names,
            "train_counts": train_counts,
            "clusters": clusters,
            "unit": None if unit == "step" else unit,
        }
        about |= {name: np.asarray(value) for name, value in optional.items() if value is not None}
        for name, array in about.items():
            if array.dtype.kind not in "biufU":
                raise ValueError(f"{name} is {array.dtype}; give numbers or a list of strings")
        self._num_examples, self._largest_label = len(about["labels"]), int(about["labels"].max())
        self._folder = parts_of(self.path)
        self._folder.mkdir(parents=True, exist_ok=True)
        known = self._folder / "about.npz"
        if known.exists():
            with np.load(known, allow_pickle=False) as earlier:
                other = [
                    name
                    for name in ("labels", *optional)
                    if (name in earlier) != (name in about)
                    or (name in about and not np.array_equal(earlier[name], about[name]))
                ]
            if other:
                raise ValueError(
                    f"{self._folder} was recorded with other {', '.join(other)}; delete it or choose another name"
                )
        else:
            _write(known, lambda stream: np.savez(stream, allow_pickle=False, **about))
        self._like: np.ndarray | None = None  # the first evaluation: all others have its shape and dtype
        for file in recorded_steps(self._folder).values():
            self._like = np.load(file, mmap_mode="r", allow_pickle=False)
            break

    def append(self, step: int, logits: np.ndarray) -> None:
        """Records logits [example, class], in the order of the labels; on disk when this returns.

        Raises ValueError for another shape or dtype than the labels or the evaluations before ask for.
        """
        if isinstance(logits, tuple | list):
            raise ValueError(f"logits are a {type(logits).__name__}; give the one array [example, class] in it")
        step, logits = operator.index(step), np.asarray(logits)
        if self.path.exists():
            raise ValueError(f"{self.path} is closed; record under another name")
        if not 0 <= step < 10**18:
            raise ValueError(f"step={step} must be a whole number from 0 on; count steps or epochs")
        if logits.ndim != 2 or len(logits) != self._num_examples or logits.dtype.kind != "f":
            raise ValueError(
                f"logits are {logits.dtype} {logits.shape}; give floats [example, class] with one row for each of the "
                f"{self._num_examples} labels"
            )
        if logits.shape[1] <= self._largest_label or logits.shape[1] < 2:
            raise ValueError(
                f"logits are of {logits.shape[1]} classes and labels go up to {self._largest_label}; give a column for "
                "each class: for one sigmoid output p, numpy.concatenate([1 - p, p], axis=1)"
            )
        if self._like is None:
            self._like = np.empty((0, *logits.shape[1:]), logits.dtype)
        elif logits.shape[1] != self._like.shape[1] or logits.dtype != self._like.dtype:
            raise ValueError(
                f"logits are {logits.dtype} with {logits.shape[1]} classes, and were {self._like.dtype} with "
                f"{self._like.shape[1]} before; record the same kind every time"
            )
        _write(self._folder / f"logits-{step:018d}.npy", lambda stream: np.save(stream, logits, allow_pickle=False))

    def close(self) -> Path:
        """Writes the ``.npz`` and removes the folder of parts. A second call does nothing."""
        if self.path.exists():
            return self.path
        files = recorded_steps(self._folder)
        if not files:
            raise ValueError(f"nothing was recorded for {self.path}; call append(step, logits) before close()")
        _write(self.path, lambda stream: _assemble(stream, self._folder, files))
        shutil.rmtree(self._folder)
        return self.path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        if kind is None:
            self.close()


def parts_of(path: Path) -> Path:
    """The folder that holds a recording until it is closed."""
    return path.with_name(f"{path.name}.parts")


def recorded_steps(folder: Path) -> dict[int, Path]:
    """Step → file of its logits, in the order of steps."""
    found = ((_STEP_FILE.fullmatch(file.name), file) for file in sorted(folder.iterdir()))
    return {int(match[1]): file for match, file in found if match}


def named_times(about: dict[str, np.ndarray], times: list[int]) -> dict[str, np.ndarray]:
    """What is known of a recording with its times, as "steps" or "epochs"."""
    unit = str(about.pop("unit", "step"))
    return {**about, f"{unit}s": np.array(times, dtype=np.int64)}


def _assemble(stream: IO[bytes], folder: Path, files: dict[int, Path]) -> None:
    """One archive with logits [checkpoint, example, class], one evaluation in memory at a time."""
    first = np.load(next(iter(files.values())), mmap_mode="r", allow_pickle=False)
    header = np.lib.format.header_data_from_array_1_0(first)
    header |= {"shape": (len(files), *first.shape), "fortran_order": False}
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(_member("logits"), "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for file in files.values():
                member.write(np.ascontiguousarray(np.load(file, allow_pickle=False)).data)
        with np.load(folder / "about.npz", allow_pickle=False) as about:
            arrays = named_times(dict(about), list(files))
        for name, array in arrays.items():
            with archive.open(_member(name), "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"{name}.npy")  # dated 1980: the same recording always gives the same bytes


def _write(path: Path, fill: Callable[[IO[bytes]], None]) -> None:
    """Whole or not at all, and on disk when this returns."""
    temporary = path.with_name(f".{path.name}.partial")
    with open(temporary, "wb") as stream:
        fill(stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def _whole_numbers(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim == 2 and len(labels):
        remedy = "labels.argmax(axis=1)" if labels.shape[1] > 1 else "labels[:, 0]"
        raise ValueError(f"labels are {labels.dtype} {labels.shape}; give one whole number an example: {remedy}")
    if labels.ndim != 1 or len(labels) == 0 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels are {labels.dtype} {labels.shape}; give whole numbers [example]: labels.astype(int)")
    if labels.min() < 0:
        at = int(labels.argmin())
        raise ValueError(f"labels has {labels[at]} at example {at}; leave out examples without a class")
    return labels
