"""Figures of many classes of unequal frequency: conditions in the plane of loss and accuracy, and what groups learn.

As in ``plots``, whose style and colours they share, every function draws what it is given and computes no statistic.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MultipleLocator, PercentFormatter

from lossjax.analysis.attribution import Cell
from lossjax.analysis.interval import Interval
from lossjax.reports.labels import end_label, separate
from lossjax.reports.panels import CELL_COLOURS
from lossjax.reports.plots import PALETTE, _figure, _style

GROUP_COLOURS: Final = {"head": "#0072B2", "middle": "#009E73", "tail": "#D55E00"}
_PART_COLOURS: Final[dict[str, str]] = {
    **{str(cell): colour for cell, colour in CELL_COLOURS.items()},
    **GROUP_COLOURS,
    "calibration": "#E69F00",
    "refinement": "#CC79A7",
}
_GREY: Final = "#767676"
_INK: Final = "#333333"
_SMALL: Final[dict[str, Any]] = {"color": _GREY, "fontsize": 8}
_MARKERS: Final = ("o", "D", "s", "^")


def loss_against_accuracy(
    loss: Float[np.ndarray, " condition"],
    accuracy: Float[np.ndarray, " condition"],
    *,
    low: tuple[Float[np.ndarray, " condition"], Float[np.ndarray, " condition"]],
    high: tuple[Float[np.ndarray, " condition"], Float[np.ndarray, " condition"]],
    kinds: Sequence[str],
    pareto: Bool[np.ndarray, " condition"],
    names: Sequence[str],
    pair: tuple[str, str] | None,
    references: Mapping[str, tuple[float, float]],
) -> Figure:
    """A mark a condition with both its intervals; ``pair`` is joined by an arrow and named.

    Args:
        low, high: of the loss and of the accuracy.
        kinds: a colour and a legend entry each.
        pareto: conditions that are ringed.
        references: name → loss and accuracy, of a higher loss and a lower accuracy than all conditions: arrows to them.
    """
    with _style():
        figure = _figure(width=9, height=5.4)
        ax = figure.subplots()
        distinct = list(dict.fromkeys(kinds))
        colours = np.array([PALETTE[distinct.index(kind)] for kind in kinds])
        for kind in distinct:
            chosen = np.array([one == kind for one in kinds])
            colour = PALETTE[distinct.index(kind)]
            ax.plot(loss[chosen], accuracy[chosen], "o", markersize=4.5, color=colour, label=kind, zorder=3)
        ax.hlines(accuracy, low[0], high[0], color=colours, linewidth=0.9, alpha=0.6)
        ax.vlines(loss, low[1], high[1], color=colours, linewidth=0.9, alpha=0.6)
        ax.plot(
            loss[pareto], accuracy[pareto], "o", markersize=10, color=_INK, fillstyle="none", linestyle="none", zorder=4
        )
        if pair is not None:
            a, b = (list(names).index(name) for name in pair)
            ax.annotate(
                "",
                (loss[b], accuracy[b]),
                xytext=(loss[a], accuracy[a]),
                arrowprops={"arrowstyle": "->", "color": _INK, "linewidth": 1.3, "shrinkA": 4, "shrinkB": 4},
                zorder=5,
            )
            for at, other in ((a, b), (b, a)):
                above = accuracy[at] > accuracy[other]
                ax.annotate(
                    names[at],
                    (loss[at], accuracy[at]),
                    xytext=(0, 9 if above else -9),
                    textcoords="offset points",
                    ha="center",
                    va="bottom" if above else "top",
                    fontsize=9,
                )
        _make_room(ax, len(references))
        _corner(ax, [f"{name}: loss {nats(x)}, accuracy {percent(y)}" for name, (x, y) in references.items()])
        ax.set_xlabel("test loss (nats)")
        ax.set_ylabel("test accuracy")
        ax.yaxis.set_major_locator(MultipleLocator(0.05))
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %", decimals=0))
        figure.legend(loc="outside upper left", ncols=3, frameon=False, handletextpad=0.2)
        return figure


@dataclasses.dataclass(frozen=True, eq=False)
class Deviations:
    """Conditions of one set by how far they are from the set's mean, with intervals."""

    title: str
    kinds: Sequence[str]  # a colour each
    sizes: Sequence[str]  # a marker each
    loss: Float[np.ndarray, " condition"]  # nats
    loss_low: Float[np.ndarray, " condition"]
    loss_high: Float[np.ndarray, " condition"]
    accuracy: Float[np.ndarray, " condition"]
    accuracy_low: Float[np.ndarray, " condition"]
    accuracy_high: Float[np.ndarray, " condition"]
    pareto: Bool[np.ndarray, " condition"]  # ringed: of this set
    pairs: Sequence[tuple[int, int]]  # conditions that are joined by a line
    references: Mapping[str, tuple[float, float]]  # name → how far its loss and accuracy are from the set's mean


