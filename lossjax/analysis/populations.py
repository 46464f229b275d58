"""Means over members and examples at once: their intervals, and clusters of examples taken as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Shaped

from lossjax.analysis.interval import Interval
from lossjax.analysis.resampling import Means, mean_distribution, two_way_distribution


def intervals_at_levels(
    populations: Sequence[tuple[int, Mapping[str, np.ndarray]]],
    clusters: np.ndarray | None,
    levels: tuple[float, float],
    seed: int,
) -> list[dict[str, Interval]]:
    """The interval of every column at each level, all from one set of resamples."""
    names = list(populations[0][1])
    stacked = [(sign, np.stack([columns[name] for name in names], axis=-1)) for sign, columns in populations]
    means: Means
    if len(stacked) == 1 and len(stacked[0][1]) == 1:
        means = mean_distribution(stacked[0][1][0], clusters=clusters, seed=seed)
    else:
        if clusters is not None:
            stacked = [(sign, cluster_values(values, clusters)) for sign, values in stacked]
        means = two_way_distribution(stacked, seed=seed)
    at_levels = [means.intervals(level) for level in levels]
    return [{name: intervals[index] for index, name in enumerate(names)} for intervals in at_levels]


def cluster_values(
    values: Float[np.ndarray, "member example column"], clusters: Shaped[np.ndarray, " example"]
) -> Float[np.ndarray, "member cluster column"]:
    """One value a cluster, with the mean of the examples and the spread of a ratio of sums to sizes."""
    _, index, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    mean = values.mean(axis=(0, 1))
    sums = np.zeros((len(sizes), len(values), len(mean)))
    np.add.at(sums, index, (values - mean).swapaxes(0, 1))
    return mean + sums.swapaxes(0, 1) * len(sizes) / len(index)
