"""Figures. Every function draws what it is given and computes no statistic; each returns a Matplotlib Figure.

Lines are labelled at their ends rather than in a legend, and a colour means the same in every figure.
"""

import contextlib
import dataclasses
import math
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import matplotlib.style
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from lossjax.analysis.interval import Interval
from lossjax.reports.labels import beside, end_label, place, separate, widest
from lossjax.reports.report import estimate_text

# Okabe and Ito's palette, told apart with every common form of colour blindness
PALETTE: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SPLIT_COLOURS: Final = {"train": "#0072B2", "val": "#E69F00", "test": "#D55E00"}
OUTCOME_COLOURS: Final = {
    "supported": "#00795A",
    "refuted": "#B34700",
    "in part": "#0072B2",
    "unresolved": "#767676",
}
# warm: loss and accuracy diverge; cold: they agree; grey: the loss did not move, or too little is known
REGIMES: Final = {
    "P": ("plateau", "#F0E442"),
    "O": ("over-confident", "#E69F00"),
    "K": ("beyond one temperature", "#D55E00"),
    "S": ("sacrifice", "#CC79A7"),
    "G": ("agree, better", "#56B4E9"),
    "W": ("agree, worse", "#0072B2"),
    "N": ("loss flat or undecided", "#C8C8C8"),
}
_GREY = "#767676"
_STYLE = Path(__file__).with_name("lossjax.mplstyle")
_Series = Float[np.ndarray, " point"]


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """A mean over runs with its interval band, and optionally a wider, lighter band that holds most runs."""

    label: str
    split: str  # "train", "val" or "test": the colour
    x: _Series
    y: _Series
    low: _Series | None = None
    high: _Series | None = None
    runs_low: _Series | None = None  # for example the 10 % quantile of the runs
    runs_high: _Series | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
    """One configuration: its loss and accuracy curves, levels to compare with, and where each is at its best."""

    title: str
    loss: Sequence[Curve]
    accuracy: Sequence[Curve]
    loss_levels: Mapping[str, float] = dataclasses.field(default_factory=dict)  # label → nats: "ln 2", "Bayes"
    accuracy_levels: Mapping[str, float] = dataclasses.field(default_factory=dict)  # "chance", "Bayes"
    t_loss: float | None = None  # where the loss is lowest, in units of x
    t_accuracy: float | None = None  # where the accuracy is highest


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A row of a forest plot."""

    label: str
    estimate: Interval
    outcome: str = ""
    group: str = ""  # rows of a group stand under its name


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Samples of one quantity from two or more sources, with a two-sample test's distance and p."""

    title: str
    x_label: str
    samples: Mapping[str, Float[np.ndarray, " run"]]
    distance: float
    p_value: float


def loss_and_accuracy(
    panels: Sequence[Panel], *, x_label: str = "epoch", log_x: bool = False, share_y: bool = True
) -> Figure:
    """Loss above accuracy on one time axis, a column for each configuration.

    Inner bands are the curves' intervals, outer ones hold most runs; dotted lines stand where the loss is lowest (t_L)
    and where the accuracy is highest (t_A). A label is left out where the next column repeats it.
    """
    with _style():
        figure = _figure(width=9, height=5.4)
        # panels may differ in length, which a logarithmic axis takes without waste
        share_x: Literal["col"] | bool = True if log_x else "col"
        axes = figure.subplots(2, len(panels), sharex=share_x, sharey="row" if share_y else False, squeeze=False)
        labels = []
        for column, panel in enumerate(panels):
            for row in (0, 1):
                repeated = _labels_of(panels[column + 1], row) if column + 1 < len(panels) else set()
                labels.append((axes[row, column], _draw_curves(axes[row, column], *_row(panel, row), repeated)))
            axes[0, column].set_title(panel.title)
            axes[1, column].set_xlabel(x_label)
        if log_x:
            _set_log_x(axes[0, 0], [curve.x for panel in panels for curve in (*panel.loss, *panel.accuracy)])
        for column, panel in enumerate(panels):
            for ax in axes[:, column]:
                # each on its outer side, so that none stands between the two lines
                accuracy_first = (panel.t_accuracy or 0) < (panel.t_loss or 0)
                top = ax is axes[0, column]
                _draw_time(ax, panel.t_loss, "$t_L$" if top else "", top=True, left=not accuracy_first)
                _draw_time(ax, panel.t_accuracy, "" if top else "$t_A$", top=False, left=accuracy_first)
        axes[0, 0].set_ylabel("loss (nats)")
        axes[1, 0].set_ylabel("accuracy")
        figure.align_ylabels()
        return separate(figure, labels)


