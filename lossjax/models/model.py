"""What every model has in common: the call, how inputs become vectors, pooling over time, and dropout."""

import math
from collections.abc import Callable
from typing import Any, Literal, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from lossjax.xla import apart, last_sum

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
    # times the reciprocal: a division by a traced scalar has other last bits on one device than on two
    return jnp.where(keep, values * (1.0 / (1.0 - rate)), 0.0)


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


class Linear(nn.Module):
    """``nn.Dense`` with the same parameters, on the last axis of ``values``, faster on a CPU to differentiate.

    All other axes are one, so that the weights' gradient is a product with one contracted axis (``sum_of_products``);
    for the bias's see ``add_to_rows``. Gradients are reverse-mode only (``jax.grad``, not ``jax.jvp``).
    """

    width: int
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, values: Float[Array, "*rows feature"]) -> Float[Array, "*rows width"]:
        kernel = self.param("kernel", self.kernel_init, (values.shape[-1], self.width))
        bias = self.param("bias", self.bias_init, (self.width,))
        rows = values.reshape(-1, values.shape[-1])
        return add_to_rows(_product(rows, kernel), bias).reshape(*values.shape[:-1], self.width)


@jax.custom_vjp
def _product(rows: Float[Array, "row feature"], kernel: Float[Array, "feature width"]) -> Float[Array, "row width"]:
    return rows @ kernel


def _product_gradients(saved: tuple[Array, Array], gradient: Float[Array, "row width"]) -> tuple[Array, Array]:
    rows, kernel = saved
    return gradient @ kernel.T, sum_of_products(rows, gradient)


_product.defvjp(lambda rows, kernel: (rows @ kernel, (rows, kernel)), _product_gradients)


def sum_of_products(left: Float[Array, "row a"], right: Float[Array, "row b"]) -> Float[Array, "a b"]:
    """``left.T @ right``: the gradient of a product's kernel.

    XLA on a CPU is up to twice as fast where the wider factor is the second, and the narrower has been turned before.
    """
    turned = apart(jnp.transpose)
    if left.shape[1] > right.shape[1]:
        return turned(turned(right) @ left)
    return turned(left) @ right


@jax.custom_vjp
def add_to_rows(rows: Float[Array, "row feature"], vector: Float[Array, " feature"]) -> Float[Array, "row feature"]:
    """``rows + vector``, whose gradient by the vector is a sum of its own.

    XLA puts all that leads to a sum's operand inside the sum, so a gradient that is used elsewhere, too, would be
    computed anew for each bias.
    """
    return rows + vector


def _sum_of_rows(rows: Float[Array, "row feature"]) -> Float[Array, " feature"]:
    return rows.sum(axis=0)


add_to_rows.defvjp(
    lambda rows, vector: (rows + vector, None), lambda _, gradient: (gradient, apart(_sum_of_rows)(gradient))
)


class LayerNorm(nn.Module):
    """Layer normalisation of the last axis (Ba et al. 2016), with ``torch.nn.LayerNorm``'s epsilon, 1e-5.

    Its gain is the parameter "scale". The same as ``nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)``, with a
    gradient that keeps the normalised values.
    """

    @nn.compact
    def __call__(self, values: Float[Array, "*rows feature"]) -> Float[Array, "*rows feature"]:
        width = values.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (width,))
        bias = self.param("bias", nn.initializers.zeros_init(), (width,))
        return _normalise(values.reshape(-1, width), scale, bias).reshape(values.shape)


@jax.custom_vjp
def _normalise(rows: Array, scale: Array, bias: Array) -> Array:
    return _normalise_forward(rows, scale, bias)[0]


def _normalise_forward(rows: Array, scale: Array, bias: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    normal, inverse = apart(_standardise)(rows)
    return normal * scale + bias, (normal, inverse, scale)


def _normalise_backward(saved: tuple[Array, Array, Array], gradient: Array) -> tuple[Array, Array, Array]:
    return apart(_normalise_gradients)(*saved, gradient)


_normalise.defvjp(_normalise_forward, _normalise_backward)


def _standardise(rows: Float[Array, "row feature"]) -> tuple[Float[Array, "row feature"], Float[Array, "row 1"]]:
    """Rows of mean 0 and variance 1, and one over the standard deviation they had."""
    # the fast variance E[x²] - E[x]² would cancel where the mean is large
    centred = rows - _mean_of_features(rows)
    inverse = jax.lax.rsqrt(_mean_of_features(centred * centred) + 1e-5)
    return centred * inverse, inverse


def _normalise_gradients(normal: Array, inverse: Array, scale: Array, gradient: Array) -> tuple[Array, Array, Array]:
    """By the rows, the scale and the bias."""
    scaled = gradient * scale
    along = _mean_of_features(scaled * normal)
    d_rows = inverse * (scaled - _mean_of_features(scaled) - normal * along)
    return d_rows, _sum_of_rows(gradient * normal), _sum_of_rows(gradient)


def _mean_of_features(rows: Float[Array, "row feature"]) -> Float[Array, "row 1"]:
    return last_sum(rows, shortest=8)[:, None] / rows.shape[-1]


@jax.custom_vjp
def gelu(values: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x Φ(x), Φ the distribution function of a standard normal (Hendrycks and Gimpel 2016), as in ``torch.nn.GELU``.

    ``jax.nn.gelu(approximate=False)`` takes an exponential more, and its gradient two passes more over what it saved.
    """
    return values * _normal_distribution(values)


def _gelu_forward(values: Array) -> tuple[Array, tuple[Array, Array]]:
    below = apart(_normal_distribution)(values)
    return values * below, (values, below)


def _gelu_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array]:
    return (apart(_gelu_gradient)(*saved, gradient),)


gelu.defvjp(_gelu_forward, _gelu_backward)


def _normal_distribution(values: Array) -> Array:
    return 0.5 + 0.5 * jax.lax.erf(values * math.sqrt(0.5))


def _gelu_gradient(values: Array, below: Array, gradient: Array) -> Array:
    density = math.sqrt(0.5 / math.pi) * jnp.exp(-0.5 * values * values)
    return gradient * (below + values * density)


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
