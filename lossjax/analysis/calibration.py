"""Calibration of a classifier's logits: per-example scores, and a loss split into refinement and calibration.

Logits are [example, class], labels whole numbers in 0 … class − 1, losses in nats.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special, stats

from lossjax.analysis.interval import Interval
from lossjax.analysis.resampling import mean_interval

BRACKET = 64.0  # temperatures are sought in 1/64 … 64
_BLOCK = 2**16  # logits worked on at once, half a megabyte: passes over a thousand classes stay within the cache
_THREADED = 16  # blocks from which on threads are worth their start


class Scores(NamedTuple):
    """What one example's logits are worth; each field [example]."""

    loss: Float[np.ndarray, " example"]  # −log p of the label
    correct: Bool[np.ndarray, " example"]  # argmax, ties to the lowest index
    brier: Float[np.ndarray, " example"]  # Σ_k (p_k − [k = label])²
    confidence: Float[np.ndarray, " example"]  # max_k p_k
    tied: Bool[np.ndarray, " example"]  # more than one class has the largest logit


def scores(logits: Float[np.ndarray, "example class"], labels: Int[np.ndarray, " example"]) -> Scores:
    """Loss, correctness, Brier score and confidence of each example, from log-softmax in float64."""
    logits, labels = checked(logits, labels)
    return Scores(*_in_blocks(lambda block: _scores(logits[block], labels[block]), logits.shape))


def _scores(logits: np.ndarray, labels: np.ndarray) -> Scores:
    rows = np.arange(len(labels))
    log_probabilities = special.log_softmax(logits, axis=1)
    probabilities = np.exp(log_probabilities)
    right = probabilities[rows, labels]
    return Scores(
        loss=-log_probabilities[rows, labels],
        correct=logits.argmax(axis=1) == labels,
        brier=(probabilities**2).sum(axis=1) - 2 * right + 1,
        confidence=probabilities.max(axis=1),
        tied=(logits == logits.max(axis=1, keepdims=True)).sum(axis=1) > 1,
    )


