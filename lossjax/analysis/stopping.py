"""Stopping: rules that keep one evaluation of a run, chosen on validation, and what that is worth on test."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from lossjax.analysis.arms import Stop, arm
from lossjax.analysis.contrasts import Pair
from lossjax.analysis.interval import Interval
from lossjax.analysis.regimes import Flat
from lossjax.analysis.selection import SelectionRegret, selection_regret
from lossjax.history import History

METRICS = ("loss", "refinement", "brier", "accuracy")


@dataclasses.dataclass(frozen=True, eq=False)
class Stopped:
    """One place: what every rule keeps of every run, and what that is worth on test."""

    num_members: int
    progress: np.ndarray  # [eval] share of training done
    finite: np.ndarray  # [seed]
    test: Mapping[str, np.ndarray]  # metric → [seed, eval]
    kept: Mapping[str, np.ndarray]  # rule → [seed] the evaluation it keeps
    regret: SelectionRegret  # rules by judges
    over_seeds: SelectionRegret  # the same with the test examples held fixed
    pair: Pair  # stopped with patience against trained to the end
    shared: bool  # whether all runs have the same test examples

    def judged(self, rule: str, metric: str) -> np.ndarray:
        """[seed] of the finite: the test value of what the rule keeps."""
        return np.asarray(self.test[metric][self.finite, self.kept[rule][self.finite]])

    def difference(self, rule: str, other: str, metric: str, *, fixed: bool = False) -> Interval:
        """Judged value when stopped by ``rule`` minus by ``other``; on these test examples if they are ``fixed``."""
        found = self.over_seeds if fixed else self.regret
        one, two = (found.selectors.index(name) for name in (rule, other))
        return found.difference[one, two, found.judges.index(metric)]


def stopped(history: History, stop: Stop, *, flat: Flat) -> Stopped:
    """Evaluations take the place of configurations, and runs that of searches.

    Args:
        history: with the metrics of val and test; records of the test examples where all runs have the same.
        stop: early stopping with patience, against training to the end.
        flat: the differences of a run taken for none.
    """
    shared = "test_example_loss" in history.metrics
    val, test = (
        {name: np.asarray(history.metrics[f"{split}_{name}"], np.float64) for name in METRICS}
        for split in ("val", "test")
    )
    by_rule = scores(val)
    # lower is better in every score here
    over_seeds = regret = selection_regret(by_rule, test, higher=())
    if shared:
        examples = {name: history.metrics[f"test_example_{record}"] for name, record in _EXAMPLES.items()}
        regret = selection_regret(by_rule, _with_gaps(examples, history.finite, test["loss"]), higher=())
    early, to_end = (arm(history, flat=flat, stop=one, shared_examples=shared) for one in (stop, None))
    return Stopped(
        num_members=history.num_members,
        progress=history.steps / history.steps[-1],
        finite=history.finite,
        test=test,
        kept={rule: np.where(np.isfinite(cost), cost, np.inf).argmin(axis=1) for rule, cost in by_rule.items()},
        regret=regret,
        over_seeds=over_seeds,
        pair=Pair(early, to_end),
        shared=shared,
    )


def scores(val: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rule → [seed, eval] what it is to be lowest in. Rules of accuracy take the first, or the last, of the tied."""
    order = 1e-9 * np.arange(val["loss"].shape[1])
    error = 1 - val["accuracy"]
    return {
        "loss": val["loss"],
        "refinement": val["refinement"],
        "brier": val["brier"],
        "accuracy": error + order,
        "error": error - order,
        "end": np.where(np.isfinite(val["loss"]), -order, np.nan),
    }


_EXAMPLES = {"loss": "loss", "refinement": "refined_loss", "accuracy": "correct"}  # metric → its record


def _with_gaps(examples: Mapping[str, np.ndarray], finite: np.ndarray, losses: np.ndarray) -> dict[str, np.ndarray]:
    """[seed, eval, example] as float64, nan where a run that broke has no finite loss: correctness has no nan."""
    broken = ~np.isfinite(losses) & ~finite[:, None]
    return {name: np.where(broken[..., None], np.nan, values.astype(np.float64)) for name, values in examples.items()}
