"""From logits or a curve to a Diagnosis. Every statistic is ``lossjax.analysis``'s; here they are put together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from lossjax.analysis.attribution import CELLS, frequency_groups, tail_examples
from lossjax.analysis.calibration import (
    assign_folds,
    calibration_interval,
    checked,
    fit_temperature,
    scores,
)
from lossjax.analysis.calibration_error import confidence_error, reliability
from lossjax.analysis.comparison import Comparison, Records, cluster_values, compare_records
from lossjax.analysis.interval import Interval
from lossjax.analysis.onset import adequate_evaluations, best_evaluation
from lossjax.analysis.proportions import bonett_price, wilson
from lossjax.analysis.regimes import FLAT, Flat, observed_windows
from lossjax.analysis.resampling import mean_interval, mean_intervals, two_way_difference, two_way_interval
from lossjax.analysis.significance import detectable_effect, smallest_attainable_p
from lossjax.diagnosis import wording
from lossjax.diagnosis.answer import (
    SCHEMA,
    Bin,
    CellChange,
    Choice,
    Diagnosis,
    Example,
    Goal,
    Group,
    Model,
    Point,
    Settling,
    Timing,
)
from lossjax.diagnosis.curves import Curve
from lossjax.diagnosis.reading import FOLDS, Subject

Key = TypeVar("Key")

BINS = 15
TOP_EXAMPLES = 20
GROUP_NAMES = ("head", "middle", "tail")


@dataclasses.dataclass(frozen=True, eq=False)
class _Measured:
    """One checkpoint's records: [seed, example], with one seed where there is no seed axis."""

    loss: Float[np.ndarray, "seed example"]
    correct: Bool[np.ndarray, "seed example"]
    brier: Float[np.ndarray, "seed example"]
    confidence: Float[np.ndarray, "seed example"]
    refined: Float[np.ndarray, "seed example"]
    fold_temperatures: Float[np.ndarray, "seed fold"]
    temperatures: Float[np.ndarray, " seed"]
    at_edge: bool
    tied: float
    calibration: Interval | None  # of the only seed

    @property
    def temperature(self) -> float:
        return float(np.exp(np.log(self.temperatures).mean()))


