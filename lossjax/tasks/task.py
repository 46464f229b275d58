"""The Task protocol, and the Splits that every task gives."""

import numbers
from typing import NamedTuple, Protocol, runtime_checkable

from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key


class Split(struct.PyTreeNode):
    """Examples of one split; it may hold none (``example`` = 0), and is then not measured."""

    inputs: Float[Array, "example time feature"] | Int[Array, "example time"]  # features, or tokens
    labels: Int[Array, " example"]  # int32, in 0 … class-1
    mask: Bool[Array, "example time"] | None = None  # which time steps exist; None: all


class Splits(struct.PyTreeNode):
    """Training, validation and test examples; disjoint, the measured labels clean."""

    train: Split
    val: Split
    test: Split


class Bayes(NamedTuple):
    """What the best classifier reaches on a task's own distribution, without label noise."""

    loss: float  # nats
    accuracy: float


@runtime_checkable
class Task(Protocol):
    """Where examples come from: a frozen dataclass of numbers, strings, bools and tuples.

    Constructing it uses no jax array and reads no file. ``num_classes`` and ``bayes`` may take seconds the first time.

    ``shared`` tasks (data sets) have the same examples for every member and ignore the key; the others draw a data set
    of their own for each member, inside the compiled program (so ``splits`` must then be traceable and vmappable).
    """

    @property
    def shared(self) -> bool: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def num_tokens(self) -> int | None:
        """Size of the vocabulary where inputs are tokens; None where they are features."""
        ...

    @property
    def bayes(self) -> Bayes | None:
        """Exact where the posterior is known, else None."""
        ...

    def splits(self, key: Key[Array, ""]) -> Splits: ...


def check_whole(task: object, **least: int) -> None:
    """ValueError unless each named field is a whole number of at least that, or None where None is its default."""
    for name, bound in least.items():
        value = getattr(task, name)
        if value is None and getattr(type(task), name, 0) is None:
            continue
        if not isinstance(value, numbers.Integral) or isinstance(value, bool):
            raise ValueError(f"{name}={value!r} must be a whole number of at least {bound}")
        if value < bound:
            raise ValueError(f"{name}={value} must be at least {bound}")
