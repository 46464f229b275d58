"""An LSTM on random and on learnable labels: do its loss and accuracy part, and do features or capacity make them?

W1–W3 of the published discussion (1 → 5 features with 16 → 32 hidden units, then a second layer), as they stand and
with a teacher's learnable labels in the same sizes. Sizes are also varied one at a time, so that claims are contrasts:

- C1: accuracy plateaus while loss goes on falling;
- C3: more features make plateau and overfitting come more readily;
- C4: a second layer makes a low training loss easier and does not buy held-out accuracy.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

import lossjax as lj
from lossjax.analysis.families import corrected
from lossjax.analysis.interval import Intervals
from lossjax.analysis.onset import Onset, best_evaluation, logrank_p, onset, seed_curve, survival
from lossjax.analysis.plateaus import Plateaus, held_out_records, plateaus
from lossjax.analysis.proportions import newcombe, wilson
from lossjax.analysis.regimes import Flat, seed_windows, windows
from lossjax.analysis.resampling import difference_interval, mean_interval
from lossjax.analysis.tables import table, with_bounds
from lossjax.analysis.verdicts import judge

# The rules, written before the results -----------------------------------------------------------------------------

# 2,000 held-out examples cannot resolve half a percentage point, so an accuracy is flat here within two
FLAT = Flat(loss=0.005, accuracy=0.02)
PLATEAU = 0.2  # of training: the shortest window that counts
C1_RULE = (
    "share of runs with a P window of at least 20 % of training on 2,000 held-out examples (loss resolved as falling, "
    "accuracy within ±2 pp; windows at 100 % or at chance do not count): supported if its interval lies above one "
    "half; refuted if that of the runs with such a window by their estimates alone, resolved or not, lies below"
)
ONE_EPOCH = 1.0
C3_ONSET_RULE = (
    "difference in the mean epoch of onset (test loss worse and accuracy not worse than at the best validation loss, "
    "three evaluations running; runs without onset count as the last epoch judged): supported if the interval lies "
    "below −1 epoch, refuted if above −1 epoch"
)
MOST_UNDECIDED = 0.1
C3_ONSET_AMENDED = "unresolved where more than a tenth of the runs end undecided, because those count as late"
C3_TURN_RULE = (
    "difference in the epoch of the lowest validation loss: supported if the interval lies below −1 epoch, refuted if "
    "above −1 epoch"
)
C3_TURN_CHOSEN = "onset had turned out to be beyond the power of 1,000 test examples a run"
FIVE_POINTS = 0.05
C3_PLATEAU_RULE = (
    "difference in the share of runs with a plateau as in C1: supported if the interval lies above +5 pp, refuted if "
    "below +5 pp"
)
HALF_POINT = 0.005
C4_RULE = (
    "test accuracy where validation accuracy is highest, with the second layer minus without, paired by seed: "
    "supported if the interval's upper bound is below +0.5 pp and the final training loss is lower, refuted if its "
    "lower bound is above +0.5 pp"
)

# What is trained ---------------------------------------------------------------------------------------------------


class Size(NamedTuple):
    features: int
    hidden: int
    layers: int = 1
    irrelevant: int = 0  # features that the labels do not depend on, in place of relevant ones
    scaled: bool = False  # inputs times 1/√features, so that their norm stays that of one feature

    def __str__(self) -> str:
        features = f"{self.features}+{self.irrelevant}" if self.irrelevant else f"{self.features}"
        scaled = "-scaled" if self.scaled else ""
        return f"f{features}-h{self.hidden}-l{self.layers}{scaled}"


W1, W2, W3 = Size(1, 16), Size(5, 32), Size(5, 32, layers=2)
WORKLOADS = {"W1": W1, "W2": W2, "W3": W3}
VARIED = (Size(5, 16), Size(1, 32), Size(1, 16, layers=2), Size(5, 32, scaled=True))
IRRELEVANT = (Size(1, 16, irrelevant=4), Size(1, 32, irrelevant=4))  # all features of random labels are irrelevant


def sweep(scale: str) -> lj.Sweep:
    """1,000 seeds of W1–W3, 400 with a teacher, 120 of other sizes; a seed has the same data in all cells of a task."""
    full = scale == "full"
    held_out = 2000 if full else 200
    config = lj.TrainConfig(
        epochs=50 if full else 10,
        batch_size=16,
        optimizer="adam",
        measure=lj.Measure(per_example=("val", "test")),
    )

    def cell(task: str, size: Size) -> lj.Cell:
        scale = 1 / np.sqrt(size.features) if size.scaled else 1.0
        random = lj.tasks.RandomLabels(num_features=size.features, num_heldout=held_out, input_scale=float(scale))
        # a teacher of its own a seed; at this temperature their mean Bayes accuracy is 0.90 (sd 0.03)
        teacher = lj.tasks.Teacher(
            num_features=size.features,
            num_irrelevant=size.irrelevant,
            temperature=0.27,
            input_scale=float(scale),
            num_val=held_out // 2,
            num_test=held_out // 2,
            teacher_seed=None,
        )
        return lj.Cell(
            random if task == "random" else teacher, lj.models.LSTM(hidden=size.hidden, layers=size.layers), config
        )

    sizes = {"random": (W1, W2, W3, *VARIED), "teacher": (W1, W2, W3, *VARIED, *IRRELEVANT)}
    chosen = {f"{task}-{size}": (task, size) for task in sizes for size in sizes[task]}
    most = {"random": 1000, "teacher": 400}
    seeds = {name: most[task] if size in WORKLOADS.values() else 120 for name, (task, size) in chosen.items()}
    return lj.Sweep(
        cells={name: cell(*choice) for name, choice in chosen.items()},
        hyperparams=lj.grid(learning_rate=1e-2),
        seeds=seeds if full else dict.fromkeys(seeds, 24),
        part_size=64,  # a member's per-example records take a megabyte, and checkpoints hold those of the part
    )


# What is concluded -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Runs:
    """What is needed of one cell's members once their per-example records are gone."""

    epochs: np.ndarray  # [eval]
    num_members: int
    finite: np.ndarray  # [member]; arrays below are of the finite ones unless it is said
    seeds: np.ndarray
    metrics: Mapping[str, np.ndarray]  # [member, eval]
    plateaus: Plateaus
    turn: np.ndarray  # epoch of the lowest validation loss
    onset: Onset  # of every member, on test, against the best validation loss
    last_regime: np.ndarray  # of every member: letter on test from the best validation loss to the end, or "N"
    best_accuracy: np.ndarray  # of test, where validation accuracy is highest

    @property
    def undecided(self) -> np.ndarray:
        """[member], every one: whether 1,000 test examples do not tell what accuracy did since the best validation
        loss; so of runs that stopped being finite.
        """
        return self.last_regime == "N"

    @property
    def onset_epochs(self) -> np.ndarray:
        return self.epochs[self.onset.evaluation]


