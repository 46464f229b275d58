"""A convolutional network replaced by a transformer: higher accuracy and higher loss at every epoch?

The published case (W5), on two tasks of about 3,000 imbalanced classes: a town's region from its timezone, size, rough
place and name; the next word of a text. LSTM, convolution and transformer of about as many parameters, each at the best
of three learning rates, and of a fourth beyond where the outermost of the three was the best (by validation loss at its
own best epoch), on the same splits, at every epoch.

- C9: the transformer that is better by accuracy and worse by loss is "less confident, but right more often".
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

import lossjax as lj
from lossjax.analysis.baselines import references
from lossjax.analysis.families import corrected
from lossjax.analysis.replacement import Replacement, Tuned, replaced, tuned
from lossjax.analysis.resampling import mean_interval, mean_intervals, two_way_interval
from lossjax.analysis.tables import table, with_bounds
from lossjax.analysis.verdicts import judge
from lossjax.reports.report import estimate_text
from lossjax.tasks import class_counts, seen_often

# The rules, written before the results -----------------------------------------------------------------------------

WHEN = (
    "at the epoch at which the transformer, by means over seeds, is ahead of the convolution in accuracy and behind in "
    "loss by the largest product of the two. Where there is no such epoch, at the end of training"
)
AMENDED = "where there is no such epoch there is nothing to explain, so the verdict is unresolved"
CONFIDENCE_RULE = (
    "mean confidence of the transformer minus the convolution's: supported if the interval lies below 0, refuted if "
    f"above; {WHEN}"
)
TEMPERATURE_RULE = (
    f"log T* of the transformer: under-confident, so supported, if the interval lies below 0; refuted if above; {WHEN}"
)

ANY_RULE = (
    "of the two architectures that have an epoch at which one is ahead of the other in accuracy and behind in loss, by "
    "means over seeds, at the epoch and for the two with the largest product: supported if the interval of the one "
    "ahead lies below 0 (its mean confidence minus the other's; log T*), refuted if above"
)
ANY_AMENDED = "the transformer never is that one on these tasks, so the claim is asked of whichever is"

OVER_RULE = (
    "Over-confident: the interval over seeds of mean confidence minus accuracy lies above 0; under-confident: below. "
    "The same is asked of the confidence at T*, fitted without the example's fold"
)

# What is trained ---------------------------------------------------------------------------------------------------

MODELS = {
    "lstm": lj.models.LSTM(hidden=32),
    "conv": lj.models.Conv(width=32),
    "transformer": lj.models.Transformer(width=32, layers=1),
}
MODEL_NAMES = {"lstm": "LSTM", "conv": "convolution", "transformer": "transformer"}
TASKS: Mapping[str, Any] = {
    "places": lj.tasks.PlaceNames(val_fraction=0.05),
    "words": lj.tasks.NextWord(context_length=8, num_train=24_000, num_val=1500, num_test=5000),
}
TASK_NAMES = {"places": "place names", "words": "next word"}
RATES = (3e-3, 1e-2, 3e-2)
BEYOND = {"places-conv": 1e-3, "places-transformer": 1e-3, "words-lstm": 1e-3, "words-conv": 1e-1}
OFTEN = 5  # training examples of a class that was seen often
EPOCHS = {"laptop": 6, "paper": 30}
SEEDS = {"laptop": 8, "paper": 50, "smoke": 2}  # two cores take members by eights


def sweep(scale: str) -> lj.Sweep:
    def cell(task: str, model: str) -> lj.Cell:
        config = lj.TrainConfig(
            batch_size=64,
            **({"num_steps": 6} if scale == "smoke" else {"epochs": EPOCHS[scale]}),
            num_evals=2 if scale == "smoke" else EPOCHS[scale],
            measure=lj.Measure(splits=("val", "test"), per_example=("test",), num_groups=0),
        )
        return lj.Cell(TASKS[task], MODELS[model], config)

    cells = {f"{task}-{model}": cell(task, model) for task in TASKS for model in MODELS}
    return lj.Sweep(
        cells=cells,
        hyperparams={name: lj.grid(learning_rate=sorted({*RATES, BEYOND.get(name, RATES[0])})) for name in cells},
        seeds=SEEDS[scale],
        part_size=24,
    )


# What is concluded -------------------------------------------------------------------------------------------------

MEANS = ("loss", "refinement", "accuracy", "confidence", "refined_confidence", "temperature")
CONFIDENCES = {"confidence": "mean confidence", "refined_confidence": "mean confidence at T*"}
GAPS = {"gap": "confidence minus accuracy", "refined_gap": "confidence minus accuracy, at T*"}
OF_OFTEN = f"test examples whose class was seen at least {OFTEN} times"


def analyse(histories: Mapping[str, lj.History]) -> lj.Findings:
    runs = {name: tuned(history) for name, history in histories.items()}
    found = {task: replaced(runs[f"{task}-conv"], runs[f"{task}-transformer"]) for task in TASKS}
    often = {task: seen_often(one, OFTEN) for task, one in TASKS.items()}
    shares = {
        f"{TASK_NAMES[task]}: share of {OF_OFTEN}": lj.Interval.without_bounds(float(seen.mean()))
        for task, seen in often.items()
    }
    rates = "; ".join(f"{name} {one.rate:g} of {shown(tried(histories[name]))}" for name, one in runs.items())
    outermost = [
        name for name, one in runs.items() if one.rate in (min(tried(histories[name])), max(tried(histories[name])))
    ]
    return lj.Findings(
        verdicts=corrected(
            [
                *(verdict for task in TASKS for verdict in verdicts(task, found[task])),
                *(verdict for task in TASKS for verdict in any_two(task, runs)),
            ],
            lambda _: (0.0,),
        ),
        numbers={key: value for task in TASKS for key, value in numbers(task, runs, found[task], often[task]).items()}
        | shares,
        tables={"curves": curve_table(runs), "replacement": replacement_table(found), "references": reference_table()},
        notes=(
            *(in_words(task, found[task]) for task in TASKS),
            f"{OVER_RULE}. From as trained to at T*:",
            *(over_confident(task, runs) for task in TASKS),
            f"Learning rates chosen by validation loss: {rates}. Where the best of {shown(RATES)} was the outermost, "
            "one beyond was tried, too. "
            + (f"It is the outermost still for {', '.join(outermost)}: another might do better. " if outermost else "")
            + "Each was tried with the same seeds and epochs.",
            f"Parameters: {parameters()}.",
            f"Runs not finite: {sum(int((~history.finite).sum()) for history in histories.values())} of "
            f"{sum(history.num_members for history in histories.values())}.",
            "One split a task. Intervals of differences of loss and accuracy: seeds × examples; all others: seeds.",
            "A place's region with one town in the data is trained on and never tested; a word may be tested and not "
            "trained on.",
            *(f"{name}: computed from this split's labels, not estimated" for name in shares),
        ),
    )


def tried(history: lj.History) -> list[float]:
    return np.unique(history.hyperparams["learning_rate"]).tolist()


def shown(rates: Iterable[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


def in_words(task: str, found: Replacement) -> str:
    at = found.evaluation
    change = found.compared(at, at)
    removed = "" if change.scale_share is None else f", {change.scale_share.estimate:.0%} of it gone at T*"
    before, after = (np.exp(np.log(one.metric("temperature")[:, at]).mean()) for one in (found.old, found.new))
    return (
        f"{TASK_NAMES[task]}: {'at' if found.premise else 'no epoch has both; at the end,'} epoch {found.epoch:g} "
        f"the transformer's loss is {change.delta_loss.estimate:+.3f} nats [{change.delta_loss.low:+.3f}, "
        f"{change.delta_loss.high:+.3f}] from the convolution's{removed}, its accuracy "
        f"{100 * change.delta_accuracy.estimate:+.2f} points [{100 * change.delta_accuracy.low:+.2f}, "
        f"{100 * change.delta_accuracy.high:+.2f}]; T* {before:.2f} → {after:.2f}; regime {change.refinement}."
    )


def over_confident(task: str, runs: Mapping[str, Tuned]) -> str:
    """Of each architecture, before and after T*: by how much at its own best, and in how many epochs."""

    def told(one: Tuned) -> str:
        before, after = (mean_intervals(one.metric(gap)[:, 1:]) for gap in GAPS)
        best = one.best - 1  # not counting the evaluation before training
        over, under = (
            f"{(x > 0).sum()} → {(y > 0).sum()}" for x, y in ((before.low, after.low), (-before.high, -after.high))
        )
        return (
            f"{100 * before.estimate[best]:+.1f} → {100 * after.estimate[best]:+.1f} points at its own best (epoch "
            f"{one.epochs[one.best]:g}), over-confident at {over} and under-confident at {under} of "
            f"{len(before.estimate)} epochs"
        )

    return (
        f"{TASK_NAMES[task]}, confidence minus accuracy: "
        + "; ".join(f"{name} {told(runs[f'{task}-{model}'])}" for model, name in MODEL_NAMES.items())
        + "."
    )


def parameters() -> str:
    cells = {
        (task, name): lj.Cell(TASKS[task], MODELS[name], lj.TrainConfig(64, epochs=1))
        for task in TASKS
        for name in MODELS
    }
    return "; ".join(
        f"{TASK_NAMES[task]}, {MODEL_NAMES[name]} {cell.num_parameters:,}" for (task, name), cell in cells.items()
    )


def verdicts(task: str, found: Replacement) -> list[lj.Verdict]:
    note = (
        f"epoch {found.epoch:g}"
        if found.premise
        else "the transformer is at no epoch ahead in accuracy and behind in loss; at the end of training"
    )

    def verdict(statement: str, contrast: str, rule: str, estimate: lj.Interval) -> lj.Verdict:
        as_written = judge(estimate, claim="less", num_seeds=found.num_seeds)
        return lj.Verdict(
            claim="C9",
            statement=statement,
            where=TASK_NAMES[task],
            contrast=contrast,
            rule=rule,
            estimate=estimate,
            outcome=as_written if found.premise else "unresolved",
            amended=AMENDED,
            as_written=as_written,
            num_seeds=found.num_seeds,
            scope="seeds, on this split",
            note=note,
        )

    return [
        verdict(
            "The transformer is less confident, but right more often.",
            "mean confidence, transformer minus convolution",
            CONFIDENCE_RULE,
            found.confidence(),
        ),
        verdict(
            "The transformer is under-confident.",
            "log T* of the transformer",
            TEMPERATURE_RULE,
            found.log_temperature(),
        ),
    ]


def any_two(task: str, runs: Mapping[str, Tuned]) -> list[lj.Verdict]:
    """The same of the two architectures that have the claim's premise most, whichever they are."""
    pairs = {pair: replaced(*(runs[f"{task}-{model}"] for model in pair)) for pair in itertools.permutations(MODELS, 2)}
    (behind, ahead), found = max(pairs.items(), key=lambda item: item[1].product)
    if not found.premise:
        return []
    change = found.compared(found.evaluation, found.evaluation)
    old, new = MODEL_NAMES[behind], MODEL_NAMES[ahead]

    def verdict(contrast: str, estimate: lj.Interval) -> lj.Verdict:
        return lj.Verdict(
            claim="C9",
            statement="The architecture that is better by accuracy and worse by loss is less confident.",
            where=f"{TASK_NAMES[task]}, {new} against {old}",
            contrast=contrast,
            rule=ANY_RULE,
            amended=ANY_AMENDED,
            estimate=estimate,
            outcome=judge(estimate, claim="less", num_seeds=found.num_seeds),
            num_seeds=found.num_seeds,
            scope="seeds, on this split",
            note=f"epoch {found.epoch:g}: accuracy {estimate_text(change.delta_accuracy)}, loss "
            f"{estimate_text(change.delta_loss)} nats (seeds × examples)",
        )

    return [
        verdict(f"mean confidence, {new} minus {old}", found.confidence()),
        verdict(f"log T* of the {new}", found.log_temperature()),
    ]


