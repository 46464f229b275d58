"""Figures of many classes of unequal frequency: conditions in the plane of loss and accuracy, and what groups learn.

As in ``plots``, whose style and colours they share, every function draws what it is given and computes no statistic.
"""

import dataclasses
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from lossjax.analysis.interval import Interval
from lossjax.reports.labels import end_label, separate
from lossjax.reports.levels import DASHED, GREY, SMALL, draw_levels, nats, percent, points
from lossjax.reports.plots import PALETTE, _figure, _style

GROUP_COLOURS: Final = {"head": "#0072B2", "middle": "#009E73", "tail": "#D55E00"}
_INK: Final = "#333333"
_POINTS: Final = FuncFormatter(lambda share, _: f"{100 * share:+.1f}".replace("-", "−") if round(share, 6) else "0")
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
        references: name → loss and accuracy; lines in a small picture of the whole plane, beside, where all lie.
    """
    with _style():
        figure = _figure(width=9, height=5.4)
        both = figure.subplot_mosaic([["conditions", "plane"], ["conditions", "pair"]], width_ratios=(2.6, 1))
        ax = both["conditions"]
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
            # beside: a name at either end would cover other conditions
            both["pair"].text(0.0, 0.85, f"→ from {pair[0]}\n    to {pair[1]}", va="top", fontsize=9)
        both["pair"].set_axis_off()
        _whole_plane(both["plane"], loss, accuracy, colours, references)
        ax.set_xlabel("test loss (nats)")
        ax.set_ylabel("test accuracy")
        ax.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
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
        axes[0].yaxis.set_major_formatter(_POINTS)
        shown = [Line2D([], [], marker="o", linestyle="none", color=PALETTE[kinds.index(kind)]) for kind in kinds]
        shown += [Line2D([], [], marker=_MARKERS[sizes.index(s)], linestyle="none", color="#999999") for s in sizes]
        figure.legend(
            shown, [*kinds, *sizes], loc="outside upper left", ncols=len(shown), frameon=False, handletextpad=0.1
        )
        return figure


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """One change, split one way into parts that add up to it."""

    title: str
    parts: Sequence[str]
    contribution: Float[np.ndarray, " part"]
    low: Float[np.ndarray, " part"]
    high: Float[np.ndarray, " part"]


def taken_apart(of_loss: Sequence[Split], of_accuracy: Sequence[Split], *, title: str) -> Figure:
    """A panel a way to split: a bar a part with its interval, and a dot for the sum. Losses share an axis, in nats."""
    with _style():
        splits = [*of_loss, *of_accuracy]
        figure = _figure(width=9, height=3.6)
        widths = [max(4, len(split.parts) + 1) for split in splits]  # words need room
        axes = figure.subplots(1, len(splits), squeeze=False, width_ratios=widths)[0]
        for ax in axes[1 : len(of_loss)]:
            ax.sharey(axes[0])  # before anything is drawn, so that the scale is that of all
            ax.tick_params(labelleft=False)
        for ax, split in zip(axes, splits, strict=True):
            x = np.arange(len(split.parts) + 1)
            ax.bar(x[:-1], split.contribution, 0.72, color="#9FB4C7", linewidth=0)
            ax.vlines(x[:-1], split.low, split.high, color="#222222", linewidth=1.2)
            ax.plot(x[-1], split.contribution.sum(), "o", color="#222222", markersize=5)
            ax.axhline(0, color="#444444", linewidth=0.8)
            ax.set_xticks(x, [*(part.replace("→", "→\n") for part in split.parts), "sum"], fontsize=7)
            ax.set_xlim(-0.6, x[-1] + 0.6)
            ax.set_title("\n".join(textwrap.wrap(split.title, 8 * len(x))), fontsize=9.5)
        axes[0].set_ylabel("contribution to ΔL (nats)")
        if of_accuracy:
            axes[len(of_loss)].set_ylabel("contribution to ΔA (points)")
        for ax in axes[len(of_loss) :]:
            ax.yaxis.set_major_formatter(_POINTS)
        figure.suptitle(title, x=0.005, ha="left", fontsize=11)
        return figure


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """A mean over runs along training, with its interval."""

    label: str
    epochs: Float[np.ndarray, " eval"]
    mean: Float[np.ndarray, " eval"]
    low: Float[np.ndarray, " eval"]
    high: Float[np.ndarray, " eval"]


@dataclasses.dataclass(frozen=True, eq=False)
class GroupCurves:
    """One configuration along training, a line a class-frequency group, and levels to compare with by name."""

    title: str
    loss: Sequence[Line]
    accuracy: Sequence[Line]
    loss_levels: Mapping[str, float] = dataclasses.field(default_factory=dict)  # nats
    accuracy_levels: Mapping[str, float] = dataclasses.field(default_factory=dict)


def learned_by_group(columns: Sequence[GroupCurves]) -> Figure:
    """Loss above accuracy of head, middle and tail, a column a configuration; levels are dashed."""
    with _style():
        figure = _figure(width=9, height=5.2)
        axes = figure.subplots(2, len(columns), sharex="col", sharey="row", squeeze=False)
        labels = []
        for (top, bottom), column in zip(axes.T, columns, strict=True):
            rows = (top, column.loss, column.loss_levels), (bottom, column.accuracy, column.accuracy_levels)
            for ax, lines, levels in rows:
                texts = []
                for name, level in levels.items():
                    ax.axhline(level, **DASHED)
                    texts.append(end_label(ax, name, level, GREY))
                for line in lines:
                    colour = GROUP_COLOURS.get(line.label, "#222222")
                    ax.plot(line.epochs, line.mean, color=colour, linewidth=1.2 if line.label in GROUP_COLOURS else 2.2)
                    ax.fill_between(line.epochs, line.low, line.high, color=colour, alpha=0.25, linewidth=0)
                    texts.append(end_label(ax, line.label, float(line.mean[-1]), colour))
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
        references: title of a panel → name → value, dashed.
    """
    with _style():
        figure = _figure(width=9, height=0.36 * len(names) + 1.2)
        axes = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
        y = np.arange(len(names))
        for ax, (title, intervals) in zip(axes, measures.items(), strict=True):
            ax.axvline(intervals[0].estimate, color=_INK, linewidth=0.9, zorder=1)
            ax.hlines(y, [one.low for one in intervals], [one.high for one in intervals], color=PALETTE[0], linewidth=2)
            ax.plot([one.estimate for one in intervals], y, "o", color=PALETTE[0], markersize=5)
            ax.set_title("\n".join(textwrap.wrap(title, 12)))
            ax.tick_params(axis="x", labelsize=8.5)
            ax.xaxis.set_major_locator(MaxNLocator(2))
            ax.margins(x=0.12)
            draw_levels(ax, references.get(title, {}), "x", percent if "accuracy" in title else nats)
        axes[0].set_yticks(y, names)
        axes[0].set_ylim(len(names) - 0.5, -0.5)
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


