"""A user's own data: arrays in an ``.npz`` file, or a table in a ``.csv`` file."""

import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator
from typing import IO

import numpy as np
from jaxtyping import Array, Key

from lossjax.npz import read_npz
from lossjax.tasks.dataset import DataSet, Examples, as_splits, check_fractions, count, hold_out, standardise
from lossjax.tasks.task import Splits, check_whole

SPLIT_NAMES = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Arrays(DataSet):
    """The examples of a file, the same for every member.

    An ``.npz`` file (``numpy.savez``; nothing is unpickled) holds either ``x``, ``y`` and perhaps ``mask``, or named
    splits: ``x_train``, ``y_train`` and perhaps ``x_val``, ``y_val``, ``x_test``, ``y_test``, each perhaps with its
    ``mask_…``. A split that the file does not have is a stratified part of its training examples. Other names are
    refused, for one of them may be a misspelt mask.

    - ``x``: features [example, time, feature], or [example, column] (see ``seq_len``); with ``vocabulary``,
      whole-numbered tokens [example, time]. Not a number and infinity are refused, also where the mask says that there
      is no step.
    - ``y``: whole numbers from 0 [example].
    - ``mask``: which steps exist [example, time], true or 1 for those that do; every example has one.

    A ``.csv`` file has one row of numbers an example, separated by commas; its first line may be names, none of which
    is a number. One column is the label, the others are ``x``.

    Nothing is read until the data are asked for. What identifies the file's content is ``sha256``: see ``pinned``.

    Attributes:
        classes: how many there are; None: the largest label of all splits + 1, which must then not exceed the number of
            examples.
        vocabulary: how many tokens there are; None: ``x`` holds features.
        seq_len: steps into which the columns of a table are cut, each with its features side by side: the first columns
            are the first step. None: one step that has all columns as its features, since their order may mean nothing.
        label: the label column of a ``.csv`` file, by name or by position from 0; -1 is the last.
        standardise: features get mean 0 and standard deviation 1 over the existing steps of the training examples.
        max_bytes: bound on the file's size and on the memory its numbers take, checked before it is taken.
        sha256: digest of the file; where it is given, a file with another digest is refused.

    Reading raises OSError where the file cannot be opened, and ValueError where it is not as described here.
    """

    path: str
    classes: int | None = None
    vocabulary: int | None = None
    seq_len: int | None = None
    label: str | int = -1
    val_fraction: float = 0.2
    test_fraction: float = 0.2
    split_seed: int = 0
    standardise: bool = True
    max_bytes: int = 2**30
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str):
            raise ValueError(f"path={self.path!r} must be a string, so that the task is plain data; use str(path)")
        if not self.path.endswith((".npz", ".csv")):
            raise ValueError(f"path={self.path!r} ends neither in .npz nor in .csv; these two are read")
        check_whole(self, classes=2, vocabulary=1, seq_len=1, max_bytes=1, split_seed=0)
        check_fractions(val_fraction=self.val_fraction, test_fraction=self.test_fraction)

    @property
    def num_classes(self) -> int:
        """``classes``, or as many as the file has; reads the file."""
        return _read(self, *_version(self.path))[1]

    @property
    def num_tokens(self) -> int | None:
        return self.vocabulary

    def splits(self, key: Key[Array, ""] | None = None) -> Splits:
        return _read(self, *_version(self.path))[0]

    def pinned(self) -> "Arrays":
        """The same task with the file's digest in ``sha256``: its results then belong to the content, not to a name."""
        digest = _digest(self.path)
        _check_digest(self, digest)
        return dataclasses.replace(self, sha256=digest)


def _version(path: str) -> tuple[int, int]:
    """Changes when the file does, so that what is kept in memory is never stale."""
    with _sought(path):
        status = os.stat(path)
    return status.st_mtime_ns, status.st_size


