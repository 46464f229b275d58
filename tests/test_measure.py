"""Metrics against scikit-learn, NumPy and SciPy, and what must not change them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import quickly
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax

from lossjax.analysis.calibration_error import ece
from lossjax.devices import compiler_options
from lossjax.training.config import Measure
from lossjax.training.measure import measure

CONFIG = Measure(quantiles=(0.0, 0.05, 0.5, 0.77, 1.0))
UNCALIBRATED = Measure(calibration=False)
LOG_RANGE = np.log(64)

# compiled once a shape and configuration, which takes longer than all else: so tests share a few shapes
_compiled = quickly(measure, static_argnames=("config", "records"))


def _draw(num_examples: int, num_classes: int, seed: int = 0, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from their own softmax: calibrated."""
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=(num_examples, num_classes))).astype(np.float32)
    cumulative = np.cumsum(softmax(logits.astype(float), axis=1), axis=1)
    labels = (rng.random((num_examples, 1)) > cumulative).sum(axis=1)
    return logits, np.minimum(labels, num_classes - 1).astype(np.int32)


def _measure(logits, labels, groups=None, config=CONFIG, weights=None, records=False) -> dict[str, np.ndarray]:
    # with records always, so that there is one program for tests that look at them and tests that do not
    found = _compiled(logits, labels, groups, config, weights, records=True)
    return {name: np.asarray(value) for name, value in found.items() if records or not name.startswith("example_")}


def _assert_close(actual: dict, expected: dict, rtol: float = 2e-5, atol: float = 2e-6) -> None:
    assert set(actual) == set(expected)
    for name in actual:
        np.testing.assert_allclose(actual[name], expected[name], rtol=rtol, atol=atol, err_msg=name)


# 10: turned; 40: in rows; the last: more than one block of examples, and a short one
SHAPES = [(1000, 2), (1000, 10), (1000, 40), (150, 1500)]


