"""What to do, in sentences: which checkpoint to keep, and what to try next, each tied to what was seen."""

from __future__ import annotations

from lossjax.diagnosis.answer import Choice, NextStep
from lossjax.diagnosis.phrases import capital, listed, minus, nats, one, percent, points, rounded, sentences
from lossjax.diagnosis.story import Story, repaired_by, rose, tried, undecided


def recommendation(story: Story) -> str:
    """Which to keep, by goal."""
    if story.comparison.refused is not None:
        return (
            f"Nothing here speaks for one {'checkpoint' if story.is_run else 'model'} over another: train more seeds."
        )
    by_goal = {choice.goal: choice for choice in story.choices}
    plain, scaled, accuracy = by_goal["probabilities"], by_goal["recalibrated"], by_goal["accuracy"]
    if story.is_run:
        return _keep_in_run(plain, scaled, accuracy, story.num_checkpoints)
    wanted: dict[str, list[str]] = {}
    unresolved, alike = [], []
    for choice, what, goal, delta in (
        (plain, "the loss", "if its probabilities are used as they are", story.flat.loss),
        (scaled, "the loss after recalibration", "if you recalibrate", story.flat.loss),
        (accuracy, "accuracy", "if only accuracy counts", story.flat.accuracy),
    ):
        if not choice.resolved:
            unresolved.append(what)
        elif all(regret.high <= delta for regret in choice.regret.values()):
            alike.append(what)
        else:
            wanted.setdefault(story.called(choice.keep), []).append(goal)
    if not wanted:
        return "Nothing here speaks for one over the other: choose by cost, or measure more."
    if len(wanted) == 1 and not unresolved and not alike:
        return f"Keep {next(iter(wanted))}: it is better by loss, by loss after recalibration and by accuracy."
    kept = [f"{model} {listed(some, 'or')}" for model, some in wanted.items()]
    return sentences(
        f"Keep {'; '.join(kept)}.",
        f"By {listed(unresolved, 'and')} they cannot be told apart here." if unresolved else "",
        f"By {listed(alike, 'and')} they differ by less than counts." if alike else "",
    )


def next_steps(story: Story) -> tuple[NextStep, ...]:
    """What to try, each tied to what was seen."""
    found, letter, steps = story.comparison, story.comparison.regime, []
    gained = story.after.calibration
    matters = gained is not None and gained.low > 0 and gained.high > story.flat.loss
    if gained is not None and matters and story.after.temperature is not None:
        steps.append(
            NextStep(
                f"Divide the logits of {story.later} by {story.after.temperature:.3g}, fitted on validation data.",
                f"It lowers the loss by {nats(gained)}, and no prediction changes.",
            )
        )
    if letter == "K":
        steps.append(_repair_step(story))
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
            f"At each model's best temperature the loss still differs by {left}; with so many logits, or losses so "
            "large, richer repairs were not tried here.",
        )
    smallest = min((repair.left for repair in story.repairs), key=lambda interval: interval.estimate)
    if all(one.contrast.high < 0 for one in story.repairs):
        return NextStep(
            f"Look for what {story.later} has unlearned: its examples and classes below.",
            f"Neither a temperature nor {tried(story)} for each class repairs it ({nats(smallest)} are left): it "
            "tells some examples' classes apart worse, not only with other confidence.",
        )
    return NextStep(
        "Evaluate on more examples before you call it worse ranking.",
        f"At each model's best temperature the loss still differs by {left}, with {tried(story)} for each class by "
        f"{nats(smallest)}: too wide to tell.",
    )


def _keep_in_run(plain: Choice, scaled: Choice, accuracy: Choice, num_checkpoints: int) -> str:
    """The best of each goal, and how many others are not resolved as worse; none where that is all of them."""
    wanted: dict[str, list[str]] = {}
    unresolved, alike = [], []
    for choice, goal in ((plain, "probabilities as they are"), (scaled, "recalibrated ones"), (accuracy, "accuracy")):
        others = len(choice.as_good) - 1
        if others == num_checkpoints - 1:
            alike.append(goal)
            continue
        wanted.setdefault(choice.keep, []).append(goal)
        if others:
            unresolved.append(f"{others} for {goal}")
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
    settling, open_ends = story.settling, undecided(story)
    needed = {"the loss": settling.needed_loss, "accuracy": settling.needed_accuracy}
    sizes = [f"about {rounded(value)} for {name}" for name in open_ends if (value := needed[name]) is not None]
    action = "Evaluate on more examples" + (f": {', '.join(sizes)}, if nothing truly changed." if sizes else ".")
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