def numbers(task: str, runs: Mapping[str, Tuned], found: Replacement, often: np.ndarray) -> dict[str, lj.Interval]:
    """The difference at its epoch, and each architecture at its own best; also where the class was seen often."""
    at = found.evaluation
    change, before, after = found.compared(at, at), found.old.at(at), found.new.at(at)

    def of_often(name: str) -> lj.Interval:
        return two_way_interval((getattr(after, name).astype(np.float64) - getattr(before, name))[:, often])

    when = f"{TASK_NAMES[task]}, epoch {found.epoch:g}"
    numbers = {
        f"{when}: loss, transformer minus convolution": change.delta_loss,
        f"{when}: loss, transformer minus convolution, {OF_OFTEN}": of_often("loss"),
        f"{when}: accuracy, transformer minus convolution": change.delta_accuracy,
        f"{when}: accuracy, transformer minus convolution, {OF_OFTEN}": of_often("correct"),
    }
    if change.scale_share is not None:
        numbers[f"{when}: share of the difference in loss gone at T*"] = change.scale_share
    for metric, called in CONFIDENCES.items():
        numbers[f"{when}: {called}, transformer minus convolution"] = mean_interval(found.change(metric)[:, at])
    best = found.compared(found.old.best, found.new.best)
    when = f"{TASK_NAMES[task]}, each at its own best"
    numbers |= {
        f"{when}: loss, transformer minus convolution": best.delta_loss,
        f"{when}: accuracy, transformer minus convolution": best.delta_accuracy,
    }
    for metric, called in CONFIDENCES.items():
        change_of_best = found.new.metric(metric)[:, found.new.best] - found.old.metric(metric)[:, found.old.best]
        numbers[f"{when}: {called}, transformer minus convolution"] = mean_interval(change_of_best)
    if best.scale_share is not None:
        numbers[f"{when}: share of the difference in loss gone at T*"] = best.scale_share
    for model in MODELS:
        one = runs[f"{task}-{model}"]
        name = f"{TASK_NAMES[task]}, {MODEL_NAMES[model]} at its own best (epoch {one.epochs[one.best]:g})"
        numbers |= {f"{name}: {metric}": one.best_of(metric) for metric in MEANS}
        numbers |= {f"{name}: {called}": one.best_of(gap) for gap, called in GAPS.items()}
        records = one.at(one.best)
        for metric, values in (("loss", records.loss), ("accuracy", records.correct)):
            numbers[f"{name}: {metric}, {OF_OFTEN}"] = mean_interval(values[:, often].astype(np.float64).mean(axis=1))
    return numbers


