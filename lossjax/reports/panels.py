"""Figures of many rows or small panels: shares against targets, cells, regimes and onset along training.

As in ``plots``, whose style and colours they share, every function draws what it is given and computes no statistic.
"""

import dataclasses
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from lossjax.analysis.attribution import Cell
from lossjax.analysis.interval import Intervals
from lossjax.reports.labels import end_label, separate
from lossjax.reports.plots import OUTCOME_COLOURS, PALETTE, REGIMES, _figure, _percent, _set_log_x, _style

# staying examples in blues, crossing ones in warm colours
CELL_COLOURS: Final[Mapping[Cell, str]] = {
    "right→right": "#56B4E9",
    "wrong→wrong": "#0072B2",
    "wrong→right": "#009E73",
    "right→wrong": "#D55E00",
}
_INK: Final = "#333333"
_MARK_HEIGHT: Final = 0.075  # inches


@dataclasses.dataclass(frozen=True, eq=False)
class Shares:
    """A row: the shares of several cases, and the range that they are to lie in (nan: none)."""

    name: str
    target: tuple[float, float]
    labels: Sequence[str]
    estimate: Float[np.ndarray, " case"]
    low: Float[np.ndarray, " case"]
    high: Float[np.ndarray, " case"]
    missed: Bool[np.ndarray, " case"]


def shares_against_targets(rows: Sequence[Shares], *, x_label: str) -> Figure:
    """A row an estimator, a mark a case, a green band the target; cases that miss it are red and named."""
    with _style():
        heights = np.array([_MARK_HEIGHT * (len(row.labels) + 3) for row in rows])
        figure = _figure(width=9, height=float(heights.sum()) + 0.7)
        ax = figure.subplots()
        tops = np.cumsum(heights) - heights
        lowest = min(0.9, min(float(row.low.min()) for row in rows) - 0.01)
        for row, top, height in zip(rows, tops, heights, strict=True):
            middle = top + height / 2
            if not np.isnan(row.target[0]):
                low, high = row.target
                # a target of one point is a line
                ax.fill_betweenx(
                    [top + 0.05, top + height - 0.05], low - 0.0005, high + 0.0005, color="#CDE8DC", linewidth=0
                )
            ys = top + _MARK_HEIGHT * (np.arange(len(row.labels)) + 2)
            for y, label, estimate, a, b, missed in zip(
                ys, row.labels, row.estimate, row.low, row.high, row.missed, strict=True
            ):
                colour = OUTCOME_COLOURS["refuted"] if missed else _INK
                ax.plot([a, b], [y, y], color=colour, linewidth=1.2)
                ax.plot([estimate], [y], "o", markersize=3.2, color=colour)
                if missed:
                    # where no other case of the row has its mark: beyond all of them on the left, or right of its own
                    right = estimate < 0.93
                    ax.annotate(
                        label,
                        (b if right else min(float(row.low.min()), a), y),
                        xytext=(4 if right else -4, 0),
                        textcoords="offset points",
                        ha="left" if right else "right",
                        va="center",
                        fontsize=9,
                        color=colour,
                    )
            ax.text(-0.01, middle, row.name, transform=ax.get_yaxis_transform(), ha="right", va="center")
            ax.axhline(top + height, color="#E4E4E4", linewidth=0.7, zorder=0)
        ax.set_xlim(lowest, 1.004)
        ax.set_ylim(float(heights.sum()), 0)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %", decimals=0))
        ax.set_xlabel(x_label)
        return figure


@dataclasses.dataclass(frozen=True, eq=False)
class Phases:
    """One configuration's steps from one evaluation to the next: what changed the loss, and the accuracy."""

    title: str
    begin: Float[np.ndarray, " phase"]  # epochs
    end: Float[np.ndarray, " phase"]
    contributions: Mapping[Cell, Float[np.ndarray, " phase"]]  # nats; they add up to the change in loss
    loss_low: Float[np.ndarray, " bound"]  # of the change in loss; none in tables that were written without
    loss_high: Float[np.ndarray, " bound"]
    accuracy: Float[np.ndarray, " phase"]
    accuracy_low: Float[np.ndarray, " phase"]
    accuracy_high: Float[np.ndarray, " phase"]


