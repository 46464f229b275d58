"""What fails in a user's own model or task is one message: which, where in the user's code, and what is expected."""

import dataclasses
import functools
import operator
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import lossjax as lj
from lossjax import origin
from lossjax.keys import streams_from_seeds
from lossjax.training import population, train
from lossjax.training.check import check_cell, model_explained
from lossjax.training.population import flatten
from lossjax.training.train import Cell

TASK = lj.tasks.RandomLabels(num_examples=10, seq_len=4, num_features=2)
CONFIG = lj.TrainConfig(5, epochs=1)
HERE = re.escape(str(Path(__file__)))


def line_with(code):
    """Pattern of the place of a line of this file."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return rf"{HERE}, line {next(number for number, line in enumerate(lines, start=1) if line.strip() == code)}: "


class Sound(nn.Module):
    """As small as a model can be."""

    width: int = 2

    @nn.compact
    def __call__(self, inputs, mask=None, *, dropout_rate=None):
        return nn.Dense(self.width)(self.steps(inputs)).mean(axis=1)

    def steps(self, inputs):
        return inputs


class Misspelt(Sound):
    def steps(self, inputs):
        return inputz


class WrongShapes(Sound):
    def steps(self, inputs):
        return inputs @ jnp.zeros((3, 3))


class ConcreteValues(Sound):
    def steps(self, inputs):
        return inputs if inputs.sum() > 0 else -inputs


class WithoutKeys(Sound):
    @nn.compact
    def __call__(self, inputs, mask=None, *, dropout_rate=None):
        dropped = nn.Dropout(0.5, deterministic=False)(inputs)
        return nn.Dense(2)(dropped).mean(axis=1)


class OtherVariables(Sound):
    @nn.compact
    def __call__(self, inputs, mask=None, *, dropout_rate=None):
        normal = nn.BatchNorm(use_running_average=False)(inputs)
        return nn.Dense(2)(normal).mean(axis=1)


class TakesInputsAlone(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(2)(inputs).mean(axis=1)


class HalfPrecision(Sound):
    def steps(self, inputs):
        return inputs.astype(jnp.bfloat16)

    @nn.compact
    def __call__(self, inputs, mask=None, *, dropout_rate=None):
        return nn.Dense(2, dtype=jnp.bfloat16)(inputs).mean(axis=1)


class TwoOutputs(Sound):
    @nn.compact
    def __call__(self, inputs, mask=None, *, dropout_rate=None):
        return nn.Dense(2)(inputs).mean(axis=1), inputs


class OverTheBatch(Sound):
    @nn.compact
    def __call__(self, inputs, mask=None, *, dropout_rate=None):
        return nn.Dense(2)(inputs).mean(axis=(0, 1))[None]


class NoGradient(Sound):
    """A loop of unknown length: it runs forwards and has no reverse."""

    @nn.compact
    def __call__(self, inputs, mask=None, *, dropout_rate=None):
        logits = nn.Dense(2)(inputs).mean(axis=1)
        return jax.lax.while_loop(lambda logits: logits.max() > 1, lambda logits: logits / 2, logits)


def check(model, task=TASK, **hyperparams):
    check_cell(Cell(task, model, CONFIG), flatten(lj.grid(learning_rate=0.1, **hyperparams), lj.tied(2)))


@pytest.mark.parametrize("task", [TASK, lj.tasks.RandomLabels(num_examples=10, seq_len=4, num_classes=2)])
def test_a_model_of_ones_own_is_accepted(task):
    check(Sound(), task)
    check(Sound(), task, dropout=0.5)


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (Misspelt(), line_with("return inputz") + "NameError: name 'inputz' is not defined"),
        (WrongShapes(), line_with("return inputs @ jnp.zeros((3, 3))") + "TypeError: "),
        (ConcreteValues(), line_with("return inputs if inputs.sum() > 0 else -inputs") + "TracerBoolConversionError: "),
        (WithoutKeys(), line_with("dropped = nn.Dropout(0.5, deterministic=False)(inputs)") + "InvalidRngError: "),
        (OtherVariables(), line_with("normal = nn.BatchNorm(use_running_average=False)(inputs)") + ".*batch_stats"),
        (TakesInputsAlone(), r"TypeError: .*takes 2 positional arguments"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_model_that_fails_is_named_with_the_line_and_the_rule(model, what):
    with pytest.raises(ValueError, match=f"{type(model).__name__}, the model, failed: .*{what}") as caught:
        check(model)
    message = str(caught.value)
    assert "gets inputs float32[5, 4, 2], mask None" in message
    assert "returns logits float32[5, 2]" in message
    assert "\n" not in message
    assert caught.value.__cause__ is not None  # the way there, for who wants it


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (HalfPrecision(), r"returned bfloat16\[5, 2\]; .* returns logits float32\[5, 2\]"),
        (TwoOutputs(), r"returned a tuple; .* returns logits"),
        (OverTheBatch(), r"logits of 5 examples have shape \(1, 2\)"),
        (Sound(3), r"logits of 5 examples have shape \(5, 3\) and the task has 2 classes"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_model_that_returns_something_else_is_refused(model, what):
    with pytest.raises(ValueError, match=what):
        check(model)


def test_what_shows_only_when_it_is_differentiated_names_the_model_too():
    lean = lj.TrainConfig(5, epochs=1, measure=lj.Measure(calibration=False))
    cell = Cell(TASK, NoGradient(), lean)
    check_cell(cell, flatten(lj.grid(learning_rate=0.1), lj.tied(2)))

    def first_step(seeds):
        streams, hparams = streams_from_seeds(seeds), lj.Hyperparams(learning_rate=jnp.float32(0.1))
        data = train.prepare(cell, streams, hparams, TASK.splits(streams.data))
        state = train.init(cell, streams, hparams, data)
        return train.step(cell, state, streams, hparams, data, jnp.arange(10), jnp.int32(0)).params

    with (
        pytest.raises(ValueError, match=r"NoGradient, the model, failed: .*Reverse-mode differentiation does not work"),
        model_explained(cell),
    ):
        jax.eval_shape(first_step, jax.ShapeDtypeStruct((4,), jnp.uint32))


def test_a_fault_of_lossjax_is_not_put_on_the_model(monkeypatch):
    # no line of this file is on the error's way
    monkeypatch.setattr(population.device_settings, "level2_cache", functools.partial(operator.floordiv, 1, 0))
    with pytest.raises(ZeroDivisionError):
        lj.train(TASK, lj.models.Dense(2), CONFIG, hyperparams=lj.grid(learning_rate=0.1))


@dataclasses.dataclass(frozen=True)
class BrokenTask:
    shared = False
    num_classes = 2
    num_tokens = None
    bayes = None

    def splits(self, key):
        return [][3]


def test_a_task_that_fails_is_named_with_its_line():
    place = line_with("return [][3]")
    with pytest.raises(ValueError, match=rf"BrokenTask, the task, failed: {place}IndexError: .*Splits\("):
        check(Sound(), BrokenTask())


class WithFunction(nn.Module):
    activation: object = nn.relu


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"task": "digits"}, "task='digits' is no task; give lossjax.tasks"),
        ({"model": lj.models.LSTM}, "is no model; give lossjax.models.LSTM"),
        ({"config": {"epochs": 3}}, "is no config; give TrainConfig"),
        ({"model": WithFunction()}, "cannot be part of a specification; use numbers, strings"),
    ],
)
def test_what_is_no_task_model_or_config_is_refused_by_train(what, message):
    arguments = {"task": TASK, "model": Sound(), "config": CONFIG, **what}
    with pytest.raises(ValueError, match=message):
        lj.train(**arguments, hyperparams=lj.grid(learning_rate=0.1))


def test_whose_line_raised_an_error():
    def caught(function):
        with pytest.raises(Exception) as found:  # noqa: PT011  # any will do
            function()
        return found.value

    ours = caught(lambda: lj.TrainConfig(0, epochs=1))
    assert (origin.is_lossjaxs(ours), origin.is_users(ours)) == (True, False)
    librarys = caught(lambda: np.zeros(2) @ np.zeros((3, 3)))
    assert (origin.is_lossjaxs(librarys), origin.is_users(librarys)) == (False, True)
    for error in (ours, librarys):
        assert re.match(rf"{HERE}, line \d+: ", origin.told(error))
