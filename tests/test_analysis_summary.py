"""A sweep's summary: a member at a time, all windows against the shortcut, and 10,000 members × 50 evaluations."""

import time

import numpy as np
import pytest
from scipy import stats

from lossjax.analysis import onset, regimes
from lossjax.analysis.proportions import wilson
from lossjax.analysis.summary import (
    by_configuration,
    configurations,
    last_regimes,
    longest_plateau,
    outcomes,
    summarise,
)
from lossjax.history import History


def sweep(num_seeds, num_configs, num_evals, seed=0):
    """Members seed-major, as training returns them: losses turn, accuracies level off; learning rates descend."""
    rng = np.random.default_rng(seed)
    shape = (num_seeds * num_configs, num_evals)
    epochs = np.linspace(0, 1, num_evals)
    turn = rng.uniform(0.2, 0.9, size=(shape[0], 1))

    def split():
        loss = 0.5 + (epochs - turn) ** 2 + 0.01 * rng.normal(size=shape)
        accuracy = np.minimum(0.5 + 0.8 * epochs, 0.9) + 0.003 * rng.normal(size=shape)
        return loss.astype(np.float32), np.round(accuracy, 3).astype(np.float32)

    (val_loss, val_accuracy), (test_loss, test_accuracy) = split(), split()
    return History(
        metrics={
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
        },
        steps=10 * np.arange(num_evals),
        seeds={stream: np.repeat(np.arange(num_seeds), num_configs) for stream in ("data", "init")},
        hyperparams={
            "learning_rate": np.tile(np.linspace(1, 0.1, num_configs), num_seeds),
            "weight_decay": np.tile(np.arange(num_configs) // 2, num_seeds),
        },
        nonfinite_step=np.full(shape[0], -1),
    )


def broken(history, members):
    """The same with members that stopped being finite half-way."""
    stop = np.isin(np.arange(history.num_members), members)
    half = history.num_evals // 2
    metrics = {}
    for name, values in history.metrics.items():
        metrics[name] = values.copy()
        metrics[name][stop, half:] = np.nan
    steps = np.where(stop, history.steps[half] - 1, -1)
    return History(metrics, history.steps, history.seeds, history.hyperparams, steps)


def assert_same(interval, expected):
    np.testing.assert_allclose(
        [interval.estimate, interval.low, interval.high], [expected.estimate, expected.low, expected.high], atol=1e-12
    )


def test_each_configuration_is_summarised_from_its_own_members():
    history = broken(sweep(12, 3, 11), [4, 7])  # both of the second configuration
    found = summarise(history)
    assert found.hyperparams["learning_rate"].tolist() == [1, 0.55, 0.1]
    assert found.num_members.tolist() == [12, 12, 12]
    assert_same(found.nonfinite[1], wilson(2, 12))
    rate = found.hyperparams["learning_rate"][1]
    one = history.select(learning_rate=rate)
    finite = one[one.finite]
    metrics = finite.metrics
    members = np.arange(10)
    t_loss, t_accuracy = metrics["val_loss"].argmin(axis=1), metrics["val_accuracy"].argmax(axis=1)
    test_loss, test_accuracy = (metrics[f"test_{name}"].astype(float) for name in ("loss", "accuracy"))
    expected = {
        "loss_end": test_loss[:, -1],
        "accuracy_best": test_accuracy[members, t_accuracy],
        "lag_steps": 10.0 * (t_accuracy - t_loss),
        "loss_paid": test_loss[members, t_accuracy] - test_loss[members, t_loss],
        "accuracy_gained": test_accuracy[members, t_accuracy] - test_accuracy[members, t_loss],
    }
    for name, values in expected.items():
        low, high = stats.t.interval(0.95, 9, values.mean(), stats.sem(values))
        interval = found.means[name][1]
        np.testing.assert_allclose([interval.estimate, interval.low, interval.high], [values.mean(), low, high])
    windows = regimes.observed_windows(test_loss, test_accuracy)
    longest = regimes.longest_window(windows.letters, history.steps, among=windows.interior)
    assert_same(found.plateau[1], wilson(int((longest >= 0.2).sum()), 12))
    last = np.where(t_loss < 10, windows.letters[members, t_loss, -1], "none")
    for letter, shares in found.regimes.items():
        expected_share = 2 if letter == "nonfinite" else (last == letter).sum()
        assert_same(shares[1], wilson(int(expected_share), 12))
    assert sum(shares[1].estimate for shares in found.regimes.values()) == pytest.approx(1)


def test_a_run_that_ended_earlier_is_judged_as_if_no_more_had_been_seen():
    history = sweep(40, 1, 11)
    names = [f"{split}_{what}" for split in ("val", "test") for what in ("loss", "accuracy")]
    curves = [history.metrics[name].astype(float) for name in names]
    last = np.random.default_rng(0).integers(0, 11, size=40)
    found = outcomes(*curves, history.steps, last=last)
    letters = last_regimes(curves[0], curves[2], curves[3], last=last)
    for member, end in enumerate(last.tolist()):
        cut = [curve[[member], : end + 1] for curve in curves]
        alone = outcomes(*cut, history.steps[: end + 1])
        assert {name: values[member] for name, values in found.items()} == {k: v[0] for k, v in alone.items()}
        assert letters[member] == last_regimes(cut[0], cut[2], cut[3])[0]
    assert len(set(letters.tolist())) > 2
    with pytest.raises(ValueError, match="one evaluation in 0 … 10"):
        outcomes(*curves, history.steps, last=last + 5)


def test_the_longest_plateau_is_that_of_all_windows():
    history = sweep(300, 2, 9)
    losses, accuracies = (history.metrics[f"test_{name}"].astype(float) for name in ("loss", "accuracy"))
    accuracies[:50, 3:6], accuracies[:50, 6:] = 0.99, 1.0  # at the ceiling
    flat = regimes.Flat(loss=0.01, accuracy=0.02)
    windows = regimes.observed_windows(losses, accuracies, flat=flat)
    expected = regimes.longest_window(windows.letters, history.steps, among=windows.interior)
    found = longest_plateau(losses, accuracies, history.steps, flat=flat)
    np.testing.assert_array_equal(found, expected)
    assert (found > 0.2).any()


def test_the_table_has_a_column_for_each_bound():
    found = summarise(sweep(5, 4, 6))
    table = found.table()
    assert {len(column) for column in table.values()} == {4}
    np.testing.assert_array_equal(table["loss_end_low"], found.means["loss_end"].low)
    assert {"learning_rate", "num_members", "nonfinite_high", "plateau", "lag_steps"} <= set(table)


def test_members_by_configuration_and_seed():
    history = broken(sweep(3, 4, 5), [6])
    values = np.arange(12.0)
    expected = values.reshape(3, 4).T.copy()
    expected[2, 1] = np.nan
    np.testing.assert_array_equal(by_configuration(history, values), expected)
    # rows and columns as they first occur, whatever the order of members
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(12)
        hyperparams, config = configurations(history[order])
        rates = history.hyperparams["learning_rate"][order]
        np.testing.assert_array_equal(hyperparams["learning_rate"], list(dict.fromkeys(rates.tolist())))
        np.testing.assert_array_equal(hyperparams["learning_rate"][config], rates)
        columns = list(dict.fromkeys((order // 4).tolist()))
        rows = list(dict.fromkeys((order % 4).tolist()))
        np.testing.assert_array_equal(by_configuration(history[order], values[order]), expected[np.ix_(rows, columns)])
    with pytest.raises(ValueError, match="same configuration and seeds"):
        by_configuration(history[np.array([0, 0])], np.zeros(2))


def test_one_member_a_configuration_has_no_interval():
    found = summarise(sweep(1, 3, 5))
    assert np.isnan(found.means["loss_end"].low).all()
    assert np.isfinite(found.means["loss_end"].estimate).all()


def test_a_history_without_the_splits_is_refused():
    with pytest.raises(ValueError, match="dev_loss, dev_accuracy"):
        summarise(sweep(2, 2, 4), select="dev")


def test_ten_thousand_members_take_seconds():
    history = sweep(200, 50, 50)
    start = time.process_time()
    found = summarise(history)
    assert time.process_time() - start < 20
    assert found.num_members.tolist() == [200] * 50


def test_onset_curves_end_at_the_share():
    found = onset.Onset(np.array([2, 5, 5, 9, 1]), np.array(["onset", "onset", "onset", "censored", "nonfinite"]))
    curve = found.curve(10)
    assert curve.estimate.tolist() == [0, 0, 0.2, 0.2, 0.2, 0.6, 0.6, 0.6, 0.6, 0.6]
    assert_same(curve[9], found.share())
