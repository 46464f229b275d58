"""A cell compiled for waves of members: the only place where members are mapped.

A *tile* is the members vmapped on one device; a *wave* is one tile on every device, one call of a compiled program.
Nothing passes between members, nor between devices.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lossjax import devices as device_settings
from lossjax.hyperparams import Hyperparams
from lossjax.keys import streams_from_seeds
from lossjax.models.lstm import LSTM
from lossjax.tasks.task import Splits
from lossjax.training import train as member
from lossjax.training.memory import bytes_needed
from lossjax.training.train import Cell, Data, MemberState, Span

# Of the program that draws data and parameters, which runs once a member: LLVM's least thorough level above none
# compiles it in a third of the time, and to the same bits (a test sees to it, as this is no part of a cell's digest).
QUICKLY_COMPILED = {"cpu": {"xla_backend_optimization_level": 1}}


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A cell compiled for a tile on some devices."""

    # (seeds, hyperparams, splits) → (state, data)
    start: Callable[..., tuple[MemberState, Data]]
    # (state, seeds, hyperparams, data, span) → state; the state passed in is consumed
    advance: Callable[..., MemberState]
    tile: int
    devices: tuple[jax.Device, ...]
    splits: Splits | None  # of a shared task
    sharding: Any  # of arrays [wave, …]
    bytes_needed: int  # predicted by the compiler, all devices of one memory together
    compile_seconds: float

    @property
    def wave(self) -> int:
        return self.tile * len(self.devices)


@functools.lru_cache(maxsize=64)
def compile_program(cell: Cell, fields: tuple[str, ...], tile: int, devices: tuple[jax.Device, ...]) -> Program:
    """Compiles a cell for members that have the hyperparameters ``fields``; the same program again where it was."""
    mesh = Mesh(np.array(devices), ("member",), axis_types=(AxisType.Auto,))
    mapped, whole = PartitionSpec("member"), PartitionSpec()
    shared = cell.task.shared
    # a tree of specifications in the place of arrays
    data_specs: Any = cast(Any, Data)(
        examples=whole if shared else mapped, train_labels=mapped, class_counts=mapped, groups=mapped
    )
    data_axes = jax.tree.map(lambda spec: None if spec == whole else 0, data_specs)

    def start_member(seeds: Any, hparams: Hyperparams, splits: Splits | None) -> tuple[MemberState, Data]:
        streams = streams_from_seeds(seeds)
        data = member.prepare(cell, streams, hparams, cell.task.splits(streams.data) if splits is None else splits)
        return member.init(cell, streams, hparams, data), data

    def advance_member(state: MemberState, seeds: Any, hparams: Hyperparams, data: Data, span: Span) -> MemberState:
        return member.run(cell, state, streams_from_seeds(seeds), hparams, data, span)

    start = jax.vmap(start_member, in_axes=(0, 0, None), out_axes=(0, data_axes))
    advance = jax.vmap(advance_member, in_axes=(0, 0, 0, data_axes, None))
    options = compiler_options(cell, devices[0].platform)
    quick = QUICKLY_COMPILED.get(devices[0].platform, {})

    def compiled(
        function: Callable, arguments: tuple, in_specs: tuple, out_specs: Any, options: Any, donated: Any = None
    ) -> tuple[Any, Any]:
        """The program, and the shapes of what it returns."""
        sharded = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
        traced = jax.jit(sharded, compiler_options=options, donate_argnums=donated).trace(*arguments)
        return traced.lower().compile(), traced.out_info

    splits = None
    if shared:
        splits = jax.device_put(cell.task.splits(jax.random.key(0)), NamedSharding(mesh, whole))
    wave = tile * len(devices)
    seeds = jax.ShapeDtypeStruct((wave, 4), jnp.uint32)
    hparams = Hyperparams(**{name: jax.ShapeDtypeStruct((wave,), jnp.float32) for name in fields})  # type: ignore[arg-type]
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    span = Span(scalar, scalar, scalar, scalar)  # type: ignore[arg-type]
    clock = time.perf_counter()
    # TensorFloat-32 would otherwise be the default on recent GPUs
    precision = "float32" if cell.config.precision == "float32" else "tensorfloat32"
    with jax.default_matmul_precision(precision), device_settings.quiet_compilation():
        start_program, (state, data) = compiled(
            start, (seeds, hparams, splits), (mapped, mapped, whole), (mapped, data_specs), options | quick
        )
        advance_program, _ = compiled(
            advance,
            (state, seeds, hparams, data, span),
            (mapped, mapped, mapped, data_specs, whole),
            mapped,
            options,
            donated=0,
        )
    return Program(
        start=start_program,
        advance=advance_program,
        tile=tile,
        devices=devices,
        splits=splits,
        sharding=NamedSharding(mesh, mapped),
        bytes_needed=bytes_needed(advance_program) * (len(devices) if devices[0].platform == "cpu" else 1),
        compile_seconds=time.perf_counter() - clock,
    )


def compiler_options(cell: Cell, platform: str) -> dict[str, bool | str]:
    """Options of a cell's programs on a platform ("cpu", "gpu"). They change last bits, so they are in its digest."""
    is_wide_lstm = isinstance(cell.model, LSTM) and cell.model.hidden > 16
    return dict(device_settings.compiler_options(platform, ynn_fusion=is_wide_lstm))