def cells_by_phase(columns: Sequence[Phases]) -> Figure:
    """Stacked contributions to ΔL of each phase above its ΔA, a column a configuration; time on a log scale."""
    with _style():
        figure = _figure(width=9, height=4.9)
        axes = figure.subplots(
            2, len(columns), sharex="col", sharey="row", squeeze=False, gridspec_kw={"height_ratios": (2.2, 1)}
        )
        for (top, bottom), column in zip(axes.T, columns, strict=True):
            # phases are even on a log scale but for the first, which begins at 0
            x = np.arange(len(column.end))
            for sign in (-1, 1):
                base = np.zeros(len(x))
                for cell, values in column.contributions.items():
                    part = np.where(sign * values > 0, values, 0.0)
                    top.bar(x, part, 0.82, bottom=base, color=CELL_COLOURS[cell], linewidth=0)
                    base = base + part
            top.plot(x, np.sum(list(column.contributions.values()), axis=0), "o", color="#222222", markersize=3)
            if len(column.loss_low):
                top.vlines(x, column.loss_low, column.loss_high, color="#222222", linewidth=1)
            bottom.bar(x, column.accuracy, 0.82, color="#8C8C8C", linewidth=0)
            bottom.vlines(x, column.accuracy_low, column.accuracy_high, color="#222222", linewidth=1)
            for ax in (top, bottom):
                ax.axhline(0, color="#444444", linewidth=0.8)
            shown = np.arange(len(x) - 1, -1, -4)[::-1]
            bottom.set_xticks(shown, [f"{float(f'{column.end[at]:.2g}'):g}" for at in shown])
            bottom.set_xlabel("until epoch")
            top.set_title(textwrap.fill(column.title, 22))
        axes[0, 0].set_ylabel("change in loss (nats)")
        axes[1, 0].set_ylabel("change in\naccuracy")
        axes[1, 0].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" pp", decimals=0))
        figure.align_ylabels()
        handles = [Patch(color=CELL_COLOURS[cell], label=cell) for cell in columns[0].contributions]
        figure.legend(handles=handles, loc="outside upper left", ncols=4, handlelength=1, frameon=False)
        return figure


def below_the_argmax(
    probability: Float[np.ndarray, " point"],
    loss: Float[np.ndarray, " point"],
    case: tuple[float, float],
    *,
    edges: Float[np.ndarray, " edge"],
    counts: Float[np.ndarray, "before after"],
    contributions: Mapping[Cell, float],
) -> Figure:
    """Left: one example's loss by its probability, and the case. Right: examples before and after, of two classes.

    ``counts`` are examples in bins between ``edges`` of the true class's probability; ``contributions`` to ΔL (nats)
    are written into the quadrants, as shares of it.
    """
    with _style():
        figure = _figure(width=9, height=4.4)
        left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1, 1.3)})
        left.axvspan(0.5, 1, color="#EAF3F8", linewidth=0)
        left.plot(probability, loss, color=_INK)
        left.set_xlim(0, 1)
        left.set_ylim(0, 2.6)
        for x, text in ((0.25, "wrong"), (0.75, "right")):
            left.text(x, 0.08, text, ha="center", color="#555555")
        before, after = case
        arrow = {"arrowstyle": "-|>", "color": CELL_COLOURS["wrong→wrong"], "linewidth": 1.8}
        left.annotate("", (after, -math.log(after)), (before, -math.log(before)), arrowprops=arrow)
        for p in case:
            left.plot([p], [-math.log(p)], "o", color=CELL_COLOURS["wrong→wrong"])
        left.annotate(
            f"{before:.2f} → {after:.2f}:\nloss −{math.log(after / before):.2f} nats,\nstill wrong",
            ((before + after) / 2, -math.log((before + after) / 2)),
            xytext=(0.98, 2.2),
            ha="right",
            va="center",
            arrowprops={"arrowstyle": "-", "color": "#888888", "linewidth": 0.8, "shrinkB": 4},
        )
        left.set_xlabel("probability of the true class")
        left.set_ylabel("loss (nats)")
        left.set_title("One example of two classes")

        shown = np.where(counts > 0, counts, np.nan)
        image = right.pcolormesh(edges, edges, shown.T, norm=LogNorm(), cmap="Greys", rasterized=True)
        right.axhline(0.5, color="#222222", linewidth=0.8)
        right.axvline(0.5, color="#222222", linewidth=0.8)
        right.plot([0, 1], [0, 1], color="#888888", linewidth=0.8, linestyle=(0, (4, 3)))
        total = sum(contributions.values())
        corners: Mapping[Cell, tuple[float, float, str, str]] = {
            "right→right": (0.98, 0.52, "right", "bottom"),
            "right→wrong": (0.98, 0.02, "right", "bottom"),
            "wrong→right": (0.02, 0.98, "left", "top"),
            "wrong→wrong": (0.48, 0.02, "right", "bottom"),
        }
        for cell, (x, y, across, up) in corners.items():
            share = f"{100 * contributions[cell] / total:+.0f} % of the drop".replace("-", "−")
            right.text(
                x,
                y,
                f"{cell.replace('→', ' → ')}\n{share}",
                ha=across,
                va=up,
                fontsize=9,
                bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5},
            )
        right.plot([before], [after], "o", markersize=7, markerfacecolor="none", color="#222222")
        right.set_aspect("equal")
        right.set_xlabel("probability of the true class before")
        right.set_ylabel("after")
        right.set_title("Held-out examples while accuracy is flat")
        figure.colorbar(image, ax=right, label="examples", shrink=0.85)
        return figure


