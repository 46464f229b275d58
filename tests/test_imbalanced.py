"""Figures of many classes: what lies beyond the picture is said to be there."""

import numpy as np

from lossjax.analysis.interval import Interval
from lossjax.reports import imbalanced


def texts(ax):
    return "\n".join(text.get_text() for text in ax.texts)


def line(mean):
    x = np.arange(1.0, len(mean) + 1)
    return imbalanced.Line("conv", x, np.array(mean), np.array(mean) - 0.01, np.array(mean) + 0.01)


def test_levels_are_lines_within_the_picture_and_arrows_beyond_it():
    levels = {"class prior": 6.6, "uniform": 7.94, "Bayes": 2.5}
    accuracy = {"class prior": 0.024, "uniform": 0.00036}
    curves = ([line([3.5, 2.0])], levels), ([line([0.2, 0.4])], accuracy)
    figure = imbalanced.along_training(["places"], ["test loss (nats)", "test accuracy"], [curves])
    loss, right = figure.axes
    assert texts(loss).splitlines() == ["Bayes", "↑ uniform 7.94", "↑ class prior 6.60"]
    assert texts(right).splitlines() == ["↓ class prior 2.4 %", "↓ uniform 0.036 %"]
    assert [one.get_ydata()[0] for one in loss.get_lines() if len(set(one.get_ydata())) == 1] == [2.5]
    assert loss.get_ylim()[1] < 4


def test_levels_of_remedies_are_arrows_to_their_sides():
    measures = {
        "loss (nats)": [Interval(2.1, 2.0, 2.2), Interval(3.1, 3.0, 3.2)],
        "accuracy": [Interval(0.4, 0.39, 0.41), Interval(0.2, 0.19, 0.21)],
        "T*": [Interval(1.0, 0.9, 1.1), Interval(1.2, 1.1, 1.3)],
    }
    references = {"loss (nats)": {"class prior": 6.6, "uniform": 7.94}, "accuracy": {"class prior": 0.024}}
    figure = imbalanced.remedies(["plain", "balanced"], measures, references)
    assert [texts(ax).strip() for ax in figure.axes] == [
        "uniform 7.94 →\nclass prior 6.60 →",
        "← class prior 2.4 %",
        "",
    ]
    low, high = figure.axes[0].get_ylim()
    assert high < -1 < 1 < low  # room above the first row


def test_sets_share_axes_and_inverted_pairs_are_joined():
    x = np.array([-0.1, 0.0, 0.1])
    panel = imbalanced.Deviations(
        "A", ["base", "dropout", "base"], ["width 16", "width 16", "width 32"], x, x - 0.01, x + 0.01,
        x / 10, x / 10 - 0.001, x / 10 + 0.001, np.array([True, False, True]), [(0, 2)], {"uniform": (5.0, -0.3)},
    )  # fmt: skip
    figure = imbalanced.within_sets([panel, panel])
    for ax in figure.axes:
        joined = [one for one in ax.get_lines() if len(one.get_xdata()) == 2 and one.get_zorder() == 1]
        assert [one.get_xdata().tolist() for one in joined] == [[-0.1, 0.1]]
        assert texts(ax) == "uniform +5.00 nats, −30 points ↘"
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_dose_has_a_line_a_group():
    x = np.array([0.0, 0.5, 1.0])
    figure = imbalanced.dose(
        {"head": (x, x + 1, x, x + 2), "tail": (x, x + 2, x, x + 3)}, x_label="slope", y_label="epoch"
    )
    assert texts(figure.axes[0]).splitlines() == ["head", "tail"]
    assert figure.axes[0].get_ylim()[0] == 0