# What is plotted ---------------------------------------------------------------------------------------------------

TITLES = {
    "loss": "test loss (nats)",
    "refinement": "loss at T* (nats)",
    "accuracy": "test accuracy",
}
CONFIDENCE = {
    "gap": "confidence minus accuracy",
    "refined_gap": "the same at T*",
    "temperature": "T*",
}
CHANGES = {
    "loss": "loss (nats)",
    "refinement": "loss at\nT* (nats)",
    "accuracy": "accuracy",
    "confidence": "mean\nconfidence",
    "refined_confidence": "confidence\nat T*",
    "share": "share of ΔL\ngone at T*",
}
LEVELS = {"gap": {"calibrated": 0.0}, "refined_gap": {"calibrated": 0.0}, "temperature": {"calibrated": 1.0}}


def curve_table(runs: Mapping[str, Tuned]) -> dict[str, np.ndarray]:
    return table(
        {"cell": name, "metric": metric, "epoch": found.epochs, "mean": mean_intervals(found.metric(metric))}
        for name, found in runs.items()
        for metric in (*MEANS, *GAPS)
    )


def replacement_table(found: Mapping[str, Replacement]) -> dict[str, np.ndarray]:
    """Transformer minus convolution from the first epoch on; the share where the difference in loss is resolved."""

    def rows(task: str, one: Replacement, at: int) -> Iterator[Mapping[str, Any]]:
        change = one.compared(at, at)
        changes = {
            "loss": change.delta_loss,
            "refinement": change.delta_refinement,
            "accuracy": change.delta_accuracy,
            **{name: mean_interval(one.change(name)[:, at]) for name in CONFIDENCES},
            "share": change.scale_share or lj.Interval.without_bounds(),
        }
        for metric, interval in changes.items():
            yield {"task": task, "metric": metric, "epoch": one.new.epochs[at], "mean": interval}

    return table(
        row for task, one in found.items() for at in range(1, len(one.new.epochs)) for row in rows(task, one, at)
    )


