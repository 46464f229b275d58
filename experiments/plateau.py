"""How often does accuracy stand still while the loss falls, and is that a sign of overfitting? LSTM and others.

Three models, each on a teacher's labels and on real data: handwritten digits with and without label noise, and
ItalyPowerDemand. Every window of training has a regime (how loss and accuracy moved together on held-out examples); a
plateau is one in which loss falls and accuracy is flat (P).

- C1: an LSTM's accuracy plateaus while its loss goes on falling;
- C6: the plateau is mostly a sign of overfitting.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

import lossjax as lj
from lossjax.analysis.families import corrected
from lossjax.analysis.interval import Intervals
from lossjax.analysis.onset import best_evaluation, seed_curve
from lossjax.analysis.plateaus import HELD_OUT, Plateaus, held_out_records, plateaus
from lossjax.analysis.proportions import wilson, wilson_intervals
from lossjax.analysis.regimes import DIVERGENCE, Flat, observed_windows, windows
from lossjax.analysis.resampling import mean_interval, mean_share_interval
from lossjax.analysis.tables import table, with_bounds
from lossjax.analysis.verdicts import judge

# The rules, written before the results -----------------------------------------------------------------------------

FLAT = Flat(loss=0.005, accuracy=0.02)  # some 1,000 held-out examples do not resolve half a percentage point
PLATEAU = 0.2  # of training: the shortest window that counts
C1_RULE = (
    "share of runs with a P window of at least 20 % of training on held-out examples (loss resolved as falling, "
    "accuracy within ±2 pp; windows at 100 % or at chance do not count): supported if its interval lies above one "
    "half; refuted if that of the runs with such a window by their estimates alone, resolved or not, lies below"
)
C6_RULE = (
    "windows of 20 % of training in which the training loss falls and held-out accuracy is flat within ±2 pp "
    "(neither at 100 % nor at chance); of each run's, the share in which the held-out loss falls too; mean over the "
    "runs that have such windows: refuted if the interval of the share resolved as falling lies above one half; "
    "supported if that of the share falling by its estimate, resolved or not, lies below"
)

# What is trained ---------------------------------------------------------------------------------------------------

MODELS = {
    "lstm": lj.models.LSTM(hidden=32),
    "transformer": lj.models.Transformer(width=16, layers=1, heads=2),
    "conv": lj.models.Conv(width=16),
}
MODEL_NAMES = {"lstm": "LSTM", "transformer": "transformer", "conv": "convolution"}
LEARNING_RATE = {"lstm": 1e-2, "transformer": 3e-3, "conv": 3e-3}
TASKS = {
    # a teacher of its own a seed; at this temperature their mean Bayes accuracy is 0.90 (sd 0.03)
    "teacher": lj.tasks.Teacher(
        num_examples=500, num_features=5, temperature=0.27, num_val=500, num_test=500, teacher_seed=None
    ),
    "digits": lj.tasks.Digits(val_fraction=0.2, test_fraction=0.3),  # with and without label noise
    "italy": lj.tasks.ItalyPowerDemand(),
}
TASK_NAMES = {
    "teacher": "teacher",
    "digits": "digits",
    "noisy-digits": "digits, 20 % label noise",
    "italy": "ItalyPowerDemand",
}
NOISE = 0.2
EPOCHS = {"teacher": 40, "digits": 30, "italy": 100}
EVALS = 20
WINDOW = round(PLATEAU * EVALS)  # evaluations


def sweep(scale: str) -> lj.Sweep:
    full = scale == "full"

    def cell(task: str, model: str) -> lj.Cell:
        config = lj.TrainConfig(
            batch_size=16 if task == "italy" else 32,
            epochs=EPOCHS[task] if full else max(EPOCHS[task] // 10, 2),
            num_evals=EVALS,
            measure=lj.Measure(per_example=("val", "test"), num_groups=0),
        )
        return lj.Cell(TASKS[task], MODELS[model], config)

    cells = {f"{task}-{model}": (task, model) for task in TASKS for model in MODELS}
    return lj.Sweep(
        cells={name: cell(*choice) for name, choice in cells.items()},
        hyperparams={
            name: lj.grid(
                learning_rate=LEARNING_RATE[model], **({"label_noise": [0.0, NOISE]} if task == "digits" else {})
            )
            for name, (task, model) in cells.items()
        },
        seeds=100 if full else 8,
        part_size=50,
    )


# What is concluded -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Runs:
    """What is needed of one cell's members once their per-example records are gone."""

    num_members: int
    epochs: np.ndarray  # [eval]
    metrics: Mapping[str, np.ndarray]  # [finite member, eval]
    letters: np.ndarray  # [finite member, start] regime of the window of 20 % of training that begins there
    plateaus: Plateaus
    flat: np.ndarray  # [finite member, start] training loss falls, held-out accuracy is flat, in the interior
    falls: np.ndarray  # [finite member, start] held-out loss: "-", "0", "+" or "?"
    falls_by_estimate: np.ndarray  # [finite member, start] whether it falls by its estimate

    def among_flat(self, chosen: np.ndarray) -> lj.Interval:
        """Of each run's flat windows, the share that is chosen; mean over the runs that have any."""
        counts = self.flat.sum(axis=1)
        have = counts > 0
        shares = (self.flat & chosen)[have].sum(axis=1) / counts[have]
        if len(shares) < 2:
            return lj.Interval.without_bounds(*shares)
        return mean_share_interval(shares)


