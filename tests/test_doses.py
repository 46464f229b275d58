"""Figures of doses and of rules for stopping draw what they are given."""

import numpy as np
from matplotlib.colors import to_hex

from lossjax.analysis.interval import Interval
from lossjax.reports import doses
from lossjax.reports.plots import OUTCOME_COLOURS


def line(label, worse):
    values = np.array([0.3, 0.2, 0.1])
    return doses.Line(label, values, values - 0.05, values + 0.05, np.array(worse))


def test_doses_that_learn_less_are_hollow():
    responses = {"loss_end": [line("teacher", [False, False, True]), line("digits", [False] * 3)]}
    remedy = doses.Remedy("dropout", "rate", ["0", "0.1", "0.5"], 0, responses)
    figure = doses.dose_response([remedy], {"loss_end": "loss"})
    (ax,) = figure.axes
    marks = [mark for mark in ax.get_lines() if len(mark.get_xdata()) == 1 and mark.get_marker() in "os"]
    assert [to_hex(mark.get_markerfacecolor()) == "#ffffff" for mark in marks] == [False, False, True] + [False] * 3
    assert [mark.get_ydata()[0] for mark in marks] == [0.3, 0.2, 0.1] * 2
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "0.1", "0.5"]
    assert ax.get_yscale() == "log"


def test_the_baseline_is_black_and_every_dose_has_its_curve():
    x = np.linspace(0, 1, 5)
    band = (x, x, x - 0.1, x + 0.1)
    panel = doses.Onsets("dropout", "0", {"0": band, "0.1": band, "0.5": band})
    figure = doses.onsets([panel, panel, panel, panel], columns=3)
    for ax in figure.axes[:4]:
        colours = [to_hex(curve.get_color()) for curve in ax.get_lines()]
        assert colours[0] == "#000000"
        assert len(set(colours)) == 3
        assert [text.get_text() for text in ax.texts] == ["0", "0.1", "0.5"]
        assert [to_hex(text.get_color()) for text in ax.texts] == colours
    assert [ax.get_visible() for ax in figure.axes] == [True] * 4 + [False] * 2


def test_a_cell_without_a_contrast_says_so():
    cells = {("dropout", "teacher"): ("−0.1", "supported"), ("rate", "digits"): ("+0.1", "refuted")}
    figure = doses.scorecard({"dropout": "C11 dropout", "rate": "C13 rate"}, ["teacher", "digits"], cells)
    (ax,) = figure.axes
    written = [text.get_text() for text in ax.texts]
    assert written == ["−0.1", "supported", "not tested", "", "not tested", "", "+0.1", "refuted"]
    assert to_hex(ax.texts[1].get_color()).upper() == OUTCOME_COLOURS["supported"]


def test_rules_are_coloured_by_what_is_better_and_far_ones_are_arrows():
    groups, rules = ["teacher"], ["by accuracy", "no stopping"]

    def judge(lower_is_better):
        rows = {
            ("teacher", "by accuracy"): Interval(0.02, 0.01, 0.03),
            ("teacher", "no stopping"): Interval(-0.5, -0.6, -0.4),
        }
        return doses.Judge("loss", "nats" if lower_is_better else "pp", lower_is_better, rows)

    figure = doses.judged_rules([judge(True), judge(False)], groups, rules)
    for ax, better in zip(figure.axes, (False, True), strict=True):
        (point,) = [mark for mark in ax.get_lines() if mark.get_marker() == "o"]
        assert point.get_color() == OUTCOME_COLOURS["supported" if better else "refuted"]
        assert [text.get_text() for text in ax.texts if text.get_text()] == ["−50" if better else "−0.5"]
        assert ax.get_xlim()[1] < 0.1


def test_every_rule_has_its_time():
    x = np.linspace(0, 1, 6)
    mean = doses.Mean(x, 1.5 - x, 1.4 - x, 1.6 - x)
    stops = [doses.Stop("loss", 0.3, 0.2, 0.4), doses.Stop("accuracy", 0.6, 0.1, 0.9)]
    figure = doses.stopping_times({"teacher": ({"before": mean, "after": mean}, mean, stops)})
    top, middle, bottom = figure.axes
    assert [tick.get_text() for tick in bottom.get_yticklabels()] == ["loss", "accuracy"]
    assert [mark.get_xdata()[0] for mark in bottom.get_lines() if mark.get_marker() == "o"] == [0.3, 0.6]
    # a colour is a rule's: no curve has it
    colours = [mark.get_color() for mark in bottom.get_lines() if mark.get_marker() == "o"]
    curves = [line.get_color() for ax in (top, middle) for line in ax.get_lines() if len(line.get_xdata()) == 6]
    assert len(curves) == 3
    assert not set(curves) & set(colours)
    for ax in (top, middle):
        assert {0.3, 0.6} <= {mark.get_xdata()[0] for mark in ax.get_lines()}
