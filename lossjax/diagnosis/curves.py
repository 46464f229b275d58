"""Training curves as other tools write them: Keras' and Lightning's CSVLogger, Hugging Face's trainer_state.json,
TensorBoard's CSV and JSON and Weights & Biases' CSV exports.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from lossjax.diagnosis.reading import InputError, one_line, shown

MAX_CURVE_BYTES = 2**25  # of a file of losses and accuracies
MAX_CELLS = 4_000_000  # of a table: some hundred bytes each in memory
TENSORBOARD: Final = ["Wall time", "Step", "Value"]

_TIMES = ("step", "global_step", "_step", "epoch")
_HELD_OUT = ("val", "valid", "validation", "eval", "dev", "test", "heldout")
_TRAIN = ("train", "training")
_LOSS = ("loss", "nll", "crossentropy")
_ACCURACY = ("accuracy", "acc", "top1")
# what a metric's name may hold besides its split and itself
_PLAIN = ("epoch", "categorical", "sparse", "binary", "multiclass", "cross", "entropy", "log")

Rows = list[dict[str, float]]


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Loss and accuracy at times of a training.

    Attributes:
        time_name: "step" or "epoch".
        times: [point] increasing.
        loss: [point] nats, finite, of the split that was found.
        accuracy: [point] in 0 … 1.
        split: "held-out", "training", or "unnamed".
        train_loss: [point] the last that is known there, nan where none is yet; None where the file has none.
        notes: which columns were taken and what to beware of.
    """

    time_name: str
    times: Float[np.ndarray, " point"]
    loss: Float[np.ndarray, " point"]
    accuracy: Float[np.ndarray, " point"]
    split: str
    train_loss: Float[np.ndarray, " point"] | None
    notes: tuple[str, ...]


def read_curve(
    paths: Sequence[str | os.PathLike[str]], *, loss: str | None = None, accuracy: str | None = None
) -> Curve:
    """The curve in a file, or in two that hold one metric each and are joined by step.

    Args:
        loss: the column of the loss, where the names do not tell.
        accuracy: the column of the accuracy.

    Raises:
        InputError: there is no loss and accuracy at common times, or a file is damaged.
        OSError: a file cannot be opened.
    """
    rows: Rows = []
    for path in paths:
        rows += _read(Path(path))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    time_name = next((name for known in _TIMES for name in columns if _time(name) == known), None)
    if time_name is None:
        raise InputError(f"the columns are {_listed(columns)} and none is step or epoch; add one")
    merged = _merged(rows, time_name)
    notes: list[str] = []
    split, loss_name, accuracy_name = _pick(columns, merged, loss, accuracy, notes)
    points = [row for row in merged if loss_name in row and accuracy_name in row]
    if len(points) < 2:
        raise InputError(
            f"{len(points)} rows hold both {shown(loss_name)} and {shown(accuracy_name)}; two are needed, at the same "
            f"{shown(time_name)}"
        )
    known = [row for row in points if math.isfinite(row[accuracy_name])]
    if len(known) < len(points):
        notes.append(f"{len(points) - len(known)} of {len(points)} accuracies are not finite; they were left out.")
        points = known
    finite = [row for row in points if math.isfinite(row[loss_name])]
    if len(finite) < len(points):
        first = next(row[time_name] for row in points if not math.isfinite(row[loss_name]))
        notes.append(
            f"{len(points) - len(finite)} of {len(points)} losses are not finite, the first at {time_name} {first:g}: "
            "training broke down there. They were left out."
        )
    if len(finite) < 2:
        raise InputError(
            f"fewer than two losses in {shown(loss_name)} are finite, with an accuracy; there is no curve to judge"
        )
    losses = np.array([row[loss_name] for row in finite])
    if losses.min() < 0:
        raise InputError(
            f"{shown(loss_name)} falls to {losses.min():.4g}; a cross-entropy is never below 0: name its column with "
            "--loss-column"
        )
    train_name = _train_loss(columns) if split == "held-out" else None
    trained = None if train_name is None else _last_known(merged, train_name, time_name)
    return Curve(
        time_name="epoch" if _time(time_name) == "epoch" else "step",
        times=np.array([row[time_name] for row in finite]),
        loss=losses,
        accuracy=_fractions(np.array([row[accuracy_name] for row in finite]), accuracy_name, notes),
        split=split,
        train_loss=None if trained is None else np.array([trained[row[time_name]] for row in finite]),
        notes=(f"Loss is column {shown(loss_name)} and accuracy {shown(accuracy_name)} ({split}).", *notes),
    )


