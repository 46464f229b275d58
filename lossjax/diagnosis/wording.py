"""What happened, in sentences: the verdict, its evidence, what to beware of. Nothing is estimated here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from lossjax.analysis.attribution import Cell
from lossjax.diagnosis.advice import needed_sizes, recommendation
from lossjax.diagnosis.answer import Timing
from lossjax.diagnosis.phrases import (
    apart,
    capital,
    listed,
    minus,
    nats,
    one,
    p_text,
    part_of,
    percent,
    points,
    sentences,
    shown,
)
from lossjax.diagnosis.story import Story, carrying, repaired_by, rose, tried, undecided

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


def verdict(story: Story) -> str:
    """What happened, why, and what to do."""
    return sentences(_happened(story), _repair(story), recommendation(story))


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
    lines += _class_lines(story)
    if story.timing is not None:
        lines.append(_timing_line(story.timing, story.num_checkpoints))
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
    for repair in story.repairs:
        what = "a bias" if repair.kind == "bias" else "a scale and a bias"
        some = repair.num_examples < story.settling.num_examples
        where = (
            f"fitted and judged on {repair.num_examples:,} examples at random" if some else "fitted on other examples"
        )
        lines.append(
            f"With {what} for each class, {where}, the loss of {story.later} is lower by "
            f"{nats(repair.gain)}, and the change that is left, with both so repaired, is {nats(repair.left)}."
        )
    if story.before.temperature is not None and story.after.temperature is not None:
        lines.append(
            f"The best temperature is {story.before.temperature:.3g} for {story.earlier} and "
            f"{story.after.temperature:.3g} for {story.later}; above 1, less extreme probabilities have a lower loss."
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
        name = story.called(model.name)
        if model.accuracy.low <= story.guessing and not (story.is_run and model is story.before):
            notes.append(
                f"{capital(name)} is right in {percent(model.accuracy.estimate)} of the examples, not resolved as more "
                f"than by always saying the commonest label ({percent(story.guessing)}). If it should be better, see "
                "that the labels are in the order of the logits and number the classes alike."
            )
        if model.temperature_at_edge:
            notes.append(
                f"A temperature of {name} sits on the edge of its bracket (1/64 … 64): the logits say next to "
                "nothing about the labels, or their scale is far off."
            )
        if model.tied:
            notes.append(
                f"{percent(model.tied)} of the examples have several largest logits in {name}; the lowest class "
                "counts as predicted."
            )
    if story.comparison.delta_calibration is not None:
        notes.append(
            "Calibration here is what one temperature removes: for each model a lower bound on its true calibration "
            "loss. Differences of such bounds bound nothing."
        )
    return tuple(notes)


def _happened(story: Story) -> str:
    """How both moved, and through which cells."""
    window = f"From {story.earlier} to {story.later}, " if story.named else ""
    loss, accuracy = _moved_loss(story), _moved_accuracy(story)
    if story.comparison.refinement == "N-e":
        return capital(
            f"{window}neither loss nor accuracy changed by as much as {story.flat.loss:g} nats and "
            f"{100 * story.flat.accuracy:g} points: ΔL is {nats(story.loss)}, ΔA {points(story.accuracy)}."
        )
    if story.comparison.refused:
        return capital(
            f"{window}undecided: {story.comparison.refused}. ΔL is {nats(story.loss)}, ΔA {points(story.accuracy)}."
        )
    if len(undecided(story)) == 2:
        return capital(f"{window}undecided: {loss}, and {accuracy}.")
    joint = "while" if story.comparison.regime in ("P", "O", "K", "S") else "and"
    cause = "" if _is_flat_or_open(story) else _cause(story)
    told = capital(f"{window}{loss}{f', mostly because {cause}' if cause else ''}, {joint} {accuracy}.")
    one_class = carrying(story)
    if one_class is not None:
        part = part_of(one_class.delta_loss, story.loss)
        told += f" The examples of {one_class.name} alone, {percent(one_class.share)} of all, carry {part}."
    return told


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
    return f"whether the loss changed cannot be told from {story.sample} ({nats(loss)})"


def _moved_accuracy(story: Story) -> str:
    accuracy, delta = story.accuracy, story.flat.accuracy
    if story.comparison.flat_delta_accuracy <= delta:
        return f"accuracy stayed within ±{100 * delta:g} points ({points(accuracy)})"
    if accuracy.low > 0:
        return f"accuracy rose by {points(accuracy)}"
    if accuracy.high < 0:
        return f"accuracy fell by {points(minus(accuracy))}"
    return f"whether accuracy changed cannot be told from {story.sample} ({points(accuracy)})"


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


def _cause_of(cell: Cell, up: bool, story: Story) -> str:
    if cell == "wrong→wrong" and story.wrong_confidence is not None:
        before, after = story.wrong_confidence
        if up and after > before:
            return "wrong predictions became more confident"
        if not up and after < before:
            return "wrong predictions became less confident"
    return _CAUSES[cell][0 if up else 1]


def _repair(story: Story) -> str:
    """What a temperature does about a rise of the loss."""
    found, after = story.comparison, story.after
    gained, rise, flat = after.calibration, story.loss.estimate, story.flat.loss
    if not rose(story) or gained is None or after.temperature is None:
        return ""
    if gained.low <= 0:
        text = f"Dividing the logits of {story.later} by one temperature recovers none of it for sure ({nats(gained)})."
        return sentences(text, _repair_by_class(story))
    share = gained.estimate / story.loss.estimate
    part = "all of it" if share >= 0.995 else f"{100 * share:.0f} % of it"
    whose = f"the logits of {story.later}" if story.named else "its logits"
    text = f"Dividing {whose} by {after.temperature:.3g} recovers {part}"
    both, before = found.delta_refinement, story.before.calibration
    if both is None:
        return text + "."
    if both.low > 0 and before is not None and before.low > 0 and both.estimate > (1 - min(share, 1)) * rise + flat:
        # what the first gains by a temperature of its own is no part of the rise
        text = (
            f"Dividing {whose} by {after.temperature:.3g} lowers its loss by {nats(gained)}, but a temperature lowers "
            f"that of {story.earlier} too, by {nats(before)}: with both recalibrated the loss is higher by "
            f"{nats(both)}."
        )
    elif both.within(-flat, flat):
        text = f"{text}; with both recalibrated they differ by less than counts ({nats(both)})."
    elif both.low > 0:
        text = f"{text}; with both recalibrated the loss is still higher by {nats(both)}."
    elif both.high < 0:
        text = f"{text}; with both recalibrated {story.later} is better by {nats(minus(both))}."
    else:
        text = f"{text}; with both recalibrated neither is better for sure ({nats(both)})."
    return sentences(text, _repair_by_class(story))


def _repair_by_class(story: Story) -> str:
    """Whether a bias, or a scale and a bias, for each class repairs what a temperature does not."""
    if not story.repairs:
        return f"Whether a bias for each class repairs it was not tried: {story.untried}." if story.untried else ""
    found = repaired_by(story)
    if found is not None:
        what = "A bias" if found.kind == "bias" else "A scale and a bias"
        return (
            f"{what} for each class, fitted with the temperature, makes up for it: with both models so repaired the "
            f"loss changed by {nats(found.left)}."
        )
    if all(repair.contrast.high < 0 for repair in story.repairs):
        return f"Nor does {tried(story)} for each class repair it."
    return f"Whether {tried(story)} for each class repairs it cannot be told from {story.sample}."


def _cells_line(story: Story) -> str:
    parts = [f"{cell} {shown(change)}" for cell, change in story.comparison.cells.items()]
    return f"By what was right before and after, the loss changed by {', '.join(parts)} nats."


def _class_lines(story: Story) -> list[str]:
    """The classes that push the loss furthest the way it went."""
    if len(story.classes) < 2 or not story.loss.excludes(0.0):
        return []
    along = [one for one in story.classes if one.delta_loss * story.loss.estimate > 0][:3]
    parts = [f"{one.name} {one.delta_loss:+.3g}".replace("-", "−") for one in along]
    return [f"By the label, most comes from {listed(parts, 'and')} nats (chosen as the largest of all classes)."]


def _timing_line(timing: Timing, num_checkpoints: int) -> str:
    """When to have stopped: the best evaluations, and what cannot be told from them."""
    sets = timing.lowest_loss_set, timing.highest_accuracy_set
    parts = []
    for what, extreme, best, adequate in (
        ("the loss", "lowest", timing.lowest_loss, sets[0]),
        ("accuracy", "highest", timing.highest_accuracy, sets[1]),
    ):
        others = [name for name in adequate if name != best]
        if len(others) == num_checkpoints - 1:
            parts.append(f"by {what} no checkpoint is resolved as worse than another")
            continue
        tail = f" (not resolved from {others[0]}" if others else " (resolved from all others"
        tail += f" … {others[-1]}, {len(others)} in all)" if len(others) > 1 else ")"
        parts.append(f"{what} is {extreme} at {best}{tail}")
    if max(map(len, sets)) < num_checkpoints:
        overlap = timing.lag != 0 and set(sets[0]) & set(sets[1])
        parts[1] += f", {apart(timing)}{' (not resolved)' if overlap else ''}"
    return capital(f"{'; '.join(parts)}.")


def _influence_line(story: Story) -> str:
    found = story.comparison.influence
    if math.isnan(found.effective_count):
        return "No example's loss changed."
    return (
        f"The change rests on effectively {found.effective_count:,.0f} examples; without the 1 % that changed "
        f"most it is {one(found.without_top_percent)} nats." + (" So few may be mislabelled ones." if found.few else "")
    )


def _settling_lines(story: Story) -> list[str]:
    """Whether the size of the evaluation set, or the seed, could explain it, and what would settle it."""
    settling, flat = story.settling, story.flat
    sampled = "clusters of examples" if settling.num_clusters is not None else "examples"
    number_text = f"{settling.num_clusters or settling.num_examples:,} {sampled}"
    if settling.num_seeds is not None:
        number_text = f"{number_text} and {settling.num_seeds} seeds"
    told = capital(
        ", ".join(
            f"{name} {'no' if interval.excludes(0.0) else 'yes' if interval.estimate else 'there is none'}"
            for name, interval in (("for the loss", story.loss), ("for accuracy", story.accuracy))
        )
    )
    if settling.refused is not None:
        told = f"It cannot be ruled out: {settling.refused}"
    lines = [f"Could the choice of these {number_text} explain the difference? {told}."]
    if settling.num_seeds is None:
        lines.append("Could the seed? Not known: one training each was given.")
    open_ends = undecided(story)  # of what is resolved, or flat, nothing is left to settle
    least = []
    if "the loss" in open_ends and settling.flat_loss is not None:
        least.append(f"{settling.flat_loss:.2g} nats")
    if "accuracy" in open_ends and settling.flat_accuracy is not None:
        least.append(f"{100 * settling.flat_accuracy:.2g} points")
    if least:
        lines.append(f"The least δ at which this pair counts as flat is {listed(least, 'and')}.")
    sizes = needed_sizes(story, {"the loss": f"±{flat.loss:g} nats", "accuracy": f"±{100 * flat.accuracy:g} points"})
    if sizes:
        lines.append(f"To show that nothing changed, were it so, would take {listed(sizes, 'and')}.")
    if settling.detectable_loss is not None and settling.detectable_loss > 1e-9:
        units = "These seeds" if settling.num_seeds is not None else f"{settling.num_examples:,} examples"
        lines.append(f"{units} show a difference in loss of {settling.detectable_loss:.2g} nats with 80 % power.")
    if settling.smallest_p is not None:
        lines.append(f"The smallest p that an exact test over these seeds can reach is {settling.smallest_p:.2g}.")
    return lines