def within_sets(panels: Sequence[Deviations]) -> Figure:
    """A panel a set, on shared axes; conditions that a line joins are ordered differently by loss and by accuracy."""
    with _style():
        figure = _figure(width=9, height=4.4)
        axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        kinds = list(dict.fromkeys(kind for panel in panels for kind in panel.kinds))
        sizes = list(dict.fromkeys(size for panel in panels for size in panel.sizes))
        for ax, panel in zip(axes, panels, strict=True):
            colours = [PALETTE[kinds.index(kind)] for kind in panel.kinds]
            for level in (ax.axhline, ax.axvline):
                level(0, color="#BBBBBB", linewidth=0.7, zorder=0)
            for a, b in panel.pairs:
                ax.plot(panel.loss[[a, b]], panel.accuracy[[a, b]], color="#BBBBBB", linewidth=0.9, zorder=1)
            ax.hlines(panel.accuracy, panel.loss_low, panel.loss_high, color=colours, linewidth=1.2)
            ax.vlines(panel.loss, panel.accuracy_low, panel.accuracy_high, color=colours, linewidth=1.2)
            for at, (size, colour) in enumerate(zip(panel.sizes, colours, strict=True)):
                marker = _MARKERS[sizes.index(size)]
                ax.plot(panel.loss[at], panel.accuracy[at], marker, color=colour, markersize=5, zorder=3)
            ringed = panel.loss[panel.pareto], panel.accuracy[panel.pareto]
            ax.plot(*ringed, "o", markersize=11, color=_INK, fillstyle="none", linestyle="none", zorder=4)
            ax.set_title(panel.title, fontsize=10)
            ax.set_xlabel("loss, from the set's mean (nats)")
            ax.margins(x=0.06, y=0.1)
        _make_room(axes[0], max(len(panel.references) for panel in panels))
        for ax, panel in zip(axes, panels, strict=True):
            _corner(ax, [f"{name} +{nats(x)} nats, {points(y)}" for name, (x, y) in panel.references.items()])
        axes[0].set_ylabel("accuracy, from the set's mean (points)")
        axes[0].yaxis.set_major_formatter(
            FuncFormatter(lambda share, _: f"{100 * share:+.1f}".replace("-", "−") if round(share, 6) else "0")
        )
        shown = [Line2D([], [], marker="o", linestyle="none", color=PALETTE[kinds.index(kind)]) for kind in kinds]
        shown += [Line2D([], [], marker=_MARKERS[sizes.index(s)], linestyle="none", color="#999999") for s in sizes]
        figure.legend(
            shown, [*kinds, *sizes], loc="outside upper left", ncols=len(shown), frameon=False, handletextpad=0.1
        )
        return figure


def taken_apart(
    how: Sequence[str],
    parts: Sequence[Cell | str],
    contribution: Float[np.ndarray, " part"],
    low: Float[np.ndarray, " part"],
    high: Float[np.ndarray, " part"],
    *,
    title: str,
) -> Figure:
    """One change in loss, split several ways: a bar a part with its interval; the dot is each way's sum."""
    with _style():
        ways = list(dict.fromkeys(how))
        figure = _figure(width=9, height=3.6)
        axes = figure.subplots(1, len(ways), sharey=True, squeeze=False)[0]
        for ax, way in zip(axes, ways, strict=True):
            chosen = [at for at, one in enumerate(how) if one == way]
            x = np.arange(len(chosen) + 1)
            ax.bar(x[:-1], contribution[chosen], 0.72, color=[_PART_COLOURS[parts[at]] for at in chosen], linewidth=0)
            ax.vlines(x[:-1], low[chosen], high[chosen], color="#222222", linewidth=1.2)
            ax.plot(x[-1], contribution[chosen].sum(), "o", color="#222222", markersize=5)
            ax.axhline(0, color="#444444", linewidth=0.8)
            ticks = [str(parts[at]).replace("→", "→\n") for at in chosen]
            ax.set_xticks(x, [*ticks, "sum"], fontsize=8.5)
            ax.set_xlim(-0.6, x[-1] + 0.6)
            ax.set_title(way)
        axes[0].set_ylabel("contribution to ΔL (nats)")
        figure.suptitle(title, x=0.005, ha="left", fontsize=11)
        return figure