@dataclasses.dataclass(frozen=True, eq=False)
class _Window:
    """From where to where: ``first`` [example] is the checkpoint that each example's first loss is taken from."""

    first: Int[np.ndarray, " example"]
    shown: int  # the one checkpoint that stands for ``first``
    last: int
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Settings:
    flat: Flat
    level: float
    seed: int


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
    settings = _Settings(flat, level, seed)
    fold, measured = _measure(subject, settings)
    window = _window(subject, measured, fold)
    pair = (_records(subject, measured, window.first), _records(subject, measured, np.full_like(fold, window.last)))
    comparison = _compare(subject, pair, ordered, settings)
    if comparison.swapped:
        # told the way it was judged: to the model of higher accuracy, or of lower loss where that is flat
        subject, measured, pair = subject.reversed(), measured[::-1], pair[::-1]
        comparison = _compare(subject, pair, True, settings)
    models = _models(subject, measured, window, settings)
    scope = comparison.scope + ("; clusters resampled whole" if subject.clusters is not None else "")
    groups = _groups(subject, pair, comparison, settings)
    choices = _choices(subject, measured, fold, window, settings)
    timing = _timing(subject, choices) if subject.is_run else None
    settling = _settling(subject, comparison, pair, level)
    story = wording.Story(
        comparison=comparison,
        before=models[0],
        after=models[1],
        is_run=subject.is_run,
        named=subject.is_run or not ordered,
        improving=subject.is_run and _best_by_loss(measured) == window.last,
        wrong_confidence=_confidence_where_both_wrong(measured, window),
        settling=settling,
        timing=timing,
        choices=choices,
        groups=groups,
        flat=flat,
        num_checkpoints=len(subject.names),
    )
    return Diagnosis(
        schema=SCHEMA,
        verdict=wording.verdict(story),
        kind="run" if subject.is_run else "pair",
        regime=comparison.regime,
        regime_detail=comparison.refinement,
        regime_name=wording.regime_name(comparison.refinement, wording.undecided(story)),
        evidence=wording.evidence(story),
        scope=scope,
        before=models[0],
        after=models[1],
        delta_loss=comparison.delta_loss,
        delta_accuracy=comparison.delta_accuracy,
        delta_refinement=comparison.delta_refinement,
        delta_calibration=comparison.delta_calibration,
        contrast=comparison.contrast,
        kind_resolved=comparison.kind_resolved,
        cells={cell: CellChange(comparison.cells[cell], comparison.cell_shares[cell]) for cell in CELLS},
        temperature={
            model.name: measured[at].temperature for model, at in zip(models, (window.shown, window.last), strict=True)
        },
        influence=comparison.influence,
        groups=groups,
        examples=_examples(subject, pair, window),
        settling=settling,
        timing=timing,
        choices=choices,
        recommendation=wording.recommendation(story),
        next_steps=wording.next_steps(story),
        path=_path(subject, measured),
        reliability=_reliability(subject, measured, fold, window, level),
        notes=(
            *subject.notes,
            *window.notes,
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
    story = wording.CurveStory(
        curve=curve,
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
        verdict=wording.curve_verdict(story),
        kind="curve",
        regime=letter,
        regime_detail=detail,
        regime_name=wording.regime_name(detail),
        evidence=wording.curve_evidence(story),
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
        influence=None,
        groups=(),
        examples=(),
        settling=None,
        timing=timing,
        choices=(),
        recommendation=wording.curve_recommendation(story),
        next_steps=wording.curve_next_steps(story),
        path=tuple(
            Point(name, time, loss, accuracy)
            for name, time, loss, accuracy in zip(
                names, curve.times.tolist(), curve.loss.tolist(), curve.accuracy.tolist(), strict=True
            )
        ),
        reliability={},
        notes=(*curve.notes, *wording.CURVE_CAUTIONS),
        settings={
            "flat_loss": flat.loss,
            "flat_accuracy": flat.accuracy,
            "examples": num_examples,
            "checkpoints": len(names),
        },
    )


def _compare(subject: Subject, pair: tuple[Records, Records], ordered: bool, settings: _Settings) -> Comparison:
    return compare_records(
        *pair,
        groups=_frequency_groups(subject),
        clusters=subject.clusters,
        tail=None if subject.train_counts is None else tail_examples(subject.train_counts, subject.labels),
        ordered=ordered,
        same_seeds=subject.same_seeds,
        flat=settings.flat,
        level=settings.level,
        seed=settings.seed,
    )


def _measure(subject: Subject, settings: _Settings) -> tuple[Int[np.ndarray, " example"], list[_Measured]]:
    """Folds, shared by all checkpoints, and each checkpoint's records."""
    labels = subject.labels
    found = [[scores(z, labels) for z in _by_seed(logits)] for logits in subject.logits]
    right = np.stack([np.mean([one.correct for one in seeds], axis=0) >= 0.5 for seeds in found])
    # by both correctnesses of a pair; along a run by how often an example is right
    strata = 2 * right[0] + right[1] if len(right) == 2 else right.sum(axis=0)
    fold = assign_folds(strata, folds=FOLDS, seed=settings.seed)
    measured = []
    for seeds, logits in zip(found, subject.logits, strict=True):
        fits = [fit_temperature(*checked(z, labels), fold, FOLDS) for z in _by_seed(logits)]
        calibration = None
        if subject.num_seeds is None and subject.clusters is None:  # its interval takes examples for independent
            calibration = calibration_interval(seeds[0].loss, fits[0], level=settings.level)
        measured.append(
            _Measured(
                loss=np.stack([one.loss for one in seeds]),
                correct=np.stack([one.correct for one in seeds]),
                brier=np.stack([one.brier for one in seeds]),
                confidence=np.stack([one.confidence for one in seeds]),
                refined=np.stack([fit.refined for fit in fits]),
                fold_temperatures=np.stack([fit.fold_temperatures for fit in fits]),
                temperatures=np.array([fit.temperature for fit in fits]),
                at_edge=any(fit.at_edge for fit in fits),
                tied=float(np.mean([one.tied for one in seeds])),
                calibration=calibration,
            )
        )
    return fold, measured


def _by_seed(logits: np.ndarray) -> Sequence[np.ndarray]:
    return list(logits) if logits.ndim == 3 else [logits]


def _window(subject: Subject, measured: Sequence[_Measured], fold: np.ndarray) -> _Window:
    last = len(measured) - 1
    if not subject.is_run:
        return _Window(np.zeros_like(fold), 0, last)
    best = _best_by_loss(measured)
    if best == last:
        middle = last // 2
        note = (
            f"The loss is lowest at the last checkpoint; the window is the second half of the run, from "
            f"{subject.names[middle]}."
        )
        return _Window(np.full_like(fold, middle), middle, last, (note,))
    losses = np.stack([one.loss.mean(axis=0) for one in measured])
    first = _chosen_by_other_folds(losses, fold)
    names = [subject.names[index] for index in np.unique(first)]
    note = "The window goes from the lowest loss to the last checkpoint. "
    note += (
        f"Whichever fifth of the examples is left out, the others choose {names[0]}."
        if len(names) == 1
        else f"Leaving out a fifth of the examples at a time, the others choose {', '.join(names)}; every example is "
        "compared from the one that was chosen without it."
    )
    return _Window(first, best, last, (note,))


def _best_by_loss(measured: Sequence[_Measured]) -> int:
    return int(best_evaluation(np.array([one.loss.mean() for one in measured]), "lowest"))


def _chosen_by_other_folds(
    values: Float[np.ndarray, "checkpoint example"], fold: Int[np.ndarray, " example"]
) -> Int[np.ndarray, " example"]:
    """For each example, the checkpoint whose mean over the other folds is lowest."""
    chosen = np.array([int(best_evaluation(values[:, fold != k].mean(axis=1), "lowest")) for k in range(FOLDS)])
    return chosen[fold]


def _records(subject: Subject, measured: Sequence[_Measured], index: Int[np.ndarray, " example"]) -> Records:
    """Each example's record at its checkpoint; without the seed axis where there is none."""
    used = np.unique(index)
    fields = []
    for name in ("loss", "correct", "refined"):
        values = getattr(measured[used[0]], name)
        for other in used[1:]:
            values = np.where(index == other, getattr(measured[other], name), values)
        fields.append(values[0] if subject.num_seeds is None else values)
    return Records(*fields)


def _models(
    subject: Subject, measured: Sequence[_Measured], window: _Window, settings: _Settings
) -> tuple[Model, Model]:
    shown = (window.shown, window.last)
    exact = subject.num_seeds is None and subject.clusters is None
    means = _means(
        {
            (index, name): getattr(measured[index], name).astype(np.float64)
            for index in shown
            for name in ("loss", "brier", "refined", "correct")
        },
        subject,
        settings,
    )
    models = []
    for index in shown:
        one = measured[index]
        error = confidence_error(one.confidence.ravel(), one.correct.ravel(), bins=BINS, level=None, seed=settings.seed)
        hits = wilson(int(one.correct.sum()), one.correct.size, level=settings.level)
        models.append(
            Model(
                name=subject.names[index],
                loss=means[index, "loss"],
                accuracy=hits if exact else means[index, "correct"],
                brier=means[index, "brier"],
                confidence=float(one.confidence.mean()),
                refinement=means[index, "refined"],
                calibration=one.calibration,
                temperature=one.temperature,
                temperature_at_edge=one.at_edge,
                tied=one.tied,
                calibration_error=error.estimate.estimate,
                calibration_error_null=error.null_mean,
                # seeds share their examples and clusters their kind, and the null knows neither
                calibration_error_p=error.p_value if exact else None,
            )
        )
    return models[0], models[1]


def _means(
    columns: Mapping[Key, Float[np.ndarray, "seed example"]], subject: Subject, settings: _Settings
) -> dict[Key, Interval]:
    """Over examples, or clusters of them, and over seeds where there are several; one set of resamples for all."""
    if not columns:
        return {}
    if subject.num_seeds is None:
        values = np.stack([column[0] for column in columns.values()], axis=1)
        intervals = mean_intervals(values, clusters=subject.clusters, level=settings.level, seed=settings.seed)
        return {name: intervals[index] for index, name in enumerate(columns)}
    found = {}
    for name, column in columns.items():
        if subject.clusters is not None:
            column = cluster_values(column[..., None], subject.clusters)[..., 0]
        found[name] = two_way_interval(column, level=settings.level, seed=settings.seed)
    return found


def _frequency_groups(subject: Subject) -> np.ndarray | None:
    return None if subject.train_counts is None else frequency_groups(subject.train_counts)[subject.labels]


def _groups(
    subject: Subject, pair: tuple[Records, Records], comparison: Comparison, settings: _Settings
) -> tuple[Group, ...]:
    of_example = _frequency_groups(subject)
    if of_example is None or subject.train_counts is None:
        return ()
    of_class = frequency_groups(subject.train_counts)
    moved = _over_seeds(pair[1].correct) - _over_seeds(pair[0].correct)
    groups = []
    for group, name in enumerate(GROUP_NAMES):
        if group not in comparison.by_group:
            continue
        within = np.where(of_example == group, moved, 0.0)
        if subject.num_seeds is None and subject.clusters is None:
            gained, lost = int((within > 0).sum()), int((within < 0).sum())
            change = bonett_price(gained, lost, len(within), level=settings.level)
        elif subject.num_seeds is None:
            change = mean_interval(within, clusters=subject.clusters, level=settings.level, seed=settings.seed)
        else:  # over these seeds only, so without bounds
            change = Interval(float(within.mean()), math.nan, math.nan, settings.level)
        groups.append(
            Group(
                name=name,
                num_classes=int((of_class == group).sum()),
                share=float((of_example == group).mean()),
                delta_loss=comparison.by_group[group],
                delta_accuracy=change,
            )
        )
    return tuple(groups)


def _over_seeds(values: Float[np.ndarray, "*seed example"]) -> Float[np.ndarray, " example"]:
    values = np.asarray(values, dtype=np.float64)
    return values.mean(axis=0) if values.ndim == 2 else values


def _examples(subject: Subject, pair: tuple[Records, Records], window: _Window) -> tuple[Example, ...]:
    """Those whose loss changed most, in size; the lower index first among equals."""
    change = _over_seeds(pair[1].loss) - _over_seeds(pair[0].loss)
    order = np.argsort(-np.abs(change), kind="stable")[:TOP_EXAMPLES]

    def predicted(index: int, example: int) -> str | None:
        logits = subject.logits[index]
        return subject.class_name(int(logits[example].argmax())) if logits.ndim == 2 else None

    return tuple(
        Example(
            index=example,
            label=subject.class_name(int(subject.labels[example])),
            predicted_before=predicted(int(window.first[example]), example),
            predicted_after=predicted(window.last, example),
            probability_before=float(np.mean(np.exp(-np.atleast_2d(pair[0].loss)[:, example]))),
            probability_after=float(np.mean(np.exp(-np.atleast_2d(pair[1].loss)[:, example]))),
            change=float(change[example]),
            share=float(abs(change[example]) / np.abs(change).sum()) if change.any() else 0.0,
        )
        for example in order.tolist()
    )


def _confidence_where_both_wrong(measured: Sequence[_Measured], window: _Window) -> tuple[float, float] | None:
    """Mean confidence before and after in wrong predictions that stayed wrong; None where there are none."""
    before, after = measured[window.shown], measured[window.last]
    if before.correct.shape != after.correct.shape:
        return None
    both = ~before.correct & ~after.correct
    if not both.any():
        return None
    return float(before.confidence[both].mean()), float(after.confidence[both].mean())


def _choices(
    subject: Subject, measured: Sequence[_Measured], fold: np.ndarray, window: _Window, settings: _Settings
) -> tuple[Choice, ...]:
    """Each goal has a score of which less is better, a checkpoint: [seed, example]."""
    counts = np.bincount(subject.labels)
    # each class that occurs counts the same
    weight = len(subject.labels) / (counts[subject.labels] * np.count_nonzero(counts))
    losses: dict[Goal, list[np.ndarray]] = {
        "probabilities": [one.loss for one in measured],
        "recalibrated": [one.refined for one in measured],
        "accuracy": [1.0 - one.correct for one in measured],
        "balanced": [(1.0 - one.correct) * weight for one in measured],
    }
    if subject.is_run:
        return _choices_in_run(subject, losses, fold, window, settings)
    return _choices_of_two(subject, losses, settings)


def _choices_of_two(
    subject: Subject, losses: Mapping[Goal, Sequence[np.ndarray]], settings: _Settings
) -> tuple[Choice, ...]:
    names = subject.names
    keep = {
        goal: int(best_evaluation(np.array([one.mean() for one in values]), "lowest"))
        for goal, values in losses.items()
    }
    values, regrets = _judged(
        {goal: losses[goal][best] for goal, best in keep.items()},
        {(goal, names[1 - best]): losses[goal][1 - best] for goal, best in keep.items()},
        subject,
        settings,
    )
    choices = []
    for goal, best in keep.items():
        regret = regrets[goal, names[1 - best]]
        choices.append(
            Choice(
                goal=goal,
                score=wording.SCORES[goal],
                keep=names[best],
                as_good=(names[best],) if regret.low > 0 else names,
                value=values[goal],
                regret={names[1 - best]: regret},
            )
        )
    return tuple(choices)


def _choices_in_run(
    subject: Subject,
    losses: Mapping[Goal, Sequence[np.ndarray]],
    fold: np.ndarray,
    window: _Window,
    settings: _Settings,
) -> tuple[Choice, ...]:
    """What each goal chooses, and what that is held against, is judged on examples that had no part in choosing."""
    examples = np.arange(len(fold))
    stacked = {goal: np.stack(values) for goal, values in losses.items()}  # [checkpoint, seed, example]
    selectors: dict[str, np.ndarray] = {
        name: _chosen_by_other_folds(stacked[goal].mean(axis=1), fold) for goal, name in wording.SELECTORS.items()
    }
    selectors["the last checkpoint"] = np.full_like(fold, window.last)

    def picked(goal: Goal, selector: str) -> np.ndarray:
        return stacked[goal][selectors[selector], :, examples].T

    own = {goal: picked(goal, wording.SELECTORS[goal]) for goal in losses}
    others = {
        (goal, name): picked(goal, name)
        for goal in losses
        for name in selectors
        if name not in (wording.SELECTORS[goal], wording.SELECTORS["balanced"])
    }
    values, regrets = _judged(own, others, subject, settings)
    choices = []
    for goal, score in stacked.items():
        units = score[:, 0] if subject.num_seeds is None else score.mean(axis=2)
        if subject.num_seeds is None and subject.clusters is not None:
            units = cluster_values(units.T[None], subject.clusters)[0].T
        adequate = adequate_evaluations(units, "lowest", level=settings.level, seed=settings.seed)
        choices.append(
            Choice(
                goal=goal,
                score=wording.SCORES[goal],
                keep=subject.names[int(best_evaluation(score.mean(axis=(1, 2)), "lowest"))],
                as_good=tuple(name for name, kept in zip(subject.names, adequate, strict=True) if kept),
                value=values[goal],
                regret={name: regret for (for_goal, name), regret in regrets.items() if for_goal == goal},
            )
        )
    return tuple(choices)


def _judged(
    own: Mapping[Goal, np.ndarray],
    others: Mapping[tuple[Goal, str], np.ndarray],
    subject: Subject,
    settings: _Settings,
) -> tuple[dict[Goal, Interval], dict[tuple[Goal, str], Interval]]:
    """The value of each goal's own choice, and what the others cost instead, over what the subject samples.

    Scores are [seed, example], less being better; the values of accuracies are given as accuracies.
    """
    values: dict[Goal, Interval] = {}
    regrets: dict[tuple[Goal, str], Interval] = {}
    columns: dict[tuple[Goal, str], np.ndarray] = {(goal, ""): score for goal, score in own.items()}
    exact = subject.num_seeds is None and subject.clusters is None
    for (goal, name), score in others.items():
        if subject.num_seeds is not None and not subject.same_seeds:
            a, b = own[goal], score
            if subject.clusters is not None:
                a, b = (cluster_values(one[..., None], subject.clusters)[..., 0] for one in (a, b))
            regrets[goal, name] = two_way_difference(a, b, level=settings.level, seed=settings.seed)
        elif exact and goal == "accuracy":
            # a bootstrap of a few discordant examples would be too narrow
            change = (score - own[goal])[0]
            worse, better = int((change > 0).sum()), int((change < 0).sum())
            regrets[goal, name] = bonett_price(worse, better, len(change), level=settings.level)
        else:
            columns[goal, name] = score - own[goal]
    means = _means(columns, subject, settings)
    for goal, score in own.items():
        found = means.pop((goal, ""))
        if goal in ("accuracy", "balanced"):
            found = Interval(1 - found.estimate, 1 - found.high, 1 - found.low, found.level)
        if exact and goal == "accuracy":
            found = wilson(int((score == 0).sum()), score.size, level=settings.level)
        values[goal] = found
    regrets |= means
    return values, {key: regrets[key] for key in others}


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
        unit="checkpoints" if subject.steps is None else "steps",
    )


def _settling(subject: Subject, comparison: Comparison, pair: tuple[Records, Records], level: float) -> Settling:
    change = _over_seeds(pair[1].loss) - _over_seeds(pair[0].loss)
    independent = subject.clusters is None
    if subject.num_seeds is None:
        detectable = detectable_effect(float(change.std(ddof=1)), len(change), level=level) if independent else None
        attainable = None
    elif subject.same_seeds:
        by_seed = np.mean(pair[1].loss - pair[0].loss, axis=1)
        detectable = detectable_effect(float(by_seed.std(ddof=1)), len(by_seed), level=level)
        attainable = smallest_attainable_p(len(by_seed))
    else:
        detectable, attainable = None, smallest_attainable_p(len(pair[0].loss), len(pair[1].loss))
    only_examples = independent and subject.num_seeds is None
    return Settling(
        num_examples=len(subject.labels),
        num_clusters=None if subject.clusters is None else len(np.unique(subject.clusters)),
        num_seeds=subject.num_seeds,
        needed_loss=comparison.needed_loss if only_examples else None,
        needed_accuracy=comparison.needed_accuracy if only_examples else None,
        flat_loss=comparison.flat_delta_loss,
        flat_accuracy=comparison.flat_delta_accuracy,
        detectable_loss=detectable,
        smallest_p=attainable,
    )


def _path(subject: Subject, measured: Sequence[_Measured]) -> tuple[Point, ...]:
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
    subject: Subject, measured: Sequence[_Measured], fold: np.ndarray, window: _Window, level: float
) -> dict[str, tuple[Bin, ...]]:
    """Of both models, and of the second with its logits divided by the temperature of the other folds."""
    before, after = measured[window.shown], measured[window.last]
    scaled = [
        scores(logits / temperatures[fold][:, None], subject.labels).confidence
        for logits, temperatures in zip(_by_seed(subject.logits[window.last]), after.fold_temperatures, strict=True)
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
