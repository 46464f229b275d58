"""Figures of remedies and of rules for stopping: dose and response, onset by dose, scorecards, what a rule keeps.

As in ``plots``, whose style and colours they share, every function draws what it is given and computes no statistic.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from lossjax.analysis.interval import Interval
from lossjax.analysis.tables import with_bounds
from lossjax.reports.labels import end_label, separate
from lossjax.reports.plots import OUTCOME_COLOURS, PALETTE, _draw_interval, _figure, _style

_INK: Final = "#333333"
_GREY: Final = "#767676"
_MARKERS: Final = "osD^v"
# an outcome's colour, pale enough to write on
_PALE: Final = {"supported": "#CDE8DC", "refuted": "#F6D9C6", "in part": "#D3E5F2", "unresolved": "#EBEBEB"}


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """One data set's response to the doses of a remedy; ``worse`` doses are hollow."""

    label: str
    estimate: Float[np.ndarray, " dose"]
    low: Float[np.ndarray, " dose"]
    high: Float[np.ndarray, " dose"]
    worse: Bool[np.ndarray, " dose"]


@dataclasses.dataclass(frozen=True, eq=False)
class Remedy:
    """A column: doses by name, which of them is the baseline, and measure → a line a data set."""

    title: str
    x_label: str
    doses: Sequence[str]
    baseline: int
    responses: Mapping[str, Sequence[Line]]


class Heading(NamedTuple):
    """What is written about a remedy: its title, what a dose is, the dose of the baseline, and the doses' names."""

    title: str
    x_label: str
    baseline: float
    names: Mapping[float, str]


def remedy_of(
    table: Mapping[str, np.ndarray], key: str, heading: Heading, places: Mapping[str, str], measures: Sequence[str]
) -> Remedy:
    """The column of one remedy from ``analysis.doses.dose_table``; ``places`` are those shown, with their labels."""
    own = table["remedy"] == key
    levels = np.unique(table["dose"][own])

    def lines(measure: str) -> list[Line]:
        rows = {label: own & (table["place"] == place) for place, label in places.items()}
        columns = (*with_bounds(measure), "worse")
        return [Line(label, *(table[name][mine] for name in columns)) for label, mine in rows.items() if mine.any()]

    return Remedy(
        heading.title,
        heading.x_label,
        [heading.names[dose] for dose in levels.tolist()],
        int(np.flatnonzero(levels == heading.baseline)[0]),
        {measure: lines(measure) for measure in measures},
    )


def dose_response(remedies: Sequence[Remedy], measures: Mapping[str, str]) -> Figure:
    """A column a remedy, a row a measure (name → label of its axis), a line a data set; doses evenly spaced.

    Losses are on a log scale, shares from 0 to 1. The dotted line stands at the baseline. A measure that is nan at some
    dose is not defined there, which is written.
    """
    with _style():
        figure = _figure(width=9, height=1.0 + 1.75 * len(measures))
        axes = figure.subplots(len(measures), len(remedies), sharex="col", sharey="row", squeeze=False)
        labels = list(dict.fromkeys(one.label for r in remedies for lines in r.responses.values() for one in lines))
        for remedy, column in zip(remedies, axes.T, strict=True):
            for measure, ax in zip(measures, column, strict=True):
                ax.axvline(remedy.baseline, color="#AAAAAA", linewidth=0.9, linestyle=(0, (1, 2)), zorder=0)
                lines = remedy.responses[measure]
                if any(np.isnan(line.estimate).any() for line in lines):
                    place = {"transform": ax.transAxes, "ha": "center", "va": "center", "fontsize": 9, "color": _GREY}
                    ax.text(0.45, 0.5, "not defined", **place)
                for line in lines:
                    index = labels.index(line.label)
                    # beside one another, so that intervals are told apart
                    x = np.arange(len(remedy.doses)) + 0.08 * (index - (len(labels) - 1) / 2)
                    _draw_line(ax, x, line, index)
                ax.margins(x=0.08)
            column[0].set_title(remedy.title, fontsize=10)
            column[-1].set_xticks(range(len(remedy.doses)), remedy.doses)
            column[-1].set_xlabel(remedy.x_label)
        for (measure, label), ax in zip(measures.items(), axes[:, 0], strict=True):
            ax.set_ylabel(label)
            if measure == "loss_end":
                ax.set_yscale("log")
                ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
                ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                ax.yaxis.set_minor_formatter(NullFormatter())
            elif measure in ("onset", "parted"):
                ax.set_ylim(-0.03, 1.03)
                ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
            elif measure.startswith("accuracy"):
                ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %", decimals=0))
            if measure in ("loss_paid", "accuracy_gained"):
                for other in axes[list(measures).index(measure)]:
                    other.axhline(0, color="#444444", linewidth=0.8, zorder=0)
        figure.align_ylabels()
        handles = [
            Line2D([], [], color=PALETTE[n], marker=_MARKERS[n % len(_MARKERS)], markersize=4.5, label=label)
            for n, label in enumerate(labels)
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=4, handlelength=1.8, frameon=False)
        return figure


