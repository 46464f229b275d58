"""A model's outputs as logits: their axes checked, probabilities and log-probabilities recognised."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from lossjax.diagnosis.reading import Arrays, InputError, counted, listed

FOLDS = 5  # of the cross-fitted temperature: fewer examples than folds cannot be diagnosed
LARGEST = 1e100  # beyond it, squares of logits overflow

_LOGITS = ("logits", "log_probabilities", "log_probs", "probabilities", "probs", "predictions")
# rows of probabilities add up to 1 within this; half precision and a thousand classes come to 5e-4
_ROUNDING = 2e-3
_ROWS = 2**18  # rows looked at once
_BYTES_AN_EXAMPLE = 256  # of a model: its measures in float64, and the columns whose means are resampled


def check_work(sources: Sequence[Arrays], max_bytes: int) -> None:
    """That the logits fit when they are worked on, where a byte a logit becomes eight and every example is measured.

    Raises:
        InputError: they take more than ``max_bytes``.
    """
    needed = 0
    for source in sources:
        array = next((source.arrays[key] for key in _LOGITS if key in source.arrays), None)
        if array is not None and array.ndim >= 2:
            itemsize = max(array.dtype.itemsize, 4) if array.dtype.kind == "f" else 8
            needed += array.size * itemsize + _BYTES_AN_EXAMPLE * math.prod(array.shape[:-1])
    if needed > max_bytes:
        raise InputError(
            f"the logits take about {needed} bytes to work on, more than {max_bytes}; give a random sample of the "
            "examples, or raise --max-gigabytes"
        )


def outputs_of(source: Arrays) -> tuple[np.ndarray, list[str]]:
    """The array of a model's outputs, its axes checked, and which one it was where that is not plain."""
    found = [key for key in _LOGITS if key in source.arrays]
    if not found:
        raise InputError(
            f"{source.where} holds {listed(source.arrays)} and no logits; save them as numpy.savez(path, logits=…, "
            "labels=…)"
        )
    key, array = found[0], source.arrays[found[0]]
    notes = [f"Of {listed(found)} in {source.where}, {key} was used."] if len(found) > 1 else []
    if array.dtype.kind not in "fiu":
        raise InputError(f"{key} in {source.where} holds {array.dtype}; save floats")
    if array.ndim == 1 or (array.ndim > 1 and array.shape[-1] == 1):
        join = "stack" if array.ndim == 1 else "concatenate"
        raise InputError(
            f"{key} in {source.where} has shape {array.shape}, so one class; two are needed: for a sigmoid's "
            f"probability p save numpy.{join}([1 - p, p], axis=-1), for its logit z numpy.{join}([0 * z, z], axis=-1)"
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
            f"{key} in {source.where} has {counted(array.shape[-2], 'example')}; a temperature is fitted over {FOLDS} "
            f"folds, so {FOLDS} are the least, and a few hundred give an answer"
        )
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    elif array.dtype.itemsize < 4:
        array = array.astype(np.float32)
    return array, notes


def check_finite(where: str, array: np.ndarray) -> None:
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
    masked = np.isneginf(array[bad]).all()
    raise InputError(
        f"{where}: {count} of {array.size} logits {'is' if count == 1 else 'are'} not finite, the first "
        f"{array[position]} at {named}; leave those examples or checkpoints out"
        + (", or give -1e4 where a class is masked or its probability is 0" if masked else "")
    )


def as_logits(where: str, array: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, str]:
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
