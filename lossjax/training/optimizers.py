"""Optimisers and schedules whose hyperparameters may be traced, and which hyperparameters a TrainConfig takes."""

from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from lossjax.hyperparams import Hyperparams
from lossjax.training.config import TrainConfig


def make_optimizer(config: TrainConfig, hparams: Hyperparams, num_steps: int) -> optax.GradientTransformationExtraArgs:
    """The optimiser of one member; build it inside the traced function, since its hyperparameters are traced.

    ``update(gradients, opt_state, params, step=index)`` takes the index of the step about to be done, from 0: an
    argument, because the same unmapped number then serves the schedules of all members.

    In this order: the gradient's global norm is cut to ``clip_norm``; ``l2 * params`` is added to it; the optimiser's
    own rule; ``weight_decay * params`` is added; everything is multiplied by -learning_rate · schedule. So both decays
    follow PyTorch: ``l2`` is what its optimisers but AdamW call weight_decay, ``weight_decay`` is AdamW's, here for
    every optimiser. As there, all parameters are decayed, biases included. (PyTorch's clipping also adds 1e-6 to the
    norm.)

    Rules: ``momentum`` is Polyak's with the learning rate outside the velocity; ``adam`` and ``adamw`` have
    epsilon 1e-8 (Kingma & Ba 2015; Loshchilov & Hutter 2019) and differ only in that ``adamw`` requires weight_decay;
    ``lion`` is Chen et al. 2023.
    """
    parts: list[optax.GradientTransformation] = []
    if hparams.clip_norm is not None:
        parts.append(_clip_by_global_norm(hparams.clip_norm))
    if hparams.l2 is not None:
        parts.append(optax.add_decayed_weights(hparams.l2))
    parts.append(_rule(config, hparams))
    if hparams.weight_decay is not None:
        parts.append(optax.add_decayed_weights(hparams.weight_decay))
    parts.append(_scale_by_learning_rate(config, hparams, num_steps))
    return optax.chain(*parts)


def schedule(
    config: TrainConfig, hparams: Hyperparams, step: Int[Array, ""], num_steps: int
) -> Float[Array, ""] | float:
    """What the learning rate is multiplied by at step 0 … num_steps-1, in [0, 1].

    - ``constant``: 1.
    - ``warmup_cosine``: (step + 1)/W during the first W = warmup_fraction · num_steps steps, then half a cosine from 1
      at W to 0 at decay_fraction · num_steps (all steps where absent), 0 from there on. Where the decay would end
      before the warm-up, it follows the warm-up within one step.
    - ``step``: 1, then 0.1 from decay_fraction · num_steps on.
    """
    match config.schedule:
        case "constant":
            return 1.0
        case "warmup_cosine":
            assert hparams.warmup_fraction is not None  # check_hyperparams has refused it
            warmup = hparams.warmup_fraction * num_steps
            end = num_steps if hparams.decay_fraction is None else hparams.decay_fraction * num_steps
            progress = jnp.clip((step - warmup) / jnp.maximum(end - warmup, 1), 0, 1)
            # without warm-up the quotient is infinite, never 0/0, since step + 1 is at least 1
            return jnp.minimum((step + 1) / warmup, 1) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        case "step":
            assert hparams.decay_fraction is not None
            # float32 has 0.6 · 100 a little above 60: where a whole step is meant, the fall is at that one
            return jnp.where(step < hparams.decay_fraction * num_steps * (1 - 1e-6), 1.0, 0.1)


def check_hyperparams(config: TrainConfig, present: Collection[str]) -> None:
    """Refuses a population whose hyperparameters do not fit its TrainConfig.

    Args:
        present: names of the fields that have values.

    Raises:
        ValueError: the objective, optimiser or schedule needs a hyperparameter that is absent, or nothing would use
            one that is present.
    """
    choices = {kind: getattr(config, kind) for kind in ("objective", "optimizer", "schedule")}
    for kind, choice in choices.items():
        missing = [name for name in _NEEDS.get(choice, ()) if name not in present]
        if missing:
            raise ValueError(
                f"{kind}={choice!r} needs {missing[0]}, which is absent; give it, or choose another {kind}"
            )
    given = ", ".join(f"{kind}={choice!r}" for kind, choice in choices.items())
    for name in present:
        users = [choice for table in (_NEEDS, _TAKES) for choice, names in table.items() if name in names]
        if name not in _ALWAYS and not set(users) & set(choices.values()):
            raise ValueError(
                f"{name} is given, but {given} do not use it; leave it out, or choose {' or '.join(users)}"
            )


