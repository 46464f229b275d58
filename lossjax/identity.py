"""What a thing is, in JSON's types, and the digest of that: results are stored under it, and never mixed across it."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np


def describe(value: Any) -> Any:
    """A frozen dataclass (task, model, config) as nested dicts of plain values, with its type's name.

    Fields that the owner of a Linen module sets (``parent``, ``name``) are left out: they are not what the model is.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.name not in ("parent", "name")]
        return {"type": type(value).__qualname__, **{name: describe(getattr(value, name)) for name in fields}}
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


def digest(description: Any) -> str:
    """SHA-256 of the canonical JSON of a description, in hexadecimal."""
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
