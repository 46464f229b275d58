"""What fits: how many members a tile holds, and how much memory a program needs."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lossjax import devices
from lossjax.training.train import Cell, forward

# members a tile. A CPU gains nothing beyond 16; an accelerator wants many
FEWEST, MOST_ON_CPU, MOST_ON_ACCELERATOR = 4, 16, 1024


def choose_tile(cell: Cell, fields: tuple[str, ...], num_members: int, chosen: tuple[jax.Device, ...]) -> int:
    """Members a tile: a power of two; on a CPU 4, 8 or 16, such that residuals take about twice the second-level cache.

    Measured at hidden 16 and 32: smaller tiles leave the vector units idle, larger ones spill to memory. Tiles of 4, 8
    and 16 give the same bytes; others leave members to the tail of a vector loop, with other last bits.
    """
    enough = _power_of_two_from(max(FEWEST, -(-num_members // len(chosen))))
    if chosen[0].platform != "cpu":
        return min(MOST_ON_ACCELERATOR, enough)
    fitting = 2 * devices.level2_cache() // residual_bytes(cell, fields)
    return min(enough, MOST_ON_CPU, max(FEWEST, _power_of_two_from(fitting + 1) // 2))


def residual_bytes(cell: Cell, fields: tuple[str, ...]) -> int:
    """Bytes that one member's forward pass over a batch keeps for the backward pass."""
    batch = cell.batch_shape
    key = jax.eval_shape(lambda: jax.random.key(0))
    rate = jax.ShapeDtypeStruct((), jnp.float32) if "dropout" in fields else None

    def residuals(params: Any, inputs: Array, mask: Array | None, rate: Array | None, key: Array) -> Any:
        rngs = None if rate is None else {"dropout": key}
        return jax.vjp(lambda p: forward(cell, p, inputs, mask, rate, rngs), params)[1]

    shapes = jax.eval_shape(residuals, cell.params_shape, batch.inputs, batch.mask, rate, key)
    return max(1, sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)))


def per_example_bytes(cell: Cell) -> int:
    """Bytes of what one member's history keeps of each example: losses, also refined, correctness, margins, logits."""
    measure, sizes = cell.config.measure, cell.sizes
    each = 4 + 1 + 4 + (4 if measure.calibration else 0)
    records = sum(sizes[split] * each for split in measure.per_example)
    logits = sum(sizes[split] * cell.task.num_classes * 4 for split in measure.logits)
    return (records + logits) * len(cell.config.eval_steps(sizes["train"]))


def bytes_needed(program: Any) -> int:
    """What the compiler predicts for a compiled program on one device: arguments, outputs and temporaries."""
    analysis = program.memory_analysis()
    if analysis is None:  # a backend that does not say
        return 0
    sizes = (analysis.temp_size_in_bytes, analysis.argument_size_in_bytes, analysis.output_size_in_bytes)
    return int(sum(sizes) - analysis.alias_size_in_bytes)


def _power_of_two_from(number: int) -> int:
    """The smallest power of two that is at least ``number``."""
    return 1 << (number - 1).bit_length() if number > 1 else 1
