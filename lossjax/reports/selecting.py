"""Figures of selection, search, and the spread between seeds. They draw what they are given and compute nothing."""

import dataclasses
import math
import textwrap
from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator, PercentFormatter

from lossjax.analysis.interval import Interval
from lossjax.reports.plots import PALETTE, _figure, _style

# a thing has one colour in all figures of this file
COLOURS: Final = {
    "loss": "#0072B2",
    "accuracy": "#D55E00",
    "Brier score": "#009E73",
    "loss at T*": "#CC79A7",
    # where a run's variance comes from
    "data": "#0072B2",
    "initial parameters": "#E69F00",
    "order of examples": "#009E73",
    "label noise": "#CC79A7",
    "interactions": "#C8C8C8",
}
_INK: Final = "#333333"
_Series = Float[np.ndarray, " point"]


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """A mean with its interval band."""

    label: str
    x: _Series
    y: _Series
    low: _Series
    high: _Series
    dashed: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class LinePanel:
    """Lines in one panel; panels of one ``row`` stand side by side, those of one title above one another."""

    title: str
    lines: Sequence[Line]
    row: str = ""


def lines(
    panels: Sequence[LinePanel],
    *,
    x_label: str,
    y_label: str,
    percent: str = "",
    reference: float | None = None,
    negligible: tuple[float, float] | None = None,
    share_y: bool = True,
) -> Figure:
    """Lines over a logarithmic axis of counts, each label in one colour; the legend stands above.

    Args:
        percent: shows y in hundredths, with this behind them.
        reference: a level to compare with; negligible: a range that is shaded.
    """
    with _style():
        rows = list(dict.fromkeys(panel.row for panel in panels))
        columns = list(dict.fromkeys(panel.title for panel in panels))
        figure = _figure(width=9, height=0.9 + (2.9 if len(rows) == 1 else 2.4 * len(rows)))
        axes = figure.subplots(len(rows), len(columns), sharex="col", sharey="row" if share_y else False, squeeze=False)
        fullest_first = sorted(panels, key=lambda panel: -len(panel.lines))
        labels = list(dict.fromkeys(line.label for panel in fullest_first for line in panel.lines))
        for panel in panels:
            ax = axes[rows.index(panel.row), columns.index(panel.title)]
            if negligible is not None:
                ax.axhspan(*negligible, color="#E8E8E8", linewidth=0, zorder=0)
            if reference is not None:
                ax.axhline(reference, color="#444444", linewidth=0.9, zorder=1)
            for line in panel.lines:
                colour = _colour(line.label, labels)
                style = "dashed" if line.dashed else "solid"
                ax.plot(line.x, line.y, marker="o", linestyle=style, color=colour, markersize=3.5, clip_on=False)
                ax.fill_between(line.x, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
            _counts(ax, np.unique(np.concatenate([line.x for line in panel.lines])))
            if percent:
                ax.yaxis.set_major_formatter(_hundredths(percent))
        for name, ax in zip(columns, axes[0], strict=True):
            ax.set_title(textwrap.fill(name, 22))
        for name, ax in zip(rows, axes[:, 0], strict=True):
            ax.set_ylabel(f"{y_label}\n{name}" if name else y_label)
        figure.align_ylabels()
        figure.supxlabel(x_label, fontsize=10)
        dashed = {line.label for panel in panels for line in panel.lines if line.dashed}
        handles = [
            Line2D(
                [],
                [],
                color=_colour(label, labels),
                marker="o",
                markersize=3.5,
                linestyle="dashed" if label in dashed else "solid",
                label=label,
            )
            for label in labels
        ]
        ncols = 4 if sum(map(len, labels)) < 70 else 2
        figure.legend(handles=handles, loc="outside upper left", ncols=ncols, frameon=False)
        return figure


@dataclasses.dataclass(frozen=True, eq=False)
class Matrix:
    """What choosing by a row costs when a column judges; less is better."""

    title: str
    cost: Float[np.ndarray, "row column"]
    low: Float[np.ndarray, "row column"]
    high: Float[np.ndarray, "row column"]


def regret_matrices(
    matrices: Sequence[Matrix], *, rows: Sequence[str], columns: Sequence[str], percent: Sequence[bool]
) -> Figure:
    """A table of colours each, two side by side; a judge's darkest cell is its largest cost in all tables.

    Colours are by the square root, for costs of one judge may differ a hundredfold between tables.

    Args:
        percent: of each column, whether it is in hundredths.
    """
    with _style():
        height = math.ceil(len(matrices) / 2)
        figure = _figure(width=9, height=0.7 + 2.5 * height)
        axes = figure.subplots(height, 2, squeeze=False)
        for ax in axes.flat[len(matrices) :]:
            ax.set_visible(False)
        largest = np.maximum(np.nanmax([matrix.cost for matrix in matrices], axis=(0, 1)), 1e-12)
        for matrix, ax in zip(matrices, axes.flat, strict=False):
            shade = np.sqrt(np.clip(matrix.cost / largest, 0, 1))
            ax.imshow(shade, cmap="Oranges", vmin=0, vmax=1.6, aspect="auto")
            for row, column in np.ndindex(matrix.cost.shape):
                reach = (matrix.high - matrix.low)[row, column] / 2
                scale, digits, unit = (100, 1, " pp") if percent[column] else (1, 3, "")
                if scale * reach < 0.5 * 10**-digits:  # never "± 0.0"
                    digits += 1
                text = f"{scale * matrix.cost[row, column]:.{digits}f}{unit}\n± {scale * reach:.{digits}f}"
                ax.text(column, row, text.replace("-", "−"), ha="center", va="center", fontsize=9, color="#222222")
            ax.set_xticks(range(len(columns)), columns)
            ax.set_yticks(range(len(rows)), rows)
            ax.tick_params(length=0)
            for spine in ax.spines.values():
                spine.set_visible(False)
            ax.set_title(matrix.title)
        for ax in axes[:, 0]:
            ax.set_ylabel("selected by")
        for ax in axes[-1]:
            ax.set_xlabel("judged by")
        for ax in axes[:, 1]:
            ax.set_yticklabels([])
        return figure


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """A block: shares of a variance by where it comes from, and the standard deviation that they are of."""

    label: str
    group: str
    shares: dict[str, Interval]  # part → share; they add up to 1
    deviation: str  # written beside
    mark: float | None = None  # a share to point at


def variance_parts(bars: Sequence[Parts], *, mark: str) -> Figure:
    """Shares of a variance, a block a metric in groups, a bar with its interval a part.

    A bar may end below 0, for an unbiased estimate of what is nearly nothing may. A dashed line stands where ``mark``
    alone would reach.
    """
    with _style():
        groups = list(dict.fromkeys(bar.group for bar in bars))
        rows = sum(len(bar.shares) for bar in bars)
        figure = _figure(width=9, height=1.2 + 0.15 * rows + 0.12 * len(bars) + 0.32 * len(groups))
        ax = figure.subplots()
        parts = list(dict.fromkeys(part for bar in bars for part in bar.shares))
        y, group, ticks = 0.0, "", []
        for bar in bars:
            if bar.group != group:
                group = bar.group
                ax.text(0.005, y + 1.3, group, weight="bold", va="center")
                y += 2.1
            top = y
            for part, share in bar.shares.items():
                ax.barh(y + 0.5, share.estimate, height=0.9, color=COLOURS[part], linewidth=0)
                ax.plot([share.low, share.high], [y + 0.5, y + 0.5], color=_INK, linewidth=1.1)
                estimate, low, high = (f"{100 * value + 0.0:.0f}" for value in (share.estimate, share.low, share.high))
                written = f"{estimate} % [{low}, {high}]".replace("-0 ", "0 ").replace("-", "−")
                ax.text(
                    max(share.high, share.estimate) + 0.01,
                    y + 0.5,
                    written,
                    va="center",
                    fontsize=8,
                    zorder=6,  # above the line of the mark
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
                )
                y += 1.0
            ticks.append((top + y) / 2)
            if bar.mark is not None:
                ax.plot([bar.mark, bar.mark], [top, y], color=_INK, linewidth=1.2, linestyle=(0, (3, 2)), zorder=5)
            ax.annotate(
                bar.deviation,
                (1, (top + y) / 2),
                xycoords=("axes fraction", "data"),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                annotation_clip=False,
            )
            y += 0.8
        ax.axvline(0, color="#444444", linewidth=0.9)
        ax.set_yticks(ticks, [bar.label for bar in bars])
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(y + 0.1, 0)
        lowest = min(share.low for bar in bars for share in bar.shares.values())
        ax.set_xlim(min(0.0, lowest) - 0.01, max(1.15, 0.2 + max(s.high for bar in bars for s in bar.shares.values())))
        ax.set_xticks(np.arange(0, 1.01, 0.2))
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        ax.spines["left"].set_visible(False)
        ax.set_xlabel("share of the variance between runs")
        handles: list[Patch | Line2D] = [Patch(color=COLOURS[part], label=part) for part in parts]
        if any(bar.mark is not None for bar in bars):
            handles.append(Line2D([], [], color=_INK, linewidth=1.2, linestyle=(0, (3, 2)), label=mark))
        figure.legend(handles=handles, loc="outside upper left", ncols=3, handlelength=1.4, frameon=False)
        return figure


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """One configuration's course through training: a point an evaluation, the last one filled."""

    label: str
    x: _Series
    y: _Series
    low: _Series
    high: _Series


def against_equality(
    left: Sequence[Points], right: Sequence[Points], *, labels: Sequence[tuple[str, str, str, str]]
) -> Figure:
    """Two logarithmic scatters with the line of equality; ``labels`` are (title, x, y, unit of hundredths) of each."""
    with _style():
        figure = _figure(width=9, height=5.0)
        names = list(dict.fromkeys(points.label for points in (*left, *right)))
        for ax, courses, (title, x_label, y_label, unit) in zip(
            figure.subplots(1, 2), (left, right), labels, strict=True
        ):
            for points in courses:
                colour = PALETTE[names.index(points.label) % len(PALETTE)]
                ax.vlines(points.x, points.low, points.high, color=colour, linewidth=1.2, alpha=0.8)
                ax.plot(points.x, points.y, "-o", color=colour, linewidth=0.8, markersize=4.5, markerfacecolor="white")
                ax.plot(points.x[-1:], points.y[-1:], "o", color=colour, markersize=7)
            every = np.concatenate(
                [part for points in courses for part in (points.x, points.y, points.low, points.high)]
            )
            every = every[np.isfinite(every) & (every > 0)]
            low, high = every.min() / 1.25, every.max() * 1.25
            ax.plot([low, high], [low, high], color="#444444", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
            ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 1000 else (1.0,)))
                axis.set_minor_locator(NullLocator())
                axis.set_major_formatter(_hundredths(unit))
            ax.set_box_aspect(1)
            ax.set_title(title)
            ax.set_xlabel(x_label)
            ax.set_ylabel(y_label)
        handles = [
            Line2D([], [], color=PALETTE[i % len(PALETTE)], marker="o", markersize=6, linewidth=0.8, label=name)
            for i, name in enumerate(names)
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False)
        return figure


def _colour(label: str, labels: Sequence[str]) -> str:
    """Its own, or one that no label here has for its own."""
    if label in COLOURS:
        return COLOURS[label]
    free = [colour for colour in PALETTE if colour not in {COLOURS.get(other) for other in labels}]
    return free[[other for other in labels if other not in COLOURS].index(label) % len(free)]


def _hundredths(unit: str) -> FuncFormatter:
    return FuncFormatter(lambda value, _: f"{100 * value:.3g}{unit}".replace("-", "−"))


def _counts(ax: Axes, values: _Series) -> None:
    """A logarithmic axis with a tick at each count that is plotted."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(values.tolist()))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
