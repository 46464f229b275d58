"""Does a hyperparameter search raise accuracy, or does its winner only look better? The winner's curse, measured.

The winner of a random search is the configuration with the highest validation accuracy. Its advantage over the default
configuration is measured as it was selected, on test, and again where its configuration is trained anew: with fresh
seeds, and on fresh data. Claim C15: hyperparameter search can raise accuracy.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import lossjax as lj
from lossjax.analysis.families import corrected
from lossjax.analysis.proportions import wilson
from lossjax.analysis.resampling import mean_interval
from lossjax.analysis.selection import winner_weights
from lossjax.analysis.tables import table, with_bounds
from lossjax.analysis.verdicts import judge

# The rules, written before the results -----------------------------------------------------------------------------

SMALLEST = 0.005  # half a percentage point of accuracy, METHODS' δ_A
TRIED = (1, 2, 4, 8, 16, 32)  # configurations of a search
JUDGED = 16
STATEMENT = "Hyperparameter search can raise accuracy."
RULE = (
    f"a search of {JUDGED} random configurations, its winner by validation accuracy trained anew with fresh seeds on "
    "fresh data (of the same teacher; of real data another random split): its test accuracy minus that of the default "
    "configuration there; mean over searches, interval over independent draws of 32 configurations: supported if it "
    "lies above half a percentage point, refuted if below"
)

# What is trained ---------------------------------------------------------------------------------------------------

POOLS = 10  # independent draws of configurations, each with a teacher, or two splits, of its own
CONFIGS = max(TRIED)
# PyTorch's defaults of AdamW, and nothing smoothed or scaled; it is the first configuration of each pool
DEFAULT = {"learning_rate": 1e-3, "weight_decay": 1e-2, "label_smoothing": 0.0, "init_scale": 1.0}
RANGES = {
    "learning_rate": (3e-4, 1e-1),
    "weight_decay": (1e-3, 3.0),
    "label_smoothing": (0.0, 0.3),
    "init_scale": (0.5, 2.0),
}
TASK_NAMES = {
    "teacher": "teacher",
    "digits": "digits",
    "noisy-digits": "digits, 20 % label noise",
    "italy": "ItalyPowerDemand",
}
NOISE = 0.2


def task(name: str, draw: int) -> Any:
    """A teacher, or a random split of the data."""
    if name == "teacher":
        return lj.tasks.Teacher(
            network="dense",
            num_examples=300,
            seq_len=4,
            num_features=5,
            temperature=0.27,
            num_val=200,
            num_test=1000,
            teacher_seed=draw,
        )
    if name == "digits":
        return lj.tasks.Digits(val_fraction=0.1, test_fraction=0.6, split_seed=draw)
    return lj.tasks.ItalyPowerDemand(val_fraction=0.5, split_seed=draw)


def pool(index: int, noises: Sequence[float] = (), configs: int = CONFIGS) -> lj.Hyperparams:
    """The default and so many random configurations, for each label noise in turn."""
    drawn = lj.sample(CONFIGS, seed=index, **RANGES)
    values = {name: np.append(default, getattr(drawn, name)[:configs]) for name, default in DEFAULT.items()}
    if noises:
        values = {name: np.tile(column, len(noises)) for name, column in values.items()}
        values["label_noise"] = np.repeat(noises, configs + 1)
    return lj.Hyperparams(**{name: column.astype(np.float32) for name, column in values.items()})


LONGER_CELL = "longer-"
EPOCHS = {"teacher": 60, "digits": 30, "italy": 200}  # the default has 500 steps or more to learn in
LONGER = 3  # times as many epochs, for the default alone
SPLITS = {"teacher": 1, "digits": 2, "italy": 2}  # of each pool


def sweep(scale: str) -> lj.Sweep:
    full = scale == "full"

    def cell(name: str, draw: int, times: int = 1) -> lj.Cell:
        config = lj.TrainConfig(
            batch_size=16 if name == "italy" else 32,
            epochs=times * (EPOCHS[name] if full else 2),
            optimizer="adamw",
            num_evals=1,
            measure=lj.Measure(splits=("val", "test"), calibration=False, num_groups=0),
        )
        return lj.Cell(task(name, draw), lj.models.Dense(width=32), config)

    draws = {
        f"{name}-{index}-{split}": (name, index, SPLITS[name] * index + split)
        for name in SPLITS
        for index in range(POOLS if full else 2)
        for split in range(SPLITS[name])
    }
    noises = {name: (0.0, NOISE) if name == "digits" else () for name in SPLITS}
    seeds = {key: (16 // SPLITS[name] if full else 2) for key, (name, _, _) in draws.items()}
    longer = {f"{LONGER_CELL}{key}": drawn for key, drawn in draws.items()}
    return lj.Sweep(
        cells={key: cell(name, draw) for key, (name, _, draw) in draws.items()}
        | {key: cell(name, draw, LONGER) for key, (name, _, draw) in longer.items()},
        hyperparams={key: pool(index, noises[name]) for key, (name, index, _) in draws.items()}
        | {key: pool(index, noises[name], configs=0) for key, (name, index, _) in longer.items()},
        seeds=seeds | {f"{LONGER_CELL}{key}": count for key, count in seeds.items()},
        part_size=528,
    )


# What is concluded -------------------------------------------------------------------------------------------------

# "val_accuracy" and so on → [split, seed, config], the default first; nan: not finite. "longer_accuracy" is the test
# accuracy of the default trained longer, [split, seed, 1]
Runs = Mapping[str, np.ndarray]


def runs_of(histories: Sequence[lj.History], longer: Sequence[lj.History]) -> Runs:
    """One pool's final metrics, its splits one after another; ``longer``: the default's own runs."""
    found = final_metrics(histories)
    return found | {"longer_accuracy": final_metrics(longer)["test_accuracy"]}


def final_metrics(histories: Sequence[lj.History]) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {
        f"{split}_{what}": [] for split in ("val", "test") for what in ("accuracy", "loss")
    }
    for history in histories:
        num_seeds = len(np.unique(history.seeds["init"]))
        for name, values in found.items():
            final = np.where(history.finite, history.metrics[name][:, -1].astype(np.float64), np.nan)
            values.append(final.reshape(num_seeds, -1))  # members are seed-major
    return {name: np.stack(values) for name, values in found.items()}


STAGES = {
    "looked": "on validation, as selected",
    "test": "the same run on test",
    "seeds": "trained anew: fresh seeds",
    "fresh": "trained anew: fresh seeds and data",
    "longer": f"so, and the default trained {LONGER} times as long",
}


def advantages(runs: Runs, tried: int, by: str = "accuracy") -> dict[str, float]:
    """Stage → accuracy of the winner minus that of the default, mean over the searches of one pool.

    A search is one seed of one split; its winner is the best of ``tried`` configurations taken at random. With one
    split (a teacher, which draws data for each seed) other seeds are fresh data; with two, the other split is.
    """
    weights = winner_weights(runs[f"val_{by}"][..., 1:], tried, higher=by == "accuracy")
    # [split, seed, config]
    val, test = (runs[f"{split}_accuracy"][..., 1:] - runs[f"{split}_accuracy"][..., :1] for split in ("val", "test"))
    longer = runs["test_accuracy"][..., 1:] - runs["longer_accuracy"]
    found = {"looked": expected(weights, val), "test": expected(weights, test)}
    if len(test) > 1:
        found["seeds"] = expected(weights, other_seeds(test))
    fresh = other_seeds if len(test) == 1 else other_splits
    return found | {"fresh": expected(weights, fresh(test)), "longer": expected(weights, fresh(longer))}


def other_seeds(values: np.ndarray) -> np.ndarray:
    """[split, seed, config] the means over the other seeds."""
    return np.stack([finite_mean(np.delete(values, seed, axis=1), 1) for seed in range(values.shape[1])], axis=1)


def other_splits(values: np.ndarray) -> np.ndarray:
    """[split, 1, config] the means over the other splits and all seeds."""
    means = [finite_mean(np.delete(values, split, axis=0), (0, 1)) for split in range(len(values))]
    return np.stack(means)[:, None]


def expected(weights: np.ndarray, values: np.ndarray) -> float:
    """Mean over searches of what a winner has; winners that are not finite are left out."""
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        each = (weights * np.where(finite, values, 0.0)).sum(axis=-1) / (weights * finite).sum(axis=-1)
    return float(finite_mean(each.ravel(), 0))


def finite_mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """nan where none is finite."""
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(finite, values, 0.0).sum(axis=axis) / finite.sum(axis=axis))


def by_stage(pools: Sequence[Runs], tried: int, by: str = "accuracy") -> dict[str, lj.Interval]:
    each = [advantages(runs, tried, by) for runs in pools]
    return {stage: mean_interval(np.array([one[stage] for one in each])) for stage in each[0]}


def pools_of(histories: Mapping[str, lj.History], name: str) -> list[Runs]:
    task_name = name.removeprefix("noisy-")

    def history(key: str) -> lj.History:
        if task_name == "digits":
            return histories[key].select(label_noise=NOISE if name.startswith("noisy-") else 0.0)
        return histories[key]

    found: dict[int, list[str]] = {}
    for key in histories:
        of_task, index, _ = key.rsplit("-", 2)
        if of_task == task_name:
            found.setdefault(int(index), []).append(key)
    return [
        runs_of([history(key) for key in found[index]], [history(f"{LONGER_CELL}{key}") for key in found[index]])
        for index in sorted(found)
    ]


def analyse(histories: Mapping[str, lj.History]) -> lj.Findings:
    pools = {name: pools_of(histories, name) for name in TASK_NAMES}
    return lj.Findings(
        verdicts=corrected(
            [verdict(name, pools[name]) for name in TASK_NAMES],
            lambda _: (SMALLEST,),
            num_units=lambda _: min(map(len, pools.values())),
        ),
        numbers={key: value for name in TASK_NAMES for key, value in numbers(name, pools[name]).items()},
        tables={"advantage": advantage_table(pools)},
        notes=(
            "The default is AdamW as PyTorch has it (learning rate 0.001, weight decay 0.01). Random configurations "
            "have a learning rate of 0.0003–0.1, decoupled weight decay of 0.001–3, label smoothing of 0–0.3, and "
            "initial parameters scaled by 0.5–2; the default is not among them.",
            f"{POOLS} draws of {CONFIGS} configurations. A teacher's has one teacher and 16 searches, each with data "
            "of its own (200 validation examples); that of real data has two random splits and eight searches on each "
            "(180 validation digits; 33 days of ItalyPowerDemand, whose test days are always the archive's).",
            "A search of fewer than 32 is a random subset of a draw: its winner is averaged over all subsets exactly.",
            "On few validation examples, as ItalyPowerDemand's 33, many configurations tie; each of the tied may win.",
            "The default learns slowly, and all configurations have the same epochs: so some of what a search gains "
            f"over it may be had by training it longer. The same contrast with the default trained {LONGER} times as "
            "long stands beside, under Numbers and in the second figure.",
            "Intervals are over draws of configurations, each with splits of its own; that all examples are of one "
            "data set is not in them.",
            "Two splits of real data overlap: what is fresh is which examples were trained on, selected by, and tested "
            "on, not the data set.",
        ),
    )


def scope(name: str) -> str:
    if name == "teacher":
        return "draws of configurations, each with a teacher of its own, seeds and data"
    return "10 draws of configurations and splits, with seeds; one data set, whose examples are held fixed"


def verdict(name: str, pools: Sequence[Runs]) -> lj.Verdict:
    found = by_stage(pools, JUDGED)
    estimate = found["fresh"]
    return lj.Verdict(
        claim="C15",
        statement=STATEMENT,
        where=f"{TASK_NAMES[name]}, {JUDGED} configurations tried",
        contrast="test accuracy of the winner's configuration trained anew, minus the default's",
        rule=RULE,
        estimate=estimate,
        outcome=judge(estimate, smallest=SMALLEST, num_seeds=len(pools)),
        num_seeds=sum(runs["val_accuracy"][..., 0].size for runs in pools),
        scope=scope(name),
        note=f"as selected, on validation: {found['looked']}; the same run on test: {found['test']}; minus the default "
        f"trained {LONGER} times as long: {found['longer']}",
        units=f"{len(pools)} draws",
    )


def numbers(name: str, pools: Sequence[Runs]) -> dict[str, lj.Interval]:
    called = TASK_NAMES[name]
    finite = np.concatenate([np.isfinite(runs["test_accuracy"]).ravel() for runs in pools])
    found = {f"{called}: runs not finite": wilson(int((~finite).sum()), finite.size)}
    for what in ("val_accuracy", "test_accuracy"):
        label = {"val_accuracy": "validation", "test_accuracy": "test"}[what]
        found[f"{called}: {label} accuracy of the default"] = mean_interval(
            np.array([np.nanmean(runs[what][..., 0]) for runs in pools])
        )
    for tried in (1, JUDGED):
        for stage, value in by_stage(pools, tried).items():
            found[f"{called}: advantage of the best of {tried}, {STAGES[stage]}"] = value
    gaps = np.array([(one := advantages(runs, JUDGED))["looked"] - one["fresh"] for runs in pools])
    found[f"{called}: winner's curse, as selected minus trained anew on fresh data"] = mean_interval(gaps)
    found[f"{called}: advantage of the best of {JUDGED} by validation loss, {STAGES['fresh']}"] = by_stage(
        pools, JUDGED, by="loss"
    )["fresh"]
    return found


# What is plotted ---------------------------------------------------------------------------------------------------


def advantage_table(pools: Mapping[str, Sequence[Runs]]) -> dict[str, np.ndarray]:
    """The winner's accuracy minus the default's, by how many configurations were tried and where it is measured."""
    return table(
        {"task": name, "tried": tried, "stage": stage, "advantage": value}
        for name, each in pools.items()
        for tried in TRIED
        for stage, value in by_stage(each, tried).items()
    )


def plot(findings: lj.Findings) -> dict[str, lj.Figure]:
    from lossjax.reports import plots, selecting

    found = findings.tables["advantage"]

    def line(name: str, stage: str) -> selecting.Line:
        rows = (found["task"] == name) & (found["stage"] == stage)
        x, y, low, high = (found[key][rows] for key in ("tried", *with_bounds("advantage")))
        # dashed: on real data it lies on the line of fresh seeds
        return selecting.Line(STAGES[stage], x, y, low, high, dashed=stage == "fresh")

    def panel(name: str) -> selecting.LinePanel:
        shown = [stage for stage in STAGES if stage != "longer"]  # it stands in the other figure
        stages = [stage for stage in shown if np.any((found["task"] == name) & (found["stage"] == stage))]
        return selecting.LinePanel(TASK_NAMES[name], [line(name, stage) for stage in stages])

    rows = [
        plots.Contrast(label, lj.Interval(*values), outcome, TASK_NAMES[name])
        for name, label, values, outcome in _forest(found, findings.verdicts)
    ]
    return {
        "winners_curse": lj.Figure(
            selecting.lines(
                [panel(name) for name in TASK_NAMES],
                x_label="configurations tried",
                y_label="accuracy, minus the default's",
                percent=" pp",
                reference=0.0,
                negligible=(-SMALLEST, SMALLEST),
                share_y=False,
            ),
            "The winner of a random search by validation accuracy, over the default configuration: as it looked when "
            "it was selected, on test, and trained anew. Means over searches with 95 % intervals over draws of "
            "configurations; the scales differ.",
        ),
        "advantage": lj.Figure(
            plots.contrasts(
                rows,
                x_label="accuracy of the winner minus the default's",
                negligible=(-SMALLEST, SMALLEST),
                title=f"Best of {JUDGED} random configurations by validation accuracy",
            ),
            "C15 with its verdicts, what the same winners looked like before, and what is left of them where the "
            f"default is trained {LONGER} times as long. Intervals over draws of configurations.",
        ),
    }


def _forest(
    advantages: Mapping[str, np.ndarray], verdicts: Sequence[lj.Verdict]
) -> list[tuple[str, str, list[float], str]]:
    outcomes = {verdict.where: verdict.outcome for verdict in verdicts}
    found = []
    for name, called in TASK_NAMES.items():
        for stage, label in (STAGES | {"longer": f"likewise, default {LONGER}× as long"}).items():  # in a line
            row = (advantages["task"] == name) & (advantages["tried"] == JUDGED) & (advantages["stage"] == stage)
            if row.any():
                values = [float(advantages[key][row][0]) for key in with_bounds("advantage")]
                outcome = outcomes[f"{called}, {JUDGED} configurations tried"] if stage == "fresh" else ""
                found.append((name, label, values, outcome))
    return found


experiment = lj.Experiment(
    name="search",
    question="Does a hyperparameter search raise accuracy, or does its winner only look better?",
    claims=("C15",),
    sweep=sweep,
    analyse=analyse,
    plot=plot,
)

if __name__ == "__main__":
    lj.main(experiment)
