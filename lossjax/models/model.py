"""What every model has in common: the call, how inputs become vectors, pooling over time, and dropout."""

from collections.abc import Callable
from typing import Any, Literal, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

Inputs = Float[Array, "batch time feature"] | Int[Array, "batch time"]
Initializer = Callable[..., Array]


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
    """Zeroes each value with probability ``rate`` and divides the others by 1 - rate.

    ``nn.Dropout`` does the same but rejects a traced rate.
    """
    keep = jax.random.bernoulli(key, 1.0 - rate, values.shape)
    return jnp.where(keep, values / (1.0 - rate), 0.0)


def drop(module: nn.Module, values: Float[Array, "..."], rate: Float[Array, ""] | None) -> Float[Array, "..."]:
    """``dropout`` with the next key of the module's "dropout" stream; the values themselves where ``rate`` is None."""
    return values if rate is None else dropout(values, rate, module.make_rng("dropout"))


def time_steps(
    inputs: Inputs, mask: Bool[Array, "batch time"] | None, num_tokens: int | None, width: int
) -> Float[Array, "batch time feature"]:
    """The features, or a learned vector of ``width`` for each token; zeros where a step does not exist.

    Call it inside a compact method: the vectors are the parameter "tokens", drawn from N(0, 1) as in
    ``torch.nn.Embedding``. A token outside the vocabulary becomes NaN.
    """
    if jnp.issubdtype(inputs.dtype, jnp.integer):
        if num_tokens is None:
            raise ValueError(
                f"inputs are tokens ({inputs.dtype}) but num_tokens is None; give the model num_tokens=, the size of "
                "the vocabulary, or float inputs"
            )
        if inputs.ndim != 2:
            raise ValueError(f"tokens have shape {inputs.shape}; the rule is [batch, time]; reshape them")
        values = nn.Embed(num_tokens, width, embedding_init=nn.initializers.normal(1.0), name="tokens")(inputs)
    else:
        if num_tokens is not None:
            raise ValueError(
                f"inputs are {inputs.dtype} but num_tokens={num_tokens}; tokens are integers, and a model of features "
                "has num_tokens=None"
            )
        if inputs.ndim != 3:
            raise ValueError(f"features have shape {inputs.shape}; the rule is [batch, time, feature]; reshape them")
        values = inputs
    if mask is None:
        return values
    if mask.shape != inputs.shape[:2]:
        raise ValueError(
            f"mask has shape {mask.shape} and inputs {inputs.shape}; a mask is [batch, time] of the inputs"
        )
    return jnp.where(mask[..., None], values, 0.0)


def pool(
    values: Float[Array, "batch time feature"],
    mask: Bool[Array, "batch time"] | None,
    pooling: Literal["mean", "last", "first"],
) -> Float[Array, "batch feature"]:
    """One vector an example: the mean of its steps, or the last or first of them; zeros where no step exists."""
    if mask is None:
        return values.mean(axis=1) if pooling == "mean" else values[:, -1 if pooling == "last" else 0]
    # weights and a sum instead of a gather, whose gradient is a scatter: slow on CPU, of undefined order on GPU
    exists = mask.astype(values.dtype)
    if pooling == "mean":
        weights = exists / jnp.maximum(exists.sum(axis=1, keepdims=True), 1.0)
    elif pooling == "last":
        weights = exists * (jnp.cumsum(exists[:, ::-1], axis=1)[:, ::-1] == 1.0)
    else:
        weights = exists * (jnp.cumsum(exists, axis=1) == 1.0)
    return jnp.sum(values * weights[..., None], axis=1)


def layer_norm(name: str) -> nn.LayerNorm:
    """Layer normalisation with ``torch.nn.LayerNorm``'s epsilon; its gain is the parameter "scale"."""
    # the fast variance E[x²] - E[x]² cancels where the mean is large
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)


def symmetric_uniform(limit: float) -> Initializer:
    """An initialiser that draws from U(-limit, limit)."""

    def draw(key: Key[Array, ""], shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return draw


def required_classes(model: Model) -> int:
    """The model's ``num_classes``; ValueError where it is None."""
    if model.num_classes is None:
        raise ValueError(
            f"{type(model).__name__} has num_classes=None, which training fills in from the task; "
            f"to call it by hand give num_classes, as in {type(model).__name__}(..., num_classes=2)"
        )
    return model.num_classes


def check_counts(model: object, *names: str) -> None:
    """ValueError unless each named field is a whole number of at least 1, or None where None is its default."""
    for name in names:
        value = getattr(model, name)
        if value is None and getattr(type(model), name, 0) is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r} must be a whole number (a Python int) of at least 1")


def check_choice(model: object, name: str, allowed: tuple[str, ...]) -> None:
    """ValueError unless the named field is one of ``allowed``."""
    if getattr(model, name) not in allowed:
        raise ValueError(f"{name}={getattr(model, name)!r} is none of {', '.join(allowed)}")