def _read(path: Path) -> Rows:
    with open(path, "rb") as stream:
        data = stream.read(MAX_CURVE_BYTES + 1)
    if len(data) > MAX_CURVE_BYTES:
        raise InputError(f"{path} has more than {MAX_CURVE_BYTES} bytes; a curve has a row an evaluation: keep those")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8 ({one_line(error)}); export it as CSV again") from error
    return _from_json(path, text) if path.suffix.lower() == ".json" else _from_csv(path, text)


def _from_json(path: Path, text: str) -> Rows:
    """Hugging Face's trainer_state.json, or a list of rows."""
    try:
        state = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no readable JSON ({one_line(error)})") from error
    entries = state.get("log_history") if isinstance(state, dict) else state
    if isinstance(entries, list) and entries and all(isinstance(entry, list) and len(entry) == 3 for entry in entries):
        # TensorBoard's JSON: [wall time, step, value]
        return [dict(_numbers(zip(("wall_time", "step", _tag(path)), entry, strict=True))) for entry in entries]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(
            f"{path} has no log_history, a list of rows, as trainer_state.json of Hugging Face's Trainer has"
        )
    # "loss" of that file is the training loss since the last log, and "train_loss", once at the end, that of all steps
    names = {"loss": "train_loss", "train_loss": "mean_train_loss"} if isinstance(state, dict) else {}
    return [{names.get(name, name): number for name, number in _numbers(entry.items())} for entry in entries]


def _from_csv(path: Path, text: str) -> Rows:
    lines, cells = [], 0
    try:
        for line in csv.reader(io.StringIO(text, newline="")):
            cells += len(line)
            if cells > MAX_CELLS:
                raise InputError(f"{path} has more than {MAX_CELLS:,} cells; keep the rows and columns of evaluations")
            if line:
                lines.append(line)
    except csv.Error as error:
        raise InputError(f"{path} is no readable CSV ({one_line(error)})") from error
    if len(lines) < 2:
        raise InputError(f"{path} has {len(lines)} lines; a curve has a line of names and a line an evaluation")
    header = [name.strip() for name in lines[0]]
    between = next((mark for mark in (";", "\t") if mark in header[0]), None)
    if len(header) == 1 and between:
        what = "semicolons" if between == ";" else "tabs"
        raise InputError(f"{path} is separated by {what}; export it with commas between cells and points in numbers")
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise InputError(f"{path} names column {shown(twice)!r} more than once; rename one")
    if header == TENSORBOARD:
        header = ["wall_time", "step", _tag(path)]
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(header):
            raise InputError(f"line {number} of {path} has {len(line)} cells and the first line {len(header)}; mend it")
        rows.append(dict(_numbers(zip(header, line, strict=True))))
    return rows


def _tag(path: Path) -> str:
    """TensorBoard's metric, which is in the file's name as it offers it: run-validation-tag-epoch_loss.csv."""
    return re.sub(r" ?\(\d+\)$", "", path.stem)  # a browser's, for a second file of this name


def _numbers(pairs: Iterable[tuple[str, Any]]) -> Iterable[tuple[str, float]]:
    """What is a number; empty cells, text and lists are passed over."""
    for name, value in pairs:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            continue
        try:
            yield str(name), float(value)
        except (ValueError, OverflowError):
            continue


def _merged(rows: Rows, time_name: str) -> Rows:
    """One row a time, in the order of time: loggers write training and validation in lines of their own."""
    found: dict[float, dict[str, float]] = {}
    for row in rows:
        time = row.get(time_name)
        if time is not None and math.isfinite(time):
            found.setdefault(time, {}).update(row)
    return [found[time] for time in sorted(found)]


def _last_known(rows: Rows, name: str, time_name: str) -> dict[float, float]:
    """Time → the last value of a column, nan before the first: some tools log training at steps of its own."""
    value, known = math.nan, {}
    for row in rows:
        value = row.get(name, value)
        known[row[time_name]] = value
    return known


