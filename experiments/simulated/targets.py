"""What the simulations are to show: METHODS' table of coverage."""

from typing import NamedTuple

import lossjax as lj


class Target(NamedTuple):
    """What a row is to show: a share of simulations in [low, high]. No bounds: reported, not judged."""

    low: float
    high: float


MEANS_OF_EXAMPLES = {2000: Target(0.93, 0.97), 200: Target(0.91, 0.98)}
SHARES = Target(0.93, 1.0)
ABOVE_ZERO = Target(0.975, 1.0)  # of calibrated models whose lower bound is not above 0
CALIBRATION = Target(0.91, 0.98)  # where nC ≥ 100
SMALL_CALIBRATION = Target(0.93, 1.0)  # elsewhere; METHODS has no target, its interval falling short there
LARGE_CALIBRATION = 100
# 20: the fewest with a bootstrap, for which METHODS has no target
MEANS_OF_SEEDS = {5: Target(0.92, 0.99), 20: Target(float("nan"), float("nan")), 50: Target(0.93, 0.97)}
BEST = Target(0.95, 1.0)
NO_FALSE_ALARM = Target(0.95, 1.0)  # of onset on flat tails, and of divergence between seeds of one configuration
NEVER = Target(1.0, 1.0)  # of divergence by a no-op
ACROSS = Target(0.90, 0.98)  # τ_b over 30 configurations or more, variance shares over 200 base seeds or more
NOT_JUDGED = Target(float("nan"), float("nan"))


class Row(NamedTuple):
    group: str  # the rows of the figure
    target: Target


def covers(interval: lj.Interval, true: float) -> float:
    return float(interval.low <= true <= interval.high)
