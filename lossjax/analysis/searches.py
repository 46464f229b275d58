"""Searches among runs that were trained once: every run's scores on disjoint parts, and selection among random ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from lossjax.analysis.reliability import Reliability, metric_reliability
from lossjax.analysis.selection import SCORES, SelectionRegret, example_scores, selection_regret, validation_scores

PARTS = (0.4, 0.7)  # where validation ends and where test does; the third part is the oracle's


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """By metric; nan where a run was not finite."""

    validation: Mapping[str, np.ndarray]  # [size, seed, config]
    test: Mapping[str, np.ndarray]  # [seed, config]
    third: Mapping[str, np.ndarray]  # [seed, config]: by these the oracle chooses
    examples: Mapping[str, np.ndarray] | None = None  # [seed, config, example] of test, where all seeds have the same


def scores_of_runs(
    logits: Float[np.ndarray, "seed config example class"],
    labels: Int[np.ndarray, " example"],
    sizes: Sequence[int],
    *,
    shared_examples: bool,
    metrics: Sequence[str] = SCORES,
) -> Scores:
    """Scores every run on validation sets of its own, on test, and on the third part of its held-out examples.

    The examples are dealt once into the three parts; each seed draws its validation sets, one a size, from the first.

    Args:
        logits: of the held-out examples; nan where a run was not finite.
        shared_examples: whether all seeds have the same examples; scores are then kept example by example too.
        metrics: of ``selection.SCORES``, in the order that selectors and judges are to have.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    validation, test, third = np.split(order, [round(share * len(order)) for share in PARTS])
    found: list[list[dict[str, np.ndarray]]] = [[], [], []]
    for seed, runs in enumerate(logits):
        found[0].append(validation_scores(runs[:, validation], labels[validation], sizes, seed=seed))
        for scores, part in zip(found[1:], (test, third), strict=True):
            scores.append(example_scores(runs[:, part], labels[part], seed=seed))
    on_validation = {m: np.stack([scores[m] for scores in found[0]], axis=1) for m in metrics}
    on_test, on_third = ({m: np.stack([scores[m] for scores in part]) for m in metrics} for part in found[1:])
    mean_test, mean_third = ({m: values.mean(axis=2) for m, values in part.items()} for part in (on_test, on_third))
    return Scores(on_validation, mean_test, mean_third, examples=on_test if shared_examples else None)


def random_searches(scores: Scores, size: int, *, crossed: bool = True) -> SelectionRegret:
    """Searches among ``size`` configurations each, dealt at random to each seed's data: the seed is the unit.

    With ``crossed``, and where all seeds share their test examples, so is the example.
    """
    num_seeds, num_configs = next(iter(scores.test.values())).shape
    rng = np.random.default_rng(0)
    dealt = np.stack([rng.permutation(num_configs) for _ in range(num_seeds)])
    configs = dealt.reshape(-1, min(size, num_configs))  # [search, config]
    seeds = np.repeat(np.arange(num_seeds), len(configs) // num_seeds)

    def searched(by_metric: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {m: values[..., seeds[:, None], configs] for m, values in by_metric.items()}

    validation, test, third = (searched(part) for part in (scores.validation, scores.test, scores.third))
    if crossed and scores.examples is not None:
        test = {m: values[seeds[:, None], configs] for m, values in scores.examples.items()}
    return selection_regret(validation, test, oracle=third, clusters=seeds)


def reliabilities(scores: Scores, sizes: Sequence[int]) -> dict[tuple[int, str], Reliability]:
    """(validation size, metric) → whether so scored, configurations have the order of fresh runs on test."""
    return {
        (size, metric): metric_reliability(
            values[row].T, scores.test[metric].T, same_seeds=True, higher=metric == "accuracy"
        )
        for row, size in enumerate(sizes)
        for metric, values in scores.validation.items()
    }
