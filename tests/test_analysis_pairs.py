"""Statistics of pairs: Wilson's interval, and the analysis of variance where the statistic is a mean."""

import math

import numpy as np
import pytest
from scipy import stats

from lossjax.analysis import pairs, proportions


def test_a_share_of_pairs_is_wilsons_at_the_effective_number():
    found = pairs.pair_share(0.3, 0.3 * 0.7 / 50, math.inf, 100)
    expected = proportions.wilson(15, 50)
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high])
    t = stats.t.ppf(0.975, 5)
    reach = 2 * t * math.sqrt(0.5 * 0.5 / 50 + t**2 / 50**2 / 4) / (1 + t**2 / 50)
    few = pairs.pair_share(0.5, 0.5 * 0.5 / 50, 5.0, 100)
    np.testing.assert_allclose(few.high - few.low, reach)
    # pairs that are all alike: as sure as 50 pairs without a common unit
    certain = pairs.pair_share(1.0, 0.0, 3.0, 100)
    np.testing.assert_allclose(certain.low, 1 / (1 + stats.t.ppf(0.975, 99) ** 2 / 50))
    assert certain.high == 1
    assert np.isnan(pairs.pair_share(0.5, math.nan, 3.0, 10).low)


def test_crossed_weights_draw_rows_and_columns_apart():
    rows, columns = pairs.crossed_weights(12, 5, 4000, seed=0)
    assert rows.shape == (4000, 12)
    assert (rows.sum(axis=1) == 12).all()
    assert (columns.sum(axis=1) == 5).all()
    # the variance of a weighted mean of rows is the ordinary bootstrap's, and rows know nothing of columns
    values = np.random.default_rng(1).normal(size=12)
    np.testing.assert_allclose((rows @ values / 12).var(), values.var() / 12, rtol=0.1)
    assert abs(np.corrcoef(rows[:, 0], columns[:, 0])[0, 1]) < 0.05


@pytest.mark.parametrize("spread", [(1.0, 1.0, 1.0), (0.0, 0.5, 2.0)])
def test_crossed_variance_of_a_mean_is_the_analysis_of_variance(spread):
    rng = np.random.default_rng(14)
    values = (
        spread[0] * rng.normal(size=(15, 1)) + spread[1] * rng.normal(size=6) + spread[2] * rng.normal(size=(15, 6))
    )
    rows, columns = pairs.crossed_weights(15, 6, 20_000, seed=1)
    variance, df = pairs.crossed_variance(
        np.array([values.mean()]),
        by_row=(rows @ values.mean(axis=1) / 15)[:, None],
        by_column=(columns @ values.mean(axis=0) / 6)[:, None],
        by_both=np.einsum("bm,mn,bn->b", rows, values, columns)[:, None] / 90,
        shape=(15, 6),
    )
    by_row, by_column = values.mean(axis=1), values.mean(axis=0)
    residuals = values - by_row[:, None] - by_column + values.mean()
    parts = by_row.var(ddof=1) / 15, by_column.var(ddof=1) / 6
    interaction = (residuals**2).sum() / (14 * 5) / 90
    np.testing.assert_allclose(variance, max(sum(parts) - interaction, *parts), rtol=0.05)
    assert 5 <= df[0] <= 19 + 1e-9
