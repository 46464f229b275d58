import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Annotation

from lossjax.analysis.interval import Interval
from lossjax.reports import panels, plots
from lossjax.reports.labels import spread
from lossjax.reports.plots import Comparison, Contrast, Curve, Panel

NAN = float("nan")
EPOCHS = np.arange(11.0)


def curve(label, split, y, x=EPOCHS):
    return Curve(label, split, x, y, low=y - 0.01, high=y + 0.01, runs_low=y - 0.1, runs_high=y + 0.1)


def panel(title="W1", x=EPOCHS, **changes):
    falling = 0.7 * np.exp(-x / 5)
    fields = {
        "loss": [
            curve("train", "train", falling, x),
            curve("validation", "val", 0.7 + 0 * x, x),
            curve("test", "test", 0.702 + 0 * x, x),
        ],
        "accuracy": [curve("train", "train", 1 - falling, x), curve("test", "test", 0.5 + 0 * x, x)],
        "loss_levels": {"ln 2": np.log(2)},
        "accuracy_levels": {"chance": 0.5},
        "t_loss": 2.0,
        "t_accuracy": 10.0,
    }
    return Panel(title, **fields | changes)


def onset(label, final, **changes):
    share = np.linspace(0, final, 6)
    fields = {"low": share - 0.02, "high": share + 0.02, "censored": 1 - final}
    return panels.OnsetCurve(label, 7.0 * np.arange(6), share, **fields | changes)


def contrast(label="digits", low=-0.1, high=0.3, **changes):
    return Contrast(label, Interval(0.1, low, high), **{"outcome": "unresolved"} | changes)


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def boxes_apart(figure):
    """No two labels beside the axes overlap, and none leaves the figure."""
    figure.draw_without_rendering()
    shown = [text for ax in figure.axes for text in ax.texts if isinstance(text, Annotation) and text.get_text()]
    # Annotation's own extent includes its leader
    boxes = [super(Annotation, text).get_window_extent() for text in shown]
    for (text, box), (other, other_box) in itertools.combinations(zip(shown, boxes, strict=True), 2):
        assert not box.padded(-0.5).overlaps(other_box.padded(-0.5)), (text.get_text(), other.get_text())
    for box in boxes:
        assert box.x0 >= -1
        assert box.x1 <= figure.bbox.x1 + 1


def test_curves_are_drawn_as_given():
    given_panel = panel()
    figure = plots.loss_and_accuracy([given_panel])
    for ax, curves in zip(figure.axes, (given_panel.loss, given_panel.accuracy), strict=True):
        for expected in curves:
            (line,) = [line for line in ax.get_lines() if line.get_label() == expected.label]
            np.testing.assert_array_equal(line.get_xydata(), np.stack([expected.x, expected.y], axis=1))
            assert line.get_color() == plots.SPLIT_COLOURS[expected.split]
        # two bands a curve: the runs' below, the interval's above
        assert len(ax.collections) == 2 * len(curves)
    wide, narrow = (band.get_paths()[0].vertices[:, 1] for band in figure.axes[0].collections[:2])
    assert wide.max() == pytest.approx(0.8)
    assert narrow.max() == pytest.approx(0.71)
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss (nats)", "accuracy"]
    assert figure.axes[1].get_xlabel() == "epoch"


def test_labels_at_line_ends_do_not_overlap():
    for columns in ([panel()], [panel("W1"), panel("W2"), panel("W3", loss_levels={"Bayes": 0.69})]):
        boxes_apart(plots.loss_and_accuracy(columns))
    groups = [onset(f"group {index}", 0.9 + 0.001 * index, nonfinite=0.01) for index in range(5)]
    boxes_apart(panels.onset_curves(groups))


def test_a_label_is_written_once_where_panels_repeat_it():
    found = texts(plots.loss_and_accuracy([panel("W1"), panel("W2")]))
    assert found.count("ln 2 = 0.693") == 1
    assert found.count("test") == 2  # loss and accuracy
    apart = [panel("W1", accuracy_levels={"Bayes": 0.8}), panel("W2", accuracy_levels={"Bayes": 0.9})]
    found = texts(plots.loss_and_accuracy(apart))
    assert found.count("Bayes = 0.8") == found.count("Bayes = 0.9") == 1


def test_a_logarithmic_axis_shows_the_evaluation_before_any_step():
    steps = np.array([0.0, 1, 10, 100, 1000])
    figure = plots.loss_and_accuracy([panel(x=steps)], x_label="step", log_x=True)
    ax = figure.axes[0]
    assert ax.get_xlim()[0] == 0
    pixels = ax.transData.transform(np.stack([steps, 0 * steps], axis=1))[:, 0]
    np.testing.assert_allclose(np.diff(pixels)[1:], np.diff(pixels)[1], rtol=1e-6)
    assert 0 < np.diff(pixels)[0] < np.diff(pixels)[1]


