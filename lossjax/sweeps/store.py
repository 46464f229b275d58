"""The store: where an experiment's histories are kept, part by part, and read back.

::

    <results>/<experiment>/            root
        plan.json                      the cells and how many members each is to have
        .lock                          held by the one process that writes
        cells/<name>-<digest>/         one cell of the sweep; an edited cell has another digest, hence another folder
            parts/<first>-<last>/      the members first … last−1: arrays.npz and manifest.json
            checkpoints/<first>-<last>/  a part in training
            failed/<first>-<last>.json   why a part could not be trained

A part is whole or absent: it is written under another name, forced to disk and renamed. Nothing here imports jax.
"""

import contextlib
import datetime
import itertools
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, overload

import filelock
import numpy as np

from lossjax import history
from lossjax.history import History
from lossjax.sweeps import durable
from lossjax.sweeps.plan import CellPlan, StoreError, read_plan
from lossjax.sweeps.provenance import git_commit, versions

ARRAYS: Final = "arrays.npz"


class DamagedPart(StoreError):
    """A part is not what was written; the message names the file and the remedy."""


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
    made = [manifest for cell in plan.cells for manifest in manifests(root, cell)]
    wall = sum(manifest["elapsed_seconds"] for manifest in made)
    devices = {f"{manifest['device']} × {manifest['num_devices']}" for manifest in made}
    return {
        "command": plan.command,
        "versions": made[-1]["versions"] if made else versions(),
        "device": ", ".join(sorted(devices)),
        "wall_seconds": round(wall, 1),
        "core_seconds": round(sum(manifest["elapsed_seconds"] * manifest["num_devices"] for manifest in made), 1),
        "evaluation_share": round(sum(manifest["evaluation_seconds"] for manifest in made) / wall, 3) if wall else None,
        "members": {key: value for key, value in status(root).items() if key != "cells"},
    }


