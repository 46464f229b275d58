"""Checkpoints of a part in training, and the kept parameters of chosen members: written with Orbax, verified by us.

Orbax neither notices a flipped bit nor refuses to restore into another dtype, so everything it writes lies in a sealed
folder (see ``durable``): each file and each leaf has its SHA-256, and a folder appears only when it is whole.

Calling these functions starts jax's backend, so process-wide jax settings come first.
"""

import contextlib
import errno
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from lossjax.sweeps import durable
from lossjax.sweeps.provenance import versions

Template = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]  # leaf → (shape, dtype)

KEPT: Final = 2
_LEAVES: Final = "orbax"
_SAME_PROGRAM: Final = ("lossjax", "jax", "jaxlib")
_OVERHEAD: Final = 2**18  # bytes that a checkpoint's other files take, and then some


def save(
    folder: str | Path, step: int, arrays: Mapping[str, np.ndarray], *, of: Mapping[str, Any] | None = None
) -> None:
    """Keep a checkpoint; returns when it is on disk. The two newest are kept.

    At every moment of a save the checkpoint before it is whole, so a kill costs the steps since then and no more.

    Args:
        folder: of this part's checkpoints; made if absent. One process writes it at a time.
        step: what the arrays are the state after.
        arrays: leaf → array. Bools, integers, floats and complex numbers of up to 64 bits a part, in this machine's
            byte order, of any shape, zero-size included.
        of: whose arrays they are, in JSON's types: ``restore`` asks for the same.

    Raises:
        TypeError: a leaf that is no NumPy array of these.
        OSError: it cannot be written, for example on a full disk; the message names the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for unfinished in folder.glob(".[0-9]*"):
        shutil.rmtree(unfinished)
    # Counted by save and not by step: training that fell back to an older checkpoint reaches the same step again.
    numbers = _numbers(folder)
    number = numbers[-1] + 1 if numbers else 0
    temporary = folder / f".{number:08}"
    try:
        facts = {"step": step, "of": of, "versions": versions(_SAME_PROGRAM)}
        _write(temporary, folder / f"{number:08}", arrays, facts)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)  # on a full disk, its bytes are needed for results
        raise OSError(f"{folder} could not be written ({error})") from error
    for old in [*numbers, number][:-KEPT]:
        shutil.rmtree(folder / f"{old:08}")


def restore(
    folder: str | Path, template: Template | None = None, *, of: Mapping[str, Any] | None = None
) -> tuple[int, dict[str, np.ndarray]] | None:
    """(step, arrays) of the newest checkpoint that is bit for bit what was saved; None where there is none.

    Args:
        folder: as given to ``save``.
        template: the leaves that the program expects; None takes what is there.
        of: whose arrays they must be, as given to ``save``.

    Warns:
        RuntimeWarning: a checkpoint was passed over, and why: it is damaged, of other members, does not fit the
            template, or comes from another version of lossjax or jax, which would mix two programs in one member.
    """
    folder = Path(folder)
    numbers = _numbers(folder)
    for position, number in enumerate(reversed(numbers), start=1):
        try:
            arrays, manifest = _read(folder / f"{number:08}")
            if manifest.get("of") != of:  # a folder that was moved or copied here
                raise _OtherProgram(f"{folder / f'{number:08}'} is of {manifest.get('of')} and not of {of}")
            _check_program(folder / f"{number:08}", manifest["versions"], arrays, template)
        except (durable.Damaged, _OtherProgram) as error:
            following = "the one before it is tried" if position < len(numbers) else "this part starts from step 0"
            warnings.warn(f"checkpoint passed over: {error}; {following}", RuntimeWarning, stacklevel=2)
            continue
        return manifest["step"], arrays
    return None


def clear(folder: str | Path) -> None:
    """Remove a part's checkpoints, if there are any."""
    if Path(folder).exists():
        shutil.rmtree(folder)