@pytest.mark.parametrize(
    "one",
    [
        panel(x=np.array([3.0])),
        panel("a title that says at length which task, model and split the curves are of, and more than fits"),
        panel(loss=[Curve("train", "train", EPOCHS, np.full(11, NAN))], t_loss=None),
        panel(loss=[curve("train", "train", np.where(EPOCHS > 5, NAN, 0.5))], loss_levels={}),
    ],
)
def test_curves_at_their_edges(one):
    plots.loss_and_accuracy([one]).canvas.draw()
    plots.loss_and_accuracy([one, panel()], log_x=True, share_y=False).canvas.draw()


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="no split is named 'held-out'"):
        plots.loss_and_accuracy([panel(loss=[curve("held-out", "held-out", EPOCHS)])])


def test_onset_curves_are_steps_and_name_the_censored_share():
    group = onset("W1", 0.6, nonfinite=0.1, censored=0.3)
    figure = panels.onset_curves([group, onset("W2", 0.0)])
    line = figure.axes[0].get_lines()[0]
    assert line.get_drawstyle() == "steps-post"
    np.testing.assert_array_equal(line.get_ydata(), group.share)
    assert figure.axes[0].get_ylim() == pytest.approx((0, 0.7))  # to the tenth above the band
    assert texts(figure) == ["W1\nnone by the end: 30 %\nnon-finite first: 10 %", "W2\nnone by the end: 100 %"]
    boxes_apart(figure)


def test_contrasts_stand_in_order_with_number_and_outcome():
    rows = [contrast("a", group="C1"), contrast("b", group="C1", outcome="supported"), contrast("c", group="C2")]
    figure = plots.contrasts(rows, x_label="ΔA", negligible=(-0.005, 0.005))
    boxes_apart(figure)
    (ax,) = figure.axes
    names = sorted((text.xy[1], text.get_text()) for text in ax.texts if text.xy[0] == 0)
    assert [name for _, name in names] == ["C1", "a", "b", "C2", "c"]
    assert ax.yaxis_inverted()  # the first row on top
    whiskers = [line.get_xdata() for line in ax.get_lines() if list(line.get_xdata()) == [-0.1, 0.3]]
    assert len(whiskers) == 3
    assert texts(figure).count("0.100 [−0.100, 0.300]") == 3
    assert texts(figure).count("supported") == 1


@pytest.mark.parametrize("num_rows", [1, 3, 25])
def test_contrasts_of_any_number_with_long_labels_and_no_bounds(num_rows):
    long = "digits as 64 steps of 1, a transformer encoder with learned positions, 400 examples, test"
    rows = [contrast(long, low=NAN, high=NAN, group=f"{long} {index // 5}") for index in range(num_rows)]
    figure = plots.contrasts(rows, x_label="difference", title="Contrasts")
    boxes_apart(figure)
    assert "0.100 (no interval)" in texts(figure)
    markers = [line for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    assert all(line.get_markerfacecolor() == "white" for line in markers)


def test_regime_shares_are_stacked_in_fixed_colours():
    shares = {"N": np.array([0.5, 0.0]), "O": np.array([0.3, 0.99]), "P": np.array([0.2, 0.01])}
    figure = plots.regime_shares(
        ["W1", "a label much longer than forty characters would allow"], shares, title="Regimes"
    )
    bars = figure.axes[0].patches
    assert [bar.get_width() for bar in bars] == [0.2, 0.01, 0.3, 0.99, 0.5, 0.0]  # in the order of REGIMES
    assert [bar.get_x() for bar in bars] == pytest.approx([0, 0, 0.2, 0.01, 0.5, 1.0])
    assert texts(figure) == ["P 20 %", "O 30 %", "O 99 %", "N 50 %"]  # none where it does not fit
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "P  plateau",
        "O  over-confident",
        "N  loss flat or undecided",
    ]


def test_what_shares_are_of_is_named_and_notes_stand_beside():
    figure = plots.regime_shares(
        ["a", "b"], {"P": np.ones(2)}, x_label="share of windows", notes=["↓ 40 % [35, 46]", "↓ 0 % [0, 5]"]
    )
    assert figure.axes[0].get_xlabel() == "share of windows"
    assert {"↓ 40 % [35, 46]", "↓ 0 % [0, 5]"} <= set(texts(figure))


