"""Diagnosis: what ``lossjax diagnose`` answers, one frozen value. Page, text and JSON show it and compute nothing."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np

from lossjax.analysis.attribution import Influence
from lossjax.analysis.interval import Interval

SCHEMA: Final = 1  # of the JSON; raised when a reader of the old form would misread the new one

Goal = Literal["probabilities", "recalibrated", "accuracy", "balanced"]
GOALS: Final[Mapping[Goal, str]] = {
    "probabilities": "the best probabilities as they are",
    "recalibrated": "the best probabilities after recalibration",
    "accuracy": "the best accuracy",
    "balanced": "the best balanced accuracy",
}


@dataclasses.dataclass(frozen=True)
class CellChange:
    """What the examples of one of the four cells contribute to ΔL, and their share of all examples."""

    change: Interval
    share: float


@dataclasses.dataclass(frozen=True)
class Model:
    """One of the two models that are compared; losses in nats.

    ``refinement``, ``calibration`` and ``temperature`` are None for a curve; ``temperature`` is the geometric mean over
    seeds. The bounds of ``calibration`` are those of ``lossjax.analysis.calibration.Decomposition``; for several seeds
    or clusters, those of the mean of out-of-fold differences. ``calibration_error`` is the expected one, in bins of
    equal width, and ``calibration_error_null`` what a calibrated model of these confidences would show.
    """

    name: str
    loss: Interval
    accuracy: Interval
    brier: Interval | None = None
    confidence: float | None = None
    refinement: Interval | None = None
    calibration: Interval | None = None
    temperature: float | None = None
    temperature_at_edge: bool = False
    tied: float = 0.0
    calibration_error: float | None = None
    calibration_error_null: float | None = None
    calibration_error_p: float | None = None


@dataclasses.dataclass(frozen=True)
class Repair:
    """What a repair with more parameters than a temperature does, fitted to each model on other examples.

    Tried where the loss rose and no temperature repairs it, whatever accuracy did.

    Attributes:
        kind: "bias", one for each class beside the temperature, or "vector", a scale and a bias for each.
        num_examples: that it was fitted to and judged on, five folds of them: fewer than all where it would take long.
        left: ΔL with both models so repaired.
        contrast: 0.2·ΔL − left; above 0 where the repair takes away at least four fifths of the rise.
        gain: what it takes from the loss of the second model.
    """

    kind: Literal["bias", "vector"]
    num_examples: int
    left: Interval
    contrast: Interval
    gain: Interval


@dataclasses.dataclass(frozen=True)
class Group:
    """A class-frequency group: its contribution to ΔL and to ΔA, which add up over groups."""

    name: str
    num_classes: int
    share: float  # of the examples
    delta_loss: Interval
    delta_accuracy: Interval


@dataclasses.dataclass(frozen=True)
class ClassChange:
    """One of the classes, by the label, whose examples contribute most to ΔL.

    Chosen as the largest, and so without intervals. ``singled_out``: it has half or more of all that pushes ΔL its way,
    and its examples changed otherwise than the rest by Welch's t, with Bonferroni's correction for the number of
    classes; False for seeds and clusters, where that p does not hold.
    """

    name: str
    num_examples: int
    share: float  # of the examples
    delta_loss: float  # contribution to ΔL, nats; those of all classes add up to it
    accuracy_before: float  # of its examples
    accuracy_after: float
    singled_out: bool


@dataclasses.dataclass(frozen=True)
class Example:
    """One of the examples whose losses changed most. Probabilities are those of the label, over seeds the geometric
    mean, so that they move as its loss does."""

    index: int
    label: str
    predicted_before: str | None  # None where there are several seeds
    predicted_after: str | None
    probability_before: float
    probability_after: float
    change: float  # of its loss, nats
    share: float  # of the sum of the sizes of all changes


@dataclasses.dataclass(frozen=True)
class Settling:
    """Whether the size of the evaluation set, or the seed, could explain the difference.

    ``needed_*`` examples would show an unchanged pair flat at ±δ; ``flat_*`` is the least δ at which this pair is flat;
    ``detectable_loss`` is the difference in loss that this many units, examples or seeds, show with 80 % power.
    ``refused`` says why so few seeds get no verdict, whatever the intervals. None where the design does not give it.
    """

    num_examples: int
    num_clusters: int | None
    num_seeds: int | None
    needed_loss: float | None
    needed_accuracy: float | None
    flat_loss: float | None
    flat_accuracy: float | None
    detectable_loss: float | None
    smallest_p: float | None  # that an exact test over these seeds can reach
    refused: str | None


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which checkpoint to keep for one goal.

    Attributes:
        keep: the best by the estimate.
        as_good: all that are not resolved as worse, in order.
        value: the score of choosing this way, each example judged by what the other folds choose.
        regret: what keeping another costs instead, in the unit of the score, positive where that is worse.
    """

    goal: Goal
    score: str
    keep: str
    as_good: tuple[str, ...]
    value: Interval
    regret: Mapping[str, Interval]

    @property
    def resolved(self) -> bool:
        return len(self.as_good) == 1


