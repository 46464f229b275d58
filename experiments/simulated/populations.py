"""Estimators over configurations and streams: rank correlation and shares of variance."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

import lossjax as lj
from lossjax.analysis.inversions import inversions
from lossjax.analysis.streams import variance_by_stream
from lossjax.keys import seeds_by_stream
from simulated.targets import ACROSS, Row, covers


@dataclasses.dataclass(frozen=True)
class Kendall:
    """τ_b of mean loss and accuracy over configurations of normal qualities, each run with several seeds.

    A run's two errors correlate by a half, and a seed is easy or hard for all configurations alike. With means of
    correlation ρ, τ is 2/π · arcsin ρ (Kendall 1938), whatever the number of configurations.
    """

    agreement: float  # correlation of the qualities that the two metrics measure
    noise: float  # standard deviation of a run's error; that of the qualities is 1
    configs: int
    seeds: int

    def __call__(self, seed: int) -> dict[str, float]:
        rng = np.random.default_rng([seed, 10])
        quality = rng.standard_normal((2, self.configs, 1))
        quality[1] = self.agreement * quality[0] + np.sqrt(1 - self.agreement**2) * quality[1]
        error = self.noise * rng.standard_normal((2, self.configs, self.seeds))
        error[1] = 0.5 * error[0] + np.sqrt(0.75) * error[1]
        found = quality + error + 0.3 * rng.standard_normal((2, 1, self.seeds))
        return {"kendall": covers(inversions(-found[0], found[1], seed=seed).kendall, self.tau)}

    @property
    def tau(self) -> float:
        variance = self.noise**2 / self.seeds
        return float(2 / np.pi * np.arcsin((self.agreement + 0.5 * variance) / (1 + variance)))

    def rows(self) -> dict[str, Row]:
        return {"kendall": Row(f"τ_b over {self.configs} configurations", ACROSS)}


@dataclasses.dataclass(frozen=True)
class Shares:
    """Shares of the variance by stream, where f = a·data + b·init + c·order·noise of independent normals, or e to it.

    Exponentials of normals (``skewed``) have known shares too: Var E[eᶠ | x_k] = (e^{a_k²} − 1) · (E eᶠ)², and the
    product c is then 0.
    """

    data: float
    init: float
    product: float
    base_seeds: int
    skewed: bool

    def __call__(self, seed: int) -> dict[str, float]:
        seeds = redrawn_seeds(self.base_seeds)
        rng = np.random.default_rng([seed, 11])
        drawn = {}
        for stream, column in seeds.items():
            values, index = np.unique(column, return_inverse=True)
            drawn[stream] = rng.standard_normal(len(values))[index]
        values = self.data * drawn["data"] + self.init * drawn["init"] + self.product * drawn["order"] * drawn["noise"]
        found = variance_by_stream(np.exp(values) if self.skewed else values, seeds, seed=seed)
        assert found.first_share is not None
        assert found.total_share is not None
        return {
            f"{kind}_{stream}": covers(shares[found.streams.index(stream)], true)
            for kind, shares, truths in zip(
                ("first", "total"), (found.first_share, found.total_share), self.truth(), strict=True
            )
            for stream, true in truths.items()
        }

    def truth(self) -> tuple[dict[str, float], dict[str, float]]:
        """First-order and total shares."""
        alone = {"data": self.data**2, "init": self.init**2}
        if self.skewed:
            grown = {stream: np.expm1(variance) for stream, variance in alone.items()}
            whole = np.expm1(sum(alone.values()))
            others = {"data": alone["init"], "init": alone["data"]}
            first = {stream: float(each / whole) for stream, each in grown.items()}
            return first, {stream: float(grown[stream] * np.exp(others[stream]) / whole) for stream in grown}
        variance = sum(alone.values()) + self.product**2
        first = {stream: each / variance for stream, each in alone.items()}
        return first | {"order": 0.0}, first | {"order": self.product**2 / variance}

    def rows(self) -> dict[str, Row]:
        return {
            f"{kind}_{stream}": Row(share_name(kind, stream), ACROSS)
            for kind, truths in zip(("first", "total"), self.truth(), strict=True)
            for stream in truths
        }


def share_name(kind: str, stream: str) -> str:
    return f"variance share of {stream}, " + {"first": "alone", "total": "with interactions"}[kind]


@functools.cache
def redrawn_seeds(base_seeds: int) -> Mapping[str, np.ndarray]:
    return seeds_by_stream(lj.redrawn(base_seeds, all_anew=True).table)
