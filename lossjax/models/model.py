"""What every model has in common: the call, and dropout with a rate that may be traced."""

from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

Inputs = Float[Array, "batch time feature"] | Int[Array, "batch time"]


class Model(Protocol):
    """A Flax Linen module: a frozen dataclass of numbers, strings, bools and tuples, so it is its own specification.

    ``num_classes`` and ``num_tokens`` are filled in from the task where they are None. ``dropout_rate`` is a member's
    hyperparameter, None where no member uses dropout, and then nothing of it is in the program; otherwise ``apply``
    needs ``rngs={"dropout": key}``.
    """

    num_classes: int | None
    num_tokens: int | None

    def __call__(
        self,
        inputs: Inputs,
        mask: Bool[Array, "batch time"] | None = None,
        *,
        dropout_rate: Float[Array, ""] | None = None,
    ) -> Float[Array, "batch class"]: ...


def dropout(values: Float[Array, "..."], rate: Float[Array, ""], key: Key[Array, ""]) -> Float[Array, "..."]:
    """Zeroes each value with probability ``rate`` and divides the others by 1 - rate (``nn.Dropout`` rejects traced rates)."""
    keep = jax.random.bernoulli(key, 1.0 - rate, values.shape)
    return jnp.where(keep, values / (1.0 - rate), 0.0)
