"""Members half trained, as arrays on the host: what a checkpoint holds and a wave goes on from."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Enough to go on from: the records of the members done, and the state of those that come next, at one step."""

    done: Mapping[str, np.ndarray]  # name → [members done, …]
    state: Mapping[str, np.ndarray]  # path of a MemberState leaf → [members in training, …]
    step: int

    @property
    def num_done(self) -> int:
        return len(self.done["nonfinite_step"]) if self.done else 0

    @property
    def num_training(self) -> int:
        return len(next(iter(self.state.values()))) if self.state else 0

    def without_first(self, num_members: int) -> "Snapshot | None":
        """The state of the members after the first ``num_members``; None where there is none."""
        if self.num_training <= num_members:
            return None
        return Snapshot({}, {path: array[num_members:] for path, array in self.state.items()}, self.step)


def joined(finished: Sequence[Mapping[str, np.ndarray]]) -> Arrays:
    """Records of consecutive members, one after another."""
    return {name: np.concatenate([records[name] for records in finished]) for name in finished[0]} if finished else {}


def on_host(arrays: Mapping[str, Any], num_members: int) -> Arrays:
    """The first ``num_members`` of each array: without a wave's padding."""
    return {name: np.asarray(array)[:num_members] for name, array in jax.device_get(dict(arrays)).items()}


def leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path, ``params/output/kernel``."""
    return {_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def restored(saved: Mapping[str, np.ndarray], state: Any, num_members: int, num_padding: int, sharding: Any) -> Any:
    """A tree like ``state`` with the saved leaves of the first ``num_members``, filled up with copies of the last.

    Raises:
        ValueError: where a leaf has another shape or type, so that the snapshot is of another cell.
    """

    def fill(path: Any, leaf: Any) -> jax.Array:
        array = saved[_path(path)][:num_members]
        if array.shape[1:] != leaf.shape[1:] or array.dtype != leaf.dtype:
            raise ValueError(f"the snapshot's {_path(path)} is {array.dtype}{array.shape}, of another cell")
        padded = np.pad(array, [(0, num_padding)] + [(0, 0)] * (array.ndim - 1), mode="edge")
        return jax.device_put(padded, sharding)

    return jax.tree_util.tree_map_with_path(fill, state)
