"""What someone else's training left behind, read for a diagnosis: logits of one evaluation set, checked and named.

Nothing is unpickled, sizes are summed before anything is expanded, and whatever is wrong ends in one ``InputError``.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Real, Shaped
from scipy import special

from lossjax.npz import read_npy, read_npz
from lossjax.recorder import parts_of

MAX_BYTES = 2**32  # what the arrays of all files may take together, unless the caller raises it
FOLDS = 5  # of the cross-fitted temperature: fewer examples than folds cannot be diagnosed
LARGEST = 1e100  # beyond it, squares of logits overflow
NAME_LENGTH = 80  # longer names of classes are cut
WIDEST = 1000  # letters that a name may have in a file

_LOGITS = ("logits", "log_probabilities", "log_probs", "probabilities", "probs", "predictions")
_LABELS = ("labels", "label_ids", "targets")
_TEXT = ("class_names", "clusters")
# rows of probabilities add up to 1 within this; half precision and a thousand classes come to 5e-4
_ROUNDING = 2e-3
_ROWS = 2**18  # rows looked at once


class InputError(ValueError):
    """What a user can mend: one line that states the fact, the rule and the remedy."""


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """Models on one evaluation set: two to compare, or the checkpoints of a run in their order.

    Attributes:
        names: of each checkpoint, as shown.
        steps: [checkpoint], or None where they have none.
        logits: one array a checkpoint, [example, class] or, for several seeds, [seed, example, class].
        labels: [example], whole numbers in 0 … class − 1.
        is_run: whether these are checkpoints of a run, of which a window is to be chosen.
        same_seeds: whether seed i of one checkpoint is seed i of the others.
        train_counts: [class] training examples of each class.
        class_names: one a class.
        clusters: [example] what belongs together: users, documents, duplicates.
        notes: what was recognised and what to beware of, as sentences.
    """

    names: tuple[str, ...]
    steps: Real[np.ndarray, " checkpoint"] | None
    logits: tuple[Float[np.ndarray, "*seed example class"], ...]
    labels: Int[np.ndarray, " example"]
    is_run: bool
    same_seeds: bool
    train_counts: Int[np.ndarray, " class"] | None
    class_names: tuple[str, ...] | None
    clusters: Shaped[np.ndarray, " example"] | None
    notes: tuple[str, ...]

    @property
    def num_seeds(self) -> int | None:
        """None where there is one model a checkpoint, without a seed axis."""
        return len(self.logits[0]) if self.logits[0].ndim == 3 else None

    def reversed(self) -> Subject:
        """The same two models, the second first."""
        return dataclasses.replace(self, names=self.names[::-1], logits=self.logits[::-1])

    def class_name(self, index: int) -> str:
        return f"class {index}" if self.class_names is None else self.class_names[index]


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
    """The arrays of one file, or of one argument, as they came."""

    where: str
    arrays: Mapping[str, np.ndarray]
    notes: tuple[str, ...] = ()


def read_files(
    paths: Sequence[str | os.PathLike[str]],
    *,
    groups: str | os.PathLike[str] | None = None,
    train_counts: np.ndarray | None = None,
    first_axis_is_seeds: bool = False,
    pair_names: tuple[str, str] = ("before", "after"),
    max_bytes: int = MAX_BYTES,
) -> Subject:
    """The subject of one ``.npz`` file (a run) or of two (before and after).

    Args:
        groups: an ``.npy`` file with the number of training examples of each class; ``train_counts``: or the array.
        first_axis_is_seeds: of [axis, example, class] in a single file; otherwise it is the checkpoints' unless the
            file names its ``seeds``.
        max_bytes: bound on what all arrays take together.

    Raises:
        InputError: for everything that is wrong with what the files hold.
        OSError: a file cannot be opened.
    """
    sources = []
    for path in paths:
        source = _read(Path(path), max_bytes)
        max_bytes -= sum(array.nbytes for array in source.arrays.values())
        sources.append(source)
    if groups is not None:
        try:
            train_counts = read_npy(groups, max_bytes=2**24)
        except ValueError as error:
            raise InputError(f"{one_line(error)}; --groups takes an .npy file with one count a class") from error
    return subject(sources, train_counts=train_counts, first_axis_is_seeds=first_axis_is_seeds, pair_names=pair_names)


def subject(
    sources: Sequence[Arrays],
    *,
    train_counts: np.ndarray | None = None,
    first_axis_is_seeds: bool = False,
    pair_names: tuple[str, str] = ("before", "after"),
) -> Subject:
    """Checks one source (a run) or two (before and after) and brings them to one form."""
    if len(sources) not in (1, 2):
        raise InputError(f"{len(sources)} files were given; give one run, or one file before and one after")
    notes = [note for source in sources for note in source.notes]
    logits, key_notes = zip(*(_logits(source) for source in sources), strict=True)
    notes += [note for some in key_notes for note in some]
    labels = _labels(sources, logits[0].shape[-2:], notes)
    for source, array in zip(sources, logits, strict=True):
        _check_finite(source.where, array)
    logits, converted = zip(
        *(_as_logits(s.where, a, labels) for s, a in zip(sources, logits, strict=True)), strict=True
    )
    notes += [note for note in dict.fromkeys(converted) if note]
    if len(sources) == 2:
        names, steps, checkpoints, same_seeds = _pair(sources, logits, pair_names, notes)
    else:
        names, steps, checkpoints, same_seeds = _run(sources[0], logits[0], first_axis_is_seeds, notes)

    num_examples, num_classes = checkpoints[0].shape[-2:]
    if train_counts is None:
        train_counts = _optional(sources, "train_counts")
    class_names = _optional(sources, "class_names")
    clusters = _optional(sources, "clusters")
    if clusters is not None:
        if clusters.shape != (num_examples,):
            raise InputError(f"clusters has shape {clusters.shape}; give one entry for each of {num_examples} examples")
        if len(np.unique(clusters)) < 2:
            raise InputError("clusters puts all examples into one; an interval needs two or more, or leave it out")
    if num_examples < 200:
        notes.append(
            f"{num_examples} examples are few: intervals are wide, and below 200 they cover less often than they say."
        )
    return Subject(
        names=names,
        steps=steps,
        logits=checkpoints,
        labels=labels,
        is_run=len(sources) == 1,
        same_seeds=same_seeds,
        train_counts=None if train_counts is None else _train_counts(train_counts, num_classes),
        class_names=None if class_names is None else _class_names(class_names, num_classes),
        clusters=clusters,
        notes=tuple(notes),
    )


def shown(text: str) -> str:
    """Others' text, safe in a terminal and on a page: what cannot be printed is replaced, and it is cut to a length."""
    flat = " ".join(str(text).split())
    printable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in flat)
    return printable if len(printable) <= NAME_LENGTH else printable[: NAME_LENGTH - 1] + "…"