def _pick(
    columns: Sequence[str], rows: Rows, loss: str | None, accuracy: str | None, notes: list[str]
) -> tuple[str, str, str]:
    """Split, loss column and accuracy column."""
    for name in (loss, accuracy):
        if name is not None and name not in columns:
            raise InputError(f"there is no column {shown(name)!r}; the columns are {_listed(columns)}")
    if loss is not None and accuracy is not None:
        return _split_of(loss), loss, accuracy
    losses, accuracies = _by_split(columns, _LOSS, loss), _by_split(columns, _ACCURACY, accuracy)
    for split in (*_HELD_OUT, "unnamed", "training"):
        if split in losses and split in accuracies:
            found = {"loss": losses[split], "accuracy": accuracies[split]}
            for what, names in found.items():
                if len(names) > 1:
                    raise InputError(f"{_listed(names)} may each be the {what}; say which with --{what}-column NAME")
            others = [other for other in _HELD_OUT if other != split and other in losses and other in accuracies]
            if split in _HELD_OUT and others:
                notes.append(f"The file has {split} and {', '.join(others)}; {split} was taken.")
            if split == "training" or (split == "unnamed" and _trained(columns)):
                notes.append("The file has no held-out loss and accuracy: training curves say nothing of new examples.")
                return "training", found["loss"][0], found["accuracy"][0]
            if split == "unnamed":
                notes.append("The names do not say of which examples the curve is; it was taken as held-out.")
            return split if split in ("unnamed", "training") else "held-out", found["loss"][0], found["accuracy"][0]
    missing = "loss" if not losses else "accuracy" if not accuracies else "loss and accuracy of the same examples"
    raise InputError(
        f"the columns are {_listed(columns)}: no {missing}; name them with --loss-column and --accuracy-column"
    )


def _trained(columns: Sequence[str]) -> bool:
    """Keras calls its training metrics loss and accuracy, beside val_loss or alone, and logs nothing else unnamed."""
    return {"loss", "accuracy"} <= set(columns) and "epoch" in columns


def _by_split(columns: Sequence[str], quantity: Sequence[str], given: str | None) -> dict[str, list[str]]:
    """Split → columns that are plainly this quantity of it; an epoch's mean before a step's."""
    found: dict[str, list[str]] = {}
    if given is not None:
        split = next((token for token in _tokens(given) if token in _HELD_OUT), None)
        return {split or ("training" if _split_of(given) == "training" else "unnamed"): [given]}
    for name in columns:
        tokens = _tokens(name)
        own = [token for token in tokens if token in quantity]
        if not own or any(t not in (*quantity, *_PLAIN, *_HELD_OUT, *_TRAIN) for t in tokens):
            continue
        held_out = next((token for token in tokens if token in _HELD_OUT), None)
        split = held_out or ("training" if any(token in _TRAIN for token in tokens) else "unnamed")
        found.setdefault(split, []).append(name)
    return found


def _split_of(name: str) -> str:
    tokens = _tokens(name)
    if any(token in _HELD_OUT for token in tokens):
        return "held-out"
    return "training" if any(token in _TRAIN for token in tokens) else "unnamed"


def _train_loss(columns: Sequence[str]) -> str | None:
    found = _by_split(columns, _LOSS, None)
    names = found.get("training") or found.get("unnamed") or []
    return names[0] if len(names) == 1 else None


def _tokens(name: str) -> list[str]:
    """The words of a metric's name, without what the exporters put round it."""
    tail = name.split(" - ")[-1]  # Weights & Biases: "run name - val_loss", and "… - val_loss__MIN" beside it
    run, tag, metric = tail.partition("-tag-")  # TensorBoard: "run-validation-tag-epoch_loss"
    if tag:
        own = next((token for token in (*_HELD_OUT, *_TRAIN) if token in _words(metric)), None)
        where = next((token for token in _HELD_OUT if token in _words(run)), None)
        if where is None and any(token in run.lower() for token in _TRAIN):
            where = "train"
        tail = metric if own else f"{where or ''}_{metric}"
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", tail)  # valLoss
    return _words(spaced)


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", text.lower()) if word]


def _time(name: str) -> str:
    """The name of a column of times without what the exporters put before it: "trainer/global_step" of Lightning."""
    return re.sub(r"^train(er)?/", "", name.strip().lower())


def _fractions(accuracy: np.ndarray, name: str, notes: list[str]) -> np.ndarray:
    if not np.isfinite(accuracy).all() or accuracy.min() < 0 or accuracy.max() > 100:
        raise InputError(f"{shown(name)} holds what is no accuracy: it lies in {accuracy.min():g} … {accuracy.max():g}")
    if accuracy.max() > 1:
        notes.append(f"{shown(name)} goes up to {accuracy.max():g} and was read as per cent.")
        return accuracy / 100
    return accuracy


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    some = [shown(name) for name in list(names)[:10]]
    return ", ".join(some) + (", …" if len(names) > 10 else "") if some else "none"
