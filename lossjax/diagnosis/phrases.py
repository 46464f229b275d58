"""Numbers and lists as they stand in a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossjax.analysis.interval import Interval
from lossjax.diagnosis.answer import Choice, Timing
from lossjax.reports.report import estimate_text


def nats(interval: Interval | None) -> str:
    return "not known" if interval is None else f"{shown(interval)} nats"


def points(interval: Interval) -> str:
    """An accuracy or its difference, in percentage points."""
    return f"{shown(interval, 100)} points"


def shown(interval: Interval, scale: float = 1.0) -> str:
    """The numbers of an interval, times a scale; its level is said once for all; without bounds, one number."""
    values = [scale * value for value in (interval.estimate, interval.low, interval.high)]
    values = [0.0 if abs(value) < 1e-12 else value for value in values]  # rounding in sums of many
    largest, width = max(abs(value) for value in values if not math.isnan(value)), values[2] - values[1]
    # masked classes, for example; examples that are all alike; or one that decides the width
    if largest >= 1e6 or 0 < width < 1e-4 * largest or 0 < abs(values[0]) < 1e-3 * width:
        estimate, low, high = (f"{value:.3g}".replace("-", "−") for value in values)
        return estimate if math.isnan(values[1]) else f"{estimate} [{low}, {high}]"
    return estimate_text(Interval(*values)).removesuffix(" (no interval)").replace("e-", "e−")


def one(value: float) -> str:
    """A number that has no interval."""
    return shown(Interval(value, math.nan, math.nan))


def cost(choice: Choice, regret: Interval) -> str:
    """What keeping another costs, in the unit of the goal."""
    if regret.low == regret.estimate == regret.high == 0:
        return "nothing"
    return points(regret) if choice.goal in ("accuracy", "balanced") else nats(regret)


def percent(share: float) -> str:
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f} %"
    return f"{value:.1f} %" if 0.05 <= value <= 99.95 else f"{value:.2g} %"


def part_of(part: float, whole: Interval) -> str:
    """A contribution as a share of the change it is part of."""
    share = part / whole.estimate
    return "all of it" if 0.995 <= share < 1.005 else f"{100 * share:.0f} % of it"


def p_text(p: float) -> str:
    return f"= {p:.2g}" if p >= 1e-4 else "below 0.0001"


def rounded(number: float) -> str:
    """Two significant digits, upwards: 12,345 → 13,000."""
    if number <= 0 or not math.isfinite(number):
        return "0"
    if number >= 1e12:
        return f"{number:.1e}"
    scale = 10 ** max(math.floor(math.log10(number)) - 1, 0)
    return f"{math.ceil(number / scale) * scale:,}"


def apart(timing: Timing) -> str:
    if timing.lag == 0:
        return "at the same time"
    unit = timing.unit.removesuffix("s") if abs(timing.lag) == 1 else timing.unit
    return f"{abs(timing.lag):g} {unit} {'after' if timing.lag > 0 else 'before'} the lowest loss"


def minus(interval: Interval) -> Interval:
    return Interval(-interval.estimate, -interval.high, -interval.low, interval.level)


def listed(items: Sequence[str], word: str) -> str:
    return f" {word} ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else list(items))


def sentences(*texts: str) -> str:
    return " ".join(text for text in texts if text)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
