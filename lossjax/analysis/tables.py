"""Tables: named columns, as ``Findings.tables`` takes them. An interval is a column with its bounds in two more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lossjax.analysis.interval import Interval, Intervals


def with_bounds(name: str) -> tuple[str, str, str]:
    """The columns of an interval: ``x``, ``x_low``, ``x_high``."""
    return name, f"{name}_low", f"{name}_high"


def table(parts: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The parts of a table, one under another: column → [row].

    A part is column → value, in the order of the columns. It has as many rows as its arrays and Intervals, or one; what
    is single (a number, a text, an Interval) stands in each of them.

    Raises ValueError where the arrays of a part differ in length, or the parts in their columns.
    """
    columns: dict[str, list[Any]] = {}
    for part in parts:
        own = _columns(part)
        if columns and list(own) != list(columns):
            raise ValueError(f"a part has the columns {list(own)} and the first has {list(columns)}; give all the same")
        lengths = {len(values) for values in own.values() if values.ndim}
        if len(lengths) > 1:
            shapes = {name: values.shape for name, values in own.items()}
            raise ValueError(
                f"the columns of a part differ in length ({shapes}); give one value a row, or a single one"
            )
        for name, values in own.items():
            columns.setdefault(name, []).extend(np.broadcast_to(values, max(lengths, default=1)).tolist())
    return {name: np.array(values) for name, values in columns.items()}


def _columns(part: Mapping[str, Any]) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    for name, value in part.items():
        if isinstance(value, Interval | Intervals):
            bounds = (value.estimate, value.low, value.high)
            columns |= {key: np.asarray(of) for key, of in zip(with_bounds(name), bounds, strict=True)}
        else:
            columns[name] = np.asarray(value)
    return columns
