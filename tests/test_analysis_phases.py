"""Phase diagrams: counts by hand, SciPy's intervals and tests at each point."""

import jaxtyping
import numpy as np
import pytest
from scipy import stats

from lossjax.analysis.phases import phase_diagram


@pytest.fixture
def unchecked(monkeypatch):
    """Without jaxtyping's import hook, should a test run have it: what a user meets is our own error."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


REGIMES = np.array(["P", "O", "O", "nonfinite", "O", "P", "G", "P"])
X = np.array([1e-3, 1e-3, 1e-2, 1e-2, 1e-2, 1e-3, 1e-3, 1e-3])
Y = np.array([0, 0, 0, 0, 0, 5, 5, 5])


def test_counts_by_hand():
    found = phase_diagram(REGIMES, X, Y)
    assert found.x.tolist() == [1e-3, 1e-2]
    assert found.y.tolist() == [0, 5]
    assert found.totals.tolist() == [[2, 3], [3, 0]]
    assert list(found.counts) == ["P", "O", "G", "nonfinite"]
    assert found.counts["O"].tolist() == [[1, 2], [0, 0]]
    assert found.commonest.tolist() == [["P", "O"], ["P", ""]]
    assert phase_diagram(REGIMES[:1], X[:1], Y[:1]).commonest.tolist() == [["P"]]
    # those that were not finite count among all
    assert found.shares["O"].estimate[0, 1] == 2 / 3


def test_intervals_are_scipys():
    found = phase_diagram(REGIMES, X, Y)
    expected = stats.binomtest(2, 3).proportion_ci(method="wilson")
    np.testing.assert_allclose(
        [found.shares["O"].low[0, 1], found.shares["O"].high[0, 1]], [expected.low, expected.high]
    )
    assert np.isnan(found.shares["P"].estimate[1, 1])


def test_shares_add_up_and_the_order_of_members_does_not_matter():
    rng = np.random.default_rng(0)
    regimes, x, y = rng.choice(["P", "O", "Q"], 300), rng.integers(0, 4, 300), rng.integers(0, 3, 300)
    found = phase_diagram(regimes, x, y)
    np.testing.assert_allclose(sum(share.estimate for share in found.shares.values()), 1)
    assert list(found.counts) == ["P", "O", "Q"]
    order = rng.permutation(300)
    again = phase_diagram(regimes[order], x[order], y[order])
    np.testing.assert_array_equal(again.shares["O"].low, found.shares["O"].low)


def test_a_map_of_chance_is_rarely_resolved():
    """Two hundred points at which the share is what it is compared with, ten at which it is not."""
    rng = np.random.default_rng(1)
    share = np.where(np.arange(210) < 200, 0.2, 0.7)
    regimes = np.where(rng.random((210, 40)) < share[:, None], "O", "N")
    x, y = np.repeat(np.arange(210) % 21, 40), np.repeat(np.arange(210) // 21, 40)
    found = phase_diagram(regimes.reshape(-1), x, y)
    resolved = found.q_values("O", 0.2) < 0.05
    truly = np.zeros((10, 21), dtype=bool)
    truly[np.arange(200, 210) // 21, np.arange(200, 210) % 21] = True
    assert resolved[truly].all()
    assert resolved[~truly].sum() <= 3
    p_values = [stats.binomtest(int(count), 40, 0.2).pvalue for count in found.counts["O"].reshape(-1)]
    np.testing.assert_allclose(
        found.q_values("O", 0.2).reshape(-1), stats.false_discovery_control(p_values), rtol=1e-12
    )
    assert (found.q_values("S", 0.2) < 0.05).all()


def test_the_commonest_is_tested_against_the_next():
    counts = {"O": (30, 12, 5), "P": (10, 11, 5), "G": (0, 17, 0)}
    regimes = np.concatenate([np.repeat(letter, n) for letter, row in counts.items() for n in row])
    x = np.concatenate([np.full(n, column) for row in counts.values() for column, n in enumerate(row)])
    found = phase_diagram(regimes, x, np.zeros(len(x)))
    p_values = [stats.binomtest(30, 40).pvalue, stats.binomtest(17, 29).pvalue, 1.0]
    np.testing.assert_allclose(found.q_commonest()[0], stats.false_discovery_control(p_values), rtol=1e-12)
    assert found.commonest.tolist() == [["O", "G", "P"]]
    assert found.pooled_share("O") == 47 / 90
    assert found.pooled_share("S") == 0
    # a plane of one regime only: there is no next
    alone = phase_diagram(np.repeat("O", 8), np.zeros(8), np.zeros(8))
    np.testing.assert_allclose(alone.q_commonest(), 2**-7)


def test_of_equally_common_regimes_none_is_declared_the_commonest():
    """Three regimes of one share each, five hundred maps of one point: at most 5 % declare a winner."""
    counts = np.random.default_rng(0).multinomial(60, [1 / 3] * 3, size=500)
    declared = []
    for row in counts:
        found = phase_diagram(np.repeat(["P", "O", "G"], row), np.zeros(60), np.zeros(60))
        declared.append(found.q_commonest()[0, 0] < 0.05)
    assert np.mean(declared) <= 0.05


@pytest.mark.usefixtures("unchecked")
def test_members_without_a_place_are_refused():
    with pytest.raises(ValueError, match="member"):
        phase_diagram(REGIMES, X[:3], Y)
    with pytest.raises(ValueError, match="no place"):
        phase_diagram(REGIMES, np.where(X > 1e-3, np.nan, X), Y)
    with pytest.raises(ValueError, match="null_share"):
        phase_diagram(REGIMES, X, Y).q_values("O", 0.0)
