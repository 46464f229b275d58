"""Labels beside axes: text at the end of a line or a row, placed so that none overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import isotonic_regression

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

_DISTANCE = 14  # points between the axes and an end label


def spread(
    centres: Float[np.ndarray, " label"], heights: Float[np.ndarray, " label"], low: float, high: float
) -> Float[np.ndarray, " label"]:
    """Where labels of these heights go so that none overlap, all lie in [low, high], and they move least (squared).

    Stacked in the order of their centres, a label's position less the heights below it must not decrease: isotonic
    regression. Labels that do not all fit are stacked without overlap about the middle of the range.
    """
    if len(centres) == 0:
        return centres
    order = np.argsort(centres, kind="stable")
    below = np.cumsum(heights[order]) - heights[order] / 2
    room = high - low - heights.sum()
    if room >= 0:
        free = np.clip(isotonic_regression(centres[order] - below).x, low, low + room)
    else:
        free = np.full(len(order), low + room / 2)
    positions = np.empty(len(order))
    positions[order] = free + below
    return positions


def end_label(ax: Axes, text: str, y: float, colour: str) -> Annotation:
    """A label right of the axes at the height where a line ends; ``separate`` then moves it off its neighbours."""
    leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 5, "shrinkB": 0}
    leader |= {"relpos": (0, 0.5), "patchA": None}  # from the middle of the text's left edge
    return beside(ax, text, 1, y, color=colour, fontsize=9, arrowprops=leader)


def separate(figure: Figure, labels: Sequence[tuple[Axes, Sequence[Annotation]]]) -> Figure:
    """Moves end labels apart, each with a leader to its line; comes last, because it fixes the layout."""
    figure.draw_without_rendering()
    for ax, texts in labels:
        anchors = np.array([ax.transData.transform((0, text.xy[1]))[1] for text in texts])
        heights = np.array([text.get_window_extent().height + 1 for text in texts])
        moved = spread(anchors, heights, ax.bbox.y0, ax.bbox.y1) - anchors
        for text, pixels in zip(texts, moved, strict=True):
            text.set_position((_DISTANCE, pixels * 72 / figure.dpi))
            assert text.arrow_patch is not None
            text.arrow_patch.set_visible(abs(pixels) > 2)
    return figure


def beside(ax: Axes, text: str, edge: int, y: float, **properties: Any) -> Annotation:
    """Text at the height y beside the left (0) or right (1) edge of the axes; ``place`` sets the distance."""
    return ax.annotate(
        text,
        (edge, y),
        xycoords=ax.get_yaxis_transform(),
        xytext=(0, 0),
        textcoords="offset points",
        ha="left",
        va="center",
        annotation_clip=False,
        **properties,
    )


def place(texts: Sequence[Annotation], points: float) -> None:
    """Makes a column of texts begin this far right of their edge."""
    for text in texts:
        text.set_position((points, text.get_position()[1]))


def widest(figure: Figure, texts: Sequence[Annotation]) -> float:
    """The width of the widest, in points."""
    return max((text.get_window_extent().width for text in texts), default=0.0) * 72 / figure.dpi
