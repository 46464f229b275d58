"""The only place where members are mapped: tiles, waves, devices, memory.

A *tile* is the members vmapped on one device; a *wave* is one tile on every device, one call of one compiled program; a
*segment* is the steps of one call, about half a second. The host loops over waves and segments, and whoever consumes
``train_members`` sees each segment pass: progress, signals and checkpoints follow from that.
"""

import dataclasses
import functools
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lossjax import devices as device_settings
from lossjax.history import History
from lossjax.hyperparams import Hyperparams, as_configs
from lossjax.identity import describe
from lossjax.keys import Seeds, seeds_by_stream, streams_from_seeds, tied
from lossjax.models.lstm import LSTM
from lossjax.tasks.task import Splits
from lossjax.training import train as member
from lossjax.training.config import TrainConfig
from lossjax.training.memory import bytes_needed, choose_tile, per_example_bytes
from lossjax.training.optimizers import check_hyperparams
from lossjax.training.snapshot import Arrays, Snapshot, joined, leaves, on_host, restored
from lossjax.training.train import Cell, Data, MemberState, Span, check_model

SEGMENT_SECONDS = 0.5
FIRST_STEPS = 8  # of a population: how long a step takes is not known yet, and it may be long
POLL_SECONDS = 0.005


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


@dataclasses.dataclass(frozen=True)
class Segment:
    """What just passed. ``snapshot()`` copies the state to the host, so call it only to keep it."""

    member_steps: int  # padding not counted
    seconds: float
    step: int  # of the wave
    members_done: int
    tile: int  # smaller than the program's where memory ran out
    snapshot: Callable[[], Snapshot]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A cell compiled for a tile on some devices."""

    start: Callable[..., tuple[MemberState, Data]]  # (seeds, hyperparams, splits) → (state, data)
    advance: Callable[
        ..., MemberState
    ]  # (state, seeds, hyperparams, data, span) → state; the state passed in is consumed
    tile: int
    devices: tuple[jax.Device, ...]
    splits: Splits | None  # of a shared task
    sharding: Any  # of arrays [wave, …]
    bytes_needed: int  # predicted by the compiler, all devices of one memory together
    compile_seconds: float

    @property
    def wave(self) -> int:
        return self.tile * len(self.devices)


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
    """
    cell = Cell(task, model, config).pinned()
    members = flatten(hyperparams, seeds if isinstance(seeds, Seeds) else tied(seeds))
    program = compile_cell(cell, members, tile=tile, devices=devices)
    training = train_members(cell, members, program)
    while True:
        try:
            next(training)
        except StopIteration as finished:
            return as_history(cell, members, finished.value)


def compile_cell(
    cell: Cell, members: Members, *, tile: int | None = None, devices: Sequence[jax.Device] | None = None
) -> Program:
    """Checks that the members fit the cell and that the program fits the memory, and compiles it.

    Raises:
        ValueError: where a hyperparameter is missing, unused or out of the task's range.
        MemoryError: where the compiler predicts more memory than there is.
    """
    chosen = tuple(devices if devices is not None else device_settings.start())
    if not chosen:
        raise ValueError("devices is empty; leave it out to use all local ones")
    check_cell(cell, members)
    width = tile if tile is not None else choose_tile(cell, tuple(members.hyperparams), len(members), chosen)
    if width < 2:
        raise ValueError(
            f"tile={width} must be at least 2: a tile of 1 compiles to other code; 4, 8 and 16 agree bitwise"
        )
    program = _compile(cell, tuple(members.hyperparams), width, chosen)
    limit = device_settings.memory_limit(chosen[0])
    if limit is not None and program.bytes_needed > limit:
        raise MemoryError(
            f"the program needs {program.bytes_needed / 2**30:.1f} GiB and {limit / 2**30:.1f} GiB are free; lower the "
            f"tile (now {width}), the batch size or the records kept an example, or use fewer devices"
        )
    return program


