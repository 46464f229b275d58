"""Comparisons: cells by hand, additivity, no-ops that must not be divergence, known answers, populations."""

import dataclasses

import hypothesis
import jaxtyping
import numpy as np
import pytest
from hypothesis import strategies
from scipy import special

from lossjax.analysis import attribution, calibration
from lossjax.analysis.comparison import compare, compare_records
from lossjax.analysis.records import Records
from lossjax.analysis.regimes import Flat


@pytest.fixture
def unchecked(monkeypatch):
    """Without jaxtyping's import hook, should a test run have it: what a user meets is our own error."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def drawn(num_examples, num_classes, seed, noise=0.5):
    """Labels from softmax(truth), and the logits of two models that see truth through noise of their own."""
    rng = np.random.default_rng(seed)
    truth = 1.5 * rng.normal(size=(num_examples, num_classes))
    labels = (truth + rng.gumbel(size=truth.shape)).argmax(axis=1)
    a, b = (truth + noise * rng.normal(size=truth.shape) for _ in range(2))
    return a, b, labels


def test_four_cells_by_hand():
    loss_a, loss_b = np.array([1.0, 2, 3, 4]), np.array([0.5, 3, 1, 4.5])
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    cells = attribution.four_cells(loss_a, loss_b, a, b)
    assert {cell: values.sum() for cell, values in cells.items()} == {
        "right→right": -0.5,
        "right→wrong": 1.0,
        "wrong→right": -2.0,
        "wrong→wrong": 0.5,
    }
    assert set(attribution.cell_shares(a, b).values()) == {0.25}


def test_influence_by_hand():
    assert attribution.influence(np.array([1.0] * 50)).effective_count == 50
    one = attribution.influence(np.array([100.0] + [0.0] * 199))
    assert (one.effective_count, one.without_top_percent, one.few) == (1.0, 0.0, True)


def test_frequency_groups_have_equal_mass():
    assert attribution.frequency_groups(np.array([1, 1, 4, 2, 4])).tolist() == [2, 2, 0, 2, 1]
    assert attribution.frequency_groups(np.full(9, 5)).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    # laid end to end they begin at 0, 6 and 11 of 12
    assert attribution.frequency_groups(np.array([6, 5, 1])).tolist() == [0, 1, 2]
    zipf = (1e6 / np.arange(1, 1001)).astype(int)
    groups = attribution.frequency_groups(zipf)
    np.testing.assert_allclose(np.bincount(groups, zipf) / zipf.sum(), 1 / 3, atol=0.04)
    assert attribution.tail_examples(np.array([9, 5, 1]), np.array([0, 1, 2, 2])).tolist() == [False, False, True, True]


def test_everything_adds_up():
    a, b, labels = drawn(500, 4, 0)
    groups = np.arange(500) % 3
    found = compare(a, b, labels, groups=groups)
    delta = found.delta_loss.estimate
    first, second = calibration.scores(a, labels), calibration.scores(b, labels)
    np.testing.assert_allclose(delta, second.loss.mean() - first.loss.mean())
    np.testing.assert_allclose(sum(cell.estimate for cell in found.cells.values()), delta)
    np.testing.assert_allclose(sum(group.estimate for group in found.by_group.values()), delta)
    np.testing.assert_allclose(found.delta_refinement.estimate + found.delta_calibration.estimate, delta)
    np.testing.assert_allclose(found.contrast.estimate, 0.2 * delta - found.delta_refinement.estimate)
    np.testing.assert_allclose(
        found.cell_shares["wrong→right"] - found.cell_shares["right→wrong"], found.delta_accuracy.estimate
    )
    assert found.scope == "examples; seed variance unobserved"


@hypothesis.given(seed=strategies.integers(0, 1000), ordered=strategies.booleans())
@hypothesis.settings(max_examples=15, deadline=None)
def test_no_operation_is_never_divergence(seed, ordered):
    """A constant added to each example's logits, or classes renumbered, is the same model."""
    rng = np.random.default_rng(seed)
    a, _, labels = drawn(100, 4, seed)
    order = rng.permutation(4)
    inverse = np.argsort(order)
    shifted = compare(a, a + 50 * rng.normal(size=(100, 1)), labels, ordered=ordered)
    assert shifted.regime == "N"
    np.testing.assert_allclose([shifted.delta_loss.low, shifted.delta_loss.high], 0, atol=1e-12)
    np.testing.assert_allclose(shifted.delta_refinement.estimate, 0, atol=1e-7)
    base, renumbered = compare(a, 2 * a, labels), compare(a[:, order], 2 * a[:, order], inverse[labels])
    np.testing.assert_allclose(renumbered.delta_loss.low, base.delta_loss.low)
    assert renumbered.refinement == base.refinement
    examples = rng.permutation(100)
    permuted = compare(a[examples], 2 * a[examples], labels[examples])
    np.testing.assert_allclose(permuted.delta_loss.estimate, base.delta_loss.estimate)
    assert permuted.delta_accuracy == base.delta_accuracy