def summarise(history: lj.History) -> Runs:
    finite = history[history.finite]
    metrics = finite.metrics
    chance = 1 / history.info["num_classes"]
    pooled = windows(*held_out_records(finite), chance=chance, flat=FLAT)
    held_out = (held_out_mean(metrics, name) for name in ("loss", "accuracy"))
    losses = metrics["test_example_loss"]
    test = windows(
        losses,
        metrics["test_example_correct"],
        chance=chance,
        # only its mean over examples is used, which tells O from K
        refined_losses=np.broadcast_to(metrics["test_refinement"][..., None], losses.shape),
        flat=FLAT,
    )
    members = np.arange(finite.num_members)
    best_loss = best_evaluation(metrics["val_loss"], "lowest")
    # the first evaluation is counted as before the second: a window needs an end after its start
    start = np.minimum(best_loss, finite.num_evals - 2)
    last = np.full(history.num_members, "N", dtype=test.letters.dtype)
    last[history.finite] = np.where(best_loss < finite.num_evals - 1, test.letters[members, start, -1], "N")
    # every member counts: one that stopped being finite has no onset, and shares have it in the denominator
    letters = np.full((history.num_members, *test.letters.shape[1:]), "", dtype=test.letters.dtype)
    letters[history.finite] = test.letters
    first = np.zeros(history.num_members, dtype=np.int64)
    first[history.finite] = best_loss
    broke = np.where(history.finite, history.num_evals, np.searchsorted(history.steps, history.nonfinite_step))
    return Runs(
        epochs=finite.epochs,
        num_members=history.num_members,
        finite=history.finite,
        seeds=finite.seeds["data"],
        metrics={name: array for name, array in metrics.items() if array.ndim == 2},
        plateaus=plateaus(history, pooled, *held_out, shortest=PLATEAU, flat=FLAT),
        turn=finite.epochs[best_loss],
        onset=onset(letters, first, nonfinite=broke),
        last_regime=last,
        best_accuracy=metrics["test_accuracy"][members, best_evaluation(metrics["val_accuracy"], "highest")],
    )


