"""Groups of classes by training frequency: when each is learned, and who gains where loss and accuracy part."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from lossjax.analysis.interval import Interval
from lossjax.analysis.inversions import inversions
from lossjax.analysis.resampling import mean_interval
from lossjax.analysis.summary import by_configuration
from lossjax.history import History


@dataclasses.dataclass(frozen=True, eq=False)
class GroupRuns:
    """The finite members of one configuration along training, in groups from the head to the tail.

    Attributes:
        num_members: with those that were not finite.
        epochs: [eval]
        loss, accuracy: [member, eval] over all examples.
        group_loss, group_accuracy: [member, eval, group]
        shares: [member, group] of the examples, by which means over groups add up to means over all.
    """

    num_members: int
    epochs: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    group_loss: np.ndarray
    group_accuracy: np.ndarray
    shares: np.ndarray

    def half_time(self) -> Float[np.ndarray, "member group"]:
        """The epoch at which accuracy comes to half of its highest."""
        found = np.empty(self.shares.shape)
        for member, group in np.ndindex(found.shape):
            curve = self.group_accuracy[member, :, group]
            found[member, group] = crossing(self.epochs, curve, curve.max() / 2)
        return found

    def delay(self) -> Float[np.ndarray, " member"]:
        """Epochs from the head's half to the tail's, of the members in which all groups learned."""
        half = self.half_time()
        reached = half[np.isfinite(half).all(axis=1)]
        return reached[:, -1] - reached[:, 0]

    def later(self, near: float, least_fall: float) -> Float[np.ndarray, " member"]:
        """The tail's share of the later fall of the loss minus its share of the loss that was left before it.

        From the first evaluation with an accuracy within ``near`` of the highest to the one with the lowest loss from
        there on, of the members whose loss falls by more than ``least_fall`` nats.
        """
        found = []
        for member in range(len(self.loss)):
            start = int(np.argmax(self.accuracy[member] >= self.accuracy[member].max() - near))
            end = start + int(np.argmin(self.loss[member, start:]))
            parts = self.shares[member] * self.group_loss[member]
            fall = parts[start] - parts[end]
            if fall.sum() > least_fall:
                found.append(fall[-1] / fall.sum() - parts[start, -1] / parts[start].sum())
        return np.array(found)


def by_group(history: History, split: str = "test") -> GroupRuns:
    """Of a history with metrics by group."""
    finite = history[history.finite]
    metrics = {
        name: finite.metrics[f"{split}_{name}"].astype(np.float64)
        for name in ("loss", "accuracy", "group_loss", "group_accuracy")
    }
    shares = finite.metrics[f"{split}_group_share"][:, -1].astype(np.float64)
    return GroupRuns(history.num_members, finite.epochs, **metrics, shares=shares)


def crossing(times: Float[np.ndarray, " time"], curve: Float[np.ndarray, " time"], level: float) -> float:
    """The first time at which the curve, linear between its points, comes to a level; inf where it never does."""
    reached = np.flatnonzero(curve >= level)
    if len(reached) == 0:
        return float("inf")
    at = int(reached[0])
    if at == 0:
        return float(times[0])
    part = (level - curve[at - 1]) / (curve[at] - curve[at - 1])
    return float(times[at - 1] + part * (times[at] - times[at - 1]))


class HeadGain(NamedTuple):
    """The head's share of what accuracy gains in inverted pairs of configurations, minus its share of the examples.

    Attributes:
        seeds: of the stream init, [seed].
        excess: [seed] of which it is the mean: a ratio of sums over pairs and seeds, linearised.
        num_pairs: that are inverted, both differences resolved; without one there are no seeds.
    """

    seeds: Shaped[np.ndarray, " seed"]
    excess: Float[np.ndarray, " seed"]
    num_pairs: int

    @property
    def interval(self) -> Interval:
        return mean_interval(self.excess) if len(self.excess) > 1 else Interval.without_bounds()


def head_gain(history: History, split: str = "test") -> HeadGain:
    """At the end of training, over all configurations of a history with metrics by group."""

    def at_the_end(name: str) -> Float[np.ndarray, "config seed"]:
        values = history.metrics[f"{split}_{name}"][:, -1]
        return by_configuration(history, (values if values.ndim == 1 else values[:, 0]).astype(np.float64))

    loss, accuracy = at_the_end("loss"), at_the_end("accuracy")
    if np.isfinite(loss).sum(axis=1).min() < 2:
        return HeadGain(np.array([]), np.array([]), 0)
    pairs = np.argwhere(np.triu(inversions(loss, accuracy).relation < 0))
    shares = at_the_end("group_share")
    of_head = shares * at_the_end("group_accuracy")
    gained, by_head = np.zeros((2, loss.shape[1]))
    for first, second in pairs:
        better = np.sign(np.nanmean(accuracy[second] - accuracy[first]))
        gained += better * (accuracy[second] - accuracy[first])
        by_head += better * (of_head[second] - of_head[first])
    usable = np.isfinite(gained + by_head + shares.sum(axis=0))
    if len(pairs) == 0 or usable.sum() < 2:
        return HeadGain(np.array([]), np.array([]), len(pairs))
    gained, by_head, shares = gained[usable], by_head[usable], shares[:, usable].mean(axis=0)
    ratio = by_head.sum() / gained.sum()
    # its mean is the ratio of sums minus the share, and its spread that of a ratio
    excess = (by_head - ratio * gained) / gained.mean() + ratio - shares
    seeds, first_member = np.unique(history.seeds["init"], return_index=True)
    return HeadGain(seeds[np.argsort(first_member)][usable], excess, len(pairs))