def along_training(
    rows: Sequence[str],
    columns: Sequence[str],
    panels: Sequence[Sequence[tuple[Sequence[Line], Mapping[str, float]]]],
    *,
    same_scale: Collection[str] = (),
) -> Figure:
    """A grid of small panels, a colour a label; levels are dashed. The columns ``same_scale`` share a row's scale."""
    with _style():
        figure = _figure(width=9, height=2.1 * len(rows) + 0.7)
        axes = figure.subplots(len(rows), len(columns), sharex="row", squeeze=False)
        alike = [at for at, title in enumerate(columns) if title in same_scale]
        for row, (name, line) in enumerate(zip(rows, panels, strict=True)):
            for at in alike[1:]:
                axes[row, at].sharey(axes[row, alike[0]])
            for ax, (curves, _) in zip(axes[row], line, strict=True):
                for index, curve in enumerate(curves):
                    colour = PALETTE[index]
                    ax.plot(curve.epochs, curve.mean, color=colour, linewidth=1.5, label=curve.label)
                    ax.fill_between(curve.epochs, curve.low, curve.high, color=colour, alpha=0.25, linewidth=0)
            for ax, title, (_, levels) in zip(axes[row], columns, line, strict=True):
                draw_levels(ax, levels, "y", percent if "accuracy" in title else nats)
                ax.tick_params(labelsize=8.5)
                ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
                if row == 0:
                    ax.set_title(title)
                if row == len(rows) - 1:
                    ax.set_xlabel("epoch")
            axes[row, 0].set_ylabel(name)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False)
        return figure


def _whole_plane(
    ax: Axes,
    loss: Float[np.ndarray, " condition"],
    accuracy: Float[np.ndarray, " condition"],
    colours: np.ndarray,
    references: Mapping[str, tuple[float, float]],
) -> None:
    """All conditions with the references, each a line across and one upwards."""
    ax.scatter(loss, accuracy, s=5, c=colours, linewidths=0)
    for name, (nats_of, share) in references.items():
        ax.axvline(nats_of, **DASHED)
        ax.axhline(share, **DASHED)
        ax.annotate(
            f"{name}: {nats(nats_of)}, {percent(share)}",
            (nats_of, 0.12),
            xycoords=ax.get_xaxis_transform(),
            xytext=(2, 0),
            textcoords="offset points",
            ha="left",
            va="bottom",
            rotation="vertical",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3},
            **SMALL,
        )
    ax.set_xlim(0, 1.12 * max([*loss, *(nats_of for nats_of, _ in references.values())]))
    ax.set_ylim(bottom=-0.03 * accuracy.max())
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %", decimals=0))
    ax.tick_params(labelsize=7.5)
    ax.set_title("the whole plane", **SMALL)


def _make_room(ax: Axes, num_lines: int) -> None:
    """Below everything, for that many lines of text."""
    low, high = ax.get_ylim()
    ax.set_ylim(low - 0.05 * num_lines * (high - low), high)


def _corner(ax: Axes, lines: Sequence[str]) -> None:
    """Of what has a higher loss and a lower accuracy than all that is drawn: arrows out of the lower right corner."""
    text = "\n".join(f"{line} ↘" for line in lines)
    ax.text(0.99, 0.01, text, transform=ax.transAxes, ha="right", va="bottom", **SMALL)
