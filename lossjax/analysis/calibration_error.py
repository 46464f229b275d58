"""Expected calibration error: always with its binning, and with what a calibrated model would show."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import sparse

from lossjax.analysis.calibration import checked, scores
from lossjax.analysis.interval import Interval, Intervals
from lossjax.analysis.proportions import wilson
from lossjax.analysis.resampling import mean_interval

Scheme = Literal["width", "mass"]
NULL_DRAWS = 1000


@dataclasses.dataclass(frozen=True)
class CalibrationError:
    """An expected calibration error and its null distribution.

    Attributes:
        estimate: with an interval that takes the sign of each bin's gap for given, hence is too high near calibration.
            So it reaches down to 0 wherever ``p_value`` does not reject calibration. It covers 94–96 %, but 89 % where
            200 examples are of a little over-confidence (results/coverage).
        null_mean: the mean for a calibrated model with these confidences: it is not 0.
        p_value: one-sided, that a calibrated model shows at least this.
        squared: whether ``estimate`` is the debiased squared error, whose null mean is about 0.
    """

    estimate: Interval
    null_mean: float
    p_value: float
    bins: int
    scheme: Scheme
    squared: bool


def ece(
    logits: Float[np.ndarray, "example class"],
    labels: Int[np.ndarray, " example"],
    *,
    bins: int = 15,
    scheme: Scheme = "width",
    debias: bool = False,
    level: float = 0.95,
    seed: int = 0,
) -> CalibrationError:
    """Expected calibration error of the top label's confidence.

    Args:
        bins: of equal width on [0, 1], the upper edge belonging to the bin, as confidence 1.0 to the last; or of equal
            mass, sorted by confidence. Equal confidences that bins share are divided among them in proportion, as in
            training's own measure, so that the order of examples does not matter.
        scheme: ``"width"`` or ``"mass"`` (Roelofs et al. 2022).
        debias: the squared error without its bias instead (Kumar, Liang & Ma 2019, sec. 4); it may be negative and is
            not cut. A bin with one example adds nothing.
    """
    logits, labels = checked(logits, labels)
    measured = scores(logits, labels)
    return confidence_error(
        measured.confidence, measured.correct, bins=bins, scheme=scheme, debias=debias, level=level, seed=seed
    )


def ece_by_group(
    logits: Float[np.ndarray, "example class"],
    labels: Int[np.ndarray, " example"],
    groups: Shaped[np.ndarray, " example"],
    *,
    bins: int = 15,
    scheme: Scheme = "width",
    debias: bool = False,
    level: float = 0.95,
    seed: int = 0,
) -> dict[Hashable, CalibrationError]:
    """The error within each group of examples, as head, middle and tail classes: group → error."""
    logits, labels = checked(logits, labels)
    groups = np.asarray(groups)
    if groups.shape != labels.shape:
        raise ValueError(f"groups {groups.shape} must name one group for each of the {len(labels)} examples")
    measured = scores(logits, labels)
    found: dict[Hashable, CalibrationError] = {}
    for group in np.unique(groups):
        chosen = groups == group
        found[group.item()] = confidence_error(
            measured.confidence[chosen],
            measured.correct[chosen],
            bins=bins,
            scheme=scheme,
            debias=debias,
            level=level,
            seed=seed,
        )
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram: each field [bin], of the bins that hold an example.

    ``accuracy`` has Wilson's intervals, which take the examples of a bin for independent.
    """

    low: np.ndarray  # the bin's edges, by confidence
    high: np.ndarray
    count: np.ndarray
    confidence: np.ndarray  # mean
    accuracy: Intervals


def reliability(
    confidence: Float[np.ndarray, " example"],
    correct: Bool[np.ndarray, " example"],
    *,
    bins: int = 15,
    level: float = 0.95,
) -> Reliability:
    """Accuracy against confidence in bins of equal width."""
    bin_of = _width_bins(confidence, bins)
    count = np.bincount(bin_of, minlength=bins)
    held = np.flatnonzero(count)
    hits = np.bincount(bin_of, correct, minlength=bins)[held].astype(np.int64)
    shares = [wilson(hit, total, level=level) for hit, total in zip(hits.tolist(), count[held].tolist(), strict=True)]
    estimate, low, high = np.array([(share.estimate, share.low, share.high) for share in shares]).T
    return Reliability(
        low=held / bins,
        high=(held + 1) / bins,
        count=count[held],
        confidence=np.bincount(bin_of, confidence, minlength=bins)[held] / count[held],
        accuracy=Intervals(estimate, low, high, level),
    )