def brier(
    logits: Float[np.ndarray, "example class"],
    labels: Int[np.ndarray, " example"],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean Brier score over examples, in 0 … 2."""
    return mean_interval(scores(logits, labels).brier, level=level, seed=seed)


@dataclasses.dataclass(frozen=True, eq=False)
class Decomposition:
    """A loss as refinement + calibration.

    For one model, calibration is a lower bound on the true calibration loss and refinement an upper bound on the true
    refinement: a single temperature may not repair everything.

    Attributes:
        loss: mean cross-entropy.
        refinement: mean loss at temperatures fitted on the other folds.
        calibration: estimate = loss − refinement, so the three add up. Its bounds belong to the in-sample difference
            (see ``calibration_interval``); they may lie below 0 and are never cut. Where examples are nearly all alike,
            the penalty parts the two; the bounds then reach to the estimate.
        temperature: fitted on all examples.
        fold_temperatures: [fold] fitted on all but that fold.
        at_edge: whether any of these sits on the edge of the bracket.
        tied: share of examples with tied argmaxes.
        losses, refined: [example] the per-example losses whose means are ``loss`` and ``refinement``.
    """

    loss: Interval
    refinement: Interval
    calibration: Interval
    temperature: float
    fold_temperatures: np.ndarray
    at_edge: bool
    tied: float
    losses: np.ndarray
    refined: np.ndarray


def decompose(
    logits: Float[np.ndarray, "example class"],
    labels: Int[np.ndarray, " example"],
    *,
    folds: int = 5,
    seed: int = 0,
    level: float = 0.95,
) -> Decomposition:
    """Splits a loss into what one temperature leaves (refinement) and what it removes (calibration).

    The temperature minimises Σ ℓ(z/T) + ½ (log T)² on [1/64, 64]; refinement is cross-fitted, because in sample it is
    too low by about 1/2n (Berta, Holzmüller, Jordan & Bach 2025). Folds are stratified by correctness.
    """
    logits, labels = checked(logits, labels)
    measured = scores(logits, labels)
    fold = assign_folds(measured.correct, folds=folds, seed=seed)
    fit = fit_temperature(logits, labels, fold, folds)
    refined = fit.refined
    loss = mean_interval(measured.loss, level=level, seed=seed)
    refinement = mean_interval(refined, level=level, seed=seed)
    return Decomposition(
        loss=loss,
        refinement=refinement,
        calibration=calibration_interval(measured.loss, fit, level=level),
        temperature=fit.temperature,
        fold_temperatures=fit.fold_temperatures,
        at_edge=fit.at_edge,
        tied=float(measured.tied.mean()),
        losses=measured.loss,
        refined=refined,
    )


def assign_folds(strata: np.ndarray, *, folds: int = 5, seed: int = 0) -> Int[np.ndarray, " example"]:
    """The fold of each example, in 0 … folds − 1: drawn once from the seed, each stratum spread evenly over the folds.

    Two models that are compared share them: stratify by both correctnesses at once.
    """
    strata = np.asarray(strata)
    if not 2 <= folds <= len(strata):
        raise ValueError(f"folds={folds} must lie in 2 … {len(strata)}, the number of examples")
    shuffled = np.random.default_rng(seed).permutation(len(strata))
    # strata one after another, each in random order; dealing round keeps every fold's size within one of the others'
    order = shuffled[np.argsort(strata[shuffled], kind="stable")]
    fold = np.empty(len(strata), dtype=np.int64)
    fold[order] = np.arange(len(strata)) % folds
    return fold


@dataclasses.dataclass(frozen=True, eq=False)
class TemperatureFit:
    """Temperatures of all examples and of all but each fold; ``refined`` [example] is at its own fold's temperature.

    ``in_sample`` [example] is the loss at the temperature of all examples; ``score_variance`` and ``curvature`` are V
    and H, per example, of the loss in log 1/T there.
    """

    temperature: float
    fold_temperatures: np.ndarray
    at_edge: bool
    refined: np.ndarray
    in_sample: np.ndarray
    score_variance: float
    curvature: float


def fit_temperature(
    logits: Float[np.ndarray, "example class"],
    labels: Int[np.ndarray, " example"],
    fold: Int[np.ndarray, " example"],
    folds: int,
) -> TemperatureFit:
    """Fits the temperature to all examples and, from there, to all but each fold."""
    shifted = logits - logits.max(axis=1, keepdims=True)  # the largest is 0 at every temperature: nothing overflows
    label_logits = shifted[np.arange(len(labels)), labels]
    everything = np.ones(len(labels), dtype=bool)
    whole = _minimise(shifted, label_logits, everything, 0.0)
    in_sample, gradient, curvature = _derivatives(shifted, label_logits, whole)
    # every fold sets out from the optimum of all examples, where their derivatives are known
    start = (gradient, curvature)
    inverse_logs = np.array([_minimise(shifted, label_logits, fold != k, whole, start) for k in range(folds)])
    refined, _, _ = _derivatives(shifted, label_logits, inverse_logs[fold])
    edge = math.log(BRACKET) - 1e-6
    return TemperatureFit(
        temperature=math.exp(-whole),
        fold_temperatures=np.exp(-inverse_logs),
        at_edge=bool(np.any(np.abs(np.append(inverse_logs, whole)) >= edge)),
        refined=refined,
        in_sample=in_sample,
        score_variance=float(np.mean(gradient**2)),
        curvature=float(np.mean(curvature) + 1 / len(labels)),
    )


def refined_losses(
    logits: Float[np.ndarray, "model example class"],
    labels: Int[np.ndarray, " example"],
    fold: Int[np.ndarray, " example"],
    folds: int,
) -> Float[np.ndarray, "model example"]:
    """``fit_temperature(…).refined`` of many models on the same examples and folds, all at once; finite float64."""
    shifted = logits - logits.max(axis=2, keepdims=True)
    label_logits = shifted[:, np.arange(len(labels)), labels]
    whole = _minimise_each(shifted, label_logits, np.zeros(len(logits)))
    inverse_logs = np.empty((len(logits), folds))
    for k in range(folds):
        inverse_logs[:, k] = _minimise_each(shifted[:, fold != k], label_logits[:, fold != k], whole)
    inverse = np.exp(inverse_logs)[:, fold]
    total = np.exp(shifted * inverse[:, :, None]).sum(axis=2)
    return np.asarray(np.log(total) - inverse * label_logits)


def _minimise_each(
    shifted: Float[np.ndarray, "model example class"],
    label_logits: Float[np.ndarray, "model example"],
    guess: Float[np.ndarray, " model"],
) -> Float[np.ndarray, " model"]:
    """``_minimise`` of each model."""
    value = guess.copy()
    low, high = np.full_like(value, -math.log(BRACKET)), np.full_like(value, math.log(BRACKET))
    last, before = (np.full_like(value, np.inf) for _ in range(2))
    left = np.arange(len(value))  # models that have not converged
    for _ in range(100):
        z, slope = shifted[left], np.exp(value[left])[:, None]
        weights = np.exp(z * slope[:, :, None])
        total = weights.sum(axis=2)
        mean = np.einsum("mec,mec->me", weights, z) / total
        second = np.einsum("mec,mec,mec->me", weights, z, z) / total
        first = slope * (mean - label_logits[left])
        gradient = first.sum(axis=1) + value[left]
        curvature = (first + slope**2 * (second - mean**2)).sum(axis=1) + 1
        low[left] = np.where(gradient > 0, low[left], value[left])
        high[left] = np.where(gradient > 0, value[left], high[left])
        step = gradient / np.where(curvature > 0, curvature, np.nan)
        following = value[left] - step
        # false for nan
        newton = (low[left] <= following) & (following <= high[left]) & (np.abs(step) <= before[left] / 2)
        following = np.where(newton, following, (low[left] + high[left]) / 2)
        last[left], before[left] = np.abs(following - value[left]), last[left]
        value[left] = following
        left = left[last[left] >= 1e-8]
        if len(left) == 0:
            return value
    raise ArithmeticError(f"{len(left)} temperatures did not converge")


def _minimise(
    shifted: np.ndarray,
    label_logits: np.ndarray,
    chosen: np.ndarray,
    guess: float,
    start: tuple[np.ndarray, np.ndarray] | None = None,
) -> float:
    """log 1/T at the minimum of Σ ℓ + ½ (log T)² over the chosen examples.

    Newton, with bisection where it would leave the bracket, and where a step is more than half the one before the last
    (as Press et al. 2007, sec. 9.4): where all examples but a few are sure and right, its steps would be short long
    before the minimum. ``start`` holds the first and second derivatives of all examples at the guess, where they are
    known.
    """
    low, high = -math.log(BRACKET), math.log(BRACKET)
    value = guess
    last, before = math.inf, math.inf  # how far the last step went, and the one before it
    for _ in range(100):
        if start is None:
            _, gradients, curvatures = _derivatives(shifted, label_logits, value, chosen)
        else:
            (gradients, curvatures), start = (each[chosen] for each in start), None
        gradient, curvature = gradients.sum() + value, curvatures.sum() + 1
        low, high = (low, value) if gradient > 0 else (value, high)
        step = gradient / curvature if curvature > 0 else math.inf
        following = value - step
        if not low <= following <= high or abs(step) > before / 2:
            following = (low + high) / 2
        last, before = abs(following - value), last
        if last < 1e-8:
            return following
        value = following
    raise ArithmeticError(f"the temperature did not converge; the bracket of log 1/T is [{low}, {high}]")


def _derivatives(
    shifted: np.ndarray,
    label_logits: np.ndarray,
    inverse_log: float | np.ndarray,
    chosen: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loss of each (chosen) example at log 1/T, with its first and second derivative in log 1/T.

    The largest of an example's logits is 0. ``inverse_log`` is one for all, or one an example.
    """
    inverse = np.broadcast_to(np.exp(inverse_log), label_logits.shape)

    def derivatives(block: slice) -> tuple[np.ndarray, ...]:
        z, labels, slope = shifted[block], label_logits[block], inverse[block]
        if chosen is not None:
            kept = chosen[block]
            z, labels, slope = z[kept], labels[kept], slope[kept]
        weights = np.exp(z * slope[:, None])
        total = weights.sum(axis=1)
        second = np.einsum("ec,ec,ec->e", weights, z, z) / total
        mean = np.einsum("ec,ec->e", weights, z) / total
        gradient = slope * (mean - labels)
        return np.log(total) - slope * labels, gradient, gradient + slope**2 * (second - mean**2)

    loss, first, curvature = _in_blocks(derivatives, shifted.shape)
    return loss, first, curvature


def _in_blocks(function: Callable[[slice], tuple[np.ndarray, ...]], shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """The function's arrays [example], block of examples by block; many blocks on all cores, with the same bits."""
    rows = max(1, _BLOCK // shape[1])
    blocks = [slice(start, start + rows) for start in range(0, shape[0], rows)]
    if len(blocks) < _THREADED:
        parts = [function(block) for block in blocks]
    else:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = list(pool.map(function, blocks))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def calibration_interval(
    losses: Float[np.ndarray, " example"], fit: TemperatureFit, *, level: float = 0.95
) -> Interval:
    """``Decomposition.calibration`` from losses and temperatures that are known already.

    With g the mean gain in sample, s²/n its variance and κ/2n its optimism, the lower bound is that of the symmetric
    interval, g − κ/2n − z √(s²/n + κ²/2n²). To the symmetric upper bound small calibration losses are too often beyond
    (of 95 % intervals 88 % cover where nC is about 2κ). There g is the square of a normal variable whose mean is the
    root of C, up to a factor: the upper bound is therefore that of the root, squared, g + z s/√n + z² κ/2n.

    The penalty holds the temperatures of the other folds, which have fewer examples, nearer to 1 than that of all, by
    which the cross-fitted estimate is lower. This is no sampling error: the bounds are widened to the estimate where it
    lies beyond them, so they cover as often or more often.
    """
    count = len(losses)
    estimate = float(losses.mean() - fit.refined.mean())
    gains = losses - fit.in_sample
    gain, variance = float(gains.mean()), float(gains.var(ddof=1)) / count
    optimism = fit.score_variance / fit.curvature / (2 * count)  # κ/2n
    z = float(stats.norm.ppf((1 + level) / 2))
    low = gain - optimism - z * math.sqrt(variance + 2 * optimism**2)
    high = gain + z * math.sqrt(variance) + z**2 * optimism
    return Interval(estimate, min(low, estimate), max(high, estimate), level)


def checked(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits as float64 and labels, or a ValueError that names what is wrong with them."""
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits {logits.shape} and labels {labels.shape} must be [example, class] and [example]")
    if logits.shape[0] < 2 or logits.shape[1] < 2:
        raise ValueError(f"logits {logits.shape} need two examples and two classes at least")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"labels must be whole numbers in 0 … {logits.shape[1] - 1}, the classes that logits have")
    if not np.isfinite(logits).all():
        raise ValueError("logits are not all finite; leave non-finite members out and report their share")
    return logits, labels
