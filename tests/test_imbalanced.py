"""Figures of many classes: what lies beyond the picture is said to be there."""

import numpy as np

from lossjax.analysis.interval import Interval
from lossjax.reports import imbalanced


def texts(ax):
    return "\n".join(text.get_text() for text in ax.texts)


def line(mean):
    x = np.arange(1.0, len(mean) + 1)
    return imbalanced.Line("conv", x, np.array(mean), np.array(mean) - 0.01, np.array(mean) + 0.01)


def levels_of(ax, axis="y"):
    """Where the dashed lines stand."""
    lines = (one.get_ydata() if axis == "y" else one.get_xdata() for one in ax.get_lines() if one.is_dashed())
    return [float(data[0]) for data in lines]


def test_levels_beyond_the_picture_stand_past_a_break_in_their_order():
    levels = {"class prior": 6.6, "uniform": 7.94, "Bayes": 2.5}
    accuracy = {"class prior": 0.024, "uniform": 0.00036}
    curves = ([line([3.5, 2.0])], levels), ([line([0.2, 0.4])], accuracy)
    figure = imbalanced.along_training(["places"], ["test loss (nats)", "test accuracy"], [curves])
    loss, right = figure.axes
    assert set(texts(loss).splitlines()) == {"Bayes", "class prior 6.60", "uniform 7.94"}
    assert set(texts(right).splitlines()) == {"class prior 2.4 %", "uniform 0.036 %"}
    bayes, prior, uniform = levels_of(loss)
    assert bayes == 2.5
    assert 3.5 < prior < uniform < loss.get_ylim()[1] < 5
    assert max(loss.get_yticks()) <= 3.6  # nothing is read off beyond the break
    uniform, prior = levels_of(right)
    assert right.get_ylim()[0] < uniform < prior < 0.2
    assert min(right.get_yticks()) >= 0.19


def test_a_level_close_by_makes_the_axis_longer():
    figure = imbalanced.along_training(["places"], ["T*"], [[([line([0.8, 0.95])], {"calibrated": 1.0})]])
    assert levels_of(figure.axes[0]) == [1.0]
    assert texts(figure.axes[0]) == "calibrated"
    assert figure.axes[0].get_ylim()[1] >= 1.0


def test_columns_of_one_scale_share_it_row_by_row():
    """Nothing that the second panel shows lies outside, and the other row and column keep their own."""
    panels = [
        [([line(mean)], {"calibrated": 0.0}) for mean in means] for means in (([0.1, 0.2], [0.3, 0.5], [2, 3]),) * 2
    ]
    panels[1][0] = ([line([0.01, 0.02])], {})
    figure = imbalanced.along_training(["a", "b"], ["gap", "gap at T*", "T*"], panels, same_scale=["gap", "gap at T*"])
    before, after, temperature, below, *_ = figure.axes
    assert before.get_ylim() == after.get_ylim()
    assert before.get_ylim()[0] <= 0 < 0.51 <= before.get_ylim()[1]
    assert temperature.get_ylim() != before.get_ylim()
    assert below.get_ylim()[1] >= 0.51


def test_levels_of_remedies_stand_on_their_sides():
    measures = {
        "loss (nats)": [Interval(2.1, 2.0, 2.2), Interval(3.1, 3.0, 3.2)],
        "accuracy": [Interval(0.4, 0.39, 0.41), Interval(0.2, 0.19, 0.21)],
        "T*": [Interval(1.0, 0.9, 1.1), Interval(1.2, 1.1, 1.3)],
    }
    references = {"loss (nats)": {"class prior": 6.6, "uniform": 7.94}, "accuracy": {"class prior": 0.024}}
    figure = imbalanced.remedies(["plain", "balanced"], measures, references)
    assert [set(texts(ax).split("\n")) for ax in figure.axes] == [
        {"class prior 6.60", "uniform 7.94"},
        {"class prior 2.4 %"},
        {""},
    ]
    prior, uniform = levels_of(figure.axes[0], "x")
    assert 3.2 < prior < uniform
    assert levels_of(figure.axes[1], "x")[0] < 0.19


def test_the_whole_plane_holds_conditions_and_references():
    x = np.array([1.8, 2.0])
    figure = imbalanced.loss_against_accuracy(
        x, x / 5, low=(x - 0.1, x / 5 - 0.01), high=(x + 0.1, x / 5 + 0.01), kinds=["A", "B"],
        pareto=np.array([True, False]), names=["A-16, base", "B-16, base"], pair=("A-16, base", "B-16, base"),
        references={"class prior": (6.6, 0.024), "uniform": (7.94, 0.0004)},
    )  # fmt: skip
    conditions, plane, pair = figure.axes
    assert texts(plane).splitlines() == ["class prior: 6.60, 2.4 %", "uniform: 7.94, 0.04 %"]
    assert plane.get_xlim()[1] > 7.94
    assert conditions.get_xlim()[1] < 2.5
    assert [line.strip() for line in texts(pair).splitlines()] == ["→ from A-16, base", "to B-16, base"]


def test_parts_of_a_change_stand_beside_their_sum():
    loss = imbalanced.Split(
        "by group", ["head", "tail"], np.array([-0.1, 0.3]), np.array([-0.2, 0.2]), np.array([0.0, 0.4])
    )
    accuracy = imbalanced.Split(
        "by group", loss.parts, *(np.array([0.02, -0.01]) + shift for shift in (0, -0.01, 0.01))
    )
    # a split whose parts are larger than the first's is not cut off
    larger = imbalanced.Split("by cell", loss.parts, *(np.array([-0.5, 0.7]) + shift for shift in (0, -0.1, 0.1)))
    figure = imbalanced.taken_apart([loss, larger], [accuracy], title="from A to B")
    sums = [float(ax.get_lines()[0].get_ydata()[0]) for ax in figure.axes]
    np.testing.assert_allclose(sums, [0.2, 0.2, 0.01])
    low, high = figure.axes[0].get_ylim()
    assert low < -0.6 < 0.8 < high
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim() != figure.axes[2].get_ylim()


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