def test_over_confidence_is_scale():
    a, _, labels = drawn(2000, 4, 1, noise=0.0)
    found = compare(a, 3 * a, labels)
    assert (found.regime, found.refinement[0]) == ("O", "O")
    assert found.kind_resolved
    assert found.scale_share.low <= 1 <= found.scale_share.high
    # the whole of ΔL is scale; accuracy is exactly unchanged, but 2,000 examples show ±0.5 points flat
    assert found.refinement == "O0"
    assert found.mcnemar == 1.0


def test_scale_share_has_the_bounds_of_a_bootstrapped_ratio():
    a, b, labels = drawn(1000, 3, 10, noise=0.3)
    found = compare(a, 2 * b, labels)
    records = [calibration.scores(z, labels).loss for z in (a, 2 * b)]
    change = records[1] - records[0]
    fold = calibration.assign_folds(np.zeros(1000), seed=3)
    refined = [calibration.fit_temperature(z, labels, fold, 5).refined for z in (a, 2 * b)]
    rows = np.random.default_rng(0).integers(0, 1000, (2000, 1000))
    ratios = 1 - (refined[1] - refined[0])[rows].mean(axis=1) / change[rows].mean(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    np.testing.assert_allclose([found.scale_share.low, found.scale_share.high], [low, high], atol=0.25 * (high - low))


def test_lost_ranking_is_not_repaired_by_a_temperature():
    """Half of the wrong examples get worse in a way that no common temperature undoes; no argmax moves."""
    a, _, labels = drawn(3000, 3, 2, noise=0.0)
    b = a.copy()
    wrong = np.flatnonzero(a.argmax(axis=1) != labels)
    b[wrong, labels[wrong]] -= 2.0
    found = compare(a, b, labels)
    assert found.refinement == "K0"
    assert found.kind_resolved
    assert found.cells["wrong→wrong"].low > 0
    assert found.cells["right→right"].estimate == 0


def test_plateau_by_calibration_and_by_refinement():
    a, _, labels = drawn(2000, 4, 3, noise=0.0)
    recalibrated = compare(3 * a, a, labels)
    assert recalibrated.refinement == "P-c"
    wrong = np.flatnonzero(a.argmax(axis=1) != labels)
    for classes, from_tail in (([2, 3], True), ([0, 1], False)):
        chosen = wrong[np.isin(labels[wrong], classes)]
        worse = a.copy()
        worse[chosen, labels[chosen]] -= 3.0
        refined = compare(worse, a, labels, class_counts=np.array([40, 30, 20, 10]))
        assert refined.refinement == "P-r"
        assert refined.tail_driven is from_tail


def test_an_unordered_pair_reads_the_same_both_ways():
    a, b, labels = drawn(800, 3, 4)
    for one, other in ((a, 3 * a), (a, b), (a, 0.5 * b)):
        forth, back = (compare(*pair, labels, ordered=False) for pair in ((one, other), (other, one)))
        assert forth.refinement == back.refinement
        assert forth.regime != "S"
        np.testing.assert_allclose(forth.delta_loss.low, -back.delta_loss.high, rtol=1e-6)


def test_least_flat_delta_makes_it_flat():

    a, b, labels = drawn(300, 3, 5)
    found = compare(a, b, labels)
    slightly = 1 + 1e-9
    flat = Flat(loss=found.flat_delta_loss * slightly, accuracy=found.flat_delta_accuracy * slightly)
    assert compare(a, b, labels, flat=flat).refinement == "N-e"
    assert compare(a, b, labels, flat=dataclasses.replace(flat, loss=found.flat_delta_loss / 1.01)).refinement != "N-e"
    discordant = found.cell_shares["right→wrong"] + found.cell_shares["wrong→right"]
    np.testing.assert_allclose(found.needed_accuracy, 8.6 * discordant / 0.005**2, rtol=0.01)


def test_duplicated_examples_in_clusters_change_nothing():
    a, b, labels = drawn(200, 3, 6)
    records = [Records(s.loss, s.correct) for s in (calibration.scores(a, labels), calibration.scores(b, labels))]
    twice = [Records(np.repeat(r.loss, 2), np.repeat(r.correct, 2)) for r in records]
    base, clustered = compare_records(*records), compare_records(*twice, clusters=np.repeat(np.arange(200), 2))
    naive = compare_records(*twice)
    np.testing.assert_allclose(clustered.delta_loss.low, base.delta_loss.low)
    assert naive.delta_loss.high - naive.delta_loss.low < 0.8 * (base.delta_loss.high - base.delta_loss.low)
    assert clustered.mcnemar is None
    assert base.delta_refinement is None
    assert base.scale_share is None


def population(num_members, num_examples, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    truth = 1.5 * np.random.default_rng(99).normal(size=(num_examples, 3))
    labels = (truth + np.random.default_rng(98).gumbel(size=truth.shape)).argmax(axis=1)
    return scale * (truth + 0.5 * rng.normal(size=(num_members, num_examples, 3))), labels


@pytest.mark.parametrize("num_members", [6, 20])  # fewer pairs decide nothing
def test_populations(num_members):
    a, labels = population(num_members, 200, 1)
    b, _ = population(num_members, 200, 2, scale=3.0)
    # no argmax changes in the pairs, but 200 examples do not show accuracy flat within half a point
    apart, pairs = compare(a, b, labels), compare(a, 3 * a, labels, same_seeds=True, flat=Flat(accuracy=0.02))
    assert apart.scope == "seeds×examples"
    assert min(pairs.delta_loss.low, apart.delta_loss.low) > 0
    assert pairs.refinement == "O0"
    for found in (apart, pairs):
        np.testing.assert_allclose(sum(c.estimate for c in found.cells.values()), found.delta_loss.estimate)
        np.testing.assert_allclose(sum(found.cell_shares.values()), 1.0)
    assert apart.mcnemar is None
    assert np.isnan(apart.cells["right→right"].low)


@pytest.mark.parametrize(
    ("members", "same_seeds", "smallest_p"),
    [(5, True, 1 / 16), (6, True, 1 / 32), (2, False, 1 / 3), (4, False, 1 / 35)],
)
def test_too_few_seeds_for_any_exact_test_get_no_verdict(members, same_seeds, smallest_p):
    """Half of the examples become right and all losses double, in every run; but 2 and 2 could be so by their seeds."""
    rng, half = np.random.default_rng(0), np.arange(400) < 200
    losses = np.array([1.0, 2.0])[:, None, None] * (1 + 0.01 * rng.random((2, members, 400)))
    records = [
        Records(loss, np.tile(hits, (members, 1))) for loss, hits in zip(losses, (half, ~half | half), strict=True)
    ]
    found = compare_records(*records, same_seeds=same_seeds)
    assert found.delta_loss.low > 0.9
    assert found.delta_accuracy.low > 0.4
    np.testing.assert_allclose(found.smallest_p, smallest_p)
    assert 0 < found.detectable_loss < 0.01
    few = smallest_p > 0.05
    assert (found.refused is not None) == few
    assert found.refinement == ("N-u" if few else "O/K+")


def test_cells_of_independent_groups_are_the_average_over_all_pairs():
    (a, labels), (b, _) = population(2, 50, 3), population(3, 50, 4)
    found = compare(a, b, labels)
    pairs = [compare(one, other, labels) for one in a for other in b]
    for cell in attribution.CELLS:
        np.testing.assert_allclose(found.cells[cell].estimate, np.mean([p.cells[cell].estimate for p in pairs]))
        np.testing.assert_allclose(found.cell_shares[cell], np.mean([p.cell_shares[cell] for p in pairs]))


def test_two_groups_of_seeds_of_one_configuration_are_rarely_divergence():
    divergences = 0
    for index in range(40):
        (a, labels), (b, _) = population(5, 150, 2 * index), population(5, 150, 2 * index + 1)
        divergences += compare(a, b, labels).regime in ("P", "O", "K", "S")
    assert divergences <= 2


def test_duplicates_in_clusters_of_populations():
    (a, labels), (b, _) = population(6, 40, 7), population(6, 40, 8)
    base = compare_records(*(_records(z, labels) for z in (a, b)))
    clusters = np.repeat(np.arange(40), 2)
    twice = compare_records(
        *(_records(np.repeat(z, 2, axis=1), np.repeat(labels, 2)) for z in (a, b)), clusters=clusters
    )
    np.testing.assert_allclose(
        [twice.delta_loss.low, twice.delta_loss.high], [base.delta_loss.low, base.delta_loss.high]
    )


def _records(logits, labels):
    measured = [calibration.scores(z, labels) for z in logits]
    return Records(np.stack([m.loss for m in measured]), np.stack([m.correct for m in measured]))


def test_the_drop_from_030_to_049_without_a_changed_argmax():
    """The true class goes from 0.30 to 0.49 and another keeps 0.51: the loss falls by log(0.49/0.30) in one cell."""
    logits = [np.log(np.tile([p, 0.51, 0.49 - p + 1e-300], (50, 1))) for p in (0.30, 0.49)]
    found = compare(*logits, np.zeros(50, dtype=int))
    np.testing.assert_allclose(found.cells["wrong→wrong"].estimate, -np.log(0.49 / 0.30))
    assert found.cell_shares["wrong→wrong"] == 1.0
    np.testing.assert_allclose(special.softmax(logits[1][0])[0], 0.49)


def test_no_changed_argmax_is_not_flat_accuracy_by_itself():
    """Of 60 examples, in clusters or not, of two models or of populations: ±0.5 points take more of them."""
    a, _, labels = drawn(60, 3, 11)
    one, members = [_records(z[None], labels) for z in (a, 3 * a)], np.stack([a, 1.1 * a, 1.2 * a])
    one = [Records(*(field[0] for field in side[:2])) for side in one]
    alone, clustered = compare_records(*one), compare_records(*one, clusters=np.arange(60))
    np.testing.assert_allclose(clustered.delta_accuracy.high, alone.delta_accuracy.high)
    by_two = compare_records(*one, clusters=np.arange(60) // 2)
    pairs, apart = ([_records(z, labels) for z in (members[:k], 3 * members)] for k in (3, 2))
    found = [alone, clustered, by_two, compare_records(*pairs, same_seeds=True), compare_records(*apart)]
    found.append(compare_records(*apart, clusters=np.arange(60) // 2))
    for each in found:
        assert each.delta_accuracy.estimate == 0
        assert each.delta_accuracy.high >= alone.delta_accuracy.high * (1 - 1e-12)
        assert each.refinement == "N-u"
    assert by_two.delta_accuracy.high > 1.9 * alone.delta_accuracy.high
    np.testing.assert_allclose(found[-1].delta_accuracy.high, by_two.delta_accuracy.high)


def test_rare_changes_in_populations_are_covered():
    """2 % of examples are gained by all of 5 members: over fresh examples the interval holds that."""
    rng, covered = np.random.default_rng(12), 0
    for index in range(100):
        before = np.tile(rng.random(150) < 0.8, (5, 1))
        after = before.copy()
        gained = rng.random(150) < 0.02
        before[:, gained], after[:, gained] = False, True
        losses = [np.where(hits, 0.2, 1.5) + 0.1 * rng.random(hits.shape) for hits in (before, after)]
        records = [Records(loss, hits) for loss, hits in zip(losses, (before, after), strict=True)]
        covered += not compare_records(*records, seed=index).delta_accuracy.excludes(0.02)
    assert covered > 90


@pytest.mark.usefixtures("unchecked")
def test_mismatched_input_is_refused():
    a, b, labels = drawn(30, 3, 9)
    with pytest.raises(ValueError, match="same examples"):
        compare(a, b[:20], labels)
    with pytest.raises(ValueError, match="groups"):
        compare(a, b, labels, groups=np.zeros(3))
    for names in (
        np.r_[np.nan, np.arange(29)],
        np.array([None, *"abc" * 9, "d", "e"]),
        np.array([1, *"ab" * 14, "c"], object),
    ):
        with pytest.raises(ValueError, match="clusters has names"):
            compare(a, b, labels, clusters=names)
    with pytest.raises(ValueError, match="neither true nor false"):
        compare_records(Records(np.ones(4), np.full(4, 0.5)), Records(np.ones(4), np.ones(4, bool)))
    with pytest.raises(ValueError, match="member axis"):
        compare(a[None], b[None], labels)
    with pytest.raises(ValueError, match="pairs"):
        compare(np.stack([a, a]), np.stack([b, b, b]), labels, same_seeds=True)
