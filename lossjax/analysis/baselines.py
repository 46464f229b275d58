"""Baselines: what a classifier that looks at no input reaches, the lines below which nothing was learned."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, special

from lossjax.analysis.calibration import BRACKET


class Baseline(NamedTuple):
    """Of one constant prediction on a set of examples."""

    loss: float  # nats
    accuracy: float
    balanced_accuracy: float  # mean over the classes that occur of the share that is correct
    refinement: float  # nats: the loss at the temperature fitted to these labels, in sample: optimistic by about 1/2n


def class_prior(
    class_counts: Int[np.ndarray, " class"], labels: Int[np.ndarray, " example"], *, pseudo_count: float = 1.0
) -> Baseline:
    """Predicts the frequencies of the training labels for every example.

    ``pseudo_count`` is added to every class's count (Laplace's rule at 1), since a class that was never trained on
    would else cost an infinite loss. The most frequent class is chosen, the lowest index first among equals.
    """
    counts = np.asarray(class_counts, dtype=np.float64)
    labels = np.asarray(labels)
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(counts):
        raise ValueError(f"labels must be at least one whole number in 0 … {len(counts) - 1}, the classes counted")
    if not pseudo_count > 0 and np.any(counts[labels] == 0):
        raise ValueError(f"pseudo_count={pseudo_count} gives a label never trained on an infinite loss; raise it")
    smoothed = counts + pseudo_count
    log_prior = np.log(smoothed / smoothed.sum())
    correct = labels == int(np.argmax(smoothed))
    return Baseline(
        loss=float(-log_prior[labels].mean()),
        accuracy=float(correct.mean()),
        balanced_accuracy=float(correct.any() / len(np.unique(labels))),
        refinement=_at_its_temperature(log_prior, labels),
    )


def uniform(num_classes: int) -> Baseline:
    """Gives every class the same probability, and chooses among them at random."""
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes} must be at least 1")
    loss = math.log(num_classes)  # at every temperature
    return Baseline(loss, 1 / num_classes, 1 / num_classes, loss)


def references(class_counts: Int[np.ndarray, " class"], labels: Int[np.ndarray, " example"]) -> dict[str, Baseline]:
    """Both, by the names that figures give them: from training examples of each class and the labels tested on."""
    return {"class prior": class_prior(class_counts, labels), "uniform": uniform(len(class_counts))}


def _at_its_temperature(logits: Float[np.ndarray, " class"], labels: Int[np.ndarray, " example"]) -> float:
    """Loss of logits that all examples share, at the T that minimises Σ ℓ(z/T) + ½ (log T)²."""
    mean = float(logits[labels].mean())

    def loss(log_inverse: float) -> float:
        return float(special.logsumexp(math.exp(log_inverse) * logits)) - math.exp(log_inverse) * mean

    found = optimize.minimize_scalar(
        lambda log_inverse: loss(log_inverse) + log_inverse**2 / (2 * len(labels)),
        bounds=(-math.log(BRACKET), math.log(BRACKET)),
        method="bounded",
    )
    return loss(float(found.x))
