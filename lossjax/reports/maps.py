"""Phase diagrams: which regime is the commonest where, over a plane of two hyperparameters.

As in ``plots``, whose style and colours it shares, what is given is drawn and no statistic is computed.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Shaped
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from lossjax.reports.plots import REGIMES, _figure, _style

# what is common there → (its letter in the tiles, its name, its colour)
PHASES: Final = {
    **{letter: (letter, name, colour) for letter, (name, colour) in REGIMES.items()},
    "P": ("P", "plateau: loss better, accuracy flat", REGIMES["P"][1]),
    "O": ("O", "over-confident: loss worse, accuracy not", REGIMES["O"][1]),
    "K": ("K", "the same, beyond one temperature", REGIMES["K"][1]),
    "S": ("S", "sacrifice: loss better, accuracy worse", REGIMES["S"][1]),
    "G": ("G", "both better", REGIMES["G"][1]),
    "W": ("W", "both worse", REGIMES["W"][1]),
    "N": ("N", "loss flat", "#8C8C8C"),
    "undecided": ("?", "undecided: too few held-out examples", "#D4D4D4"),
    "nonfinite": ("∞", "not finite", "#000000"),
}
_PALEST: Final = 0.3  # of the colour, where hardly any run is in the commonest regime


@dataclasses.dataclass(frozen=True, eq=False)
class PhaseMap:
    """A plane: what its axes are, and of each point the commonest regime.

    ``row`` and ``column`` say where it stands; ``commonest`` are keys of ``PHASES``, "" where there are no runs.
    """

    row: str
    column: str
    title: str
    x_label: str
    y_label: str
    x: Sequence[str]
    y: Sequence[str]
    commonest: Shaped[np.ndarray, "y x"]
    share: Float[np.ndarray, "y x"]  # of the runs there that are in it
    resolved: Bool[np.ndarray, "y x"]  # as the commonest
    differs: Bool[np.ndarray, "y x"]  # its share from that on the whole plane


def phase_maps(maps: Sequence[PhaseMap]) -> Figure:
    """Tiles by commonest regime, the paler the smaller its share, with letter and per cent; hatched: not resolved."""
    rows = list(dict.fromkeys(one.row for one in maps))
    columns = list(dict.fromkeys(one.column for one in maps))
    unknown = {str(key) for one in maps for key in one.commonest.ravel()} - {*PHASES, ""}
    if unknown:
        raise ValueError(f"no phase is named {min(unknown)!r}; they are {', '.join(PHASES)}")
    with _style(), matplotlib.rc_context({"hatch.linewidth": 0.6, "hatch.color": "white"}):
        tall = [max(len(one.y) for one in maps if one.row == row) for row in rows]
        figure = _figure(width=9, height=1.2 + sum(0.85 + 0.27 * count for count in tall))
        axes = figure.subplots(len(rows), len(columns), squeeze=False, height_ratios=tall)
        for one in maps:
            ax = axes[rows.index(one.row), columns.index(one.column)]
            _draw_tiles(ax, one)
            ax.set_title(one.title)
            ax.set_xlabel(one.x_label)
            ax.set_ylabel(one.y_label)
        used = [key for key in PHASES if any(np.any(one.commonest == key) for one in maps)]
        handles = [Patch(color=PHASES[key][2], label="{}  {}".format(*PHASES[key])) for key in used]
        handles.append(Patch(facecolor="#9C9C9C", hatch="///", label="not resolved as the commonest"))
        figure.legend(handles=handles, loc="outside upper left", ncols=3, handlelength=1.2, frameon=False, fontsize=9)
        return figure


def _draw_tiles(ax: Axes, one: PhaseMap) -> None:
    for (row, column), key in np.ndenumerate(one.commonest):
        if not key:
            continue
        letter, _, colour = PHASES[key]
        share = float(one.share[row, column])
        weight = _PALEST + (1 - _PALEST) * share
        face = tuple(weight * part + 1 - weight for part in to_rgb(colour))
        hatch = None if one.resolved[row, column] else "///"
        corner = (column - 0.48, row - 0.47)
        ax.add_patch(Rectangle(corner, 0.96, 0.94, facecolor=face, edgecolor="white", linewidth=0, hatch=hatch))
        light = float(np.dot(face, (0.299, 0.587, 0.114))) > 0.5
        ax.text(
            column,
            row,
            f"{letter} {100 * share:.0f}",
            ha="center",
            va="center",
            fontsize=9,
            color="#222222" if light else "white",
            weight="bold" if one.differs[row, column] else "normal",
        )
    ax.set_xlim(-0.5, len(one.x) - 0.5)
    ax.set_ylim(-0.5, len(one.y) - 0.5)
    ax.set_xticks(range(len(one.x)), one.x)
    ax.set_yticks(range(len(one.y)), one.y)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
