"""Kept parameters of chosen members, and the way back to a Flax model."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn
from flax import traverse_util

from lossjax import models
from lossjax.sweeps import checkpoint, parts
from lossjax.sweeps.plan import CellPlan, read_plan

PARAMS = "params/"


def load_model(root: str | Path, cell: str, member: int, model: nn.Module | None = None) -> tuple[nn.Module, Any]:
    """A trained member: ``(network, variables)``, to be used as ``network.apply(variables, inputs)``.

    Args:
        root: the experiment's folder.
        member: one of the Sweep's ``keep_params``.
        model: needed for a model of your own; those of ``lossjax.models`` are made from what the store says.

    Raises:
        ValueError: the member's parameters were not kept, no part of its cell is committed yet, or the model is not
            lossjax's own.
    """
    plan = read_plan(root).cell(cell)
    folder = _folder(parts.cell_folder(root, plan), member)
    if not folder.exists():
        kept = sorted(int(path.name) for path in folder.parent.glob("[0-9]*"))
        raise ValueError(
            f"parameters of member {member} of cell {cell!r} were not kept; kept are {kept or 'none'}: name members in "
            "Sweep(keep_params=…) before they are trained"
        )
    manifest = next(parts.manifests(root, plan), None)
    if manifest is None:
        raise ValueError(f"no part of cell {cell!r} is committed yet in {root}; run the experiment to its end")
    info = manifest["info"]
    if model is None:
        fields = dict(info["model"])
        kind = fields.pop("type")
        if kind not in models.__all__:
            raise ValueError(f"{kind} is not a model of lossjax.models; give it as model=")
        model = getattr(models, kind)(**{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()})
    missing = {name for name in ("num_classes", "num_tokens") if getattr(model, name, 0) is None}
    network = model.clone(**{name: info[name] for name in missing})
    params = checkpoint.load_params(folder)
    return network, {"params": with_kernels(params) if isinstance(network, models.LSTM) else params}


def with_kernels(params: Mapping[str, Any]) -> dict[str, Any]:
    """An LSTM's parameters as they are now: before 0.8.0 its kernels [in, out] were PyTorch's weights [out, in]."""
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(
        {
            (*path, name.replace("weight_", "kernel_")): array.T if name.startswith("weight_") else array
            for (*path, name), array in flat.items()
        }
    )


def keep_params(cell_folder: Path, member: int, params: Mapping[str, np.ndarray], row: int) -> None:
    """Stores one member's parameters; ``params`` maps ``params/<path>`` to arrays [member, …]."""
    folder = _folder(cell_folder, member)
    # left by a run that was killed between this and the part's commit; the bytes would be the same
    shutil.rmtree(folder, ignore_errors=True)
    flat = {tuple(name[len(PARAMS) :].split("/")): array[row] for name, array in params.items()}
    checkpoint.save_params(folder, traverse_util.unflatten_dict(flat))


def has_params(root: str | Path, cell: CellPlan, member: int) -> bool:
    """Whether a member's parameters are kept."""
    return _folder(parts.cell_folder(root, cell), member).exists()


def _folder(cell_folder: Path, member: int) -> Path:
    return cell_folder / "params" / f"{member:08}"
