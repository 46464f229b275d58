"""One member: how it starts, takes a step, and runs. No member axis here; ``population`` maps these functions."""

import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int

from lossjax.frequency import class_groups
from lossjax.hyperparams import Hyperparams
from lossjax.keys import Streams
from lossjax.tasks.task import Split, Splits, Task
from lossjax.training.blocks import in_blocks
from lossjax.training.config import SPLITS, TrainConfig
from lossjax.training.measure import NARROW, measure
from lossjax.training.objective import cross_entropy, log_prior, objective, weighted_mean
from lossjax.training.optimizers import make_optimizer

Records = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is static in a member's program, and hashable: the key under which it is compiled."""

    task: Task
    model: nn.Module
    config: TrainConfig

    @functools.cached_property
    def splits_shape(self) -> Splits:
        """Shapes and types of the task's splits, which are not drawn for that."""

        def drawn() -> Splits:
            return cast(Splits, jax.tree.map(jnp.asarray, self.task.splits(jax.random.key(0, impl="threefry2x32"))))

        return cast(Splits, jax.eval_shape(drawn))

    @functools.cached_property
    def params_shape(self) -> Any:
        """Shapes and types of a member's parameters."""
        return jax.eval_shape(lambda batch: _init_params(self, jax.random.key(0), batch), self.batch_shape)

    @property
    def num_parameters(self) -> int:
        """Of a member."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params_shape))

    @property
    def batch_shape(self) -> Split:
        """Shapes and types of a batch of training examples."""
        size = self.config.batch_size
        train = self.splits_shape.train
        return cast(Split, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), train))

    @property
    def sizes(self) -> dict[str, int]:
        """Examples in each split."""
        return {name: len(getattr(self.splits_shape, name).labels) for name in SPLITS}

    def pinned(self) -> "Cell":
        """The same cell with the content of a task's file pinned: training from another content is then refused."""
        pinned = getattr(self.task, "pinned", None)  # only tasks that read a file have it
        return self if pinned is None else dataclasses.replace(self, task=pinned())

    @property
    def measured(self) -> list[str]:
        """The splits that are evaluated: asked for, and with examples."""
        return [name for name in SPLITS if name in self.config.measure.splits and self.sizes[name]]

    @property
    def network(self) -> nn.Module:
        """The model with what it takes from the task: the number of classes and of tokens."""
        filled = {
            name: getattr(self.task, name)
            for name in ("num_classes", "num_tokens")
            if getattr(self.model, name, 0) is None  # a model of one's own may have no such field
        }
        return self.model.clone(**filled)

    @property
    def num_steps(self) -> int:
        return self.config.total_steps(self.sizes["train"])

    @property
    def steps_per_epoch(self) -> int:
        return self.config.steps_per_epoch(self.sizes["train"])

    @property
    def short_batch(self) -> int | None:
        """Examples in the last batch of an epoch, if more than a twentieth of all would else be filling; or None."""
        num_train, batch_size = self.sizes["train"], self.config.batch_size
        rows = self.steps_per_epoch * batch_size
        is_wasteful = rows - num_train > rows / 20 and self.num_steps >= self.steps_per_epoch
        return num_train % batch_size if is_wasteful else None


class Data(struct.PyTreeNode):
    """A member's examples, and what follows from the labels it trains on."""

    examples: Split  # training examples, then those of each other split measured: one forward pass serves all
    train_labels: Int[Array, " example"]  # trained on: with label noise where there is any
    class_counts: Float[Array, " class"]  # of the labels trained on
    groups: Int[Array, " class"] | None  # class-frequency group of each class, 0 the most frequent


class MemberState(struct.PyTreeNode):
    """What changes while a member trains: what a checkpoint holds."""

    params: Any
    opt_state: Any
    batch_loss: Float[Array, ""]  # plain cross-entropy of the last batch, before its update
    nonfinite_step: Int[Array, ""]  # -1 while everything is finite
    records: Records  # name → [eval, …]


class Span(struct.PyTreeNode):
    """Steps first … last-1 and evaluations first_eval … last_eval-1: what one call of ``run`` does."""

    first: Int[Array, ""]
    last: Int[Array, ""]
    first_eval: Int[Array, ""]
    last_eval: Int[Array, ""]


