"""Replacement: one model in the place of another, each at its tuned learning rate, along training."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from lossjax.analysis.comparison import Comparison, compare_records
from lossjax.analysis.interval import Interval
from lossjax.analysis.records import Records
from lossjax.analysis.resampling import mean_interval
from lossjax.history import History


@dataclasses.dataclass(frozen=True, eq=False)
class Tuned:
    """The finite members of one model at its tuned learning rate.

    Attributes:
        best: the evaluation with the lowest mean validation loss.
        history: with the metrics of the splits val and test and the records of each test example.
    """

    rate: float
    best: int
    history: History

    @property
    def epochs(self) -> Float[np.ndarray, " eval"]:
        return self.history.epochs

    def metric(self, name: str) -> Float[np.ndarray, "member eval"]:
        """Of the test split; ``"gap"`` is mean confidence minus accuracy: above 0, over-confident.

        ``"refined_gap"`` is the same of the confidence at T*.
        """
        if name.endswith("gap"):
            return self.metric(name.replace("gap", "confidence")) - self.metric("accuracy")
        return np.asarray(self.history.metrics[f"test_{name}"], dtype=np.float64)

    def at(self, evaluation: int) -> Records:
        names = ("example_loss", "example_correct", "example_refined_loss")
        loss, correct, refined = (self.history.metrics[f"test_{name}"][:, evaluation] for name in names)
        return Records(loss, correct, refined)

    def best_of(self, name: str) -> Interval:
        return mean_interval(self.metric(name)[:, self.best])


def tuned(history: History) -> Tuned:
    """At the learning rate whose mean validation loss is lowest at its own best evaluation, all runs being finite."""
    best: tuple[float, float, int] | None = None
    for rate in np.unique(history.hyperparams["learning_rate"]).tolist():
        chosen = history.select(learning_rate=rate)
        curve = np.where(chosen.finite[:, None], chosen.metrics["val_loss"], np.inf).astype(np.float64).mean(axis=0)
        at = int(np.argmin(curve))
        if best is None or curve[at] < best[0]:
            best = (float(curve[at]), rate, at)
    assert best is not None
    chosen = history.select(learning_rate=best[1])
    return Tuned(rate=best[1], best=best[2], history=chosen[chosen.finite])


@dataclasses.dataclass(frozen=True, eq=False)
class Replacement:
    """One model replaced by another, over the seeds at which both are finite, in the same order.

    Attributes:
        product: of the gain in accuracy and the rise of the loss, by means over seeds, at the evaluation where that is
            largest; 0 where no evaluation has both.
        evaluation: that one, or the last.
    """

    old: Tuned
    new: Tuned
    product: float
    evaluation: int

    @property
    def premise(self) -> bool:
        """Whether the new model is ever ahead in accuracy and behind in loss."""
        return self.product > 0

    @property
    def epoch(self) -> float:
        return float(self.new.epochs[self.evaluation])

    @property
    def num_seeds(self) -> int:
        return self.new.history.num_members

    def compared(self, before: int, after: int) -> Comparison:
        """The new model at one evaluation with the old one at another."""
        return compare_records(self.old.at(before), self.new.at(after), ordered=False, same_seeds=True)

    def change(self, name: str) -> Float[np.ndarray, "member eval"]:
        return self.new.metric(name) - self.old.metric(name)

    def confidence(self) -> Interval:
        """The new model's mean confidence minus the old one's, at ``evaluation``."""
        return mean_interval(self.change("confidence")[:, self.evaluation])

    def log_temperature(self) -> Interval:
        """Of the new model at ``evaluation``: above 0, over-confident."""
        return mean_interval(np.log(self.new.metric("temperature")[:, self.evaluation]))


def replaced(old: Tuned, new: Tuned) -> Replacement:
    _, a, b = np.intersect1d(old.history.seeds["init"], new.history.seeds["init"], return_indices=True)
    old, new = (dataclasses.replace(one, history=one.history[rows]) for one, rows in ((old, a), (new, b)))
    gain, rise = (new.metric(name).mean(axis=0) - old.metric(name).mean(axis=0) for name in ("accuracy", "loss"))
    product = np.where((gain > 0) & (rise > 0), gain * rise, 0.0)
    product[0] = 0.0  # before any step
    at = int(np.argmax(product)) if product.any() else len(product) - 1
    return Replacement(old, new, float(product.max()), at)