def _draw_line(ax: Axes, x: np.ndarray, line: Line, index: int) -> None:
    colour = PALETTE[index]
    ax.plot(x, line.estimate, color=colour, linewidth=1.2)
    ax.vlines(x, line.low, line.high, color=colour, linewidth=1)
    for at, value, worse in zip(x, line.estimate, line.worse, strict=True):
        ax.plot(
            [at],
            [value],
            _MARKERS[index % len(_MARKERS)],
            markersize=4.5,
            color=colour,
            markerfacecolor="white" if worse else colour,
        )


Band = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x, share, low, high


@dataclasses.dataclass(frozen=True, eq=False)
class Onsets:
    """A panel: the share of runs with onset by each part of training, a curve a dose."""

    title: str
    baseline: str  # the dose that is drawn in black
    curves: Mapping[str, Band]  # in the order of the doses


def onsets_of(table: Mapping[str, np.ndarray], key: str, place: str, heading: Heading) -> Onsets:
    """The panel of one remedy and place from ``analysis.doses.onset_table``; no curves where it has none."""
    own = (table["remedy"] == key) & (table["place"] == place)
    bands: dict[str, Band] = {}
    for dose in np.unique(table["dose"][own]).tolist():
        mine = own & (table["dose"] == dose)
        x, share, low, high = (table[column][mine] for column in ("progress", *with_bounds("share")))
        bands[heading.names[dose]] = (x, share, low, high)
    return Onsets(heading.title.replace("\n", " "), heading.names[heading.baseline], bands)