@dataclasses.dataclass(frozen=True, eq=False)
class RegimesOverTime:
    """The share of one configuration's runs in each regime, by where in training the window begins."""

    row: str
    column: str
    begin: Float[np.ndarray, " window"]  # fraction of training
    shares: Mapping[str, Float[np.ndarray, " window"]]  # letter → share; each window's add up to 1
    diverged: Intervals  # [window] of the share of P, O, K and S together, which are stacked first


def regimes_along_training(panels: Sequence[RegimesOverTime], *, x_label: str) -> Figure:
    """Stacked shares of runs by regime, a panel a configuration, in rows and columns by their names.

    Whiskers have the interval of the share that diverges: of one regime within a stack it would stand nowhere.
    """
    with _style():
        rows = list(dict.fromkeys(panel.row for panel in panels))
        columns = list(dict.fromkeys(panel.column for panel in panels))
        figure = _figure(width=9, height=1.0 + 1.55 * len(rows))
        axes = figure.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
        used = [letter for letter in REGIMES if any(np.any(panel.shares[letter] > 0) for panel in panels)]
        for panel in panels:
            ax = axes[rows.index(panel.row), columns.index(panel.column)]
            width = float(np.diff(panel.begin).min())
            base = np.zeros(len(panel.begin))
            for letter in used:
                ax.bar(
                    panel.begin,
                    panel.shares[letter],
                    width,
                    bottom=base,
                    align="center",
                    color=REGIMES[letter][1],
                    linewidth=0.3,
                    edgecolor="white",
                )
                base = base + panel.shares[letter]
            share = panel.diverged
            reach = [share.estimate - share.low, share.high - share.estimate]
            ax.errorbar(panel.begin, share.estimate, reach, fmt="none", ecolor="black", elinewidth=0.8)
            ax.set_ylim(0, 1)
            ax.margins(x=0)
            ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
            ax.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        for name, ax in zip(columns, axes[0], strict=True):
            ax.set_title(name)
        for name, ax in zip(rows, axes[:, 0], strict=True):
            ax.set_ylabel(textwrap.fill(name, 18))
        figure.supxlabel(x_label, fontsize=10)
        handles = [Patch(color=REGIMES[letter][1], label=f"{letter}  {REGIMES[letter][0]}") for letter in used]
        figure.legend(handles=handles, loc="outside upper left", ncols=4, handlelength=1, frameon=False)
        return figure


@dataclasses.dataclass(frozen=True, eq=False)
class OnsetCurve:
    """The share of a group's runs with onset at or before a step, and what became of the others."""

    label: str
    steps: Float[np.ndarray, " step"]
    share: Float[np.ndarray, " step"]
    low: Float[np.ndarray, " step"]
    high: Float[np.ndarray, " step"]
    censored: float  # share without onset by the last step
    nonfinite: float = 0.0  # share that stopped being finite first


def onset_curves(
    groups: Sequence[OnsetCurve], *, x_label: str = "step", log_x: bool = False, title: str = ""
) -> Figure:
    """The share of runs in which onset has come by each step; under each label, the share in which it never came."""
    with _style():
        figure = _figure(width=9, height=4.4)
        ax = figure.subplots()
        texts = []
        for index, group in enumerate(groups):
            colour = PALETTE[index % len(PALETTE)]
            ax.step(group.steps, group.share, where="post", color=colour, label=group.label)
            ax.fill_between(group.steps, group.low, group.high, step="post", color=colour, alpha=0.18, linewidth=0)
            fate = f"none by the end: {_percent(group.censored)}"
            if group.nonfinite:
                fate += f"\nnon-finite first: {_percent(group.nonfinite)}"
            texts.append(end_label(ax, f"{group.label}\n{fate}", group.share[-1], colour))
        # from nothing to the tenth above all bands: most curves stay far below the half
        highest = max((float(group.high.max()) for group in groups), default=1.0)
        ax.set_ylim(0, min(1.0, 0.1 * math.ceil(10 * highest)))
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %", decimals=0))
        ax.set_ylabel("runs with onset")
        ax.set_xlabel(x_label)
        ax.set_title(title)
        if log_x:
            _set_log_x(ax, [group.steps for group in groups])
        return separate(figure, [(ax, texts)])