def held_out_mean(metrics: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """[member, eval] over validation and test examples together; there are as many of one as of the other."""
    return (metrics[f"val_{name}"].astype(np.float64) + metrics[f"test_{name}"]) / 2


def analyse(histories: Mapping[str, lj.History]) -> lj.Findings:
    runs = {name: summarise(histories[name]) for name in histories}
    verdicts = corrected([*plateau_verdicts(runs), *feature_verdicts(runs), *layer_verdicts(runs)], compared_with)
    return lj.Findings(
        verdicts=verdicts,
        numbers=numbers(runs),
        tables={
            "curves": curve_table(runs),
            "onset": onset_table(runs),
            "regimes": regime_table(runs),
            "contrasts": contrast_table(runs, {verdict.rule: verdict.outcome for verdict in verdicts}),
        },
        notes=(
            "Every seed has a training set, held-out examples and, with learnable labels, a teacher of its own, so "
            "intervals over seeds hold for fresh data and fresh teachers of this kind.",
            f"Random labels have nothing to learn: held-out accuracy is at chance throughout. {false_plateaus(runs)}",
            "1 → 5 features changes the teacher too; the contrast that keeps the task is 1 relevant + 4 irrelevant.",
            "Regimes are per run over its own test examples; within a run, seed variance is not observed.",
            "With 1,000 test examples a run, most changes of accuracy after the turn are not resolved even to ±2 pp "
            "(N): so the onset curves are lower bounds and say little of when loss turns. Over seeds it is resolved:",
            *population_regimes(runs),
        ),
    )


def false_plateaus(runs: Mapping[str, Runs]) -> str:
    """Of random labels: plateaus that count although there can be none."""
    of_random = {name: cell.plateaus for name, cell in runs.items() if name.startswith("random-")}
    shares = {name: found.share(found.resolved) for name, found in of_random.items()}
    told = "; ".join(
        f"{name.removeprefix('random-')} {100 * share.estimate:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]"
        for name, share in shares.items()
        if share.estimate > 0
    )
    return (
        'A window of theirs that counts as a plateau is a false alarm of "not at chance", which is judged at 5 % an '
        f"evaluation and for every pair of evaluations: share of runs with one: {told or 'none'}; those at chance are "
        "given apart."
    )


def compared_with(verdict: lj.Verdict) -> tuple[float]:
    """The limit of its rule."""
    limit = {
        C1_RULE: 0.5,
        C3_ONSET_RULE: -ONE_EPOCH,
        C3_TURN_RULE: -ONE_EPOCH,
        C3_PLATEAU_RULE: FIVE_POINTS,
        C4_RULE: HALF_POINT,
    }[verdict.rule]
    return (limit,)


def plateau_verdicts(runs: Mapping[str, Runs]) -> list[lj.Verdict]:
    found = []
    for workload, size in WORKLOADS.items():
        cell = runs[f"teacher-{size}"]
        share, by_estimate = (cell.plateaus.share(one) for one in (cell.plateaus.resolved, cell.plateaus.by_estimate))
        outcome = judge(share, threshold=0.5)
        if outcome == "refuted" and judge(by_estimate, threshold=0.5) != "refuted":
            outcome = "unresolved"
        found.append(
            lj.Verdict(
                claim="C1",
                statement="An LSTM's accuracy plateaus while its loss goes on falling.",
                where=f"{workload}'s sizes, learnable labels, held out",
                contrast="share of runs with a plateau",
                rule=C1_RULE,
                estimate=share,
                outcome=outcome,
                num_seeds=cell.num_members,
                scope="seeds, each with a teacher and data of its own",
                note=f"by their estimates alone: {by_estimate}",
            )
        )
    return found


def feature_verdicts(runs: Mapping[str, Runs]) -> list[lj.Verdict]:
    a, b = runs[f"teacher-{W1}"], runs[f"teacher-{W2}"]
    earlier = difference_interval(a.onset_epochs, b.onset_epochs)
    by_onset = judge(earlier, threshold=-ONE_EPOCH, claim="less")
    undecided = max(float(np.mean(runs.undecided)) for runs in (a, b))
    turn = paired(a, b, a.turn, b.turn)
    more = plateau_difference(a, b)
    shared: dict[str, Any] = {
        "claim": "C3",
        "where": "W1 → W2, learnable labels",
        "num_seeds": a.num_members,
        "scope": "seeds, each with a teacher and data of its own",
    }
    return [
        lj.Verdict(
            **shared,
            statement="More input features make overfitting come more readily.",
            contrast="mean epoch of onset, 5 features and 32 units minus 1 and 16",
            rule=C3_ONSET_RULE,
            estimate=earlier,
            outcome="unresolved" if undecided > MOST_UNDECIDED else by_onset,
            note=f"undecided at the end: {np.mean(a.undecided):.0%} and {np.mean(b.undecided):.0%} of the runs",
            amended=C3_ONSET_AMENDED,
            as_written=by_onset,
        ),
        lj.Verdict(
            **shared,
            statement="More input features make overfitting come more readily.",
            contrast="epoch of the lowest validation loss, 5 features and 32 units minus 1 and 16",
            rule=C3_TURN_RULE,
            estimate=turn,
            outcome=judge(turn, threshold=-ONE_EPOCH, claim="less"),
            note="exploratory",
            amended=C3_TURN_CHOSEN,
        ),
        lj.Verdict(
            **shared,
            statement="More input features make the plateau come more readily.",
            contrast="share of runs with a plateau, 5 features and 32 units minus 1 and 16",
            rule=C3_PLATEAU_RULE,
            estimate=more,
            outcome=judge(more, threshold=FIVE_POINTS),
        ),
    ]


def layer_verdicts(runs: Mapping[str, Runs]) -> list[lj.Verdict]:
    found = []
    for where, one, two in (
        ("W2 → W3, learnable labels", W2, W3),
        ("W1 → W1 with two layers, learnable labels", W1, Size(1, 16, 2)),
    ):
        a, b = runs[f"teacher-{one}"], runs[f"teacher-{two}"]
        gain = paired(a, b, a.best_accuracy, b.best_accuracy)
        loss = paired(a, b, a.metrics["train_loss"][:, -1], b.metrics["train_loss"][:, -1])
        below = judge(gain, threshold=HALF_POINT, claim="less")
        outcome = "unresolved" if below == "supported" and not loss.high < 0 else below
        found.append(
            lj.Verdict(
                claim="C4",
                statement="A second layer makes a low training loss easier and does not buy held-out accuracy.",
                where=where,
                contrast="test accuracy where validation accuracy is highest, two layers minus one",
                rule=C4_RULE,
                estimate=gain,
                outcome=outcome,
                num_seeds=min(a.num_members, b.num_members),
                scope="seeds, each with a teacher and data of its own",
                note=f"final training loss, two layers minus one: {loss} nats",
            )
        )
    return found


def since_turn(cell: Runs, metric: str) -> tuple[lj.Interval, float]:
    """Mean change over seeds from where the mean validation loss is lowest to the end, and that epoch."""
    turn = int(best_evaluation(cell.metrics["val_loss"].mean(axis=0), "lowest"))
    values = cell.metrics[metric].astype(np.float64)
    return mean_interval(values[:, -1] - values[:, turn]), float(cell.epochs[turn])


def population_regimes(runs: Mapping[str, Runs]) -> list[str]:
    """A sentence a workload: what its population does from the turn of its mean validation loss to the end."""
    found = []
    for task in ("random", "teacher"):
        for workload, size in WORKLOADS.items():
            cell = runs[f"{task}-{size}"]
            # over seeds the default half percentage point is within reach
            over_seeds = seed_windows(cell.metrics["test_loss"], cell.metrics["test_accuracy"])
            turn = min(int(best_evaluation(cell.metrics["val_loss"].mean(axis=0), "lowest")), len(cell.epochs) - 2)
            (loss, _), (accuracy, epoch) = (since_turn(cell, f"test_{metric}") for metric in ("loss", "accuracy"))
            found.append(
                f"{workload}, {task}, over seeds from epoch {epoch:g} to the end: test loss {loss} nats, test accuracy "
                f"{accuracy}; regime {over_seeds.refinements[turn, -1]} (flat within 0.005 nats and 0.5 pp)."
            )
    return found


def plateau_difference(a: Runs, b: Runs) -> lj.Interval:
    counts = [runs.plateaus.count(runs.plateaus.resolved) for runs in (a, b)]
    return newcombe(counts[0], a.num_members, counts[1], b.num_members)


def paired(a: Runs, b: Runs, values_a: np.ndarray, values_b: np.ndarray) -> lj.Interval:
    """Mean of b − a over the seeds that both cells have."""
    _, in_a, in_b = np.intersect1d(a.seeds, b.seeds, return_indices=True)
    return mean_interval((values_b[in_b] - values_a[in_a]).astype(np.float64))


def numbers(runs: Mapping[str, Runs]) -> dict[str, lj.Interval]:
    found: dict[str, lj.Interval] = {}
    for name, cell in runs.items():
        found |= cell.plateaus.numbers(name)
        found[f"{name}: runs with onset"] = cell.onset.share()
        found[f"{name}: runs undecided at the end"] = wilson(int(cell.undecided.sum()), cell.num_members)
        found[f"{name}: epoch of the lowest validation loss"] = mean_interval(cell.turn)
        for metric in ("loss", "accuracy"):
            change, _ = since_turn(cell, f"test_{metric}")
            found[f"{name}: test {metric}, end minus turn of the mean validation loss"] = change
        for metric in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
            found[f"{name}: final {metric.replace('_', ' ')}"] = mean_interval(
                cell.metrics[metric][:, -1].astype(np.float64)
            )
    for task in ("random", "teacher"):
        a, b = runs[f"{task}-{W1}"], runs[f"{task}-{W2}"]
        p = logrank_p(a.onset_epochs, a.onset.observed, b.onset_epochs, b.onset.observed)
        found[f"{task}: log-rank p, onset of W1 against W2"] = lj.Interval(p, float("nan"), float("nan"))
    return found


# What is plotted ---------------------------------------------------------------------------------------------------

CURVES = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")


def curve_table(runs: Mapping[str, Runs]) -> dict[str, np.ndarray]:
    return table(
        {
            "cell": name,
            "metric": metric,
            "epoch": cell.epochs,
            "mean": seed_curve(values),
            "q10": np.quantile(values, 0.1, axis=0),
            "q90": np.quantile(values, 0.9, axis=0),
        }
        for name, cell in runs.items()
        for metric, values in ((metric, cell.metrics[metric].astype(np.float64)) for metric in CURVES)
    )


def onset_table(runs: Mapping[str, Runs]) -> dict[str, np.ndarray]:
    """One minus Kaplan–Meier: the share of runs with onset by each epoch."""

    def onsets(left: Intervals) -> Intervals:
        return Intervals(1 - left.estimate, 1 - left.high, 1 - left.low)

    return table(
        {"cell": name, "epoch": curve.times, "share": onsets(curve.share)}
        for name, curve in ((name, survival(cell.onset_epochs, cell.onset.observed)) for name, cell in runs.items())
    )


def regime_table(runs: Mapping[str, Runs]) -> dict[str, np.ndarray]:
    letters = ("P", "O", "K", "S", "G", "W", "N")
    return table(
        {"cell": name, **{letter: np.mean(cell.last_regime == letter) for letter in letters}}
        for name, cell in runs.items()
    )


def contrast_table(runs: Mapping[str, Runs], outcomes: Mapping[str, str]) -> dict[str, np.ndarray]:
    """C3's contrasts one at a time, and C4's. An outcome has only what its rule is about: W1 → W2, learnable labels."""
    rows: list[dict[str, Any]] = []

    def add(group: str, label: str, interval: lj.Interval, outcome: str) -> None:
        bounds = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
        rows.append({"group": group, "label": label, **bounds, "outcome": outcome})

    one_at_a_time = {
        "1 → 5 features, 16 → 32 units (W1 → W2)": (W1, W2),
        "1 → 5 features, 16 units": (W1, Size(5, 16)),
        "1 → 5 features, 32 units": (Size(1, 32), W2),
        "16 → 32 units, 1 feature": (W1, Size(1, 32)),
        "16 → 32 units, 5 features": (Size(5, 16), W2),
        "inputs × 1/√5, 5 features, 32 units": (W2, Size(5, 32, scaled=True)),
        "1 → 2 layers, 5 features (W2 → W3)": (W2, W3),
        "1 → 2 layers, 1 feature": (W1, Size(1, 16, 2)),
    }
    irrelevant = {
        "+ 4 irrelevant features, 16 units": (W1, IRRELEVANT[0]),
        "+ 4 irrelevant features, 32 units": (Size(1, 32), IRRELEVANT[1]),
    }
    for task in ("teacher", "random"):
        for label, (one, other) in (one_at_a_time | (irrelevant if task == "teacher" else {})).items():
            a, b = runs[f"{task}-{one}"], runs[f"{task}-{other}"]
            claimed = (task, one, other) == ("teacher", W1, W2)
            earlier = difference_interval(a.onset_epochs, b.onset_epochs)
            add(f"onset {task}", label, earlier, "")
            turn = difference_interval(a.turn, b.turn)
            add(f"turn {task}", label, turn, outcomes[C3_TURN_RULE] if claimed else "")
            more = plateau_difference(a, b)
            add(f"plateau {task}", label, more, outcomes[C3_PLATEAU_RULE] if claimed else "")
            gain = paired(a, b, a.best_accuracy, b.best_accuracy)
            add(f"accuracy {task}", label, gain, "")
    return table(rows)


def plot(findings: lj.Findings) -> dict[str, lj.Figure]:
    from lossjax.reports import panels, plots

    curves, onsets, contrasts = (findings.tables[name] for name in ("curves", "onset", "contrasts"))

    def curve(cell: str, metric: str, label: str) -> plots.Curve:
        rows = (curves["cell"] == cell) & (curves["metric"] == metric)
        columns = (curves[key][rows] for key in ("epoch", *with_bounds("mean"), "q10", "q90"))
        return plots.Curve(label, metric.split("_")[0], *columns)

    def panels_of(task: str, levels: Mapping[str, float]) -> list[plots.Panel]:
        return [
            plots.Panel(
                f"{workload}\n{size.features} feature{'s'[: size.features > 1]}, {size.hidden} units, "
                f"{size.layers} layer{'s'[: size.layers > 1]}",
                loss=[curve(f"{task}-{size}", f"{split}_loss", label) for split, label in SPLITS.items()],
                accuracy=[curve(f"{task}-{size}", f"{split}_accuracy", label) for split, label in SPLITS.items()],
                loss_levels={"ln 2": float(np.log(2))},
                accuracy_levels=levels,
            )
            for workload, size in WORKLOADS.items()
        ]

    def onset_of(label: str, cell: str) -> panels.OnsetCurve:
        rows = onsets["cell"] == cell
        share = onsets["share"][rows]
        # no event yet, no bounds yet: Kaplan–Meier is 0 there
        low, high = (np.nan_to_num(onsets[key][rows], nan=0.0) for key in ("share_low", "share_high"))
        reached = findings.numbers[f"{cell}: runs with onset"].estimate
        return panels.OnsetCurve(label, onsets["epoch"][rows], share, low, high, censored=1 - reached)

    def forest(kind: str, unit: str, negligible: tuple[float, float], title: str, *tasks: str) -> object:
        names = {task: f"{'learnable' if task == 'teacher' else task} labels" for task in tasks}
        rows = [
            plots.Contrast(label, lj.Interval(*values), outcome, names[group.removeprefix(f"{kind} ")])
            for group, label, *values, outcome in zip(*contrasts.values(), strict=True)
            if group in [f"{kind} {task}" for task in tasks]
        ]
        return plots.contrasts(rows, x_label=unit, negligible=negligible, title=title)

    labels = {f"{task}-{size}": f"{name}, {task}" for task in ("random", "teacher") for name, size in WORKLOADS.items()}
    regimes = findings.tables["regimes"]
    chosen = [int(np.flatnonzero(regimes["cell"] == cell)[0]) for cell in labels]
    bands = (
        "Lines are means over seeds with 95 % intervals (often thinner than the line); wide bands hold 80 % of runs."
    )
    return {
        "random_labels": lj.Figure(
            plots.loss_and_accuracy(panels_of("random", {"chance": 0.5})),
            "Random labels: the training set is memorised, the held-out loss only rises, held-out accuracy stays at "
            f"chance. {bands}",
        ),
        "learnable_labels": lj.Figure(
            plots.loss_and_accuracy(panels_of("teacher", {"chance": 0.5, "Bayes": 0.9})),
            "A teacher's labels in the same sizes: the held-out loss turns and rises by far; held-out accuracy loses "
            f"a point or none. Bayes accuracy is a mean over teachers. {bands}",
        ),
        "onset": lj.Figure(
            panels.onset_curves(
                [
                    onset_of("W1: 1 feature, 16 units", f"teacher-{W1}"),
                    onset_of("W1 + 4 irrelevant features", f"teacher-{IRRELEVANT[0]}"),
                    onset_of("W2: 5 features, 32 units", f"teacher-{W2}"),
                    onset_of("W3: W2 with two layers", f"teacher-{W3}"),
                ],
                x_label="epoch",
                title="Learnable labels: loss has turned while accuracy has not",
            ),
            "Share of runs in which test loss is resolved as worse, and accuracy not, than at the best validation "
            "loss, at three evaluations running (one minus Kaplan–Meier with 95 % bounds).",
        ),
        "regimes": lj.Figure(
            plots.regime_shares(
                list(labels.values()),
                {letter: regimes[letter][chosen] for letter in regimes if letter != "cell"},
                title="From the best validation loss to the end of training, on test examples",
            ),
            "Share of runs in each regime; intervals of the shares with onset are under Numbers.",
        ),
        "contrast_onset": lj.Figure(
            forest(
                "onset",
                "difference in mean epoch of onset",
                (-ONE_EPOCH, ONE_EPOCH),
                "What makes loss and accuracy part earlier",
                "teacher",
                "random",
            ),
            "One change at a time. Runs without onset count as late, and most of those are undecided: no verdicts.",
        ),
        "contrast_turn": lj.Figure(
            forest(
                "turn",
                "difference in the epoch of the lowest validation loss",
                (-ONE_EPOCH, ONE_EPOCH),
                "What makes the held-out loss turn earlier",
                "teacher",
                "random",
            ),
            "One change at a time. Only the first row is C3's contrast and has its verdict (earlier by more than one "
            "epoch, a rule chosen after the first result); the others are exploratory, uncorrected for being many.",
        ),
        "contrast_plateau": lj.Figure(
            forest(
                "plateau",
                "difference in the share of runs with a held-out plateau",
                (-FIVE_POINTS, FIVE_POINTS),
                "What makes accuracy plateau while loss falls",
                "teacher",
            ),
            "One change at a time. Only the first row is C3's contrast and has its verdict (more by over five "
            "percentage points); the others are exploratory, uncorrected for being many.",
        ),
        "contrast_accuracy": lj.Figure(
            forest(
                "accuracy",
                "difference in test accuracy where validation accuracy is highest",
                (-HALF_POINT, HALF_POINT),
                "What buys held-out accuracy",
                "teacher",
            ),
            "One change at a time, paired by seed.",
        ),
    }


SPLITS = {"train": "training", "test": "held out"}

experiment = lj.Experiment(
    name="lstm_examples",
    question="Do an LSTM's loss and accuracy part ways, and what do more features or more layers do to it?",
    claims=("C1", "C3", "C4"),
    sweep=sweep,
    analyse=analyse,
    plot=plot,
)

if __name__ == "__main__":
    lj.main(experiment)
