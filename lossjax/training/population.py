"""Training a population: the host's loop over waves and segments.

A *wave* is the members that one call of the compiled program takes (see ``program``); a *segment* is the steps of one
call, about half a second. Whoever consumes ``train_members`` sees each segment pass: progress, signals and checkpoints
follow from that.
"""

import concurrent.futures
import dataclasses
import time
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lossjax import devices as device_settings
from lossjax.history import History
from lossjax.hyperparams import Hyperparams, as_configs
from lossjax.identity import describe
from lossjax.keys import Seeds, seeds_by_stream, tied
from lossjax.training.check import check_cell, check_types, model_explained
from lossjax.training.config import TrainConfig
from lossjax.training.memory import choose_tile
from lossjax.training.program import Program, compile_program
from lossjax.training.snapshot import Arrays, Snapshot, joined, leaves, on_host, restored
from lossjax.training.train import Cell, MemberState, Span

SEGMENT_SECONDS = 0.5
FIRST_STEPS = 8  # of a population: how long a step takes is not known yet, and it may be long
SIGNAL_SECONDS = 0.1  # where a signal wakes another thread than the main one, it is handled after this time
_waiting = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="wait-for-devices")


def train(
    task: Any,
    model: Any,
    config: TrainConfig,
    *,
    hyperparams: Hyperparams,
    seeds: int | Seeds = 1,
    tile: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> History:
    """Trains a population in memory: every seed with every configuration, one compiled program.

    Args:
        task: a Task of ``lossjax.tasks``, or any object of that protocol.
        model: a Flax Linen module of ``lossjax.models``, or any with that call.
        hyperparams: from ``grid`` or ``sample``, or a ``Hyperparams`` of numbers or [config] arrays.
        seeds: how many (0 … seeds-1, tied over all streams), or ``Seeds``.
        tile: members vmapped a device, at least 2; by a rule where it is not given.
        devices: all local ones where not given.

    Returns:
        The History, members seed-major: member = seed * configurations + configuration.

    Raises:
        ValueError: something does not fit, or a task or model of one's own fails; with the rule and the remedy.
        MemoryError: the compiler predicts more memory than there is.
    """
    cell = Cell(task, model, config)
    check_types(cell)
    cell = cell.pinned()
    members = flatten(hyperparams, seeds if isinstance(seeds, Seeds) else tied(seeds))
    program = compile_cell(cell, members, tile=tile, devices=devices)
    training = train_members(cell, members, program)
    while True:
        try:
            next(training)
        except StopIteration as finished:
            return as_history(cell, members, finished.value)


@dataclasses.dataclass(frozen=True, eq=False)
class Members:
    """A population flattened to the member axis, seed-major: a larger number of seeds only appends members."""

    seeds: np.ndarray  # [member, stream] uint32
    hyperparams: Mapping[str, np.ndarray]  # name → [member] float32

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, members: slice) -> "Members":
        return Members(self.seeds[members], {name: array[members] for name, array in self.hyperparams.items()})


def flatten(hyperparams: Hyperparams, seeds: Seeds) -> Members:
    """Every replicate of ``seeds`` with every configuration: member = replicate * configurations + configuration."""
    configs = as_configs(hyperparams)
    num_configs = len(next(iter(configs.values())))
    return Members(
        np.repeat(seeds.table, num_configs, axis=0),
        {name: np.tile(values, len(seeds)) for name, values in configs.items()},
    )


def compile_cell(
    cell: Cell, members: Members, *, tile: int | None = None, devices: Sequence[jax.Device] | None = None
) -> Program:
    """Checks that the members fit the cell and that the program fits the memory, and compiles it.

    Raises:
        ValueError: where a hyperparameter is missing, unused or out of the task's range, or a task or model fails.
        MemoryError: where the compiler predicts more memory than there is.
    """
    chosen = _chosen(devices)
    if tile is not None and (type(tile) is not int or tile < 2):
        raise ValueError(
            f"tile={tile!r} must be an integer of at least 2: a tile of 1 compiles to other code; 4, 8 and 16 agree "
            "bitwise"
        )
    check_cell(cell, members)
    fields = tuple(members.hyperparams)
    with model_explained(cell):
        width = tile if tile is not None else choose_tile(cell, fields, len(members), chosen)
        program = compile_program(cell, fields, width, chosen)
    limit = device_settings.memory_limit(chosen[0])
    if limit is not None and program.bytes_needed > limit:
        raise MemoryError(
            f"the program needs {program.bytes_needed / 2**30:.1f} GiB and {limit / 2**30:.1f} GiB are free; lower the "
            f"tile (now {width}), the batch size or the records kept an example, or use fewer devices"
        )
    return program


