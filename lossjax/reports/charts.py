"""Where everything in a page's pictures stands. The templates draw it as SVG in the page's own colours and fonts.

``plots.py`` makes the figures of reports in Markdown; a page that follows dark mode, fits a phone and takes its text
from others needs pictures whose colours are the style sheet's and whose text is escaped like any other. Nothing is
computed here but positions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 360, 250  # of a picture, in its own units: about a phone's width in pixels
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 38  # margins

Pair = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Series:
    """Points of one kind: joined by a line, with whiskers from low to high, or both."""

    name: str
    style: str  # class in the style sheet
    points: Sequence[Pair]
    joined: bool = True
    whiskers: Sequence[Pair] | None = None  # (low, high) of each point
    radius: float = 2.5


@dataclasses.dataclass(frozen=True)
class Tick:
    at: float  # in the picture's units
    text: str


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A series in the picture's units."""

    name: str
    style: str
    points: tuple[Pair, ...]
    line: str  # of an SVG polyline; empty where points are not joined
    whiskers: tuple[tuple[float, float, float], ...]  # x, y of low, y of high
    radius: float


@dataclasses.dataclass(frozen=True)
class Chart:
    title: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    series: tuple[Drawn, ...]
    guide: str  # a polyline behind the series, as the diagonal of a reliability diagram
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


@dataclasses.dataclass(frozen=True)
class Band:
    """A stream from a share on the left to a share on the right."""

    name: str
    style: str
    path: str


@dataclasses.dataclass(frozen=True)
class Node:
    x: float
    y: float
    height: float
    text: str
    anchor: str
    text_x: float


@dataclasses.dataclass(frozen=True)
class Flow:
    title: str
    bands: tuple[Band, ...]
    nodes: tuple[Node, ...]
    width: int = WIDTH
    height: int = 180
    node_width: int = 8


@dataclasses.dataclass(frozen=True)
class Row:
    """One interval of a forest: where its line and its point stand."""

    name: str
    y: float
    low: float | None
    high: float | None
    point: float


@dataclasses.dataclass(frozen=True)
class Forest:
    title: str
    x_label: str
    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    zero: float
    height: int
    width: int = WIDTH
    left: int = 84
    right: int = WIDTH - RIGHT


def chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    x_range: Pair | None = None,
    y_range: Pair | None = None,
    diagonal: bool = False,
) -> Chart:
    """Points and lines on two axes; ranges are those of the data, a little widened, unless given."""
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    ys += [end for one in series for whisker in one.whiskers or () for end in whisker if math.isfinite(end)]
    x_low, x_high = x_range or _widened(xs)
    y_low, y_high = y_range or _widened(ys)

    def x_at(x: float) -> float:
        return _at(x, x_low, x_high, LEFT, WIDTH - RIGHT)

    def y_at(y: float) -> float:
        return _at(y, y_low, y_high, HEIGHT - BOTTOM, TOP)

    drawn = []
    for one in series:
        points = tuple((x_at(x), y_at(y)) for x, y in one.points)
        whiskers: tuple[tuple[float, float, float], ...] = ()
        if one.whiskers is not None:
            whiskers = tuple(
                (point[0], y_at(low), y_at(high))
                for point, (low, high) in zip(points, one.whiskers, strict=True)
                if math.isfinite(low) and math.isfinite(high)
            )
        drawn.append(Drawn(one.name, one.style, points, _line(points) if one.joined else "", whiskers, one.radius))
    ends = (max(x_low, y_low), min(x_high, y_high))
    return Chart(
        title,
        x_label,
        y_label,
        tuple(Tick(x_at(value), text) for value, text in _ticks(x_low, x_high)),
        tuple(Tick(y_at(value), text) for value, text in _ticks(y_low, y_high)),
        tuple(drawn),
        _line([(x_at(end), y_at(end)) for end in ends]) if diagonal else "",
    )


