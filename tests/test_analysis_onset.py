"""Times along a run: hand-made curves, SciPy's survival functions, and coverage of the confidence set."""

import numpy as np
import pytest
from scipy import stats

from lossjax.analysis import onset as timing
from lossjax.analysis import regimes
from lossjax.analysis.proportions import wilson


def test_the_first_of_tied_extrema():
    losses = np.array([[3.0, 1.0, 1.0, 2.0], [2.0, 1.0, np.nan, np.nan]])
    assert timing.best_evaluation(losses, "lowest").tolist() == [1, 1]
    assert timing.best_evaluation(losses, "highest").tolist() == [0, 0]
    with pytest.raises(ValueError, match="no finite evaluation"):
        timing.best_evaluation(np.full((1, 3), np.nan), "lowest")


def test_lag_of_parabolas():
    times = np.arange(0, 100, 10)
    centres = np.array([20, 30, 40, 30, 20, 40])
    losses = (times - centres[:, None]) ** 2.0
    accuracies = -((times - centres[:, None] - np.array([10, 20, 30, 20, 10, 30])[:, None]) ** 2.0)
    found = timing.lag(losses, accuracies, times)
    assert found.mean.estimate == 20
    interval = stats.t.interval(0.95, 5, 20, stats.sem([10, 20, 30, 20, 10, 30]))
    np.testing.assert_allclose([found.mean.low, found.mean.high], interval)
    assert found.of_mean_curve == 20


def test_patience_by_hand():
    losses = np.array([5.0, 4.0, 4.0, 3.0, 3.5, 3.2, 3.0, 2.0])
    for patience, expected in ((1, 2), (2, 5), (3, 6), (4, 7)):  # an equal value is no new best
        assert timing.patience_stop(losses, "lowest", patience) == expected
        assert timing.patience_stop(-losses, "highest", patience) == expected
    broken = np.array([[3.0, 2.0, np.nan, np.nan, np.nan], [5.0, 4.0, 3.0, 2.0, 1.0]])
    assert timing.patience_stop(broken, "lowest", 2).tolist() == [3, 4]
    with pytest.raises(ValueError, match="patience=0"):
        timing.patience_stop(losses, "lowest", 0)


def test_patience_is_a_loop_over_evaluations():
    def looped(row, patience):
        best, waited = -np.inf, 0
        for now, value in enumerate(row):
            best, waited = (value, 0) if value > best else (best, waited + 1)
            if waited == patience:
                return now
        return len(row) - 1

    values = np.random.default_rng(0).integers(0, 6, size=(200, 12)).astype(float)  # with ties
    for patience in (1, 2, 5):
        expected = [looped(row, patience) for row in values]
        assert timing.patience_stop(values, "highest", patience).tolist() == expected


@pytest.mark.parametrize("units", [8, 60])
def test_the_set_keeps_the_best_evaluation(units):
    """Least favourable: all evaluations equally good, so only chance can leave the first one out."""
    rng = np.random.default_rng(0)
    kept = [
        timing.adequate_evaluations(rng.normal(size=(6, units)) + rng.normal(size=units), "lowest", seed=i)[0]
        for i in range(300)
    ]
    assert np.mean(kept) > 0.92
    if units >= 20:  # Bonferroni below is wider by design
        assert np.mean(kept) < 0.995


def test_the_set_leaves_out_what_is_worse():
    values = np.random.default_rng(1).normal(size=(4, 500)) * 0.1 + np.array([1.0, 0.0, 0.001, 2.0])[:, None]
    assert timing.adequate_evaluations(values, "lowest").tolist() == [False, True, True, False]
    assert timing.adequate_evaluations(-values, "highest").tolist() == [False, True, True, False]
    # constant differences are certain, and equal evaluations are equally adequate
    assert timing.adequate_evaluations(values[[1, 1]], "lowest").all()
    assert timing.adequate_evaluations(values[[1]] + np.array([[0.0], [1.0]]), "lowest").tolist() == [True, False]


def letters_of(rows):
    """Letters against evaluation 0, all that ``onset`` reads when t_L = 0."""
    letters = np.full((len(rows), len(rows[0]), len(rows[0])), "N", dtype="<U3")
    letters[:, 0] = [list(row) for row in rows]
    return letters


def test_onset_needs_three_evaluations_running():
    letters = letters_of(["NNOKONNN", "NOONOONN", "NNNNNOOO", "NNNNNNOO", "NNOO    "])
    found = timing.onset(letters, np.zeros(5, int), nonfinite=np.array([8, 8, 8, 8, 4]))
    assert found.event.tolist() == ["onset", "censored", "onset", "censored", "nonfinite"]
    assert found.evaluation.tolist() == [2, 5, 5, 5, 1]
    assert found.share().estimate == 0.4
    alone = timing.onset(letters, np.zeros(5, int), window=1)
    assert alone.evaluation.tolist() == [2, 1, 5, 6, 2]


