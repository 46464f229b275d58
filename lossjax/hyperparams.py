"""Hyperparams: the scalars that may differ between members of one compiled program.

A field is an array or ``None``. ``None`` is part of the tree's structure, hence static and absent from the program:
what no member uses costs nothing. What changes shapes or control flow is in ``TrainConfig`` instead.
"""

import dataclasses
import difflib
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from flax import struct
from jaxtyping import Array, Float

Scalar = Float[Array, "*config"]


class Hyperparams(struct.PyTreeNode):
    """What a population may vary; inside a member's program every field present is a traced scalar.

    A population's own Hyperparams hold NumPy arrays, all of shape [config]: see ``grid`` and ``sample``.
    """

    learning_rate: Scalar  # > 0
    weight_decay: Scalar | None = None  # decoupled: parameters shrink by learning_rate * weight_decay a step
    l2: Scalar | None = None  # coupled: l2 * parameters is added to the gradient, as PyTorch's Adam(weight_decay=)
    beta1: Scalar | None = None  # adam, adamw: 0.9 where absent; lion: 0.9
    beta2: Scalar | None = None  # adam, adamw: 0.999 where absent; lion: 0.99
    momentum: Scalar | None = None  # momentum: 0.9 where absent
    clip_norm: Scalar | None = None  # the gradient's global norm is cut to this
    dropout: Scalar | None = None  # rate in [0, 1)
    label_smoothing: Scalar | None = None  # in [0, 1): mixed with the uniform distribution
    label_noise: Scalar | None = None  # share of training labels redrawn uniformly from all classes
    train_size: Scalar | None = None  # examples used of the training split, >= 1
    class_balance: Scalar | None = None  # q in [0, 1]: examples are drawn, each in proportion to its class's count^-q
    warmup_fraction: Scalar | None = None  # of all steps, for schedule="warmup_cosine"
    decay_fraction: Scalar | None = None  # of all steps: where the decay ends (cosine) or the drop happens (step)
    init_scale: Scalar | None = None  # multiplies the initial parameters, normalisation gains excepted
    focal_gamma: Scalar | None = None  # objective="focal"
    flood_level: Scalar | None = None  # objective="flooding", nats
    logit_adjustment: Scalar | None = None  # objective="logit_adjusted": tau times the log prior
    effective_number_beta: Scalar | None = None  # objective="class_weighted": in [0, 1); 0 is no weighting


FIELDS = tuple(field.name for field in dataclasses.fields(Hyperparams))

_RULES: Mapping[str, tuple[Callable[[np.ndarray], Any], str]] = {
    "learning_rate": (lambda v: v > 0, "> 0"),
    "beta1": (lambda v: (v >= 0) & (v < 1), "in [0, 1)"),
    "beta2": (lambda v: (v >= 0) & (v < 1), "in [0, 1)"),
    "momentum": (lambda v: (v >= 0) & (v < 1), "in [0, 1)"),
    "clip_norm": (lambda v: v > 0, "> 0"),
    "dropout": (lambda v: (v >= 0) & (v < 1), "in [0, 1)"),
    "label_smoothing": (lambda v: (v >= 0) & (v < 1), "in [0, 1)"),
    "label_noise": (lambda v: (v >= 0) & (v <= 1), "in [0, 1]"),
    "train_size": (lambda v: (v >= 1) & (v == np.round(v)), "a whole number >= 1"),
    "class_balance": (lambda v: (v >= 0) & (v <= 1), "in [0, 1]"),
    "warmup_fraction": (lambda v: (v >= 0) & (v <= 1), "in [0, 1]"),
    "decay_fraction": (lambda v: (v > 0) & (v <= 1), "in (0, 1]"),
    "init_scale": (lambda v: v > 0, "> 0"),
    "effective_number_beta": (lambda v: (v >= 0) & (v < 1), "in [0, 1)"),
    "logit_adjustment": (lambda v: v == v, "a finite number"),
}


def grid(**values: float | Sequence[float]) -> Hyperparams:
    """Every combination of the given values, the last named varying fastest: fields of shape [config], float32.

    ``grid(learning_rate=[3e-3, 1e-2], weight_decay=[0.0, 1e-2])`` is four configurations.
    """
    checked = {name: _check(name, value) for name, value in values.items()}
    _check_learning_rate(checked)
    rows = np.array(list(itertools.product(*checked.values())), dtype=np.float32).reshape(-1, len(checked))
    return _hyperparams({name: rows[:, column] for column, name in enumerate(checked)})


def sample(num_configs: int, *, seed: int, **ranges: tuple[float, float] | float) -> Hyperparams:
    """Random search: ``num_configs`` draws, log-uniform between positive bounds, uniform where the lower bound is 0.

    A single number is kept fixed. ``train_size`` is rounded to a whole number.
    """
    if num_configs < 1:
        raise ValueError(f"num_configs={num_configs} must be at least 1")
    rng = np.random.default_rng(seed)
    drawn = {}
    for name, bounds in ranges.items():
        low_high = _check(name, bounds)
        if len(low_high) == 1:
            drawn[name] = np.repeat(low_high, num_configs)
            continue
        if len(low_high) != 2 or low_high[0] > low_high[1]:
            raise ValueError(f"{name}={bounds!r} is not a range; give (low, high) with low <= high, or one number")
        low, high = low_high
        unit = rng.uniform(size=num_configs)
        values = low + (high - low) * unit if low <= 0 else low * (high / low) ** unit
        drawn[name] = _check(name, np.round(values) if name == "train_size" else values)
    return _hyperparams(drawn)


def as_configs(hyperparams: Hyperparams) -> dict[str, np.ndarray]:
    """The fields present, each a checked float32 array [config], in the order of ``FIELDS``; scalars become [1]."""
    present = {name: getattr(hyperparams, name) for name in FIELDS if getattr(hyperparams, name) is not None}
    checked = {name: _check(name, value) for name, value in present.items()}
    num_configs = max(len(value) for value in checked.values())
    for name, value in checked.items():
        if len(value) not in (1, num_configs):
            raise ValueError(
                f"{name} has {len(value)} values and another field {num_configs}; give one or as many each"
            )
    return {name: np.broadcast_to(value, (num_configs,)) for name, value in checked.items()}


def _hyperparams(values: Mapping[str, np.ndarray]) -> Hyperparams:
    _check_learning_rate(values)
    return Hyperparams(**values)  # type: ignore[arg-type]  # a population's own are NumPy arrays


def _check_learning_rate(values: Collection[str]) -> None:
    if "learning_rate" not in values:
        raise ValueError("learning_rate is missing; every configuration needs one, for example learning_rate=1e-2")


def _check(name: str, value: Any) -> np.ndarray:
    if name not in FIELDS:
        near = difflib.get_close_matches(name, FIELDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; the hyperparameters are {', '.join(FIELDS)}"
        raise ValueError(f"no hyperparameter named {name!r}{hint}")
    try:
        with np.errstate(over="ignore"):  # what exceeds float32 is refused below
            array = np.atleast_1d(np.asarray(value, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}={value!r} is neither a number nor a list of numbers") from error
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; give one number or a non-empty list")
    test, rule = _RULES.get(name, (lambda v: v >= 0, ">= 0"))
    bad = ~(np.isfinite(array) & test(array))
    if bad.any():
        raise ValueError(f"{name}={array[bad][0]:g} must be {rule}")
    return array