def contrasts(
    rows: Sequence[Contrast],
    *,
    x_label: str,
    reference: float = 0.0,
    negligible: tuple[float, float] | None = None,
    title: str = "",
) -> Figure:
    """A forest plot: estimates with intervals, the numbers and the outcome beside; the shaded range is negligible."""
    with _style():
        lines = _grouped(rows)
        heights = [0.3 + 0.16 * text.count("\n") for text, _ in lines]  # inches, also the unit of y
        figure = _figure(width=9, height=sum(heights) + 0.8 + 0.3 * bool(title))
        ax = figure.subplots()
        if negligible is not None:
            ax.axvspan(*negligible, color="#E8E8E8", linewidth=0, zorder=0)
        ax.axvline(reference, color="#444444", linewidth=0.9, zorder=1)
        names, numbers, outcomes = [], [], []
        for (text, row), y in zip(lines, np.cumsum(heights) - np.array(heights) / 2, strict=True):
            if row is None:
                names.append(beside(ax, text, 0, y, weight="bold"))
                continue
            names.append(beside(ax, text, 0, y))
            colour = OUTCOME_COLOURS.get(row.outcome, "#333333")
            _draw_interval(ax, float(y), row.estimate, colour)
            numbers.append(beside(ax, estimate_text(row.estimate), 1, y, fontsize=9))
            outcomes.append(beside(ax, row.outcome, 1, y, fontsize=9, color=colour, weight="bold"))
        ax.set_ylim(sum(heights), 0)
        ax.set_yticks([])
        ax.margins(x=0.05)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.spines["left"].set_visible(False)
        ax.set_xlabel(x_label)
        _title(figure, title)
        # columns: names end where the axes begin, numbers begin where they end, outcomes follow the widest number
        place(names, -widest(figure, names) - 12)
        place(numbers, 12)
        place(outcomes, 12 + widest(figure, numbers) + 12)
        return figure


def regime_shares(
    labels: Sequence[str],
    shares: Mapping[str, Float[np.ndarray, " row"]],
    *,
    title: str = "",
    x_label: str = "runs",
    notes: Sequence[str] = (),
) -> Figure:
    """A bar a row: the share of runs in each regime, by the letters of ``REGIMES``. Each row's shares add up to 1.

    Args:
        x_label: what the shares are of.
        notes: what is written right of each bar, as intervals.

    Raises ValueError for an unknown letter, and for shares that do not add up.
    """
    unknown = [letter for letter in shares if letter not in REGIMES]
    if unknown:
        raise ValueError(f"no regime is named {unknown[0]!r}; the letters are {', '.join(REGIMES)}")
    totals = np.sum(list(shares.values()), axis=0)
    if totals.shape != (len(labels),) or not np.allclose(totals, 1.0, atol=1e-6):
        raise ValueError(f"shares add up to {totals} for {len(labels)} labels; give one share a label, in all 1 each")
    with _style():
        figure = _figure(width=9, height=1.3 + 0.36 * len(labels) + 0.3 * bool(title))
        ax = figure.subplots()
        left = np.zeros(len(labels))
        used = [letter for letter in REGIMES if letter in shares and np.any(shares[letter] > 0)]
        for letter in used:
            width, colour = shares[letter], REGIMES[letter][1]
            ax.barh(range(len(labels)), width, left=left, height=0.72, color=colour, edgecolor="white", linewidth=0.8)
            for row in np.flatnonzero(width >= 0.025):
                text = f"{letter} {_percent(width[row])}" if width[row] >= 0.085 else letter
                ink = "white" if letter == "W" else "#222222"
                ax.text(left[row] + width[row] / 2, row, text, ha="center", va="center", color=ink, fontsize=9)
            left = left + width
        ax.set_yticks(range(len(labels)), [_wrapped(label) for label in labels], fontsize=10)
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(len(labels) - 0.45, -0.55)
        ax.set_xlim(0, 1)
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        ax.spines["left"].set_visible(False)
        ax.set_xlabel(x_label)
        place([beside(ax, note, 1, row, fontsize=9) for row, note in enumerate(notes)], 8)
        handles = [Patch(color=REGIMES[letter][1], label=f"{letter}  {REGIMES[letter][0]}") for letter in used]
        figure.legend(
            handles=handles,
            title=title or None,
            title_fontsize=11,
            alignment="left",
            loc="outside upper left",
            ncols=4,
            handlelength=1,
            frameon=False,
        )
        return figure