def prepare(cell: Cell, streams: Streams, hparams: Hyperparams, splits: Splits) -> Data:
    """Joins the splits, draws label noise (once, from the noise stream), and counts classes."""
    num_train, num_classes = cell.sizes["train"], cell.task.num_classes
    labels = jnp.asarray(splits.train.labels)
    if hparams.label_noise is not None:
        flip_key, label_key = jax.random.split(_label_noise_key(streams))
        flipped = jax.random.bernoulli(flip_key, hparams.label_noise, (num_train,))
        labels = jnp.where(flipped, jax.random.randint(label_key, (num_train,), 0, num_classes, labels.dtype), labels)
    used = _train_weights(cell, hparams)
    is_class = labels[:, None] == jnp.arange(num_classes)
    counts = jnp.sum(is_class if used is None else is_class * used[:, None], axis=0).astype(jnp.float32)
    num_groups = cell.config.measure.num_groups
    held_out = [getattr(splits, name) for name in cell.measured if name != "train"]
    return Data(
        examples=jax.tree.map(lambda *parts: jnp.concatenate(parts), splits.train, *held_out),
        train_labels=labels,
        class_counts=counts,
        # fewer classes than groups: a group would be a class or nothing
        groups=class_groups(counts, num_groups) if 0 < num_groups <= num_classes else None,
    )


def init(cell: Cell, streams: Streams, hparams: Hyperparams, data: Data) -> MemberState:
    """A member before its first step; every record is nan (or false) until it is measured."""
    params = _init_params(cell, streams.init, data.examples)
    if hparams.init_scale is not None:
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if path[-1].key == "scale" else leaf * hparams.init_scale, params
        )
    batch_loss = jnp.float32(jnp.nan)
    shapes = jax.eval_shape(lambda: evaluate(cell, params, hparams, data, batch_loss))
    num_evals = len(cell.config.eval_steps(cell.sizes["train"]))
    return MemberState(
        params=params,
        opt_state=make_optimizer(cell.config, hparams, cell.num_steps).init(params),
        batch_loss=batch_loss,
        nonfinite_step=jnp.int32(-1),
        records={
            name: jnp.full((num_evals, *shape.shape), jnp.nan if shape.dtype == jnp.float32 else 0, shape.dtype)
            for name, shape in shapes.items()
        },
    )


def run(cell: Cell, state: MemberState, streams: Streams, hparams: Hyperparams, data: Data, span: Span) -> MemberState:
    """Trains through a span of steps and measures wherever an evaluation is due.

    Bounds are arguments of the program, so one compilation serves every cut; they and the step index are the same for
    all members, so that under vmap a loop stays a loop and ``cond`` does not become a select.
    """
    evaluations = jnp.asarray(cell.config.eval_steps(cell.sizes["train"]))

    def until_evaluation(slot: Int[Array, ""], state: MemberState) -> MemberState:
        start = jnp.maximum(span.first, jnp.where(slot == 0, 0, evaluations[slot - 1]))
        stop = jnp.minimum(span.last, evaluations[slot])
        state = _train_steps(cell, state, streams, hparams, data, start, stop)
        is_due = stop == evaluations[slot]
        return jax.lax.cond(is_due, lambda s: _record(cell, s, hparams, data, slot, stop), lambda s: s, state)

    return jax.lax.fori_loop(span.first_eval, span.last_eval, until_evaluation, state)


