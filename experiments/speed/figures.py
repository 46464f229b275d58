"""The benchmark's figures, from the tables of its findings alone."""

import importlib.resources
from collections.abc import Mapping
from typing import Any, Final

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

import lossjax as lj
from lossjax.analysis.tables import with_bounds
from lossjax.reports.plots import PALETTE
from speed.findings import CUDNN, VARIABLES, over_torch
from speed.sections import ALL_THREADS, LOOP, OURS, PER_CORE, PLAIN, TORCH_VMAP
from speed.workloads import WORKLOADS

Table = Mapping[str, np.ndarray]
_COLOURS: Final = dict(zip((OURS, PER_CORE, PLAIN, ALL_THREADS, LOOP, TORCH_VMAP, CUDNN), PALETTE, strict=True))
_MARKERS: Final = {OURS: "o", PER_CORE: "s", PLAIN: "D", ALL_THREADS: "^", LOOP: "v", TORCH_VMAP: "P", CUDNN: "s"}
_GREY = "#767676"


def plot(findings: lj.Findings) -> dict[str, lj.Figure]:
    """Figures by file name: those whose table was measured."""
    tables = findings.tables
    drawn = {}
    style = str(importlib.resources.files("lossjax.reports") / "lossjax.mplstyle")
    with matplotlib.style.context(style, after_reset=True):
        if "runs" in tables:
            drawn["gain"] = lj.Figure(
                _gain(tables["steps"], tables["runs"], findings.numbers),
                "Left: the time of a member-step, and F / F_peak + S / S_peak of BENCHMARKS.md, its arithmetic at the "
                "rates of the machine (grey bar). "
                "Right: whole runs a second (train, evaluate each epoch, store), in units of "
                "PyTorch with one process a core. Logarithmic; lines are the range of the repetitions.",
            )
        if "scale" in tables:
            drawn["scaling"] = lj.Figure(
                _scaling(tables["scale"], findings.numbers),
                "How the cost grows with members (W1, whole population), hidden size, time steps and classes (LSTM "
                "16→32, a member-step), with fitted exponents; and peak memory against members.",
            )
        if "gpu" in tables:
            drawn["gpu"] = lj.Figure(
                _gpu(tables["gpu"]), "Whole runs a second on one GPU against cuDNN's LSTM, one run after another."
            )
    return drawn


