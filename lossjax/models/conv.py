"""One-dimensional convolutional network with residual layers (He et al. 2016)."""

from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
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
    sum_of_products,
    time_steps,
)

Pooling = Literal["mean", "last"]


class Conv(nn.Module):
    """Residual layers of normalisation, convolution over time and GELU; then pooling and a linear layer.

    Features enter through a linear layer, tokens through learned vectors. A layer's output at a step depends on
    ``kernel_size`` steps around it; steps before the start, after the end or left out by the mask count as zeros.
    Dropout is applied on each residual branch. Gradients are reverse-mode only (``jax.grad``, not ``jax.jvp``).
    """

    width: int
    kernel_size: int = 5
    layers: int = 2
    pooling: Pooling = "mean"
    num_classes: int | None = None
    num_tokens: int | None = None

    def __post_init__(self) -> None:
        check_counts(self, "width", "kernel_size", "layers", "num_classes", "num_tokens")
        check_choice(self, "pooling", get_args(Pooling))
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
        values = time_steps(inputs, mask, self.num_tokens, self.width)
        if self.num_tokens is None:
            values = Linear(self.width, name="features")(values)
        for index in range(self.layers):
            branch = LayerNorm(name=f"norm_{index}")(values)
            if mask is not None:
                # the normalisation's bias has made padding non-zero
                branch = jnp.where(mask[..., None], branch, 0.0)
            branch = Convolution(self.width, self.kernel_size, name=f"convolution_{index}")(branch)
            values = values + drop(self, gelu(branch), dropout_rate)
        pooled = pool(LayerNorm(name="norm")(values), mask, self.pooling)
        return Linear(num_classes, name="output")(pooled)


class Convolution(nn.Module):
    """``nn.Conv(width, (kernel_size,), padding="SAME")`` with the same parameters, as patches times a matrix.

    Mapped over weights, ``nn.Conv`` becomes a grouped convolution, many times slower than a batched product.
    """

    width: int
    kernel_size: int

    @nn.compact
    def __call__(self, values: Float[Array, "batch time feature"]) -> Float[Array, "batch time width"]:
        num_features = values.shape[-1]
        # variance 1 / (kernel_size * features), as nn.Conv draws it
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.kernel_size, num_features, self.width))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.width,))
        rows = _convolve(values, kernel).reshape(-1, self.width)
        return add_to_rows(rows, bias).reshape(*values.shape[:2], self.width)


@jax.custom_vjp
def _convolve(
    values: Float[Array, "batch time feature"], kernel: Float[Array, "offset feature width"]
) -> Float[Array, "batch time width"]:
    return _convolve_forward(values, kernel)[0]


def _convolve_forward(values: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    size, _, width = kernel.shape
    patches = _patches(values, before=(size - 1) // 2, size=size)
    return (patches @ kernel.reshape(-1, width)).reshape(*values.shape[:2], width), (values, kernel)


def _convolve_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    # the gradient by the values is a convolution, too, with the kernel turned round: patches again, where autodiff
    # would add up one padded array for each offset. The kernel's is of the same patches, whose long side is the second
    values, kernel = saved
    size, num_features, width = kernel.shape
    patches = _patches(gradient, before=size // 2, size=size)
    turned = kernel[::-1].swapaxes(1, 2).reshape(-1, num_features)
    d_values = (patches @ turned).reshape(values.shape)
    d_turned = sum_of_products(values.reshape(-1, num_features), patches)
    d_kernel = d_turned.reshape(num_features, size, width)[:, ::-1].swapaxes(0, 1)
    return d_values, d_kernel


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _patches(values: Float[Array, "batch time feature"], before: int, size: int) -> Float[Array, "row patch"]:
    """The ``size`` steps around each step, side by side, zeros outside; a row an example and step."""
    num_steps = values.shape[1]
    padded = jnp.pad(values, ((0, 0), (before, size - 1 - before), (0, 0)))
    patches = jnp.concatenate([padded[:, at : at + num_steps] for at in range(size)], axis=-1)
    return patches.reshape(-1, patches.shape[-1])
