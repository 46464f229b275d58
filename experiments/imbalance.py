"""What is learned when, with thousands of classes of unequal frequency, and what the remedies for imbalance do.

A teacher of 3,000 classes, whose prior falls from the most to the least frequent class by a power law of slope 0 (all
alike: the control), ½ and 1, at equal Bayes accuracy and equal number of examples; towns and their regions; the next
word of a text. Class-frequency groups have equal shares of the training examples.

- C5: frequent classes are learned first and carry accuracy; later training refines rare ones and lowers the loss;
- C8: imbalance explains inversions: accuracy is bought on the frequent classes. (On real conditions: conditions_table.)
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

import lossjax as lj
from lossjax.analysis.baselines import Baseline, references, uniform
from lossjax.analysis.families import corrected
from lossjax.analysis.groups import GroupRuns, HeadGain, by_group, head_gain
from lossjax.analysis.proportions import wilson
from lossjax.analysis.resampling import mean_interval, mean_intervals
from lossjax.analysis.significance import holm
from lossjax.analysis.tables import table, with_bounds
from lossjax.analysis.verdicts import judge
from lossjax.tasks import bayes_risk, class_counts, seen_often

# The rules, written before the results -----------------------------------------------------------------------------

FIRST_RULE = (
    "mean over runs of the epoch at which the tail's test accuracy comes to half of its highest, minus the head's, "
    "linear between evaluations: supported if the interval lies above 0, refuted if below"
)
LATER_RULE = (
    "from the first evaluation whose test accuracy is within 1 point of the run's highest to the one with the lowest "
    "loss from there on: the tail's share of the fall in loss minus its share of the loss there was left to lose; mean "
    "over the runs whose loss falls by more than 0.005 nats: supported if the interval lies above 0, refuted if below"
)
GAIN_RULE = (
    "over the resolved inverted pairs of three settings, the head's share of what accuracy gains minus its share of "
    "the test examples, ratio of sums over pairs and seeds, linearised: supported if the interval lies above 0, "
    "refuted if below (first written as the mean of each seed's own ratio, which a seed that gains next to nothing "
    "upsets; amended before the teachers were drawn anew)"
)
CONTROL_RULE = (
    "the same of the teacher of slope 1 minus that of the control, at an equal number of examples and equal Bayes "
    "accuracy, paired by seed: supported if the interval lies above 0, refuted if below; unresolved where one of both "
    "has no inverted pair"
)
NEAR, LEAST_FALL = 0.01, 0.005
OFTEN = 5  # training examples of a class that was seen often
OF_OFTEN = f"test examples whose class was seen at least {OFTEN} times"
NEVER = "test examples whose class was never seen in training"

# What is trained ---------------------------------------------------------------------------------------------------

BOUGHT = "The accuracy that comes with a worse loss is gained on the frequent classes."
GROUPS = ("head", "middle", "tail")
# slope of the prior → temperature at which the Bayes accuracy of the teacher of seed 0 is 0.60
SLOPES = {0.0: 0.06873, 0.5: 0.07246, 1.0: 0.1109}
SETTINGS = lj.Hyperparams(learning_rate=np.array([3e-3, 1e-2, 3e-3]), label_smoothing=np.array([0.0, 0.0, 0.1]))
BASE = {"learning_rate": 3e-3, "label_smoothing": 0.0}
WORDS = lj.tasks.NextWord(num_train=24_000, num_test=5000, val_fraction=0.1, num_val=0)
PLACES = lj.tasks.PlaceNames()
# cell → slope, and how many times the examples of the others
TEACHERS = {f"teacher-{slope:g}": (slope, 1) for slope in SLOPES} | {
    f"teacher-{slope:g}-more": (slope, 4) for slope in (0.0, 1.0)
}
CONTROL, STEEPEST = "teacher-0", "teacher-1"  # asked about inversions, too
NAMES = {
    name: f"teacher, slope {slope:g}" + (f", {times} × the examples" if times > 1 else "")
    for name, (slope, times) in TEACHERS.items()
} | {
    "places": "place names",
    "words": "next word",
}
REAL: Mapping[str, Any] = {"places": PLACES, "words": WORDS}
BASELINES = {"loss": "loss", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}
REMEDIES = {
    "cross-entropy": ("places", {}),
    "sampling with replacement, q = 0": ("places-sampled", {"class_balance": 0.0}),
    "balanced sampling, q = ½": ("places-sampled", {"class_balance": 0.5}),
    "balanced sampling, q = 1": ("places-sampled", {"class_balance": 1.0}),
    "logits adjusted in the loss": ("places-adjusted", {}),
    "logits adjusted after training": ("places", {}),
    "class weights, β = 0.9": ("places-weighted", {"effective_number_beta": 0.9}),
    "class weights, β = 0.999": ("places-weighted", {"effective_number_beta": 0.999}),
}
AFTERWARDS = "logits adjusted after training"
SEEDS = {"paper": 64, "smoke": 2}
# finding a teacher takes seconds; members come in eights
TEACHER_SEEDS = {"teacher-0": 10, "teacher-1": 16} | dict.fromkeys(
    ("teacher-0.5", "teacher-0-more", "teacher-1-more"), 8
)


def teacher(slope: float, scale: str, times: int = 1) -> lj.tasks.Teacher:
    """A teacher of its own a seed."""
    return lj.tasks.Teacher(
        network="dense",
        hidden=16,
        seq_len=1,
        num_features=16,
        num_classes=3000,
        prior="zipf",
        zipf_exponent=slope,
        temperature=SLOPES[slope],
        num_examples=times * {"smoke": 640, "laptop": 12_000, "paper": 24_000}[scale],
        num_test=400 if scale == "smoke" else 3000,
        teacher_seed=None,
    )


def sweep(scale: str) -> lj.Sweep:
    def cell(task: Any, model: Any, objective: Any = "cross_entropy", num_evals: int = 8, **measured: Any) -> lj.Cell:
        config = lj.TrainConfig(
            batch_size=64,
            **({"num_steps": 10} if scale == "smoke" else {"epochs": 4 if scale == "laptop" else 20}),
            num_evals=min(num_evals, 2) if scale == "smoke" else num_evals,  # 5,000 examples of 2,800 classes each
            objective=objective,
            measure=lj.Measure(splits=("test",), **measured),
        )
        return lj.Cell(task, model, config)

    conv = lj.models.Conv(width=32)
    real = {
        "places": (cell(PLACES, conv, adjusted=1.0, per_example=("test",)), lj.grid(learning_rate=3e-3)),
        "places-sampled": (
            cell(PLACES, conv, adjusted=1.0),
            lj.grid(learning_rate=3e-3, class_balance=[0.0, 0.5, 1.0]),
        ),
        "places-adjusted": (cell(PLACES, conv, "logit_adjusted", num_evals=1), lj.grid(learning_rate=3e-3)),
        "places-weighted": (
            cell(PLACES, conv, "class_weighted", num_evals=1),
            lj.grid(learning_rate=3e-3, effective_number_beta=[0.9, 0.999]),
        ),
        "words": (cell(WORDS, lj.models.LSTM(hidden=32), per_example=("test",)), lj.grid(learning_rate=3e-3)),
    }
    taught = {
        name: (
            cell(teacher(slope, scale, times), lj.models.Dense(width=64, layers=1), calibration=False),
            SETTINGS if name in (CONTROL, STEEPEST) else lj.grid(**BASE),
        )
        for name, (slope, times) in TEACHERS.items()
    }
    chosen = taught | real if scale != "smoke" else {name: (taught | real)[name] for name in (STEEPEST, *real)}
    return lj.Sweep(
        cells={name: one for name, (one, _) in chosen.items()},
        hyperparams={name: hyperparams for name, (_, hyperparams) in chosen.items()},
        seeds={name: TEACHER_SEEDS.get(name, 10) if scale == "laptop" else SEEDS[scale] for name in chosen},
        part_size=32,
    )


# What is concluded -------------------------------------------------------------------------------------------------


def analyse(histories: Mapping[str, lj.History]) -> lj.Findings:
    runs, bought = {}, {}
    for name in NAMES:
        if name not in histories:
            continue
        history = histories[name]
        if name in TEACHERS:
            if name in (CONTROL, STEEPEST):
                bought[name] = head_gain(history)
            history = history.select(**BASE)
        runs[name] = by_group(history)
    known = {name: references(class_counts(task), np.asarray(task.splits().test.labels)) for name, task in REAL.items()}
    of_the_split = {
        f"{NAMES[name]}: {called} of the class prior alone": getattr(found["class prior"], metric)
        for name, found in known.items()
        for metric, called in BASELINES.items()
    }
    often = {name: seen_often(task, OFTEN) for name, task in REAL.items()}
    for name, task in REAL.items():
        shares = {
            f"the test examples that are of the {group}": runs[name].shares[0, at] for at, group in enumerate(GROUPS)
        }
        shares |= {OF_OFTEN: often[name].mean(), NEVER: (~seen_often(task, 1)).mean()}
        of_the_split |= {f"{NAMES[name]}: share of {which}": float(share) for which, share in shares.items()}
    off_the_prior = {}
    if CONTROL in runs:
        off_the_prior[f"{NAMES[CONTROL]}: share of seed 0's labels that lie off the prior"] = misplaced(0.0)
    remedies, changes = remedy_table(histories), remedy_changes(histories)
    return lj.Findings(
        verdicts=corrected(
            [
                *(verdict for name in runs for verdict in verdicts(name, runs[name], bought.get(name))),
                *([against_the_control(bought[CONTROL], bought[STEEPEST])] if len(bought) == 2 else []),
            ],
            lambda _: (0.0,),
        ),
        numbers={
            **{key: value for name in runs for key, value in numbers(name, runs[name]).items()},
            **{key: value for name in REAL for key, value in at_the_end(name, histories[name], often[name]).items()},
            **{name: lj.Interval.without_bounds(value) for name, value in (of_the_split | off_the_prior).items()},
            **{name: mean_interval(change) for name, change in changes.items()},
        },
        tables={
            "groups": group_table(runs),
            "dose": dose_table(runs),
            "remedies": remedies,
            "references": reference_table(known),
        },
        notes=(
            "Each seed of a teacher is a teacher and data of its own, at one temperature a slope: that at which the "
            "teacher of seed 0 has a Bayes accuracy of 0.60. Place names and the next word are one data set and one "
            "split each.",
            "Groups are of equal shares of the training examples; their shares of the test examples are used wherever "
            "parts are added up.",
            "The table of remedies is of the end of training; nothing was selected. Differences from cross-entropy are "
            "between runs of the same seeds.",
            "One town of each region is always trained on, so a region with a single town is never tested. Of the "
            "training books a sample is used, so a word may be tested that was never trained on; so may a teacher's "
            "class. Which classes were seen at least five times is told of the real data only: each seed of a teacher "
            "has its own.",
            "The control's prior is uniform, its training set is not: 12,000 labels drawn from 3,000 equal classes are "
            "4 a class give or take 2, and head, middle and tail are what chance made of them.",
            *after_holm(changes),
            *(
                f"The tail of {NAMES[name]} never exceeds an accuracy of {found.group_accuracy[:, :, -1].max():.1%}: "
                "when it comes to half of that is told by a handful of examples."
                for name, found in runs.items()
                if found.group_accuracy[:, :, -1].max() < 0.01
            ),
            *(f"{name}: computed from this split's labels, not estimated" for name in of_the_split),
            *(
                f"{name}: over 524,288 fresh inputs of one teacher; drawing these would by itself give 2 %"
                for name in off_the_prior
            ),
        ),
    )


def misplaced(slope: float) -> float:
    """Half the sum over classes of how far their frequency is from the prior, for the teacher of seed 0."""
    task = dataclasses.replace(teacher(slope, "laptop"), teacher_seed=0)
    return float(np.abs(bayes_risk(task, 2**19).class_marginal - task.class_prior).sum() / 2)


def at_the_end(name: str, history: lj.History, often: np.ndarray) -> dict[str, lj.Interval]:
    """Means over seeds on all test examples, and on those whose class was seen often."""
    history = history[history.finite]
    found = {}
    for metric, record in (("loss", "loss"), ("accuracy", "correct")):
        records = history.metrics[f"test_example_{record}"][:, -1].astype(np.float64)
        found[f"{NAMES[name]}: {metric} at the end"] = mean_interval(records.mean(axis=1))
        found[f"{NAMES[name]}: {metric} at the end, {OF_OFTEN}"] = mean_interval(records[:, often].mean(axis=1))
    for metric, called in (("balanced_accuracy", "balanced accuracy"), ("top5_accuracy", "top-5 accuracy")):
        found[f"{NAMES[name]}: {called} at the end"] = mean_interval(
            history.metrics[f"test_{metric}"][:, -1].astype(float)
        )
    return found


def after_holm(changes: Mapping[str, np.ndarray]) -> list[str]:
    """What Holm's correction leaves of the remedies' changes of balanced accuracy."""
    values = {name: one for name, one in changes.items() if "balanced accuracy" in name and len(one) > 1}
    if not values:
        return []
    raw = np.array([stats.ttest_1samp(one, 0.0).pvalue for one in values.values()])
    adjusted = holm(raw)
    tested = zip(values, adjusted, raw, strict=True)
    failed = [f"{name} (p = {p:.2g})" for name, p, alone in tested if alone < 0.05 <= p]
    return [
        "The changes of balanced accuracy over remedies, with Holm's correction at 5 %: "
        f"{int((adjusted < 0.05).sum())} of {len(raw)} differ from 0"
        + (f"; differing alone only: {', '.join(failed)}." if failed else ", the same as without.")
    ]


def against_the_control(control: HeadGain, steepest: HeadGain) -> lj.Verdict:
    _, a, b = np.intersect1d(control.seeds, steepest.seeds, return_indices=True)
    found = lj.Interval.without_bounds()
    if len(a) > 1:
        found = mean_interval(steepest.excess[b] - control.excess[a])
    return lj.Verdict(
        claim="C8",
        statement=BOUGHT,
        where=f"{NAMES[STEEPEST]} against {NAMES[CONTROL]} (control)",
        contrast="head's excess share of the accuracy gain in inverted pairs, imbalanced minus balanced",
        rule=CONTROL_RULE,
        estimate=found,
        outcome=judge(found, num_seeds=max(len(a), 1)),
        num_seeds=len(a),
        scope="seeds, each a teacher and data of its own",
        note=f"inverted pairs of three settings: {steepest.num_pairs} and {control.num_pairs}",
    )


def verdicts(name: str, runs: GroupRuns, bought: HeadGain | None) -> list[lj.Verdict]:
    scope = "seeds, each a teacher and data of its own" if name in TEACHERS else "seeds, on these data"
    delay, later = runs.delay(), runs.later(NEAR, LEAST_FALL)
    first = mean_interval(delay)
    fell = mean_interval(later) if len(later) > 1 else lj.Interval.without_bounds()
    control = " (control)" if name in TEACHERS and TEACHERS[name][0] == 0 else ""

    def verdict(
        claim: str, statement: str, contrast: str, rule: str, estimate: lj.Interval, n: int, note: str
    ) -> lj.Verdict:
        return lj.Verdict(
            claim=claim,
            statement=statement,
            where=f"{NAMES[name]}{control}",
            contrast=contrast,
            rule=rule,
            estimate=estimate,
            outcome=judge(estimate, num_seeds=max(n, 1)),
            num_seeds=n,
            scope=scope,
            note=note,
        )

    found = [
        verdict(
            "C5",
            "Frequent classes are learned first.",
            "epoch at which the tail comes to half its highest accuracy, minus the head's",
            FIRST_RULE,
            first,
            len(delay),
            f"runs whose head, middle and tail all learn something: {wilson(len(delay), runs.num_members)}",
        ),
        verdict(
            "C5",
            "Once accuracy stands still, what lowers the loss is the rare classes.",
            "the tail's share of the later fall in loss minus its share of what was left",
            LATER_RULE,
            fell,
            len(later),
            f"runs whose loss fell later: {wilson(len(later), runs.num_members)}",
        ),
    ]
    if bought is not None:
        found.append(
            verdict(
                "C8",
                BOUGHT,
                "head's share of the accuracy gain minus its share of examples, in inverted pairs",
                GAIN_RULE,
                bought.interval,
                runs.num_members,
                f"{bought.num_pairs} inverted pairs of settings"
                if bought.num_pairs
                else "no pair of settings is inverted",
            )
        )
    return found


def numbers(name: str, runs: GroupRuns) -> dict[str, lj.Interval]:
    found = {f"{NAMES[name]}: runs not finite": wilson(runs.num_members - len(runs.loss), runs.num_members)}
    half = runs.half_time()
    for at, group in enumerate(GROUPS):
        times = half[np.isfinite(half[:, at]), at]
        if len(times) > 1:
            found[f"{NAMES[name]}: epoch at which the {group} has half of its highest accuracy"] = mean_interval(times)
        found[f"{NAMES[name]}: accuracy of the {group} at the end"] = mean_interval(runs.group_accuracy[:, -1, at])
        found[f"{NAMES[name]}: loss of the {group} at the end"] = mean_interval(runs.group_loss[:, -1, at])
    return found


# What is plotted ---------------------------------------------------------------------------------------------------


def group_table(runs: Mapping[str, GroupRuns]) -> dict[str, np.ndarray]:
    """Means over runs of loss and accuracy by group and of all, with intervals, at each evaluation."""
    return table(
        {
            "cell": name,
            "group": group,
            "epoch": found.epochs,
            "loss": mean_intervals(loss),
            "accuracy": mean_intervals(accuracy),
        }
        for name, found in runs.items()
        for group, loss, accuracy in (
            *((one, found.group_loss[:, :, at], found.group_accuracy[:, :, at]) for at, one in enumerate(GROUPS)),
            ("all", found.loss, found.accuracy),
        )
    )


def dose_table(runs: Mapping[str, GroupRuns]) -> dict[str, np.ndarray]:
    """By the prior's slope: when each group has half of its highest accuracy, and the tail's delay after the head."""

    def times(found: GroupRuns) -> dict[str, np.ndarray]:
        half = found.half_time()
        reached = half[np.isfinite(half).all(axis=1)]
        return {group: reached[:, at] for at, group in enumerate(GROUPS)} | {"delay": found.delay()}

    return table(
        {"slope": slope, "what": what, "epochs": mean_interval(values)}
        for slope in SLOPES
        if f"teacher-{slope:g}" in runs
        for what, values in times(runs[f"teacher-{slope:g}"]).items()
    )


MEASURES = {
    "loss (nats)": "loss",
    "loss at T* (nats)": "refinement",
    "accuracy": "accuracy",
    "balanced accuracy": "balanced_accuracy",
    "T*": "temperature",
}


def remedied(histories: Mapping[str, lj.History], remedy: str) -> tuple[lj.History, str]:
    """The runs of a remedy, and the prefix of their metrics."""
    cell, setting = REMEDIES[remedy]
    history = histories[cell].select(**setting) if setting else histories[cell]
    return history, "test_adjusted_" if remedy == AFTERWARDS else "test_"


def remedy_table(histories: Mapping[str, lj.History]) -> dict[str, np.ndarray]:
    """At the end of training, means over seeds with intervals."""

    def row(remedy: str) -> dict[str, Any]:
        history, prefix = remedied(histories, remedy)
        last = {
            metric: history[history.finite].metrics[f"{prefix}{metric}"][:, -1].astype(np.float64)
            for metric in MEASURES.values()
        }
        return {
            "remedy": remedy,
            "seeds": int(history.finite.sum()),
            **{metric: mean_interval(values) for metric, values in last.items()},
        }

    return table(row(remedy) for remedy in REMEDIES)


def remedy_changes(histories: Mapping[str, lj.History]) -> dict[str, np.ndarray]:
    """[seed at which both are finite] of each measure at the end: with a remedy minus plain cross-entropy."""
    found = {}
    plain, _ = remedied(histories, "cross-entropy")
    for remedy in list(REMEDIES)[1:]:
        history, prefix = remedied(histories, remedy)
        _, a, b = np.intersect1d(plain.seeds["init"], history.seeds["init"], return_indices=True)
        both = plain.finite[a] & history.finite[b]
        for title, metric in MEASURES.items():
            with_it, without = history.metrics[f"{prefix}{metric}"][b, -1], plain.metrics[f"test_{metric}"][a, -1]
            change = with_it.astype(np.float64) - without
            found[f"place names, {remedy} minus cross-entropy: {title}"] = change[both]
    return found


def reference_table(found: Mapping[str, Mapping[str, Baseline]]) -> dict[str, np.ndarray]:
    """Class prior and uniform distribution: on the real data's test splits, and of the teachers' own priors."""
    rows = [(cell, name, one) for cell, both in found.items() for name, one in both.items()]
    for name, (slope, _) in TEACHERS.items():
        prior = teacher(slope, "laptop").class_prior
        rows.append((name, "uniform", uniform(len(prior))))
        if slope:
            entropy = float(-(prior * np.log(prior)).sum())
            rows.append((name, "class prior", Baseline(entropy, prior.max(), 1 / len(prior), entropy)))
    return table({"cell": cell, "name": name, **one._asdict()} for cell, name, one in rows)


def plot(findings: lj.Findings) -> dict[str, lj.Figure]:
    from lossjax.reports import imbalanced

    groups, known, remedies = (findings.tables[name] for name in ("groups", "references", "remedies"))

    def levels(cell: str, metric: str) -> dict[str, float]:
        mine = known["cell"] == cell
        return dict(zip(known["name"][mine].tolist(), known[metric][mine].tolist(), strict=True))

    def column(name: str) -> imbalanced.GroupCurves:
        def lines(metric: str) -> list[imbalanced.Line]:
            return [
                imbalanced.Line(group, *(groups[key][rows] for key in ("epoch", *with_bounds(metric))))
                for group in ("all", *GROUPS)
                for rows in [(groups["cell"] == name) & (groups["group"] == group)]
            ]

        return imbalanced.GroupCurves(
            NAMES[name], lines("loss"), lines("accuracy"), levels(name, "loss"), levels(name, "accuracy")
        )

    def intervals(metric: str) -> list[lj.Interval]:
        columns = (remedies[key].tolist() for key in with_bounds(metric))
        return [lj.Interval(*values) for values in zip(*columns, strict=True)]

    dose = findings.tables["dose"]
    return {
        "learned_by_group": lj.Figure(
            imbalanced.learned_by_group(
                [column(name) for name in (CONTROL, STEEPEST, "places", "words") if name in groups["cell"]]
            ),
            "Test loss and accuracy along training, of all examples (thick) and by how often their class was trained "
            "on: head, middle and tail have a third of the training examples each. Dashed: the class prior alone and "
            "the uniform distribution, which at slope 0 are one. Bands: 95 % over seeds.",
        ),
        "dose": lj.Figure(
            imbalanced.dose(
                {
                    what: tuple(dose[key][dose["what"] == what] for key in ("slope", *with_bounds("epochs")))
                    for what in GROUPS
                },
                x_label="slope of the prior",
                y_label="epoch at half of its highest accuracy",
            ),
            "Teachers of 3,000 classes: when head, middle and tail are learned, by how steeply the prior falls (95 % "
            "over seeds).",
        ),
        "remedies": lj.Figure(
            imbalanced.remedies(
                remedies["remedy"].tolist(),
                {title: intervals(metric) for title, metric in MEASURES.items()},
                {title: levels("places", metric) for title, metric in MEASURES.items() if metric in known}
                | {"T*": {"calibrated": 1.0}},
            ),
            "Place names at the end of training, by what was done about imbalance (95 % over seeds). The line is plain "
            "cross-entropy; dashed: the class prior alone and the uniform distribution, beyond a break of the axis, "
            "where lines have their value and no scale. T* above 1: over-confident.",
        ),
    }


experiment = lj.Experiment(
    name="imbalance",
    question="With thousands of classes of unequal frequency, what is learned when, and what do the remedies do?",
    claims=("C5", "C8"),
    sweep=sweep,
    analyse=analyse,
    plot=plot,
    scales=("smoke", "laptop", "paper"),
)

if __name__ == "__main__":
    lj.main(experiment)