def _digest(path: str) -> str:
    with _sought(path), open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def _sought(path: str) -> Iterator[None]:
    """Says from where, since an experiment may be run from any folder."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"there is no file {path}, sought from {os.getcwd()}; give the whole path, in an experiment file as "
            f"str(Path(__file__).parent / {os.path.basename(path)!r})"
        ) from error


def _check_digest(task: Arrays, digest: str) -> None:
    if task.sha256 is not None and digest != task.sha256:
        raise ValueError(
            f"{task.path} has SHA-256 {digest} and not {task.sha256}: the file was changed; "
            "put the old one back, or start anew without sha256"
        )


@functools.lru_cache(maxsize=8)
def _read(task: Arrays, modified: int, size: int) -> tuple[Splits, int]:
    """The splits and the number of classes. ``modified`` and ``size`` only distinguish versions of the file."""
    if task.sha256 is not None:
        _check_digest(task, _digest(task.path))
    parts = _npz_parts(task) if task.path.endswith(".npz") else {"train": _csv_examples(task)}
    parts = {name: _checked(task, name, examples) for name, examples in parts.items()}
    shapes = {part.inputs.shape[1:] for part in parts.values()}
    if len(shapes) > 1:
        raise ValueError(f"the splits of {task.path} have examples of different shapes {sorted(shapes)}; pad them")
    num_classes = _count_classes(task, parts)
    if any(part.mask is not None for part in parts.values()):
        parts = {name: part._replace(mask=_mask_or_all(part)) for name, part in parts.items()}
    train, val, test = _partition(task, parts)
    if task.standardise and task.vocabulary is None:
        train, val, test = standardise(train, val, test)
    return as_splits(train, val, test), num_classes


def _partition(task: Arrays, parts: dict[str, Examples]) -> tuple[Examples, Examples, Examples]:
    """Training, validation and test examples; what the file lacks is taken from its training examples."""
    train, rng = parts["train"], np.random.default_rng(task.split_seed)
    given = len(train.labels)
    # also where nothing is held out: the file may be sorted by class, and train_size uses the first examples
    train, test = hold_out(train, 0 if "test" in parts else count("test_fraction", task.test_fraction, given), rng)
    train, val = hold_out(train, 0 if "val" in parts else count("val_fraction", task.val_fraction, given), rng)
    return train, parts.get("val", val), parts.get("test", test)


def _npz_parts(task: Arrays) -> dict[str, Examples]:
    arrays = read_npz(task.path, max_bytes=task.max_bytes)
    named = {f"{kind}_{split}" for kind in ("x", "y", "mask") for split in SPLIT_NAMES}
    if not (set(arrays) <= {"x", "y", "mask"} or set(arrays) <= named):
        raise ValueError(
            f"{task.path} has arrays {sorted(arrays)}; it may have x, y and mask, or these by split (x_train, …), "
            "and no others"
        )
    suffixes = {"train": ""} if "x" in arrays or "y" in arrays else {split: f"_{split}" for split in SPLIT_NAMES}
    parts = {}
    for split, suffix in suffixes.items():
        names = [kind + suffix for kind in ("x", "y")]
        missing = [name for name in names if name not in arrays]
        if missing and (split == "train" or any(kind + suffix in arrays for kind in ("x", "y", "mask"))):
            raise ValueError(f"{task.path} has no {' and no '.join(missing)}; it has {sorted(arrays)}")
        if not missing:
            parts[split] = Examples(arrays[names[0]], arrays[names[1]], arrays.get("mask" + suffix))
    return parts


def _csv_examples(task: Arrays) -> Examples:
    with open(task.path, encoding="utf-8-sig") as stream:
        names = _header(task, stream)
        try:
            table = np.loadtxt(stream, delimiter=",", ndmin=2, dtype=np.float64, comments=None)
        except ValueError as error:
            raise ValueError(f"{task.path} is no table of numbers ({error}); rows are counted from 0") from error
    bad = np.argwhere(~np.isfinite(table))
    if len(bad):
        row, place = bad[0].tolist()
        raise ValueError(
            f"{task.path} has {table[row, place]} in row {row}, column {place}, counted from 0 below names"
        )
    column = task.label
    if isinstance(column, str):
        if column not in names:
            raise ValueError(f"{task.path} has no column {column!r}; its columns are {', '.join(names) or 'unnamed'}")
        column = names.index(column)
    num_columns = table.shape[1]
    if names and len(names) != num_columns:
        raise ValueError(f"{task.path} has {len(names)} names for {num_columns} columns; names have no commas in them")
    if not -num_columns <= column < num_columns or num_columns < 2:
        raise ValueError(f"label={task.label} is no column beside features in the {num_columns} columns of {task.path}")
    return Examples(np.delete(table, column, axis=1), table[:, column])


def _header(task: Arrays, stream: IO[str]) -> list[str]:
    """The names of the columns, and the stream after them; none, and the stream at its start, where there are none.

    Raises ValueError where the table would exceed ``max_bytes``: 8 bytes a number, counted without reading it whole.
    """
    size = os.fstat(stream.fileno()).st_size
    if size > task.max_bytes:
        raise ValueError(f"{task.path} has {size} bytes, more than max_bytes={task.max_bytes}; raise it if it is meant")
    try:
        first = stream.readline()
        num_numbers = (1 + sum(1 for line in stream if line.strip())) * (first.count(",") + 1)
    except UnicodeDecodeError as error:
        raise ValueError(f"{task.path} is no UTF-8 text ({error}); export it again as CSV in UTF-8") from error
    if not first.strip():
        raise ValueError(f"the first line of {task.path} is empty; it must be names or the first example")
    if 8 * num_numbers > task.max_bytes:
        raise ValueError(
            f"{task.path} has {num_numbers} numbers of 8 bytes, more than max_bytes={task.max_bytes}; raise max_bytes"
        )
    entries = [entry.strip().strip('"') for entry in first.split(",")]
    stream.seek(0)
    numbers = [_is_number(entry) for entry in entries]
    if all(numbers):
        return []
    if any(numbers):
        raise ValueError(
            f"the first line of {task.path} has numbers and {entries[numbers.index(False)]!r}; "
            "it must be names that are no numbers, or an example with nothing missing"
        )
    if num_numbers == len(entries):
        raise ValueError(f"{task.path} holds names and no examples; add rows")
    stream.readline()
    return entries


def _is_number(entry: str) -> bool:
    try:
        float(entry)
    except ValueError:
        return False
    return True


def _checked(task: Arrays, split: str, examples: Examples) -> Examples:
    """The examples with inputs [example, time, feature] or tokens [example, time], labels int64 and a mask of bools."""
    where = f"{task.path} ({split})"
    labels = _whole(where, "label", examples.labels)
    if labels.ndim != 1:
        raise ValueError(f"the labels of {where} have shape {labels.shape}; give one whole number an example")
    if len(labels) == 0:
        raise ValueError(f"{where} has no examples; leave a split out of the file, or fill it")
    inputs = _tokens(task, where, examples.inputs) if task.vocabulary else _features(task, where, examples.inputs)
    if len(inputs) != len(labels):
        raise ValueError(f"{where} has {len(inputs)} inputs and {len(labels)} labels; give one label an input")
    return Examples(inputs, labels, None if examples.mask is None else _mask(where, examples.mask, inputs.shape[:2]))


def _features(task: Arrays, where: str, inputs: np.ndarray) -> np.ndarray:
    if inputs.ndim not in (2, 3) or 0 in inputs.shape[1:]:
        raise ValueError(f"x of {where} has shape {inputs.shape}; give [example, time, feature] or [example, column]")
    # false for not-a-number too; what exceeds float32 would become infinite later
    bad = np.argwhere(~(np.abs(inputs) <= np.finfo(np.float32).max))
    if len(bad):
        position = tuple(bad[0].tolist())
        raise ValueError(
            f"x of {where} is {inputs[position]} at {position}, not a finite float32; replace or remove it"
        )
    if inputs.ndim == 3:
        if task.seq_len not in (None, inputs.shape[1]):
            raise ValueError(f"seq_len={task.seq_len}, but x of {where} has {inputs.shape[1]} steps; leave seq_len out")
        return inputs
    seq_len = 1 if task.seq_len is None else task.seq_len
    if inputs.shape[1] % seq_len:
        raise ValueError(f"seq_len={seq_len} does not divide the {inputs.shape[1]} feature columns of {where}")
    return inputs.reshape(len(inputs), seq_len, inputs.shape[1] // seq_len)


def _tokens(task: Arrays, where: str, inputs: np.ndarray) -> np.ndarray:
    tokens = _whole(where, "token", inputs)
    if tokens.ndim != 2 or tokens.shape[1] == 0:
        raise ValueError(f"x of {where} has shape {tokens.shape}; tokens are [example, time]")
    if tokens.size and tokens.max() >= task.vocabulary:
        raise ValueError(f"x of {where} has token {tokens.max()}; with vocabulary={task.vocabulary} it must be less")
    return tokens


def _mask(where: str, mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if mask.shape != shape:
        raise ValueError(f"mask of {where} has shape {mask.shape}, not [example, time] = {shape}")
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(f"mask of {where} has values other than 0 and 1; 1 says that a step exists")
    empty = np.flatnonzero(~mask.astype(bool).any(axis=1))
    if len(empty):
        raise ValueError(f"mask of {where} leaves example {empty[0]} no step; leave the example out")
    return mask.astype(bool)


def _mask_or_all(examples: Examples) -> np.ndarray:
    return np.ones(examples.inputs.shape[:2], dtype=bool) if examples.mask is None else examples.mask


def _whole(where: str, noun: str, values: np.ndarray) -> np.ndarray:
    """The values as int64. Raises ValueError unless they are whole numbers from 0 to 2**31 - 1."""
    # written so that not-a-number fails too; compared before the cast, which would wrap large numbers
    bad = np.argwhere(~((values >= 0) & (values < 2**31) & (values == np.round(values))))
    if len(bad):
        position = tuple(bad[0].tolist())
        raise ValueError(f"the {noun} at {position} of {where} is {values[position]}; {noun}s are whole numbers from 0")
    return values.astype(np.int64)


def _count_classes(task: Arrays, parts: dict[str, Examples]) -> int:
    labels = np.concatenate([part.labels for part in parts.values()])
    largest = int(labels.max())
    if len(np.unique(labels)) < 2:
        raise ValueError(f"{task.path} has label {largest} only; there must be at least two classes")
    if task.classes is None and largest >= len(labels):
        raise ValueError(f"{task.path} has label {largest} in {len(labels)} examples; give classes= if it is meant")
    if task.classes is not None and largest >= task.classes:
        raise ValueError(
            f"{task.path} has label {largest}; with classes={task.classes} labels are below {task.classes}"
        )
    return largest + 1 if task.classes is None else task.classes