@dataclasses.dataclass(frozen=True)
class Point:
    """One checkpoint of the path; the mean over seeds where there are several."""

    name: str
    step: float | None
    loss: float
    accuracy: float
    refinement: float | None = None
    temperature: float | None = None


@dataclasses.dataclass(frozen=True)
class Bin:
    """A bin of a reliability diagram."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: Interval


@dataclasses.dataclass(frozen=True)
class Timing:
    """Along a run: where loss and accuracy are best, and all checkpoints not resolved as worse."""

    lowest_loss: str
    lowest_loss_set: tuple[str, ...]
    highest_accuracy: str
    highest_accuracy_set: tuple[str, ...]
    lag: float  # highest accuracy minus lowest loss
    unit: str  # of the lag: "steps", "epochs" or "checkpoints"


@dataclasses.dataclass(frozen=True)
class NextStep:
    """Something to try, and what in the data speaks for it."""

    action: str
    because: str


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The answer; differences are after − before, losses in nats, accuracies as fractions.

    Attributes:
        verdict: one sentence or two that a person can act on.
        kind: what was given: two models, a run, or a training curve.
        regime: the letter of the table in ``lossjax.analysis.regimes``; "O/K" where it cannot be told.
        regime_detail: the letter with what follows it: "O+", "N-u".
        regime_name: in words.
        evidence: sentences, what the regime rests on.
        scope: what the intervals generalise over.
        before, after: the two models compared.
        cells: contributions to ΔL by what was right before and after; they add up to it.
        temperature: model → the temperature that its logits are best divided by.
        repairs: where a temperature does not repair a rise of the loss, what a bias and a scale for each class do.
        classes: those that contribute most to ΔL, the largest first.
        recommendation: which to keep, in a sentence.
        path: all checkpoints, or points of a curve.
        reliability: model → bins.
        notes: what was recognised in the input, and what to beware of.
        settings: what the answer depends on besides the data.
    """

    schema: int
    verdict: str
    kind: Literal["pair", "run", "curve"]
    regime: str
    regime_detail: str
    regime_name: str
    evidence: tuple[str, ...]
    scope: str
    before: Model
    after: Model
    delta_loss: Interval
    delta_accuracy: Interval
    delta_refinement: Interval | None
    delta_calibration: Interval | None
    contrast: Interval | None
    kind_resolved: bool | None
    cells: Mapping[str, CellChange] | None
    temperature: Mapping[str, float] | None
    repairs: tuple[Repair, ...]
    influence: Influence | None
    groups: tuple[Group, ...]
    classes: tuple[ClassChange, ...]
    examples: tuple[Example, ...]
    settling: Settling | None
    timing: Timing | None
    choices: tuple[Choice, ...]
    recommendation: str
    next_steps: tuple[NextStep, ...]
    path: tuple[Point, ...]
    reliability: Mapping[str, tuple[Bin, ...]]
    notes: tuple[str, ...]
    settings: Mapping[str, Any]

    def to_json(self) -> str:
        """The same content as JSON, with the same bytes for the same input; what is not known is null."""
        return json.dumps(_plain(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """What JSON can hold: nan becomes null and infinities the strings inf and -inf."""
    if isinstance(value, CellChange):
        return {**_plain(value.change), "share": value.share}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
