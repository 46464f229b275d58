"""Long short-term memory (Hochreiter & Schmidhuber 1997), with PyTorch's equations and initial distribution."""

import math
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lossjax.models.model import (
    Initializer,
    Inputs,
    Linear,
    check_choice,
    check_counts,
    drop,
    pool,
    required_classes,
    symmetric_uniform,
    time_steps,
)
from lossjax.xla import apart

Pooling = Literal["last", "mean"]
Initialization = Literal["torch", "glorot"]


class LSTM(nn.Module):
    """Stacked LSTM layers, pooled over time, and one linear layer to the logits.

    A layer's parameters are those of ``torch.nn.LSTM``, its matrices turned into Flax's kernels, [in, out]:
    ``kernel_ih`` [feature, 4 hidden] is ``weight_ih.T``, ``kernel_hh`` [hidden, 4 hidden] is ``weight_hh.T``, and
    ``bias_ih`` and ``bias_hh`` [4 hidden] are what they are there, gates in the order input, forget, cell, output. The
    two biases are separate because Adam updates each. A step that the mask leaves out changes neither hidden nor cell
    state. Dropout is applied to the outputs of every layer but the last, and to the pooled output.

    ``initializer="torch"`` draws every parameter from U(-1/√hidden, 1/√hidden) (``torch.nn.LSTM``, and
    ``torch.nn.Linear`` for the output). ``"glorot"`` draws each gate's matrices from U(-r, r), r = √(6 / (fan in +
    fan out)) (Glorot & Bengio 2010, eq. 16) and sets biases to 0.
    """

    hidden: int
    layers: int = 1
    pooling: Pooling = "last"
    initializer: Initialization = "torch"
    embedding: int | None = None  # width of a token's vector; None: hidden
    num_classes: int | None = None
    num_tokens: int | None = None

    def __post_init__(self) -> None:
        check_counts(self, "hidden", "layers", "embedding", "num_classes", "num_tokens")
        check_choice(self, "pooling", get_args(Pooling))
        check_choice(self, "initializer", get_args(Initialization))
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
        steps = time_steps(inputs, mask, self.num_tokens, self.embedding or self.hidden)
        # time first, because the layers loop over it
        values = jnp.swapaxes(steps, 0, 1)
        exists = None if mask is None else mask.T
        for index in range(self.layers):
            if index > 0:
                values = drop(self, values, dropout_rate)
            layer = _Parameters(self.hidden, self.initializer, name=f"layer_{index}")
            values, last = lstm_layer(values, *layer(values.shape[-1]), exists)
        pooled = last if self.pooling == "last" else pool(jnp.swapaxes(values, 0, 1), mask, self.pooling)
        weights, biases = _output_initializers(self.initializer, self.hidden)
        output = Linear(num_classes, weights, biases, name="output")
        return output(drop(self, pooled, dropout_rate))


def lstm_layer(
    inputs: Float[Array, "time batch feature"],
    kernel_ih: Float[Array, "feature gate"],
    kernel_hh: Float[Array, "hidden gate"],
    bias_ih: Float[Array, " gate"],
    bias_hh: Float[Array, " gate"],
    mask: Bool[Array, "time batch"] | None = None,
) -> tuple[Float[Array, "time batch hidden"], Float[Array, "batch hidden"]]:
    """One LSTM layer's hidden states, and the last of them, from zero initial states.

    ``gate`` is 4 hidden, in the order i, f, g, o; the equations are those of ``torch.nn.LSTM``. Where ``mask`` is
    False, a step repeats the states before it, so the last state is that of the last step that exists. Gradients are
    reverse-mode only (``jax.grad``, not ``jax.jvp``).
    """
    # one matrix for [x, 1, h]: one product a step, and one product for all weight gradients
    weights = jnp.concatenate([kernel_ih, (bias_ih + bias_hh)[None], kernel_hh])
    return _recurrence(jnp.concatenate([inputs, jnp.ones_like(inputs[..., :1])], axis=-1), weights, mask)


# ---- The recurrence and its gradient ------------------------------------------------------------------------------
#
# Plain autodiff would save every intermediate of a step and add up the weight gradients step by step. Here the forward
# scan keeps the four tanh values, the cell states and their tanh; the reverse scan only makes the gradients dz of the
# pre-activations; weights and inputs then take one product each over all steps. The product for the inputs stands
# outside the scan, so that the compiler drops it where nobody needs their gradient. The last state is an output of its
# own: where only it is used, neither the scan's stack of outputs nor its gradient remains in the program.
#
# Two scans of up to LONGEST_UNROLLED steps are written out, which leaves no stacks to be zeroed, filled and read. That
# pays only together with ``apart``: in one straight program XLA would fuse, and so compute again, what it can reach. A
# batch of fewer than FEWEST_UNROLLED examples gains 20 %, and nothing in a whole run that has one at an epoch's end.