def distributions(comparisons: Sequence[Comparison]) -> Figure:
    """Empirical distribution functions of two or more samples over one another, a panel for each comparison.

    Raises ValueError where a sample holds values that are not finite.
    """
    with _style():
        figure = _figure(width=max(4.5, min(9, 3 * len(comparisons))), height=3.7)
        names = list(dict.fromkeys(name for comparison in comparisons for name in comparison.samples))
        for ax, comparison in zip(figure.subplots(1, len(comparisons), squeeze=False)[0], comparisons, strict=True):
            for name, sample in comparison.samples.items():
                if not np.isfinite(sample).all():
                    raise ValueError(f"sample {name!r} has values that are not finite; leave those runs out and say so")
                # the first wide and pale, the next thin on top of it: both are seen where they agree
                width, alpha = (5, 0.4) if name == names[0] else (1.4, 1)
                colour = PALETTE[names.index(name) % len(PALETTE)]
                ax.ecdf(sample, label=name, color=colour, linewidth=width, alpha=alpha)
            ax.set_title(f"{comparison.title}\ndistance {comparison.distance:.3g}, p = {comparison.p_value:.2g}")
            sizes = ", ".join(str(len(sample)) for sample in comparison.samples.values())
            ax.text(0.98, 0.04, f"n = {sizes}", transform=ax.transAxes, ha="right", color=_GREY, fontsize=9)
            ax.set_xlabel(comparison.x_label)
            ax.set_ylim(0, 1)
            ax.margins(x=0.04)
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
            ax.label_outer()
        figure.axes[0].set_ylabel("runs at or below")
        handles = {name: line for ax in figure.axes for line, name in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(
            handles.values(), handles.keys(), loc="outside upper left", ncols=4, frameon=False, handlelength=1.5
        )
        return figure


def save(figure: Figure, path_stem: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Writes ``<stem>.png`` (200 dots an inch) and ``<stem>.svg``; the same figure always gives the same bytes."""
    stem = Path(path_stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, svg = (stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg"))
    with _style():
        figure.savefig(png, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return png, svg


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Ours over Matplotlib's defaults, whatever the user's own settings are."""
    with matplotlib.style.context(_STYLE, after_reset=True):
        yield


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no window, no pyplot
    return figure


def _title(figure: Figure, title: str) -> None:
    """Above everything, at the left edge of the figure: the axes begin somewhere right of it."""
    if title:
        figure.suptitle(title, x=0.005, ha="left", fontsize=11)


def _draw_curves(
    ax: Axes, curves: Sequence[Curve], levels: Mapping[str, float], repeated: set[str]
) -> list[Annotation]:
    labels = []
    for name, level in levels.items():
        ax.axhline(level, color=_GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        if _level_label(name, level) not in repeated:
            labels.append(end_label(ax, _level_label(name, level), level, _GREY))
    for curve in curves:
        if curve.split not in SPLIT_COLOURS:
            raise ValueError(f"no split is named {curve.split!r}; the splits are {', '.join(SPLIT_COLOURS)}")
        colour = SPLIT_COLOURS[curve.split]
        for low, high, alpha in ((curve.runs_low, curve.runs_high, 0.13), (curve.low, curve.high, 0.35)):
            if low is not None and high is not None:
                ax.fill_between(curve.x, low, high, color=colour, alpha=alpha, linewidth=0)
        # a line through one point is nothing
        ax.plot(curve.x, curve.y, color=colour, label=curve.label, marker="o" if len(curve.x) == 1 else None)
        finite = curve.y[np.isfinite(curve.y)]
        if finite.size and curve.label not in repeated:
            labels.append(end_label(ax, curve.label, finite[-1], colour))
    return labels


def _row(panel: Panel, row: int) -> tuple[Sequence[Curve], Mapping[str, float]]:
    return (panel.loss, panel.loss_levels) if row == 0 else (panel.accuracy, panel.accuracy_levels)


def _labels_of(panel: Panel, row: int) -> set[str]:
    curves, levels = _row(panel, row)
    return {curve.label for curve in curves} | {_level_label(name, level) for name, level in levels.items()}


def _level_label(name: str, level: float) -> str:
    return f"{name} = {level:.3g}"


def _set_log_x(ax: Axes, series: Sequence[_Series]) -> None:
    """Logarithmic from the first positive point on and linear before, because the first evaluation is at 0."""
    points = np.concatenate(series)
    positive = points[points > 0]
    ax.set_xscale("symlog", linthresh=positive.min() if positive.size else 1.0, linscale=0.3)
    ax.set_xlim(left=points.min())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _draw_time(ax: Axes, time: float | None, name: str, *, top: bool, left: bool) -> None:
    """A dotted line with its name left or right of it; on the other side where the axes end."""
    if time is None:
        return
    ax.axvline(time, color="#444444", linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
    along = ax.transAxes.inverted().transform(ax.transData.transform((time, 0)))[0]
    left = along > 0.97 or (left and along > 0.1)
    ax.annotate(
        name,
        (time, 1 if top else 0),
        xycoords=ax.get_xaxis_transform(),
        xytext=(-3 if left else 3, -2 if top else 3),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top" if top else "bottom",
        bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.5},
    )


def _draw_interval(ax: Axes, y: float, interval: Interval, colour: str) -> None:
    bounded = not (math.isnan(interval.low) or math.isnan(interval.high))
    if bounded:
        ax.plot([interval.low, interval.high], [y, y], color=colour, linewidth=2)
    # hollow: an estimate without an interval
    ax.plot([interval.estimate], [y], "o", markersize=6, color=colour, markerfacecolor=colour if bounded else "white")


def _grouped(rows: Sequence[Contrast]) -> list[tuple[str, Contrast | None]]:
    """(text, row) from top to bottom; a heading has no row."""
    lines: list[tuple[str, Contrast | None]] = []
    group = ""
    for row in rows:
        if row.group and row.group != group:
            lines.append((_wrapped(row.group), None))
        group = row.group
        lines.append((_wrapped(row.label), row))
    return lines


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 40)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
