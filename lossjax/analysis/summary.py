"""Summary: a whole sweep in one table, a row a configuration, from its curves alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int, Real, Shaped

from lossjax.analysis.interval import Intervals
from lossjax.analysis.onset import best_evaluation
from lossjax.analysis.proportions import wilson_intervals
from lossjax.analysis.regimes import FLAT, Flat, flat_level, movement, regimes
from lossjax.analysis.resampling import mean_intervals
from lossjax.analysis.tables import table
from lossjax.history import History

CHUNK = 500  # members whose windows are looked at together


@dataclasses.dataclass(frozen=True, eq=False)
class Summary:
    """What the members of each configuration did; all arrays [config]. Shares are of all members, means of the finite.

    t_L and t_A are where the selecting split's loss is lowest and its accuracy highest; values there are the judging
    split's.

    Attributes:
        hyperparams: name → value of each configuration.
        num_members: of each configuration.
        nonfinite: share of members that stopped being finite.
        means: ``loss_end``, ``accuracy_end``; ``loss_best`` at t_L, ``accuracy_best`` at t_A; ``loss_best_step`` t_L,
            ``accuracy_best_step`` t_A and ``lag_steps`` t_A − t_L; ``loss_paid`` L(t_A) − L(t_L) and
            ``accuracy_gained`` A(t_A) − A(t_L), by which the two choices disagree. nan bounds below two finite members.
        plateau: share with a P window of at least the length asked for, not at the ceiling, by estimates.
        regimes: letter → share of members in it from t_L to the end, by estimates: a difference beyond δ has its sign,
            whatever its error. ``"none"`` where t_L is the end, ``"nonfinite"`` where the member is.
    """

    hyperparams: Mapping[str, np.ndarray]
    num_members: np.ndarray
    nonfinite: Intervals
    means: Mapping[str, Intervals]
    plateau: Intervals
    regimes: Mapping[str, Intervals]

    def table(self) -> dict[str, np.ndarray]:
        """Columns for ``Findings.tables``: each x with its bounds x_low and x_high."""
        columns = dict(self.hyperparams) | {"num_members": self.num_members}
        measured = {"nonfinite": self.nonfinite, **self.means, "plateau": self.plateau}
        measured |= {f"regime_{letter}": shares for letter, shares in self.regimes.items()}
        return columns | table([measured])


def summarise(
    history: History,
    *,
    select: str = "val",
    judge: str = "test",
    plateau: float = 0.2,
    flat: Flat = FLAT,
    level: float = 0.95,
    seed: int = 0,
) -> Summary:
    """Summarises a population of any size: 10,000 members × 50 evaluations in seconds.

    Args:
        history: with loss and accuracy of both splits.
        select: the split on which t_L and t_A are chosen.
        judge: the split from which everything else is reported.
        plateau: the shortest P window that counts, as a fraction of training.
        flat: the differences taken for none.
    """
    needed = [f"{split}_{metric}" for split in (select, judge) for metric in ("loss", "accuracy")]
    missing = [name for name in needed if name not in history.metrics]
    if missing:
        raise ValueError(f"the history has no {', '.join(missing)}; it has {', '.join(history.metrics)}")
    hyperparams, config = configurations(history)
    num_configs = int(config.max()) + 1
    finite = history.finite
    curves = [np.asarray(history.metrics[name], dtype=np.float64)[finite] for name in needed]
    values = outcomes(curves[0], curves[1], curves[2], curves[3], history.steps)
    letters = np.full(history.num_members, "nonfinite", dtype="<U9")
    letters[finite] = last_regimes(curves[0], curves[2], curves[3], flat=flat)
    has_plateau = np.zeros(history.num_members, dtype=bool)
    has_plateau[finite] = longest_plateau(curves[2], curves[3], history.steps, flat=flat) >= plateau

    totals = np.bincount(config, minlength=num_configs)

    def share(chosen: np.ndarray) -> Intervals:
        return wilson_intervals(np.bincount(config[chosen], minlength=num_configs), totals, level=level)

    return Summary(
        hyperparams=hyperparams,
        num_members=totals,
        nonfinite=share(~finite),
        means=_means(values, config[finite], num_configs, level, seed),
        plateau=share(has_plateau),
        regimes={letter: share(letters == letter) for letter in np.unique(letters).tolist()},
    )


def configurations(history: History) -> tuple[dict[str, np.ndarray], Int[np.ndarray, " member"]]:
    """The distinct hyperparameters, name → [config], and the configuration of each member."""
    columns = np.stack([np.asarray(values) for values in history.hyperparams.values()], axis=1)
    distinct, first, index = np.unique(columns, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # as the members have them
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return dict(zip(history.hyperparams, distinct[order].T, strict=True)), place[index.reshape(-1)]


def by_configuration(history: History, values: Float[np.ndarray, " member"]) -> Float[np.ndarray, "config seed"]:
    """A number a member as a table, in the order of ``configurations``; what ``inversions`` takes.

    Columns are the seeds in the order in which they first occur. nan where a member was not finite, or is missing.
    """
    _, config = configurations(history)
    seeds = np.stack([np.asarray(column) for column in history.seeds.values()], axis=1)
    _, first, index = np.unique(seeds, axis=0, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))[index.reshape(-1)]
    table = np.full((int(config.max()) + 1, len(first)), np.nan)
    counts = np.zeros(table.shape, dtype=np.int64)
    np.add.at(counts, (config, place), 1)
    if counts.max() > 1:
        raise ValueError("two members have the same configuration and seeds; give each its own row")
    table[config, place] = np.where(history.finite, values, np.nan)
    return table


def longest_plateau(
    losses: Float[np.ndarray, "member eval"],
    accuracies: Float[np.ndarray, "member eval"],
    steps: Real[np.ndarray, " eval"],
    *,
    flat: Flat = FLAT,
) -> Float[np.ndarray, " member"]:
    """The longest P window by estimates, as a fraction of training, where accuracy is not 100 % at both ends.

    The same as ``longest_window`` of the interior of ``observed_windows``, which takes all regimes of all pairs.
    """
    start, end = np.triu_indices(len(steps), 1)
    steps = np.asarray(steps, dtype=np.float64)
    span = (steps[end] - steps[start]) / (steps[-1] - steps[0])
    longest = np.zeros(len(losses))
    for first in range(0, len(losses), CHUNK):
        loss, accuracy = losses[first : first + CHUNK], accuracies[first : first + CHUNK]
        falls = loss[:, end] - loss[:, start] < -flat.loss
        stays = np.abs(accuracy[:, end] - accuracy[:, start]) <= flat.accuracy
        below = accuracy < 1.0
        interior = below[:, start] | below[:, end]
        longest[first : first + CHUNK] = np.where(falls & stays & interior, span, 0.0).max(axis=1)
    return longest


def outcomes(
    select_loss: Float[np.ndarray, "member eval"],
    select_accuracy: Float[np.ndarray, "member eval"],
    loss: Float[np.ndarray, "member eval"],
    accuracy: Float[np.ndarray, "member eval"],
    steps: Real[np.ndarray, " eval"],
    *,
    last: Int[np.ndarray, " member"] | None = None,
) -> dict[str, Float[np.ndarray, " member"]]:
    """What ``Summary.means`` are the means of, for finite members: name → [member].

    Args:
        select_loss, select_accuracy: of the split on which t_L and t_A are chosen.
        loss, accuracy: of the split whose values are reported.
        last: the evaluation at which each member's training is taken to have ended; None: the last of all.
    """
    members = np.arange(len(loss))
    end = _ends(loss, last)
    at_loss = best_evaluation(_until(select_loss, end), "lowest")
    at_accuracy = best_evaluation(_until(select_accuracy, end), "highest")
    loss_best, accuracy_best = loss[members, at_loss], accuracy[members, at_accuracy]
    steps = np.asarray(steps, dtype=np.float64)
    return {
        "loss_end": loss[members, end],
        "accuracy_end": accuracy[members, end],
        "loss_best": loss_best,
        "accuracy_best": accuracy_best,
        "loss_best_step": steps[at_loss],
        "accuracy_best_step": steps[at_accuracy],
        "lag_steps": steps[at_accuracy] - steps[at_loss],
        "loss_paid": loss[members, at_accuracy] - loss_best,
        "accuracy_gained": accuracy_best - accuracy[members, at_loss],
    }


def last_regimes(
    select_loss: Float[np.ndarray, "member eval"],
    loss: Float[np.ndarray, "member eval"],
    accuracy: Float[np.ndarray, "member eval"],
    *,
    flat: Flat = FLAT,
    last: Int[np.ndarray, " member"] | None = None,
) -> Shaped[np.ndarray, " member"]:
    """[member] the letter from t_L to the end, by estimates; ``"none"`` where t_L is the end. Arguments as above."""
    members, end = np.arange(len(loss)), _ends(loss, last)
    start = best_evaluation(_until(select_loss, end), "lowest")
    moves = []
    for curve, delta in ((loss, flat.loss), (accuracy, flat.accuracy)):
        change = curve[members, end] - curve[members, start]
        narrow, wide = (Intervals(change, change, change, level) for level in (flat_level(0.95), 0.95))
        moves.append(movement(narrow, wide, delta))
    return np.where(start == end, "none", regimes(*moves).letter)


def _ends(curves: np.ndarray, last: np.ndarray | None) -> Int[np.ndarray, " member"]:
    num_members, num_evals = curves.shape
    if last is None:
        return np.full(num_members, num_evals - 1)
    last = np.asarray(last)
    if last.shape != (num_members,) or np.any((last < 0) | (last >= num_evals)):
        raise ValueError(
            f"last has shape {last.shape} and values up to {last.max(initial=0)}; give each of the {num_members} "
            f"members one evaluation in 0 … {num_evals - 1}"
        )
    return last


def _until(curves: np.ndarray, end: np.ndarray) -> Float[np.ndarray, "member eval"]:
    """nan, which no extremum takes, after each member's end."""
    return np.where(np.arange(curves.shape[1]) <= end[:, None], curves, np.nan)


def _means(
    values: Mapping[str, np.ndarray], config: np.ndarray, num_configs: int, level: float, seed: int
) -> dict[str, Intervals]:
    columns = np.stack(list(values.values()), axis=1)
    found = np.full((3, num_configs, columns.shape[1]), np.nan)
    for index in range(num_configs):
        members = columns[config == index]
        if len(members) >= 2:
            means = mean_intervals(members, level=level, seed=seed)
            found[:, index] = means.estimate, means.low, means.high
        elif len(members) == 1:
            found[0, index] = members[0]
    return {name: Intervals(found[0, :, n], found[1, :, n], found[2, :, n], level) for n, name in enumerate(values)}
