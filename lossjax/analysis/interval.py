"""Interval: the form of every reported number."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval. ``nan`` bounds mean that there is none, and the report then says why."""

    estimate: float
    low: float
    high: float
    level: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level={self.level} must lie between 0 and 1")
        if self.low > self.high:
            raise ValueError(f"low={self.low} exceeds high={self.high}")

    def __str__(self) -> str:
        if math.isnan(self.low) or math.isnan(self.high):
            return f"{self.estimate:.4g} (no interval)"
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}]"

    def excludes(self, value: float) -> bool:
        """Whether ``value`` lies outside; never true without bounds."""
        return self.low > value or self.high < value

    def within(self, low: float, high: float) -> bool:
        """Whether the whole interval lies in [low, high]."""
        return self.low >= low and self.high <= high