def onsets(panels: Sequence[Onsets], *, columns: int = 3) -> Figure:
    """Onset curves by dose, a panel a remedy; the darker, the higher the dose, which stands at the end of its curve."""
    with _style():
        rows = -(-len(panels) // columns)
        figure = _figure(width=9, height=0.6 + 2.3 * rows)
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        labels = []
        for panel, ax in zip(panels, axes.flat, strict=False):
            others = [dose for dose in panel.curves if dose != panel.baseline]
            shades = colormaps["plasma"](np.linspace(0.75, 0.1, len(others)))
            colours = {dose: to_hex(shade) for dose, shade in zip(others, shades, strict=True)}
            colours[panel.baseline] = "#000000"
            for dose, (x, share, low, high) in panel.curves.items():
                ax.fill_between(x, low, high, step="post", color=colours[dose], alpha=0.12, linewidth=0)
                width = 2.4 if dose == panel.baseline else 1.6
                ax.step(x, share, where="post", color=colours[dose], linewidth=width)
            ends = [end_label(ax, dose, band[1][-1], colours[dose]) for dose, band in panel.curves.items()]
            labels.append((ax, ends))
            ax.set_title(panel.title)
            ax.tick_params(labelbottom=True)
        for ax in axes.flat[len(panels) :]:
            ax.set_visible(False)
        highest = max(float(band[3].max()) for panel in panels for band in panel.curves.values())
        axes[0, 0].set_ylim(0, min(1.0, 0.1 * np.ceil(10 * highest)))
        axes[0, 0].set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        axes[0, 0].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %", decimals=0))
        for ax in axes[:, 0]:
            ax.set_ylabel("runs with onset")
        figure.supxlabel("share of training done", fontsize=10)
        return separate(figure, labels)


Told = tuple[str, Literal["", "pp"]]  # the column of a table, and its unit


def differences(table: Mapping[str, np.ndarray], row: int, named: Mapping[str, Told]) -> list[str]:
    """Lines of a scorecard's cell, one a name, from a row of a table with intervals; shares are told in points."""
    lines = []
    for name, (column, unit) in named.items():
        scale, decimals = (100, 0) if unit == "pp" else (1, 3)
        estimate, low, high = (_signed(scale * float(table[each][row]), decimals) for each in with_bounds(column))
        lines.append(f"{name} {estimate} [{low}, {high}] {unit}".rstrip())
    return lines


def _signed(value: float, decimals: int) -> str:
    """With its sign, unless it rounds to 0."""
    text = f"{value:+.{decimals}f}".replace("-", "−")
    return text if float(f"{value:.{decimals}f}") else text[1:]


def scorecard(
    rows: Mapping[str, str], columns: Sequence[str], cells: Mapping[tuple[str, str], tuple[str, str]]
) -> Figure:
    """A table of outcomes: rows name → label; (row, column) → (text, outcome), which gives the colour.

    What is not among the cells was not tested.
    """
    with _style():
        lines = 1 + max(text.count("\n") for text, _ in cells.values())
        figure = _figure(width=9, height=1.1 + (0.26 + 0.16 * lines) * len(rows))
        ax = figure.subplots()
        for y, row in enumerate(rows):
            for x, column in enumerate(columns):
                text, outcome = cells.get((row, column), ("not tested", ""))
                ax.add_patch(
                    Rectangle(
                        (x - 0.49, y - 0.46),
                        0.98,
                        0.92,
                        facecolor=_PALE.get(outcome, "#F7F7F7"),
                        linewidth=0,
                        clip_on=False,
                    )
                )
                ax.text(x, y - 0.16 * bool(outcome), text, ha="center", va="center", fontsize=8, color=_INK)
                ax.text(
                    x,
                    y + (0.22 if lines == 1 else 0.32),
                    outcome,
                    ha="center",
                    va="center",
                    fontsize=9,
                    color=OUTCOME_COLOURS.get(outcome, _INK),
                    weight="bold",
                )
        ax.set_xlim(-0.5, len(columns) - 0.5)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_xticks(range(len(columns)), columns, fontsize=10)
        ax.xaxis.tick_top()
        ax.set_yticks(range(len(rows)), list(rows.values()), fontsize=10)
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
        return figure


@dataclasses.dataclass(frozen=True, eq=False)
class Mean:
    """A curve of means with its interval band."""

    x: Float[np.ndarray, " eval"]
    y: Float[np.ndarray, " eval"]
    low: Float[np.ndarray, " eval"]
    high: Float[np.ndarray, " eval"]


@dataclasses.dataclass(frozen=True)
class Stop:
    """When a rule stops, as a share of training: the mean, and the range of most runs."""

    rule: str
    mean: float
    low: float
    high: float


_LOSS_COLOURS: Final = (_INK, "#9A9A9A")  # colours are for the rules


def stopping_times(panels: Mapping[str, tuple[Mapping[str, Mean], Mean, Sequence[Stop]]]) -> Figure:
    """A column a data set: losses by name, accuracy, and below when each rule stops; one axis of training done."""
    with _style():
        figure = _figure(width=9, height=5.6)
        axes = figure.subplots(3, len(panels), sharex=True, squeeze=False, gridspec_kw={"height_ratios": (1.5, 1, 0.8)})
        for (title, (losses, accuracy, stops)), (top, middle, bottom) in zip(panels.items(), axes.T, strict=True):
            for colour, curve in zip(_LOSS_COLOURS, losses.values(), strict=False):
                _draw_mean(top, curve, colour)
            # what follows the best, at a size at which it is seen; the way down to it is cut off
            lowest = min(float(curve.y.min()) for curve in losses.values())
            highest = max(float(curve.y[curve.y.argmin() :].max()) for curve in losses.values())
            span = max(highest - lowest, 0.15 * lowest)
            top.set_ylim(lowest - 0.12 * span, lowest + 1.15 * span)
            _draw_mean(middle, accuracy, _INK)
            high = float(accuracy.y.max())
            span = max(2 * (high - float(accuracy.y[-1])), 0.08)
            middle.set_ylim(high - span, high + 0.15 * span)
            middle.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            middle.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %", decimals=0))
            for y, stop in enumerate(stops):
                bottom.plot([stop.low, stop.high], [y, y], color=PALETTE[y], linewidth=2)
                bottom.plot([stop.mean], [y], "o", color=PALETTE[y], markersize=5)
                for ax in (top, middle):
                    ax.axvline(stop.mean, color=PALETTE[y], linewidth=0.9, linestyle=(0, (3, 2)), zorder=0)
            bottom.set_ylim(len(stops) - 0.5, -0.5)
            bottom.set_yticks(range(len(stops)), [stop.rule for stop in stops] if bottom is axes[2, 0] else [])
            bottom.tick_params(axis="y", length=0)
            bottom.set_xlim(0, 1)
            bottom.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
            top.set_title(title.replace(", ", ",\n"), fontsize=10)
        axes[0, 0].set_ylabel("loss (nats)")
        axes[1, 0].set_ylabel("test accuracy")
        axes[2, 0].set_ylabel("stopped by\nvalidation …")
        figure.supxlabel("share of training done", fontsize=10)
        names = next(iter(panels.values()))[0]
        handles = [Line2D([], [], color=colour, label=name) for colour, name in zip(_LOSS_COLOURS, names, strict=False)]
        figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False)
        return figure


