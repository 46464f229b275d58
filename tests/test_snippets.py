"""The README's snippets for other frameworks, run as they stand on a small training; the answer is then read.

Keras is among the test's own packages. The others run where they are installed, ``pip install ".[test,frameworks]"``:
PyTorch as PyPI has it takes 5.4 GB, too much for every test run.
"""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import special

import lossjax as lj

MISSING = 'not installed here; pip install ".[test,frameworks]"'
README = Path(__file__).parents[1] / "README.md"


def snippet(name):
    """The block of the README that begins with this comment."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return next(block for block in blocks if block.startswith(f"# {name}\n"))


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Training and validation examples of three classes, with labels in part at random: a model soon over-fits."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(500, 8)).astype(np.float32)
    labels = (inputs[:, :3] + rng.gumbel(size=(500, 3)) / 2).argmax(axis=1)
    return inputs[:200], labels[:200], inputs[200:], labels[200:]


def check_answer(num_checkpoints):
    found = lj.diagnose("run.npz")
    assert len(found.path) == num_checkpoints
    assert found.kind == "run"
    assert not os.path.exists("run.npz.parts")
    return found


def test_pytorch(data):
    torch = pytest.importorskip("torch", reason=MISSING)
    torch.manual_seed(0)
    train_inputs, train_labels, val_inputs, val_labels = data
    model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)

    def train_one_epoch(model):
        model.train()
        for batch in torch.randperm(200).split(20):
            loss = torch.nn.functional.cross_entropy(
                model(torch.tensor(train_inputs)[batch]), torch.tensor(train_labels)[batch]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    names = {"torch": torch, "model": model, "num_epochs": 25, "train_one_epoch": train_one_epoch}
    exec(snippet("PyTorch"), {**names, "val_inputs": torch.tensor(val_inputs), "val_labels": val_labels})
    found = check_answer(25)
    with torch.no_grad():
        logits = model(torch.tensor(val_inputs))
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(val_labels))
    assert found.after.loss.estimate == pytest.approx(float(expected), rel=1e-5)
    assert found.delta_loss.low > 0  # it over-fits


def test_keras(data, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))  # where it writes its settings
    keras = pytest.importorskip("keras")
    train_inputs, train_labels, val_inputs, val_labels = data
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Dense(64, "relu"), keras.layers.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    names = {"lj": lj, "keras": keras, "model": model, "num_epochs": 3, "val_inputs": val_inputs}
    names |= {"train_inputs": train_inputs, "train_labels": train_labels, "val_labels": val_labels}
    exec(snippet("Keras"), names)
    found = check_answer(3)
    losses = [point.loss for point in found.path]
    assert losses[0] > losses[1] > losses[2]  # each epoch's own weights were evaluated
    hidden, out = ([weight.astype(np.float64) for weight in layer.get_weights()] for layer in model.layers)
    logits = np.maximum(val_inputs @ hidden[0] + hidden[1], 0) @ out[0] + out[1]
    expected = -special.log_softmax(logits, axis=1)[np.arange(len(logits)), val_labels].mean()
    assert losses[2] == pytest.approx(expected, rel=1e-4)
    assert any("holds probabilities" in note for note in found.notes)


def test_hugging_face(data, tmp_path):
    transformers = pytest.importorskip("transformers", reason=MISSING)
    torch = pytest.importorskip("torch", reason=MISSING)
    pytest.importorskip("accelerate", reason=MISSING)
    torch.manual_seed(0)
    train_inputs, train_labels, val_inputs, val_labels = data

    class Examples(torch.utils.data.Dataset):
        def __init__(self, inputs, labels):
            self.tokens, self.labels = 1 + (inputs > 0), labels

        def __len__(self):
            return len(self.labels)

        def __getitem__(self, index):
            if index == "label":  # as a column of a datasets.Dataset
                return self.labels.tolist()
            return {"input_ids": torch.tensor(self.tokens[index]), "label": int(self.labels[index])}

    config = transformers.BertConfig(
        vocab_size=3, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3
    )
    args = transformers.TrainingArguments(
        str(tmp_path / "out"), num_train_epochs=3, eval_strategy="epoch", report_to=[], disable_tqdm=True, use_cpu=True
    )
    names = {"lj": lj, "np": np, "args": args, "Trainer": transformers.Trainer}
    names |= {"model": transformers.BertForSequenceClassification(config)}
    names |= {"train_dataset": Examples(train_inputs, train_labels), "val_dataset": Examples(val_inputs, val_labels)}
    exec(snippet("Hugging Face"), names)
    found = check_answer(3)
    trainer = names["trainer"]
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    np.testing.assert_allclose([point.loss for point in found.path], losses, rtol=1e-3)
    assert [point.step for point in found.path] == [
        entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry
    ]
    # what the Trainer writes beside its checkpoints is a curve that can be read as well
    trainer.state.save_to_json("trainer_state.json")
    curve = lj.diagnose("trainer_state.json")
    np.testing.assert_allclose([point.loss for point in curve.path], losses)
