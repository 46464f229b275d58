"""Figures of selection and spread draw what they are given."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from lossjax.analysis.interval import Interval
from lossjax.reports import selecting


def line(label, y, **options):
    y = np.asarray(y, dtype=float)
    return selecting.Line(label, np.array([25.0, 100.0]), y, y - 0.1, y + 0.1, **options)


def test_a_label_has_one_colour_in_all_panels():
    panels = [
        selecting.LinePanel("teacher", [line("loss", [0.1, 0.2])]),
        selecting.LinePanel("digits", [line("another", [0.5, 0.6], dashed=True), line("loss", [0.3, 0.4])]),
    ]
    figure = selecting.lines(panels, x_label="n", y_label="gain", percent=" pp", reference=0.0, negligible=(-0.1, 0.1))
    drawn = {}
    for ax in figure.axes:
        for one in ax.get_lines():
            if len(one.get_xdata()) == 2 and one.get_marker() == "o":
                drawn.setdefault(to_hex(one.get_color()).upper(), []).append(one.get_ydata().tolist())
    assert drawn[selecting.COLOURS["loss"]] == [[0.1, 0.2], [0.3, 0.4]]
    assert len(drawn) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["another", "loss"]
    assert figure.axes[0].get_xticks().tolist() == [25, 100]


def test_rows_and_columns_are_by_name():
    panels = [
        selecting.LinePanel(title, [line("loss", [0.1, 0.2])], row=row) for row in "ab" for title in ("x", "y", "z")
    ]
    figure = selecting.lines(panels, x_label="n", y_label="kept")
    assert len(figure.axes) == 6
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["x", "y", "z", "", "", ""]
    assert figure.axes[3].get_ylabel() == "kept\nb"


def test_costs_are_written_and_coloured_by_column():
    cost = np.array([[0.01, 0.2], [0.02, -0.001]])
    matrix = selecting.Matrix("teacher", cost, cost - 0.002, cost + 0.002)
    figure = selecting.regret_matrices([matrix], rows=["a", "b"], columns=["accuracy", "loss"], percent=[True, False])
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.texts] == [
        "1.0 pp\n± 0.2",
        "0.200\n± 0.002",
        "2.0 pp\n± 0.2",
        "−0.001\n± 0.002",
    ]
    np.testing.assert_allclose(ax.get_images()[0].get_array(), np.sqrt([[0.5, 1], [1, 0]]))


def test_a_judge_has_one_scale_in_all_tables_and_no_error_is_nothing():
    cost = np.array([[0.01], [0.04]])
    matrices = [selecting.Matrix(name, cost * k, cost * k - 1e-4, cost * k + 1e-4) for name, k in (("a", 1), ("b", 4))]
    figure = selecting.regret_matrices(matrices, rows=["x", "y"], columns=["accuracy"], percent=[True])
    shades = [ax.get_images()[0].get_array() for ax in figure.axes]
    np.testing.assert_allclose(shades, np.sqrt([[[1 / 16], [4 / 16]], [[4 / 16], [1]]]))
    assert figure.axes[0].texts[0].get_text() == "1.00 pp\n± 0.01"


def test_parts_have_their_intervals_and_the_mark_stands_where_it_belongs():
    shares = {
        "data": Interval(0.5, 0.4, 0.6),
        "order of examples": Interval(-0.01, -0.05, 0.03),
        "interactions": Interval(0.51, 0.4, 0.6),
    }
    bars = [
        selecting.Parts("loss", "teacher", shares, "sd 0.1", mark=0.3),
        selecting.Parts("loss", "digits", shares, ""),
    ]
    (ax,) = selecting.variance_parts(bars, mark="test set").axes
    assert [bar.get_width() for bar in ax.patches[:3]] == [0.5, -0.01, 0.51]
    lines = [line.get_xdata() for line in ax.get_lines()]
    assert [list(x) for x in lines if len(x) == 2][:2] == [[0.4, 0.6], [-0.05, 0.03]]
    assert [0.3, 0.3] in [list(x) for x in lines]
    assert "−1 % [−5, 3]" in [text.get_text() for text in ax.texts]
    assert ax.get_xlim()[0] < -0.05


@pytest.mark.parametrize("scale", [1e-2, 1.0])
def test_equality_is_the_diagonal(scale):
    x = scale * np.array([0.01, 0.02])
    left = [selecting.Points("teacher", x, 2 * x, x, 3 * x)]
    figure = selecting.against_equality(left, left, labels=[("a", "x", "y", " pp"), ("b", "x", "y", " %")])
    for ax in figure.axes:
        assert ax.get_xlim() == ax.get_ylim()
        diagonal = [one for one in ax.get_lines() if one.get_marker() == "None"]
        np.testing.assert_array_equal(diagonal[-1].get_xdata(), diagonal[-1].get_ydata())
        filled = [one for one in ax.get_lines() if len(one.get_xdata()) == 1]
        assert filled[0].get_xdata()[0] == x[-1]