def confidence_error(
    confidence: Float[np.ndarray, " example"],
    correct: Bool[np.ndarray, " example"],
    *,
    bins: int = 15,
    scheme: Scheme = "width",
    debias: bool = False,
    level: float | None = 0.95,
    seed: int = 0,
) -> CalibrationError:
    """``ece`` from confidences and correctness, where they are known already.

    With ``level`` None the estimate has no interval, which takes most of the time; the null mean and the p-value stay.
    """
    if len(confidence) == 0 or not np.all((confidence >= 0) & (confidence <= 1)):
        raise ValueError("confidence must hold at least one probability, each in [0, 1]")
    part = _membership(confidence, bins, scheme)  # [bin, example]
    gaps = correct - confidence  # [example]
    sizes = part.sum(axis=1)
    share = sizes / len(gaps)
    squares = part.multiply(part).sum(axis=1)
    # of the examples of a bin, divided ones counting with their part (Kish 1965): its size where none is divided
    effective = np.divide(sizes**2, squares, out=np.zeros(bins), where=squares > 0)

    def value(sums: np.ndarray, hits: np.ndarray) -> Float[np.ndarray, "*draw"]:
        """From each bin's sum of gaps and its number of correct examples, the last axis being bins."""
        mean_gap, rate = sums / np.maximum(sizes, 1), hits / np.maximum(sizes, 1)
        if not debias:
            return np.asarray((share * np.abs(mean_gap)).sum(axis=-1))
        many = effective > 1 + 1e-9
        noise = rate * (1 - rate) / np.where(many, effective - 1, 1.0)
        return np.asarray((np.where(many, share, 0.0) * (mean_gap**2 - noise)).sum(axis=-1))

    sums, hits = part @ gaps, part @ correct.astype(np.float64)
    estimate = float(value(sums, hits))

    rng = np.random.default_rng(seed)
    expected = hits - sums  # of correct examples, were the model calibrated
    null_hits = np.stack([part @ (rng.random(len(gaps)) < confidence).astype(np.float64) for _ in range(NULL_DRAWS)])
    null = value(null_hits - expected, null_hits)
    p_value = (1 + np.sum(null >= estimate - 1e-12)) / (1 + NULL_DRAWS)

    mean_gap = sums / np.maximum(sizes, 1)
    found = Interval.without_bounds(estimate)
    # what one more example like this one would change: the derivative of |gap|, or of its square, in each bin
    slope = 2 * mean_gap if debias else np.sign(mean_gap)
    influence = (part.T @ slope) * gaps - (part.T @ mean_gap**2 if debias else 0.0)
    if level is not None:
        around = mean_interval(influence, level=level, seed=seed)
        low, high = (estimate + (bound - around.estimate) for bound in (around.low, around.high))
        found = Interval(estimate, low if p_value <= 1 - level else min(low, 0.0), high, level)
    return CalibrationError(
        estimate=found,
        null_mean=float(null.mean()),
        p_value=float(p_value),
        bins=bins,
        scheme=scheme,
        squared=debias,
    )


def _membership(confidence: np.ndarray, bins: int, scheme: Scheme) -> sparse.csr_array:
    """[bin, example] the part of each example that is in each bin: all of it in one, but for ties at an edge.

    Bin b of equal mass holds the ranks r with floor(r·bins/n) = b. Equal confidences hold as many ranks in common.
    """
    num_examples = len(confidence)
    if scheme == "width":
        parts = np.ones(num_examples), (_width_bins(confidence, bins), np.arange(num_examples))
        return sparse.csr_array(parts, shape=(bins, num_examples))
    if scheme != "mass":
        raise ValueError(f"scheme={scheme!r} is none of width, mass")
    _check_bins(bins)
    _, level, ties = np.unique(confidence, return_inverse=True, return_counts=True)
    end = np.cumsum(ties)
    begin = end - ties
    edges = -(-np.arange(bins + 1) * num_examples // bins)  # the first rank of each bin
    first, last = (np.searchsorted(edges, rank, side="right") - 1 for rank in (begin, end - 1))
    # one entry for each level of confidence and each bin that it reaches into
    reach = last - first + 1
    of_level = np.repeat(np.arange(len(ties)), reach)
    of_bin = np.repeat(first - np.cumsum(reach) + reach, reach) + np.arange(len(of_level))
    common = np.minimum(end[of_level], edges[of_bin + 1]) - np.maximum(begin[of_level], edges[of_bin])
    by_level = sparse.csr_array((common / ties[of_level], (of_bin, of_level)), shape=(bins, len(ties)))
    members = sparse.csr_array((np.ones(num_examples), (level, np.arange(num_examples))), (len(ties), num_examples))
    return sparse.csr_array(by_level @ members)


def _width_bins(confidence: np.ndarray, bins: int) -> Int[np.ndarray, " example"]:
    _check_bins(bins)
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def _check_bins(bins: int) -> None:
    if bins < 1:
        raise ValueError(f"bins={bins} must be at least 1")
