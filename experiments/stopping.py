"""When should training have stopped? Six rules that keep one evaluation of a run, chosen on validation, judged on test.

The rules keep the evaluation of the lowest validation loss, Brier score or loss at T* (refinement: the loss after the
logits are divided by one temperature), or of the highest accuracy; or the last. Each is judged by test loss before and
after recalibration, and by accuracy.

- C12: early stopping on validation loss prevents the disagreement; its cost is the accuracy and the recalibrated loss
  that it forgoes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

import lossjax as lj
from lossjax.analysis.arms import Stop
from lossjax.analysis.contrasts import Limits, Measure, measured_together
from lossjax.analysis.findings import Outcome
from lossjax.analysis.onset import seed_curve
from lossjax.analysis.proportions import wilson
from lossjax.analysis.regimes import Flat
from lossjax.analysis.significance import holm, mean_beyond_p
from lossjax.analysis.stopping import Stopped, stopped
from lossjax.analysis.tables import table, with_bounds
from lossjax.analysis.verdicts import judge

# The rules, written before the results -----------------------------------------------------------------------------

SMALLEST = 0.01  # nats
MOST_LOSS, MOST_ACCURACY = 0.01, 0.005  # nats and share of examples that stopping may cost
C12_RULE = (
    "test loss at the lowest validation loss minus at the end of training, by seed: it prevents the loss's growth if "
    "the interval lies below −0.01 nats and so does Holm's correction over the places at 5 %. Its cost: test accuracy "
    "at the highest validation accuracy minus at the lowest validation loss (at most 0.5 pp), and recalibrated test "
    "loss at the lowest validation loss minus at the lowest validation loss at T* (at most 0.01 nats). Supported: it "
    "prevents and both costs are resolved as no more; in part: it prevents and a cost is resolved as more; refuted: "
    "the loss's interval lies above −0.01 nats; else unresolved"
)
PATIENCE = 5  # evaluations, about a sixth of training as in remedies
STOP = Stop("loss", "lowest", PATIENCE)
FLAT = Flat(loss=0.02, accuracy=0.02)  # of one run by its estimates
LIMITS = Limits(paid=SMALLEST, parted=0.1, loss=MOST_LOSS, accuracy=MOST_ACCURACY, nonfinite=0.05)
C12_AMENDED = (
    "a loss that rises at all meets the rule as written: it says that over-fitting costs loss, not that stopping "
    "prevents the disagreement, and CLAIMS has C12 judged as C11. So the outcome is by D, the test loss where "
    "validation accuracy is highest minus that where validation loss is lowest, and by P, the share of runs whose test "
    "loss is higher at the end than there by more than 0.02 nats while accuracy is not lower by more than 2 pp: for "
    "runs stopped after five evaluations (of 32) without a lower validation loss, minus the same runs trained to the "
    "end. D less by more than 0.01 nats; P less by more than 10 pp, and so the share of runs whose loss rose at all; "
    "with Holm's correction over both measures of all places. Supported: both, and both costs as in the rule are "
    "resolved as no more; in part: one, or both and a cost is resolved as more; refuted: both are resolved as no less; "
    "else unresolved. On real data intervals are over seeds × test examples, as METHODS asks; as written they were "
    "over seeds alone"
)

# What is trained ---------------------------------------------------------------------------------------------------

EVALS = 32
NOISE = 0.2


def teacher(num_val: int) -> lj.tasks.Teacher:
    # a teacher of its own a seed; at this temperature their mean Bayes accuracy is 0.90 (sd 0.03)
    return lj.tasks.Teacher(
        num_examples=250,
        seq_len=10,
        num_features=5,
        temperature=0.27,
        num_val=num_val,
        num_test=1000,
        teacher_seed=None,
    )


PLACE_NAMES = {
    "teacher": "teacher, 250 for validation",
    "teacher-few": "teacher, 50 for validation",
    "digits": "digits",
    "noisy-digits": "digits, 20 % label noise",
    "vowels": "JapaneseVowels",
    "italy": "ItalyPowerDemand",
}


def sweep(scale: str) -> lj.Sweep:
    full = scale == "full"

    def cell(task: Any, hidden: int, num_steps: int, batch_size: int) -> lj.Cell:
        config = lj.TrainConfig(
            batch_size=batch_size,
            num_steps=num_steps if full else 64,
            num_evals=EVALS,
            measure=lj.Measure(splits=("val", "test"), num_groups=0, per_example=("test",) if task.shared else ()),
        )
        return lj.Cell(task, lj.models.LSTM(hidden=hidden), config)

    cells = {
        "teacher": cell(teacher(250), 16, 320, 32),
        "teacher-few": cell(teacher(50), 16, 320, 32),
        "digits": cell(lj.tasks.Digits(val_fraction=0.2, test_fraction=0.3), 32, 640, 32),
        "vowels": cell(lj.tasks.JapaneseVowels(val_fraction=0.4), 16, 320, 16),
        "italy": cell(lj.tasks.ItalyPowerDemand(val_fraction=0.4), 16, 320, 16),
    }
    quarter: dict[str, dict[str, Any]] = {
        "digits": {"train_size": 224, "label_noise": [0.0, NOISE]},
        "vowels": {"train_size": 40},
    }
    return lj.Sweep(
        cells=cells,
        hyperparams={name: lj.grid(learning_rate=1e-2, **quarter.get(name, {})) for name in cells},
        seeds=200 if full else 8,
        part_size=64,
    )


# What is concluded -------------------------------------------------------------------------------------------------

JUDGES = {
    "loss": ("test loss", "nats"),
    "refinement": ("recalibrated test loss", "nats"),
    "accuracy": ("test accuracy", "pp"),
}
RULES = {
    "loss": "validation loss",
    "refinement": "validation loss at T*",
    "brier": "validation Brier score",
    "accuracy": "validation accuracy, first of the best",
    "error": "validation error, last of the best",
    "end": "no stopping",
}


def analyse(histories: Mapping[str, lj.History]) -> lj.Findings:
    found = {}
    for name in PLACE_NAMES:
        history = histories[name.removeprefix("noisy-")]
        if name.endswith("digits"):
            history = history.select(label_noise=NOISE if name.startswith("noisy-") else 0.0)
        found[name] = stopped(history, STOP, flat=FLAT)
    return lj.Findings(
        verdicts=verdicts(found),
        numbers={key: value for name in found for key, value in numbers(PLACE_NAMES[name], found[name]).items()},
        tables={"judged": judged_table(found), "kept": kept_table(found), "curves": curve_table(found)},
        notes=(
            "Recalibrated: the logits of the test examples divided by one temperature, cross-fitted on the test "
            "examples themselves, so that it does not depend on the size of the validation set.",
            "Accuracy and error choose alike but for ties: of the evaluations with the most right answers, accuracy "
            "keeps the first, as common implementations do, and error the last.",
            "A teacher's seeds have a teacher and data of their own, so its intervals are over seeds. The others are "
            "one data set and one split each: intervals of differences between rules are over seeds × test examples; "
            "other training and validation data were not replicated. Digits are trained on 224 examples and "
            "JapaneseVowels on 40, so that the runs over-fit.",
            "For validation and test: 359 and 539 digits, 108 and 370 vowels, 27 and 1,029 days of ItalyPowerDemand.",
            "In a run that stopped being finite every rule passes over what is not finite; if training is not stopped, "
            "its last finite evaluation is kept.",
        ),
    )


def verdicts(found: Mapping[str, Stopped]) -> tuple[lj.Verdict, ...]:
    as_written = [
        mean_beyond_p(runs.judged("loss", "loss") - runs.judged("end", "loss"), -SMALLEST, "below")
        for runs in found.values()
    ]
    measures = measured_together([runs.pair for runs in found.values()], LIMITS)
    return tuple(
        verdict(name, runs, first, says)
        for (name, runs), first, says in zip(found.items(), holm(np.array(as_written)).tolist(), measures, strict=True)
    )


def verdict(name: str, runs: Stopped, first_p: float, measures: tuple[Measure, Measure]) -> lj.Verdict:
    prevented = runs.difference("loss", "end", "loss", fixed=True)
    before = judge(prevented, claim="less", smallest=SMALLEST)
    if before == "supported" and first_p > 0.05:
        before = "unresolved"
    accuracy, refinement = costs(runs)
    return lj.Verdict(
        claim="C12",
        statement="Early stopping on validation loss prevents it.",
        where=PLACE_NAMES[name],
        contrast="D, stopped with patience minus trained to the end (nats)",
        rule=C12_RULE,
        estimate=runs.pair.mean("loss_paid"),
        outcome=concluded_of_measures(measures, accuracy, refinement),
        num_seeds=runs.num_members,
        scope="seeds × test examples; one data set and split"
        if runs.shared
        else "seeds, each with a teacher and data of its own",
        note=f"{runs.pair.told(measures)}; "
        f"accuracy forgone: {accuracy}; recalibrated loss forgone (nats): {refinement}; test loss at the lowest "
        f"validation loss minus at the end: {runs.difference('loss', 'end', 'loss')}",
        amended=C12_AMENDED,
        as_written=concluded(before, *costs(runs, fixed=True)),
    )


def costs(runs: Stopped, *, fixed: bool = False) -> tuple[lj.Interval, lj.Interval]:
    """Accuracy and recalibrated loss (nats) that stopping by loss forgoes; above 0 it costs."""
    return (
        runs.difference("accuracy", "loss", "accuracy", fixed=fixed),
        runs.difference("loss", "refinement", "refinement", fixed=fixed),
    )


def concluded(prevented: str, accuracy: lj.Interval, refinement: lj.Interval) -> Outcome:
    """``C12_RULE`` as written, from what the loss says and both costs."""
    if prevented != "supported":
        return "refuted" if prevented == "refuted" else "unresolved"
    affordable = affordability(accuracy, refinement)
    if "refuted" in affordable:
        return "in part"
    return "supported" if set(affordable) == {"supported"} else "unresolved"


def concluded_of_measures(measures: Sequence[str], accuracy: lj.Interval, refinement: lj.Interval) -> Outcome:
    """``C12_AMENDED``, from what D and P say and both costs."""
    if "supported" not in measures:
        return "refuted" if set(measures) == {"refuted"} else "unresolved"
    affordable = affordability(accuracy, refinement)
    if set(measures) == {"supported"} and "refuted" not in affordable:
        return "supported" if set(affordable) == {"supported"} else "unresolved"
    return "in part"


def affordability(accuracy: lj.Interval, refinement: lj.Interval) -> list[str]:
    return [
        judge(accuracy, claim="less", threshold=MOST_ACCURACY),
        judge(refinement, claim="less", threshold=MOST_LOSS),
    ]


def numbers(name: str, runs: Stopped) -> dict[str, lj.Interval]:
    found = {f"{name}: runs not finite": wilson(int((~runs.finite).sum()), runs.num_members)}
    to_end, stopped = runs.pair.untreated, runs.pair.treated
    for told, one in (("trained to the end", to_end), ("stopped with patience", stopped)):
        found[f"{name}, {told}: D, loss paid for choosing by accuracy (nats)"] = one.mean("loss_paid")
        found[f"{name}, {told}: runs with O or K at the end (P)"] = one.share("O/K")
        found[f"{name}, {told}: runs with loss and accuracy worse at the end (W)"] = one.share("W")
    for rule, metric, told in (
        ("refinement", "loss", "test loss (nats)"),
        ("refinement", "refinement", "recalibrated test loss (nats)"),
        ("refinement", "accuracy", "test accuracy"),
        ("accuracy", "loss", "test loss (nats)"),
        ("accuracy", "refinement", "recalibrated test loss (nats)"),
        ("accuracy", "accuracy", "test accuracy"),
        ("brier", "loss", "test loss (nats)"),
        ("brier", "accuracy", "test accuracy"),
        ("end", "loss", "test loss (nats)"),
        ("end", "refinement", "recalibrated test loss (nats)"),
        ("end", "accuracy", "test accuracy"),
    ):
        found[f"{name}: {told}, {RULES[rule]} minus validation loss"] = runs.difference(rule, "loss", metric)
    return found


# What is plotted ---------------------------------------------------------------------------------------------------


def judged_table(found: Mapping[str, Stopped]) -> dict[str, np.ndarray]:
    """A row a place, rule and judge: the judged value minus that when stopped by validation loss, with its mean."""
    return table(
        {
            "place": name,
            "rule": rule,
            "judge": metric,
            "mean": runs.regret.judged.estimate[row, runs.regret.judges.index(metric)],
            "difference": runs.difference(rule, "loss", metric),
        }
        for name, runs in found.items()
        for row, rule in enumerate(RULES)
        for metric in JUDGES
    )


def kept_table(found: Mapping[str, Stopped]) -> dict[str, np.ndarray]:
    """A row a place and rule: when it stops, as a share of training, over the finite runs."""
    return table(
        {
            "place": name,
            "rule": rule,
            "mean": times.mean(),
            "q10": np.quantile(times, 0.1),
            "q90": np.quantile(times, 0.9),
        }
        for name, runs in found.items()
        for rule, times in ((rule, runs.progress[runs.kept[rule][runs.finite]]) for rule in RULES)
    )


def curve_table(found: Mapping[str, Stopped]) -> dict[str, np.ndarray]:
    """Test curves: means over the finite runs with intervals."""
    return table(
        {
            "place": name,
            "metric": metric,
            "progress": runs.progress,
            "mean": seed_curve(runs.test[metric][runs.finite]),
        }
        for name, runs in found.items()
        for metric in ("loss", "refinement", "accuracy")
    )


SHORT = {
    "loss": "loss",
    "refinement": "loss at T*",
    "brier": "Brier score",
    "accuracy": "accuracy, first best",
    "error": "error, last best",
}
SHOWN: Final = ("teacher", "digits", "noisy-digits", "vowels")
COMPARED: Final[Sequence[str]] = ("refinement", "brier", "accuracy", "error", "end")


def plot(findings: lj.Findings) -> dict[str, lj.Figure]:
    from lossjax.reports import doses

    judged, kept, curves = (findings.tables[name] for name in ("judged", "kept", "curves"))

    def curve(place: str, metric: str) -> doses.Mean:
        mine = (curves["place"] == place) & (curves["metric"] == metric)
        return doses.Mean(*(curves[key][mine] for key in ("progress", *with_bounds("mean"))))

    def stops(place: str) -> list[doses.Stop]:
        rows = np.flatnonzero(kept["place"] == place)
        return [
            doses.Stop(SHORT[str(kept["rule"][n])], *(float(kept[key][n]) for key in ("mean", "q10", "q90")))
            for n in rows
            if kept["rule"][n] != "end"
        ]

    def differences(metric: str) -> doses.Judge:
        rows = {}
        for place, shown in PLACE_NAMES.items():
            for rule in COMPARED:
                mine = (judged["place"] == place) & (judged["rule"] == rule) & (judged["judge"] == metric)
                bounds = (float(judged[key][mine][0]) for key in with_bounds("difference"))
                rows[shown, RULES[rule]] = lj.Interval(*bounds)
        return doses.Judge(*JUDGES[metric], metric != "accuracy", rows)

    return {
        "rules": lj.Figure(
            doses.judged_rules(
                [differences(metric) for metric in JUDGES],
                list(PLACE_NAMES.values()),
                [RULES[rule] for rule in COMPARED],
            ),
            "What each rule for stopping is worth on test, minus what stopping by validation loss is worth (the line "
            "at 0), with 95 % intervals over runs, and over test examples where runs share them. Green is better, red "
            "is worse, grey unresolved. An arrow: beyond the axis.",
        ),
        "when": lj.Figure(
            doses.stopping_times(
                {
                    PLACE_NAMES[place]: (
                        {"test loss": curve(place, "loss"), "recalibrated": curve(place, "refinement")},
                        curve(place, "accuracy"),
                        stops(place),
                    )
                    for place in SHOWN
                }
            ),
            "Test loss, before and after recalibration, and test accuracy along training (means over the finite runs "
            "with 95 % intervals); below, when each rule stops: the mean, which is the dashed line above, and the "
            "range of 80 % of the runs.",
        ),
    }


experiment = lj.Experiment(
    name="stopping",
    question="When should training have stopped: by validation loss, accuracy, Brier score or loss at T*?",
    claims=("C12",),
    sweep=sweep,
    analyse=analyse,
    plot=plot,
)

if __name__ == "__main__":
    lj.main(experiment)
