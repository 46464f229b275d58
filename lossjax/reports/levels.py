"""Levels to compare with: dashed lines across an axis with their names, also where they lie far beyond the rest."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from matplotlib.axes import Axes

GREY: Final = "#767676"
SMALL: Final[dict[str, Any]] = {"color": GREY, "fontsize": 8}
DASHED: Final[dict[str, Any]] = {"color": GREY, "linewidth": 0.9, "linestyle": (0, (4, 3)), "zorder": 1}


def nats(value: float) -> str:
    return f"{value:.2f}"


def percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def points(difference: float) -> str:
    return f"{100 * difference:+.0f} points".replace("-", "−")


def draw_levels(
    ax: Axes, levels: Mapping[str, float], axis: Literal["x", "y"], spelled: Callable[[float], str]
) -> None:
    """Dashed lines across an axis, with their names. To be called when everything else is drawn.

    A level beyond the picture, which would squeeze all else, stands past a break of the axis: on its side and in its
    order, with its value for want of a scale.
    """
    horizontal = axis == "y"
    low, high = ax.get_ylim() if horizontal else ax.get_xlim()
    near = 0.3 * (high - low)  # for so little the axis is made longer
    room = 0.12 * (high - low)  # for the name of a line at the edge
    close = [level for level in levels.values() if low - near <= level <= high + near]
    low, high = min([low, *close]), max([high, *(level + room for level in close)])
    ticks = [tick for tick in (ax.get_yticks() if horizontal else ax.get_xticks()) if low <= tick <= high]
    ordered = sorted(levels.items(), key=lambda item: item[1])
    before = [name for name, level in ordered if level < low]
    after = [name for name, level in ordered if level > high]
    step, gap = (0.17 if horizontal else 0.22) * (high - low), 0.12 * (high - low)
    places = {name: level for name, level in ordered if low <= level <= high}
    places |= {name: low - gap - step * (len(before) - 1 - at) for at, name in enumerate(before)}
    places |= {name: high + gap + step * at for at, name in enumerate(after)}
    for name, place in places.items():
        said = name if low <= levels[name] <= high else f"{name} {spelled(levels[name])}"
        (ax.axhline if horizontal else ax.axvline)(place, **DASHED)
        text = ax.annotate(
            said,
            (0.99, place) if horizontal else (place, 0.99),
            xycoords=ax.get_yaxis_transform() if horizontal else ax.get_xaxis_transform(),
            xytext=(0, 1) if horizontal else (1, 0),
            textcoords="offset points",
            ha="right" if horizontal else "left",
            va="bottom" if horizontal else "top",
            rotation="horizontal" if horizontal else "vertical",
            bbox={"facecolor": "white", "alpha": 0.6, "edgecolor": "none", "pad": 0.3},
            **SMALL,
        )
        text.set_in_layout(False)
    ends = low - bool(before) * (gap + step * len(before)), high + bool(after) * (gap + step * len(after))
    breaks = [low - gap / 2] * bool(before) + [high + gap / 2] * bool(after)
    if horizontal:
        ax.set_ylim(*ends)
        ax.set_yticks(ticks)
    else:
        ax.set_xlim(*ends)
        ax.set_xticks(ticks)
    for place in breaks:
        _break(ax, (place - ends[0]) / (ends[1] - ends[0]), horizontal)


def _break(ax: Axes, along: float, on_y: bool) -> None:
    """Two strokes through the spine with nothing between them."""
    for offset, colour in ((0.0, "white"), (-0.016, "#666666"), (0.016, "#666666")):
        at = (0.0, along + offset) if on_y else (along + offset, 0.0)
        stroke = [(-1.0, -0.4), (1.0, 0.4)] if on_y else [(-0.4, -1.0), (0.4, 1.0)]
        ax.plot(
            *([one] for one in at),
            marker=stroke,
            markersize=9,
            markeredgewidth=4.0 if colour == "white" else 0.9,
            color=colour,
            linestyle="none",
            transform=ax.transAxes,
            clip_on=False,
            zorder=3,
        )