def _chosen(devices: Sequence[jax.Device] | None) -> tuple[jax.Device, ...]:
    if devices is None:
        return tuple(device_settings.start())
    chosen = tuple(devices) if isinstance(devices, Sequence) else ()
    if not chosen or not all(isinstance(device, jax.Device) for device in chosen) or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"devices={devices!r} must be a sequence of different devices, such as jax.devices()[:1]; leave it out to "
            "use all local ones"
        )
    return chosen


@dataclasses.dataclass
class Segment:
    """What just passed, and what to go on from: the records of the members done and the state of those in training."""

    member_steps: int  # padding not counted
    seconds: float
    step: int  # of the wave
    members_done: int
    tile: int  # smaller than the program's where memory ran out
    done: Sequence[Arrays]  # of one wave after another
    state: MemberState | None  # on the devices, [wave, …], until the next segment begins; None at a wave's end
    num_training: int
    kept: Snapshot | None = None

    def snapshot(self) -> Snapshot:
        """All of it copied to the host, so call it only to keep it, and before the next segment."""
        state = {} if self.state is None else on_host(leaves(self.state), self.num_training)
        self.kept = Snapshot(joined(self.done), state, self.step)
        return self.kept


def train_members(
    cell: Cell,
    members: Members,
    program: Program,
    resume: Snapshot | None = None,
    *,
    with_params: bool = False,
) -> Generator[Segment, None, Arrays]:
    """Trains all members, wave after wave; yields after every segment and returns the records, name → [member, …].

    With ``with_params`` the final parameters are among them, as ``params/<path>``.
    Closing the generator stops the training. Where a device's memory runs out, the wave goes on from its last snapshot
    (or starts again) with half the tile, never below 2.
    """
    done = [dict(resume.done)] if resume is not None and resume.done else []
    num_done = 0 if resume is None else resume.num_done
    latest, pace = resume, _Pace()
    while num_done < len(members):
        wave = members[num_done : num_done + program.wave]
        try:
            for call in _train_wave(cell, wave, program, latest, pace):
                if call.is_last:
                    done.append(_records(cell, call.state, len(wave), with_params))
                    num_done += len(wave)
                    latest = latest.without_first(len(wave)) if latest is not None else None
                state = None if call.is_last else call.state
                member_steps = call.num_steps * len(wave)
                segment = Segment(member_steps, call.seconds, call.step, num_done, program.tile, done, state, len(wave))
                yield segment
                latest = segment.kept or latest
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or program.tile == 2:
                raise
            half = max(2, program.tile // 2)
            bits = ", whose metrics can have other last bits than those of 4, 8 and 16" if half == 2 else ""
            warnings.warn(
                f"a device ran out of memory with tile={program.tile}; going on with {half}{bits}", stacklevel=2
            )
            program = compile_program(cell, tuple(members.hyperparams), half, program.devices)
    return joined(done)


class _Call(NamedTuple):
    """A call of the compiled program: the wave's state after it, and how far it went."""

    state: MemberState
    step: int
    is_last: bool
    num_steps: int
    seconds: float


@dataclasses.dataclass
class _Pace:
    """Where a segment ends: after as many steps as the last one says, few where there was none, or earlier.

    Earlier where more evaluations are due than half a second holds; one is always done, however long it takes.
    """

    seconds_a_step: float = 0.0
    seconds_an_evaluation: float = 0.0  # of the one before any step; 0 until there was one

    def end(self, first: int, evaluations: np.ndarray) -> int:
        """The step at which a segment ends that begins at step ``first``; ``evaluations`` are at [eval] steps."""
        num_steps = max(1, int(SEGMENT_SECONDS / self.seconds_a_step)) if self.seconds_a_step else FIRST_STEPS
        last = min(first + num_steps, int(evaluations[-1]))
        due = evaluations[(evaluations > first) & (evaluations <= last)]
        if self.seconds_an_evaluation:
            fitting = due[: max(1, int(SEGMENT_SECONDS / self.seconds_an_evaluation))]
            last = int(fitting[-1]) if len(fitting) < len(due) else last
        return last

    def took(self, num_steps: int, seconds: float) -> None:
        if num_steps:
            self.seconds_a_step = seconds / num_steps
        else:
            self.seconds_an_evaluation = seconds


def _train_wave(cell: Cell, wave: Members, program: Program, latest: Snapshot | None, pace: _Pace) -> Iterator[_Call]:
    """The segments of one wave, from the snapshot's state where it has these members', else from the start.

    It ends early where no member is finite any more: nothing that is kept could change (see ``_records``).
    """
    num_padding = program.wave - len(wave)
    seeds, hparams = _padded(wave, num_padding)
    # drawing the data is no part of the first segment's time
    state, data = jax.block_until_ready(program.start(seeds, hparams, program.splits))
    step = None  # nothing is measured yet
    if latest is not None and latest.state and latest.num_training >= len(wave):
        state, step = restored(latest.state, state, len(wave), num_padding, program.sharding), latest.step
    evaluations = cell.config.eval_steps(cell.sizes["train"])
    is_last = False
    while not is_last:
        # the evaluation before any step by itself: its time is what an evaluation costs
        first, last = (0, 0) if step is None else (step, pace.end(step, evaluations))
        clock = time.perf_counter()
        state = program.advance(state, seeds, hparams, data, _span(cell, first, last))
        _wait(state)
        seconds = time.perf_counter() - clock
        pace.took(last - first, seconds)
        is_last = last == cell.num_steps or bool((np.asarray(state.nonfinite_step) >= 0).all())
        yield _Call(state, last, is_last, last - first, seconds)
        step = last


def _span(cell: Cell, first: int, last: int) -> Span:
    """What falls due between ``first`` and ``last`` steps; the evaluation at 0 only for the span of no steps."""
    evaluations = cell.config.eval_steps(cell.sizes["train"])
    if last == 0:
        bounds = (0, 0, 0, 1)
    else:
        begin = int(np.searchsorted(evaluations, first, side="right"))
        end = min(int(np.searchsorted(evaluations, last, side="left")) + 1, len(evaluations))
        bounds = (first, last, begin, end)
    return Span(*(np.int32(bound) for bound in bounds))  # type: ignore[arg-type]


def _padded(wave: Members, num_padding: int) -> tuple[np.ndarray, Hyperparams]:
    """A short wave is filled up with copies of its last member."""
    seeds = np.pad(wave.seeds, ((0, num_padding), (0, 0)), mode="edge")
    padded = {name: np.pad(array, (0, num_padding), mode="edge") for name, array in wave.hyperparams.items()}
    return seeds, Hyperparams(**padded)  # type: ignore[arg-type]


def _wait(state: MemberState) -> None:
    """Until the call is done. Another thread waits for the devices, so that this one can handle a signal meanwhile."""
    done = _waiting.submit(jax.block_until_ready, state)
    while not done.done():
        concurrent.futures.wait([done], timeout=SIGNAL_SECONDS)
    done.result()  # raises here what went wrong on a device


def _records(cell: Cell, state: MemberState, num_members: int, with_params: bool) -> Arrays:
    """Records on the host; from a member's first non-finite step on they are nan, and false or 0 where there is no nan.

    So they do not depend on how long the member's wave went on.
    """
    arrays = on_host({**state.records, "nonfinite_step": state.nonfinite_step}, num_members)
    nonfinite_step = arrays["nonfinite_step"][:, None]
    is_after = (nonfinite_step >= 0) & (cell.config.eval_steps(cell.sizes["train"]) >= nonfinite_step)
    for name in state.records if is_after.any() else ():
        kept = np.array(arrays[name])
        kept[is_after] = np.nan if kept.dtype.kind == "f" else 0
        arrays[name] = kept
    if with_params:
        arrays |= on_host({f"params/{path}": leaf for path, leaf in leaves(state.params).items()}, num_members)
    return arrays


def as_history(cell: Cell, members: Members, records: Mapping[str, np.ndarray]) -> History:
    """Labels the records of ``train_members``."""
    metrics = dict(records)
    nonfinite_step = metrics.pop("nonfinite_step")
    return History(
        metrics=metrics,
        steps=cell.config.eval_steps(cell.sizes["train"]),
        seeds=dict(seeds_by_stream(members.seeds)),
        hyperparams=dict(members.hyperparams),
        nonfinite_step=nonfinite_step,
        info=cell_info(cell),
    )


def cell_info(cell: Cell) -> dict[str, Any]:
    """What was run, as JSON's types: the labels of a History."""
    bayes = cell.task.bayes
    return {
        "task": describe(cell.task),
        "model": describe(cell.model),
        "config": describe(cell.config),
        "steps_per_epoch": cell.steps_per_epoch,
        "num_classes": cell.task.num_classes,
        "num_tokens": cell.task.num_tokens,
        "num_examples": cell.sizes,
        "bayes_loss": None if bayes is None else bayes.loss,
        "bayes_accuracy": None if bayes is None else bayes.accuracy,
    }
