"""What a thing is, in JSON's types, and the digest of that: results are stored under it, and never mixed across it."""

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

import numpy as np


def describe(value: Any) -> Any:
    """A frozen dataclass (task, model, config) as nested dicts of plain values, with its type's name.

    Fields that the owner of a Linen module sets (``parent``, ``name``) are left out: they are not what the model is.
    A type that is not lossjax's own is described by its source too, since no version says what it does; functions that
    it calls are not looked at.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.name not in ("parent", "name")]
        named = {name: describe(getattr(value, name)) for name in fields}
        return {"type": type(value).__qualname__, **_source(type(value)), **named}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [describe(item) for item in value]
    if isinstance(value, np.ndarray):
        return describe(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{value!r} cannot be part of a specification; use numbers, strings, bools, tuples and dataclasses of them"
    )


def _source(kind: type) -> dict[str, str]:
    """Digest of the source of a user's class; nothing for lossjax's own, and for one that was typed in."""
    if kind.__module__.partition(".")[0] == "lossjax":
        return {}
    try:
        return {"source": hashlib.sha256(inspect.getsource(kind).encode()).hexdigest()[:12]}
    except (OSError, TypeError):
        return {}


def digest(description: Any) -> str:
    """SHA-256 of the canonical JSON of a description, in hexadecimal."""
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
