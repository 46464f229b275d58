"""Panels draw what they are given."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from lossjax.analysis.attribution import CELLS
from lossjax.analysis.interval import Intervals
from lossjax.reports import panels
from lossjax.reports.plots import OUTCOME_COLOURS, REGIMES


def shares(name, missed=(False, True), target=(0.93, 0.97)):
    return panels.Shares(
        name,
        target,
        ["well", "badly"],
        np.array([0.95, 0.90]),
        np.array([0.94, 0.89]),
        np.array([0.96, 0.91]),
        np.array(missed),
    )


def test_missed_targets_are_named_and_others_not():
    figure = panels.shares_against_targets([shares("mean"), shares("ΔL", missed=(False, False))], x_label="kept")
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.texts] == ["badly", "mean", "ΔL"]
    points = [line for line in ax.get_lines() if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in points] == [0.95, 0.90] * 2
    assert [line.get_color() == OUTCOME_COLOURS["refuted"] for line in points] == [False, True, False, False]
    assert len(ax.collections) == 2  # a band a row


def test_a_row_without_a_target_has_no_band():
    figure = panels.shares_against_targets([shares("C", target=(np.nan, np.nan))], x_label="kept")
    assert len(figure.axes[0].collections) == 0


def test_contributions_are_stacked_by_sign():
    x = np.arange(3.0)
    contributions = dict(zip(CELLS, np.array([[-1.0] * 3, [0.5] * 3, [-2.0] * 3, [0.25] * 3]), strict=True))
    figure = panels.cells_by_phase(
        [
            panels.Phases(
                "LSTM", x, x + 1, contributions, np.full(3, -2.5), np.full(3, -2.0), x / 10, x / 10 - 0.1, x / 10 + 0.1
            )
        ]
    )
    top, bottom = figure.axes
    lowest = min(bar.get_y() + min(bar.get_height(), 0) for bar in top.patches)
    highest = max(bar.get_y() + max(bar.get_height(), 0) for bar in top.patches)
    assert (lowest, highest) == (-3.0, 0.75)
    (dots,) = [line for line in top.get_lines() if line.get_marker() == "o"]
    np.testing.assert_allclose(dots.get_ydata(), -2.25)
    (bounds,) = top.collections  # of the sum
    np.testing.assert_allclose([segment[:, 1] for segment in bounds.get_segments()], [[-2.5, -2.0]] * 3)
    np.testing.assert_allclose([bar.get_height() for bar in bottom.patches], x / 10)


def test_quadrants_carry_their_share_of_the_drop():
    edges = np.linspace(0, 1, 5)
    counts = np.zeros((4, 4))
    counts[1, 2] = 7
    parts = dict(zip(CELLS, (-0.1, 0.1, -0.3, -0.7), strict=True))
    grid = np.linspace(0.1, 0.9, 9)
    figure = panels.below_the_argmax(grid, -np.log(grid), (0.30, 0.49), edges=edges, counts=counts, contributions=parts)
    right = figure.axes[1]
    written = [text.get_text() for text in right.texts]
    assert "wrong → wrong\n+70 % of the drop" in written
    assert "right → wrong\n−10 % of the drop" in written
    (mesh,) = right.collections
    # before to the right, after upwards
    assert np.ma.getdata(mesh.get_array()).reshape(4, 4)[2, 1] == 7
    assert any("loss −0.49 nats" in text.get_text() for text in figure.axes[0].texts)


def test_regimes_fill_every_window():
    begin = np.arange(4) / 5
    given = {letter: np.zeros(4) for letter in REGIMES} | {"P": np.full(4, 0.25), "N": np.full(4, 0.75)}
    diverged = Intervals(np.full(4, 0.25), np.full(4, 0.2), np.full(4, 0.35))
    rows = [panels.RegimesOverTime("teacher", model, begin, given, diverged) for model in ("LSTM", "convolution")]
    figure = panels.regimes_along_training(rows, x_label="begin")
    assert len(figure.axes) == 2
    for ax in figure.axes:
        tops = [bar.get_y() + bar.get_height() for bar in ax.patches]
        assert max(tops) == pytest.approx(1.0)
        assert {to_hex(bar.get_facecolor()).upper() for bar in ax.patches} == {REGIMES["P"][1], REGIMES["N"][1]}
        (whiskers,) = ax.collections
        np.testing.assert_allclose([line[:, 1] for line in whiskers.get_segments()], [[0.2, 0.35]] * 4)