# by objective, optimiser or schedule: what it cannot do without, and what it has a default for
_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "focal": ("focal_gamma",),
    "flooding": ("flood_level",),
    "class_weighted": ("effective_number_beta",),
    "adamw": ("weight_decay",),
    "warmup_cosine": ("warmup_fraction",),
    "step": ("decay_fraction",),
}
_TAKES: Final[Mapping[str, tuple[str, ...]]] = {
    "cross_entropy": ("label_smoothing",),
    "logit_adjusted": ("label_smoothing", "logit_adjustment"),
    "class_weighted": ("label_smoothing",),
    "momentum": ("momentum",),
    "adam": ("beta1", "beta2"),
    "adamw": ("beta1", "beta2"),
    "lion": ("beta1", "beta2"),
    "warmup_cosine": ("decay_fraction",),
}
# whatever is trained, and however
_ALWAYS: Final = frozenset(
    (
        "learning_rate",
        "weight_decay",
        "l2",
        "clip_norm",
        "dropout",
        "label_noise",
        "train_size",
        "class_balance",
        "init_scale",
    )
)


def _rule(config: TrainConfig, hparams: Hyperparams) -> optax.GradientTransformation:
    """The optimiser's own update, before decay and learning rate."""
    match config.optimizer:
        case "sgd":
            return optax.identity()
        case "momentum":
            return optax.trace(_or(hparams.momentum, 0.9))
        case "adam" | "adamw":
            return _scale_by_adam(_or(hparams.beta1, 0.9), _or(hparams.beta2, 0.999))
        case "lion":
            return optax.scale_by_lion(_or(hparams.beta1, 0.9), _or(hparams.beta2, 0.99))


def _clip_by_global_norm(limit: Float[Array, ""]) -> optax.GradientTransformation:
    """``optax.clip_by_global_norm`` with one factor for all gradients.

    Optax divides them by the norm, and a division by a traced scalar has other last bits on one device than on two.
    """

    def update(gradients: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        norm = optax.tree.norm(gradients)
        factor = jnp.where(norm < limit, 1.0, limit / norm)
        return jax.tree.map(lambda gradient: gradient * factor, gradients), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class _Moments(NamedTuple):
    """Running means of gradients and of their squares, shaped as the parameters."""

    first: Any
    second: Any


def _scale_by_adam(
    beta1: Float[Array, ""] | float, beta2: Float[Array, ""] | float, epsilon: float = 1e-8
) -> optax.GradientTransformationExtraArgs:
    """Adam's update (Kingma & Ba 2015, algorithm 1).

    Not optax's, whose bias correction 1 - beta2**count, in float32, is off by up to 3e-5 in the first steps (enough to
    part from PyTorch's parameters in the fifth digit), and which keeps a count for each member.
    """

    def init(params: Any) -> _Moments:
        return _Moments(jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params))

    def update(
        gradients: Any, state: _Moments, params: Any = None, *, step: Int[Array, ""], **unused: Any
    ) -> tuple[Any, _Moments]:
        first = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.first, gradients)
        second = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state.second, gradients)
        correction1, correction2 = (-jnp.expm1((step + 1) * jnp.log1p(beta - 1)) for beta in (beta1, beta2))
        updates = jax.tree.map(lambda m, v: (m / correction1) / (jnp.sqrt(v / correction2) + epsilon), first, second)
        return updates, _Moments(first, second)

    return optax.GradientTransformationExtraArgs(init, update)


def _scale_by_learning_rate(
    config: TrainConfig, hparams: Hyperparams, num_steps: int
) -> optax.GradientTransformationExtraArgs:
    def init(params: Any) -> optax.EmptyState:
        return optax.EmptyState()

    def update(
        updates: Any, state: optax.EmptyState, params: Any = None, *, step: Int[Array, ""], **unused: Any
    ) -> tuple[Any, optax.EmptyState]:
        rate = hparams.learning_rate * schedule(config, hparams, step, num_steps)
        return jax.tree.map(lambda leaf: -rate * leaf, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _or(value: Float[Array, ""] | None, default: float) -> Float[Array, ""] | float:
    return default if value is None else value
