"""A convolutional network replaced by a transformer: higher accuracy and higher loss at every epoch?

The published case (W5), on two tasks of about 3,000 imbalanced classes: a town's region from its timezone, size, rough
place and name; the next word of a text. LSTM, convolution and transformer of about as many parameters, each at the best
of the same two learning rates (by validation loss at its own best epoch), on the same splits, at every epoch.

- C9: the transformer that is better by accuracy and worse by loss is "less confident, but right more often".
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

import lossjax as lj
from lossjax.analysis.baselines import class_prior, uniform
from lossjax.analysis.comparison import Comparison, Records, compare_records
from lossjax.analysis.resampling import mean_interval, mean_intervals, two_way_interval
from lossjax.analysis.verdicts import judge
from lossjax.tasks.dataset import class_counts

# The rules, written before the results -----------------------------------------------------------------------------

WHEN = (
    "at the epoch at which the transformer, by means over seeds, is ahead of the convolution in accuracy and behind in "
    "loss by the largest product of the two. Where there is no such epoch there is nothing to explain: unresolved, and "
    "the estimate is of the end of training (first written to be judged all the same; amended after the first look)"
)
CONFIDENCE_RULE = (
    "mean confidence of the transformer minus the convolution's: supported if the interval lies below 0, refuted if "
    f"above; {WHEN}"
)
TEMPERATURE_RULE = (
    f"log T* of the transformer: under-confident, so supported, if the interval lies below 0; refuted if above; {WHEN}"
)

# What is trained ---------------------------------------------------------------------------------------------------

MODELS = {
    "lstm": lj.models.LSTM(hidden=32),
    "conv": lj.models.Conv(width=32),
    "transformer": lj.models.Transformer(width=32, layers=1),
}
MODEL_NAMES = {"lstm": "LSTM", "conv": "convolution", "transformer": "transformer"}
TASKS = {
    "places": lj.tasks.PlaceNames(val_fraction=0.05),
    "words": lj.tasks.NextWord(context_length=8, num_train=24_000, num_val=1500, num_test=5000),
}
TASK_NAMES = {"places": "place names", "words": "next word"}
RATES = (3e-3, 1e-2)
OFTEN = 5  # training examples of a class that was seen often
EPOCHS = {"laptop": 4, "paper": 30}
SEEDS = {"laptop": 6, "paper": 50, "smoke": 2}


def sweep(scale: str) -> lj.Sweep:
    def cell(task: str, model: str) -> lj.Cell:
        config = lj.TrainConfig(
            batch_size=64,
            **({"num_steps": 6} if scale == "smoke" else {"epochs": EPOCHS[scale]}),
            num_evals=2 if scale == "smoke" else EPOCHS[scale],
            measure=lj.Measure(splits=("val", "test"), per_example=("test",), num_groups=0),
        )
        return lj.Cell(TASKS[task], MODELS[model], config)

    return lj.Sweep(
        cells={f"{task}-{model}": cell(task, model) for task in TASKS for model in MODELS},
        hyperparams=lj.grid(learning_rate=RATES),
        seeds=SEEDS[scale],
        part_size=12,
    )


# What is concluded -------------------------------------------------------------------------------------------------

CHANGED = ("loss", "correct")
SHOWN = ("loss", "refinement", "accuracy", "confidence", "temperature")


@dataclasses.dataclass(frozen=True, eq=False)
class Runs:
    """One architecture at its tuned rate on one task, the finite members."""

    rate: float
    seeds: np.ndarray  # [member]
    epochs: np.ndarray  # [eval]
    metrics: Mapping[str, np.ndarray]  # of SHOWN: [member, eval], test
    best: int  # the evaluation with the lowest mean validation loss
    history: lj.History
    num_members: int

    def at(self, evaluation: int, members: Any = slice(None)) -> Records:
        names = ("example_loss", "example_correct", "example_refined_loss")
        loss, correct, refined = (self.history.metrics[f"test_{name}"][members, evaluation] for name in names)
        return Records(loss, correct, refined)


def tuned(history: lj.History) -> Runs:
    """At the learning rate whose mean validation loss is lowest at its own best evaluation, all runs being finite."""
    best: tuple[float, float, int] | None = None
    for rate in np.unique(history.hyperparams["learning_rate"]).tolist():
        chosen = history.select(learning_rate=rate)
        curve = np.where(chosen.finite[:, None], chosen.metrics["val_loss"], np.inf).astype(np.float64).mean(axis=0)
        at = int(np.argmin(curve))
        if best is None or curve[at] < best[0]:
            best = (float(curve[at]), rate, at)
    assert best is not None
    chosen = history.select(learning_rate=best[1])
    finite = chosen[chosen.finite]
    return Runs(
        rate=best[1],
        seeds=finite.seeds["init"],
        epochs=finite.epochs,
        metrics={name: finite.metrics[f"test_{name}"].astype(np.float64) for name in SHOWN},
        best=best[2],
        history=finite,
        num_members=chosen.num_members,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Replacement:
    """The convolution replaced by the transformer, over the seeds at which both are finite."""

    premise: bool  # whether there is an epoch with higher accuracy and higher loss
    evaluation: int
    epoch: float
    comparison: Comparison
    change: Records  # of each seed and example, new minus old
    confidence: lj.Interval
    log_temperature: lj.Interval  # of the transformer
    old_log_temperature: lj.Interval
    num_seeds: int


def replaced(old: Runs, new: Runs) -> Replacement:
    _, a, b = np.intersect1d(old.seeds, new.seeds, return_indices=True)
    gain, rise = (
        new.metrics[name][b].mean(axis=0) - old.metrics[name][a].mean(axis=0) for name in ("accuracy", "loss")
    )
    product = np.where((gain > 0) & (rise > 0), gain * rise, 0.0)
    product[0] = 0.0  # before any step
    premise = bool(product.any())
    at = int(np.argmax(product)) if premise else len(product) - 1
    before, after = old.at(at, a), new.at(at, b)
    return Replacement(
        premise=premise,
        evaluation=at,
        epoch=float(old.epochs[at]),
        comparison=compare_records(before, after, ordered=False, same_seeds=True),
        change=Records(*(getattr(after, name).astype(np.float64) - getattr(before, name) for name in CHANGED)),
        confidence=mean_interval(new.metrics["confidence"][b, at] - old.metrics["confidence"][a, at]),
        log_temperature=mean_interval(np.log(new.metrics["temperature"][b, at])),
        old_log_temperature=mean_interval(np.log(old.metrics["temperature"][a, at])),
        num_seeds=len(a),
    )


def analyse(histories: Mapping[str, lj.History]) -> lj.Findings:
    runs = {name: tuned(history) for name, history in histories.items()}
    found = {task: replaced(runs[f"{task}-conv"], runs[f"{task}-transformer"]) for task in TASKS}
    often = {task: seen_often(one) for task, one in TASKS.items()}
    shares = {
        f"{TASK_NAMES[task]}: share of test examples whose class was seen at least {OFTEN} times": float(seen.mean())
        for task, seen in often.items()
    }
    notes = []
    for task, one in found.items():
        change = one.comparison
        removed = "" if change.scale_share is None else f", {change.scale_share.estimate:.0%} of it gone at T*"
        notes.append(
            f"{TASK_NAMES[task]}: {'at' if one.premise else 'no epoch has both; at the end,'} epoch {one.epoch:g} "
            f"the transformer's loss is {change.delta_loss.estimate:+.3f} nats [{change.delta_loss.low:+.3f}, "
            f"{change.delta_loss.high:+.3f}] from the convolution's{removed}, its accuracy "
            f"{100 * change.delta_accuracy.estimate:+.2f} points [{100 * change.delta_accuracy.low:+.2f}, "
            f"{100 * change.delta_accuracy.high:+.2f}]; T* {np.exp(one.old_log_temperature.estimate):.2f} → "
            f"{np.exp(one.log_temperature.estimate):.2f}; regime {change.refinement}."
        )
    rates = "; ".join(f"{name} {one.rate:g}" for name, one in runs.items())
    return lj.Findings(
        verdicts=tuple(verdict for task in TASKS for verdict in verdicts(task, found[task])),
        numbers={
            **{key: value for task in TASKS for key, value in numbers(task, runs, found[task], often[task]).items()},
            **{name: lj.Interval(share, *[float("nan")] * 2) for name, share in shares.items()},
        },
        tables={"curves": curve_table(runs), "references": reference_table()},
        notes=(
            *notes,
            f"Learning rates chosen by validation loss out of {', '.join(f'{rate:g}' for rate in RATES)}: {rates}.",
            f"Parameters: {parameters()}.",
            f"Runs not finite: {sum(int((~history.finite).sum()) for history in histories.values())} of "
            f"{sum(history.num_members for history in histories.values())}.",
            "One split a task. Intervals of differences of loss and accuracy: seeds × examples; all others: seeds.",
            *(f"{name}: computed from this split's labels, not estimated" for name in shares),
        ),
    )


def parameters() -> str:
    import jax

    told = []
    for task_name, task in TASKS.items():
        for name, model in MODELS.items():
            network = lj.Cell(task, model, lj.TrainConfig(64, epochs=1)).network
            first = jax.tree.map(lambda leaf: leaf[:1], task.splits().train)
            shapes = jax.eval_shape(network.init, jax.random.key(0), first.inputs, first.mask)
            count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
            told.append(f"{TASK_NAMES[task_name]}, {MODEL_NAMES[name]} {count:,}")
    return "; ".join(told)


def verdicts(task: str, found: Replacement) -> list[lj.Verdict]:
    premise = (
        f"epoch {found.epoch:g}"
        if found.premise
        else "the transformer is at no epoch ahead in accuracy and behind in loss; at the end of training"
    )

    def verdict(statement: str, contrast: str, rule: str, estimate: lj.Interval) -> lj.Verdict:
        return lj.Verdict(
            claim="C9",
            statement=statement,
            where=TASK_NAMES[task],
            contrast=contrast,
            rule=rule,
            estimate=estimate,
            outcome=judge(estimate, claim="less", num_seeds=found.num_seeds) if found.premise else "unresolved",
            num_seeds=found.num_seeds,
            scope="seeds, on this split",
            note=premise,
        )

    return [
        verdict(
            "The transformer is less confident, but right more often.",
            "mean confidence, transformer minus convolution",
            CONFIDENCE_RULE,
            found.confidence,
        ),
        verdict(
            "The transformer is under-confident.", "log T* of the transformer", TEMPERATURE_RULE, found.log_temperature
        ),
    ]


def seen_often(task: Any) -> np.ndarray:
    """Which test examples are of a class with at least ``OFTEN`` training examples."""
    return np.asarray(class_counts(task)[np.asarray(task.splits().test.labels)] >= OFTEN)


def numbers(task: str, runs: Mapping[str, Runs], found: Replacement, often: np.ndarray) -> dict[str, lj.Interval]:
    """The difference at its epoch, and each architecture at its own best; also where the class was seen often."""
    of_often = f"test examples whose class was seen at least {OFTEN} times"
    when = f"{TASK_NAMES[task]}, epoch {found.epoch:g}"
    numbers = {
        f"{when}: loss, transformer minus convolution": found.comparison.delta_loss,
        f"{when}: loss, transformer minus convolution, {of_often}": two_way_interval(found.change.loss[:, often]),
        f"{when}: accuracy, transformer minus convolution": found.comparison.delta_accuracy,
        f"{when}: accuracy, transformer minus convolution, {of_often}": two_way_interval(
            found.change.correct[:, often]
        ),
    }
    if found.comparison.scale_share is not None:
        numbers[f"{when}: share of the difference in loss gone at T*"] = found.comparison.scale_share
    for model in MODELS:
        one = runs[f"{task}-{model}"]
        name = f"{TASK_NAMES[task]}, {MODEL_NAMES[model]} at its own best (epoch {one.epochs[one.best]:g})"
        for metric in SHOWN:
            numbers[f"{name}: {metric}"] = mean_interval(one.metrics[metric][:, one.best])
        records = one.at(one.best)
        for metric, values in (("loss", records.loss), ("accuracy", records.correct)):
            numbers[f"{name}: {metric}, {of_often}"] = mean_interval(values[:, often].astype(np.float64).mean(axis=1))
    return numbers


# What is plotted ---------------------------------------------------------------------------------------------------


def curve_table(runs: Mapping[str, Runs]) -> dict[str, np.ndarray]:
    rows: dict[str, list[Any]] = {key: [] for key in ("cell", "metric", "epoch", "mean", "mean_low", "mean_high")}
    for name, found in runs.items():
        for metric, values in found.metrics.items():
            means = mean_intervals(values)
            rows["cell"] += [name] * len(found.epochs)
            rows["metric"] += [metric] * len(found.epochs)
            rows["epoch"] += found.epochs.tolist()
            for key, column in (("mean", means.estimate), ("mean_low", means.low), ("mean_high", means.high)):
                rows[key] += column.tolist()
    return {key: np.array(column) for key, column in rows.items()}


def reference_table() -> dict[str, np.ndarray]:
    rows = []
    for name, task in TASKS.items():
        for kind, found in (
            ("class prior", class_prior(class_counts(task), np.asarray(task.splits().test.labels))),
            ("uniform", uniform(task.num_classes)),
        ):
            rows.append((name, kind, found.loss, found.refinement, found.accuracy))
    columns = zip(("task", "name", "loss", "refinement", "accuracy"), zip(*rows, strict=True), strict=True)
    return {key: np.array(column) for key, column in columns}


def plot(findings: lj.Findings) -> dict[str, lj.Figure]:
    from lossjax.reports import imbalanced

    curves, references = findings.tables["curves"], findings.tables["references"]

    def lines(task: str, metric: str) -> list[imbalanced.Line]:
        found = []
        for model in MODELS:
            mine = (curves["cell"] == f"{task}-{model}") & (curves["metric"] == metric) & (curves["epoch"] > 0)
            found.append(
                imbalanced.Line(
                    MODEL_NAMES[model], *(curves[key][mine] for key in ("epoch", "mean", "mean_low", "mean_high"))
                )
            )
        return found

    def levels(task: str, metric: str) -> dict[str, float]:
        if metric not in references:
            return {"calibrated": 1.0} if metric == "temperature" else {}
        mine = references["task"] == task
        return dict(zip(references["name"][mine].tolist(), references[metric][mine].tolist(), strict=True))

    titles = {
        "loss": "test loss (nats)",
        "refinement": "loss at T* (nats)",
        "accuracy": "test accuracy",
        "confidence": "mean confidence",
        "temperature": "T*",
    }
    return {
        "architectures": lj.Figure(
            imbalanced.along_training(
                [TASK_NAMES[task] for task in TASKS],
                list(titles.values()),
                [[(lines(task, metric), levels(task, metric)) for metric in titles] for task in TASKS],
            ),
            "Three architectures of about as many parameters at their tuned learning rates, from the first epoch on "
            "(bands: 95 % over seeds). T* above 1: over-confident. Arrows: the class prior alone, the uniform "
            "distribution and calibrated, where they lie beyond the picture.",
        )
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
