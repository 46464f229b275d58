"""Conditions: configurations tested on the same examples, and pairs that loss and accuracy order differently."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float

from lossjax.analysis.comparison import Comparison, compare_records
from lossjax.analysis.interval import Interval
from lossjax.analysis.inversions import Inversions
from lossjax.analysis.records import Records
from lossjax.analysis.resampling import mean_interval, two_way_interval
from lossjax.analysis.summary import by_configuration, configurations
from lossjax.analysis.tables import table
from lossjax.history import History

GROUPS: Final = ("head", "middle", "tail")
Pair = tuple[int, int]  # of conditions


@dataclasses.dataclass(frozen=True, eq=False)
class Conditions:
    """Every condition's runs at the end of training, the same seeds in the same order.

    Attributes:
        names: of the conditions.
        sets: [condition] the set that each belongs to, as of its features.
        loss: [condition, seed] in nats, nan where a run was not finite; and so accuracy, refinement and temperature.
        example_loss: [condition, seed, example] in nats; example_refined_loss at the run's T*.
        group: [example] 0 head, 1 middle, 2 tail.
    """

    names: list[str]
    sets: list[str]
    loss: np.ndarray
    accuracy: np.ndarray
    refinement: np.ndarray
    temperature: np.ndarray
    example_loss: np.ndarray
    example_correct: np.ndarray
    example_refined_loss: np.ndarray
    group: np.ndarray

    @property
    def finite(self) -> Bool[np.ndarray, "condition seed"]:
        return np.isfinite(self.loss)

    def both(self, pair: Pair) -> Bool[np.ndarray, " seed"]:
        """The seeds at which both conditions' runs are finite."""
        return np.asarray(self.finite[list(pair)].all(axis=0))

    def change(self, name: str, pair: Pair) -> Float[np.ndarray, "seed *example"]:
        """From the first condition of a pair to the second, at those seeds."""
        values, seeds = getattr(self, name), self.both(pair)
        return values[pair[1]][seeds].astype(np.float64) - values[pair[0]][seeds]

    def records(self, condition: int, seeds: Bool[np.ndarray, " seed"]) -> Records:
        of_examples = (self.example_loss, self.example_correct, self.example_refined_loss)
        return Records(*(values[condition][seeds] for values in of_examples))


def conditions(
    histories: Mapping[str, History], group: np.ndarray, setting_name: Callable[[Mapping[str, Any]], str]
) -> Conditions:
    """Those of each cell "set-rest": one a setting of its hyperparameters, named "set-rest, setting"."""
    metrics = {field.name for field in dataclasses.fields(Conditions)} - {"names", "sets", "group"}
    columns: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    names = []
    for cell, history in histories.items():
        hyperparams, config = configurations(history)
        settings = [{key: values[at] for key, values in hyperparams.items()} for at in range(config.max() + 1)]
        names += [f"{cell}, {setting_name(setting)}" for setting in settings]
        for metric, found in columns.items():
            last = history.metrics[f"test_{metric}"][:, -1]
            if last.ndim == 1:
                found.append(by_configuration(history, last))
            else:
                found.append(last.reshape(-1, len(settings), last.shape[1]).swapaxes(0, 1))  # members are seed-major
    sets = [name.split("-")[0] for name in names]
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    return Conditions(names, sets, group=group, **joined)


def inverted_pairs(found: Conditions, order: Inversions) -> list[Pair]:
    """(a, b), b with the higher accuracy and the higher loss; those first in which both differ most."""
    pairs = []
    for first, second in zip(*np.nonzero(np.triu(order.relation < 0)), strict=True):
        pair = (int(first), int(second))
        gain, rise = (float(found.change(name, pair).mean()) for name in ("accuracy", "loss"))
        pairs.append((gain * rise, pair if gain > 0 else pair[::-1]))
    return [pair for _, pair in sorted(pairs, reverse=True)]


def head_share(found: Conditions, pairs: list[Pair], among: np.ndarray | slice = slice(None)) -> Interval:
    """The head's share of what accuracy gains in these pairs minus its share of the test examples, all or ``among``.

    Mean over the seeds at which all runs of the pairs are finite of a ratio of sums over pairs.
    """
    involved = sorted({one for pair in pairs for one in pair})
    seeds = np.flatnonzero(found.finite[involved].all(axis=0))
    if not pairs or len(seeds) < 2:
        return Interval.without_bounds()
    head = found.group[among] == 0
    gained = np.zeros((2, len(seeds)))
    for a, b in pairs:
        change = (found.example_correct[b][seeds].astype(float) - found.example_correct[a][seeds])[:, among]
        gained += change[:, head].sum(axis=1), change.sum(axis=1)
    return mean_interval(gained[0] / gained[1] - head.mean())


def taken_apart(found: Conditions, pair: Pair) -> Comparison:
    records = (found.records(one, found.both(pair)) for one in pair)
    return compare_records(*records, groups=np.array(GROUPS)[found.group], ordered=False, same_seeds=True)


def accuracy_by_group(found: Conditions, pair: Pair) -> dict[str, Interval]:
    """What each group's classes add to the change in accuracy, over seeds × examples."""
    change = found.change("example_correct", pair)
    present = {group: found.group == at for at, group in enumerate(GROUPS) if (found.group == at).any()}
    return {group: two_way_interval(np.where(mine, change, 0.0)) for group, mine in present.items()}


def condition_table(found: Conditions, often: Bool[np.ndarray, " example"]) -> dict[str, np.ndarray]:
    """Means over seeds × examples with two-way intervals, also of some examples; and how far each is from its set's.

    ``pareto`` are the conditions that no other beats in both, ``pareto_of_set`` those that none of its set does.
    """
    sets = np.array(found.sets)

    def measured(at: int) -> dict[str, Interval]:
        mine = np.flatnonzero(sets == sets[at])
        seeds = found.finite[mine].all(axis=0)
        intervals = {}
        for key, values in (("loss", found.example_loss), ("accuracy", found.example_correct)):
            of_set = values[mine][:, seeds].astype(np.float64)
            own = values[at][found.finite[at]]
            intervals[key] = _seeds_and_examples(own)
            intervals[f"{key}_deviation"] = _seeds_and_examples(values[at][seeds] - of_set.mean(axis=0))
            intervals[f"{key}_seen_often"] = _seeds_and_examples(own[:, often])
        return intervals

    rows = table(
        {
            "condition": name,
            "seeds": int(found.finite[at].sum()),
            **measured(at),
            "refinement": found.refinement[at][found.finite[at]].mean(),
            "temperature": found.temperature[at][found.finite[at]].mean(),
        }
        for at, name in enumerate(found.names)
    )
    beaten = (rows["loss"][:, None] > rows["loss"]) & (rows["accuracy"][:, None] < rows["accuracy"])
    rows["pareto"] = np.asarray(~beaten.any(axis=1))
    rows["pareto_of_set"] = np.asarray(~(beaten & (sets[:, None] == sets)).any(axis=1))
    return rows


def _seeds_and_examples(values: np.ndarray) -> Interval:
    """Of the mean of [seed, example]; nan below two seeds."""
    return two_way_interval(values.astype(np.float64)) if len(values) >= 2 else Interval.without_bounds()
