"""What is diagnosed: models on one evaluation set, checked and brought to one form."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Real, Shaped

from lossjax.diagnosis.outputs import as_logits, check_finite, check_work, outputs_of
from lossjax.diagnosis.reading import MAX_BYTES, Arrays, InputError, counted, read_arrays, read_counts, shown

WIDEST = 1000  # letters that a name may have in a file

_LABELS = ("labels", "label_ids", "targets")


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """Models on one evaluation set: two to compare, or the checkpoints of a run in their order.

    Attributes:
        names: of each checkpoint, as shown.
        steps: [checkpoint], or None where they have none.
        unit: of the steps: "step", "epoch", or "checkpoint" where they have none.
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
    unit: str
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
        return (self.class_names[index] if self.class_names else "") or f"class {index}"


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
        max_bytes: bound on what all arrays take together, and on what the logits take to be worked on.

    Raises:
        InputError: for everything that is wrong with what the files hold.
        OSError: a file cannot be opened.
    """
    sources = read_arrays(paths, max_bytes=max_bytes)
    check_work(sources, max_bytes)
    if groups is not None:
        train_counts = read_counts(groups)
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
    logits, key_notes = zip(*(outputs_of(source) for source in sources), strict=True)
    notes += [note for some in key_notes for note in some]
    _check_same_examples(sources, logits)
    labels = _labels(sources, logits[0].shape[-2:], notes)
    for source, array in zip(sources, logits, strict=True):
        check_finite(source.where, array)
    logits, converted = zip(*(as_logits(s.where, a, labels) for s, a in zip(sources, logits, strict=True)), strict=True)
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
        unit="checkpoint" if steps is None else _unit(sources[0]),
        logits=checkpoints,
        labels=labels,
        is_run=len(sources) == 1,
        same_seeds=same_seeds,
        train_counts=None if train_counts is None else _train_counts(train_counts, num_classes),
        class_names=None if class_names is None else _class_names(class_names, num_classes),
        clusters=clusters,
        notes=tuple(notes),
    )


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


def _check_same_examples(sources: Sequence[Arrays], logits: Sequence[np.ndarray]) -> None:
    """Before the labels of one are held against the logits of the other."""
    first, last = logits[0].shape, logits[-1].shape
    if first[-2:] != last[-2:]:
        raise InputError(
            f"{sources[0].where} has logits {first} and {sources[-1].where} {last}; both need the same examples and "
            "classes"
        )


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
            f"{where}: {counted(len(outside), 'label')} outside 0 … {num_classes - 1}, the classes that the logits "
            f"have, the first {labels[at]} at example {at}; leave such examples out"
        )
    return labels.astype(np.int64)


def _pair(
    sources: Sequence[Arrays], logits: Sequence[np.ndarray], names: tuple[str, str], notes: list[str]
) -> tuple[tuple[str, ...], None, tuple[np.ndarray, ...], bool]:
    # a recording of a single evaluation is one model
    logits = [
        array[0] if array.ndim == 3 and len(array) == 1 and f"{_unit(source)}s" in source.arrays else array
        for source, array in zip(sources, logits, strict=True)
    ]
    shapes = [array.shape for array in logits]
    for source, array in zip(sources, logits, strict=True):
        if array.ndim == 4 or (array.ndim == 3 and f"{_unit(source)}s" in source.arrays):
            raise InputError(
                f"{source.where} holds the checkpoints of a run {array.shape}; give a run as the only file, or save "
                "one checkpoint a file to compare two: logits[-1] is the last"
            )
    if len(shapes[0]) != len(shapes[1]):
        raise InputError(
            f"{sources[0].where} has logits {shapes[0]} and {sources[1].where} {shapes[1]}; both need seeds in "
            "front, or neither, and of a run save one checkpoint: logits[-1] is the last"
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
            "another, or [seed, checkpoint, example, class]"
        )
    along = logits if logits.ndim == 4 else logits[None]
    num_seeds, num_checkpoints = along.shape[:2]
    if num_checkpoints < 2:
        raise InputError(f"{source.where} holds one checkpoint {logits.shape}; a run needs two or more")
    unit = _unit(source)
    steps = source.arrays.get(f"{unit}s")
    if steps is None:
        notes.append(
            f"{source.where} has no steps: its {num_checkpoints} checkpoints were taken in their order and numbered."
        )
        names = tuple(f"checkpoint {index}" for index in range(num_checkpoints))
    else:
        if steps.shape != (num_checkpoints,) or steps.dtype.kind not in "iuf":
            raise InputError(
                f"{unit}s in {source.where} is {steps.dtype} {steps.shape}; give one number for each of the "
                f"{num_checkpoints} checkpoints"
            )
        steps = steps.astype(np.float64)
        if not np.isfinite(steps).all() or np.any(np.diff(steps) <= 0):
            raise InputError(f"{unit}s in {source.where} do not increase; save checkpoints in the order of training")
        names = tuple(f"{unit} {text}" for text in _distinct(steps))
    checkpoints = tuple(along[0, i] if num_seeds == 1 else along[:, i] for i in range(num_checkpoints))
    return names, steps, checkpoints, num_seeds > 1


def _unit(source: Arrays) -> str:
    """How a file's checkpoints are counted: by epochs where it has those and no steps."""
    return "epoch" if "epochs" in source.arrays and "steps" not in source.arrays else "step"


def _distinct(steps: np.ndarray) -> list[str]:
    """As short as tells them apart."""
    texts = [f"{step:.10g}" for step in steps.tolist()]
    return texts if len(set(texts)) == len(texts) else [f"{step:.17g}" for step in steps.tolist()]


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
