"""What a curve alone can tell, and how it is said."""

from __future__ import annotations

import dataclasses
import math
from typing import Final

from lossjax.analysis.interval import Interval
from lossjax.analysis.onset import best_evaluation
from lossjax.analysis.proportions import wilson
from lossjax.analysis.regimes import FLAT, UNTOLD, Flat, observed_windows
from lossjax.diagnosis.answer import SCHEMA, Diagnosis, Model, NextStep, Point, Timing
from lossjax.diagnosis.curves import Curve
from lossjax.diagnosis.phrases import apart, percent, sentences
from lossjax.diagnosis.story import regime_name

_CAUTIONS: Final = (
    "A curve holds no examples: there are no intervals, no cells, no temperature. These answers are weaker than those "
    "from logits; lossjax.Recorder records them from any training loop.",
    "The lowest loss and the highest accuracy of a curve are chosen from noise and so flatter it.",
    "The loss was taken as it was logged: penalties (Keras adds them to val_loss), label smoothing or class weights in "
    "it make it another than the cross-entropy of the probabilities.",
)


def examine_curve(curve: Curve, *, num_examples: int | None = None, flat: Flat = FLAT) -> Diagnosis:
    """What a curve alone can tell: the movements, without intervals, and nothing of single examples.

    The window goes from the lowest loss to the last point, or, where the loss is lowest at the end, from the middle.
    """
    lowest = int(best_evaluation(curve.loss, "lowest"))
    highest = int(best_evaluation(curve.accuracy, "highest"))
    last = len(curve.loss) - 1
    improving = lowest == last
    first = last // 2 if improving else lowest
    windows = observed_windows(curve.loss, curve.accuracy, flat=flat)
    letter, detail = str(windows.letters[first, last]), str(windows.refinements[first, last])
    names = [f"{curve.time_name} {time:.10g}" for time in curve.times.tolist()]

    def unbounded(value: float) -> Interval:
        return Interval(float(value), math.nan, math.nan)

    def model(at: int) -> Model:
        accuracy = float(curve.accuracy[at])
        known = num_examples is not None
        return Model(
            names[at],
            unbounded(curve.loss[at]),
            wilson(round(accuracy * num_examples), num_examples) if known and num_examples else unbounded(accuracy),
        )

    before, after = model(first), model(last)
    delta_loss = unbounded(curve.loss[last] - curve.loss[first])
    delta_accuracy = unbounded(curve.accuracy[last] - curve.accuracy[first])
    lag = float(curve.times[highest] - curve.times[lowest])
    timing = Timing(names[lowest], (), names[highest], (), lag, f"{curve.time_name}s")
    story = _Story(
        curve=curve,
        first=first,
        letter=letter,
        detail=detail,
        before=before,
        after=after,
        delta_loss=delta_loss.estimate,
        delta_accuracy=delta_accuracy.estimate,
        timing=timing,
        improving=improving,
        num_examples=num_examples,
        flat=flat,
    )
    return Diagnosis(
        schema=SCHEMA,
        verdict=_verdict(story),
        kind="curve",
        regime=letter,
        regime_detail=detail,
        regime_name=regime_name(detail),
        evidence=_evidence(story),
        scope="this curve: neither other examples nor other seeds",
        before=before,
        after=after,
        delta_loss=delta_loss,
        delta_accuracy=delta_accuracy,
        delta_refinement=None,
        delta_calibration=None,
        contrast=None,
        kind_resolved=None,
        cells=None,
        temperature=None,
        repairs=(),
        influence=None,
        groups=(),
        classes=(),
        examples=(),
        settling=None,
        timing=timing,
        choices=(),
        recommendation=_recommendation(story),
        next_steps=_next_steps(story),
        path=tuple(
            Point(name, time, loss, accuracy)
            for name, time, loss, accuracy in zip(
                names, curve.times.tolist(), curve.loss.tolist(), curve.accuracy.tolist(), strict=True
            )
        ),
        reliability={},
        notes=(*curve.notes, *_CAUTIONS),
        settings={
            "flat_loss": flat.loss,
            "flat_accuracy": flat.accuracy,
            "examples": num_examples,
            "checkpoints": len(names),
        },
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Story:
    """What the sentences about a curve are about."""

    curve: Curve
    first: int  # where the window begins; it ends at the last point
    letter: str
    detail: str
    before: Model
    after: Model
    delta_loss: float
    delta_accuracy: float
    timing: Timing
    improving: bool
    num_examples: int | None
    flat: Flat


def _verdict(story: _Story) -> str:
    loss = f"the loss {_went(story.delta_loss, story.flat.loss, 'nats')}"
    accuracy = f"accuracy {_went(100 * story.delta_accuracy, 100 * story.flat.accuracy, 'points')}"
    happened = f"From {story.before.name} to {story.after.name}, {loss} and {accuracy}."
    why = {
        UNTOLD: (
            "A curve cannot say why: too much or too little confidence, which one temperature repairs, and worse "
            "ranking look the same."
        ),
        "P": "The probabilities went on improving where accuracy shows nothing.",
        "W": _why_both_got_worse(story),
        "G": "Both were still improving." if story.improving else "",
        "S": "They point in opposite directions: decide which of the two you are judged by.",
    }.get(story.letter, "")
    return sentences(happened, why, _recommendation(story))


def _why_both_got_worse(story: _Story) -> str:
    """Over-fitting is told by a training loss that goes on falling."""
    fell = _fall_of_training_loss(story)
    if story.curve.split == "training":
        return "Both got worse on the training examples themselves, so this is no over-fitting but unstable training."
    if fell is None:
        return "Both got worse, as over-fitting does; the training loss, which would tell, is not in the file."
    if fell > story.flat.loss:
        return f"Both got worse while the training loss fell by {fell:.3g} nats: the model over-fits."
    return "Both got worse and the training loss did not fall, so this is no over-fitting but unstable training."


def _fall_of_training_loss(story: _Story) -> float | None:
    """Over the window; None where it is not known at both ends."""
    if story.curve.train_loss is None:
        return None
    first, last = float(story.curve.train_loss[story.first]), float(story.curve.train_loss[-1])
    return first - last if math.isfinite(first) and math.isfinite(last) else None


def _recommendation(story: _Story) -> str:
    timing = story.timing
    if timing.lowest_loss == timing.highest_accuracy:
        return f"Keep {timing.lowest_loss}: loss and accuracy are both best there, as far as a curve can tell."
    return (
        f"Keep {timing.lowest_loss} for probabilities as they are and {timing.highest_accuracy} for accuracy, as far "
        "as a curve can tell."
    )


def _evidence(story: _Story) -> tuple[str, ...]:
    curve, timing = story.curve, story.timing
    lines = [
        f"The loss is lowest at {timing.lowest_loss} ({min(curve.loss):.4g} nats) and {curve.loss[-1]:.4g} at the end.",
        f"Accuracy is highest at {timing.highest_accuracy} ({percent(max(curve.accuracy))}) and "
        f"{percent(curve.accuracy[-1])} at the end, {apart(timing)}.",
    ]
    if story.num_examples is not None:
        low, high = story.after.accuracy.low, story.after.accuracy.high
        lines.append(
            f"With {story.num_examples:,} examples the last accuracy has the interval {percent(low)} to "
            f"{percent(high)}: differences much smaller than that may be noise."
        )
    return tuple(lines)


def _next_steps(story: _Story) -> tuple[NextStep, ...]:
    steps = [
        NextStep(
            "Record the logits of the validation set at a few steps with lossjax.Recorder and diagnose those.",
            "Only examples tell whether a temperature repairs the loss, which examples carry it, and how sure it is.",
        )
    ]
    if story.num_examples is None:
        steps.append(
            NextStep("Say how many examples the curve is of: --examples N.", "Without it no noise can be judged.")
        )
    if story.improving and story.letter in ("G", "P"):
        steps.append(NextStep("Train longer.", "The loss is lowest at the last point."))
    return tuple(steps)


def _went(change: float, delta: float, unit: str) -> str:
    if abs(change) <= delta:
        return f"stayed within ±{delta:g} {unit}"
    return f"{'rose' if change > 0 else 'fell'} by {abs(change):.3g} {unit}"