def test_onset_is_judged_against_each_members_own_start():
    letters = np.full((2, 6, 6), "N")
    letters[1, 2, 3:] = "K"
    assert timing.onset(letters, np.array([2, 2])).event.tolist() == ["censored", "onset"]
    assert timing.onset(letters, np.array([2, 1])).event.tolist() == ["censored", "censored"]
    with pytest.raises(ValueError, match="window"):
        timing.onset(letters, np.array([2, 2]), window=6)


def test_flat_tails_have_no_onset():
    """Members whose tail is noise around one level: an onset is false, and at most 5 % may have one."""
    rng = np.random.default_rng(2)
    false = 0
    for _ in range(100):
        margin = rng.normal(1, 1, size=400) + 0.3 * rng.normal(size=(8, 400))
        letters = regimes.windows(np.logaddexp(0, -margin), margin > 0, chance=0.5).letters
        start = timing.best_evaluation(rng.normal(size=8)[None], "lowest")  # a validation set that says nothing
        false += int(timing.onset(letters[None], start).observed[0])
    assert false <= 5


def test_a_run_that_overfits_has_its_onset():
    """Margins grow without changing sign: after evaluation 3, wrong examples cost ever more, accuracy stays."""
    margin = np.random.default_rng(3).normal(0.5, 1, size=2000)
    losses = np.stack([np.logaddexp(0, -scale * margin) for scale in (0.1, 0.5, 0.9, 1.0, 1.6, 2.2, 2.8, 3.4)])
    letters = regimes.windows(losses, np.repeat(margin[None] > 0, 8, axis=0), chance=0.5).letters
    start = timing.best_evaluation(losses.mean(axis=1), "lowest")
    found = timing.onset(letters[None], start[None])
    assert found.observed[0]
    assert start < found.evaluation[0] <= start + 2


def test_windows_of_a_member_that_stopped_being_finite():
    rng = np.random.default_rng(4)
    losses, correct = rng.exponential(size=(5, 80)), rng.random((5, 80)) < 0.5
    whole = regimes.windows(losses, correct, chance=0.5)
    broken = losses.copy()
    broken[3:] = np.nan
    found = regimes.windows(broken, correct, chance=0.5)
    np.testing.assert_array_equal(found.letters[:3, :3], whole.letters[:3, :3])
    assert (found.letters[:, 3:] == "").all()
    assert (regimes.observed_windows(broken.mean(axis=1), correct.mean(axis=1)).letters[:, 3:] == "").all()


def test_kaplan_meier_by_hand():
    found = timing.survival(np.array([1.0, 2, 2, 3, 5]), np.array([True, True, False, True, False]))
    np.testing.assert_allclose(found.times, [1, 2, 3, 5])
    np.testing.assert_allclose(found.share.estimate, [0.8, 0.6, 0.3, 0.3])
    assert (found.share.low <= found.share.estimate).all()


def test_survival_without_any_event():
    found = timing.survival(np.array([4.0, 4.0]), np.zeros(2, bool))
    assert found.share.estimate.tolist() == [1.0]
    # two members without onset show no more than a share of 0 of two does
    assert (found.share.low[0], found.share.high[0]) == (pytest.approx(1 - wilson(0, 2).high), 1.0)
    assert timing.logrank_p(np.ones(3), np.zeros(3, bool), np.ones(3), np.zeros(3, bool)) == 1.0


def test_survival_before_the_first_event_and_after_the_last():
    """Of those at risk: a member that left before tells nothing of later times."""
    found = timing.survival(np.array([1.0, 2, 3, 4, 4, 4]), np.array([False, False, True, True, True, True]))
    np.testing.assert_allclose(found.share.estimate, [1, 1, 0.75, 0])
    np.testing.assert_allclose(found.share.low[[0, 1, 3]], [1 - wilson(0, 6).high, 1 - wilson(0, 5).high, 0])
    np.testing.assert_allclose(found.share.high[[0, 1]], 1)
    assert found.share.high[3] == pytest.approx(found.share.high[2] * wilson(0, 3).high)
    at_once = timing.survival(np.full(100, 2.0), np.ones(100, bool))
    assert (at_once.share.low[0], at_once.share.high[0]) == (0.0, pytest.approx(wilson(0, 100).high))


def test_logrank_finds_the_earlier_group():
    rng = np.random.default_rng(5)
    early, late = rng.exponential(1, 60), rng.exponential(3, 60)
    horizon = 2.0
    p_value = timing.logrank_p(np.minimum(early, horizon), early < horizon, np.minimum(late, horizon), late < horizon)
    assert p_value < 0.001


def test_seed_curve_has_a_band_of_evaluations():
    values = np.random.default_rng(6).normal(size=(30, 7))
    curve = timing.seed_curve(values)
    assert curve.shape == (7,)
    np.testing.assert_allclose(curve.estimate, values.mean(axis=0))
