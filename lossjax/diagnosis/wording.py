"""The sentences of a diagnosis: what numbers already found mean, and what to do. Nothing is estimated here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Final

from lossjax.analysis.attribution import Cell
from lossjax.analysis.comparison import Comparison
from lossjax.analysis.interval import Interval
from lossjax.analysis.regimes import UNTOLD, Flat
from lossjax.diagnosis.answer import Choice, Goal, Group, Model, NextStep, Settling, Timing
from lossjax.diagnosis.phrases import (
    apart,
    capital,
    listed,
    minus,
    nats,
    p_text,
    percent,
    points,
    rounded,
    sentences,
    shown,
)

SCORES: Final[Mapping[Goal, str]] = {
    "probabilities": "loss (nats)",
    "recalibrated": "loss at the best temperature (nats)",
    "accuracy": "accuracy",
    "balanced": "balanced accuracy",
}


# what a checkpoint of a run may be chosen by
SELECTORS: Final[Mapping[Goal, str]] = {
    "probabilities": "the lowest loss",
    "recalibrated": "the lowest loss after recalibration",
    "accuracy": "the highest accuracy",
    "balanced": "the highest balanced accuracy",
}


_REGIMES: Final = {
    "P": "plateau: the loss fell, accuracy did not move",
    "O": "over-confidence: the loss rose, accuracy did not fall, one temperature repairs it",
    "K": "the loss rose, accuracy did not fall, and one temperature does not repair it",
    UNTOLD: "the loss rose, accuracy did not fall; whether one temperature repairs it is not known",
    "S": "sacrifice: the loss fell and so did accuracy",
    "G": "agreement: loss and accuracy both improved",
    "W": "agreement: loss and accuracy both got worse",
    "N-e": "no change: loss and accuracy are both flat",
    "N-m": "accuracy moved, the loss is flat",
    "N-u": "undecided",
}


_CAUSES: Final[Mapping[Cell, tuple[str, str]]] = {
    # what the loss of a cell's examples does when the cell contributes more, and when it contributes less
    "right→right": ("right predictions became less certain", "right predictions became more certain"),
    "right→wrong": ("some right predictions became wrong", "some right predictions became wrong but less surely so"),
    "wrong→right": ("some wrong predictions became right but less surely so", "some wrong predictions became right"),
    "wrong→wrong": (
        "predictions that stayed wrong gave the true class less probability",
        "predictions that stayed wrong gave the true class more probability",
    ),
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
    flat: Flat
    num_checkpoints: int

    @property
    def loss(self) -> Interval:
        return self.comparison.delta_loss

    @property
    def accuracy(self) -> Interval:
        return self.comparison.delta_accuracy

    @property
    def later(self) -> str:
        return self.after.name if self.named else "the later model"

    @property
    def earlier(self) -> str:
        return self.before.name if self.named else "the earlier model"


def regime_name(detail: str, undecided: Sequence[str] = ()) -> str:
    """In words; ``undecided`` names what is not resolved where that is the regime."""
    if detail == "N-u" and undecided:
        return f"undecided: whether {listed(undecided, 'and')} moved cannot be told"
    return _REGIMES[detail if detail in _REGIMES else detail.rstrip("+0-cr")]


def undecided(story: Story) -> list[str]:
    """Which of loss and accuracy is neither flat nor resolved from 0."""
    found, flat = story.comparison, story.flat
    smallest = {"the loss": (story.loss, found.flat_delta_loss, flat.loss)}
    smallest["accuracy"] = (story.accuracy, found.flat_delta_accuracy, flat.accuracy)
    return [name for name, (change, least, delta) in smallest.items() if least > delta and not change.excludes(0.0)]


def verdict(story: Story) -> str:
    """What happened, why, and what to do."""
    return sentences(_happened(story), _repair(story), recommendation(story))


def recommendation(story: Story) -> str:
    """Which to keep, by goal."""
    by_goal = {choice.goal: choice for choice in story.choices}
    plain, scaled, accuracy = by_goal["probabilities"], by_goal["recalibrated"], by_goal["accuracy"]
    if not any((plain.resolved, scaled.resolved, accuracy.resolved)) and not story.is_run:
        return "Nothing here speaks for one over the other: choose by cost, or measure more."
    if story.is_run:
        return _keep_in_run(plain, scaled, accuracy, story.num_checkpoints)
    wanted: dict[str, list[str]] = {}
    for choice, goal in (
        (plain, "if its probabilities are used as they are"),
        (scaled, "if you recalibrate"),
        (accuracy, "if only accuracy counts"),
    ):
        if choice.resolved:
            wanted.setdefault(_model(story, choice.keep), []).append(goal)
    goals = sum(len(some) for some in wanted.values())
    if len(wanted) == 1 and goals == 3:
        return f"Keep {next(iter(wanted))}: it is better by loss, by loss after recalibration and by accuracy."
    parts = [f"{model} {listed(some, 'or')}" for model, some in wanted.items()]
    rest = [
        what
        for choice, what in ((plain, "the loss"), (scaled, "the loss after recalibration"), (accuracy, "accuracy"))
        if not choice.resolved
    ]
    open_end = f" By {listed(rest, 'and')} they cannot be told apart here." if rest else ""
    return f"Keep {'; '.join(parts)}.{open_end}"


def evidence(story: Story) -> tuple[str, ...]:
    """What the regime rests on, in sentences with numbers."""
    found, flat = story.comparison, story.flat
    lines = [
        f"The loss changed by {nats(story.loss)} and accuracy by {points(story.accuracy)}; "
        f"a change within ±{flat.loss:g} nats or ±{100 * flat.accuracy:g} points counts as none.",
        f"{percent(found.cell_shares['wrong→right'])} of the examples became right and "
        f"{percent(found.cell_shares['right→wrong'])} wrong"
        + (f" (McNemar's exact p {p_text(found.mcnemar)})." if found.mcnemar is not None else "."),
        _cells_line(story),
    ]
    if story.timing is not None:
        lines.append(_timing_line(story.timing))
    if story.wrong_confidence is not None:
        before, after = story.wrong_confidence
        lines.append(f"Where both are wrong, mean confidence went from {before:.3g} to {after:.3g}.")
    if found.delta_refinement is not None and found.delta_calibration is not None:
        lines.append(
            f"Of the change, calibration is {nats(found.delta_calibration)} and refinement, the loss that is left at "
            f"the best temperature, {nats(found.delta_refinement)}."
        )
    if found.kind_resolved is False:
        lines.append(
            f"Whether one temperature repairs it is not resolved: 0.2·ΔL − ΔR is {nats(found.contrast)}, which is "
            "above 0 for O and below for K."
        )
    if story.before.temperature is not None and story.after.temperature is not None:
        lines.append(
            f"The best temperature is {story.before.temperature:.3g} for {story.earlier} and "
            f"{story.after.temperature:.3g} for {story.later}; above 1 means over-confident."
        )
    if found.tail_driven:
        lines.append("At least half of the drop comes from classes with fewer training examples than the median class.")
    lines.append(_influence_line(story))
    lines += _settling_lines(story)
    return tuple(lines)


def cautions(story: Story) -> tuple[str, ...]:
    """What to beware of when reading the numbers."""
    notes = []
    if story.settling.num_seeds is None:
        notes.append(
            "Seed variance unobserved: the intervals say what other examples would show of these very models. Another "
            "training of the same recipe may differ by more."
        )
    for model in (story.before, story.after):
        if model.temperature_at_edge:
            notes.append(
                f"A temperature of {model.name} sits on the edge of its bracket (1/64 … 64): the logits say next to "
                "nothing about the labels, or their scale is far off."
            )
        if model.tied:
            notes.append(
                f"{percent(model.tied)} of the examples have several largest logits in {model.name}; the lowest class "
                "counts as predicted."
            )
    if story.comparison.delta_calibration is not None:
        notes.append(
            "Calibration here is what one temperature removes: for each model a lower bound on its true calibration "
            "loss. Differences of such bounds bound nothing."
        )
    return tuple(notes)


def next_steps(story: Story) -> tuple[NextStep, ...]:
    """What to try, each tied to what was seen."""
    found, letter, steps = story.comparison, story.comparison.regime, []
    gain = _gain(story.after)
    if gain is not None and gain.low > 0 and story.after.temperature is not None:
        steps.append(
            NextStep(
                f"Divide the logits of {story.later} by {story.after.temperature:.3g}, fitted on validation data.",
                f"It lowers the loss by {nats(gain)}, and no prediction changes.",
            )
        )
    if letter == "K":
        steps.append(
            NextStep(
                "Try a scale or a bias for each class (vector or bias scaling) on held-out data before you call it "
                "worse ranking.",
                f"At each model's best temperature the loss still differs by {nats(found.delta_refinement)}; richer "
                "repairs were not tried here.",
            )
        )
    if letter in ("O", "K", "W") and story.is_run:
        assert story.timing is not None
        steps.append(
            NextStep(
                f"Stop at {story.timing.lowest_loss}, or regularise what comes after it, and compare the curves.",
                f"The loss rose from there by {nats(story.loss)}."
                + (" Stopping forgoes the accuracy gained since." if story.accuracy.low > 0 else ""),
            )
        )
    if story.improving and letter in ("G", "P"):
        steps.append(NextStep("Train longer.", "The loss is lowest at the last checkpoint and was still falling."))
    if found.influence.few:
        steps.append(
            NextStep(
                "Look at the examples listed first, and at their labels.",
                f"The change hangs on about {found.influence.effective_count:.0f} examples; without the 1 % that "
                f"changed most it is {found.influence.without_top_percent:.3g} nats.",
            )
        )
    steps += _group_steps(story)
    if letter == "S":
        steps.append(
            NextStep(
                "Decide which of the two you are judged by before choosing.",
                f"The loss fell by {nats(minus(story.loss))} while accuracy fell by {points(minus(story.accuracy))}.",
            )
        )
    if found.refinement == "N-u":
        steps.append(_measure_more(story))
    if story.settling.num_seeds is None:
        steps.append(
            NextStep(
                "To choose a recipe rather than this checkpoint, train each with several seeds and give the files a "
                "seed axis.",
                "One training each says nothing of how much the seed moves the result.",
            )
        )
    return tuple(steps)


def _happened(story: Story) -> str:
    """How both moved, and through which cells."""
    window = f"From {story.before.name} to {story.after.name}, " if story.named else ""
    loss, accuracy = _moved_loss(story), _moved_accuracy(story)
    if story.comparison.refinement == "N-e":
        return capital(
            f"{window}neither loss nor accuracy changed by as much as {story.flat.loss:g} nats and "
            f"{100 * story.flat.accuracy:g} points: ΔL is {nats(story.loss)}, ΔA {points(story.accuracy)}."
        )
    if len(undecided(story)) == 2:
        return capital(f"{window}undecided: {loss}, and {accuracy}.")
    joint = "while" if story.comparison.regime in ("P", "O", "K", "S") else "and"
    cause = "" if _is_flat_or_open(story) else _cause(story)
    return capital(f"{window}{loss}{f', mostly because {cause}' if cause else ''}, {joint} {accuracy}.")


def _is_flat_or_open(story: Story) -> bool:
    return story.comparison.flat_delta_loss <= story.flat.loss or not story.loss.excludes(0.0)


def _moved_loss(story: Story) -> str:
    loss, delta = story.loss, story.flat.loss
    if story.comparison.flat_delta_loss <= delta:
        return f"the loss stayed within ±{delta:g} nats ({nats(loss)})"
    if loss.low > 0:
        return f"the loss rose by {nats(loss)}"
    if loss.high < 0:
        return f"the loss fell by {nats(minus(loss))}"
    return f"whether the loss changed cannot be told from these examples ({nats(loss)})"


def _moved_accuracy(story: Story) -> str:
    accuracy, delta = story.accuracy, story.flat.accuracy
    if story.comparison.flat_delta_accuracy <= delta:
        return f"accuracy stayed within ±{100 * delta:g} points ({points(accuracy)})"
    if accuracy.low > 0:
        return f"accuracy rose by {points(accuracy)}"
    if accuracy.high < 0:
        return f"accuracy fell by {points(minus(accuracy))}"
    return f"whether accuracy changed cannot be told from these examples ({points(accuracy)})"


def _cause(story: Story) -> str:
    """The cells that make up most of the change, in its direction."""
    total = story.loss.estimate
    if total == 0:
        return ""
    towards = {cell: change.estimate / total for cell, change in story.comparison.cells.items()}
    order = sorted(towards, key=lambda cell: -towards[cell])
    named = [order[0]] if towards[order[0]] >= 0.6 else [cell for cell in order[:2] if towards[cell] > 0.2]
    texts = [_cause_of(cell, total > 0, story) for cell in named]
    return " and ".join(texts)


def _cause_of(cell: Cell, rose: bool, story: Story) -> str:
    if cell == "wrong→wrong" and story.wrong_confidence is not None:
        before, after = story.wrong_confidence
        if rose and after > before:
            return "wrong predictions became more confident"
        if not rose and after < before:
            return "wrong predictions became less confident"
    return _CAUSES[cell][0 if rose else 1]


def _repair(story: Story) -> str:
    """What a temperature does about a rise of the loss."""
    found, after = story.comparison, story.after
    gain = _gain(after)
    if not story.loss.low > 0 or _is_flat_or_open(story) or gain is None or after.temperature is None:
        return ""
    if gain.low <= 0:
        return f"Dividing the logits of {story.later} by one temperature recovers none of it for sure ({nats(gain)})."
    share = gain.estimate / story.loss.estimate
    part = "all of it" if share >= 0.995 else f"{100 * share:.0f} % of it"
    text = (
        f"Dividing its logits by {after.temperature:.3g} recovers {part}"
        if not story.named
        else (f"Dividing the logits of {after.name} by {after.temperature:.3g} recovers {part}")
    )
    both = found.delta_refinement
    if both is None:
        return text + "."
    if both.low > 0:
        return f"{text}; with both recalibrated the loss is still higher by {nats(both)}."
    if both.high < 0:
        return f"{text}; with both recalibrated the later is better by {nats(minus(both))}."
    return f"{text}; with both recalibrated neither is better for sure ({nats(both)})."


def _gain(model: Model) -> Interval | None:
    """What the best temperature removes from a model's loss."""
    if model.calibration is not None:
        return model.calibration
    if model.refinement is None:
        return None
    return Interval(model.loss.estimate - model.refinement.estimate, math.nan, math.nan)


