"""Regimes: the table, pairs by Gram matrices against pairs one at a time, and what must never be called divergence."""

import hypothesis
import jaxtyping
import numpy as np
import pytest
from hypothesis import strategies
from scipy import stats

from lossjax.analysis import proportions, regimes
from lossjax.analysis.interval import Interval, Intervals

TABLE = {  # METHODS.md, row by row; the kind is O where the contrast is positive
    "-": {"-": "S", "0": "P", "+": "G", "?": "N-u"},
    "0": {"-": "N-m", "0": "N-e", "+": "N-m", "?": "N-u"},
    "+": {"-": "W", "0": "O0", "+": "O+", "?": "N-u"},
    "?": {"-": "N-u", "0": "N-u", "+": "N-u", "?": "N-u"},
}


@pytest.fixture
def unchecked(monkeypatch):
    """Without jaxtyping's import hook, should a test run have it: what a user meets is our own error."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("loss", "-0+?")
@pytest.mark.parametrize("accuracy", "-0+?")
def test_the_table(loss, accuracy):
    found = regimes.regimes(np.array(loss), np.array(accuracy), contrast=np.array(0.1))
    assert str(found.refinement) == TABLE[loss][accuracy]
    assert str(found.letter) == TABLE[loss][accuracy][0]
    opposite = regimes.regimes(np.array(loss), np.array(accuracy), contrast=np.array(-0.1))
    assert str(opposite.refinement) == TABLE[loss][accuracy].replace("O", "K")
    untold = regimes.regimes(np.array(loss), np.array(accuracy))
    assert str(untold.refinement) == TABLE[loss][accuracy].replace("O", "O/K")


@pytest.mark.parametrize("loss", "-0+?")
@pytest.mark.parametrize("accuracy", "-0+?")
@pytest.mark.parametrize("contrast", [-0.1, 0.1])
def test_an_unordered_pair_has_no_direction(loss, accuracy, contrast):
    turned = {"+": "-", "-": "+", "0": "0", "?": "?"}
    ab = regimes.regimes(np.array(loss), np.array(accuracy), contrast=np.array(contrast), ordered=False)
    ba = regimes.regimes(
        np.array(turned[loss]), np.array(turned[accuracy]), contrast=np.array(-contrast), ordered=False
    )
    assert ab.refinement == ba.refinement
    assert str(ab.letter) != "S"


def test_movement_judges_flatness_first():
    narrow = Intervals(np.zeros(4), np.array([0.001, -0.004, 0.002, -0.1]), np.array([0.004, 0.006, 0.01, 0.1]), 0.9)
    wide = Intervals(np.zeros(4), np.array([0.0005, -0.005, 0.001, -0.2]), np.array([0.0045, 0.007, 0.02, 0.2]), 0.95)
    assert regimes.movement(narrow, wide, 0.005).tolist() == ["0", "?", "+", "?"]


def test_movement_refuses_levels_that_do_not_belong_together():
    with pytest.raises(ValueError, match="flatness"):
        regimes.movement(Interval(0.0, 0.0, 0.0, 0.95), Interval(0.0, 0.0, 0.0, 0.95), 0.01)


def records(num_evals, num_examples, seed):
    """Losses and correctness of a run that improves in small steps."""
    rng = np.random.default_rng(seed)
    margin = rng.normal(size=num_examples) + np.cumsum(0.1 * rng.normal(0.3, 1, size=(num_evals, num_examples)), axis=0)
    return np.logaddexp(0, -margin), margin > 0


def test_pairs_by_gram_matrices_are_pairs_one_at_a_time():
    losses, correct = records(6, 300, 0)
    flat = regimes.Flat(loss=0.02, accuracy=0.03)
    found = regimes.windows(losses, correct, chance=0.5, flat=flat)
    for i in range(6):
        for j in range(6):
            if i >= j:
                assert found.letters[i, j] == ""
                continue
            moves = []
            for level in (0.9, 0.95):
                test = stats.ttest_rel(losses[j], losses[i]).confidence_interval(level)
                gained, lost = int((correct[j] & ~correct[i]).sum()), int((correct[i] & ~correct[j]).sum())
                moves.append(
                    (
                        Interval(float(losses[j].mean() - losses[i].mean()), float(test.low), float(test.high), level),
                        proportions.bonett_price(gained, lost, 300, level=level),
                    )
                )
            (loss_narrow, accuracy_narrow), (loss_wide, accuracy_wide) = moves
            expected = regimes.regimes(
                regimes.movement(loss_narrow, loss_wide, 0.02), regimes.movement(accuracy_narrow, accuracy_wide, 0.03)
            )
            assert found.refinements[i, j] == str(expected.refinement)


def test_pair_intervals_are_scipys():
    values = np.random.default_rng(7).exponential(size=(3, 40)) + np.random.default_rng(8).normal(5, 9, size=40)
    narrow, wide = regimes.pair_differences(values)
    for found in (narrow, wide):
        expected = stats.ttest_rel(values[2], values[0]).confidence_interval(found.level)
        np.testing.assert_allclose([found.low[0, 2], found.high[0, 2]], expected)


def test_members_are_taken_one_at_a_time():
    runs = [records(5, 200, seed) for seed in range(3)]
    losses, correct = (np.stack(parts) for parts in zip(*runs, strict=True))
    together = regimes.windows(losses, correct, chance=0.5, refined_losses=0.9 * losses)
    for member, (loss, hit) in enumerate(runs):
        alone = regimes.windows(loss, hit, chance=0.5, refined_losses=0.9 * loss)
        np.testing.assert_array_equal(together.letters[member], alone.letters)
        np.testing.assert_array_equal(together.chance[member], alone.chance)


@hypothesis.given(seed=strategies.integers(0, 10_000), shift=strategies.floats(-5, 5))
@hypothesis.settings(max_examples=15, deadline=None)
def test_regimes_ignore_the_order_of_examples_and_a_constant_each(seed, shift):
    losses, correct = records(4, 100, seed)
    order = np.random.default_rng(seed).permutation(100)
    base = regimes.windows(losses, correct, chance=0.5)
    moved = regimes.windows((losses + shift * losses[0])[:, order], correct[:, order], chance=0.5)
    np.testing.assert_array_equal(base.letters, moved.letters)


def test_a_run_that_does_nothing_is_flat():
    losses, correct = records(1, 3000, 1)
    found = regimes.windows(np.repeat(losses, 4, axis=0), np.repeat(correct, 4, axis=0), chance=0.5)
    assert set(found.refinements[np.triu_indices(4, 1)]) == {"N-e"}


def test_over_confidence_is_told_from_worse_ranking():
    """Logits doubled where they were right: one temperature brings the loss back, so refinement stays."""
    rng = np.random.default_rng(2)
    margin = rng.normal(1, 1, size=4000)
    losses = np.stack([np.logaddexp(0, -margin), np.logaddexp(0, -4 * margin)])
    correct = np.stack([margin > 0, margin > 0])
    repaired = regimes.windows(losses, correct, chance=0.5, refined_losses=losses[[0, 0]])
    kept = regimes.windows(losses, correct, chance=0.5, refined_losses=losses)
    assert repaired.refinements[0, 1] == "O0"
    assert kept.refinements[0, 1] == "K0"
    assert regimes.windows(losses, correct, chance=0.5).letters[0, 1] == "O/K"


def test_windows_say_how_each_of_the_two_moved():
    rng = np.random.default_rng(0)
    right = rng.random(1000) < 0.8
    # from 0 to 1 the loss moves by far less than its noise, from 1 to 2 by far more; accuracy never moves
    losses = np.stack([rng.exponential(size=1000), rng.exponential(size=1000), rng.exponential(size=1000) + 1.0])
    found = regimes.windows(losses, np.stack([right] * 3), chance=0.5)
    assert (str(found.loss[0, 1]), str(found.accuracy[0, 1]), str(found.refinements[0, 1])) == ("?", "0", "N-u")
    assert (str(found.loss[1, 2]), str(found.accuracy[1, 2]), str(found.letters[1, 2])) == ("+", "0", "O/K")
    assert set(found.loss[np.tril_indices(3)]) == {""}
    # an evaluation after the member broke belongs to no pair
    losses[2] = np.nan
    broken = regimes.windows(losses, np.stack([right] * 3), chance=0.5)
    assert broken.loss.tolist() == [["", "?", ""], ["", "", ""], ["", "", ""]]


def test_ceiling_and_chance_are_counted_apart():
    losses = np.linspace(0.7, 0.1, 4)[:, None] + np.random.default_rng(3).normal(0, 0.01, (4, 5000))
    half = np.arange(5000) % 2 == 0
    correct = np.stack([half, half, np.ones(5000, bool), np.ones(5000, bool)])
    found = regimes.windows(losses, correct, chance=0.5)
    assert found.letters[0, 1] == found.letters[2, 3] == "P"
    assert found.chance[0, 1]
    assert not found.chance[1, 2]
    assert found.ceiling[2, 3]
    assert not found.ceiling[1, 2]
    steps = np.array([0, 10, 20, 40])
    assert regimes.longest_window(found.letters, steps) == 0.5
    assert regimes.longest_window(found.letters, steps, among=found.chance) == 0.25
    assert regimes.longest_window(found.letters, steps, among=found.interior) == 0.0
    assert regimes.longest_window(found.letters, steps, letter="G") == 1.0


def test_windows_over_seeds_and_of_observed_curves():
    rng = np.random.default_rng(4)
    accuracies = np.array([0.6, 0.6, 0.8]) + rng.normal(0, 1e-4, (10, 3))
    losses = np.array([1.0, 0.8, 0.9]) + rng.normal(0, 1e-4, (10, 3))
    over_seeds = regimes.seed_windows(losses, accuracies)
    assert over_seeds.letters[0, 1] == "P"
    assert over_seeds.refinements[1, 2] == "O/K+"
    assert over_seeds.letters[0, 2] == "G"
    few = regimes.seed_windows(losses[:5], accuracies[:5])  # 5 seeds that all agree: p = 0.06 at best
    assert (few.refinements[np.triu_indices(3, 1)] == "N-u").all()
    assert (few.letters[np.tril_indices(3)] == "").all()
    assert regimes.seed_windows(losses[:6], accuracies[:6]).letters[0, 1] == "P"
    observed = regimes.observed_windows(losses, accuracies)
    assert observed.letters.shape == (10, 3, 3)
    assert (observed.letters == over_seeds.letters).all()


@pytest.mark.usefixtures("unchecked")
def test_mismatched_records_are_refused():
    with pytest.raises(ValueError, match="losses"):
        regimes.windows(np.zeros((3, 5)), np.zeros((3, 6), bool), chance=0.5)
    with pytest.raises(ValueError, match="finite"):
        regimes.windows(np.full((3, 5), np.nan), np.zeros((3, 5), bool), chance=0.5)
