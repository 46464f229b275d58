"""Variance by stream: functions of the streams whose Sobol' indices are known, and coverage."""

import itertools

import jaxtyping
import numpy as np
import pytest

from lossjax.analysis import streams
from lossjax.analysis.streams import variance_by_stream
from lossjax.keys import STREAMS, crossed, redrawn, seeds_by_stream


@pytest.fixture
def unchecked(monkeypatch):
    """Without jaxtyping's import hook, should a test run have it: what a user meets is our own error."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


# f = x_data + ½ x_init + x_order·x_noise of standard normals
TRUE_VARIANCE = 2.25
TRUE_TOTAL = np.array([1, 0.25, 1, 1])
TRUE_FIRST = np.array([1, 0.25, 0, 0])


def trained(seeds, seed):
    """Each member's value: a normal a stream's seed, the same wherever that seed is."""
    rng = np.random.default_rng(seed)
    drawn = []
    for column in seeds.table.T:
        values, index = np.unique(column, return_inverse=True)
        drawn.append(rng.normal(size=len(values))[index])
    return drawn[0] + 0.5 * drawn[1] + drawn[2] * drawn[3]


def in_loops(values, num_seeds):
    """Total and first-order effects of one base seed after another, first order as a plain covariance."""
    rows = values.reshape(num_seeds, 6)
    total = [np.mean([(row[0] - row[1 + k]) ** 2 / 2 for row in rows]) for k in range(4)]
    first = [np.cov(rows[:, 5], rows[:, 1 + k])[0, 1] for k in range(4)]
    return total, first


def test_known_effects_of_many_base_seeds():
    seeds = redrawn(20_000, all_anew=True)
    values = trained(seeds, 0)
    found = variance_by_stream(values, seeds_by_stream(seeds.table))
    assert found.streams == STREAMS
    assert found.num_seeds == 20_000
    np.testing.assert_allclose(found.variance.estimate, TRUE_VARIANCE, rtol=0.03)
    np.testing.assert_allclose(found.total.estimate, TRUE_TOTAL, rtol=0.07)
    np.testing.assert_allclose(found.first.estimate, TRUE_FIRST, atol=0.06)
    np.testing.assert_allclose(found.total_share.estimate, TRUE_TOTAL / TRUE_VARIANCE, rtol=0.07)
    np.testing.assert_allclose(found.interaction_share.estimate, 1 - 1.25 / TRUE_VARIANCE, atol=0.04)
    total, first = in_loops(values, 20_000)
    np.testing.assert_allclose(found.total.estimate, total)
    np.testing.assert_allclose(found.first.estimate, first, atol=0.06)


def test_two_base_seeds_without_bias():
    """All that two base seeds can show where f = x_data + 2·x_init of fair signs: on average exactly the truth."""
    table = redrawn(2, ["data", "init"], all_anew=True).table
    rows = [np.arange(4), np.arange(4, 8)]
    codes = [np.unique(column, return_inverse=True)[1] for column in table.T[:2]]
    studies = []
    for signs in itertools.product([-1.0, 1.0], repeat=8):
        values = np.array(signs[:4])[codes[0]] + 2 * np.array(signs[4:])[codes[1]]
        studies.append(streams._pair_means(values, table, rows))
    np.testing.assert_allclose(np.mean([study.spread for study in studies]), 5)
    np.testing.assert_allclose(np.mean([study.differing for study in studies], axis=(0, 1))[:2], [1, 4])
    np.testing.assert_allclose(np.mean([study.sharing for study in studies], axis=(0, 1))[:2], [1, 4])
    np.testing.assert_allclose(np.mean([study.nothing for study in studies]), 0, atol=1e-12)


def test_the_control_variate_takes_noise_away():
    """A stream of small effect: without it the covariance of 200 pairs has a standard error of 0.07 σ²."""
    seeds = redrawn(200, all_anew=True)
    studies = []
    for n in range(60):
        values = trained(seeds, n)
        studies.append(variance_by_stream(values, seeds_by_stream(seeds.table)).first.estimate[1])
        plain = in_loops(values, 200)[1][1]
        studies[-1] = (studies[-1], plain)
    ours, plain = np.array(studies).T
    assert ours.std() < 0.75 * plain.std()
    assert abs(ours.mean() - 0.25) < 3.5 * ours.std() / np.sqrt(60)


@pytest.mark.parametrize("scale", [1.0, -3.0])
def test_shift_and_scale(scale):
    seeds = redrawn(50, all_anew=True)
    values = trained(seeds, 1)
    base, moved = (variance_by_stream(v, seeds_by_stream(seeds.table)) for v in (values, scale * values + 7))
    np.testing.assert_allclose(moved.total.estimate, scale**2 * base.total.estimate)
    np.testing.assert_allclose(moved.first_share.low, base.first_share.low, atol=1e-9)
    np.testing.assert_allclose(moved.total_share.high, base.total_share.high)


def test_without_members_drawn_anew_there_is_no_first_order():
    seeds = redrawn(30, ["init", "order"])
    found = variance_by_stream(trained(seeds, 2), seeds_by_stream(seeds.table))
    assert found.streams == ("init", "order")
    assert found.first is None
    assert found.interaction_share is None
    assert found.total.shape == (2,)


def test_some_streams_redrawn_and_all_anew():
    """Streams that are never redrawn alone still must not be shared by the pairs of first order."""
    seeds = redrawn(5000, ["data", "init"], all_anew=True)
    found = variance_by_stream(trained(seeds, 3), seeds_by_stream(seeds.table))
    np.testing.assert_allclose(found.first.estimate, [1, 0.25], atol=0.15)


def test_a_base_seed_with_a_run_that_was_not_finite_is_left_out_whole():
    seeds = redrawn(30, all_anew=True)
    values = trained(seeds, 4)
    broken = values.copy()
    broken[6 * 29 + 3] = np.nan
    found = variance_by_stream(broken, seeds_by_stream(seeds.table))
    short = redrawn(29, all_anew=True)
    expected = variance_by_stream(values[: 6 * 29], seeds_by_stream(short.table))
    np.testing.assert_allclose(found.total.low, expected.total.low)
    assert found.num_seeds == 29
    assert found.nonfinite.estimate == 1 / 180


def test_nothing_varies():
    seeds = redrawn(25, all_anew=True)
    found = variance_by_stream(np.ones(len(seeds)), seeds_by_stream(seeds.table))
    assert found.variance.high == 0
    assert found.total_share is None
    assert found.first.estimate.tolist() == [0] * 4


def test_coverage():
    seeds = redrawn(200, all_anew=True)
    columns = seeds_by_stream(seeds.table)
    studies = [variance_by_stream(trained(seeds, 1000 + n), columns, seed=n) for n in range(100)]
    for name, truth in (("total_share", TRUE_TOTAL), ("first_share", TRUE_FIRST)):
        for stream in range(4):
            intervals = [getattr(study, name)[stream] for study in studies]
            covered = np.mean([not interval.excludes(truth[stream] / TRUE_VARIANCE) for interval in intervals])
            assert covered > 0.86


@pytest.mark.usefixtures("unchecked")
def test_crossed_seeds_are_refused():
    seeds = crossed(data=4, init=4)
    with pytest.raises(ValueError, match="redrawn"):
        variance_by_stream(trained(seeds, 5), seeds_by_stream(seeds.table))
    with pytest.raises(ValueError, match="belong together"):
        variance_by_stream(np.zeros(3), seeds_by_stream(seeds.table))