def summarise(history: lj.History) -> Runs:
    finite = history[history.finite]
    metrics = {name: array.astype(np.float64) for name, array in finite.metrics.items() if array.ndim == 2}
    losses, correct = held_out_records(finite)
    sizes = [finite.metrics[f"{split}_example_loss"].shape[2] for split in HELD_OUT]
    for what in ("loss", "accuracy", "refinement"):
        metrics[f"held_out_{what}"] = np.average(
            [metrics[f"{split}_{what}"] for split in HELD_OUT], axis=0, weights=sizes
        )
    found = windows(
        losses,
        correct,
        chance=1 / history.info["num_classes"],
        # only its mean over examples is used, which tells O from K
        refined_losses=np.broadcast_to(metrics["held_out_refinement"][..., None], losses.shape),
        flat=FLAT,
    )
    training = observed_windows(metrics["train_loss"], metrics["train_accuracy"], flat=FLAT)
    start = np.arange(finite.num_evals - WINDOW)
    window = (slice(None), start, start + WINDOW)
    return Runs(
        num_members=history.num_members,
        epochs=finite.epochs,
        metrics=metrics,
        letters=found.letters[window],
        plateaus=plateaus(
            history,
            found,
            metrics["held_out_loss"],
            metrics["held_out_accuracy"],
            shortest=PLATEAU,
            flat=FLAT,
        ),
        flat=(training.loss[window] == "-") & (found.accuracy[window] == "0") & found.interior[window],
        falls=found.loss[window],
        falls_by_estimate=np.diff(metrics["held_out_loss"][:, [start, start + WINDOW]], axis=1)[:, 0] < 0,
    )


