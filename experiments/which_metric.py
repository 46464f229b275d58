"""Which metric should the model be selected by, and how many validation examples does it take?

Random searches on a teacher's labels, on digits with and without label noise, and on ItalyPowerDemand. In each, one
configuration is selected by its accuracy, its loss, its Brier score or its loss at T* on validation, and judged by all
four on test. Claim C10: accuracy is a poor metric, and a proper score the better guide.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

import lossjax as lj
from lossjax.analysis.families import corrected
from lossjax.analysis.interval import Intervals
from lossjax.analysis.proportions import wilson
from lossjax.analysis.reliability import Reliability
from lossjax.analysis.searches import Scores, random_searches, reliabilities, scores_of_runs
from lossjax.analysis.selection import SelectionRegret
from lossjax.analysis.tables import table, with_bounds
from lossjax.analysis.verdicts import judge

# The rules, written before the results -----------------------------------------------------------------------------

SMALLEST = 0.005  # half a percentage point of accuracy, METHODS' δ_A
SIZES = (25, 50, 100, 200, 400)  # validation examples
JUDGED_SIZES = (100, 400)  # those that get a verdict
STATEMENT = "Accuracy is a poor metric; a proper score is the better guide to which model is better."
RULE = (
    "test accuracy of the configuration with the lowest validation loss minus that of the one with the highest "
    "validation accuracy, among 16 random configurations, mean over searches: supported if the interval lies above "
    "half a percentage point, refuted if it lies below"
)
AMENDED = (
    "the runs on real data are judged on the same test examples, so there the interval is over seeds × test examples, "
    "as METHODS asks; as written it was taken over seeds alone, as if other examples would have said the same"
)

# What is trained ---------------------------------------------------------------------------------------------------

CONFIGS, IN_A_SEARCH = 32, 16
DIGITS = lj.tasks.Digits(val_fraction=0.0, test_fraction=0.7)
TASKS = {
    # a teacher of its own a seed; at this temperature their mean Bayes accuracy is 0.90
    "teacher": lj.tasks.Teacher(
        network="dense",
        num_examples=300,
        seq_len=4,
        num_features=5,
        temperature=0.27,
        num_test=1500,
        teacher_seed=None,
    ),
    "digits": DIGITS,
    "noisy-digits": DIGITS,
    "italy": lj.tasks.ItalyPowerDemand(val_fraction=0.0),
}
TASK_NAMES = {
    "teacher": "teacher",
    "digits": "digits",
    "noisy-digits": "digits, 20 % label noise",
    "italy": "ItalyPowerDemand",
}
NOISE = 0.2
EPOCHS = {"teacher": 40, "digits": 20, "noisy-digits": 20, "italy": 60}


def sweep(scale: str) -> lj.Sweep:
    full = scale == "full"

    def cell(name: str) -> lj.Cell:
        digits = TASKS[name] is DIGITS
        measure = lj.Measure(
            splits=("test",),
            calibration=False,
            num_groups=0,
            # of two classes the margin says all that logits do
            logits=("test",) if digits else (),
            per_example=() if digits else ("test",),
        )
        config = lj.TrainConfig(
            batch_size=16 if name == "italy" else 32,
            epochs=EPOCHS[name] if full else 2,
            optimizer="adamw",
            num_evals=1,
            measure=measure,
        )
        return lj.Cell(TASKS[name], lj.models.Dense(width=32), config)

    return lj.Sweep(
        cells={name: cell(name) for name in TASKS},
        hyperparams={
            name: lj.sample(
                CONFIGS,
                seed=0,
                learning_rate=(3e-4, 1e-1),
                weight_decay=(1e-3, 3.0),
                label_smoothing=(0.0, 0.3),
                init_scale=(0.5, 2.0),
                # clean digits too, at 0: one program serves both
                **({"label_noise": NOISE if name == "noisy-digits" else 0.0} if TASKS[name] is DIGITS else {}),
            )
            for name in TASKS
        },
        seeds=150 if full else 4,
        part_size=480,
    )


# What is concluded -------------------------------------------------------------------------------------------------

METRICS = {"accuracy": "accuracy", "loss": "loss", "brier": "Brier score", "refinement": "loss at T*"}


def score_runs(history: lj.History, task: Any) -> Scores:
    logits, labels = held_out(history, task)
    num_seeds = len(np.unique(history.seeds["init"]))
    logits = logits.reshape(num_seeds, -1, *logits.shape[1:])  # members are seed-major
    shared = task is not None and task.shared
    return scores_of_runs(logits, labels, SIZES, shared_examples=shared, metrics=tuple(METRICS))


def held_out(history: lj.History, task: Any) -> tuple[np.ndarray, np.ndarray]:
    """Final logits [member, example, class] of the held-out examples, nan where not finite, and labels [example]."""
    if "test_logits" in history.metrics:
        logits, labels = history.metrics["test_logits"][:, -1], np.asarray(task.splits().test.labels)
    else:  # two classes: the label's logit over the other's, as if the label were always 1
        margins = history.metrics["test_example_margin"][:, -1]
        logits, labels = np.stack([np.zeros_like(margins), margins], axis=-1), np.ones(margins.shape[1], dtype=np.int64)
    return np.where(history.finite[:, None, None], logits, np.nan), labels


def analyse(histories: Mapping[str, lj.History]) -> lj.Findings:
    scores = {name: score_runs(histories[name], TASKS[name]) for name in TASKS}
    regrets = {name: random_searches(found, IN_A_SEARCH) for name, found in scores.items()}
    over_seeds = {
        name: random_searches(found, IN_A_SEARCH, crossed=False)
        for name, found in scores.items()
        if found.examples is not None
    }
    reliable = {name: reliabilities(found, SIZES) for name, found in scores.items()}
    return lj.Findings(
        verdicts=corrected(
            [
                verdict(name, size, regrets[name], len(scores[name].test["loss"]), over_seeds.get(name))
                for name in TASKS
                for size in JUDGED_SIZES
            ],
            lambda _: (SMALLEST,),
        ),
        numbers={
            key: value
            for name in TASKS
            for key, value in numbers(name, scores[name], regrets[name], reliable[name]).items()
        },
        tables={
            "differences": difference_table(regrets),
            "regret": regret_table(regrets),
            "reliability": reliability_table(reliable),
        },
        notes=(
            f"A search is among {IN_A_SEARCH} configurations drawn from {CONFIGS} (learning rate 0.0003–0.1, decoupled "
            "weight decay 0.001–3, label smoothing 0–0.3, scale of the initial parameters 0.5–2); two searches a seed, "
            "the seed being the unit of the intervals. The configurations are one draw.",
            "Held-out examples are dealt once: 40 % validation, of which each seed draws its own sets, 30 % test, 30 % "
            "for the oracle of the regrets; of real data, which part is the harder one is chance. Of 1,500 of a "
            "teacher, 1,258 digits, 1,029 days of ItalyPowerDemand.",
            "A teacher's seeds have a teacher and data of their own, so its intervals are over seeds. Digits and "
            "ItalyPowerDemand are one data set and one split each: their intervals are over seeds (training and "
            "validation sets drawn from one pool) × test examples. Other training data, and another pool, were not "
            "replicated.",
            "Order kept: of a random pair of configurations, whether the metric on so many validation examples puts "
            "them in the order in which the same metric puts runs with other seeds on test (one half is chance). Its "
            "intervals are over configurations and seeds, on these test examples.",
        ),
    )


def scope(name: str) -> str:
    if name == "teacher":
        return "seeds, each with a teacher and data of its own"
    return "seeds × test examples; one data set, split and pool of validation examples"


SELECTORS = tuple(METRICS)
ACCURACY = SELECTORS.index("accuracy")


def verdict(
    name: str, size: int, found: SelectionRegret, num_seeds: int, over_seeds: SelectionRegret | None = None
) -> lj.Verdict:
    """``over_seeds``: the same with the test examples held fixed, by which the rule was first judged."""
    row = SIZES.index(size)

    def difference(selector: str, found: SelectionRegret = found) -> lj.Interval:
        return found.difference[row, SELECTORS.index(selector), ACCURACY, ACCURACY]

    beside = "; ".join(f"{METRICS[selector]}: {difference(selector)}" for selector in ("brier", "refinement"))
    estimate = difference("loss")
    note = f"in place of the loss — {beside}"
    amended: dict[str, Any] = {}
    if over_seeds is not None:
        first = difference("loss", over_seeds)
        outcome = judge(first, smallest=SMALLEST, num_seeds=num_seeds)
        amended = {"amended": AMENDED, "as_written": outcome}
        note += f"; over seeds alone, on these test examples: {first}"
    return lj.Verdict(
        claim="C10",
        statement=STATEMENT,
        where=f"{TASK_NAMES[name]}, {size} validation examples",
        contrast="test accuracy when selected by loss minus when selected by accuracy",
        rule=RULE,
        estimate=estimate,
        outcome=judge(estimate, smallest=SMALLEST, num_seeds=num_seeds),
        num_seeds=num_seeds,
        scope=scope(name),
        note=note,
        **amended,
    )


def numbers(
    name: str, scores: Scores, found: SelectionRegret, reliable: Mapping[tuple[int, str], Reliability]
) -> dict[str, lj.Interval]:
    task, finite = TASK_NAMES[name], np.isfinite(scores.test["loss"])
    numbers = {f"{task}: runs not finite": wilson(int((~finite).sum()), finite.size)}
    for size in JUDGED_SIZES:
        row, called = SIZES.index(size), f"{task}, {size} validation examples"
        for index, label in enumerate(METRICS.values()):
            numbers[f"{called}: test accuracy of what is selected by {label}"] = found.judged[row, index, ACCURACY]
        loss = SELECTORS.index("loss")
        numbers[f"{called}: test loss when selected by accuracy minus when selected by loss (nats)"] = found.difference[
            row, ACCURACY, loss, loss
        ]
        numbers[f"{called}: how much too good the accuracy looks of what is selected by accuracy"] = found.optimism[
            row, ACCURACY
        ]
        for metric, label in METRICS.items():
            numbers[f"{called}: order kept by {label}"] = reliable[size, metric].kept
            numbers[f"{called}: … by {label} in the better half"] = reliable[size, metric].kept_top
    return numbers


# What is plotted ---------------------------------------------------------------------------------------------------


def difference_table(regrets: Mapping[str, SelectionRegret]) -> dict[str, np.ndarray]:
    """Test accuracy when selected by each other metric minus when selected by accuracy."""
    return table(
        {"task": name, "size": size, "selector": selector, "gain": found.difference[row, index, ACCURACY, ACCURACY]}
        for name, found in regrets.items()
        for row, size in enumerate(SIZES)
        for index, selector in enumerate(SELECTORS)
        if index != ACCURACY
    )


def regret_table(regrets: Mapping[str, SelectionRegret]) -> dict[str, np.ndarray]:
    """By how much each choice is worse than the oracle's, by every judge."""

    def oracles(found: SelectionRegret) -> Intervals:
        assert found.regret is not None  # an oracle was given
        return found.regret

    return table(
        {
            "task": name,
            "size": size,
            "selector": selector,
            "judge": judged_by,
            "regret": oracles(found)[row, one, other],
        }
        for name, found in regrets.items()
        for row, size in enumerate(SIZES)
        for one, selector in enumerate(SELECTORS)
        for other, judged_by in enumerate(SELECTORS)
    )