def one_line(error: Exception) -> str:
    """A message in one line of bounded length, without control characters, whatever the file put into it."""
    flat = " ".join(str(error).split())
    printable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in flat)
    return printable if len(printable) <= 400 else printable[:250] + " … " + printable[-140:]


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
    from lossjax.recorder import recorded_steps

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
    arrays |= {"logits": logits, "steps": np.array(list(steps), dtype=np.int64)}
    note = f"{path.name} is not finished: these are the {len(steps)} evaluations recorded so far."
    return Arrays(path.name, arrays, (note,))


def _logits(source: Arrays) -> tuple[np.ndarray, list[str]]:
    """The array of a model's outputs, its axes checked, and which one it was where that is not plain."""
    found = [key for key in _LOGITS if key in source.arrays]
    if not found:
        raise InputError(
            f"{source.where} holds {_listed(source.arrays)} and no logits; save them as numpy.savez(path, logits=…, "
            "labels=…)"
        )
    key, array = found[0], source.arrays[found[0]]
    notes = [f"Of {_listed(found)} in {source.where}, {key} was used."] if len(found) > 1 else []
    if array.dtype.kind not in "fiu":
        raise InputError(f"{key} in {source.where} holds {array.dtype}; save floats")
    if array.ndim == 1 or (array.ndim > 1 and array.shape[-1] == 1):
        raise InputError(
            f"{key} in {source.where} has shape {array.shape}, so one class; two are needed: for one sigmoid output z "
            "save numpy.stack([0 * z, z], axis=-1)"
        )
    if not 2 <= array.ndim <= 4:
        raise InputError(
            f"{key} in {source.where} has shape {array.shape}; save [example, class], [checkpoint, example, class] or "
            "[seed, checkpoint, example, class]"
        )
    if array.size == 0:
        raise InputError(
            f"{key} in {source.where} has shape {array.shape} and is empty; save at least {FOLDS} examples"
        )
    if array.shape[-2] < FOLDS:
        raise InputError(
            f"{key} in {source.where} has {_count(array.shape[-2], 'example')}; a temperature is fitted over {FOLDS} "
            f"folds, so {FOLDS} are the least, and a few hundred give an answer"
        )
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    elif array.dtype.itemsize < 4:
        array = array.astype(np.float32)
    return array, notes


