"""The contract that every model keeps, and each architecture against an independent implementation."""

import functools
import math
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from programs import quickly

from lossjax.models import lstm
from lossjax.models.conv import Conv, Convolution
from lossjax.models.dense import Dense
from lossjax.models.lstm import LSTM, lstm_layer
from lossjax.models.model import LayerNorm, Linear, dropout, gelu, pool, sum_of_products
from lossjax.models.transformer import Transformer, _attention, sinusoids
from lossjax.training.program import QUICKLY_COMPILED

BATCH = lstm.FEWEST_UNROLLED  # of fewer examples an LSTM's steps are a loop, which is tested apart
TIME, FEATURES, CLASSES, TOKENS = 5, 3, 4, 6

MODELS = {
    "lstm": LSTM(hidden=8, num_classes=CLASSES),
    "lstm-mean": LSTM(hidden=8, layers=2, pooling="mean", initializer="glorot", num_classes=CLASSES),
    "transformer": Transformer(width=8, layers=1, heads=2, num_classes=CLASSES),
    "transformer-last": Transformer(
        width=8, layers=1, heads=2, pooling="last", positions="sinusoidal", num_classes=CLASSES
    ),
    "conv": Conv(width=8, num_classes=CLASSES),
    "conv-last": Conv(width=8, kernel_size=4, layers=1, pooling="last", num_classes=CLASSES),
    "dense": Dense(width=8, num_classes=CLASSES),
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())


def features(time=TIME, seed=0):
    return np.random.default_rng(seed).normal(size=(BATCH, time, FEATURES)).astype(np.float32)


def parameters(model, inputs, seed=0):
    """Parameters of the model's shapes, drawn by NumPy: none is zero, and no biases and gains hide anything."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]

    def drawn(path, leaf):
        gain = path[-1].key == "scale"
        return (gain + 0.3 * rng.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree.map_with_path(drawn, shapes)


def initial(model, inputs, seed=0):
    """Parameters as training begins with them."""
    return jax.device_get(quickly(model.init)(jax.random.key(seed), inputs)["params"])


def loss_and_logits(model, params, inputs, mask=None):
    logits = model.apply({"params": params}, inputs, mask)
    return -jax.nn.log_softmax(logits)[:, 0].mean(), logits


def mean_loss(model, params, inputs):
    return loss_and_logits(model, params, inputs)[0]


# ---- The contract -------------------------------------------------------------------------------------------------


@every_model
def test_tokens_are_embedded_and_learned(model):
    tokens = np.random.default_rng(1).integers(0, TOKENS, (BATCH, TIME), np.int32)
    model = model.clone(num_tokens=TOKENS)
    params = parameters(model, tokens)
    assert params["tokens"]["embedding"].shape == (TOKENS, 8)
    assert jax.eval_shape(model.apply, {"params": params}, tokens).shape == (BATCH, CLASSES)
    gradients = quickly(jax.grad(lambda params: mean_loss(model, params, tokens)))(params)
    assert np.abs(gradients["tokens"]["embedding"]).max() > 0


@every_model
def test_what_stands_at_masked_steps_changes_nothing(model):
    inputs, lengths = features(), np.array([TIME, 3, 0, 4, 2, 1, TIME, 2])
    mask = np.arange(TIME)[None, :] < lengths[:, None]
    params = parameters(model, inputs)
    apply = quickly(model.apply)
    gradient = quickly(jax.grad(loss_and_logits, argnums=1, has_aux=True), static_argnums=0)
    gradients, logits = gradient(model, params, np.where(mask[..., None], inputs, np.float32(1e3)), mask)
    if isinstance(model, Dense):  # its weights belong to time steps, so the unpadded input is the one with zeros
        unpadded = apply({"params": params}, np.where(mask[..., None], inputs, np.float32(0)))[1]
    else:
        unpadded = apply({"params": params}, inputs[1:2, :3])[0]
    np.testing.assert_allclose(logits[1], unpadded, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logits[0], apply({"params": params}, inputs)[0], rtol=1e-5, atol=1e-5)
    # the example without any step included
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradients, logits)))


@every_model
def test_mapped_is_looped_and_tiles_agree_bitwise(model):
    """Members differ in weights and inputs; a member's gradient must not depend on who shares its tile."""
    inputs = np.stack([features(seed=seed) for seed in range(4)])
    members = [parameters(model, features(), seed) for seed in range(4)]
    params = jax.tree.map(lambda *leaves: np.stack(leaves), *members)

    member = jax.grad(functools.partial(loss_and_logits, model), has_aux=True)
    mapped, alone = jax.jit(jax.vmap(member)), quickly(member)
    first = jax.tree.map(lambda leaf: leaf[:2], (params, inputs))
    four, two = jax.device_get((mapped(params, inputs), mapped(*first)))
    jax.tree.map(lambda many, few: np.testing.assert_array_equal(many[:2], few), four, two)
    for index in range(3):
        looped = jax.tree.leaves(alone(members[index], inputs[index]))
        for ours, theirs in zip(jax.tree.leaves(four), looped, strict=True):
            np.testing.assert_allclose(ours[index], theirs, rtol=1e-4, atol=1e-6)
    gradients, logits = four
    assert logits.shape == (4, BATCH, CLASSES)
    assert logits.dtype == jnp.float32
    for path, leaf in jax.tree.leaves_with_path(gradients):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