def step(
    cell: Cell,
    state: MemberState,
    streams: Streams,
    hparams: Hyperparams,
    data: Data,
    order: Int[Array, " example"],
    index: Int[Array, ""],
    num_rows: int | None = None,
) -> MemberState:
    """One optimiser step on the batch that ``order`` (of this epoch) gives for step ``index``.

    The short batch at an epoch's end is filled up with examples of weight 0, to ``num_rows``: the batch size if None.
    """
    num_rows = cell.config.batch_size if num_rows is None else num_rows
    start = (index % cell.steps_per_epoch) * cell.config.batch_size
    rows = jax.lax.dynamic_slice(order, (start,), (num_rows,))
    weights = (start + jnp.arange(num_rows) < cell.sizes["train"]).astype(jnp.float32)
    inputs = data.examples.inputs[rows]
    mask = None if data.examples.mask is None else data.examples.mask[rows]
    labels = data.train_labels[rows]
    rngs = None
    if hparams.dropout is not None:
        rngs = {"dropout": jax.random.fold_in(_dropout_key(streams), index)}

    def loss(params: Any) -> tuple[Float[Array, ""], Float[Array, ""]]:
        logits = forward(cell, params, inputs, mask, hparams.dropout, rngs)
        trained = objective(cell.config, hparams, logits, labels, weights, data.class_counts)
        return trained, weighted_mean(cross_entropy(logits, labels), weights)

    (_, batch_loss), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
    optimizer = make_optimizer(cell.config, hparams, cell.num_steps)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, step=index)
    return state.replace(
        params=jax.tree.map(jnp.add, state.params, updates),
        opt_state=opt_state,
        batch_loss=batch_loss,
        nonfinite_step=_first_nonfinite(state, batch_loss, index + 1),
    )


def evaluate(
    cell: Cell, params: Any, hparams: Hyperparams, data: Data, batch_loss: Float[Array, ""]
) -> dict[str, Array]:
    """Every record of one evaluation, by name: ``val_loss`` and so on for each split with examples, and ``batch_loss``.

    Training metrics are of the labels trained on and of the examples used; validation and test labels are clean.
    """
    config = cell.config.measure
    records: Records = {"batch_loss": batch_loss}
    first = 0 if "train" in cell.measured else cell.sizes["train"]
    # many classes: a split at a time, since the logits of all would take the most memory of all
    together = cell.task.num_classes <= NARROW
    logits = _logits(cell, params, _examples(data, first, None)) if together else None
    start = first
    for split in cell.measured:
        stop = start + cell.sizes[split]
        if logits is None:
            rows = _logits(cell, params, _examples(data, start, stop))
        else:
            rows = logits[start - first : stop - first]
        labels = data.train_labels if split == "train" else data.examples.labels[start:stop]
        weights = _train_weights(cell, hparams) if split == "train" else None
        named = measure(rows, labels, data.groups, config, weights, records=split in config.per_example)
        if config.adjusted is not None:
            adjusted = measure(
                rows - config.adjusted * log_prior(data.class_counts), labels, data.groups, config, weights
            )
            # how many examples a group has, no adjustment changes
            named |= {f"adjusted_{name}": value for name, value in adjusted.items() if name != "group_share"}
        if split in config.logits:
            named["logits"] = rows
        records |= {f"{split}_{name}": value for name, value in named.items()}
        start = stop
    return records


def forward(
    cell: Cell,
    params: Any,
    inputs: Array,
    mask: Array | None,
    dropout_rate: Float[Array, ""] | None = None,
    rngs: dict[str, Array] | None = None,
) -> Float[Array, "batch class"]:
    """Logits of a batch; without dropout where no rate is given."""
    return cast(Array, cell.network.apply({"params": params}, inputs, mask, dropout_rate=dropout_rate, rngs=rngs))


def _init_params(cell: Cell, key: Array, examples: Split) -> Any:
    first = jax.tree.map(lambda array: array[:1], examples)
    return cell.network.init(key, first.inputs, first.mask)["params"]


