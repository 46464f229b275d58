"""Repairs of logits with parameters for each class: a bias, or a scale and a bias (bias and vector scaling).

One temperature cannot repair class frequencies that a model believes in and that are no more: a bias for each class can
(Saerens, Latinne & Decaestecker 2002), and a scale for each class a confidence that differs between classes (vector
scaling: Guo, Pleiss, Sun & Weinberger 2017, sec. 4.2).
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, special

from lossjax.analysis.calibration import BRACKET, checked

Repair = Literal["bias", "vector"]
REPAIRS: Final[tuple[Repair, ...]] = ("bias", "vector")

_BLOCK = 2**16  # numbers worked on at once: passes over many classes stay within the cache
_CHANGE = 1e-7  # of the penalised sum of losses, relative, below which a fit has converged


def repaired_losses(
    logits: Float[np.ndarray, "example class"],
    labels: Int[np.ndarray, " example"],
    fold: Int[np.ndarray, " example"],
    repair: Repair,
) -> Float[np.ndarray, " example"]:
    """Each example's loss with the repair that was fitted to all folds but its own.

    With x = log softmax(logits), so that a constant added to an example's logits changes nothing, the repaired logits
    are s·x_k + b_k ("bias") or s·s_k·x_k + b_k ("vector"). Fits minimise Σ ℓ + ½ (log s)² + ½ Σ_k (log s_k)² +
    ½ Σ_k b_k²: the penalty of the temperature (``calibration``), which also holds the classes that a fold lacks.
    """
    logits, labels = checked(logits, labels)
    x = special.log_softmax(logits, axis=1)
    everything = _fitted(x, labels, repair, np.zeros(_size(repair, x.shape[1])))
    losses = np.empty(len(labels))
    for k in np.unique(fold):
        own = fold == k
        found = _fitted(x[~own], labels[~own], repair, everything)
        scales, biases = _unpacked(found, repair, x.shape[1])
        repaired = special.log_softmax(x[own] * scales + biases, axis=1)
        losses[own] = -repaired[np.arange(len(repaired)), labels[own]]
    return losses


def _size(repair: Repair, num_classes: int) -> int:
    return 1 + num_classes * (1 if repair == "bias" else 2)


def _unpacked(values: np.ndarray, repair: Repair, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and bias of each class, from log s, the biases, and for vector scaling the logs of s_k."""
    own = values[1 + num_classes :] if repair == "vector" else np.zeros(num_classes)
    return np.exp(values[0] + own), values[1 : 1 + num_classes]


def _fitted(x: np.ndarray, labels: np.ndarray, repair: Repair, start: np.ndarray) -> np.ndarray:
    """The parameters at the minimum; logs of scales stay within the bracket of the temperature."""
    num_classes = x.shape[1]
    reach = np.log(BRACKET)
    bounds = [(-reach, reach)] + [(None, None)] * num_classes + [(-reach, reach)] * (len(start) - 1 - num_classes)
    found = optimize.minimize(
        _objective,
        start,
        args=(x, labels, repair),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": 500, "ftol": _CHANGE, "gtol": 1e-6 * len(labels)},
    )
    return np.asarray(found.x)


def _objective(values: np.ndarray, x: np.ndarray, labels: np.ndarray, repair: Repair) -> tuple[float, np.ndarray]:
    """The penalised sum of losses and its gradient."""
    num_classes = x.shape[1]
    scales, biases = _unpacked(values, repair, num_classes)
    total, by_class, by_scale = 0.0, np.zeros(num_classes), np.zeros(num_classes)
    rows = max(1, _BLOCK // num_classes)
    for start in range(0, len(x), rows):
        part, their = x[start : start + rows], labels[start : start + rows]
        at = np.arange(len(part))
        repaired = special.log_softmax(part * scales + biases, axis=1)
        total -= repaired[at, their].sum()
        residual = np.exp(repaired)
        residual[at, their] -= 1
        by_class += residual.sum(axis=0)
        by_scale += np.einsum("ec,ec->c", residual, part)
    by_scale *= scales
    gradient = np.concatenate([[by_scale.sum()], by_class, by_scale if repair == "vector" else []])
    return total + 0.5 * float(values @ values), gradient + values
