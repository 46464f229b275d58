"""Plain JAX practice: Flax and Optax, ``jit(vmap(train))`` over all members at once, or one jitted run after another.

JAX's defaults throughout: one CPU device, no compiler options. The recurrent initialiser is not Flax's orthogonal one,
whose batched QR decomposition deadlocks on two cores.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from speed.workers import Work, timed
from speed.workloads import HEADS, KERNEL_SIZE, MLP_RATIO, Workload


class LSTM(nn.Module):
    """As Flax has it: one bias for each gate, where PyTorch has two."""

    hidden: int
    layers: int
    num_classes: int

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        values: Any = inputs
        for index in range(self.layers):
            cell = nn.OptimizedLSTMCell(
                self.hidden, recurrent_kernel_init=nn.initializers.lecun_normal(), name=f"layer_{index}"
            )
            values = nn.RNN(cell)(values)
        return nn.Dense(self.num_classes, name="output")(values[:, -1])


class Transformer(nn.Module):
    width: int
    layers: int
    num_classes: int

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        values = nn.Dense(self.width, name="features")(inputs)
        values += self.param("positions", nn.initializers.normal(0.02), values.shape[1:])
        for index in range(self.layers):
            normed = _norm(f"attention_norm_{index}")(values)
            values += nn.MultiHeadDotProductAttention(HEADS, name=f"attention_{index}")(normed)
            hidden = nn.Dense(MLP_RATIO * self.width, name=f"mlp_in_{index}")(_norm(f"mlp_norm_{index}")(values))
            values += nn.Dense(self.width, name=f"mlp_out_{index}")(nn.gelu(hidden, approximate=False))
        return nn.Dense(self.num_classes, name="output")(_norm("norm")(values).mean(axis=1))


class Conv(nn.Module):
    width: int
    layers: int
    num_classes: int

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        values = nn.Dense(self.width, name="features")(inputs)
        for index in range(self.layers):
            branch = nn.Conv(self.width, (KERNEL_SIZE,), name=f"convolution_{index}")(_norm(f"norm_{index}")(values))
            values += nn.gelu(branch, approximate=False)
        return nn.Dense(self.num_classes, name="output")(_norm("norm")(values).mean(axis=1))


class _Trainer:
    """One run, as anybody would write it; the arms map or repeat it."""

    def __init__(self, workload: dict[str, Any]) -> None:
        self.workload = Workload(**workload)
        kind = {"lstm": LSTM, "transformer": Transformer, "conv": Conv}[self.workload.kind]
        self.network = kind(self.workload.width, self.workload.layers, self.workload.num_classes)
        self.optimizer = optax.adam(self.workload.learning_rate)

    def start(self, key: Array) -> tuple[Any, Any, Any]:
        """Parameters, optimiser state and examples of a run."""
        w = self.workload
        inputs_key, labels_key, init_key = jax.random.split(key, 3)
        inputs = jax.random.normal(inputs_key, (w.num_examples, w.seq_len, w.features))
        labels = jax.random.randint(labels_key, (w.num_examples,), 0, w.num_classes)
        params = self.network.init(init_key, inputs[:1])["params"]
        return params, self.optimizer.init(params), (inputs, labels)

    def step(self, params: Any, opt_state: Any, data: Any, rows: Array, weights: Array) -> tuple[Any, Any, Array]:
        inputs, labels = (array[rows] for array in data)

        def loss(params: Any) -> Array:
            logits = self.network.apply({"params": params}, inputs)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.sum(losses * weights) / jnp.sum(weights)

        value, gradients = jax.value_and_grad(loss)(params)
        updates, opt_state = self.optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    def steps(self, params: Any, opt_state: Any, data: Any, key: Array, num_steps: Array) -> tuple[Any, Any]:
        """The first steps of an epoch; their number is an argument of the program."""
        order, weights = self.order(key)

        def body(index: Array, state: Any) -> Any:
            params, opt_state = state
            return self.step(params, opt_state, data, order[index], weights[index])[:2]

        return jax.lax.fori_loop(0, num_steps, body, (params, opt_state))

    def order(self, key: Array) -> tuple[Array, Array]:
        """Examples of each batch [step, batch] and their weights: 0 for what fills the last one up."""
        w = self.workload
        order = jnp.resize(jax.random.permutation(key, w.num_examples), (w.steps_per_epoch * w.batch_size,))
        weights = (np.arange(order.size) < w.num_examples).astype(np.float32)
        return order.reshape(-1, w.batch_size), jnp.asarray(weights).reshape(-1, w.batch_size)

    def run(self, key: Array, epochs: int) -> Array:
        """A whole run: loss and accuracy over the training set after each epoch, [epoch, 2]."""
        start_key, order_key = jax.random.split(key)
        params, opt_state, data = self.start(start_key)

        def epoch(state: Any, key: Array) -> tuple[Any, Array]:
            def body(state: Any, batch: Any) -> tuple[Any, None]:
                (params, opt_state), (rows, weights) = state, batch
                return self.step(params, opt_state, data, rows, weights)[:2], None

            state, _ = jax.lax.scan(body, state, self.order(key))
            logits: Any = self.network.apply({"params": state[0]}, data[0])
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, data[1]).mean()
            return state, jnp.stack([loss, jnp.mean(logits.argmax(axis=-1) == data[1])])

        return jax.lax.scan(epoch, (params, opt_state), jax.random.split(order_key, epochs))[1]

    def losses(self, path: str) -> list[float]:
        """Batch losses from a given start, by the function that is timed."""
        given = np.load(path)
        own = jax.tree.map(jnp.asarray, parameters(self.workload, given))
        expected = jax.eval_shape(lambda: self.start(jax.random.key(0))[0])
        assert jax.tree.map(lambda leaf: leaf.shape, own) == jax.tree.map(lambda leaf: leaf.shape, expected)
        data = (jnp.asarray(given["inputs"]), jnp.asarray(given["labels"]))
        # two equal members, because a mapped program is another one
        state = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (own, self.optimizer.init(own)))
        step = jax.jit(jax.vmap(self.step, in_axes=(0, 0, None, None, None)))
        losses = []
        for rows, weights in zip(given["rows"], given["weights"], strict=True):
            *state, loss = step(*state, data, rows, weights)
            losses.append(float(loss[1]))
        return losses


class Vmapped(_Trainer):
    """All members at once."""

    def __init__(self, workload: dict[str, Any], members: int) -> None:
        super().__init__(workload)
        self.members = members
        self.keys = jax.random.split(jax.random.key(0), members)

    def prepare_steps(self, seconds: float) -> dict[str, Any]:
        """As many steps as take about so many seconds, but one at least and an epoch at most."""
        params, opt_state, self.data = jax.jit(jax.vmap(self.start))(self.keys)
        self.state: Any = (params, opt_state)
        mapped = jax.vmap(self.steps, in_axes=(0, 0, 0, 0, None))
        with timed() as compiling:
            self.program = (
                jax.jit(mapped, donate_argnums=(0, 1)).lower(*self.state, self.data, self.keys, np.int32(1)).compile()
            )
        self.num_steps = 1
        for _ in range(2):  # the first touches the memory
            work = self.repeat_steps()
        self.seconds_a_step = work.stop - work.start
        self.num_steps = min(self.workload.steps_per_epoch, max(1, round(seconds / self.seconds_a_step)))
        return {"members": self.members, "steps": self.num_steps, "compile_seconds": compiling[1] - compiling[0]}

    def repeat_steps(self) -> Work:
        with timed() as clock:
            self.state = jax.block_until_ready(
                self.program(*self.state, self.data, self.keys, np.int32(self.num_steps))
            )
        return Work(self.members * self.num_steps, *clock)

    def prepare_runs(self, seconds: float, epochs: int) -> dict[str, Any]:
        """Runs of as many epochs as take about so many seconds; comes after ``prepare_steps``, which says how long."""
        self.state = self.data = None  # two populations at once are no part of what a run needs
        fitting = round(seconds / (self.seconds_a_step * self.workload.steps_per_epoch))
        fewer = min(epochs, max(1, fitting))
        with timed() as compiling:
            self.train = jax.jit(jax.vmap(lambda key: self.run(key, fewer))).lower(self.keys).compile()
        self.repeat_runs()
        return {"members": self.members, "epochs": fewer, "compile_seconds": compiling[1] - compiling[0]}

    def repeat_runs(self) -> Work:
        with timed() as clock:
            np.asarray(self.train(self.keys))
        return Work(self.members, *clock)


class Looped(_Trainer):
    """One jitted run after another, over seeds."""

    def prepare_runs(self, seconds: float, epochs: int) -> dict[str, Any]:
        key = jax.random.key(0)
        with timed() as compiling:
            self.train = jax.jit(lambda key: self.run(key, epochs)).lower(key).compile()
        self.members = 1
        for _ in range(2):
            work = self.repeat_runs()
        self.members = max(1, round(seconds / (work.stop - work.start)))
        return {"members": self.members, "epochs": epochs, "compile_seconds": compiling[1] - compiling[0]}

    def repeat_runs(self) -> Work:
        with timed() as clock:
            for seed in range(self.members):
                np.asarray(self.train(jax.random.key(seed)))
        return Work(self.members, *clock)


def parameters(workload: Workload, given: Any) -> Any:
    """Flax's parameters of the same function as lossjax's, ``params/<path>``."""

    def of(path: str) -> np.ndarray:
        return np.asarray(given[f"params/{path}"])

    def leaves(path: str, *names: str) -> dict[str, np.ndarray]:
        return {name: of(f"{path}/{name}") for name in names}

    params: dict[str, Any] = {"output": leaves("output", "kernel", "bias")}
    if workload.kind == "lstm":
        for index in range(workload.layers):
            layer = params[f"layer_{index}"] = {}
            into, across = (np.split(of(f"layer_{index}/kernel_{name}"), 4, axis=1) for name in ("ih", "hh"))
            biases = np.split(of(f"layer_{index}/bias_ih") + of(f"layer_{index}/bias_hh"), 4)
            for gate, x, h, b in zip("ifgo", into, across, biases, strict=True):
                layer |= {f"i{gate}": {"kernel": x}, f"h{gate}": {"kernel": h, "bias": b}}
        return params
    params |= {"features": leaves("features", "kernel", "bias"), "norm": leaves("norm", "scale", "bias")}
    for index in range(workload.layers):
        if workload.kind == "conv":
            params[f"norm_{index}"] = leaves(f"norm_{index}", "scale", "bias")
            params[f"convolution_{index}"] = leaves(f"convolution_{index}", "kernel", "bias")
            continue
        path = f"layer_{index}"
        width, head = workload.width, workload.width // HEADS
        kernels = np.split(of(f"{path}/query_key_value/kernel"), 3, axis=1)
        biases = np.split(of(f"{path}/query_key_value/bias"), 3)
        attention: dict[str, Any] = {
            name: {"kernel": kernel.reshape(width, HEADS, head), "bias": bias.reshape(HEADS, head)}
            for name, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True)
        }
        out = leaves(f"{path}/projection", "kernel", "bias")
        attention["out"] = {"kernel": out["kernel"].reshape(HEADS, head, width), "bias": out["bias"]}
        params[f"attention_{index}"] = attention
        for name in ("attention_norm", "mlp_norm"):
            params[f"{name}_{index}"] = leaves(f"{path}/{name}", "scale", "bias")
        for name in ("mlp_in", "mlp_out"):
            params[f"{name}_{index}"] = leaves(f"{path}/{name}", "kernel", "bias")
    if workload.kind == "transformer":
        params["positions"] = of("positions")
    return params


def _norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-5, name=name)