def analyse(histories: Mapping[str, lj.History]) -> lj.Findings:
    runs = {}
    for task in TASK_NAMES:  # the order of the figures
        for model in MODELS:
            history = histories[f"{task.removeprefix('noisy-')}-{model}"]
            if task.endswith("digits"):
                history = history.select(label_noise=NOISE if task.startswith("noisy-") else 0.0)
            runs[f"{task}-{model}"] = summarise(history)
    of_lstms = {name: plateau_verdict(name, found) for name, found in runs.items() if name.endswith("-lstm")}
    verdicts = corrected(
        [*of_lstms.values(), *(overfitting_verdict(name, found) for name, found in runs.items())], lambda _: (0.5,)
    )
    return lj.Findings(
        verdicts=verdicts,
        numbers={key: value for name in runs for key, value in numbers(called(name), runs[name]).items()},
        tables={
            "regimes": regime_table(runs),
            "plateaus": plateau_table(runs),
            "shares": share_table(runs, {name: one.outcome for name, one in zip(of_lstms, verdicts, strict=False)}),
            "curves": curve_table(runs),
        },
        notes=(
            "Held out are validation and test examples together: 1,000 of a teacher, 898 digits, 1,042 days of "
            "ItalyPowerDemand. Labels are noisy in training only.",
            "A teacher's seeds have a teacher and data of their own; digits and ItalyPowerDemand are one data set and "
            "one split each, so their intervals are over seeds of training on these data.",
            "C1 is a claim about LSTMs: the other models' shares stand beside it, without a verdict.",
            "Regimes are per run over its own held-out examples; within a run, seed variance is not observed.",
            *(f"{key}: {WHY_NONE}" for name in runs for key in unanswered(called(name), runs[name])),
        ),
    )


WHY_NONE = "fewer than two runs have a window of falling training loss and flat held-out accuracy"


def called(name: str) -> str:
    task, model = name.rsplit("-", 1)
    return f"{TASK_NAMES[task]}, {MODEL_NAMES[model]}"


def scope(name: str) -> str:
    return "seeds, each with a teacher and data of its own" if name.startswith("teacher") else "seeds, on these data"


def plateau_verdict(name: str, runs: Runs) -> lj.Verdict:
    share, by_estimate = (runs.plateaus.share(one) for one in (runs.plateaus.resolved, runs.plateaus.by_estimate))
    outcome = judge(share, threshold=0.5)
    if outcome == "refuted" and judge(by_estimate, threshold=0.5) != "refuted":
        outcome = "unresolved"
    return lj.Verdict(
        claim="C1",
        statement="An LSTM's accuracy plateaus while its loss goes on falling.",
        where=f"{called(name)}, held out",
        contrast="share of runs with a plateau",
        rule=C1_RULE,
        estimate=share,
        outcome=outcome,
        num_seeds=runs.num_members,
        scope=scope(name),
        note=f"by their estimates alone: {by_estimate}",
    )


def overfitting_verdict(name: str, runs: Runs) -> lj.Verdict:
    falls, by_estimate = runs.among_flat(runs.falls == "-"), runs.among_flat(runs.falls_by_estimate)
    outcome, contrast = "unresolved", "share of plateau windows in which the held-out loss falls"
    decides, note = falls, f"by their estimates alone: {by_estimate}"
    if judge(falls, threshold=0.5) == "supported":
        outcome = "refuted"
    elif judge(by_estimate, threshold=0.5, claim="less") == "supported":
        outcome, contrast = "supported", contrast + ", resolved or not"
        decides, note = by_estimate, f"resolved as falling: {falls}"
    have = int(runs.flat.any(axis=1).sum())
    return lj.Verdict(
        claim="C6",
        statement="The plateau is mostly a sign of overfitting.",
        where=f"{called(name)}, held out",
        contrast=contrast,
        rule=C6_RULE,
        estimate=decides,
        outcome=outcome,
        num_seeds=have,
        scope=scope(name),
        note=note if have > 1 else WHY_NONE,
    )


def numbers(name: str, runs: Runs) -> dict[str, lj.Interval]:
    found = runs.plateaus.numbers(name)
    found[f"{name}: runs with a window of falling training loss and flat held-out accuracy"] = wilson(
        int(runs.flat.any(axis=1).sum()), runs.num_members
    )
    for move, word in {"-": "falls", "+": "rises"}.items():
        found[f"{name}: share of such windows in which the held-out loss {word}"] = runs.among_flat(runs.falls == move)
    for metric in ("train_loss", "held_out_loss", "train_accuracy", "held_out_accuracy"):
        found[f"{name}: final {metric.replace('_', ' ').replace('held out', 'held-out')}"] = mean_interval(
            runs.metrics[metric][:, -1]
        )
    return found


