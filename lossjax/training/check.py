"""What is refused, in words, before anything is compiled: cells that do not fit together, members that do not fit them.

A model or a task of the user's own may fail in any way; what is said then names it, what it was given and has to give,
and the line of the user's code.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lossjax import origin
from lossjax.identity import describe
from lossjax.tasks.task import Split
from lossjax.training.config import TrainConfig
from lossjax.training.memory import per_example_bytes
from lossjax.training.optimizers import check_hyperparams
from lossjax.training.train import Cell

if TYPE_CHECKING:
    from lossjax.training.population import Members


def check_types(cell: Cell, of: str = "") -> None:
    """Refuses what is no task, no model or no config; ``of`` says of which cell it is."""
    for field, fits, example in (
        # of the type: the protocol's properties would read files
        ("task", callable(getattr(type(cell.task), "splits", None)), "lossjax.tasks.RandomLabels()"),
        ("model", isinstance(cell.model, nn.Module), "lossjax.models.LSTM(hidden=16)"),
        ("config", isinstance(cell.config, TrainConfig), "TrainConfig(batch_size=16, epochs=50)"),
    ):
        value = getattr(cell, field)
        if not fits:
            raise ValueError(f"{field}={value!r}{of} is no {field}; give {example}")
        try:
            describe(value)  # results say what was run
        except TypeError as error:
            raise ValueError(f"{field}={value!r}{of}: {error}") from error


def check_cell(cell: Cell, members: "Members") -> None:
    """Refuses what does not fit: task, model, hyperparameters, sizes, records too large to keep.

    Raises:
        ValueError: that, with the rule and the remedy; or an error in a task or model of the user's own, with its line.
    """
    check_hyperparams(cell.config, set(members.hyperparams))
    with _task_explained(cell):
        cell.sizes  # noqa: B018  # traces the task
    check_model(cell, uses_dropout="dropout" in members.hyperparams)
    if not cell.measured:
        raise ValueError(f"none of the splits {cell.config.measure.splits} has examples; measure one that has")
    cell.config.eval_steps(cell.sizes["train"])
    sizes = members.hyperparams.get("train_size")
    if sizes is not None and sizes.max() > cell.sizes["train"]:
        raise ValueError(f"train_size={sizes.max():g} exceeds the {cell.sizes['train']} training examples; lower it")
    records, budget = per_example_bytes(cell) * len(members), cell.config.measure.budget_gib
    if records > budget * 2**30:
        raise ValueError(
            f"per-example records of {len(members)} members take {records / 2**30:.1f} GiB and budget_gib={budget:g}; "
            "keep fewer splits or evaluations, or raise Measure(budget_gib=)"
        )


def check_model(cell: Cell, *, uses_dropout: bool = False) -> None:
    """Refuses a model that fails on a batch, or was made for another number of classes or tokens than its task has."""
    task, network = cell.task, cell.network
    num_tokens = getattr(network, "num_tokens", task.num_tokens)
    if num_tokens != task.num_tokens:
        raise ValueError(
            f"the model has num_tokens={num_tokens} and the task {task.num_tokens}; leave num_tokens out of the model, "
            "and it takes the task's"
        )
    try:
        logits = _logits_shape(cell, uses_dropout)
    except Exception as error:
        if isinstance(error, ValueError) and origin.is_lossjaxs(error):
            raise  # it says all
        raise _model_failed(cell, error) from error
    size = cell.config.batch_size
    if not isinstance(logits, jax.ShapeDtypeStruct) or logits.dtype != jnp.float32:
        given = _text(logits) if isinstance(logits, jax.ShapeDtypeStruct) else f"a {type(logits).__name__}"
        raise ValueError(f"{_named(cell)} returned {given}; {_rule(cell)}")
    if logits.shape != (size, task.num_classes):
        raise ValueError(
            f"the model's logits of {size} examples have shape {logits.shape} and the task has {task.num_classes} "
            "classes; leave num_classes out of the model, and it takes the task's"
        )


@contextlib.contextmanager
def model_explained(cell: Cell) -> Iterator[None]:
    """An error in the user's own model that shows only when it is differentiated or mapped."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError):
        raise  # the compiler's own
    except Exception as error:
        # what cannot be differentiated is found after the model's own lines were left
        of_own_model = not type(cell.model).__module__.startswith("lossjax.") and not origin.is_lossjaxs(error)
        if not origin.is_users(error) and not of_own_model:
            raise
        raise _model_failed(cell, error) from error


@contextlib.contextmanager
def _task_explained(cell: Cell) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not origin.is_users(error):
            raise
        raise ValueError(
            f"{type(cell.task).__name__}, the task, failed: {origin.told(error)}; a task's splits(key) is traced by "
            "jax and returns lossjax.tasks.Splits(train, val, test)"
        ) from error


def _logits_shape(cell: Cell, uses_dropout: bool) -> Any:
    """What the network gives for a batch, with dropout where members use it; nothing is computed."""

    def apply(params: Any, batch: Split, key: Any, rate: Any) -> Any:
        rngs = {"dropout": key} if uses_dropout else None
        return cell.network.apply({"params": params}, batch.inputs, batch.mask, dropout_rate=rate, rngs=rngs)

    rate = jax.ShapeDtypeStruct((), jnp.float32) if uses_dropout else None
    return jax.eval_shape(apply, cell.params_shape, cell.batch_shape, jax.eval_shape(lambda: jax.random.key(0)), rate)


def _model_failed(cell: Cell, error: Exception) -> ValueError:
    return ValueError(f"{_named(cell)} failed: {origin.told(error)}; {_rule(cell)}")


def _named(cell: Cell) -> str:
    return f"{type(cell.model).__name__}, the model,"


def _rule(cell: Cell) -> str:
    batch = cell.batch_shape
    mask = "None" if batch.mask is None else _text(batch.mask)
    return (
        "on this task __call__(self, inputs, mask=None, *, dropout_rate=None) of a model gets inputs "
        f"{_text(batch.inputs)}, mask {mask} and dropout_rate None or float32[], and returns logits "
        f"float32[{cell.config.batch_size}, {cell.task.num_classes}]; it is a Flax Linen module that has parameters "
        'and no other variables, and draws from make_rng("dropout") only where dropout_rate is given'
    )


def _text(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"