def _labels(sources: Sequence[Arrays], shape: tuple[int, ...], notes: list[str]) -> Int[np.ndarray, " example"]:
    num_examples, num_classes = shape
    given = []
    for source in sources:
        key = next((key for key in _LABELS if key in source.arrays), None)
        if key is not None:
            given.append((source.where, _checked_labels(source, key, num_examples, num_classes)))
    if not given:
        raise InputError(f"{sources[0].where} holds no labels; save them beside the logits as labels [example]")
    if len(given) < len(sources):
        notes.append(f"Only {given[0][0]} holds labels; they were used for both.")
    if len(given) == 2 and not np.array_equal(given[0][1], given[1][1]):
        first, second = given[0][1], given[1][1]
        at = int(np.flatnonzero(first != second)[0]) if len(first) == len(second) else min(len(first), len(second))
        raise InputError(
            f"the labels of {given[0][0]} and {given[1][0]} differ from example {at} on; both files need the same "
            "examples in the same order"
        )
    return given[0][1]


def _checked_labels(source: Arrays, key: str, num_examples: int, num_classes: int) -> np.ndarray:
    labels = source.arrays[key]
    where = f"{key} in {source.where}"
    if labels.ndim == 2 and labels.shape[1] in (1, num_classes):
        remedy = "labels.argmax(axis=1)" if labels.shape[1] > 1 else "labels[:, 0]"
        raise InputError(f"{where} has shape {labels.shape}; save one whole number an example: {remedy}")
    if labels.dtype.kind not in "iu":
        raise InputError(f"{where} holds {labels.dtype}; labels are whole numbers: labels.astype(int)")
    if labels.shape != (num_examples,):
        raise InputError(
            f"{where} has shape {labels.shape} and the logits are of {num_examples} examples; give one label an example"
        )
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        at = int(outside[0])
        raise InputError(
            f"{where}: {_count(len(outside), 'label')} outside 0 … {num_classes - 1}, the classes that the "
            "logits have, "
            f"the first {labels[at]} at example {at}; leave such examples out"
        )
    return labels.astype(np.int64)


def _check_finite(where: str, array: np.ndarray) -> None:
    bad = ~np.isfinite(array)
    count = int(bad.sum())
    if not count:
        largest = max(abs(float(array.max())), abs(float(array.min())))
        if largest > LARGEST:
            raise InputError(f"{where}: a logit of size {largest:.3g}; sizes up to {LARGEST:g} can be worked with")
        return
    position = np.unravel_index(int(bad.argmax()), array.shape)
    axes = ("seed", "checkpoint", "example", "class")[-array.ndim :]
    if array.ndim == 3:
        axes = ("checkpoint or seed", "example", "class")
    named = ", ".join(f"{axis} {index}" for axis, index in zip(axes, position, strict=True))
    raise InputError(
        f"{where}: {count} of {array.size} logits {'is' if count == 1 else 'are'} not finite, the first "
        f"{array[position]} at {named}; leave those examples or checkpoints out"
    )


