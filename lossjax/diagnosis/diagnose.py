"""``lossjax.diagnose``: the question, from files or arrays, to its answer."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped

from lossjax.analysis.regimes import FLAT, Flat
from lossjax.diagnosis.answer import Diagnosis
from lossjax.diagnosis.curve_answer import examine_curve
from lossjax.diagnosis.curves import read_curve
from lossjax.diagnosis.examine import examine
from lossjax.diagnosis.reading import MAX_BYTES, Arrays, InputError, found_at, is_curve, shown
from lossjax.diagnosis.subject import read_files, subject

Path = str | os.PathLike[str]


def diagnose(
    before: Path | Float[np.ndarray, "... example class"],
    after: Path | Float[np.ndarray, "... example class"] | None = None,
    labels: Int[np.ndarray, " example"] | None = None,
    *,
    steps: Sequence[float] | None = None,
    train_counts: Path | Int[np.ndarray, " class"] | None = None,
    class_names: Sequence[str] | None = None,
    clusters: Shaped[np.ndarray, " example"] | None = None,
    ordered: bool = True,
    seed_axis: bool = False,
    loss_column: str | None = None,
    accuracy_column: str | None = None,
    num_examples: int | None = None,
    flat_loss: float = FLAT.loss,
    flat_accuracy: float = FLAT.accuracy,
    level: float = 0.95,
    seed: int = 0,
    max_bytes: int = MAX_BYTES,
) -> Diagnosis:
    """Why loss and accuracy moved as they did between two models, along a run, or in a training curve.

    Args:
        before: an ``.npz`` file or logits [example, class] (with a leading seed axis, or none) of the first model; or,
            alone, a run: [checkpoint, example, class] or [seed, checkpoint, example, class]; or a curve, a ``.csv`` or
            ``trainer_state.json``. Log-probabilities and probabilities are recognised.
        after: the second model, in the same form; or the second of two curve files that hold one metric each.
        labels: with arrays, whole numbers in 0 … class − 1.
        steps: with an array of a run, of its checkpoints.
        train_counts: training examples of each class, as an array or an ``.npy`` file, for head, middle and tail.
        class_names: with arrays, for the tables.
        clusters: with arrays, what belongs together (users, documents, duplicates); resampled whole.
        ordered: whether ``before`` precedes ``after``, as two times of a training do; else two models to choose from.
        seed_axis: a single file's [axis, example, class] are seeds, not checkpoints.
        loss_column, accuracy_column: of a curve, where names do not tell.
        num_examples: of a curve, how many examples it was measured on.
        flat_loss, flat_accuracy: changes taken for none, in nats and as a fraction; set before the data are seen.
        level: of the intervals.
        seed: of folds and resamples.
        max_bytes: bound on what all arrays of the files take.

    Raises:
        InputError: (a ValueError) for input that cannot be diagnosed, in one line that says why and what to do.
        OSError: a file cannot be opened.
    """
    if not 0.5 < level < 1:
        raise InputError(
            f"level={level} is the probability that intervals cover; give 0.95 or another between 0.5 and 1"
        )
    for name, value in (("flat_loss", flat_loss), ("flat_accuracy", flat_accuracy)):
        if not 0 <= value < math.inf:
            raise InputError(f"{name}={value} is the half-width of what counts as no change; give a number from 0 on")
    if seed < 0:
        raise InputError(f"seed={seed} is the seed of folds and resamples; give a whole number from 0 on")
    flat = Flat(float(flat_loss), float(flat_accuracy))
    for source in (before, after):
        if isinstance(source, str | os.PathLike) and not found_at(source):
            raise InputError(
                f"there is no file {shown(os.fspath(source))}; give the path of an .npz, .csv or .json file"
            )
    paths = [source for source in (before, after) if isinstance(source, str | os.PathLike)]
    if paths and len(paths) < 2 and after is not None:
        raise InputError("one of before and after is a file and the other is not; give two files or two arrays")
    if any(is_curve(path) for path in paths):
        if not all(is_curve(path) for path in paths):
            raise InputError("one file is a curve and the other is not; give two .npz files, or curves alone")
        if num_examples is not None and num_examples < 1:
            raise InputError(
                f"num_examples={num_examples} is the number of examples the curve is of; give it or nothing"
            )
        return examine_curve(
            read_curve(paths, loss=loss_column, accuracy=accuracy_column), num_examples=num_examples, flat=flat
        )
    names = ("before", "after") if ordered else ("first", "second")
    counts_file = train_counts if isinstance(train_counts, str | os.PathLike) else None
    counts = None if counts_file is not None or train_counts is None else np.asarray(train_counts)
    if paths:
        given = {"labels": labels, "steps": steps, "class_names": class_names, "clusters": clusters}
        extra = [name for name, value in given.items() if value is not None]
        if extra:
            raise InputError(f"{', '.join(extra)} are given beside files; save them in the files")
        found = read_files(
            paths,
            groups=counts_file,
            train_counts=counts,
            first_axis_is_seeds=seed_axis,
            pair_names=names,
            max_bytes=max_bytes,
        )
    else:
        if labels is None:
            raise InputError("labels are missing; give labels [example] beside the logits")
        shared = {"labels": labels, "steps": steps, "class_names": class_names, "clusters": clusters}
        arrays = {name: np.asarray(value) for name, value in shared.items() if value is not None}
        logits = {"the array": before} if after is None else {"before": before, "after": after}
        found = subject(
            [Arrays(name, {"logits": np.asarray(array), **arrays}) for name, array in logits.items()],
            train_counts=counts,
            first_axis_is_seeds=seed_axis,
            pair_names=names,
        )
    return examine(found, ordered=ordered, flat=flat, level=level, seed=seed)