def read(part: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and manifest of one part, after every SHA-256, dtype and shape was compared. Nothing is unpickled.

    Raises:
        DamagedPart: the folder is not as it was written.
    """
    part = Path(part)
    try:
        manifest = durable.read_seal(part)
        with np.load(part / ARRAYS, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        durable.check_arrays(part, arrays, manifest)
    except durable.Damaged as error:
        raise _damaged(part, error) from error
    return arrays, manifest


def cell_folder(root: str | Path, cell: CellPlan) -> Path:
    return Path(root) / "cells" / cell.folder


def checkpoint_folder(root: str | Path, cell: CellPlan, first: int, last: int) -> Path:
    """Where the part ``[first, last)`` keeps its checkpoints while it is trained. ``commit`` removes it."""
    return cell_folder(root, cell) / "checkpoints" / _range_name(first, last)


def parts(root: str | Path, cell: CellPlan) -> list[tuple[int, int, Path]]:
    """(first, last, folder) of every committed part, in the order of members; no two share a member."""
    return _parts_in(cell_folder(root, cell))


def missing(root: str | Path, cell: CellPlan, part_size: int) -> list[tuple[int, int]]:
    """The ranges ``[first, last)`` still to train, at most ``part_size`` members each, in order.

    Committed parts stay as they are, so raising the number of members only adds parts: a short last part stays short
    and new parts begin after it.
    """
    if part_size < 1:
        raise ValueError(f"part_size={part_size} must be at least 1")
    committed = [(first, last) for first, last, _ in parts(root, cell)]
    gaps, begin = [], 0
    for first, last in [*committed, (cell.num_members, cell.num_members)]:
        gaps += [(start, min(start + part_size, first, cell.num_members)) for start in range(begin, first, part_size)]
        begin = last
    return [(first, last) for first, last in gaps if first < last]


def manifests(root: str | Path, cell: CellPlan) -> Iterator[dict[str, Any]]:
    """The manifests of the committed parts, in the order of members; the arrays stay unread."""
    for first, last, folder in parts(root, cell):
        yield _manifest(folder, cell, first, last)


def check_versions(root: str | Path, cell: CellPlan, current: Mapping[str, str | None]) -> None:
    """Refuse to add to parts that another lossjax or jax made; a caller who was asked to mix them skips this.

    Args:
        current: the versions of this process, from ``versions()``.
    """
    for manifest in manifests(root, cell):
        for package in ("lossjax", "jax", "jaxlib"):
            if manifest["versions"][package] != current[package]:
                raise StoreError(
                    f"cell {cell.name!r} has parts made with {package} {manifest['versions'][package]}, and this is "
                    f"{package} {current[package]}; members of one cell come from one version: install that one, take "
                    "another results folder, or ask for mixed versions"
                )


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
            _remove_leftovers(cell)
        try:
            yield
        finally:
            writer.unlink(missing_ok=True)


def commit(
    root: str | Path,
    cell: CellPlan,
    first: int,
    last: int,
    arrays: Mapping[str, np.ndarray],
    *,
    info: Mapping[str, Any],
    device: str,
    num_devices: int,
    tile: int,
    elapsed_seconds: float,
    evaluation_seconds: float,
) -> Path:
    """Keep the histories of the members ``[first, last)`` for good; returns the part's folder.

    The same arrays give the same bytes of ``arrays.npz``; times, versions and the machine go to the manifest.

    Args:
        arrays: of ``History.to_arrays()``.
        info: of the History: what was run, in JSON's types.
        device: its kind, as "NVIDIA H200"; no host's name.
        tile: members vmapped on one device.
        elapsed_seconds: wall time spent on this part by the process that finished it.
        evaluation_seconds: how much of that went into evaluations.

    Raises:
        StoreError: some of these members are committed already.
    """
    for other_first, other_last, folder in parts(root, cell):
        if first < other_last and other_first < last:
            raise StoreError(
                f"members {first} … {last - 1} of cell {cell.name!r} overlap the committed part {folder}; a part is "
                "never written twice: delete that folder to train it anew"
            )
    num_members = History.from_arrays(arrays, info).num_members
    if num_members != last - first:
        raise ValueError(f"arrays of {num_members} members given for the range [{first}, {last})")
    final = cell_folder(root, cell) / "parts" / _range_name(first, last)
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    facts = {
        "cell": cell.name,
        "digest": cell.digest,
        "members": [first, last],
        "nonfinite": int((arrays["nonfinite_step"] >= 0).sum()),
        "info": info,
        "versions": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "num_devices": num_devices,
        "tile": tile,
        "git_commit": git_commit(),
        "elapsed_seconds": elapsed_seconds,
        "evaluation_seconds": evaluation_seconds,
        "committed": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    durable.describe(arrays)  # refuses what would need pickle before a byte is written
    in_order: dict[str, Any] = {name: arrays[name] for name in sorted(arrays)}
    np.savez(temporary / ARRAYS, **in_order)  # its zip entries carry no times
    durable.seal(temporary, final, arrays, facts)
    _remove_leftovers(cell_folder(root, cell))
    return final


def mark_failed(root: str | Path, cell: CellPlan, first: int, last: int, error: str) -> None:
    """Note that the members ``[first, last)`` could not be trained, and why; cleared when they are committed."""
    folder = cell_folder(root, cell) / "failed"
    folder.mkdir(parents=True, exist_ok=True)
    durable.write_json(folder / f"{_range_name(first, last)}.json", {"members": [first, last], "error": error})


# Private ------------------------------------------------------------------------------------------------------------

_COUNTS: Final = ("planned", "done", "nonfinite", "failed", "pending")
_RANGE: Final = re.compile(r"(\d{8,})-(\d{8,})")


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
    for first, last, folder in planned:
        arrays, manifest = read(folder)
        _check_place(manifest, folder, cell, first, last)
        part = History.from_arrays(arrays, manifest["info"])
        histories.append(part if last <= cell.num_members else part[: cell.num_members - first])
    return history.concatenate(histories)


def _count(root: str | Path, cell: CellPlan) -> dict[str, int]:
    covered = np.zeros(cell.num_members, dtype=bool)
    nonfinite = 0
    for first, last, folder in _planned_parts(root, cell):
        manifest = _manifest(folder, cell, first, last)
        covered[first:last] = True
        if last <= cell.num_members:
            nonfinite += manifest["nonfinite"]
        else:  # the manifest counts members beyond the plan too
            nonfinite += int((read(folder)[0]["nonfinite_step"][: cell.num_members - first] >= 0).sum())
    failed = np.zeros_like(covered)
    for first, last, _ in _ranges(cell_folder(root, cell) / "failed", ".json"):
        failed[first:last] = True
    failed &= ~covered
    return {
        "planned": cell.num_members,
        "done": int(covered.sum()) - nonfinite,
        "nonfinite": nonfinite,
        "failed": int(failed.sum()),
        "pending": int((~covered & ~failed).sum()),
    }


def _planned_parts(root: str | Path, cell: CellPlan) -> list[tuple[int, int, Path]]:
    return [part for part in parts(root, cell) if part[0] < cell.num_members]


def _parts_in(cell: Path) -> list[tuple[int, int, Path]]:
    found = _ranges(cell / "parts", "")
    for (_, last, folder), (first, _, following) in itertools.pairwise(found):
        if first < last:
            raise StoreError(f"{folder} and {following} hold the same members; delete one of them")
    return found


def _ranges(folder: Path, suffix: str) -> list[tuple[int, int, Path]]:
    """(first, last, path) of the entries named by a range of members, sorted; hidden entries are unfinished work."""
    if not folder.exists():
        return []
    found = []
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        match = _RANGE.fullmatch(path.name.removesuffix(suffix))
        if match is None or int(match[1]) >= int(match[2]):
            raise StoreError(f"{path} was not put there by lossjax; move it elsewhere")
        found.append((int(match[1]), int(match[2]), path))
    return sorted(found)


def _range_name(first: int, last: int) -> str:
    if not 0 <= first < last:
        raise ValueError(f"[{first}, {last}) is no range of members; it needs 0 ≤ first < last")
    return f"{first:08}-{last:08}"


def _manifest(part: Path, cell: CellPlan, first: int, last: int) -> dict[str, Any]:
    try:
        manifest = durable.read_json(part / durable.MANIFEST)
    except durable.Damaged as error:
        raise _damaged(part, error) from error
    _check_place(manifest, part, cell, first, last)
    return manifest


def _check_place(manifest: Mapping[str, Any], part: Path, cell: CellPlan, first: int, last: int) -> None:
    if (manifest.get("digest"), manifest.get("members")) != (cell.digest, [first, last]):
        raise DamagedPart(
            f"{part} holds the members {manifest.get('members')} of a cell with digest {manifest.get('digest')}, not "
            f"[{first}, {last}] of {cell.digest}: it belongs elsewhere; move it away"
        )


def _damaged(part: Path, error: Exception) -> DamagedPart:
    return DamagedPart(
        f"{error}; delete the folder {part} and run the same command again: only its members are trained again"
    )


def _remove_leftovers(cell: Path) -> None:
    """What an interrupted commit left, and the checkpoints and failure notes of members that are committed by now."""
    for temporary in (cell / "parts").glob(".*.tmp"):
        shutil.rmtree(temporary)
    committed = _parts_in(cell)
    for folder, suffix in ((cell / "checkpoints", ""), (cell / "failed", ".json")):
        for first, last, path in _ranges(folder, suffix):
            if any(first < other_last and other_first < last for other_first, other_last, _ in committed):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