def save_params(folder: str | Path, params: Mapping[str, Any]) -> None:
    """Keep parameters, usually of chosen members with ``[member, …]`` leading.

    Args:
        folder: a name that does not exist yet.
        params: nested dict of arrays, as Flax's ``init`` gives it.

    Raises:
        FileExistsError: ``folder`` exists.
        ValueError: an empty dict, or a key with a slash, which the flat names could not give back.
        TypeError: a leaf that ``save`` would refuse.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(
            f"{folder} exists; kept parameters are never overwritten: choose another name or delete it"
        )
    flat = traverse_util.flatten_dict(params, keep_empty_nodes=True)
    for path, leaf in flat.items():
        if leaf is traverse_util.empty_node or any("/" in key for key in path):
            raise ValueError(f"params hold an empty dict or a key with a slash at {path}; remove or rename it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    _write(temporary, folder, {"/".join(path): np.asarray(leaf) for path, leaf in flat.items()}, {})


def load_params(folder: str | Path) -> dict[str, Any]:
    """The nested dict of NumPy arrays that ``save_params`` was given.

    Raises:
        ValueError: the folder is not what was written.
    """
    arrays, _ = _read(Path(folder))
    return traverse_util.unflatten_dict({tuple(name.split("/")): array for name, array in arrays.items()})


def _write(temporary: Path, final: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    durable.describe(arrays)  # refuses, before anything is written, what is no array of numbers
    for name, array in arrays.items():
        if not array.dtype.isnative:  # Orbax would give it back in this machine's order
            raise TypeError(f"leaf {name!r} is of {array.dtype}, not in this machine's byte order; convert it")
    _check_space(temporary.parent, arrays)
    temporary.mkdir()
    # Orbax refuses leaves without elements; their dtype and shape in the manifest say all there is.
    with_elements = {name: array for name, array in arrays.items() if array.size}
    if with_elements:
        # the synchronous one; a StandardCheckpointer returns too early
        with _tracebacks_not_logged(), ocp.PyTreeCheckpointer() as checkpointer:
            try:
                checkpointer.save(temporary.absolute() / _LEAVES, with_elements)
            except ValueError as error:  # what Orbax makes of a write that the system refuses
                raise OSError(" ".join(str(error).split())[:300]) from error
    durable.seal(temporary, final, arrays, facts)


def _check_space(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Leaves a disk that is nearly full to the results, and spares Orbax a write that would fail half way."""
    needed = sum(array.nbytes for array in arrays.values()) + _OVERHEAD
    free = shutil.disk_usage(folder).free
    if free < needed:
        text = f"{os.strerror(errno.ENOSPC)}: {free / 2**20:.1f} MiB are free and it takes {needed / 2**20:.1f}"
        raise OSError(errno.ENOSPC, text)


@contextlib.contextmanager
def _tracebacks_not_logged() -> Iterator[None]:
    """Orbax logs the traceback of each write that fails, from its threads, and then raises, which is enough."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    manifest = durable.read_seal(folder)
    leaves = manifest["arrays"]
    arrays = {name: np.zeros(leaf["shape"], leaf["dtype"]) for name, leaf in leaves.items() if 0 in leaf["shape"]}
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in leaves if name not in arrays}
    if as_numpy:
        with ocp.PyTreeCheckpointer() as checkpointer:
            arrays |= checkpointer.restore(folder.absolute() / _LEAVES, restore_args=as_numpy)
    durable.check_arrays(folder, arrays, manifest)
    return arrays, manifest


class _OtherProgram(ValueError):
    """A checkpoint is whole, and the program that would go on from it is not the one that made it."""


def _check_program(
    folder: Path,
    made_with: Mapping[str, str | None],
    arrays: Mapping[str, np.ndarray],
    template: Template | None,
) -> None:
    for package, version in versions(_SAME_PROGRAM).items():
        if made_with[package] != version:
            raise _OtherProgram(f"{folder} was made with {package} {made_with[package]} and this is {version}")
    if template is None:
        return
    found = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    expected = {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in template.items()}
    for name in sorted(set(found) | set(expected)):
        if found.get(name) != expected.get(name):
            raise _OtherProgram(
                f"{folder} is of another program: leaf {name!r} is {_text(found.get(name))} there and "
                f"{_text(expected.get(name))} here"
            )


def _text(leaf: tuple[tuple[int, ...], np.dtype[Any]] | None) -> str:
    return "absent" if leaf is None else f"{leaf[1]}{list(leaf[0])}"


def _numbers(folder: Path) -> list[int]:
    """The finished checkpoints by number, oldest first."""
    if not folder.exists():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if re.fullmatch(r"\d{8,}", path.name))