def flow(title: str, shares: Mapping[str, float], styles: Mapping[str, str]) -> Flow:
    """Streams between right and wrong before (left) and after (right); keys are "right→wrong" and so on."""
    height, gap, width = 180, 14, 8
    left_x, right_x = 96.0, WIDTH - 96.0
    usable = height - 2 * 10 - gap
    order = ("right", "wrong")
    before = {name: sum(shares[f"{name}→{other}"] for other in order) for name in order}
    after = {name: sum(shares[f"{other}→{name}"] for other in order) for name in order}
    nodes: list[Node] = []
    left_top: dict[str, float] = {}
    right_top: dict[str, float] = {}
    for side, totals, tops, x in (("before", before, left_top, left_x), ("after", after, right_top, right_x)):
        y = 10.0
        for name in order:
            tops[name] = y
            size = totals[name] * usable
            is_left = side == "before"
            nodes.append(
                Node(
                    _rounded(x - width if is_left else x),
                    _rounded(y),
                    _rounded(max(size, 0.5)),
                    f"{name} {side}",
                    "end" if is_left else "start",
                    _rounded(x - width - 6 if is_left else x + width + 6),
                )
            )
            y += size + gap
    bands = []
    middle = (left_x + right_x) / 2
    for name in order:
        for other in order:
            cell = f"{name}→{other}"
            size = shares[cell] * usable
            if size <= 0:
                continue
            a, b = left_top[name], right_top[other]
            left_top[name], right_top[other] = a + size, b + size
            size = max(size, 0.6)  # a rare cell is still seen
            left, right, centre = _rounded(left_x), _rounded(right_x), _rounded(middle)
            path = (
                f"M{left} {_rounded(a)} C{centre} {_rounded(a)} {centre} {_rounded(b)} {right} {_rounded(b)} "
                f"L{right} {_rounded(b + size)} C{centre} {_rounded(b + size)} {centre} {_rounded(a + size)} "
                f"{left} {_rounded(a + size)} Z"
            )
            bands.append(Band(cell, styles[cell], path))
    return Flow(title, tuple(bands), tuple(nodes))


def forest(title: str, rows: Sequence[tuple[str, float, float, float]], *, x_label: str) -> Forest:
    """Intervals (name, estimate, low, high) one under another, with a line at 0."""
    values = [value for _, *ends in rows for value in ends if math.isfinite(value)]
    low, high = _widened([*values, 0.0])

    def at(value: float) -> float:
        return _at(value, low, high, Forest.left, Forest.right)

    height = 28 * len(rows) + 48
    return Forest(
        title,
        x_label,
        tuple(
            Row(
                name,
                24 + 28 * index,
                at(lower) if math.isfinite(lower) else None,
                at(upper) if math.isfinite(upper) else None,
                at(estimate),
            )
            for index, (name, estimate, lower, upper) in enumerate(rows)
        ),
        tuple(Tick(at(value), text) for value, text in _ticks(low, high, 4)),
        at(0.0),
        height,
    )


def _at(value: float, low: float, high: float, start: float, end: float) -> float:
    return _rounded(start + (value - low) / (high - low) * (end - start))


def _rounded(value: float) -> float:
    """To a hundredth of a pixel: the same bytes wherever the last bits of a product differ."""
    return round(value, 2) + 0.0


def _line(points: Sequence[Pair]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def _widened(values: Sequence[float]) -> Pair:
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    return low - margin, high + margin


def _ticks(low: float, high: float, most: int = 5) -> list[tuple[float, str]]:
    """Round numbers in [low, high], at steps of 1, 2 or 5 times a power of ten."""
    span = (high - low) / most
    power = 10.0 ** math.floor(math.log10(span))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= span * 0.999)
    first = math.ceil(low / step - 1e-9)
    values = [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]
    decimals = max(0, -math.floor(math.log10(step)))
    return [(value, f"{value:,.{decimals}f}" if step < 1e6 else f"{value:.3g}") for value in values]