def _draw_mean(ax: Axes, curve: Mean, colour: str) -> None:
    ax.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.25, linewidth=0)
    ax.plot(curve.x, curve.y, color=colour)


@dataclasses.dataclass(frozen=True, eq=False)
class Judge:
    """A panel: what rules are worth by one measure, by (group, rule), as differences from one rule."""

    title: str
    unit: str  # "nats" or "pp"; in points, differences of shares are shown times 100
    lower_is_better: bool
    rows: Mapping[tuple[str, str], Interval]


def judged_rules(judges: Sequence[Judge], groups: Sequence[str], rules: Sequence[str]) -> Figure:
    """A forest plot a judge, side by side: rows are rules within groups; better green, worse red, unresolved grey.

    An axis reaches to the widest difference but those of the last rule, whose marks become arrows where they exceed it.
    """
    with _style():
        lines = [(group, rule) for group in groups for rule in ("", *rules)]
        figure = _figure(width=9, height=0.9 + 0.2 * len(lines))
        axes = figure.subplots(1, len(judges), sharey=True, squeeze=False)[0]
        for judge, ax in zip(judges, axes, strict=True):
            near = [interval for (_, rule), interval in judge.rows.items() if rule != rules[-1]]
            reach = 1.15 * max(max(abs(one.low), abs(one.high)) for one in near)
            scale = 100 if judge.unit == "pp" else 1
            ax.axvline(0, color="#444444", linewidth=0.9)
            ax.set_xlim(-reach, reach)
            for y, (group, rule) in enumerate(lines):
                if not rule:
                    if y:
                        ax.axhline(y - 0.5, color="#E4E4E4", linewidth=0.8)
                    continue
                interval = judge.rows[group, rule]
                colour = _judged_colour(interval, lower_is_better=judge.lower_is_better)
                if abs(interval.estimate) > 0.95 * reach:  # its mark would be cut
                    sign = np.sign(interval.estimate)
                    ax.annotate(
                        "",
                        (0.99 * sign * reach, y),
                        (0.8 * sign * reach, y),
                        arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.5},
                    )
                    ax.text(
                        0.77 * sign * reach,
                        y,
                        f"{scale * interval.estimate:+.2g}".replace("-", "−"),
                        ha="right" if sign > 0 else "left",
                        va="center",
                        fontsize=9,
                        color=colour,
                    )
                    continue
                _draw_interval(ax, y, interval, colour)
            ax.set_title(judge.title)
            ax.set_xlabel(f"difference ({judge.unit})")
            ax.xaxis.set_major_locator(MaxNLocator(4))
            if scale == 100:
                ax.xaxis.set_major_formatter(PercentFormatter(1.0, symbol="", decimals=1))
            ax.tick_params(axis="y", length=0)
            ax.spines["left"].set_visible(False)
        axes[0].set_ylim(len(lines) - 0.5, -0.5)
        axes[0].set_yticks(range(len(lines)), [rule or group for group, rule in lines])
        for text, (_, rule) in zip(axes[0].get_yticklabels(), lines, strict=True):
            if not rule:
                text.set_weight("bold")
        handles = [
            Patch(color=OUTCOME_COLOURS["supported"], label="better than by validation loss"),
            Patch(color=OUTCOME_COLOURS["refuted"], label="worse"),
            Patch(color=_GREY, label="unresolved"),
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=3, handlelength=1, frameon=False)
        return figure


def _judged_colour(interval: Interval, *, lower_is_better: bool) -> str:
    if not interval.excludes(0.0):
        return _GREY
    better = (interval.estimate < 0) == lower_is_better
    return OUTCOME_COLOURS["supported" if better else "refuted"]