def reference_table() -> dict[str, np.ndarray]:
    return table(
        {"task": name, "name": kind, "loss": one.loss, "refinement": one.refinement, "accuracy": one.accuracy}
        for name, task in TASKS.items()
        for kind, one in references(class_counts(task), np.asarray(task.splits().test.labels)).items()
    )


def plot(findings: lj.Findings) -> dict[str, lj.Figure]:
    from lossjax.reports import imbalanced

    known = findings.tables["references"]

    def line(label: str, name: str, rows: np.ndarray) -> imbalanced.Line:
        return imbalanced.Line(label, *(findings.tables[name][key][rows] for key in ("epoch", *with_bounds("mean"))))

    def lines(task: str, metric: str) -> list[imbalanced.Line]:
        curves = findings.tables["curves"]
        rows = (curves["metric"] == metric) & (curves["epoch"] > 0)
        return [line(MODEL_NAMES[one], "curves", rows & (curves["cell"] == f"{task}-{one}")) for one in MODELS]

    def levels(task: str, metric: str) -> dict[str, float]:
        if metric not in known:
            return LEVELS.get(metric, {})
        mine = known["task"] == task
        return dict(zip(known["name"][mine].tolist(), known[metric][mine].tolist(), strict=True))

    def changes(task: str, metric: str) -> list[imbalanced.Line]:
        found = findings.tables["replacement"]
        return [
            line("transformer minus convolution", "replacement", (found["task"] == task) & (found["metric"] == metric))
        ]

    names = [TASK_NAMES[task] for task in TASKS]
    return {
        "architectures": lj.Figure(
            imbalanced.along_training(
                names,
                list(TITLES.values()),
                [[(lines(task, metric), levels(task, metric)) for metric in TITLES] for task in TASKS],
            ),
            "Three architectures of about as many parameters at their tuned learning rates, from the first epoch on "
            "(bands: 95 % over seeds). Dashed: the class prior alone and the uniform distribution; beyond a break of "
            "the axis lines have their value and no scale.",
        ),
        "over_or_under_confident": lj.Figure(
            imbalanced.along_training(
                names,
                list(CONFIDENCE.values()),
                [[(lines(task, metric), levels(task, metric)) for metric in CONFIDENCE] for task in TASKS],
                same_scale=[CONFIDENCE[gap] for gap in GAPS],
            ),
            "Over-confident: mean confidence above accuracy, before T* (left) and after (middle; T* fitted without the "
            "example's fold), or T* above 1; these need not agree. From the first epoch on; bands: 95 % over seeds.",
        ),
        "replacement": lj.Figure(
            imbalanced.along_training(
                names,
                list(CHANGES.values()),
                [[(changes(task, metric), {"": 0.0}) for metric in CHANGES] for task in TASKS],
            ),
            "The convolution replaced by the transformer: what changes at each epoch (bands: 95 %; of losses and "
            "accuracy over seeds × examples, of confidence over seeds; dashed: nothing). The share of ΔL, the "
            "difference in loss, is drawn where that is resolved.",
        ),
    }


experiment = lj.Experiment(
    name="architectures",
    question="Does a transformer in the place of a convolution gain accuracy and lose in loss, and by confidence?",
    claims=("C9",),
    sweep=sweep,
    analyse=analyse,
    plot=plot,
    scales=("smoke", "laptop", "paper"),
)

if __name__ == "__main__":
    lj.main(experiment)