def _keep_in_run(plain: Choice, scaled: Choice, accuracy: Choice, num_checkpoints: int) -> str:
    """Resolved goals first; for the others, how many checkpoints cannot be told apart."""
    wanted: dict[str, list[str]] = {}
    open_ends = []
    for choice, goal in ((plain, "probabilities as they are"), (scaled, "recalibrated ones"), (accuracy, "accuracy")):
        if choice.resolved:
            wanted.setdefault(choice.keep, []).append(goal)
        else:
            open_ends.append(
                f"for {goal} {len(choice.as_good)} of {num_checkpoints} checkpoints cannot be told apart "
                f"({choice.keep} has the best estimate)"
            )
    kept = "; ".join(f"{name} for {listed(goals, 'and')}" for name, goals in wanted.items())
    return capital("; ".join([*([f"keep {kept}"] if kept else []), *open_ends])) + "."


def _model(story: Story, name: str) -> str:
    return name if story.named else {"before": "the earlier model", "after": "the later model"}[name]


def _cells_line(story: Story) -> str:
    parts = [f"{cell} {shown(change)}" for cell, change in story.comparison.cells.items()]
    return f"By what was right before and after, the loss changed by {', '.join(parts)} nats."


def _timing_line(timing: Timing) -> str:
    """When to have stopped: the best evaluations, and what cannot be told from them."""
    parts = []
    for what, best, adequate in (
        ("The loss is lowest", timing.lowest_loss, timing.lowest_loss_set),
        ("accuracy is highest", timing.highest_accuracy, timing.highest_accuracy_set),
    ):
        others = [name for name in adequate if name != best]
        tail = f" (not resolved from {others[0]}" if others else " (resolved from all others"
        tail += f" … {others[-1]}, {len(others)} in all)" if len(others) > 1 else ")"
        parts.append(f"{what} at {best}{tail}")
    return f"{parts[0]}; {parts[1]}, {apart(timing)}."


