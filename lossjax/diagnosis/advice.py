"""What to do, in sentences: which checkpoint to keep, and what to try next, each tied to what was seen."""

from __future__ import annotations

from collections.abc import Mapping

from lossjax.diagnosis.answer import Choice, NextStep
from lossjax.diagnosis.phrases import capital, listed, minus, nats, one, part_of, percent, points, rounded, sentences
from lossjax.diagnosis.story import Story, carrying, repaired_by, rose, tried, undecided


def recommendation(story: Story) -> str:
    """Which to keep, by goal."""
    if story.comparison.refused is not None:
        return (
            f"Nothing here speaks for one {'checkpoint' if story.is_run else 'model'} over another: train more seeds."
        )
    by_goal = {choice.goal: choice for choice in story.choices}
    plain, scaled, accuracy = by_goal["probabilities"], by_goal["recalibrated"], by_goal["accuracy"]
    balanced = by_goal["balanced"]
    if story.is_run:
        return _keep_in_run(story, plain, scaled, accuracy, balanced)
    found, flat = story.comparison, story.flat
    wanted: dict[str, list[str]] = {}
    unresolved, alike = [], []
    for choice, what, goal, is_flat in (
        (plain, "the loss", "if its probabilities are used as they are", found.flat_delta_loss <= flat.loss),
        (scaled, "the loss after recalibration", "if you recalibrate", False),
        (accuracy, "accuracy", "if only accuracy counts", found.flat_delta_accuracy <= flat.accuracy),
    ):
        if is_flat or _within(choice, flat.accuracy if choice is accuracy else flat.loss):
            alike.append(what)
        elif not choice.resolved:
            unresolved.append(what)
        else:
            wanted.setdefault(story.called(choice.keep), []).append(goal)
    told_alike = f"By {listed(alike, 'and')} they differ by less than counts." if alike else ""
    # said only where it decides otherwise than accuracy
    if balanced.resolved and not _within(balanced, flat.accuracy) and balanced.keep != accuracy.keep:
        wanted.setdefault(story.called(balanced.keep), []).append("if every class counts the same")
    if not wanted:
        if not unresolved:
            return f"{told_alike} Choose by cost."
        return sentences("Nothing here speaks for one over the other: choose by cost, or measure more.", told_alike)
    if len(wanted) == 1 and not unresolved and not alike:
        return f"Keep {next(iter(wanted))}: it is better by loss, by loss after recalibration and by accuracy."
    kept = [f"{model} {listed(some, 'or')}" for model, some in wanted.items()]
    return sentences(
        f"Keep {'; '.join(kept)}.",
        f"By {listed(unresolved, 'and')} they cannot be told apart here." if unresolved else "",
        told_alike,
    )


def _within(choice: Choice, delta: float) -> bool:
    """Whether any other choice is as good, but for less than counts."""
    return all(regret.within(-delta, delta) for regret in choice.regret.values())


def needed_sizes(story: Story, margins: Mapping[str, str]) -> list[str]:
    """How many examples would settle each of loss and accuracy that is undecided, for a margin as it is told."""
    settling = story.settling
    needed = {"the loss": settling.needed_loss, "accuracy": settling.needed_accuracy}
    cells = story.comparison.cell_shares
    # where no example is right with one model only, nothing tells how often one would be
    at_least = "at least" if cells["right→wrong"] + cells["wrong→right"] == 0 else "about"
    return [
        f"{at_least if name == 'accuracy' else 'about'} {rounded(value)} examples for {margins[name]}"
        for name in undecided(story)
        if (value := needed[name]) is not None
    ]


def next_steps(story: Story) -> tuple[NextStep, ...]:
    """What to try, each tied to what was seen."""
    found, letter, steps = story.comparison, story.comparison.regime, []
    if story.after.accuracy.high < story.guessing:
        steps.append(
            NextStep(
                "See first that labels and logits are of the same examples in the same order and number the classes "
                "alike.",
                f"{capital(story.later)} is right in {percent(story.after.accuracy.estimate)} of the examples, less "
                f"often than always saying the commonest label would be ({percent(story.guessing)}).",
            )
        )
    else:
        steps += _temperature_step(story)
    if letter == "K" or story.repairs or story.untried:
        steps.append(_repair_step(story))
    steps += _class_step(story)
    if rose(story) and story.is_run:
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
                f"changed most it is {one(found.influence.without_top_percent)} nats.",
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
    if found.refused is not None:
        steps.append(NextStep("Train with more seeds.", f"{capital(found.refused)}."))
    elif found.refinement == "N-u":
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