def _as_logits(where: str, array: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, str]:
    """Log-probabilities are logits already; probabilities become their logarithms. And what was recognised."""
    rows = array.reshape(-1, array.shape[-1])
    if all(_add_up(part) for part in _parts(rows)):
        return _from_probabilities(where, array, labels)
    if all(_log_add_up(part) for part in _parts(rows)):
        return array, f"{where} holds log-probabilities, which serve as logits without loss."
    return array, ""


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    size = max(1, _ROWS * 64 // rows.shape[1])
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _add_up(rows: np.ndarray) -> bool:
    return bool(rows.min() >= 0 and rows.max() <= 1 + _ROUNDING and np.abs(rows.sum(axis=1) - 1).max() <= _ROUNDING)


def _log_add_up(rows: np.ndarray) -> bool:
    return bool(rows.max() <= _ROUNDING and np.abs(special.logsumexp(rows, axis=1)).max() <= _ROUNDING)


def _from_probabilities(where: str, array: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, str]:
    zeros, ones = int((array == 0).sum()), int((array == 1).sum())
    note = f"{where} holds probabilities; their logarithms were used as logits. Logits keep more precision."
    if zeros or ones:
        least = np.finfo(array.dtype).smallest_subnormal
        lost = int((np.take_along_axis(array, np.broadcast_to(labels, array.shape[:-1])[..., None], -1) == 0).sum())
        note += (
            f" {zeros} are exactly 0 and {ones} exactly 1: precision was lost. Zeros were taken as {least:.1g}, the "
            f"least {array.dtype} above 0, so the {lost} losses at labels of probability 0 are lower bounds."
        )
        array = np.where(array == 0, least, array)
    return np.log(array), note


def _pair(
    sources: Sequence[Arrays], logits: Sequence[np.ndarray], names: tuple[str, str], notes: list[str]
) -> tuple[tuple[str, ...], None, tuple[np.ndarray, ...], bool]:
    shapes = [array.shape for array in logits]
    for source, array in zip(sources, logits, strict=True):
        if array.ndim == 4 or (array.ndim == 3 and "steps" in source.arrays):
            raise InputError(
                f"{source.where} holds the checkpoints of a run {array.shape}; give a run as the only file, or "
                "save one "
                "checkpoint a file to compare two"
            )
    if len(shapes[0]) != len(shapes[1]) or shapes[0][-2:] != shapes[1][-2:]:
        raise InputError(
            f"{sources[0].where} has logits {shapes[0]} and {sources[1].where} {shapes[1]}; both need the same "
            "examples "
            "and classes, and seeds both or neither"
        )
    if len(shapes[0]) == 2:
        return names, None, tuple(logits), False
    if min(shapes[0][0], shapes[1][0]) == 1:
        if shapes[0][0] == shapes[1][0]:
            return names, None, tuple(array[0] for array in logits), False
        raise InputError(f"there are {shapes[0][0]} and {shapes[1][0]} seeds; give two or more of each")
    seeds = [source.arrays.get("seeds") for source in sources]
    same_seeds = seeds[0] is not None and seeds[1] is not None and np.array_equal(seeds[0], seeds[1])
    notes.append(
        f"The first axis of the logits was taken as seeds: {shapes[0][0]} and {shapes[1][0]}, "
        + ("in pairs, for both files name the same seeds." if same_seeds else "taken as independent of each other.")
    )
    return names, None, tuple(logits), same_seeds


def _run(
    source: Arrays, logits: np.ndarray, first_axis_is_seeds: bool, notes: list[str]
) -> tuple[tuple[str, ...], np.ndarray | None, tuple[np.ndarray, ...], bool]:
    if logits.ndim == 2:
        raise InputError(
            f"{source.where} holds one model {logits.shape}; give a second file to compare it with, or a run "
            "[checkpoint, example, class]"
        )
    if logits.ndim == 3 and ("seeds" in source.arrays or first_axis_is_seeds):
        raise InputError(
            f"{source.where} holds seeds of one checkpoint {logits.shape}; give a second file with the seeds of "
            "another, "
            "or [seed, checkpoint, example, class]"
        )
    along = logits if logits.ndim == 4 else logits[None]
    num_seeds, num_checkpoints = along.shape[:2]
    if num_checkpoints < 2:
        raise InputError(f"{source.where} holds one checkpoint {logits.shape}; a run needs two or more")
    steps = source.arrays.get("steps")
    if steps is None:
        notes.append(
            f"{source.where} has no steps: its {num_checkpoints} checkpoints were taken in their order and numbered."
        )
        names = tuple(f"checkpoint {index}" for index in range(num_checkpoints))
    else:
        if steps.shape != (num_checkpoints,) or steps.dtype.kind not in "iuf":
            raise InputError(
                f"steps in {source.where} is {steps.dtype} {steps.shape}; give one number for each of the "
                f"{num_checkpoints} checkpoints"
            )
        steps = steps.astype(np.float64)
        if not np.isfinite(steps).all() or np.any(np.diff(steps) <= 0):
            raise InputError(f"steps in {source.where} do not increase; save checkpoints in the order of training")
        names = tuple(f"step {step:.10g}" for step in steps.tolist())
    checkpoints = tuple(along[0, i] if num_seeds == 1 else along[:, i] for i in range(num_checkpoints))
    return names, steps, checkpoints, num_seeds > 1


def _optional(sources: Sequence[Arrays], key: str) -> np.ndarray | None:
    given = [source.arrays[key] for source in sources if key in source.arrays]
    for array in given:
        if array.dtype.kind == "U" and array.dtype.itemsize > 4 * WIDEST:
            raise InputError(
                f"{key} holds strings {array.dtype.itemsize // 4} letters wide; names have {WIDEST} at most"
            )
    if len(given) == 2 and not np.array_equal(given[0], given[1]):
        raise InputError(f"{key} differs between {sources[0].where} and {sources[1].where}; give it once, or equal")
    return given[0] if given else None


def _train_counts(counts: np.ndarray, num_classes: int) -> np.ndarray:
    if counts.shape != (num_classes,) or counts.dtype.kind not in "iu":
        raise InputError(
            f"train_counts is {counts.dtype} {counts.shape}; give a whole number of training examples for each of the "
            f"{num_classes} classes: numpy.bincount(train_labels, minlength={num_classes})"
        )
    if counts.min() < 0 or int(counts.max()) > 2**53 or counts.sum() == 0:
        raise InputError(
            f"train_counts lie in {counts.min()} … {counts.max()}; they are numbers of examples, not all 0"
        )
    return counts.astype(np.int64)


def _class_names(names: np.ndarray, num_classes: int) -> tuple[str, ...]:
    if names.shape != (num_classes,):
        raise InputError(f"class_names has shape {names.shape}; give one name for each of the {num_classes} classes")
    return tuple(shown(name) for name in names.tolist())


def _listed(names: Mapping[str, object] | Sequence[str]) -> str:
    some = [shown(name) for name in list(names)[:8]]
    return (", ".join(some) + (", …" if len(names) > 8 else "")) or "nothing"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def found_at(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file, or a recording that is not finished."""
    return os.path.isfile(path) or parts_of(Path(path)).is_dir()


def is_curve(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a training curve by its name."""
    return re.search(r"\.(csv|json)$", os.fspath(path), re.IGNORECASE) is not None
