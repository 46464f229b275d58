"""Transformer encoder, pre-norm (Vaswani et al. 2017; Xiong et al. 2020, fig. 1b)."""

from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lossjax.models.model import (
    Inputs,
    LayerNorm,
    Linear,
    add_to_rows,
    check_choice,
    check_counts,
    drop,
    gelu,
    pool,
    required_classes,
    time_steps,
)
from lossjax.xla import apart

Pooling = Literal["mean", "last", "first"]
Positions = Literal["learned", "sinusoidal"]


class Transformer(nn.Module):
    """Encoder layers of self-attention and a GELU network, a final normalisation, pooling and a linear layer.

    Features enter through a linear layer, tokens through learned vectors; positions are added to both. Every step
    attends to all steps that exist. Learned positions are as many as the input at initialisation has steps: later
    inputs may be shorter, not longer. Dropout is applied after the positions and on both residual branches of a layer.
    Gradients are reverse-mode only (``jax.grad``, not ``jax.jvp``).
    """

    width: int
    layers: int = 2
    heads: int = 4
    mlp_ratio: int = 4  # hidden width of a layer's network, in multiples of width
    pooling: Pooling = "mean"
    positions: Positions = "learned"
    num_classes: int | None = None
    num_tokens: int | None = None

    def __post_init__(self) -> None:
        check_counts(self, "width", "layers", "heads", "mlp_ratio", "num_classes", "num_tokens")
        check_choice(self, "pooling", get_args(Pooling))
        check_choice(self, "positions", get_args(Positions))
        if self.width % self.heads:
            raise ValueError(
                f"width={self.width} is not a multiple of heads={self.heads}; each head takes an equal share"
            )
        if self.positions == "sinusoidal" and self.width % 2:
            raise ValueError(
                f"width={self.width} is odd; sinusoidal positions are pairs of sine and cosine: make it even"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        inputs: Inputs,
        mask: Bool[Array, "batch time"] | None = None,
        *,
        dropout_rate: Float[Array, ""] | None = None,
    ) -> Float[Array, "batch class"]:
        num_classes = required_classes(self)
        steps = time_steps(inputs, mask, self.num_tokens, self.width)
        batch, time = steps.shape[:2]
        if self.num_tokens is None:
            steps = Linear(self.width, name="features")(steps)
        placed = add_to_rows(steps.reshape(batch, time * self.width), self._position_vectors(time).reshape(-1))
        values = drop(self, placed.reshape(batch * time, self.width), dropout_rate)
        for index in range(self.layers):
            layer = _EncoderLayer(time, self.heads, self.mlp_ratio * self.width, name=f"layer_{index}")
            values = layer(values, mask, dropout_rate)
        normal = LayerNorm(name="norm")(values).reshape(batch, time, self.width)
        return Linear(num_classes, name="output")(pool(normal, mask, self.pooling))

    def _position_vectors(self, num_steps: int) -> Float[Array, "time width"]:
        if self.positions == "sinusoidal":
            return jnp.asarray(sinusoids(num_steps, self.width))
        # an apply may have fewer steps than the parameter has positions, which self.param would refuse
        if self.has_variable("params", "positions"):
            table: Array = self.get_variable("params", "positions")
        else:
            table = self.param("positions", nn.initializers.normal(0.02), (num_steps, self.width))
        if num_steps > len(table):
            raise ValueError(
                f"inputs have {num_steps} time steps but {len(table)} positions were learned; "
                'initialise with the longest input, or take positions="sinusoidal"'
            )
        return table[:num_steps]


class _EncoderLayer(nn.Module):
    time: int
    heads: int
    mlp_width: int

    @nn.compact
    def __call__(
        self, values: Float[Array, "row feature"], mask: Array | None, dropout_rate: Array | None
    ) -> Float[Array, "row feature"]:
        width = values.shape[-1]
        joined = Linear(3 * width, name="query_key_value")(LayerNorm(name="attention_norm")(values))
        query, key, value = (
            part.reshape(-1, self.time, self.heads, width // self.heads) for part in jnp.split(joined, 3, axis=-1)
        )
        attended = _attention(query, key, value, mask).reshape(values.shape)
        values = values + drop(self, Linear(width, name="projection")(attended), dropout_rate)
        hidden = Linear(self.mlp_width, name="mlp_in")(LayerNorm(name="mlp_norm")(values))
        hidden = gelu(hidden)
        return values + drop(self, Linear(width, name="mlp_out")(hidden), dropout_rate)


def _attention(
    query: Float[Array, "batch time head feature"],
    key: Float[Array, "batch time head feature"],
    value: Float[Array, "batch time head feature"],
    mask: Bool[Array, "batch time"] | None,
) -> Float[Array, "batch time head feature"]:
    """``jax.nn.dot_product_attention``, with a softmax that is faster on a CPU.

    Who attends does not matter; a step that does not exist is never attended to.
    """
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
    return jnp.einsum("bhqk,bkhd->bqhd", _softmax(scores), value)


@jax.custom_vjp
def _softmax(scores: Float[Array, "*rows key"]) -> Float[Array, "*rows key"]:
    shifted = scores - scores.max(axis=-1, keepdims=True)
    # one long row: XLA vectorises exponentials along a row, and the last few of a short one take as long as the rest
    exponentials = apart(jnp.exp)(shifted.reshape(-1)).reshape(scores.shape)
    return exponentials * (1.0 / exponentials.sum(axis=-1, keepdims=True))


def _softmax_forward(scores: Array) -> tuple[Array, Array]:
    weights = _softmax(scores)
    return weights, weights


def _softmax_backward(weights: Array, gradient: Array) -> tuple[Array]:
    return (weights * (gradient - (weights * gradient).sum(axis=-1, keepdims=True)),)


_softmax.defvjp(_softmax_forward, _softmax_backward)


def sinusoids(num_steps: int, width: int) -> np.ndarray:
    """[time, width] float32: sines in the even columns, cosines in the odd ones (Vaswani et al. 2017, sec. 3.5)."""
    wavelengths = 10_000.0 ** (np.arange(0, width, 2) / width)
    angles = np.arange(num_steps)[:, None] / wavelengths
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(num_steps, width).astype(np.float32)
