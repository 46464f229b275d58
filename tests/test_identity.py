"""Descriptions and digests: equal for what is equal, different for what is not, refused where neither can be told."""

import hashlib
import importlib
import json

import numpy as np
import pytest

from lossjax.identity import describe, digest
from lossjax.models import LSTM, Dense
from lossjax.tasks import RandomLabels
from lossjax.training.config import Measure, TrainConfig


def test_a_description_names_the_type_and_every_field():
    described = describe(RandomLabels(num_features=5))
    assert described["type"] == "RandomLabels"
    assert described["num_features"] == 5
    assert describe(TrainConfig(16, epochs=2))["measure"]["quantiles"] == [0.05, 0.25, 0.5, 0.75, 0.95]
    json.dumps(described, allow_nan=False)


def test_what_flax_sets_on_a_module_is_no_part_of_it():
    described = describe(LSTM(hidden=4))
    assert {"name", "parent"}.isdisjoint(described)
    assert described == describe(LSTM(hidden=4, name="inner"))


def test_a_type_of_ones_own_is_its_source_too(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    digests = set()
    for index, activation in enumerate(("relu", "tanh", "relu")):
        # the same class in every way but one word of its method; each in a module of its own, as a rerun would load it
        (tmp_path / f"own_{index}.py").write_text(
            "import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass Net:\n    width: int = 4\n"
            f"    def act(self): return '{activation}'\n"
        )
        digests.add(digest(describe(importlib.import_module(f"own_{index}").Net())))
    assert len(digests) == 2
    assert "source" not in describe(LSTM(hidden=4))


def test_arrays_and_numpy_numbers_become_plain_values():
    described = describe({"a": np.arange(2), "b": np.float32(0.5), "c": (1, None, True)})
    assert described == {"a": [0, 1], "b": 0.5, "c": [1, None, True]}
    assert type(described["b"]) is float


def test_digests_tell_specifications_apart():
    values = [
        RandomLabels(),
        RandomLabels(num_features=2),
        LSTM(hidden=4),
        LSTM(hidden=4, layers=2),
        Dense(width=4),
        TrainConfig(16, epochs=2),
        TrainConfig(16, num_steps=2),
        TrainConfig(16, epochs=2, measure=Measure(bins=10)),
    ]
    digests = [digest(describe(value)) for value in values]
    assert len(set(digests)) == len(values)
    assert digests == [digest(describe(value)) for value in values]


def test_the_order_of_keys_does_not_matter():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})


def test_a_digest_is_that_of_canonical_json():
    message = "digests changed, so every stored cell would be trained anew; keep the old form unless that is meant"
    canonical = b'{"seeds":"tied","task":{"input_scale":0.1,"type":"RandomLabels"}}'
    description = {"task": {"type": "RandomLabels", "input_scale": 0.1}, "seeds": "tied"}
    assert digest(description) == hashlib.sha256(canonical).hexdigest(), message


@pytest.mark.parametrize("value", [lambda x: x, {1, 2}, object(), 1j])
def test_what_has_no_description_is_refused(value):
    with pytest.raises(TypeError, match="cannot be part of a specification"):
        describe({"field": [value]})