def _influence_line(story: Story) -> str:
    found = story.comparison.influence
    if math.isnan(found.effective_count):
        return "No example's loss changed."
    return (
        f"The change rests on effectively {found.effective_count:,.0f} examples; without the 1 % that changed "
        "most it is "
        f"{found.without_top_percent:.3g} nats." + (" So few may be mislabelled ones." if found.few else "")
    )


def _settling_lines(story: Story) -> list[str]:
    """Whether the size of the evaluation set, or the seed, could explain it, and what would settle it."""
    settling, flat = story.settling, story.flat
    sampled = "clusters of examples" if settling.num_clusters is not None else "examples"
    number_text = f"{settling.num_clusters or settling.num_examples:,} {sampled}"
    if settling.num_seeds is not None:
        number_text = f"{number_text} and {settling.num_seeds} seeds"
    told = [
        f"{name} {'no' if interval.excludes(0.0) else 'yes'}"
        for name, interval in (("for the loss", story.loss), ("for accuracy", story.accuracy))
    ]
    lines = [f"Could the choice of these {number_text} explain the difference? {capital(', '.join(told))}."]
    if settling.num_seeds is None:
        lines.append("Could the seed? Not known: one training each was given.")
    if settling.flat_loss is not None and settling.flat_accuracy is not None:
        lines.append(
            f"The least δ at which this pair counts as flat is {settling.flat_loss:.2g} nats and "
            f"{100 * settling.flat_accuracy:.2g} points."
        )
    if settling.needed_loss is not None and settling.needed_accuracy is not None:
        lines.append(
            f"To show that nothing changed, were it so, would take about {rounded(settling.needed_loss)} examples for "
            f"±{flat.loss:g} nats and about {rounded(settling.needed_accuracy)} for ±{100 * flat.accuracy:g} points."
        )
    if settling.detectable_loss is not None:
        units = (
            f"{settling.num_seeds} seeds" if settling.num_seeds is not None else f"{settling.num_examples:,} examples"
        )
        lines.append(f"{units} show a difference in loss of {settling.detectable_loss:.2g} nats with 80 % power.")
    if settling.smallest_p is not None:
        lines.append(f"The smallest p that an exact test over these seeds can reach is {settling.smallest_p:.2g}.")
    return lines