def reliability_table(reliable: Mapping[str, Mapping[tuple[int, str], Reliability]]) -> dict[str, np.ndarray]:
    """Probability that a pair of configurations keeps its order, over all pairs and in the better half."""
    return table(
        {
            "task": name,
            "size": size,
            "metric": metric,
            "pairs": pairs,
            "kept": kept,
            "rank_correlation": one.rank_correlation,
        }
        for name, found in reliable.items()
        for (size, metric), one in found.items()
        for pairs, kept in (("all", one.kept), ("top", one.kept_top))
    )


SHOWN_SIZE = 100


def plot(findings: lj.Findings) -> dict[str, lj.Figure]:
    from lossjax.reports import selecting

    differences, regrets, reliability = (findings.tables[name] for name in ("differences", "regret", "reliability"))

    def line(columns: Mapping[str, np.ndarray], rows: np.ndarray, value: str, label: str) -> selecting.Line:
        x, y, low, high = (columns[key][rows] for key in ("size", *with_bounds(value)))
        return selecting.Line(label, x, y, low, high)

    def gains(task: str) -> selecting.LinePanel:
        return selecting.LinePanel(
            TASK_NAMES[task],
            [
                line(
                    differences,
                    (differences["task"] == task) & (differences["selector"] == metric),
                    "gain",
                    METRICS[metric],
                )
                for metric in SELECTORS
                if metric != "accuracy"
            ],
        )

    def orders(task: str, pairs: str) -> selecting.LinePanel:
        mine = (reliability["task"] == task) & (reliability["pairs"] == pairs)
        return selecting.LinePanel(
            TASK_NAMES[task],
            [
                line(reliability, mine & (reliability["metric"] == metric), "kept", METRICS[metric])
                for metric in SELECTORS
            ],
            row="all pairs" if pairs == "all" else "both in the better half",
        )

    def matrix(task: str) -> selecting.Matrix:
        def cells(key: str) -> np.ndarray:
            mine = (regrets["task"] == task) & (regrets["size"] == SHOWN_SIZE)
            return regrets[key][mine].reshape(len(SELECTORS), len(SELECTORS))

        return selecting.Matrix(TASK_NAMES[task], *(cells(key) for key in with_bounds("regret")))

    return {
        "accuracy_by_selector": lj.Figure(
            selecting.lines(
                [gains(task) for task in TASKS],
                x_label="validation examples",
                y_label="test accuracy, minus\nthat of selecting by accuracy",
                percent=" pp",
                reference=0.0,
                negligible=(-SMALLEST, SMALLEST),
                share_y=False,
            ),
            "Test accuracy of the configuration that is best by another metric on validation, minus that of the one "
            "with the highest validation accuracy, of 16 random ones, with 95 % intervals (of real data over seeds and "
            "test examples). Grey: less than half a "
            "percentage point. The scales differ.",
        ),
        "regret_matrix": lj.Figure(
            selecting.regret_matrices(
                [matrix(task) for task in TASKS],
                rows=list(METRICS.values()),
                columns=list(METRICS.values()),
                percent=[metric == "accuracy" for metric in METRICS],
            ),
            f"Selection regret with {SHOWN_SIZE} validation examples: by how much the choice by each metric (rows) is "
            "worse on test than what an oracle would choose by the judge (columns): percentage points, nats, or Brier "
            "score. A column has one scale of colour in all four tables; ± half the 95 % interval.",
        ),
        "order_kept": lj.Figure(
            selecting.lines(
                [orders(task, pairs) for pairs in ("all", "top") for task in TASKS],
                x_label="validation examples",
                y_label="pairs that keep their order",
                percent=" %",
                reference=0.5,
            ),
            "How reliably a metric orders configurations: the probability that a random pair has the same order in one "
            "run on so many validation examples and in another run, with other seeds, on test. Half is chance.",
        ),
    }


experiment = lj.Experiment(
    name="which_metric",
    question="Which metric should a model be selected by, and how many validation examples does it take?",
    claims=("C10",),
    sweep=sweep,
    analyse=analyse,
    plot=plot,
)

if __name__ == "__main__":
    lj.main(experiment)