@dataclasses.dataclass(frozen=True, eq=False)
class GroupCurves:
    """One configuration's loss and accuracy by class-frequency group along training: group → [eval]."""

    title: str
    epochs: Float[np.ndarray, " eval"]
    loss: Mapping[str, Float[np.ndarray, " eval"]]
    accuracy: Mapping[str, Float[np.ndarray, " eval"]]
    loss_low: Mapping[str, Float[np.ndarray, " eval"]]
    loss_high: Mapping[str, Float[np.ndarray, " eval"]]
    accuracy_low: Mapping[str, Float[np.ndarray, " eval"]]
    accuracy_high: Mapping[str, Float[np.ndarray, " eval"]]
    references: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)  # name → loss, accuracy


def learned_by_group(columns: Sequence[GroupCurves]) -> Figure:
    """Loss above accuracy of head, middle and tail, a column a configuration; references are dashed."""
    with _style():
        figure = _figure(width=9, height=5.2)
        axes = figure.subplots(2, len(columns), sharex="col", sharey="row", squeeze=False)
        labels = []
        for (top, bottom), column in zip(axes.T, columns, strict=True):
            for ax, curves, low, high, place in (
                (top, column.loss, column.loss_low, column.loss_high, 0),
                (bottom, column.accuracy, column.accuracy_low, column.accuracy_high, 1),
            ):
                texts = []
                for name, reference in column.references.items():
                    ax.axhline(reference[place], color=_GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
                    texts.append(end_label(ax, name, reference[place], _GREY))
                for group, values in curves.items():
                    colour = GROUP_COLOURS.get(group, "#222222")
                    width = 1.2 if group in GROUP_COLOURS else 2.2
                    ax.plot(column.epochs, values, color=colour, linewidth=width)
                    ax.fill_between(column.epochs, low[group], high[group], color=colour, alpha=0.25, linewidth=0)
                    texts.append(end_label(ax, group, float(values[-1]), colour))
                labels.append((ax, texts))
            top.set_title(column.title)
            bottom.set_xlabel("epoch")
        axes[0, 0].set_ylabel("test loss (nats)")
        axes[1, 0].set_ylabel("test accuracy")
        axes[1, 0].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %", decimals=0))
        figure.align_ylabels()
        return separate(figure, labels)


def remedies(
    names: Sequence[str], measures: Mapping[str, Sequence[Interval]], references: Mapping[str, Mapping[str, float]]
) -> Figure:
    """A row a remedy, a panel a measure, all with intervals; the first row, what is compared with, is a line.

    Args:
        names: of the rows.
        measures: title of a panel → an interval a row.
        references: title of a panel → name → value, dashed, or an arrow where it lies beyond the others.
    """
    with _style():
        figure = _figure(width=9, height=0.36 * len(names) + 1.2)
        axes = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
        y = np.arange(len(names))
        for ax, (title, intervals) in zip(axes, measures.items(), strict=True):
            ax.axvline(intervals[0].estimate, color=_INK, linewidth=0.9, zorder=1)
            ax.hlines(y, [one.low for one in intervals], [one.high for one in intervals], color=PALETTE[0], linewidth=2)
            ax.plot([one.estimate for one in intervals], y, "o", color=PALETTE[0], markersize=5)
            ax.set_title(title)
            ax.tick_params(axis="x", labelsize=8.5)
            ax.margins(x=0.12)
            _levels(ax, references.get(title, {}), "x", percent if "accuracy" in title else nats)
        axes[0].set_yticks(y, names)
        # the arrows stand above the first row
        axes[0].set_ylim(len(names) - 0.5, -0.5 - 0.55 * max(map(len, references.values()), default=0))
        return figure


def dose(groups: Mapping[str, tuple[Float[np.ndarray, " dose"], ...]], *, x_label: str, y_label: str) -> Figure:
    """A line a class-frequency group over the dose: group → x, y, low, high."""
    with _style():
        figure = _figure(width=5.4, height=3.4)
        ax = figure.subplots()
        for name, (x, y, low, high) in groups.items():
            ax.vlines(x, low, high, color=GROUP_COLOURS[name], linewidth=2)
            ax.plot(x, y, "o-", color=GROUP_COLOURS[name], markersize=5, linewidth=1.2)
        ax.set_xticks(np.unique(np.concatenate([x for x, *_ in groups.values()])))
        ax.set_ylim(bottom=0)
        ax.set_xlabel(x_label)
        ax.set_ylabel(y_label)
        labels = [end_label(ax, name, float(y[-1]), GROUP_COLOURS[name]) for name, (_, y, *_) in groups.items()]
        return separate(figure, [(ax, labels)])


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """A mean over runs along training, with its interval."""

    label: str
    epochs: Float[np.ndarray, " eval"]
    mean: Float[np.ndarray, " eval"]
    low: Float[np.ndarray, " eval"]
    high: Float[np.ndarray, " eval"]


def along_training(
    rows: Sequence[str],
    columns: Sequence[str],
    panels: Sequence[Sequence[tuple[Sequence[Line], Mapping[str, float]]]],
) -> Figure:
    """A grid of small panels, a colour a label; levels are dashed, or an arrow where they lie beyond the curves."""
    with _style():
        figure = _figure(width=9, height=2.1 * len(rows) + 0.7)
        axes = figure.subplots(len(rows), len(columns), sharex="row", squeeze=False)
        for row, (name, line) in enumerate(zip(rows, panels, strict=True)):
            for ax, title, (curves, levels) in zip(axes[row], columns, line, strict=True):
                for index, curve in enumerate(curves):
                    colour = PALETTE[index]
                    ax.plot(curve.epochs, curve.mean, color=colour, linewidth=1.5, label=curve.label)
                    ax.fill_between(curve.epochs, curve.low, curve.high, color=colour, alpha=0.25, linewidth=0)
                _levels(ax, levels, "y", percent if "accuracy" in title else nats)
                ax.tick_params(labelsize=8.5)
                if row == 0:
                    ax.set_title(title)
                if row == len(rows) - 1:
                    ax.set_xlabel("epoch")
            axes[row, 0].set_ylabel(name)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False)
        return figure


