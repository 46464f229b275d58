"""History: what training returns. Arrays with their labels, and nothing of jax."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas
    import xarray


@dataclasses.dataclass(frozen=True, eq=False)
class History:
    """What a population of members left behind.

    Attributes:
        metrics: name → array [member, eval], [member, eval, group], [member, eval, quantile], [member, eval, group,
            quantile] or, for per-example records, [member, eval, example] and [member, eval, example, class]. Losses in
            nats. ``nan`` where a measure has no value (``batch_loss`` before the first step, a group without examples).
        steps: [eval] the optimiser steps done at each evaluation; the first is 0.
        seeds: stream → [member] uint32.
        hyperparams: name → [member] float32, the fields present only.
        nonfinite_step: [member] int32, the step at which parameters or loss stopped being finite; -1 where never.
        info: what was run, as JSON's types: task, model, config, versions, and ``steps_per_epoch``.
    """

    metrics: Mapping[str, np.ndarray]
    steps: np.ndarray
    seeds: Mapping[str, np.ndarray]
    hyperparams: Mapping[str, np.ndarray]
    nonfinite_step: np.ndarray
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        num_members, num_evals = len(self.nonfinite_step), len(self.steps)
        for name, array in self.metrics.items():
            if array.shape[:2] != (num_members, num_evals):
                raise ValueError(f"metric {name!r} has shape {array.shape}, not [{num_members}, {num_evals}, …]")
        for name, array in {**self.seeds, **self.hyperparams}.items():
            if array.shape != (num_members,):
                raise ValueError(f"label {name!r} has shape {array.shape}, not [{num_members}]")

    @property
    def num_members(self) -> int:
        return len(self.nonfinite_step)

    @property
    def num_evals(self) -> int:
        return len(self.steps)

    @property
    def epochs(self) -> np.ndarray:
        """[eval] passes over the training data done at each evaluation."""
        return self.steps / self.info["steps_per_epoch"]

    @property
    def finite(self) -> np.ndarray:
        """[member] whether the member stayed finite."""
        return self.nonfinite_step < 0

    @property
    def status(self) -> np.ndarray:
        """[member] ``"ok"`` or ``"nonfinite"``."""
        return np.where(self.finite, "ok", "nonfinite")

    @property
    def quantiles(self) -> np.ndarray:
        """[quantile] which quantiles of the margin are in ``val_margin_quantiles`` and so on."""
        return np.array(self.info["config"]["measure"]["quantiles"], dtype=float)

    def select(self, **labels: float) -> History:
        """The members with these hyperparameters or seeds: ``select(learning_rate=1e-2, init=3)``."""
        mask = np.ones(self.num_members, dtype=bool)
        available = {**self.hyperparams, **self.seeds}
        for name, value in labels.items():
            if name not in available:
                raise KeyError(f"no label {name!r}; this history has {', '.join(available)}")
            if np.ndim(value) != 0:
                raise ValueError(f"{name}={value!r} must be one number; combine selections with History[mask]")
            known = available[name]
            # a float32 label is asked for as Python's number; a seed is never rounded to one
            wanted = np.float64(known.dtype.type(value) if known.dtype.kind == "f" else value)
            mask &= known.astype(np.float64) == wanted
            if not mask.any():
                there = ", ".join(f"{label:g}" for label in np.unique(known))
                raise KeyError(f"no member has {name}={value}; there are {there}")
        return self[mask]

    def __getitem__(self, members: Any) -> History:
        """The members at these positions, a slice, or where a [member] mask is true."""
        index = np.arange(self.num_members)[members].reshape(-1)
        return dataclasses.replace(
            self,
            metrics={name: array[index] for name, array in self.metrics.items()},
            seeds={name: array[index] for name, array in self.seeds.items()},
            hyperparams={name: array[index] for name, array in self.hyperparams.items()},
            nonfinite_step=self.nonfinite_step[index],
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays only, by path (``metrics/val_loss``): what the store keeps. ``info`` is not among them."""
        return {
            "steps": self.steps,
            "nonfinite_step": self.nonfinite_step,
            **{f"metrics/{name}": array for name, array in self.metrics.items()},
            **{f"seeds/{name}": array for name, array in self.seeds.items()},
            **{f"hyperparams/{name}": array for name, array in self.hyperparams.items()},
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> History:
        """The inverse of ``to_arrays``."""

        def below(folder: str) -> dict[str, np.ndarray]:
            return {path[len(folder) :]: array for path, array in arrays.items() if path.startswith(folder)}

        return History(
            metrics=below("metrics/"),
            steps=arrays["steps"],
            seeds=below("seeds/"),
            hyperparams=below("hyperparams/"),
            nonfinite_step=arrays["nonfinite_step"],
            info=info,
        )

    def to_xarray(self) -> xarray.Dataset:
        """An xarray Dataset with named dimensions; needs ``pip install "lossjax[frames]"``.

        They are member and eval, then group, quantile, ``<split>_example`` and class where a metric has them.
        """
        try:
            import xarray
        except ImportError as error:
            raise ImportError('to_xarray needs xarray; run pip install "lossjax[frames]"') from error
        variables = {name: (_dimensions(name, array), array) for name, array in self.metrics.items()}
        has_quantiles = any("quantile" in dimensions for dimensions, _ in variables.values())
        coordinates = {
            "step": ("eval", self.steps),
            "status": ("member", self.status),
            **{f"seed_{name}": ("member", array) for name, array in self.seeds.items()},
            **{name: ("member", array) for name, array in self.hyperparams.items()},
            **({"quantile": ("quantile", self.quantiles)} if has_quantiles else {}),
        }
        return xarray.Dataset(variables, coordinates, {"info": json.dumps(self.info)})

    def to_pandas(self) -> pandas.DataFrame:
        """A row a member and evaluation, a column a metric; needs ``pip install "lossjax[frames]"``.

        Metrics by group and quantile have a column each: ``val_group_loss[2]``, ``val_margin_quantiles[0.05]``,
        ``val_group_margin_quantiles[2, 0.05]``. Records of examples are in ``metrics`` and ``to_xarray`` only.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError('to_pandas needs pandas; run pip install "lossjax[frames]"') from error
        member = np.repeat(np.arange(self.num_members), self.num_evals)
        columns: dict[str, np.ndarray] = {"member": member, "step": np.tile(self.steps, self.num_members)}
        columns |= {f"seed_{name}": array[member] for name, array in self.seeds.items()}
        columns |= {name: array[member] for name, array in self.hyperparams.items()}
        columns["status"] = self.status[member]
        for name, array in self.metrics.items():
            within = _dimensions(name, array)[2:]
            if not {"group", "quantile"}.issuperset(within):
                continue
            places = [self.quantiles if dim == "quantile" else range(array.shape[2]) for dim in within]
            flat = array.reshape(len(member), -1)
            for column, place in enumerate(itertools.product(*places)):
                label = ", ".join(f"{label:g}" for label in place)
                columns[f"{name}[{label}]" if place else name] = flat[:, column]
        return pandas.DataFrame(columns)


def concatenate(histories: Sequence[History]) -> History:
    """Members of several histories of one cell, one after another."""
    first = histories[0]
    for other in histories[1:]:
        if not np.array_equal(first.steps, other.steps) or set(first.metrics) != set(other.metrics):
            raise ValueError(
                "histories with different evaluations or metrics cannot be joined; they are different cells"
            )
    return dataclasses.replace(
        first,
        metrics={name: np.concatenate([h.metrics[name] for h in histories]) for name in first.metrics},
        seeds={name: np.concatenate([h.seeds[name] for h in histories]) for name in first.seeds},
        hyperparams={name: np.concatenate([h.hyperparams[name] for h in histories]) for name in first.hyperparams},
        nonfinite_step=np.concatenate([h.nonfinite_step for h in histories]),
    )


def _dimensions(name: str, array: np.ndarray) -> tuple[str, ...]:
    within: tuple[str, ...] = (("group",) if "_group_" in name else ()) + (("quantile",) if "quantile" in name else ())
    if not within:
        # examples of two splits differ in number, so each split has a dimension of its own
        within = (f"{name.split('_', 1)[0]}_example", "class")
    return ("member", "eval", *within)[: array.ndim]
