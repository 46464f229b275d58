"""Running a sweep, part by part, with progress, checkpoints and stops; what is stored is not done again."""

import contextlib
import dataclasses
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lossjax import devices
from lossjax.identity import digest
from lossjax.sweeps import checkpoint, parts, store
from lossjax.sweeps.params import PARAMS, has_params, keep_params
from lossjax.sweeps.plan import CellPlan, StoreError, plan_changes, write_plan
from lossjax.sweeps.progress import Meter
from lossjax.sweeps.provenance import versions
from lossjax.sweeps.signals import Stopped, StopRequest, stop_request
from lossjax.sweeps.sweep import Sweep
from lossjax.training.population import Members, as_history, compile_cell, train_members
from lossjax.training.program import Program
from lossjax.training.snapshot import Snapshot
from lossjax.training.train import Cell

CHECKPOINT_SECONDS = 30.0


class PartsFailed(RuntimeError):
    """Some parts could not be trained; the others are kept."""


def check_checkpoint_seconds(seconds: float) -> None:
    """ValueError where a checkpoint cannot be kept so often."""
    if not seconds >= 0:  # nan too, which would be inf unasked
        raise ValueError(f"checkpoint_seconds={seconds:g} must be at least 0; 0 keeps every segment, inf none")


def run_sweep(
    sweep: Sweep,
    root: Path,
    *,
    experiment: str,
    scale: str,
    command: str,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    mix_versions: bool = False,
) -> None:
    """Trains what the folder ``root`` lacks of a sweep.

    Args:
        checkpoint_seconds: how often the part in training is kept.
        mix_versions: add to parts that another version of lossjax or jax made.

    Raises:
        ValueError: the sweep does not fit its tasks or itself, or the folder is foreign, damaged, being written, or
            cannot be written (its disk is full, for example).
        MemoryError: a cell needs more memory than there is.
        Stopped: SIGINT or SIGTERM came; everything up to a checkpoint is kept.
        PartsFailed: parts ended in an error; each is noted in the store, and the next run tries them again.

    Warns:
        RuntimeWarning: a checkpoint could not be written or was passed over, versions are mixed, or parameters are
            asked for of members that were trained without keeping them.
    """
    check_checkpoint_seconds(checkpoint_seconds)
    store.prepare(root)
    devices.start()
    sweep = sweep.pinned()  # a file that changes while the sweep runs is refused
    plans = {}
    for name in sweep.cells:
        sweep.check(name)
        description = sweep.description(name)
        plans[name] = CellPlan(name, digest(description), len(sweep.members(name)), description)
    with _naming(root), store.lock(root), stop_request() as stop:
        missing = {name: parts.missing(root, plan, sweep.part_size) for name, plan in plans.items()}
        for name, plan in plans.items():
            if missing[name]:  # before the plan changes
                parts.check_versions(root, plan, versions(), mix_versions=mix_versions)
        changes = plan_changes(root, plans.values())
        if changes:
            print(f"changes to the plan in {root}:\n{changes}", file=sys.stderr)
        write_plan(root, plans.values(), experiment=experiment, scale=scale, command=command)
        failures = []
        for plan in plans.values():
            _warn_of_params_not_kept(root, plan, sweep.keep_params)
            if not missing[plan.name]:
                continue
            _stop_if_asked(stop, f"before cell {plan.name}")
            failure = _run_cell(sweep, plan, missing[plan.name], root, stop, checkpoint_seconds)
            if failure is not None:
                failures.append(failure)
        _stop_if_asked(stop, "with nothing left to train")
    if failures:
        raise PartsFailed("\n".join(failures) + "\nthe other parts are kept; the same command tries these again")


@contextlib.contextmanager
def _naming(root: Path) -> Iterator[None]:
    """The system's own errors name no folder, a full disk's least of all."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"writing in {root} failed ({error}); mend that and run the same command again: what is committed is kept"
        ) from error


def _warn_of_params_not_kept(root: Path, plan: CellPlan, members: tuple[int, ...]) -> None:
    for part in parts.committed(root, plan):
        without = [m for m in members if part.first <= m < part.last and not has_params(root, plan, m)]
        if without:
            warnings.warn(
                f"parameters of members {without} of cell {plan.name!r} were not kept when they were trained; to train "
                f"them again with keep_params, delete {part.path} and run the same command",
                RuntimeWarning,
                stacklevel=3,
            )


def _stop_if_asked(stop: StopRequest, where: str) -> None:
    if stop.received is not None:
        raise Stopped(f"stopped {where}; the same command goes on from here")


def _run_cell(
    sweep: Sweep,
    plan: CellPlan,
    missing: list[tuple[int, int]],
    root: Path,
    stop: StopRequest,
    checkpoint_seconds: float,
) -> str | None:
    """Trains and commits the missing parts of a cell; what went wrong with one, or None."""
    cell, members = sweep.cells[plan.name], sweep.members(plan.name)
    # on an accelerator the last bits depend on the tile, so a cell keeps the one that it began with
    tile = min((manifest["tile"] for manifest in parts.manifests(root, plan)), default=None)
    program = compile_cell(cell, members, tile=tile)
    _stop_if_asked(stop, f"before cell {plan.name}")
    num_left = sum(last - first for first, last in missing)
    num_done = len(members) - num_left
    total, evaluating = 0.0, 0.0
    with Meter(plan.name, len(members), num_done, cell.num_steps) as meter:
        for first, last in missing:
            part = _Part(cell, program, root, plan, first, members[slice(first, last)], sweep.keep_params)
            try:
                cost, tile = _run_part(part, meter, num_done, stop, checkpoint_seconds)
            except (Stopped, OSError):  # a disk that cannot be written is no fault of the part
                raise
            except Exception as error:
                parts.mark_failed(root, plan, first, last, f"{type(error).__name__}: {error}")
                return f"cell {plan.name}, members {first} … {last - 1}: {type(error).__name__}: {error}"
            total, evaluating = total + cost.elapsed_seconds, evaluating + cost.evaluation_seconds
            num_done += last - first
            if tile < program.tile:  # memory ran out, and would again
                program = compile_cell(cell, members, tile=tile)
        meter.say(
            f"{plan.name}: {num_left} members in {total:.0f} s, {evaluating / total:.0%} of it evaluation; "
            f"compiled in {program.compile_seconds:.1f} s, tile {program.tile} on {len(program.devices)} device(s)"
        )
    return None


class _Cost(NamedTuple):
    """What a part has taken so far, in this process and in those that were interrupted before it."""

    elapsed_seconds: float = 0.0
    evaluation_seconds: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """Consecutive members of a cell, from ``first`` on, and where they are kept."""

    cell: Cell
    program: Program
    root: Path
    plan: CellPlan
    first: int
    members: Members
    keep_params: tuple[int, ...]

    @property
    def last(self) -> int:
        return self.first + len(self.members)

    @property
    def checkpoints(self) -> Path:
        return parts.checkpoint_folder(self.root, self.plan, self.first, self.last)

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint of it says it is of, in JSON's types."""
        return {"digest": self.plan.digest, "members": [self.first, self.last]}

    @property
    def kept_members(self) -> list[int]:
        return [member for member in self.keep_params if self.first <= member < self.last]