def check_cell(cell: Cell, members: Members) -> None:
    """Refuses, before anything is compiled, what does not fit: model, hyperparameters, sizes, too large records."""
    check_hyperparams(cell.config, set(members.hyperparams))
    check_model(cell)
    if not cell.measured:
        raise ValueError(f"none of the splits {cell.config.measure.splits} has examples; measure one that has")
    cell.config.eval_steps(cell.sizes["train"])
    sizes = members.hyperparams.get("train_size")
    if sizes is not None and sizes.max() > cell.sizes["train"]:
        raise ValueError(f"train_size={sizes.max():g} exceeds the {cell.sizes['train']} training examples; lower it")
    records, budget = per_example_bytes(cell) * len(members), cell.config.measure.budget_gib
    if records > budget * 2**30:
        raise ValueError(
            f"per-example records of {len(members)} members take {records / 2**30:.1f} GiB and budget_gib={budget:g}; "
            "keep fewer splits or evaluations, or raise Measure(budget_gib=)"
        )


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
    finished = [dict(resume.done)] if resume is not None and resume.done else []
    num_done = 0 if resume is None else resume.num_done
    latest, seconds_a_step = resume, 0.0
    while num_done < len(members):
        wave = members[num_done : num_done + program.wave]
        try:
            for passed in _train_wave(cell, wave, program, latest, seconds_a_step):
                seconds_a_step = passed.seconds / passed.num_steps if passed.num_steps else seconds_a_step
                state, step, is_done = passed.state, passed.step, passed.is_last
                if is_done:
                    finished.append(_records(cell, state, len(wave), with_params))
                    num_done += len(wave)
                    latest = latest.without_first(len(wave)) if latest is not None else None

                def snapshot(
                    state: MemberState | None = None if is_done else state, step: int = step, size: int = len(wave)
                ) -> Snapshot:
                    nonlocal latest
                    latest = Snapshot(joined(finished), {} if state is None else on_host(leaves(state), size), step)
                    return latest

                num_steps = passed.num_steps * len(wave)
                yield Segment(num_steps, passed.seconds, step, num_done, program.tile, snapshot)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or program.tile == 2:
                raise
            half = max(2, program.tile // 2)
            warnings.warn(f"a device ran out of memory with tile={program.tile}; going on with {half}", stacklevel=2)
            program = _compile(cell, tuple(members.hyperparams), half, program.devices)
    return joined(finished)


class _Passed(NamedTuple):
    """A segment of a wave: the state after it, and what it was."""

    state: MemberState
    step: int
    is_last: bool
    num_steps: int
    seconds: float


def _train_wave(
    cell: Cell, wave: Members, program: Program, latest: Snapshot | None, seconds_a_step: float
) -> Iterator[_Passed]:
    """The segments of one wave, from the snapshot's state where it has these members', else from the start.

    ``seconds_a_step`` is what the last wave took; where it is 0, the first segment has few steps, to find out.
    It ends early where no member is finite any more: nothing that is kept could change (see ``_records``).
    """
    num_padding = program.wave - len(wave)
    seeds, hparams = _padded(wave, num_padding)
    # drawing the data is no part of the first segment's time
    state, data = jax.block_until_ready(program.start(seeds, hparams, program.splits))
    step = -1
    if latest is not None and latest.state and latest.num_training >= len(wave):
        state, step = restored(latest.state, state, len(wave), num_padding, program.sharding), latest.step
    while True:
        if step < 0:  # the evaluation before any step, by itself: its time is what an evaluation costs
            last = 0
        else:
            affordable = int(SEGMENT_SECONDS / seconds_a_step) if seconds_a_step else FIRST_STEPS
            last = min(cell.num_steps, step + max(1, affordable))
        span = _span(cell, max(step, 0), last)
        clock = time.perf_counter()
        state = program.advance(state, seeds, hparams, data, span)
        _wait(state)
        seconds = time.perf_counter() - clock
        num_steps = last - max(step, 0)
        seconds_a_step = seconds / num_steps if num_steps else seconds_a_step
        is_last = last == cell.num_steps or bool((np.asarray(state.nonfinite_step) >= 0).all())
        yield _Passed(state, last, is_last, num_steps, seconds)
        if is_last:
            return
        step = last


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


def compiler_options(cell: Cell, platform: str) -> dict[str, bool | str]:
    """Options of a cell's programs on a platform ("cpu", "gpu"). They change last bits, so they are in its digest."""
    is_wide_lstm = isinstance(cell.model, LSTM) and cell.model.hidden > 16
    return dict(device_settings.compiler_options(platform, ynn_fusion=is_wide_lstm))


@functools.lru_cache(maxsize=64)
def _compile(cell: Cell, fields: tuple[str, ...], tile: int, devices: tuple[jax.Device, ...]) -> Program:
    mesh = Mesh(np.array(devices), ("member",), axis_types=(AxisType.Auto,))
    mapped, whole = PartitionSpec("member"), PartitionSpec()
    shared = cell.task.shared
    # a tree of specifications in the place of arrays
    data_specs: Any = cast(Any, Data)(
        examples=whole if shared else mapped, train_labels=mapped, class_counts=mapped, groups=mapped
    )
    data_axes = jax.tree.map(lambda spec: None if spec == whole else 0, data_specs)
    wave = tile * len(devices)

    def start_member(seeds: Any, hparams: Hyperparams, splits: Splits | None) -> tuple[MemberState, Data]:
        streams = streams_from_seeds(seeds)
        data = member.prepare(cell, streams, hparams, cell.task.splits(streams.data) if splits is None else splits)
        return member.init(cell, streams, hparams, data), data

    def advance_member(state: MemberState, seeds: Any, hparams: Hyperparams, data: Data, span: Span) -> MemberState:
        return member.run(cell, state, streams_from_seeds(seeds), hparams, data, span)

    start = jax.vmap(start_member, in_axes=(0, 0, None), out_axes=(0, data_axes))
    advance = jax.vmap(advance_member, in_axes=(0, 0, 0, data_axes, None))

    def over_devices(function: Callable, in_specs: Any, out_specs: Any, **options: Any) -> Any:
        sharded = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
        return jax.jit(sharded, **options)

    splits = None
    if shared:
        splits = jax.device_put(cell.task.splits(jax.random.key(0)), NamedSharding(mesh, whole))
    seeds_shape = jax.ShapeDtypeStruct((wave, 4), jnp.uint32)
    hparams_shape = Hyperparams(**{name: jax.ShapeDtypeStruct((wave,), jnp.float32) for name in fields})  # type: ignore[arg-type]
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    span_shape = Span(scalar, scalar, scalar, scalar)  # type: ignore[arg-type]
    options = compiler_options(cell, devices[0].platform)
    clock = time.perf_counter()
    # TensorFloat-32 would otherwise be the default on recent GPUs
    precision = "float32" if cell.config.precision == "float32" else "tensorfloat32"
    with jax.default_matmul_precision(precision), device_settings.quiet_compilation():
        start_program = (
            over_devices(start, (mapped, mapped, whole), (mapped, data_specs), compiler_options=options)
            .lower(seeds_shape, hparams_shape, splits)
            .compile()
        )
        state_shape, data_shape = jax.eval_shape(start, seeds_shape, hparams_shape, splits)
        advance_program = (
            over_devices(
                advance,
                (mapped, mapped, mapped, data_specs, whole),
                mapped,
                donate_argnums=0,
                compiler_options=options,
            )
            .lower(state_shape, seeds_shape, hparams_shape, data_shape, span_shape)
            .compile()
        )
    seconds = time.perf_counter() - clock
    return Program(
        start=start_program,
        advance=advance_program,
        tile=tile,
        devices=devices,
        splits=splits,
        sharding=NamedSharding(mesh, mapped),
        bytes_needed=bytes_needed(advance_program) * (len(devices) if devices[0].platform == "cpu" else 1),
        compile_seconds=seconds,
    )


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
    """Until the call is done, in short sleeps between which Python can handle a signal."""
    leaf = state.nonfinite_step
    while not leaf.is_ready():  # type: ignore[attr-defined]
        time.sleep(POLL_SECONDS)
    jax.block_until_ready(state)  # raises here what went wrong on the device


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