# Reference levels -----------------------------------------------------------------------------------------------------


def nats(value: float) -> str:
    return f"{value:.2f}"


def percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def points(difference: float) -> str:
    return f"{100 * difference:+.0f} points".replace("-", "−")


def _levels(ax: Axes, levels: Mapping[str, float], axis: Literal["x", "y"], spelled: Callable[[float], str]) -> None:
    """Dashed lines across an axis. One that lies beyond would squeeze all else: an arrow says on which side, and where.

    To be called when everything else is drawn. Arrows along y stand at the right, those along x at the top.
    """
    low, high = ax.get_ylim() if axis == "y" else ax.get_xlim()
    before: list[str] = []  # from the farthest inwards
    after: list[str] = []
    for name, level in sorted(levels.items(), key=lambda item: item[1]):
        said = f"{name} {spelled(level)}"
        if level < low:
            before.append(f"↓ {said}" if axis == "y" else f"← {said}")
        elif level > high:
            after.insert(0, f"↑ {said}" if axis == "y" else f"{said} →")
        elif axis == "y":
            ax.axhline(level, color=_GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
            ax.annotate(
                name,
                (0.99, level),
                xycoords=ax.get_yaxis_transform(),
                xytext=(0, 1),
                textcoords="offset points",
                ha="right",
                va="bottom",
                **_SMALL,
            )
        else:
            ax.axvline(level, color=_GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
            ax.annotate(name, (level, 0), xycoords=ax.get_xaxis_transform(), **_SMALL)
    ends = (0.99, 0.01, before[::-1]), (0.99, 0.99, after)
    for x, y, lines in ends if axis == "y" else ((0.02, 0.99, before), (0.99, 0.99, after)):
        if not lines:
            continue
        vertical = "bottom" if y < 0.5 else "top"
        horizontal = "left" if x < 0.5 else "right"
        ax.text(x, y, "\n".join(lines), transform=ax.transAxes, ha=horizontal, va=vertical, **_SMALL)
    if axis == "y":
        ax.set_ylim(low, high)
    else:
        ax.set_xlim(low, high)


def _make_room(ax: Axes, num_lines: int) -> None:
    """Below everything, for that many lines of text."""
    low, high = ax.get_ylim()
    ax.set_ylim(low - 0.05 * num_lines * (high - low), high)


def _corner(ax: Axes, lines: Sequence[str]) -> None:
    """Of what has a higher loss and a lower accuracy than all that is drawn: arrows out of the lower right corner."""
    text = "\n".join(f"{line} ↘" for line in lines)
    ax.text(0.99, 0.01, text, transform=ax.transAxes, ha="right", va="bottom", **_SMALL)