def _run_part(
    part: _Part, meter: Meter, num_done: int, stop: StopRequest, checkpoint_seconds: float
) -> tuple[_Cost, int]:
    """Trains and commits a part; what that took, and the last tile."""
    began = kept = time.monotonic()
    resume, before = _restore(part)
    if resume is not None:
        meter.skip(resume.num_done * part.cell.num_steps + resume.num_training * resume.step)
    training = train_members(part.cell, part.members, part.program, resume, with_params=bool(part.kept_members))
    num_evals = len(part.cell.config.eval_steps(part.cell.sizes["train"]))
    evaluation_seconds, tile = before.evaluation_seconds, part.program.tile

    def cost() -> _Cost:
        return _Cost(before.elapsed_seconds + time.monotonic() - began, evaluation_seconds)

    while True:
        try:
            segment = next(training)
        except StopIteration as finished:
            spent = cost()
            # estimated by the first evaluation, which may be the slowest: never more than all
            spent = spent._replace(evaluation_seconds=min(spent.evaluation_seconds, spent.elapsed_seconds))
            _commit(part, finished.value, tile, spent)
            return spent, tile
        tile = segment.tile
        if segment.step == 0:  # one evaluation and nothing else
            evaluation_seconds += segment.seconds * num_evals
        meter.update(segment.member_steps, num_done + segment.members_done, segment.step)
        if segment.members_done == len(part.members):
            continue  # the part is about to be committed
        if stop.received is not None or time.monotonic() - kept >= checkpoint_seconds:
            is_kept = _save(part, segment.snapshot(), cost())
            kept = time.monotonic()
            how = "after a checkpoint" if is_kept else "without a new checkpoint, which could not be written"
            _stop_if_asked(stop, f"in cell {part.plan.name} {how}")


def _commit(part: _Part, records: Mapping[str, np.ndarray], tile: int, cost: _Cost) -> None:
    params = {name: array for name, array in records.items() if name.startswith(PARAMS)}
    metrics = {name: array for name, array in records.items() if name not in params}
    for member in part.kept_members:
        keep_params(parts.cell_folder(part.root, part.plan), member, params, member - part.first)
    history = as_history(part.cell, part.members, metrics)
    parts.commit(
        part.root,
        part.plan,
        part.first,
        part.last,
        history.to_arrays(),
        info=history.info,
        device=part.program.devices[0].device_kind,
        num_devices=len(part.program.devices),
        tile=tile,
        **cost._asdict(),
    )


def _save(part: _Part, snapshot: Snapshot, cost: _Cost) -> bool:
    """Whether a checkpoint could be written; training goes on without one, as long as its results can be."""
    arrays = {f"done/{name}": array for name, array in snapshot.done.items()}
    arrays |= {f"state/{path}": array for path, array in snapshot.state.items()}
    arrays |= {f"cost/{name}": np.array(seconds) for name, seconds in cost._asdict().items()}
    try:
        checkpoint.save(part.checkpoints, snapshot.step, arrays, of=part.identity)
    except OSError as error:
        warnings.warn(f"going on without a checkpoint: {error}", RuntimeWarning, stacklevel=2)
        return False
    return True


def _restore(part: _Part) -> tuple[Snapshot | None, _Cost]:
    """Where to go on from and what it took to get there; nothing of either where the part starts from step 0."""
    restored = checkpoint.restore(part.checkpoints, of=part.identity)
    if restored is None:
        return None, _Cost()
    step, arrays = restored
    done, state, cost = (
        {name.removeprefix(folder): array for name, array in arrays.items() if name.startswith(folder)}
        for folder in ("done/", "state/", "cost/")
    )
    if done and any(name.startswith(PARAMS) for name in done) != bool(part.kept_members):
        warnings.warn(
            f"a checkpoint of members {part.first} … {part.last - 1} is passed over: keep_params was edited since; "
            "this part starts from step 0",
            RuntimeWarning,
            stacklevel=2,
        )
        return None, _Cost()
    return Snapshot(done, state, step), _Cost(**{name: float(seconds) for name, seconds in cost.items()})