def _repair_step(story: Story) -> NextStep:
    """For K: the repair that does it, or what to make of it that none does."""
    left = nats(story.comparison.delta_refinement)
    repair = repaired_by(story)
    if repair is not None and repair.kind == "bias":
        return NextStep(
            "Fit a bias for each class with the temperature, on validation data whose classes are as frequent as in "
            "use, and measure accuracy again, for predictions change with it.",
            f"With a bias for each class the change in loss that is left is {nats(repair.left)}, where a temperature "
            f"leaves {left}: {story.later} believes in other class frequencies than these examples have.",
        )
    if repair is not None:
        return NextStep(
            "Fit a scale and a bias for each class on validation data (vector scaling), and measure accuracy again, "
            "for predictions change with it.",
            f"With them the change in loss that is left is {nats(repair.left)}, where a temperature leaves {left}.",
        )
    if not story.repairs:
        return NextStep(
            "Try a scale and a bias for each class (vector scaling) on validation data before you call it worse "
            "ranking.",
            f"At each model's best temperature the loss still differs by {left}; richer repairs were not tried here: "
            f"{story.untried}.",
        )
    smallest = min((repair.left for repair in story.repairs), key=lambda interval: interval.estimate)
    if all(one.contrast.high < 0 for one in story.repairs):
        return NextStep(
            f"Look for what {story.later} has unlearned: by the classes and the examples that changed most.",
            f"Neither a temperature nor {tried(story)} for each class repairs it ({nats(smallest)} are left): it "
            "tells some examples' classes apart worse, not only with other confidence.",
        )
    return NextStep(
        "Evaluate on more examples before you call it worse ranking.",
        f"At each model's best temperature the loss still differs by {left}, with {tried(story)} for each class by "
        f"{nats(smallest)}: too wide to tell.",
    )


def _temperature_step(story: Story) -> list[NextStep]:
    """For the model that is kept for recalibrated probabilities, where a temperature does something."""
    model = story.recalibrated
    gained, temperature = model.calibration, model.temperature
    if gained is None or temperature is None or model.temperature_at_edge:
        return []  # at the edge there is no best temperature: a caution says what to make of it
    if gained.low <= 0 or gained.high <= story.flat.loss:
        return []
    return [
        NextStep(
            f"Divide the logits of {story.called(model.name)} by {temperature:.3g}, fitted on validation data.",
            f"It lowers the loss by {nats(gained)}, and no prediction changes.",
        )
    ]


def _class_step(story: Story) -> list[NextStep]:
    one_class = carrying(story)
    if one_class is None:
        return []
    return [
        NextStep(
            f"Look at {one_class.name}: its labels, its training examples, and what it is taken for now.",
            f"It has {percent(one_class.share)} of the examples and carries "
            f"{part_of(one_class.delta_loss, story.loss).removesuffix(' of it')} of the rise; of its examples "
            f"{percent(one_class.accuracy_before)} were right before and {percent(one_class.accuracy_after)} after.",
        )
    ]


def _keep_in_run(story: Story, plain: Choice, scaled: Choice, accuracy: Choice, balanced: Choice) -> str:
    """The best of each goal, and how many others are not resolved as worse; none where that is all of them."""
    num_checkpoints = story.num_checkpoints
    wanted: dict[str, list[str]] = {}
    unresolved, alike = [], []
    for choice, goal in ((plain, "probabilities as they are"), (scaled, "recalibrated ones"), (accuracy, "accuracy")):
        others = len(choice.as_good) - 1
        if others == num_checkpoints - 1:
            alike.append(goal)
            continue
        told = goal
        if choice is scaled and story.recalibrated.temperature is not None:
            told = f"{goal} (logits divided by {story.recalibrated.temperature:.3g})"
        wanted.setdefault(choice.keep, []).append(told)
        if others:
            unresolved.append(f"{others} for {goal}")
    # said only where it decides otherwise than accuracy
    if accuracy.keep not in balanced.as_good and balanced.keep not in accuracy.as_good:
        wanted.setdefault(balanced.keep, []).append("balanced accuracy")
    if not wanted:
        return f"By these examples no checkpoint is better than another, for {listed(alike, 'or')}: measure more."
    others_text = "of the 1 other" if num_checkpoints == 2 else f"of the {num_checkpoints - 1} others"
    kept = "; ".join(f"{name} for {listed(goals, 'and')}" for name, goals in wanted.items())
    return sentences(
        f"Keep {kept}.",
        f"These examples cannot tell some {others_text} from the best: {listed(unresolved, 'and')}."
        if unresolved
        else "",
        f"For {listed(alike, 'and')} the checkpoints cannot be told apart." if alike else "",
    )


def _measure_more(story: Story) -> NextStep:
    open_ends = undecided(story)
    sizes = needed_sizes(story, {"the loss": "the loss", "accuracy": "accuracy"})
    action = "Evaluate on more examples" if story.settling.num_clusters is None else "Evaluate on more clusters"
    if story.settling.num_seeds is not None:
        action += ", or train more seeds"
    action += f": {', '.join(sizes)}, if nothing truly changed." if sizes else "."
    return NextStep(action, f"Whether {listed(open_ends, 'and')} changed cannot be told at this size.")


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
    if worst is not None and rose(story) and worst.delta_loss.low > worst.share * story.loss.estimate:
        classes, them = ("class", "it") if worst.num_classes == 1 else (f"{worst.num_classes} classes", "them")
        steps.append(
            NextStep(
                f"Get more examples of the {classes} in the {worst.name}, or weight {them}.",
                f"The {worst.name} has {percent(worst.share)} of the examples and carries "
                f"{100 * worst.delta_loss.estimate / story.loss.estimate:.0f} % of the rise.",
            )
        )
    return steps
