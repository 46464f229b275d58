"""What XLA does not see by itself on a CPU: where a fusion should end, and that an innermost axis can be halved."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Float


def apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which XLA on a CPU compiles by itself instead of fusing it with what stands before and after.

    XLA's fusion puts an element-wise chain into each of its users, and so computes it as often as it is used, in loops
    over short rows. A call that may not be inlined is a border no fusion crosses (``optimization_barrier`` is none:
    XLA takes it out first). On an accelerator, where fusing pays, nothing changes.
    """
    if jax.default_backend() != "cpu":
        return function

    def called(*args: Any) -> Any:
        with set_xla_metadata(inlineable="false"):
            return jax.jit(function)(*args)

    return called


def last_sum(values: Float[Array, "*shape last"], shortest: int = 32) -> Float[Array, "*shape"]:
    """The sum over the last axis.

    XLA on a CPU takes an innermost axis element by element. Here halves of it are added along the vector unit until
    ``shortest`` to twice as many elements are left. Not to be differentiated: autodiff would pad and add each half.
    """
    return _combined(jnp.add, lambda part: part.sum(axis=-1), values, shortest)


def last_max(values: Float[Array, "*shape last"], shortest: int = 32) -> Float[Array, "*shape"]:
    """The maximum over the last axis, in the same way; nan where there is one."""
    return _combined(jnp.maximum, lambda part: part.max(axis=-1), values, shortest)


def _combined(
    combine: Callable[[Array, Array], Array], reduce: Callable[[Array], Array], values: Array, shortest: int
) -> Array:
    length = values.shape[-1]
    if jax.default_backend() != "cpu" or length < 2 * shortest:
        return reduce(values)
    halvings = (length // shortest).bit_length() - 1
    whole = length >> halvings << halvings
    halved = values[..., :whole]
    for _ in range(halvings):
        half = halved.shape[-1] // 2
        halved = combine(halved[..., :half], halved[..., half:])
    return reduce(halved) if whole == length else combine(reduce(halved), reduce(values[..., whole:]))