LONGEST_UNROLLED = 32
FEWEST_UNROLLED = 8
NARROW = 16  # up to here a loop that is not written out adds up the weights' gradient as it goes


@jax.custom_vjp
def _recurrence(
    inputs: Float[Array, "time batch feature"],  # the last feature is 1, for the bias
    weights: Float[Array, "joined gate"],  # joined = feature + hidden
    mask: Bool[Array, "time batch"] | None,
) -> tuple[Float[Array, "time batch hidden"], Float[Array, "batch hidden"]]:
    outputs, last, _ = _scan(inputs, weights, mask, save=False)
    return outputs, last


def _forward(inputs: Array, weights: Array, mask: Array | None) -> tuple[tuple[Array, Array], tuple]:
    outputs, last, saved = _scan(inputs, weights, mask, save=True)
    return (outputs, last), (inputs, weights, mask, saved)


def _backward(residuals: tuple, gradients: tuple[Array, Array]) -> tuple[Array, Array, None]:
    d_outputs, d_last = gradients
    inputs, weights, mask, (joined, activations, previous_cells, cell_tanhs) = residuals
    num_features = inputs.shape[-1]
    # turned once: in steps that are written out each product would turn the weights again
    recurrent = apart(jnp.transpose)(weights[num_features:])
    added_up = recurrent.shape[1] <= NARROW and _unrolled(inputs) == 1

    def step(carry: tuple[Array, Array, Array | None], saved: tuple) -> tuple[tuple[Array, Array, Array | None], Array]:
        d_hidden, d_cell, d_weights = carry
        d_output, activation, previous_cell, cell_tanh, features, exists = saved
        d_hidden = d_hidden + d_output
        if exists is not None:
            held = (jnp.where(exists, 0.0, d_hidden), jnp.where(exists, 0.0, d_cell))
            d_hidden, d_cell = jnp.where(exists, d_hidden, 0.0), jnp.where(exists, d_cell, 0.0)
        dz, d_cell = apart(_gate_gradients)(activation, previous_cell, cell_tanh, d_hidden, d_cell)
        if d_weights is not None:
            d_weights = d_weights + features.T @ dz
        d_hidden = dz @ recurrent
        if exists is not None:
            d_hidden, d_cell = d_hidden + held[0], d_cell + held[1]
        return (d_hidden, d_cell, d_weights), dz

    (_, _, d_weights), dz = jax.lax.scan(
        step,
        (d_last, jnp.zeros_like(d_last), jnp.zeros_like(weights) if added_up else None),
        (
            d_outputs,
            activations,
            previous_cells,
            cell_tanhs,
            joined if added_up else None,
            None if mask is None else mask[..., None],
        ),
        reverse=True,
        unroll=_unrolled(inputs),
    )
    rows = _rows(dz)
    d_inputs = (rows @ weights[:num_features].T).reshape(inputs.shape)
    if d_weights is None:
        d_weights = _rows(joined).T @ rows
    return d_inputs, d_weights, None


_recurrence.defvjp(_forward, _backward)


def _scan(inputs: Array, weights: Array, mask: Array | None, *, save: bool) -> tuple[Array, Array, tuple | None]:
    """Hidden states and the last of them; with ``save`` also what the gradient needs, each [time, batch, ...].

    That is the inputs with the hidden states before, the four gates' tanh, the cell states before, and the tanh of
    those after.
    """
    hidden = weights.shape[1] // 4
    activate, states = (apart(_activate), apart(_next_states)) if save else (_activate, _next_states)

    def step(carry: tuple[Array, Array], at: tuple) -> tuple[tuple[Array, Array], tuple]:
        previous_state, previous_cell = carry
        features, exists = at
        joined = jnp.concatenate([features, previous_state], axis=-1)
        activation = activate(joined @ weights)
        state, cell, cell_tanh = states(activation, previous_cell)
        if exists is not None:
            state, cell = jnp.where(exists, state, previous_state), jnp.where(exists, cell, previous_cell)
        return (state, cell), (state, (joined, activation, previous_cell, cell_tanh) if save else None)

    start = jnp.zeros((inputs.shape[1], hidden), inputs.dtype)
    exists = None if mask is None else mask[..., None]
    unroll = _unrolled(inputs) if save else 1
    (last, _), (outputs, saved) = jax.lax.scan(step, (start, start), (inputs, exists), unroll=unroll)
    return outputs, last, saved