def _train_steps(
    cell: Cell,
    state: MemberState,
    streams: Streams,
    hparams: Hyperparams,
    data: Data,
    start: Int[Array, ""],
    stop: Int[Array, ""],
) -> MemberState:
    """Steps start … stop-1, epoch by epoch: a permutation costs as much as a step or two, so once an epoch.

    A short batch at the end of an epoch is a program of its own where filling it up would cost more than it is worth.
    """
    per_epoch = cell.steps_per_epoch
    short = cell.short_batch

    def epoch_steps(epoch: Int[Array, ""], state: MemberState) -> MemberState:
        order = _order(cell, streams, hparams, data, epoch)
        first, end = jnp.maximum(start, epoch * per_epoch), (epoch + 1) * per_epoch
        last = jnp.minimum(stop, end)

        def advance(index: Int[Array, ""], state: MemberState, num_rows: int | None = None) -> MemberState:
            return step(cell, state, streams, hparams, data, order, index, num_rows)

        if short is None:
            return jax.lax.fori_loop(first, last, advance, state)
        state = jax.lax.fori_loop(first, jnp.minimum(last, end - 1), advance, state)
        return jax.lax.cond((first < last) & (last == end), lambda s: advance(end - 1, s, short), lambda s: s, state)

    return jax.lax.fori_loop(start // per_epoch, -(-stop // per_epoch), epoch_steps, state)


def _order(
    cell: Cell, streams: Streams, hparams: Hyperparams, data: Data, epoch: Int[Array, ""]
) -> Int[Array, " example"]:
    """The order of training examples in an epoch, filled up to whole batches by starting it again.

    With ``class_balance`` q they are drawn with replacement, each in proportion to the count of its class to the power
    of -q: with q = 1 all classes come equally often, with q = 0 all examples do (Kang et al. 2020, eq. 1, at 1 - q).
    """
    num_train = cell.sizes["train"]
    key = jax.random.fold_in(streams.order, epoch)
    if hparams.class_balance is not None:
        used = _train_weights(cell, hparams)
        shares = jnp.maximum(data.class_counts, 1)[data.train_labels] ** -hparams.class_balance
        cumulative = jnp.cumsum(shares if used is None else shares * used)
        drawn = cumulative[-1] * jax.random.uniform(key, (num_train,))
        # "right" never finds an example of weight 0; a draw that rounds up to the whole sum would find none at all
        order = jnp.searchsorted(cumulative, jnp.minimum(drawn, jnp.nextafter(cumulative[-1], 0.0)), side="right")
    else:
        order = jax.random.permutation(key, num_train)
        if hparams.train_size is not None:
            order = order % hparams.train_size.astype(order.dtype)
    return jnp.resize(order, (cell.steps_per_epoch * cell.config.batch_size,))


def _record(
    cell: Cell, state: MemberState, hparams: Hyperparams, data: Data, slot: Int[Array, ""], index: Int[Array, ""]
) -> MemberState:
    records = evaluate(cell, state.params, hparams, data, state.batch_loss)
    losses = [value for name, value in records.items() if name in ("train_loss", "val_loss", "test_loss")]
    total = sum(losses, start=jnp.float32(0))
    return state.replace(
        records={name: array.at[slot].set(records[name]) for name, array in state.records.items()},
        nonfinite_step=_first_nonfinite(state, total, index),
    )


def _examples(data: Data, start: int, stop: int | None) -> Split:
    return cast(Split, jax.tree.map(lambda array: array[start:stop], data.examples))


def _logits(cell: Cell, params: Any, examples: Split) -> Float[Array, "example class"]:
    """Logits of all examples, in blocks that stay in the cache (half the cost of one pass over 2,000 examples)."""
    inputs = examples.inputs
    if cell.task.shared and jnp.issubdtype(inputs.dtype, jnp.floating):
        # gives shared examples a member axis under vmap: XLA would fold all members of a tile into one product, and the
        # last bits would depend on their number. A product with 0 is kept, because of nan.
        inputs = inputs + 0.0 * jax.tree.leaves(params)[0].reshape(-1)[0]
    blocks = (inputs, examples.mask)
    return cast(Array, in_blocks(lambda block: forward(cell, params, *block), blocks, cell.config.measure.block))


def _train_weights(cell: Cell, hparams: Hyperparams) -> Float[Array, " example"] | None:
    """1 for the training examples that a member with ``train_size`` uses, 0 for the others; None where all are used."""
    if hparams.train_size is None:
        return None
    return (jnp.arange(cell.sizes["train"]) < hparams.train_size).astype(jnp.float32)


def _first_nonfinite(state: MemberState, value: Float[Array, ""], index: Int[Array, ""]) -> Int[Array, ""]:
    is_first = (state.nonfinite_step < 0) & ~jnp.isfinite(value)
    return jnp.where(is_first, index.astype(jnp.int32), state.nonfinite_step)


# the noise stream serves two purposes, each with a key of its own
def _label_noise_key(streams: Streams) -> Array:
    return jax.random.fold_in(streams.noise, 0)


def _dropout_key(streams: Streams) -> Array:
    return jax.random.fold_in(streams.noise, 1)