def _measure_more(story: Story) -> NextStep:
    settling, open_ends = story.settling, undecided(story)
    needed = {"the loss": settling.needed_loss, "accuracy": settling.needed_accuracy}
    sizes = [f"about {rounded(value)} for {name}" for name in open_ends if (value := needed[name]) is not None]
    action = "Evaluate on more examples" + (f": {', '.join(sizes)}, if nothing truly changed." if sizes else ".")
    return NextStep(action, f"{capital(listed(open_ends, 'and'))} cannot be told from none at this size.")


def _group_steps(story: Story) -> list[NextStep]:
    """Prior adjustment and data for rare classes, where groups say so."""
    steps, groups = [], {group.name: group for group in story.groups}
    head, tail = groups.get("head"), groups.get("tail")
    if head is not None and tail is not None and head.delta_accuracy.low > 0 and tail.delta_accuracy.high < 0:
        steps.append(
            NextStep(
                "Adjust the logits for the class prior (subtract a multiple of the log of each class's training share) "
                "or choose by balanced accuracy.",
                f"The head's part of the change in accuracy is {points(head.delta_accuracy)} and the tail's "
                f"{points(tail.delta_accuracy)}.",
            )
        )
    worst = max(story.groups, key=lambda group: group.delta_loss.estimate, default=None)
    # more than its share of the examples, by more than the interval
    if worst is not None and story.loss.low > 0 and worst.delta_loss.low > worst.share * story.loss.estimate:
        steps.append(
            NextStep(
                f"Get more examples of the {worst.num_classes} classes in the {worst.name}, or weight them.",
                f"They are {percent(worst.share)} of the examples and carry "
                f"{100 * worst.delta_loss.estimate / story.loss.estimate:.0f} % of the rise.",
            )
        )
    return steps
