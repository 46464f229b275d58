"""TrainConfig: what is static in a member's program. Plain values only; importing it starts nothing."""

import dataclasses
import math
from typing import Literal, get_args

import numpy as np

Optimizer = Literal["sgd", "momentum", "adam", "adamw", "lion"]
Schedule = Literal["constant", "warmup_cosine", "step"]
Objective = Literal["cross_entropy", "focal", "flooding", "logit_adjusted", "class_weighted", "brier"]
Spacing = Literal["linear", "log"]
Precision = Literal["float32", "tf32"]
SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Measure:
    """What is computed at every evaluation, on the device, for each split that has examples.

    Always: loss, accuracy, balanced and top-5 accuracy, Brier, ECE (equal width), confidence, entropy, the share of
    tied argmaxes, and loss and accuracy by class-frequency group.
    """

    splits: tuple[str, ...] = SPLITS
    calibration: bool = True  # temperature with refinement and calibration loss; ECE (equal mass); margin quantiles
    bins: int = 15  # of both ECEs
    folds: int = 5  # of the cross-fitted temperature
    quantiles: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the margin
    num_groups: int = 3  # class-frequency groups of equal training mass: head, middle, tail; 0: none
    adjusted: float | None = None  # tau: all also of logits - tau · log prior (Menon et al. 2021, eq. 9), as adjusted_*
    per_example: tuple[str, ...] = ()  # splits of which each example's loss, correctness and margin are kept
    logits: tuple[str, ...] = ()  # splits whose logits are kept whole
    budget_gib: float = 4.0  # per-example records of one cell may take this much; more is refused before training
    block: int = 128  # examples a forward pass of an evaluation

    def __post_init__(self) -> None:
        for name in ("splits", "quantiles", "per_example", "logits"):
            value = getattr(self, name)
            if isinstance(value, list):  # a list could not be the key of a compiled program
                object.__setattr__(self, name, tuple(value))
            elif not isinstance(value, tuple):
                raise ValueError(f"{name}={value!r} must be a tuple, for example {name}={(value,)!r}")
        if not self.splits:
            raise ValueError("splits is empty, so nothing would be measured; name at least one of train, val and test")
        for name in ("splits", "per_example", "logits"):
            for split in getattr(self, name):
                if split not in SPLITS:
                    raise ValueError(f"{name} names no split {split!r}; the splits are {', '.join(SPLITS)}")
        missing = (set(self.per_example) | set(self.logits)) - set(self.splits)
        if missing:
            raise ValueError(f"records of {sorted(missing)} are asked for but not measured; add them to splits")
        for name, least in (("bins", 1), ("folds", 2), ("num_groups", 0), ("block", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name}={value!r} must be at least {least}, a whole number (a Python int)")
        if self.adjusted is not None and not (isinstance(self.adjusted, int | float) and math.isfinite(self.adjusted)):
            raise ValueError(f"adjusted={self.adjusted!r} must be a finite number, or None for no adjustment")
        if any(not isinstance(q, int | float) or not 0 <= q <= 1 for q in self.quantiles):
            raise ValueError(f"quantiles={self.quantiles} must lie in [0, 1]")
        if not isinstance(self.budget_gib, int | float) or not self.budget_gib > 0:
            raise ValueError(f"budget_gib={self.budget_gib!r} must be a number > 0")
        if not isinstance(self.calibration, bool):
            raise ValueError(f"calibration={self.calibration!r} must be True or False")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a member is trained: everything that changes shapes or control flow. One TrainConfig is one compilation."""

    batch_size: int
    epochs: int | None = None  # give epochs or num_steps
    num_steps: int | None = None
    optimizer: Optimizer = "adam"
    schedule: Schedule = "constant"
    objective: Objective = "cross_entropy"
    num_evals: int | None = None  # evaluations after the first, which precedes any step; None: one an epoch
    eval_spacing: Spacing = "linear"
    precision: Precision = "float32"  # of matrix products on a GPU; the CPU always computes in float32
    measure: Measure = Measure()

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.num_steps is None):
            raise ValueError(f"epochs={self.epochs} and num_steps={self.num_steps}: give exactly one of the two")
        for name in ("batch_size", "epochs", "num_steps", "num_evals"):
            value = getattr(self, name)
            if value is not None and type(value) is not int:
                raise ValueError(f"{name}={value!r} must be a whole number (a Python int)")
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if not isinstance(self.measure, Measure):
            raise ValueError(f"measure={self.measure!r} must be a Measure, for example Measure(splits=('val',))")
        for name, allowed in (
            ("optimizer", Optimizer),
            ("schedule", Schedule),
            ("objective", Objective),
            ("eval_spacing", Spacing),
            ("precision", Precision),
        ):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {', '.join(get_args(allowed))}")

    def steps_per_epoch(self, num_examples: int) -> int:
        """Batches in a pass over the training data, the last short one included."""
        if self.batch_size > num_examples:
            raise ValueError(
                f"batch_size={self.batch_size} exceeds the {num_examples} training examples; lower it or take more data"
            )
        return -(-num_examples // self.batch_size)

    def total_steps(self, num_examples: int) -> int:
        per_epoch = self.steps_per_epoch(num_examples)
        if self.num_steps is not None:
            total = self.num_steps
        else:
            assert self.epochs is not None
            total = self.epochs * per_epoch
        if total >= 2**31:
            raise ValueError(f"{total} steps are more than the 2147483647 that are counted; train less")
        return total

    def eval_steps(self, num_examples: int) -> np.ndarray:
        """[eval] int32: the step counts at which a member is measured; the first is 0, the last the total."""
        per_epoch, total = self.steps_per_epoch(num_examples), self.total_steps(num_examples)
        if self.num_evals is None:
            cuts = np.append(np.arange(0, total, per_epoch), total)
        elif self.num_evals > total:
            raise ValueError(f"num_evals={self.num_evals} exceeds num_steps={total}; lower num_evals or train longer")
        elif self.eval_spacing == "linear":
            cuts = np.round(np.linspace(0, total, self.num_evals + 1))
        else:
            cuts = _log_spaced(total, self.num_evals)
        return cuts.astype(np.int32)


def _log_spaced(total: int, count: int) -> np.ndarray:
    """0, then ``count`` distinct whole steps up to ``total``, as even in log(step) as whole numbers allow."""
    cuts = [0]
    for done in range(count):
        left = count - done
        ratio = (total / max(cuts[-1], 1)) ** (1 / left) if cuts[-1] else total ** (1 / count)
        following = round(cuts[-1] * ratio) if cuts[-1] else 1
        # at least one step on, and never so far that the evaluations left no longer fit
        cuts.append(min(max(following, cuts[-1] + 1), total - left + 1))
    cuts[-1] = total
    return np.array(cuts)