def unanswered(name: str, runs: Runs) -> list[str]:
    return [key for key, value in numbers(name, runs).items() if np.isnan(value.low)]


# What is plotted ---------------------------------------------------------------------------------------------------

LETTERS = ("P", "O", "K", "S", "G", "W", "N")
DIVERGED = "P, O, K or S"  # the lowest four of the stack


def regime_table(runs: Mapping[str, Runs]) -> dict[str, np.ndarray]:
    """Share of all members in each regime, by where the window of 20 % of training begins; non-finite count as N.

    Runs have seeds of their own, so they are what was sampled, one number each: Wilson's intervals, at each window.
    """

    def share(found: Runs, letters: Sequence[str]) -> Intervals:
        missing = found.num_members - len(found.letters)
        counts = np.isin(found.letters, letters).sum(axis=0) + (missing if "N" in letters else 0)
        return wilson_intervals(counts, np.full(counts.shape, found.num_members))

    return table(
        {
            "cell": name,
            "begin": np.arange(found.letters.shape[1]) / EVALS,
            "letter": called,
            "share": share(found, letters),
        }
        for name, found in runs.items()
        for called, letters in {**{letter: (letter,) for letter in LETTERS}, DIVERGED: DIVERGENCE}.items()
    )


def plateau_table(runs: Mapping[str, Runs]) -> dict[str, np.ndarray]:
    """Regimes of the windows of falling training loss and flat held-out accuracy; each run with any counts once."""
    return table(
        {
            "cell": name,
            "runs": int(found.flat.any(axis=1).sum()),
            **{letter: found.among_flat(found.letters == letter) for letter in LETTERS},
        }
        for name, found in runs.items()
    )


