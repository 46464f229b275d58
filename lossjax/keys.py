"""Named random streams: where every random number of a member comes from.

A member has four integer seeds, one a stream. Varying one stream leaves the draws of the others unchanged, so
the variance between runs can be taken apart by stream.
"""

import dataclasses
import itertools
import operator
from collections.abc import Iterable, Mapping
from typing import Final

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Key, UInt32

STREAMS: Final = ("data", "init", "order", "noise")
NUM_SEEDS: Final = 2**32  # they are uint32


class Streams(struct.PyTreeNode):
    """One member's random streams, each a key that nothing else uses."""

    data: Key[Array, ""]  # the examples, for a task that draws its own
    init: Key[Array, ""]  # initial parameters
    order: Key[Array, ""]  # the order of examples, epoch by epoch
    noise: Key[Array, ""]  # dropout and label noise


def streams_from_seeds(seeds: UInt32[Array, " stream"]) -> Streams:
    """The keys of one member from its four seeds, in the order of ``STREAMS``.

    Threefry, because ``rbg`` keys draw everything from the first key under vmap.
    """
    named = {
        name: jax.random.fold_in(jax.random.key(seeds[index], impl="threefry2x32"), index)
        for index, name in enumerate(STREAMS)
    }
    return Streams(**named)


@dataclasses.dataclass(frozen=True, eq=False)
class Seeds:
    """Which seeds a population has: ``table[replicate, stream]``, uint32, streams in the order of ``STREAMS``.

    ``design`` names how the table was made and enters a cell's digest; a table that grows at its end (more tied
    seeds) keeps its design, hence its stored results.
    """

    table: np.ndarray
    design: str

    def __len__(self) -> int:
        return len(self.table)


def tied(seeds: int | Iterable[int]) -> Seeds:
    """One seed a replicate for all four streams: ``tied(1000)`` is the seeds 0 … 999."""
    values = _values("seeds", seeds)
    # only the seeds 0 … n-1 may grow at their end; any others are a design of their own, their table in the digest
    design = "tied" if values == list(range(len(values))) else "listed"
    return Seeds(_as_seeds(np.repeat(np.array(values)[:, None], len(STREAMS), axis=1)), design)


def crossed(**seeds: int | Iterable[int]) -> Seeds:
    """Every combination of the given streams' seeds; a stream that is not named keeps seed 0.

    ``crossed(data=10, init=10)`` is 100 replicates.
    """
    unknown = set(seeds) - set(STREAMS)
    if unknown:
        raise ValueError(f"no stream named {sorted(unknown)}; the streams are {', '.join(STREAMS)}")
    axes = [_values(name, seeds.get(name, [0])) for name in STREAMS]
    table = _as_seeds(np.array(list(itertools.product(*axes))))
    return Seeds(table, "crossed:" + ";".join(f"{name}={axis}" for name, axis in zip(STREAMS, axes, strict=True)))


def redrawn(num_seeds: int, streams: Iterable[str] = STREAMS, *, all_anew: bool = False) -> Seeds:
    """For the variance by stream: each base seed, then the same seed with one stream at a time drawn anew.

    With ``all_anew`` a last row a base seed draws every stream anew. It shares with each row before it only the stream
    that was redrawn there, which is what first-order effects are estimated from.
    """
    rows = []
    chosen = tuple(streams)
    unknown = set(chosen) - set(STREAMS)
    if unknown:
        raise ValueError(f"no stream named {sorted(unknown)}; the streams are {', '.join(STREAMS)}")
    for seed in range(num_seeds):
        rows.append([seed] * len(STREAMS))
        for name in chosen:
            # counted down from the top, so that a redrawn seed is no other replicate's base seed
            rows.append([NUM_SEEDS - 1 - seed if stream == name else seed for stream in STREAMS])
        if all_anew:
            rows.append([NUM_SEEDS - 1 - seed] * len(STREAMS))
    return Seeds(_as_seeds(np.array(rows)), "redrawn:" + ",".join(chosen) + (";all" if all_anew else ""))


def seeds_by_stream(table: np.ndarray) -> Mapping[str, np.ndarray]:
    """The columns of a seed table by the name of their stream."""
    return {name: table[:, index] for index, name in enumerate(STREAMS)}


def _values(name: str, seeds: int | Iterable[int]) -> list[int]:
    """0 … seeds-1 for a number, else the seeds themselves."""
    try:
        if isinstance(seeds, bool):
            raise TypeError
        values = [operator.index(s) for s in seeds] if isinstance(seeds, Iterable) else range(operator.index(seeds))
    except TypeError:
        values = []
    if not values:
        raise ValueError(f"{name}={seeds!r} names no seeds; give a positive number or a sequence of integers")
    if isinstance(values, range):
        if values.stop > NUM_SEEDS:  # before a list of them takes all memory
            raise ValueError(f"{name}={values.stop} are more than there are: seeds lie in 0 … {NUM_SEEDS - 1}")
        return list(values)
    if len(set(values)) < len(values):
        twice = next(value for value in values if values.count(value) > 1)
        raise ValueError(f"{name} has seed {twice} more than once, and equal runs are no replicates; name each once")
    return values


def _as_seeds(table: np.ndarray) -> np.ndarray:
    if table.size == 0 or table.min() < 0 or table.max() >= NUM_SEEDS:
        raise ValueError(f"seeds lie in 0 … {NUM_SEEDS - 1} and there is at least one")
    return table.astype(np.uint32)
