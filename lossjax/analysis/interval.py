"""Interval: the form of every reported number, alone or as an array of them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval. ``nan`` bounds: there is none, and the report then says why."""

    estimate: float
    low: float
    high: float
    level: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level={self.level} must lie between 0 and 1")
        if self.low > self.high:
            raise ValueError(f"low={self.low} exceeds high={self.high}")

    @classmethod
    def without_bounds(cls, estimate: float = math.nan) -> Interval:
        """A number that is known and not estimated, or one that could not be."""
        return cls(estimate, math.nan, math.nan)

    def __str__(self) -> str:
        if math.isnan(self.low) or math.isnan(self.high):
            return f"{self.estimate:.4g} (no interval)"
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}]"

    def excludes(self, value: float) -> bool:
        """Whether ``value`` lies outside; never true without bounds."""
        return bool(self.low > value or self.high < value)

    def within(self, low: float, high: float) -> bool:
        """Whether the whole interval lies in [low, high]."""
        return bool(self.low >= low and self.high <= high)


@dataclasses.dataclass(frozen=True, eq=False)
class Intervals:
    """Many intervals of one level: three arrays of one shape. ``intervals[i]`` is an Interval."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level={self.level} must lie between 0 and 1")
        shapes = self.estimate.shape, self.low.shape, self.high.shape
        if len(set(shapes)) > 1:
            raise ValueError(f"estimate, low and high have shapes {shapes}; they must be the same")
        if np.any(self.low > self.high):
            raise ValueError("a low bound exceeds its high bound")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.estimate.shape

    def __len__(self) -> int:
        return len(self.estimate)

    def __getitem__(self, index: int | tuple[int, ...]) -> Interval:
        return Interval(float(self.estimate[index]), float(self.low[index]), float(self.high[index]), self.level)

    def excludes(self, value: float) -> Bool[np.ndarray, "..."]:
        """Whether ``value`` lies outside each; never true without bounds."""
        return (self.low > value) | (self.high < value)

    def within(self, low: float, high: float) -> Bool[np.ndarray, "..."]:
        """Whether each lies wholly in [low, high]."""
        return (self.low >= low) & (self.high <= high)

    def __neg__(self) -> Intervals:
        return Intervals(-self.estimate, -self.high, -self.low, self.level)

    @property
    def half_width(self) -> Float[np.ndarray, "..."]:
        return (self.high - self.low) / 2