def _gain(steps: Table, runs: Table, numbers: Mapping[str, lj.Interval]) -> Figure:
    names = list(dict.fromkeys(runs["workload"].tolist()))
    figure = _figure(9, 1.7 + 0.46 * len(names))
    left, right = figure.subplots(1, 2, sharey=True)
    for row, name in enumerate(names):
        here = steps["workload"] == name
        for arm in (PLAIN, OURS):
            _dot(left, steps, here & (steps["arm"] == arm), "us_per_member_step", row, arm)
        ours = float(steps["us_per_member_step"][here & (steps["arm"] == OURS)][0])
        limit = ours * numbers[f"{name}: η"].estimate
        left.plot([limit, limit], [row - 0.28, row + 0.28], color=_GREY, linewidth=3, solid_capstyle="butt")
        left.annotate(
            f"η {numbers[f'{name}: η'].estimate:.2f}",
            (limit, row - 0.28),
            xytext=(0, 1),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=_GREY,
        )
        here = runs["workload"] == name
        unit = float(runs["runs_per_second"][here & (runs["arm"] == PER_CORE)][0])
        for arm in reversed(_COLOURS):
            if arm != OURS and (here & (runs["arm"] == arm)).any():
                _dot(right, runs, here & (runs["arm"] == arm), "runs_per_second", row, arm, unit)
        gain = numbers[over_torch(name)]  # by repetitions, so not the ratio of the two medians
        _mark(right, OURS, row, gain.estimate, gain.low, gain.high)
        right.annotate(
            f"{gain.estimate:.2g}×",
            (gain.high, row),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
            weight="bold",
            color=_COLOURS[OURS],
        )
    labels = {name: runs["label"][runs["workload"] == name][0] for name in names}
    left.set_yticks(range(len(names)), [labels[name] for name in names])
    left.set_ylim(len(names) - 0.5, -0.6)
    for ax in (left, right):
        _log_x(ax)
        ax.grid(axis="y", color="#EEEEEE", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
    right.axvline(1, color="#444444", linewidth=0.9, zorder=1)
    right.margins(x=0.16)
    left.set_xlabel("µs a member-step (less: better)")
    right.set_xlabel("whole runs a second, PyTorch = 1 (more: better)")
    _legend(figure, [arm for arm in _COLOURS if arm in {*steps["arm"].tolist(), *runs["arm"].tolist()}])
    return figure


def _scaling(scale: Table, numbers: Mapping[str, lj.Interval]) -> Figure:
    shown = [variable for variable in VARIABLES if (scale["variable"] == variable).any()]
    figure = _figure(9, 5.2)
    panels = list(figure.subplots(2, 3).flat)
    for ax, variable in zip(panels, shown, strict=False):
        here = scale["variable"] == variable
        x = scale["value"][here]
        total = x / 1e6 if variable == "members" else 1.0
        y, low, high = (scale[key][here] * total for key in with_bounds("us_per_member_step"))
        ax.errorbar(x, y, [y - low, high - y], color=_COLOURS[OURS], marker="o", markersize=5, linewidth=1.4)
        _log_log(ax, x)
        fitted = numbers.get(f"exponent of the cost in {VARIABLES[variable]}")
        ax.set_title("" if fitted is None else f"exponent {_interval(fitted)}")
        ax.set_xlabel(VARIABLES[variable])
        ax.set_ylabel("s for a step of all members" if variable == "members" else "µs a member-step")
    here = scale["variable"] == "members"
    flat, memory = panels[-2:]
    x = scale["value"][here]
    flat.plot(x, 1e6 / scale["us_per_member_step"][here], color=_COLOURS[OURS], marker="o", markersize=5)
    flat.set_ylabel("member-steps a second")
    flat.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    memory.plot(x, scale["peak_gib"][here], color=_COLOURS[OURS], marker="o", markersize=5)
    memory.set_ylabel("peak memory (GiB)")
    for ax in (flat, memory):
        _log_x(ax, x)
        ax.set_ylim(0, 1.08 * ax.get_ylim()[1])
        ax.set_xlabel("members")
    return figure


def _gpu(gpu: Table) -> Figure:
    names = [name for name in WORKLOADS if (gpu["workload"] == name).any()]
    figure = _figure(9, 3.7)
    for ax, arm in zip(figure.subplots(1, 2, sharey=True), (OURS, CUDNN), strict=True):
        for colour, name in zip(PALETTE, names, strict=False):
            here = (gpu["workload"] == name) & (gpu["arm"] == arm)
            ax.plot(gpu["members"][here], gpu["runs_per_second"][here], marker="o", color=colour, label=name)
        _log_log(ax, gpu["members"])
        ax.set_title(arm)
        ax.set_xlabel("members")
    figure.axes[0].set_ylabel("whole runs a second")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=7, frameon=False)
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no window, no pyplot
    return figure


def _dot(ax: Any, table: Table, here: np.ndarray, column: str, row: int, arm: str, unit: float = 1.0) -> None:
    _mark(ax, arm, row, *(float(table[key][here][0]) / unit for key in with_bounds(column)))


def _mark(ax: Any, arm: str, row: int, value: float, low: float, high: float) -> None:
    front = 4 if arm == OURS else 3
    ax.plot([low, high], [row, row], color=_COLOURS[arm], linewidth=1.6, zorder=front)
    ax.plot([value], [row], _MARKERS[arm], color=_COLOURS[arm], markersize=9 if arm == OURS else 6, zorder=front)


def _legend(figure: Figure, arms: list[str]) -> None:
    ax = figure.axes[0]
    handles = [ax.plot([], [], _MARKERS[arm], color=_COLOURS[arm], label=arm)[0] for arm in arms]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False, handlelength=1)


def _interval(interval: lj.Interval) -> str:
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]".replace("-", "−")


def _log_log(ax: Any, x: np.ndarray) -> None:
    _log_x(ax, x)
    ax.set_yscale("log")
    _label_log(ax.yaxis)


def _log_x(ax: Any, ticks: np.ndarray | None = None) -> None:
    ax.set_xscale("log")
    ax.margins(x=0.06)
    _label_log(ax.xaxis)
    if ticks is not None:
        ax.set_xticks(np.unique(ticks))
        ax.set_xticks([], minor=True)


def _label_log(axis: Any) -> None:
    """Plain numbers, at 2 and 5 too where there is room for them."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    low, high = axis.get_view_interval()
    axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:,g}" if high < 60 * low else ""))
