"""Plateaus: the runs with a window of training, long enough to count, in which the loss falls and accuracy stays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from lossjax.analysis.interval import Interval
from lossjax.analysis.proportions import wilson
from lossjax.analysis.regimes import Flat, Windows, longest_window, observed_windows
from lossjax.history import History

HELD_OUT = ("val", "test")
# the training loss, and what is often shown in its place
TRAINING_LOSSES = {"train_loss": "training loss", "batch_loss": "the last batch's loss"}


def held_out_records(
    history: History,
) -> tuple[Float[np.ndarray, "member eval example"], Bool[np.ndarray, "member eval example"]]:
    """Losses and correctness of the validation and test examples together, of those splits that have records."""
    splits = [split for split in HELD_OUT if f"{split}_example_loss" in history.metrics]
    losses, correct = (
        np.concatenate([history.metrics[f"{split}_example_{what}"] for split in splits], axis=2)
        for what in ("loss", "correct")
    )
    return losses, correct


@dataclasses.dataclass(frozen=True, eq=False)
class Plateaus:
    """The longest window in which loss falls and accuracy is flat (P) of each finite run, as a share of training.

    Attributes:
        resolved: [member] on held-out examples; neither at the ceiling nor at chance.
        by_estimate: the same where the estimates of ΔL and ΔA are taken for certain.
        at_limit: as ``resolved``, at the ceiling or at chance.
        in_training: name of a training loss → [member] of that loss and training accuracy, below 100 %.
        num_members: all runs, the non-finite ones too.
        shortest: the share of training that counts.
    """

    resolved: np.ndarray
    by_estimate: np.ndarray
    at_limit: np.ndarray
    in_training: Mapping[str, np.ndarray]
    num_members: int
    shortest: float

    def share(self, longest: Float[np.ndarray, " member"]) -> Interval:
        """Runs whose longest window counts, of all members, the non-finite ones in the denominator."""
        return wilson(self.count(longest), self.num_members)

    def count(self, longest: Float[np.ndarray, " member"]) -> int:
        return int((longest >= self.shortest - 1e-9).sum())  # a share of whole steps, but for rounding

    def numbers(self, name: str) -> dict[str, Interval]:
        """Every share, as a report names it after what it is of."""
        return {
            f"{name}: runs not finite": wilson(self.num_members - len(self.resolved), self.num_members),
            f"{name}: runs with a held-out plateau": self.share(self.resolved),
            f"{name}: … by estimates alone, resolved or not": self.share(self.by_estimate),
            f"{name}: … at the ceiling or at chance, counted apart": self.share(self.at_limit),
            **{
                f"{name}: runs with a plateau of training accuracy below 100 %, by {label}": self.share(longest)
                for label, longest in self.in_training.items()
            },
        }


def plateaus(
    history: History,
    found: Windows,
    losses: Float[np.ndarray, "member eval"],
    accuracies: Float[np.ndarray, "member eval"],
    *,
    shortest: float,
    flat: Flat,
) -> Plateaus:
    """Of a history with the metrics of the training set.

    Args:
        found: the regimes of the finite members' windows on held-out examples.
        losses, accuracies: their held-out means, for what the estimates say.
    """
    finite = history[history.finite]
    observed = observed_windows(losses, accuracies, flat=flat)
    in_training = {}
    for loss, label in TRAINING_LOSSES.items():
        # on the training set nothing was sampled: falling by more than δ, flat within ±δ
        curves = finite.metrics[loss][:, 1:]  # before any step there is no last batch
        seen = observed_windows(curves, finite.metrics["train_accuracy"][:, 1:], flat=flat)
        in_training[label] = longest_window(seen.letters, finite.epochs[1:], among=~seen.ceiling)
    return Plateaus(
        resolved=longest_window(found.letters, finite.steps, among=found.interior),
        by_estimate=longest_window(observed.letters, finite.steps, among=found.interior),
        at_limit=longest_window(found.letters, finite.steps, among=~found.interior),
        in_training=in_training,
        num_members=history.num_members,
        shortest=shortest,
    )