@every_model
def test_dropout_under_vmap_is_by_rate_and_key(model):
    inputs = features()
    params = parameters(model, inputs)

    def apply(rate, seed):
        return model.apply({"params": params}, inputs, dropout_rate=rate, rngs={"dropout": jax.random.key(seed)})

    rates, seeds = jnp.array([0.0, 0.5, 0.5, 0.5, 0.1]), jnp.array([1, 1, 1, 2, 1])
    none, first, again, other_key, other_rate = jax.device_get(quickly(jax.vmap(apply))(rates, seeds))
    np.testing.assert_allclose(none, quickly(model.apply)({"params": params}, inputs), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other_key)
    assert not np.allclose(first, other_rate)


@every_model
def test_a_model_is_its_own_specification(model):
    same = model.clone()
    assert same == model
    assert hash(same) == hash(model)
    other = model.clone(num_classes=CLASSES + 1)
    assert other != model
    assert len({model, same, other}) == 2


def test_models_construct_without_starting_the_backend():
    program = """
from jax._src import xla_bridge
from lossjax.models.conv import Conv
from lossjax.models.dense import Dense
from lossjax.models.lstm import LSTM
from lossjax.models.transformer import Transformer
for model in (LSTM(hidden=8), Transformer(width=8), Conv(width=8), Dense(width=8)):
    hash(model)
assert not xla_bridge.backends_are_initialized()
import jax
jax.devices()
assert xla_bridge.backends_are_initialized()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LSTM(hidden=0), "hidden=0 must be a whole number"),
        (lambda: LSTM(hidden=8.0), r"hidden=8\.0 must be a whole number"),
        (lambda: LSTM(hidden=None), "hidden=None must be a whole number"),
        (lambda: LSTM(hidden=8, layers=0), "layers=0"),
        (lambda: LSTM(hidden=8, pooling="first"), "pooling='first' is none of last, mean"),
        (lambda: LSTM(hidden=8, initializer="orthogonal"), "'orthogonal' is none of torch, glorot"),
        (lambda: LSTM(hidden=8, num_classes=0), "num_classes=0"),
        (lambda: Transformer(width=10, heads=4), "width=10 is not a multiple of heads=4"),
        (lambda: Transformer(width=7, heads=1, positions="sinusoidal"), "width=7 is odd"),
        (lambda: Transformer(width=8, positions="rotary"), "'rotary' is none of learned, sinusoidal"),
        (lambda: Conv(width=8, kernel_size=True), "kernel_size=True"),
        (lambda: Conv(width=8, pooling="first"), "'first' is none of mean, last"),
        (lambda: Dense(width=8, embedding=-1), "embedding=-1"),
    ],
)
def test_fields_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@every_model
def test_calls_that_cannot_be_meant_are_refused(model):
    inputs, key = features(), jax.random.key(0)
    with pytest.raises(ValueError, match="num_classes=None, which training fills in"):
        model.clone(num_classes=None).init(key, inputs)
    with pytest.raises(ValueError, match="num_tokens is None; give the model num_tokens="):
        model.init(key, jnp.zeros((BATCH, TIME), jnp.int32))
    with pytest.raises(ValueError, match="tokens are integers"):
        model.clone(num_tokens=TOKENS).init(key, inputs)
    with pytest.raises(ValueError, match="the rule is \\[batch, time, feature\\]"):
        model.init(key, inputs[0])
    with pytest.raises(ValueError, match=r"mask has shape \(4, 8\)"):
        model.init(key, inputs, jnp.ones((TIME - 1, BATCH), bool))


# ---- Shared parts -------------------------------------------------------------------------------------------------


def test_dropout_keeps_the_mean_and_drops_at_its_rate():
    values = dropout(jnp.ones(100_000), jnp.float32(0.3), jax.random.key(0))
    assert set(np.unique(values)) == {0.0, np.float32(1 / (1 - np.float32(0.3)))}
    # five standard errors: sqrt(0.3 * 0.7 / 100000) = 0.0014
    assert (values == 0).mean() == pytest.approx(0.3, abs=0.007)


def test_gelu_and_its_gradient_are_the_normal_distributions():
    values = np.concatenate([np.linspace(-9, 9, 1001), [0.0, 1e-30, -1e-30, 40.0, -40.0]])
    below, density = scipy.stats.norm.cdf(values), scipy.stats.norm.pdf(values)
    computed, pull = jax.vjp(gelu, jnp.asarray(values, jnp.float32))
    np.testing.assert_allclose(computed, values * below, rtol=2e-7, atol=6e-7)
    # not differentiated it is another program
    np.testing.assert_allclose(gelu(jnp.asarray(values, jnp.float32)), values * below, rtol=2e-7, atol=6e-7)
    (gradient,) = pull(jnp.full(len(values), 2.0))
    np.testing.assert_allclose(gradient, 2 * (below + values * density), rtol=2e-7, atol=1e-6)


@pytest.mark.parametrize("widths", [(3, 7), (7, 3), (4, 4)])
def test_sum_of_products_is_a_product_whichever_factor_is_wider(widths):
    rng = np.random.default_rng(0)
    left, right = (rng.normal(size=(2, 50, width)).astype(np.float32) for width in widths)
    mapped = jax.jit(jax.vmap(sum_of_products))(left, right)
    np.testing.assert_allclose(mapped, left.astype(float).swapaxes(1, 2) @ right, rtol=1e-5, atol=1e-5)


def test_pooling_takes_the_steps_that_exist():
    values = jnp.arange(8.0).reshape(2, 4, 1)
    mask = jnp.array([[False, True, True, False], [True, False, True, True]])
    assert pool(values, mask, "mean")[:, 0].tolist() == pytest.approx([1.5, 17 / 3])
    assert pool(values, mask, "last")[:, 0].tolist() == [2.0, 7.0]
    assert pool(values, mask, "first")[:, 0].tolist() == [1.0, 4.0]
    assert pool(values, None, "last")[:, 0].tolist() == [3.0, 7.0]
    assert pool(values, None, "first")[:, 0].tolist() == [0.0, 4.0]


# ---- LSTM ---------------------------------------------------------------------------------------------------------


def plain_lstm(inputs, kernel_ih, kernel_hh, bias_ih, bias_hh, mask=None):
    """The textbook cell in a Python loop, differentiated by JAX."""
    state = cell = jnp.zeros((inputs.shape[1], len(kernel_hh)))
    states = []
    for time, at in enumerate(inputs):
        gates = at @ kernel_ih + bias_ih + state @ kernel_hh + bias_hh
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        following = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        output = jax.nn.sigmoid(o) * jnp.tanh(following)
        exists = True if mask is None else mask[time][:, None]
        state, cell = jnp.where(exists, output, state), jnp.where(exists, following, cell)
        states.append(state)
    return jnp.stack(states), state


@pytest.mark.parametrize("masked", [False, True])
# a loop that is written out, and one that is not: the weights' gradient step by step, and by one product
@pytest.mark.parametrize(("hidden", "longest_unrolled"), [(6, TIME), (6, TIME - 1), (lstm.NARROW + 1, TIME - 1)])
def test_lstm_layer_is_the_plain_cell_with_its_gradients(masked, hidden, longest_unrolled, monkeypatch):
    monkeypatch.setattr(lstm, "LONGEST_UNROLLED", longest_unrolled)
    rng = np.random.default_rng(0)
    arrays = [
        rng.normal(size=shape).astype(np.float32)
        for shape in ((TIME, BATCH, FEATURES), (FEATURES, 4 * hidden), (hidden, 4 * hidden), 4 * hidden, 4 * hidden)
    ]
    assert lstm._unrolled(arrays[0]) == (TIME if longest_unrolled == TIME else 1)
    mask = rng.uniform(size=(TIME, BATCH)) < 0.6 if masked else None
    weigh_all, weigh_last = rng.normal(size=(TIME, BATCH, hidden)), rng.normal(size=(BATCH, hidden))

    def scalar(layer):
        def of(*arrays):
            outputs, last = layer(*arrays, mask)
            return jnp.sum(outputs * weigh_all) + jnp.sum(last * weigh_last)

        return quickly(jax.value_and_grad(of, argnums=range(5)))

    fast, plain = scalar(lstm_layer)(*arrays), scalar(plain_lstm)(*arrays)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), fast, plain)
    outputs, last = jax.device_get(quickly(lambda *arrays: lstm_layer(*arrays, mask))(*arrays))
    np.testing.assert_array_equal(outputs[-1], last)


def test_lstm_evaluation_keeps_no_gates_and_the_first_layer_no_input_gradient():
    """The memory and work that the custom gradient is there to save, read off the programs."""
    model, inputs = LSTM(hidden=16, num_classes=2), features()
    params = parameters(model, inputs)

    def loss(params, inputs):
        return mean_loss(model, params, inputs)

    gates = f"f32[{TIME},{BATCH},64]"
    assert gates not in str(jax.make_jaxpr(loss)(params, inputs))
    assert gates in str(jax.make_jaxpr(jax.grad(loss))(params, inputs))

    def count_products(argnums):
        # on a GPU the products would be calls of its library
        with jax.default_device(jax.devices("cpu")[0]):
            program = jax.jit(jax.grad(loss, argnums)).lower(params, inputs).compile(QUICKLY_COMPILED["cpu"]).as_text()
        return program.count(" dot(")

    assert count_products((0, 1)) == count_products(0) + 1


@pytest.mark.parametrize("layers", [1, 2])
def test_lstm_is_pytorch_with_the_same_weights(layers):
    def in_pytorch(name):
        return name.replace("kernel", "weight")

    torch = pytest.importorskip("torch")
    inputs = features()
    model = LSTM(hidden=8, layers=layers, num_classes=CLASSES)
    params = parameters(model, inputs)
    lstm = torch.nn.LSTM(FEATURES, 8, layers, batch_first=True)
    linear = torch.nn.Linear(8, CLASSES)
    with torch.no_grad():
        for index in range(layers):
            for name, value in params[f"layer_{index}"].items():
                getattr(lstm, f"{in_pytorch(name)}_l{index}").copy_(torch.tensor(np.array(value).T))
        linear.weight.copy_(torch.tensor(np.array(params["output"]["kernel"]).T))
        linear.bias.copy_(torch.tensor(np.array(params["output"]["bias"])))
    logits = linear(lstm(torch.tensor(np.array(inputs)))[0][:, -1])
    torch.nn.functional.cross_entropy(logits, torch.zeros(BATCH, dtype=torch.long)).backward()
    np.testing.assert_allclose(
        quickly(model.apply)({"params": params}, inputs), logits.detach().numpy(), rtol=1e-4, atol=1e-6
    )
    gradients = jax.device_get(quickly(jax.grad(lambda params: mean_loss(model, params, inputs)))(params))
    for index in range(layers):
        assert set(gradients[f"layer_{index}"]) == {"kernel_ih", "kernel_hh", "bias_ih", "bias_hh"}
        for name, value in gradients[f"layer_{index}"].items():
            expected = getattr(lstm, f"{in_pytorch(name)}_l{index}").grad.numpy().T
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradients["output"]["kernel"].T, linear.weight.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_lstm_initial_distributions():
    inputs = np.zeros((1, 2, 5), np.float32)
    torch_like = initial(LSTM(hidden=64, layers=2, num_classes=2), inputs)
    for leaf in jax.tree.leaves(torch_like):
        assert np.abs(leaf).max() <= 1 / 8
    for leaf in (torch_like["layer_0"]["kernel_hh"], torch_like["layer_1"]["bias_ih"]):
        # standard deviation of U(-r, r) is r / sqrt(3); 256 draws or more
        assert np.std(leaf) == pytest.approx(1 / 8 / math.sqrt(3), rel=0.1)
        assert np.mean(leaf) == pytest.approx(0, abs=0.02)
    assert not np.allclose(torch_like["layer_0"]["bias_ih"], torch_like["layer_0"]["bias_hh"])
    glorot = initial(LSTM(hidden=64, initializer="glorot", num_classes=2), inputs)
    assert np.std(glorot["layer_0"]["kernel_ih"]) == pytest.approx(math.sqrt(2 / (5 + 64)), rel=0.05)
    assert np.std(glorot["layer_0"]["kernel_hh"]) == pytest.approx(math.sqrt(2 / (64 + 64)), rel=0.05)
    assert not np.any(glorot["layer_0"]["bias_ih"])
    assert not np.any(glorot["output"]["bias"])


# ---- Transformer --------------------------------------------------------------------------------------------------


def test_transformer_layer_is_pytorch_with_the_same_weights():
    torch = pytest.importorskip("torch")
    width, heads = 8, 2
    model = Transformer(width=width, heads=heads, layers=1, num_classes=CLASSES)
    inputs, mask = features(), np.arange(TIME)[None, :] < np.array([TIME, 3, 1, 4, 2, 1, TIME, 2])[:, None]
    params = parameters(model, inputs)
    linear, norm = torch.nn.Linear, torch.nn.LayerNorm
    layer = torch.nn.TransformerEncoderLayer(
        width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
    ).train()
    into, final, output = linear(FEATURES, width), norm(width), linear(width, CLASSES)

    def copy(module, ours):
        weight = ours["scale"] if "scale" in ours else ours["kernel"].T
        module.weight.copy_(torch.tensor(np.array(weight)))
        module.bias.copy_(torch.tensor(np.array(ours["bias"])))

    ours = params["layer_0"]
    with torch.no_grad():
        copy(into, params["features"])
        copy(layer.norm1, ours["attention_norm"])
        layer.self_attn.in_proj_weight.copy_(torch.tensor(np.array(ours["query_key_value"]["kernel"].T)))
        layer.self_attn.in_proj_bias.copy_(torch.tensor(np.array(ours["query_key_value"]["bias"])))
        copy(layer.self_attn.out_proj, ours["projection"])
        copy(layer.norm2, ours["mlp_norm"])
        copy(layer.linear1, ours["mlp_in"])
        copy(layer.linear2, ours["mlp_out"])
        copy(final, params["norm"])
        copy(output, params["output"])
    exists = torch.tensor(np.array(mask))
    steps = into(torch.tensor(np.array(inputs)) * exists[..., None]) + torch.tensor(np.array(params["positions"]))
    steps = final(layer(steps, src_key_padding_mask=~exists)) * exists[..., None]
    logits = output(steps.sum(1) / exists.sum(1, keepdim=True)).detach().numpy()
    np.testing.assert_allclose(quickly(model.apply)({"params": params}, inputs, mask), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [1.0, 100.0])  # scores of some hundred, whose exponentials alone would overflow
def test_attention_and_its_gradients_are_those_of_jax(masked, size):
    *parts, weights = np.random.default_rng(0).normal(size=(4, BATCH, TIME, 2, 4)).astype(np.float32)
    parts[0] *= np.float32(size)
    mask = np.arange(TIME) < 1 + np.arange(BATCH)[:, None] % TIME if masked else None
    spread = None if mask is None else mask[:, None, None, :]

    @functools.partial(quickly, static_argnums=0)
    def values_and_gradients(attend, parts, weights):
        values, pull = jax.vjp(attend, *parts)
        return values, *pull(weights)

    ours = values_and_gradients(lambda *parts: _attention(*parts, mask), parts, weights)
    theirs = values_and_gradients(lambda *parts: jax.nn.dot_product_attention(*parts, mask=spread), parts, weights)
    for mine, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5 * size)


def test_learned_positions_serve_shorter_inputs_and_refuse_longer_ones():
    model = Transformer(width=8, heads=2, num_classes=CLASSES)
    params = parameters(model, features())
    assert params["positions"].shape == (TIME, 8)
    shorter = jax.eval_shape(model.apply, {"params": params}, features()[:, :3])
    assert shorter.shape == (BATCH, CLASSES)
    with pytest.raises(ValueError, match="inputs have 6 time steps but 5 positions were learned"):
        model.apply({"params": params}, features(time=6))


def test_sinusoids_turn_by_a_fixed_angle_a_step():
    table = sinusoids(50, 6)
    np.testing.assert_allclose(
        table[1],
        [math.sin(1), math.cos(1)] + [f(10_000 ** (-k / 6)) for k in (2, 4) for f in (math.sin, math.cos)],
        rtol=1e-6,
    )
    # the product of two positions depends on their distance alone
    products = table @ table.T
    np.testing.assert_allclose(np.diagonal(products, 5), products[0, 5], rtol=1e-5)


# ---- Conv and Dense -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "flax", "num_features"),
    [
        *(
            (Convolution(width=8, kernel_size=size), nn.Conv(8, (size,), padding="SAME"), FEATURES)
            for size in (1, 4, 5, 9)  # 9 is longer than the sequence
        ),
        (Linear(8), nn.Dense(8), FEATURES),
        *(
            (LayerNorm(), nn.LayerNorm(epsilon=1e-5, use_fast_variance=False), width)
            for width in (FEATURES, 9, 40)  # of 40 halves are added up, down to 5
        ),
    ],
    ids=["conv-1", "conv-4", "conv-5", "conv-9", "linear", "norm-3", "norm-9", "norm-40"],
)
def test_layers_and_their_gradients_are_those_of_flax(ours, flax, num_features):
    """Their gradients are written by hand, to be fast when mapped on a CPU."""
    inputs = np.random.default_rng(0).normal(size=(BATCH, TIME, num_features)).astype(np.float32)
    params = parameters(flax, inputs)
    assert jax.tree.map(np.shape, parameters(ours, inputs)) == jax.tree.map(np.shape, params)

    def gradients(layer):
        def weighted(params, inputs):
            outputs = layer.apply({"params": params}, inputs)
            return jnp.sum(outputs * np.sin(np.arange(outputs.size, dtype=np.float32)).reshape(outputs.shape)), outputs

        return quickly(jax.grad(weighted, argnums=(0, 1), has_aux=True))(params, inputs)

    for mine, theirs in zip(jax.tree.leaves(gradients(ours)), jax.tree.leaves(gradients(flax)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=2e-5)
    # and drawn from the same distribution, with the same keys
    jax.tree.map(np.testing.assert_array_equal, initial(ours, inputs), initial(flax, inputs))


def test_conv_mapped_over_weights_has_no_convolution():
    inputs, model = features(), Conv(width=8, num_classes=CLASSES)
    stacked = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), parameters(model, inputs))
    program = jax.jit(jax.vmap(lambda params: model.apply({"params": params}, inputs))).lower(stacked).as_text()
    assert "stablehlo.convolution" not in program
    assert "stablehlo.dot_general" in program


def test_dense_is_matrix_products_of_the_flattened_steps():
    inputs, model = features(), Dense(width=8, layers=1, num_classes=CLASSES)
    params = parameters(model, inputs)
    hidden, output = params["layer_0"], params["output"]
    flat = np.array(inputs).reshape(BATCH, TIME * FEATURES)
    expected = np.maximum(flat @ hidden["kernel"] + hidden["bias"], 0) @ output["kernel"] + output["bias"]
    np.testing.assert_allclose(quickly(model.apply)({"params": params}, inputs), expected, rtol=1e-4, atol=1e-5)
