"""Parts: consecutive members of a cell that were trained together, committed whole and read back verified.

A part's folder holds ``arrays.npz`` and ``manifest.json``. It is written under another name, forced to disk and
renamed. Nothing here imports jax.
"""

import contextlib
import datetime
import itertools
import platform
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from lossjax.history import History
from lossjax.sweeps import durable
from lossjax.sweeps.plan import CellPlan, StoreError
from lossjax.sweeps.provenance import git_commit, versions

ARRAYS: Final = "arrays.npz"


class DamagedPart(StoreError):
    """A part is not what was written; the message names the file and the remedy."""


class Part(NamedTuple):
    """The members ``first`` … ``last − 1`` of a cell, and where they are kept."""

    first: int
    last: int
    path: Path


def committed(root: str | Path, cell: CellPlan) -> list[Part]:
    """The parts of a cell, in the order of members; no two share a member. A plan may end before or within them."""
    return _committed(cell_folder(root, cell))


def missing(root: str | Path, cell: CellPlan, part_size: int) -> list[tuple[int, int]]:
    """The ranges ``[first, last)`` still to train, at most ``part_size`` members each, in order.

    Committed parts stay as they are, so raising the number of members only adds parts: a short last part stays short
    and new parts begin after it.
    """
    if part_size < 1:
        raise ValueError(f"part_size={part_size} must be at least 1")
    there = [(part.first, part.last) for part in committed(root, cell)]
    gaps, begin = [], 0
    for first, last in [*there, (cell.num_members, cell.num_members)]:
        gaps += [(start, min(start + part_size, first, cell.num_members)) for start in range(begin, first, part_size)]
        begin = last
    return [(first, last) for first, last in gaps if first < last]


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
) -> Part:
    """Keep the histories of the members ``[first, last)`` for good.

    The same arrays give the same bytes of ``arrays.npz``; times, versions and the machine go to the manifest.

    Args:
        arrays: of ``History.to_arrays()``.
        info: of the History: what was run, in JSON's types.
        device: its kind, as "NVIDIA H200"; no host's name. It, ``num_devices`` and ``tile`` are those of the process
            that finished the part.
        tile: members vmapped on one device.
        elapsed_seconds: wall time spent on this part, by interrupted processes too, up to the checkpoint that the next
            one went on from.
        evaluation_seconds: how much of that went into evaluations.

    Raises:
        StoreError: some of these members are committed already.
    """
    for other in committed(root, cell):
        if first < other.last and other.first < last:
            raise StoreError(
                f"members {first} … {last - 1} of cell {cell.name!r} overlap the committed part {other.path}; a part "
                "is never written twice: delete that folder to train it anew"
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
    remove_leftovers(cell_folder(root, cell))
    return Part(first, last, final)


def read(cell: CellPlan, part: Part) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and manifest of a part, after every SHA-256, dtype and shape was compared. Nothing is unpickled.

    Raises:
        DamagedPart: the folder is not as it was written, or holds other members or those of another cell.
    """
    with _explained(part):
        manifest = durable.read_seal(part.path)
        with np.load(part.path / ARRAYS, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        durable.check_arrays(part.path, arrays, manifest)
    _check_place(manifest, cell, part)
    return arrays, manifest


def read_manifest(cell: CellPlan, part: Part) -> dict[str, Any]:
    """What made a part and what it holds; the arrays stay unread.

    Raises:
        DamagedPart: as ``read``, as far as the manifest tells.
    """
    with _explained(part):
        manifest = durable.read_json(part.path / durable.MANIFEST)
    _check_place(manifest, cell, part)
    return manifest


def manifests(root: str | Path, cell: CellPlan) -> Iterator[dict[str, Any]]:
    """The manifests of a cell's parts, in the order of members."""
    return (read_manifest(cell, part) for part in committed(root, cell))


def check_versions(
    root: str | Path, cell: CellPlan, current: Mapping[str, str | None], *, mix_versions: bool = False
) -> None:
    """Refuse to add to parts that another lossjax or jax made, or only say so where that was asked for.

    Args:
        current: the versions of this process, from ``versions()``.

    Raises:
        StoreError: there are such parts.

    Warns:
        RuntimeWarning: there are, and versions are to be mixed.
    """
    made, here = [], []
    for package in ("lossjax", "jax", "jaxlib"):
        others = {manifest["versions"][package] for manifest in manifests(root, cell)} - {current[package]}
        if others:
            made.append(f"{package} {' and '.join(sorted(map(str, others)))}")
            here.append(f"{package} {current[package]}")
    if not made:
        return
    fact = f"cell {cell.name!r} has parts made with {', '.join(made)}, and this is {', '.join(here)}"
    if mix_versions:
        warnings.warn(f"{fact}; its members are mixed, and the report names all versions", RuntimeWarning, stacklevel=2)
        return
    raise StoreError(
        f"{fact}; members of one cell come from one version: install that one, take another results folder with "
        "--results, or add to them all the same with --mix-versions"
    )


# What is there of members without a part ----------------------------------------------------------------------------


def checkpoint_folder(root: str | Path, cell: CellPlan, first: int, last: int) -> Path:
    """Where the part ``[first, last)`` keeps its checkpoints while it is trained. ``commit`` removes it."""
    return cell_folder(root, cell) / "checkpoints" / _range_name(first, last)


def mark_failed(root: str | Path, cell: CellPlan, first: int, last: int, error: str) -> None:
    """Note that the members ``[first, last)`` could not be trained, and why; cleared when they are committed."""
    folder = cell_folder(root, cell) / "failed"
    folder.mkdir(parents=True, exist_ok=True)
    durable.write_json(folder / f"{_range_name(first, last)}.json", {"members": [first, last], "error": error})


def failed(root: str | Path, cell: CellPlan) -> list[tuple[int, int]]:
    """The ranges ``[first, last)`` that ``mark_failed`` noted; a kill may leave notes of members that have a part."""
    return [(note.first, note.last) for note in _by_range(cell_folder(root, cell) / "failed", ".json")]


def remove_leftovers(folder: Path) -> None:
    """What an interrupted commit left in a cell's folder, and checkpoints and failure notes of committed members."""
    for temporary in (folder / "parts").glob(".*.tmp"):
        shutil.rmtree(temporary)
    there = _committed(folder)
    for left in [*_by_range(folder / "checkpoints"), *_by_range(folder / "failed", ".json")]:
        if any(left.first < part.last and part.first < left.last for part in there):
            shutil.rmtree(left.path) if left.path.is_dir() else left.path.unlink()


# Folders and names --------------------------------------------------------------------------------------------------

_RANGE: Final = re.compile(r"(\d{8,})-(\d{8,})")


def cell_folder(root: str | Path, cell: CellPlan) -> Path:
    return Path(root) / "cells" / cell.folder


def _committed(folder: Path) -> list[Part]:
    found = _by_range(folder / "parts")
    for one, following in itertools.pairwise(found):
        if following.first < one.last:
            raise StoreError(f"{one.path} and {following.path} hold the same members; delete one of them")
    return found


def _by_range(folder: Path, suffix: str = "") -> list[Part]:
    """The entries of a folder named by a range of members, sorted; hidden entries are unfinished work."""
    found = []
    for path in folder.iterdir() if folder.exists() else ():
        if path.name.startswith("."):
            continue
        match = _RANGE.fullmatch(path.name.removesuffix(suffix))
        if match is None or int(match[1]) >= int(match[2]):
            raise StoreError(f"{path} was not put there by lossjax; move it elsewhere")
        found.append(Part(int(match[1]), int(match[2]), path))
    return sorted(found)


def _range_name(first: int, last: int) -> str:
    if not 0 <= first < last:
        raise ValueError(f"[{first}, {last}) is no range of members; it needs 0 ≤ first < last")
    return f"{first:08}-{last:08}"


@contextlib.contextmanager
def _explained(part: Part) -> Iterator[None]:
    """Says what to do about damage."""
    try:
        yield
    except durable.Foreign as error:
        raise DamagedPart(f"{error}; move that away and run the same command again: nothing is lost") from error
    except durable.Damaged as error:
        raise DamagedPart(
            f"{error}; delete the folder {part.path} and run the same command again: only its members are trained again"
        ) from error


def _check_place(manifest: Mapping[str, Any], cell: CellPlan, part: Part) -> None:
    if (manifest.get("digest"), manifest.get("members")) != (cell.digest, [part.first, part.last]):
        raise DamagedPart(
            f"{part.path} holds the members {manifest.get('members')} of a cell with digest {manifest.get('digest')}, "
            f"not [{part.first}, {part.last}] of {cell.digest}: it belongs elsewhere; move it away"
        )