@pytest.mark.parametrize(("t_loss", "t_accuracy"), [(3.0, 5.0), (5.0, 3.0)])
def test_times_are_named_on_their_outer_sides(t_loss, t_accuracy):
    figure = plots.loss_and_accuracy([panel(t_loss=t_loss, t_accuracy=t_accuracy)])
    sides = {text.get_text(): text.get_ha() for ax in figure.axes for text in ax.texts if text.get_text()[:2] == "$t"}
    expected = ("right", "left") if t_loss < t_accuracy else ("left", "right")
    assert (sides["$t_L$"], sides["$t_A$"]) == expected


def test_regime_shares_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="add up to"):
        plots.regime_shares(["W1"], {"P": np.array([0.5])})
    with pytest.raises(ValueError, match="add up to"):
        plots.regime_shares(["W1", "W2"], {"P": np.array([1.0])})
    with pytest.raises(ValueError, match="no regime is named 'Q'"):
        plots.regime_shares(["W1"], {"Q": np.array([1.0])})


def test_distributions_are_empirical_distribution_functions():
    samples = {"lossjax": np.array([3.0, 1.0, 2.0, 2.0]), "PyTorch": np.array([1.5])}
    figure = plots.distributions([Comparison("final loss", "loss (nats)", samples, 0.5, 0.0123)])
    (ax,) = figure.axes
    x, y = ax.get_lines()[0].get_data()
    for value in (1.0, 2.0, 3.0):
        assert y[x == value].max() == np.mean(samples["lossjax"] <= value)
    assert ax.get_title(loc="left") == "final loss\ndistance 0.5, p = 0.012"
    assert texts(figure) == ["n = 4, 1"]
    with pytest.raises(ValueError, match="not finite"):
        plots.distributions([Comparison("a", "b", {"x": np.array([NAN])}, 0.0, 1.0)])


def test_saved_bytes_are_the_same_in_every_process(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'tests'); import test_plots as t\n"
        f"t.plots.save(t.plots.loss_and_accuracy([t.panel()]), {str(tmp_path / 'other')!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=__file__.rsplit("/tests/", 1)[0])
    figure = plots.loss_and_accuracy([panel()])
    for stem in ("first", "second"):  # saving leaves the figure as it was
        plots.save(figure, tmp_path / stem)
    for kind in ("png", "svg"):
        digests = {
            hashlib.sha256((tmp_path / f"{stem}.{kind}").read_bytes()).hexdigest()
            for stem in ("first", "second", "other")
        }
        assert len(digests) == 1, kind
    assert b"<svg" in (tmp_path / "first.svg").read_bytes()


def test_the_users_own_settings_do_not_matter_and_are_left_alone(tmp_path):
    import matplotlib

    expected, _ = plots.save(panels.onset_curves([onset("W1", 0.5)]), tmp_path / "a")
    with matplotlib.rc_context({"font.size": 30, "savefig.dpi": 30, "axes.grid": True}):
        found, _ = plots.save(panels.onset_curves([onset("W1", 0.5)]), tmp_path / "b")
        assert matplotlib.rcParams["font.size"] == 30
    assert found.read_bytes() == expected.read_bytes()


_centres = st.lists(st.floats(-50, 150), min_size=1, max_size=8).map(np.array)


@given(_centres, st.lists(st.floats(1, 20), min_size=8, max_size=8).map(np.array))
def test_spread_keeps_labels_apart_in_order_and_in_range(centres, heights):
    heights = heights[: len(centres)]
    found = spread(centres, heights, 0.0, 100.0)
    order = np.argsort(centres, kind="stable")
    gaps = np.diff(found[order]) - (heights[order][1:] + heights[order][:-1]) / 2
    assert (gaps >= -1e-9).all()
    if heights.sum() <= 100:
        assert (found - heights / 2 >= -1e-9).all()
        assert (found + heights / 2 <= 100 + 1e-9).all()
    else:
        assert (found - heights / 2).min() + (found + heights / 2).max() == pytest.approx(100)


def test_spread_moves_no_more_than_needed():
    heights = np.full(3, 10.0)
    np.testing.assert_allclose(spread(np.array([20.0, 50.0, 80.0]), heights, 0, 100), [20, 50, 80])
    np.testing.assert_allclose(spread(np.array([50.0, 50.0, 80.0]), heights, 0, 100), [45, 55, 80])
    np.testing.assert_allclose(spread(np.array([99.0, 98.0, 10.0]), heights, 0, 100), [95, 85, 10])
    assert len(spread(np.array([]), np.array([]), 0, 100)) == 0
