"""The store: where an experiment's histories are kept, part by part, and read back.

::

    <results>/<experiment>/            root
        plan.json                      the cells and how many members each is to have
        .lock                          held by the one process that writes
        cells/<name>-<digest>/         one cell of the sweep; an edited cell has another digest, hence another folder
            parts/<first>-<last>/      the members first … last−1: arrays.npz and manifest.json
            checkpoints/<first>-<last>/  a part in training
            failed/<first>-<last>.json   why a part could not be trained

Here is what concerns the whole folder; ``parts`` is about what one cell's folder holds. Nothing here imports jax.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, overload

import filelock
import numpy as np

from lossjax import history
from lossjax.history import History
from lossjax.sweeps import parts
from lossjax.sweeps.parts import Part
from lossjax.sweeps.plan import CellPlan, StoreError, read_plan
from lossjax.sweeps.provenance import versions

# Reading ------------------------------------------------------------------------------------------------------------


@overload
def load(root: str | Path, cell: None = None, *, allow_partial: bool = False) -> Mapping[str, History]: ...
@overload
def load(root: str | Path, cell: str, *, allow_partial: bool = False) -> History: ...
def load(root: str | Path, cell: str | None = None, *, allow_partial: bool = False) -> Mapping[str, History] | History:
    """The planned members of an experiment folder, every byte verified.

    Args:
        root: the experiment's folder, ``results/<experiment>``.
        cell: a cell's name; None for all cells, by name in the order of the plan, each read when it is asked for.
        allow_partial: take the members there are; a cell without any is then left out.

    Raises:
        DamagedPart: a part is not what was written.
        StoreError: there are no results here, or members are missing.
    """
    plan = read_plan(root)
    if cell is not None:
        return _load_cell(root, plan.cell(cell), allow_partial)
    for planned in () if allow_partial else plan.cells:
        _check_complete(root, planned)
    found = {planned.name: planned for planned in plan.cells if _planned_parts(root, planned)}
    return _Histories(lambda name: _load_cell(root, found[name], allow_partial), tuple(found))


def status(root: str | Path) -> dict[str, Any]:
    """How far an experiment is, in members: ``planned = done + nonfinite + failed + pending``, and the same a cell.

    ``done`` members stayed finite to the end. Manifests only are read, and nothing is verified beyond them, except for
    a part that reaches beyond the plan. JSON's types.
    """
    cells = {cell.name: _count(root, cell) for cell in read_plan(root).cells}
    totals = {key: sum(counts[key] for counts in cells.values()) for key in _COUNTS}
    return {**totals, "cells": cells}


def cost(root: str | Path) -> dict[str, Any]:
    """What an experiment's results were made with and took, from the manifests of its planned parts. JSON's types."""
    plan = read_plan(root)
    made = [parts.read_manifest(cell, part) for cell in plan.cells for part in _planned_parts(root, cell)]
    wall = sum(manifest["elapsed_seconds"] for manifest in made)
    devices = {f"{manifest['device']} × {manifest['num_devices']}" for manifest in made}
    left_out = sum(
        part.last - max(part.first, cell.num_members)
        for cell in plan.cells
        for part in parts.committed(root, cell)
        if part.last > cell.num_members
    )
    return {
        "command": plan.command,
        "versions": _all_versions([manifest["versions"] for manifest in made] or [versions()]),
        "device": ", ".join(sorted(devices)),
        "wall_seconds": round(wall, 1),
        "core_seconds": round(sum(manifest["elapsed_seconds"] * manifest["num_devices"] for manifest in made), 1),
        "evaluation_share": round(sum(manifest["evaluation_seconds"] for manifest in made) / wall, 3) if wall else None,
        "members": {key: value for key, value in status(root).items() if key != "cells"},
        **({"stored_members_beyond_the_plan": left_out} if left_out else {}),
    }


# Writing ------------------------------------------------------------------------------------------------------------


def prepare(root: str | Path) -> None:
    """Make an experiment folder and prove that it can be written, before any training.

    Raises:
        StoreError: it cannot, or what is there is not lossjax's.
    """
    root = Path(root)
    try:
        (root / "cells").mkdir(parents=True, exist_ok=True)
        probe = root / "cells" / f".probe-{os.getpid()}"
        probe.write_bytes(b"probe")
        probe.unlink()
    except OSError as error:
        raise StoreError(f"cannot write in {root} ({error.strerror}); choose another results folder") from error
    if (root / "plan.json").exists():
        read_plan(root)


@contextlib.contextmanager
def lock(root: str | Path) -> Iterator[None]:
    """Be the only process that writes in an experiment folder, and remove what an interrupted one left unfinished.

    Raises:
        StoreError: another process writes; the message names its process id where that is known.
    """
    writer = Path(root) / "cells" / ".writer"
    try:
        held = filelock.FileLock(Path(root) / ".lock").acquire(blocking=False)
    except filelock.Timeout as error:
        owner = f"process {writer.read_text()}" if writer.exists() else "another process"
        raise StoreError(f"{root} is being written by {owner}; wait until it ends or stop it") from error
    with held:
        writer.write_text(str(os.getpid()))
        for cell in (Path(root) / "cells").glob("*/"):
            parts.remove_leftovers(cell)
        try:
            yield
        finally:
            writer.unlink(missing_ok=True)


# Private ------------------------------------------------------------------------------------------------------------

_COUNTS: Final = ("planned", "done", "nonfinite", "failed", "pending")


class _Histories(Mapping[str, History]):
    """Cells by name, read and verified at each access: the per-example records of all may not fit in memory."""

    def __init__(self, read_cell: Callable[[str], History], names: tuple[str, ...]) -> None:
        self._read_cell, self._names = read_cell, names

    def __getitem__(self, name: str) -> History:
        if name not in self._names:
            raise KeyError(f"no cell {name!r}; there are {', '.join(self._names)}")
        return self._read_cell(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _all_versions(found: list[Mapping[str, str | None]]) -> dict[str, str | None]:
    """package → its version, or each of them where parts were made with several."""
    everything: dict[str, str | None] = {}
    for package in dict.fromkeys(package for made_with in found for package in made_with):
        distinct = list(dict.fromkeys(made_with.get(package) for made_with in found))
        everything[package] = distinct[0] if len(distinct) == 1 else " and ".join(str(version) for version in distinct)
    return everything


def _check_complete(root: str | Path, cell: CellPlan) -> None:
    counts = _count(root, cell)
    stored = counts["done"] + counts["nonfinite"]
    if stored < cell.num_members:
        raise StoreError(
            f"cell {cell.name!r} has {stored} of {cell.num_members} members ({counts['failed']} failed, "
            f"{counts['pending']} pending); run the experiment to its end"
            + (", or load with allow_partial=True" if stored else "")
        )


def _load_cell(root: str | Path, cell: CellPlan, allow_partial: bool) -> History:
    planned = _planned_parts(root, cell)
    if not planned or not allow_partial:
        _check_complete(root, cell)
    histories = []
    for part in planned:
        arrays, manifest = parts.read(cell, part)
        members = History.from_arrays(arrays, manifest["info"])
        histories.append(members if part.last <= cell.num_members else members[: cell.num_members - part.first])
    return history.concatenate(histories)


def _count(root: str | Path, cell: CellPlan) -> dict[str, int]:
    covered = np.zeros(cell.num_members, dtype=bool)
    nonfinite = 0
    for part in _planned_parts(root, cell):
        covered[part.first : part.last] = True
        if part.last <= cell.num_members:
            nonfinite += parts.read_manifest(cell, part)["nonfinite"]
        else:  # the manifest counts members beyond the plan too
            arrays, _ = parts.read(cell, part)
            nonfinite += int((arrays["nonfinite_step"][: cell.num_members - part.first] >= 0).sum())
    failed = np.zeros_like(covered)
    for first, last in parts.failed(root, cell):
        failed[first:last] = True
    failed &= ~covered
    return {
        "planned": cell.num_members,
        "done": int(covered.sum()) - nonfinite,
        "nonfinite": nonfinite,
        "failed": int(failed.sum()),
        "pending": int((~covered & ~failed).sum()),
    }


def _planned_parts(root: str | Path, cell: CellPlan) -> list[Part]:
    """Those with members of the plan; more were asked for once, perhaps."""
    return [part for part in parts.committed(root, cell) if part.first < cell.num_members]