def _rows(steps: Float[Array, "time batch column"]) -> Float[Array, "row column"]:
    """time × batch; joined step by step, so that XLA puts what the steps made where it is needed, without a stack."""
    if _unrolled(steps) == 1:
        return steps.reshape(-1, steps.shape[-1])
    return jnp.concatenate([steps[index] for index in range(len(steps))])


def _unrolled(inputs: Float[Array, "time batch feature"]) -> int:
    """Steps of a scan that are written out as one: all, or 1."""
    num_steps, batch_size, _ = inputs.shape
    return num_steps if num_steps <= LONGEST_UNROLLED and batch_size >= FEWEST_UNROLLED else 1


def _activate(gates: Float[Array, "batch gate"]) -> Float[Array, "batch gate"]:
    """tanh, of half a sigmoid gate's pre-activation: sigmoid(z) = ½ + ½ tanh(z/2), so that one tanh serves all four."""
    scale = np.repeat(np.array([0.5, 0.5, 1.0, 0.5], np.float32), gates.shape[-1] // 4)
    return jnp.tanh(gates * scale)


def _next_states(
    activation: Float[Array, "batch gate"], previous_cell: Float[Array, "batch hidden"]
) -> tuple[Array, Array, Array]:
    """Hidden state, cell state and its tanh."""
    input_gate, forget_gate, candidate, output_gate = _gates(activation)
    cell = forget_gate * previous_cell + input_gate * candidate
    cell_tanh = jnp.tanh(cell)
    return output_gate * cell_tanh, cell, cell_tanh


def _gate_gradients(
    activation: Float[Array, "batch gate"],
    previous_cell: Float[Array, "batch hidden"],
    cell_tanh: Float[Array, "batch hidden"],
    d_hidden: Float[Array, "batch hidden"],
    d_cell: Float[Array, "batch hidden"],
) -> tuple[Float[Array, "batch gate"], Float[Array, "batch hidden"]]:
    """Gradients of the gates' pre-activations and of the previous cell state."""
    input_gate, forget_gate, candidate, output_gate = _gates(activation)
    d_cell = d_cell + d_hidden * output_gate * (1.0 - cell_tanh**2)
    # ¼: a sigmoid gate is ½ + ½ tanh(z/2)
    gates = [0.25 * d_cell * candidate, 0.25 * d_cell * previous_cell, d_cell * input_gate, 0.25 * d_hidden * cell_tanh]
    # one loop over all four, since their tanh are read as one array and not taken apart first
    tanhs = activation.reshape(*d_cell.shape[:-1], 4, -1)
    return (jnp.stack(gates, axis=-2) * (1.0 - tanhs**2)).reshape(activation.shape), d_cell * forget_gate


def _gates(activation: Float[Array, "batch gate"]) -> tuple[Array, Array, Array, Array]:
    """Input gate, forget gate, candidate and output gate from their tanh."""
    input_tanh, forget_tanh, candidate, output_tanh = jnp.split(activation, 4, axis=-1)
    return 0.5 + 0.5 * input_tanh, 0.5 + 0.5 * forget_tanh, candidate, 0.5 + 0.5 * output_tanh


# ---- Parameters ---------------------------------------------------------------------------------------------------


class _Parameters(nn.Module):
    """One layer's parameters, as ``LSTM`` describes them."""

    hidden: int
    initializer: Initialization

    @nn.compact
    def __call__(self, num_features: int) -> tuple[Array, Array, Array, Array]:
        gate = 4 * self.hidden
        if self.initializer == "torch":
            drawn = symmetric_uniform(1.0 / math.sqrt(self.hidden))
            into, across, biases = drawn, drawn, drawn
        else:
            # fans of one gate: the four matrices are stacked, not one matrix of 4 hidden rows
            into = symmetric_uniform(math.sqrt(6.0 / (num_features + self.hidden)))
            across = symmetric_uniform(math.sqrt(6.0 / (2 * self.hidden)))
            biases = nn.initializers.zeros_init()
        return (
            self.param("kernel_ih", _turned(into), (num_features, gate)),
            self.param("kernel_hh", _turned(across), (self.hidden, gate)),
            self.param("bias_ih", biases, (gate,)),
            self.param("bias_hh", biases, (gate,)),
        )


def _turned(initializer: Initializer) -> Initializer:
    """Draws a kernel [in, out] as [out, in], which keeps the initial values that a seed had before 0.8.0."""
    return lambda key, shape: initializer(key, shape[::-1]).T


def _output_initializers(name: Initialization, hidden: int) -> tuple[Initializer, Initializer]:
    if name == "torch":
        drawn = symmetric_uniform(1.0 / math.sqrt(hidden))
        return drawn, drawn
    return nn.initializers.glorot_uniform(), nn.initializers.zeros_init()
