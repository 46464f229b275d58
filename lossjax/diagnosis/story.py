"""What the sentences of a diagnosis are about, and what its regimes are called."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from lossjax.analysis.comparison import Comparison
from lossjax.analysis.interval import Interval
from lossjax.analysis.regimes import UNTOLD, Flat
from lossjax.diagnosis.answer import Choice, ClassChange, Group, Model, Repair, Settling, Timing
from lossjax.diagnosis.phrases import listed

_REGIMES: Final = {
    "P": "plateau: the loss fell, accuracy did not move",
    "O": "over-confidence: the loss rose, accuracy did not fall, one temperature repairs it",
    "O, too little": "under-confidence: the loss rose, accuracy did not fall, one temperature repairs it",
    "K": "the loss rose, accuracy did not fall, and one temperature does not repair it",
    UNTOLD: "the loss rose, accuracy did not fall; whether one temperature repairs it is not known",
    "S": "sacrifice: the loss fell and so did accuracy",
    "G": "agreement: loss and accuracy both improved",
    "W": "agreement: loss and accuracy both got worse",
    "N-e": "no change: loss and accuracy are both flat",
    "N-m": "accuracy moved, the loss is flat",
    "N-u": "undecided",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Story:
    """What the sentences are about."""

    comparison: Comparison
    before: Model
    after: Model
    is_run: bool
    named: bool  # whether the sentences name the models, as for a run and for two models in no order
    improving: bool  # a run whose loss is lowest at the end
    wrong_confidence: tuple[float, float] | None  # mean, before and after, where both are wrong
    settling: Settling
    timing: Timing | None
    choices: Sequence[Choice]
    groups: Sequence[Group]
    repairs: Sequence[Repair]
    flat: Flat
    num_checkpoints: int
    recalibrated: Model  # the one that is kept by the loss after recalibration
    guessing: float  # share of the commonest label
    classes: Sequence[ClassChange]
    untried: str  # why no repair for each class was tried where one was called for

    @property
    def loss(self) -> Interval:
        return self.comparison.delta_loss

    @property
    def accuracy(self) -> Interval:
        return self.comparison.delta_accuracy

    @property
    def later(self) -> str:
        return self.called(self.after.name)

    @property
    def earlier(self) -> str:
        return self.called(self.before.name)

    @property
    def sample(self) -> str:
        """What other examples, or seeds, might have been drawn instead of."""
        examples = "examples" if self.settling.num_clusters is None else "clusters of examples"
        return f"these {examples}" if self.settling.num_seeds is None else f"these {examples} and seeds"

    def called(self, name: str) -> str:
        """A model as a sentence calls it: "step 30", "the first model", "the earlier model"."""
        if self.is_run:
            return name
        return f"the {name} model" if self.named else {"before": "the earlier model", "after": "the later model"}[name]


def regime_name(detail: str, undecided: Sequence[str] = (), temperature: float | None = None) -> str:
    """In words; ``undecided`` names what is not resolved where that is the regime, ``temperature`` is the second's.

    The table's O is whatever one temperature repairs: below 1, it repairs too little confidence.
    """
    if detail == "N-u" and undecided:
        return f"undecided: whether {listed(undecided, 'and')} moved cannot be told"
    if detail.startswith("O") and temperature is not None and temperature < 1:
        return _REGIMES["O, too little"]
    return _REGIMES[detail if detail in _REGIMES else detail.rstrip("+0-cr")]


def undecided(story: Story) -> list[str]:
    """Which of loss and accuracy is neither flat nor resolved from 0; both where seeds are too few to tell."""
    found, flat = story.comparison, story.flat
    if found.refused:
        return ["the loss", "accuracy"]
    smallest = {"the loss": (story.loss, found.flat_delta_loss, flat.loss)}
    smallest["accuracy"] = (story.accuracy, found.flat_delta_accuracy, flat.accuracy)
    return [name for name, (change, least, delta) in smallest.items() if least > delta and not change.excludes(0.0)]


def repaired_by(story: Story) -> Repair | None:
    """The repair with the fewest parameters that takes away at least four fifths of the rise, beyond doubt."""
    return next((repair for repair in story.repairs if repair.contrast.low > 0), None)


def repair_called_for(found: Comparison, flat: Flat) -> bool:
    """Whether the loss rose, whatever accuracy did, and one temperature takes away less than four fifths of that."""
    rises = found.delta_loss.low > 0 and found.flat_delta_loss > flat.loss
    return rises and found.contrast is not None and found.contrast.estimate <= 0


def carrying(story: Story) -> ClassChange | None:
    """The class that alone carries half of a rise of the loss or more, and three times its share of the examples."""
    if story.loss.low <= 0 or not story.classes:
        return None
    first = max(story.classes, key=lambda one: one.delta_loss)
    part = first.delta_loss / story.loss.estimate
    return first if first.singled_out and part >= max(0.5, 3 * first.share) else None


def tried(story: Story) -> str:
    """The repair with the most parameters that was tried, for each class."""
    return "a scale and a bias" if any(repair.kind == "vector" for repair in story.repairs) else "a bias"


def rose(story: Story) -> bool:
    """Whether the loss rose beyond doubt and by more than counts as none."""
    return not story.comparison.refused and story.loss.low > 0 and story.comparison.flat_delta_loss > story.flat.loss
