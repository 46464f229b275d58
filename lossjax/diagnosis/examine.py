"""From logits to a Diagnosis. Every statistic is ``lossjax.analysis``'s; here they are put together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from lossjax.analysis.attribution import CELLS, tail_examples
from lossjax.analysis.calibration import scores
from lossjax.analysis.calibration_error import confidence_error, reliability
from lossjax.analysis.comparison import Comparison, compare_records
from lossjax.analysis.proportions import accuracy_interval
from lossjax.analysis.records import Records
from lossjax.analysis.regimes import FLAT, Flat
from lossjax.analysis.significance import detectable_effect
from lossjax.diagnosis import advice, wording
from lossjax.diagnosis.answer import SCHEMA, Bin, CellChange, Choice, Diagnosis, Model, Point, Settling, Timing
from lossjax.diagnosis.carried import (
    classes_carrying,
    confidence_where_both_wrong,
    examples_carrying,
    groups_carrying,
    groups_of_examples,
)
from lossjax.diagnosis.choices import choose
from lossjax.diagnosis.measured import (
    Measured,
    Settings,
    best_by_loss,
    bounded,
    by_seed,
    means_of,
    measure,
    over_seeds,
)
from lossjax.diagnosis.outputs import FOLDS
from lossjax.diagnosis.repairs import try_repairs
from lossjax.diagnosis.story import Story, regime_name, repair_called_for, undecided
from lossjax.diagnosis.subject import Subject
from lossjax.diagnosis.window import Window, choose_window, records_at

BINS = 15


def examine(
    subject: Subject, *, ordered: bool = True, flat: Flat = FLAT, level: float = 0.95, seed: int = 0
) -> Diagnosis:
    """Diagnoses two models, or a run of which a window is chosen.

    Two models without an order, ``ordered=False``, are turned so that the second has the higher accuracy (if flat, the
    lower loss).

    In a run the window goes from the checkpoint with the lowest loss to the last. So that the choice does not flatter
    it, each example's first loss is that of the checkpoint which the *other* folds choose. Where the loss is lowest at
    the last checkpoint, the window is the second half of the run, whatever the data.
    """
    settings = Settings(flat, level, seed)
    fold, measured = measure(subject, settings)
    window = choose_window(subject, measured, fold)
    pair = (records_at(subject, measured, window.first), records_at(subject, measured, np.full_like(fold, window.last)))
    comparison = _compare(subject, pair, ordered, settings)
    if comparison.swapped:
        # told the way it was judged: to the model of higher accuracy, or of lower loss where that is flat
        subject, measured, pair = subject.reversed(), measured[::-1], pair[::-1]
        comparison = _compare(subject, pair, True, settings)
    choices = choose(subject, measured, fold, window.last, settings, judged=comparison.refused is None)
    recalibrated = _kept_recalibrated(subject, choices, window, settings)
    before, after, kept = _models(subject, measured, (window.shown, window.last, recalibrated), settings)
    scope = comparison.scope + ("; clusters resampled whole" if subject.clusters is not None else "")
    groups = groups_carrying(subject, pair, comparison, settings)
    classes = classes_carrying(subject, pair)
    timing = _timing(subject, choices) if subject.is_run else None
    settling = _settling(subject, comparison, pair, flat, level)
    repairs, untried = (
        try_repairs(subject, pair, window, fold, settings) if repair_called_for(comparison, flat) else ((), "")
    )
    story = Story(
        comparison=comparison,
        before=before,
        after=after,
        is_run=subject.is_run,
        named=subject.is_run or not ordered,
        improving=subject.is_run and best_by_loss(measured) == window.last,
        wrong_confidence=confidence_where_both_wrong(measured, window),
        settling=settling,
        timing=timing,
        choices=choices,
        groups=groups,
        repairs=repairs,
        flat=flat,
        num_checkpoints=len(subject.names),
        recalibrated=kept,
        guessing=float(np.bincount(subject.labels).max() / len(subject.labels)),
        classes=classes,
        untried=untried,
    )
    return Diagnosis(
        schema=SCHEMA,
        verdict=wording.verdict(story),
        kind="run" if subject.is_run else "pair",
        regime=comparison.regime,
        regime_detail=comparison.refinement,
        regime_name=regime_name(comparison.refinement, undecided(story), after.temperature),
        evidence=(*window.notes, *wording.evidence(story)),
        scope=scope,
        before=before,
        after=after,
        delta_loss=comparison.delta_loss,
        delta_accuracy=comparison.delta_accuracy,
        delta_refinement=comparison.delta_refinement,
        delta_calibration=comparison.delta_calibration,
        contrast=comparison.contrast,
        kind_resolved=comparison.kind_resolved,
        cells={cell: CellChange(comparison.cells[cell], comparison.cell_shares[cell]) for cell in CELLS},
        temperature={subject.names[at]: measured[at].temperature for at in (window.shown, window.last)},
        repairs=repairs,
        influence=comparison.influence,
        groups=groups,
        classes=classes,
        examples=examples_carrying(subject, pair, window),
        settling=settling,
        timing=timing,
        choices=choices,
        recommendation=advice.recommendation(story),
        next_steps=advice.next_steps(story),
        path=_path(subject, measured),
        reliability=_reliability(subject, measured, fold, window, level),
        notes=(
            *subject.notes,
            f"Intervals are of {100 * level:g} % and generalise over {scope}.",
            *wording.cautions(story),
        ),
        settings={
            "level": level,
            "seed": seed,
            "folds": FOLDS,
            "flat_loss": flat.loss,
            "flat_accuracy": flat.accuracy,
            "ordered": ordered,
            "bins": BINS,
            "examples": len(subject.labels),
            "classes": subject.logits[0].shape[-1],
            "seeds": subject.num_seeds or 1,
            "checkpoints": len(subject.names),
        },
    )


def _compare(subject: Subject, pair: tuple[Records, Records], ordered: bool, settings: Settings) -> Comparison:
    found = compare_records(
        *pair,
        groups=groups_of_examples(subject),
        clusters=subject.clusters,
        tail=None if subject.train_counts is None else tail_examples(subject.train_counts, subject.labels),
        ordered=ordered,
        same_seeds=subject.same_seeds,
        flat=settings.flat,
        level=settings.level,
        seed=settings.seed,
    )
    return dataclasses.replace(found, delta_accuracy=bounded(found.delta_accuracy, -1, 1))


def _kept_recalibrated(subject: Subject, choices: Sequence[Choice], window: Window, settings: Settings) -> int:
    """The checkpoint whose temperature is worth telling: the one to keep by the loss after recalibration, or the last
    where no other is better by what counts."""
    choice = next(choice for choice in choices if choice.goal == "recalibrated")
    if subject.is_run:
        all_alike = len(choice.as_good) == len(subject.names)
        return window.last if all_alike else subject.names.index(choice.keep)
    cost = max(regret.high for regret in choice.regret.values())
    return subject.names.index(choice.keep) if choice.resolved and cost > settings.flat.loss else window.last


def _models(
    subject: Subject, measured: Sequence[Measured], shown: Sequence[int], settings: Settings
) -> tuple[Model, ...]:
    exact = subject.num_seeds is None and subject.clusters is None
    means = means_of(
        {
            (index, name): getattr(measured[index], name).astype(np.float64)
            for index in dict.fromkeys(shown)
            for name in ("loss", "brier", "refined", "correct", "gain")
        },
        subject,
        settings,
    )
    models = {}
    for index in dict.fromkeys(shown):
        one = measured[index]
        error = confidence_error(one.confidence.ravel(), one.correct.ravel(), bins=BINS, level=None, seed=settings.seed)
        models[index] = Model(
            name=subject.names[index],
            loss=bounded(means[index, "loss"], 0, math.inf),
            accuracy=accuracy_interval(one.correct, subject.clusters, bounded(means[index, "correct"], 0, 1)),
            brier=bounded(means[index, "brier"], 0, 2),
            confidence=float(one.confidence.mean()),
            refinement=bounded(means[index, "refined"], 0, math.inf),
            calibration=means[index, "gain"] if one.calibration is None else one.calibration,
            temperature=one.temperature,
            temperature_at_edge=one.at_edge,
            tied=one.tied,
            calibration_error=error.estimate.estimate,
            calibration_error_null=error.null_mean,
            # seeds share their examples and clusters their kind, and the null knows neither
            calibration_error_p=error.p_value if exact else None,
        )
    return tuple(models[index] for index in shown)


def _timing(subject: Subject, choices: Sequence[Choice]) -> Timing:
    by_goal = {choice.goal: choice for choice in choices}
    loss, accuracy = by_goal["probabilities"], by_goal["accuracy"]
    at = {
        name: index if subject.steps is None else float(subject.steps[index])
        for index, name in enumerate(subject.names)
    }
    return Timing(
        lowest_loss=loss.keep,
        lowest_loss_set=loss.as_good,
        highest_accuracy=accuracy.keep,
        highest_accuracy_set=accuracy.as_good,
        lag=float(at[accuracy.keep] - at[loss.keep]),
        unit=f"{subject.unit}s",
    )


def _settling(
    subject: Subject, comparison: Comparison, pair: tuple[Records, Records], flat: Flat, level: float
) -> Settling:
    change = over_seeds(pair[1].loss) - over_seeds(pair[0].loss)
    independent = subject.clusters is None
    # the interval of ΔA has two examples added, so that below this number it shows no two models flat
    least = (math.sqrt(2) * stats.norm.ppf(level) / flat.accuracy - 2) if flat.accuracy else math.inf
    detectable = comparison.detectable_loss
    if subject.num_seeds is None and independent:
        detectable = detectable_effect(float(change.std(ddof=1)), len(change), level=level)
    only_examples = independent and subject.num_seeds is None
    return Settling(
        num_examples=len(subject.labels),
        num_clusters=None if subject.clusters is None else len(np.unique(subject.clusters)),
        num_seeds=subject.num_seeds,
        needed_loss=comparison.needed_loss if only_examples and flat.loss else None,
        needed_accuracy=max(comparison.needed_accuracy, least) if only_examples and flat.accuracy else None,
        flat_loss=comparison.flat_delta_loss,
        flat_accuracy=comparison.flat_delta_accuracy,
        detectable_loss=detectable,
        smallest_p=comparison.smallest_p,
        refused=comparison.refused,
    )


def _path(subject: Subject, measured: Sequence[Measured]) -> tuple[Point, ...]:
    steps = [None] * len(measured) if subject.steps is None else subject.steps.tolist()
    return tuple(
        Point(
            name=name,
            step=step,
            loss=float(one.loss.mean()),
            accuracy=float(one.correct.mean()),
            refinement=float(one.refined.mean()),
            temperature=one.temperature,
        )
        for name, step, one in zip(subject.names, steps, measured, strict=True)
    )


def _reliability(
    subject: Subject, measured: Sequence[Measured], fold: np.ndarray, window: Window, level: float
) -> dict[str, tuple[Bin, ...]]:
    """Of both models, and of the second with its logits divided by the temperature of the other folds."""
    before, after = measured[window.shown], measured[window.last]
    scaled = [
        scores(logits / temperatures[fold][:, None], subject.labels).confidence
        for logits, temperatures in zip(by_seed(subject.logits[window.last]), after.fold_temperatures, strict=True)
    ]
    series = {
        subject.names[window.shown]: (before.confidence, before.correct),
        subject.names[window.last]: (after.confidence, after.correct),
        f"{subject.names[window.last]}, recalibrated": (np.stack(scaled), after.correct),
    }
    return {name: _bins(confidence.ravel(), hits.ravel(), level) for name, (confidence, hits) in series.items()}


def _bins(confidence: np.ndarray, correct: np.ndarray, level: float) -> tuple[Bin, ...]:
    found = reliability(confidence, correct, bins=BINS, level=level)
    return tuple(
        Bin(
            low=float(found.low[index]),
            high=float(found.high[index]),
            count=int(found.count[index]),
            confidence=float(found.confidence[index]),
            accuracy=found.accuracy[index],
        )
        for index in range(len(found.count))
    )