@pytest.mark.parametrize("shape", SHAPES)
def test_means_equal_scikit_learn(shape: tuple[int, int]) -> None:
    skl = pytest.importorskip("sklearn.metrics")
    logits, labels = _draw(*shape)
    classes = np.arange(shape[1])
    probabilities = softmax(logits.astype(float), axis=1)
    metrics = _measure(logits, labels, config=UNCALIBRATED)
    one_hot = classes == labels[:, None]
    np.testing.assert_allclose(metrics["loss"], skl.log_loss(labels, probabilities, labels=classes), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], skl.accuracy_score(labels, logits.argmax(1)), rtol=1e-6)
    balanced = skl.recall_score(labels, logits.argmax(1), labels=np.unique(labels), average="macro", zero_division=0)
    np.testing.assert_allclose(metrics["balanced_accuracy"], balanced, rtol=1e-5)
    np.testing.assert_allclose(metrics["brier"], ((probabilities - one_hot) ** 2).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["confidence"], probabilities.max(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["entropy"], -(probabilities * np.log(probabilities)).sum(1).mean(), rtol=1e-5)
    assert metrics["tied"] == 0
    if shape[1] > 5:
        top5 = skl.top_k_accuracy_score(labels, logits, k=5, labels=classes)
        np.testing.assert_allclose(metrics["top5_accuracy"], top5, rtol=1e-6)
    else:
        assert "top5_accuracy" not in metrics


def test_balanced_accuracy_of_a_group_is_over_its_classes_and_of_the_examples_that_count() -> None:
    labels = np.int32([0, 0, 0, 1, 1, 2, 2, 3])
    correct = np.array([1, 1, 0, 0, 1, 0, 1, 1])
    logits = np.zeros((8, 4), np.float32)
    logits[np.arange(8), np.where(correct, labels, (labels + 1) % 4)] = 1
    weights = np.float32([1, 1, 1, 0, 1, 1, 1, 1])
    metrics = _measure(logits, labels, np.int32([0, 0, 1, 2]), UNCALIBRATED, weights)
    recalls = [2 / 3, 1, 1 / 2, 1]  # the wrong example of class 1 does not count
    np.testing.assert_allclose(metrics["balanced_accuracy"], np.mean(recalls), rtol=1e-6)
    np.testing.assert_allclose(metrics["group_balanced_accuracy"], [np.mean(recalls[:2]), 1 / 2, 1], rtol=1e-6)
    np.testing.assert_allclose(metrics["group_share"], [4 / 7, 2 / 7, 1 / 7], rtol=1e-6)


def test_two_class_brier_is_twice_scikit_learns() -> None:
    skl = pytest.importorskip("sklearn.metrics")
    logits, labels = _draw(1000, 2)
    expected = 2 * skl.brier_score_loss(labels, softmax(logits, axis=1)[:, 1])
    np.testing.assert_allclose(_measure(logits, labels, config=UNCALIBRATED)["brier"], expected, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_records_of_each_example(shape: tuple[int, int]) -> None:
    logits, labels = _draw(*shape)
    records = _measure(logits, labels, records=True)
    rows = np.arange(len(labels))
    others = logits.copy()
    others[rows, labels] = -np.inf
    losses = -log_softmax(logits.astype(float), axis=1)[rows, labels]
    np.testing.assert_allclose(records["example_loss"], losses, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(records["example_margin"], logits[rows, labels] - others.max(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(records["example_correct"], logits.argmax(1) == labels)
    assert records["example_correct"].dtype == bool
    refined = records["example_refined_loss"]
    np.testing.assert_allclose(refined.mean(), records["refinement"], rtol=1e-5)
    # at a temperature near that of all examples, and shared by those of a fold
    scaled = logits.astype(float) / records["temperature"]
    near = -log_softmax(scaled, axis=1)[rows, labels]
    np.testing.assert_allclose(refined, near, rtol=0.1, atol=0.02)
    assert not np.allclose(refined, near, rtol=1e-6, atol=0)
    without = _measure(logits, labels, config=UNCALIBRATED, records=True)
    assert {name for name in without if name.startswith("example_")} == {
        "example_loss",
        "example_correct",
        "example_margin",
    }
    unasked = jax.eval_shape(lambda z, y: measure(z, y, None, CONFIG), logits, labels)
    assert set(unasked) == {name for name in records if not name.startswith("example_")}


@pytest.mark.parametrize("num_classes", [7, 100])
def test_ties_go_to_the_lowest_index(num_classes: int) -> None:
    logits = np.zeros((3, num_classes), np.float32)
    logits[2, 3] = 1
    metrics = _measure(logits, np.int32([0, 4, 3]), config=UNCALIBRATED)
    np.testing.assert_allclose(metrics["accuracy"], 2 / 3, rtol=1e-6)  # the second ranks fifth
    np.testing.assert_allclose(metrics["top5_accuracy"], 1, rtol=1e-6)
    np.testing.assert_allclose(metrics["tied"], 2 / 3, rtol=1e-6)


def _ece_by_loop(logits: np.ndarray, labels: np.ndarray, bins: int, scheme: str) -> float:
    probabilities = softmax(logits.astype(float), axis=1)
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    total = 0.0
    order = np.argsort(confidence)
    for index in range(bins):
        if scheme == "width":
            chosen = (confidence > index / bins) & (confidence <= (index + 1) / bins)
        else:
            chosen = order[[rank for rank in range(len(labels)) if rank * bins // len(labels) == index]]
        total += abs(np.sum(confidence[chosen]) - np.sum(correct[chosen]))
    return total / len(labels)


@pytest.mark.parametrize(("num_examples", "bins"), [(1000, 15), (100, 7), (10, 15)])
def test_calibration_errors_equal_a_loop_over_bins(num_examples: int, bins: int) -> None:
    # calibrated, so that gaps have both signs: of one sign, they add up to the same wherever the bins end
    logits, labels = _draw(num_examples, 10)
    metrics = _measure(logits, labels, config=dataclasses.replace(CONFIG, bins=bins))
    for scheme in ("width", "mass"):
        expected = _ece_by_loop(logits, labels, bins, scheme)
        np.testing.assert_allclose(metrics[f"ece_{scheme}"], expected, rtol=1e-5, err_msg=scheme)


@pytest.mark.parametrize("sizes", [(1, 5, 194), (14, 15, 171), (0, 16, 184)])
def test_calibration_errors_of_groups_with_fewer_examples_than_bins(sizes: tuple[int, int, int]) -> None:
    logits, labels = _draw(200, 10)
    labels = np.repeat(np.int32([0, 1, 2]), sizes)
    metrics = _measure(logits, labels, jnp.minimum(jnp.arange(10), 2))
    for group in np.flatnonzero(sizes):
        of_group = labels == group
        for scheme in ("width", "mass"):
            expected = _ece_by_loop(logits[of_group], labels[of_group], CONFIG.bins, scheme)
            np.testing.assert_allclose(metrics[f"group_ece_{scheme}"][group], expected, rtol=1e-5, err_msg=scheme)


def test_confidence_one_is_in_the_last_bin() -> None:
    logits = np.zeros((20, 3), np.float32)
    logits[:, 0] = 200
    metrics = _measure(logits, np.int32([0] * 15 + [1] * 5), config=UNCALIBRATED)
    np.testing.assert_allclose(metrics["ece_width"], 0.25, rtol=1e-6)


def test_equal_confidences_share_bins_in_proportion() -> None:
    # 30 examples of a low confidence, always right, and 30 of a high one, always wrong; the middle of three bins has
    # ten of each
    logits = np.zeros((60, 6), np.float32)
    logits[:, 0] = np.repeat([1, 4], 30)
    low, high = softmax(logits[[0, -1]].astype(float), axis=1)[:, 0]
    metrics = _measure(logits, np.repeat(np.int32([0, 1]), 30), config=Measure(bins=3))
    expected = (20 * (1 - low) + abs(10 * high - 10 * (1 - low)) + 20 * high) / 60
    np.testing.assert_allclose(metrics["ece_mass"], expected, rtol=1e-5)
    # and in the analysis of stored logits
    analysed = ece(logits, np.repeat([0, 1], 30), bins=3, scheme="mass").estimate.estimate
    np.testing.assert_allclose(analysed, expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_margin_quantiles_equal_numpy(weighted: bool) -> None:
    num_examples = 300 if weighted else 200
    logits, labels = _draw(num_examples, 10)
    weights = (np.arange(num_examples) % 3 > 0).astype(np.float32) if weighted else None
    groups = np.int32([0, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    actual = _measure(logits, labels, jnp.asarray(groups), weights=weights, records=True)
    margins = actual["example_margin"]
    is_used = np.ones(num_examples, bool) if weights is None else weights > 0
    expected = np.quantile(margins[is_used], CONFIG.quantiles)
    np.testing.assert_allclose(actual["margin_quantiles"], expected, rtol=1e-4, atol=1e-5)
    assert actual["group_margin_quantiles"].shape == (3, 5)
    for group in (0, 1):
        expected = np.quantile(margins[is_used & (groups[labels] == group)], CONFIG.quantiles)
        np.testing.assert_allclose(actual["group_margin_quantiles"][group], expected, rtol=1e-4, atol=1e-5)
    assert np.isnan(actual["group_margin_quantiles"][2]).all()  # no class is in the third group


def test_quantiles_of_one_example_are_its_margin() -> None:
    logits, labels = _draw(200, 10)
    labels[:] = 1
    labels[7] = 0
    groups = jnp.asarray([0, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    quantiles = _measure(logits, labels, groups)["group_margin_quantiles"]
    np.testing.assert_allclose(quantiles[0], logits[7, 0] - logits[7, 1:].max(), rtol=1e-5)


def _penalised(log_inverse: float, logits: np.ndarray, labels: np.ndarray) -> float:
    scaled = np.exp(log_inverse) * logits.astype(float)
    return (logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]).sum() + 0.5 * log_inverse**2


def _best_log_inverse(logits: np.ndarray, labels: np.ndarray) -> float:
    """The minimum by SciPy, from a grid: the function may have several minima."""
    grid = np.linspace(-LOG_RANGE, LOG_RANGE, 201)
    values = [_penalised(point, logits, labels) for point in grid]
    near = int(np.argmin(values))
    bounds = grid[max(near - 1, 0)], grid[min(near + 1, 200)]
    options = {"xatol": 1e-9}
    return minimize_scalar(_penalised, bounds=bounds, args=(logits, labels), method="bounded", options=options).x


def _logits_of(kind: str, num_examples: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = _draw(num_examples, num_classes)
    rows = np.arange(num_examples)
    if kind == "huge":
        labels = np.random.default_rng(1).integers(0, num_classes, num_examples).astype(np.int32)
        logits = 1000 * logits
    elif kind == "constant":
        logits = np.tile(logits[:1], (num_examples, 1))
    elif kind in ("separable", "nearly separable"):
        logits = 0.1 * logits
        logits[rows, labels] += 3
        if kind == "nearly separable":
            labels[0] = (labels[0] + 1) % num_classes
    elif kind == "small":
        logits = 0.03 * logits
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("kind", ["calibrated", "huge", "constant", "separable", "nearly separable", "small"])
@pytest.mark.parametrize(("num_examples", "num_classes"), [(10, 2), (10, 10), (1000, 2), (1000, 10)])
def test_temperature_equals_scipy(kind: str, num_examples: int, num_classes: int) -> None:
    logits, labels = _logits_of(kind, num_examples, num_classes)
    metrics = _measure(logits, labels)
    expected = _best_log_inverse(logits, labels)
    np.testing.assert_allclose(-np.log(metrics["temperature"]), expected, atol=2e-3)
    # what counts is the height reached: where the minimum is flat its place is less certain
    excess = _penalised(-np.log(metrics["temperature"]), logits, labels) - _penalised(expected, logits, labels)
    assert excess < 1e-5 * num_examples
    np.testing.assert_allclose(metrics["loss"] - metrics["refinement"], metrics["calibration"], rtol=1e-4, atol=1e-5)


def test_edges_are_flagged() -> None:
    logits, labels = _logits_of("huge", 1000, 10)
    metrics = _measure(logits, labels)
    assert metrics["temperature"] == pytest.approx(64)
    assert metrics["temperature_edge"] == 1
    assert _measure(*_draw(1000, 10))["temperature_edge"] == 0


@pytest.mark.parametrize("num_classes", [10, 100])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_groups_temperature_equals_scipys_on_its_rows(num_classes: int, weighted: bool) -> None:
    num_examples = 300 if weighted else 200
    logits, labels = _draw(num_examples, num_classes)
    groups = np.arange(num_classes, dtype=np.int32) * 3 // num_classes
    # calibrated, too confident, and far too confident: beyond the bracket
    logits *= np.float32([1, 4, 1000])[groups[labels]][:, None]
    weights = (np.arange(num_examples) % 3 > 0).astype(np.float32) if weighted else None
    metrics = _measure(logits, labels, jnp.asarray(groups), weights=weights)
    for group in range(3):
        chosen = (groups[labels] == group) & (True if weights is None else weights > 0)
        expected = _best_log_inverse(logits[chosen], labels[chosen])
        np.testing.assert_allclose(-np.log(metrics["group_temperature"][group]), expected, atol=2e-3)
    assert metrics["group_temperature_edge"].tolist() == [0, 0, 1]


def test_a_group_of_one_right_example_is_kept_from_the_edge_by_the_penalty() -> None:
    logits, labels = _draw(200, 10)
    labels[labels == 9] = 8
    logits[0], labels[0] = 0, 9
    logits[0, 9] = 4
    metrics = _measure(logits, labels, jnp.asarray([0] * 9 + [1]))
    expected = _best_log_inverse(logits[:1], labels[:1])
    np.testing.assert_allclose(-np.log(metrics["group_temperature"][1]), expected, atol=2e-3)
    assert metrics["group_temperature_edge"][1] == 0


def test_temperature_of_calibrated_logits_is_one_and_scales_with_them() -> None:
    logits, labels = _draw(4000, 10)
    metrics = _measure(logits, labels)
    assert metrics["temperature"] == pytest.approx(1, abs=0.05)
    assert metrics["calibration"] == pytest.approx(0, abs=1e-3)
    scaled = _measure(5 * logits, labels)
    # up to the penalty, whose share is about 1/n
    assert scaled["temperature"] == pytest.approx(5 * metrics["temperature"], rel=2e-3)
    assert scaled["refinement"] == pytest.approx(metrics["refinement"], abs=1e-4)


@pytest.mark.parametrize(("shape", "tolerance"), [((40, 10), 2e-3), ((1000, 10), 1e-4), ((1000, 40), 1e-4)])
def test_refinement_equals_temperatures_fitted_without_each_fold(shape: tuple[int, int], tolerance: float) -> None:
    logits, labels = _draw(*shape)
    logits = 4 * logits
    fold = np.arange(len(labels)) % CONFIG.folds
    losses, confidences = np.empty(len(labels)), np.empty(len(labels))
    for index in range(CONFIG.folds):
        out = fold == index
        scaled = np.exp(_best_log_inverse(logits[~out], labels[~out])) * logits[out].astype(float)
        log_probs = log_softmax(scaled, axis=1)
        losses[out] = -log_probs[np.arange(out.sum()), labels[out]]
        confidences[out] = np.exp(log_probs.max(axis=1))
    metrics = _measure(logits, labels)
    assert metrics["refinement"] == pytest.approx(losses.mean(), abs=tolerance)
    assert metrics["refined_confidence"] == pytest.approx(confidences.mean(), abs=tolerance)


@pytest.mark.parametrize("num_classes", [10, 100])
def test_weights_are_as_a_subset(num_classes: int) -> None:
    logits, labels = _draw(300, num_classes)
    # the first examples, as with train_size: so folds by position are the same
    weights = (np.arange(300) < 200).astype(np.float32)
    groups = jnp.arange(num_classes) % 3
    subset = _measure(logits[:200], labels[:200], groups)
    _assert_close(_measure(logits, labels, groups, weights=weights), subset, rtol=2e-4, atol=2e-5)


def test_a_group_is_measured_as_its_examples_alone() -> None:
    logits, labels = _draw(300, 10)
    groups = np.int32([0, 0, 0, 1, 1, 1, 1, 1, 1, 1])
    weights = np.zeros(300, np.float32)
    for group, count in ((0, 40), (1, 10)):  # numbers of examples that are measured anyway
        weights[np.flatnonzero(groups[labels] == group)[:count]] = 1
    metrics = _measure(logits, labels, jnp.asarray(groups), weights=weights)
    for group in (0, 1):
        chosen = (groups[labels] == group) & (weights > 0)
        alone = _measure(logits[chosen], labels[chosen])
        for name in set(alone) - {"refinement", "calibration", "refined_confidence"}:  # at the temperature of all
            np.testing.assert_allclose(metrics[f"group_{name}"][group], alone[name], rtol=1e-4, err_msg=name)
    for name in alone:
        assert np.isnan(metrics[f"group_{name}"][2]).all(), name  # no class is in the third group
    shares = np.array([0.8, 0.2, 0])
    np.testing.assert_allclose(metrics["group_share"], shares, rtol=1e-6)
    for name in ("refinement", "calibration"):
        np.testing.assert_allclose(metrics[f"group_{name}"][:2] @ shares[:2], metrics[name], rtol=1e-4, atol=1e-6)


def test_mapped_over_members_equals_looped() -> None:
    drawn = [_draw(200, 10, seed) for seed in range(3)]
    logits, labels = np.stack([z for z, _ in drawn]), np.stack([y for _, y in drawn])
    groups = jnp.arange(10) // 4
    mapped = quickly(jax.vmap(lambda z, y: measure(z, y, groups, CONFIG)))(logits, labels)
    for member in range(3):
        looped = _measure(logits[member], labels[member], groups)
        _assert_close({name: value[member] for name, value in mapped.items()}, looped)


@pytest.mark.parametrize("ynn_fusion", [False, True])
def test_the_tiles_that_are_chosen_change_no_byte(ynn_fusion: bool) -> None:
    """At the sizes of a real evaluation, compiled as a population's programs are."""
    if jax.default_backend() != "cpu":
        pytest.skip("on an accelerator a member's bytes are its own for one tile only")
    rng = np.random.default_rng(0)
    logits = (3 * rng.normal(size=(16, 1000, 10))).astype(np.float32)
    labels = rng.integers(0, 10, (16, 1000)).astype(np.int32)
    groups = np.stack([rng.permutation(10) % 3 for _ in range(16)]).astype(np.int32)
    options = dict(compiler_options("cpu", ynn_fusion))
    mapped = jax.jit(jax.vmap(lambda z, y, g: measure(z, y, g, CONFIG)), compiler_options=options)
    whole = mapped(logits, labels, groups)
    for tile in (4, 8):
        tiles = [slice(first, first + tile) for first in range(0, 16, tile)]
        found = [mapped(logits[members], labels[members], groups[members]) for members in tiles]
        for name, values in whole.items():
            together = np.concatenate([metrics[name] for metrics in found])
            np.testing.assert_array_equal(together.view(np.int32), np.asarray(values).view(np.int32), err_msg=name)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), shift=st.integers(-50, 50), tied=st.booleans())
def test_shifts_and_permutations_change_nothing(seed: int, shift: int, tied: bool) -> None:
    logits, labels = _draw(60, 6, seed)
    if tied:
        logits = np.round(logits)
    rng = np.random.default_rng(seed)
    config = UNCALIBRATED if tied else CONFIG
    expected = _measure(logits, labels, config=config)
    shifted = logits + shift * rng.integers(0, 2, (60, 1)).astype(np.float32)
    actual = _measure(shifted, labels, config=config)
    # rounding may move a confidence over the edge of a bin
    _assert_close(_without_bins(actual), _without_bins(expected), rtol=2e-3, atol=1e-3 if not tied else 1e-5)

    order = rng.permutation(60)
    moved = _measure(logits[order], labels[order], config=UNCALIBRATED)
    _assert_close(moved, _measure(logits, labels, config=UNCALIBRATED), rtol=1e-4, atol=1e-5)
    if not tied:
        classes = rng.permutation(6)
        renamed = _measure(logits[:, classes], np.argsort(classes)[labels].astype(np.int32), config=config)
        _assert_close(_without_bins(renamed), _without_bins(expected), rtol=2e-3, atol=1e-3)


def _without_bins(metrics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value for name, value in metrics.items() if not name.startswith("ece")}


def test_mass_error_does_not_depend_on_the_order_of_examples() -> None:
    logits, labels = _draw(60, 6)
    logits = np.round(logits)  # so that there are many ties
    order = np.random.default_rng(0).permutation(60)
    moved = _measure(logits[order], labels[order])["ece_mass"]
    np.testing.assert_allclose(moved, _measure(logits, labels)["ece_mass"], rtol=1e-5)


@pytest.mark.parametrize("num_classes", [10, 100])
def test_a_nonfinite_member_has_no_metrics(num_classes: int) -> None:
    logits, labels = _draw(200, num_classes)
    metrics = _measure(np.full_like(logits, np.nan), labels, jnp.arange(num_classes) % 3)
    for name in ("loss", "brier", "ece_width", "ece_mass", "temperature", "temperature_edge", "refinement"):
        assert np.isnan(metrics[name]), name
        assert np.isnan(metrics[f"group_{name}"]).all(), name
    assert metrics["accuracy"] == 0


def test_what_is_not_asked_for_is_not_in_the_program() -> None:
    logits, labels = _draw(50, 10)
    text = str(jax.make_jaxpr(lambda z, y: measure(z, y, None, UNCALIBRATED))(logits, labels))
    assert "sort[" not in text
    assert "while[" not in text
    assert "scan[" not in text
    calibrated = [
        str(jax.make_jaxpr(lambda z, y, groups=groups: measure(z, y, groups, CONFIG))(logits, labels)).count("while[")
        for groups in (None, jnp.arange(10) % 3)
    ]
    assert calibrated == [1, 2]  # one temperature; with groups, one pass more serves them all