def share_table(runs: Mapping[str, Runs], outcomes: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Share of runs with a held-out plateau, for every model; the outcome for LSTMs."""
    return table(
        {"cell": name, "share": found.plateaus.share(found.plateaus.resolved), "outcome": outcomes.get(name, "")}
        for name, found in runs.items()
    )


CURVES = ("train_loss", "held_out_loss", "train_accuracy", "held_out_accuracy")


def curve_table(runs: Mapping[str, Runs]) -> dict[str, np.ndarray]:
    return table(
        {
            "cell": name,
            "metric": metric,
            "epoch": found.epochs,
            "mean": seed_curve(values),
            "q10": np.quantile(values, 0.1, axis=0),
            "q90": np.quantile(values, 0.9, axis=0),
        }
        for name, found in runs.items()
        for metric, values in ((metric, found.metrics[metric]) for metric in CURVES)
    )


def plot(findings: lj.Findings) -> dict[str, lj.Figure]:
    from lossjax.reports import panels, plots

    regimes, shares, plateaus, curves = (findings.tables[name] for name in ("regimes", "shares", "plateaus", "curves"))

    def over_time(name: str) -> panels.RegimesOverTime:
        task, model = name.rsplit("-", 1)

        def of(letter: str) -> np.ndarray:
            return np.asarray((regimes["cell"] == name) & (regimes["letter"] == letter))

        mine = {letter: of(letter) for letter in LETTERS}
        return panels.RegimesOverTime(
            TASK_NAMES[task],
            MODEL_NAMES[model],
            regimes["begin"][mine["P"]],
            {letter: regimes["share"][rows] for letter, rows in mine.items()},
            diverged=Intervals(*(regimes[column][of(DIVERGED)] for column in with_bounds("share"))),
        )

    def curve(name: str, metric: str, label: str) -> plots.Curve:
        rows = (curves["cell"] == name) & (curves["metric"] == metric)
        columns = (curves[key][rows] for key in ("epoch", *with_bounds("mean"), "q10", "q90"))
        return plots.Curve(label, "train" if metric.startswith("train") else "test", *columns)

    def panel(task: str) -> plots.Panel:
        name = f"{task}-lstm"
        held_out = [curve(name, f"held_out_{what}", "held out") for what in ("loss", "accuracy")]
        return plots.Panel(
            TASK_NAMES[task].replace(", ", ",\n"),
            loss=[curve(name, "train_loss", "training"), held_out[0]],
            accuracy=[curve(name, "train_accuracy", "training"), held_out[1]],
            t_loss=float(held_out[0].x[best_evaluation(held_out[0].y, "lowest")]),
            t_accuracy=float(held_out[1].x[best_evaluation(held_out[1].y, "highest")]),
        )

    def moves(called: str) -> str:
        """Shares of windows in which the held-out loss is resolved as falling, and as rising."""
        told = []
        for word, arrow in (("falls", "↓"), ("rises", "↑")):
            share = findings.numbers[f"{called}: share of such windows in which the held-out loss {word}"]
            bounds = "" if np.isnan(share.low) else f" [{100 * share.low:.0f}, {100 * share.high:.0f}]"
            told.append(f"{arrow} {100 * share.estimate:.0f} %{bounds}")
        return "  ".join(told)

    cells = list(dict.fromkeys(regimes["cell"].tolist()))
    rows = [
        plots.Contrast(
            MODEL_NAMES[name.rsplit("-", 1)[1]],
            lj.Interval(*values),
            outcome,
            TASK_NAMES[name.rsplit("-", 1)[0]],
        )
        for name, *values, outcome in zip(*shares.values(), strict=True)
    ]
    have = plateaus["runs"] > 0
    return {
        "regimes_along_training": lj.Figure(
            panels.regimes_along_training(
                [over_time(name) for name in cells], x_label="start of the window, which lasts 20 % of training"
            ),
            "Share of runs in each regime, on held-out examples, of the window of 20 % of training that begins at each "
            "evaluation. Whiskers: the share that diverges (P, O, K or S) with its 95 % interval over runs; those of "
            "each regime are in regimes.csv.",
        ),
        "plateau_shares": lj.Figure(
            plots.contrasts(
                rows,
                x_label="share of runs with a held-out plateau of at least 20 % of training",
                reference=0.5,
                title="How many runs have a plateau: loss falls, accuracy stays",
            ),
            "C1, with its verdict for the LSTM; plateaus at chance or at 100 % do not count.",
        ),
        "plateau_or_overfitting": lj.Figure(
            plots.regime_shares(
                [
                    f"{called(str(name))} ({runs} runs)"
                    for name, runs in zip(plateaus["cell"][have], plateaus["runs"][have], strict=True)
                ],
                {letter: plateaus[letter][have] for letter in LETTERS},
                title="While training loss falls and held-out accuracy is flat, the held-out loss …",
                x_label="share of a run's windows, mean over the runs that have any",
                notes=[moves(called(str(name))) for name in plateaus["cell"][have]],
            ),
            "C6: what the held-out loss does in windows of 20 % of training in which the training loss falls and "
            "held-out accuracy is flat within ±2 pp. P: it falls too; O and K: it rises, and by estimates one "
            "temperature repairs four fifths of it, or not; N: flat or undecided. Shares of windows, mean over runs; "
            "right, those resolved as falling and rising with 95 % intervals over runs.",
        ),
        "lstm_curves": lj.Figure(
            plots.loss_and_accuracy([panel(task) for task in TASK_NAMES], share_y=False),
            "The LSTM on the four tasks: means over seeds with 95 % intervals; wide bands hold 80 % of runs; t_L and "
            "t_A are of the mean curves.",
        ),
    }


experiment = lj.Experiment(
    name="plateau",
    question="How often does accuracy stand still while the loss falls, and is that a sign of overfitting?",
    claims=("C1", "C6"),
    sweep=sweep,
    analyse=analyse,
    plot=plot,
)

if __name__ == "__main__":
    lj.main(experiment)
