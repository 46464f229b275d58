"""Thousands of imbalanced classes: does a better loss come with a worse accuracy, from one condition to another?

The published case (W4): about 3,000 classes, and for each of three conditions, a feature or a hyperparameter apart, a
validation loss and an accuracy that rank them differently. Here: 2,800 regions of the world, a town's region to be told
from what is known of the town, by a convolutional network; three sets of features × two widths × five settings, eight
seeds each.

- C7: across features and hyperparameters, a better loss often comes with a worse accuracy; to improve both is rare;
- C8: imbalance explains it: the accuracy is gained on the frequent classes. (A balanced control is in imbalance.py.)
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import lossjax as lj
from lossjax.analysis.attribution import CELLS, frequency_groups
from lossjax.analysis.baselines import class_prior, uniform
from lossjax.analysis.comparison import Comparison, Records, compare_records
from lossjax.analysis.findings import Outcome
from lossjax.analysis.inversions import Inversions, inversions
from lossjax.analysis.pairs import crossed_variance, crossed_weights, pair_share
from lossjax.analysis.resampling import mean_interval, two_way_interval
from lossjax.analysis.summary import by_configuration, configurations
from lossjax.analysis.verdicts import judge
from lossjax.tasks.dataset import class_counts

# The rules, written before the results -----------------------------------------------------------------------------

C7_RULE = (
    "inverted share of the resolved pairs of conditions (both differences resolved by paired t over seeds, "
    "Benjamini–Yekutieli over pairs at 5 %): often if the interval's lower bound exceeds 25 %; refuted if its upper "
    "bound is below 10 %; in part if it lies between the two"
)
RARE_RULE = (
    "the same share: to improve both is rare if its lower bound exceeds 50 %; refuted if its upper bound is below"
)
C8_RULE = (
    "over the resolved inverted pairs, the head's share of what accuracy gains (towards the condition with the better "
    "accuracy) minus the head's share of the test examples, ratio of sums, a seed at a time: supported if the interval "
    "lies above 0; refuted if below"
)
OFTEN, NEGLIGIBLE, RARE = 0.25, 0.10, 0.50
RESAMPLES = 500

# What is trained ---------------------------------------------------------------------------------------------------

FEATURES = {
    "A": ("timezone", "name"),
    "B": ("coordinates", "name"),
    "C": ("timezone", "coordinates"),
}
FEATURE_NAMES = {name: f"{name}: {' and '.join(which)}" for name, which in FEATURES.items()}
BASE = {"learning_rate": 3e-3, "weight_decay": 0.0, "dropout": 0.0, "label_smoothing": 0.0}
CHANGES: Mapping[str, Mapping[str, float]] = {
    "base": {},
    "lr × 3": {"learning_rate": 1e-2},
    "weight decay": {"weight_decay": 0.1},
    "dropout": {"dropout": 0.3},
    "smoothing": {"label_smoothing": 0.1},
}
WIDTHS = {"laptop": (16, 32), "paper": (32, 64, 128), "smoke": (16,)}
EPOCHS = {"laptop": 4, "paper": 16}
SEEDS = {"laptop": 8, "paper": 32, "smoke": 2}
GROUPS = ("head", "middle", "tail")
FATES = {"reversed": "no longer inverted", "unresolved": "not resolved", "persists": "still inverted"}


def sweep(scale: str) -> lj.Sweep:
    def cell(features: tuple[str, ...], width: int) -> lj.Cell:
        config = lj.TrainConfig(
            batch_size=64,
            **({"num_steps": 20} if scale == "smoke" else {"epochs": EPOCHS[scale]}),
            num_evals=2,
            measure=lj.Measure(splits=("test",), per_example=("test",)),
        )
        return lj.Cell(lj.tasks.PlaceNames(features=features), lj.models.Conv(width=width), config)

    settings = [BASE | dict(change) for change in CHANGES.values()]
    return lj.Sweep(
        cells={
            f"{name}-{width}": cell(features, width) for name, features in FEATURES.items() for width in WIDTHS[scale]
        },
        hyperparams=lj.Hyperparams(**{name: np.array([one[name] for one in settings]) for name in BASE}),
        seeds=SEEDS[scale],
        part_size=48,
    )


# What is concluded -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Conditions:
    """Every condition's runs at the end of training, the same seeds in the same order."""

    names: list[str]  # "A-32, dropout"
    loss: np.ndarray  # [condition, seed] nan where a run was not finite
    accuracy: np.ndarray
    refinement: np.ndarray
    temperature: np.ndarray
    example_loss: np.ndarray  # [condition, seed, example]
    example_correct: np.ndarray
    example_refined: np.ndarray
    group: np.ndarray  # [example] 0 head, 1 middle, 2 tail

    @property
    def finite(self) -> np.ndarray:
        return np.isfinite(self.loss)

    def records(self, condition: int, seeds: np.ndarray) -> Records:
        loss, correct, refined = (
            each[condition][seeds] for each in (self.example_loss, self.example_correct, self.example_refined)
        )
        return Records(loss, correct, refined)


def conditions(histories: Mapping[str, lj.History], group: np.ndarray) -> Conditions:
    columns: dict[str, list[np.ndarray]] = {
        name: []
        for name in (
            "loss",
            "accuracy",
            "refinement",
            "temperature",
            "example_loss",
            "example_correct",
            "example_refined_loss",
        )
    }
    names = []
    for cell, history in histories.items():
        hyperparams, config = configurations(history)
        settings = [{key: values[at] for key, values in hyperparams.items()} for at in range(config.max() + 1)]
        names += [f"{cell}, {called(setting)}" for setting in settings]
        for metric, found in columns.items():
            last = history.metrics[f"test_{metric}"][:, -1]
            if last.ndim == 1:
                found.append(by_configuration(history, last))
            else:
                found.append(last.reshape(-1, len(settings), last.shape[1]).swapaxes(0, 1))  # members are seed-major
    joined = {metric: np.concatenate(found) for metric, found in columns.items()}
    loss, accuracy, refinement, temperature, example_loss, example_correct, example_refined = joined.values()
    return Conditions(
        names, loss, accuracy, refinement, temperature, example_loss, example_correct, example_refined, group
    )


def called(setting: Mapping[str, Any]) -> str:
    """The change that makes this setting of the base."""
    for name, change in CHANGES.items():
        wanted = BASE | dict(change)
        if all(np.isclose(setting[key], value) for key, value in wanted.items()):
            return name
    raise ValueError(f"no change of the base gives {dict(setting)}")


def analyse(histories: Mapping[str, lj.History]) -> lj.Findings:
    task = lj.tasks.PlaceNames()
    splits = task.splits()
    counts = class_counts(task)
    labels = np.asarray(splits.test.labels)
    return conclude(conditions(histories, frequency_groups(counts)[labels]), counts, labels)


def conclude(found: Conditions, counts: np.ndarray, labels: np.ndarray) -> lj.Findings:
    order = inversions(found.loss, found.accuracy, tempered_losses=found.refinement)
    assert order.tempered is not None
    assert order.fates is not None
    pairs = inverted_pairs(found, order)
    apart = taken_apart(found, pairs[0]) if pairs else None
    prior, chance = class_prior(counts, labels), uniform(len(counts))
    often = counts[labels] >= 5
    among_often = inversions(
        np.where(found.finite, found.example_loss[..., often].mean(axis=2), np.nan),
        found.example_correct[..., often].mean(axis=2),
    )
    numbers = {
        "inverted share of the resolved pairs": order.rate,
        "inverted share with losses at T*": order.tempered.rate,
        "inverted share among test examples whose class was seen at least 5 times": among_often.rate,
        "Kendall's τ_b of loss and accuracy": order.kendall,
        "Kendall's τ_b with losses at T*": order.tempered.kendall,
        **{f"inverted pairs that at T* are {FATES[fate]}": share for fate, share in order.fates.items()},
        "two runs that differ in seed only: loss and accuracy disagree": same_condition(found),
        "two conditions, one run each: loss and accuracy disagree": one_run_each(found),
    }
    of_the_split = {
        "loss of the class prior alone (nats)": prior.loss,
        "accuracy of the class prior alone": prior.accuracy,
        "loss of the uniform distribution (nats)": chance.loss,
        "share of test examples whose class was seen at least 5 times": float(often.mean()),
    }
    where = f"place names, {len(counts):,} classes; convolutional network, {len(found.names)} conditions"
    scope = "conditions × seeds; one data set, one split"
    num_seeds = found.loss.shape[1]
    resolved = order.inverted + order.concordant
    told = f"{order.inverted} inverted, {order.concordant} concordant, {order.unresolved} unresolved pairs"
    often_inverted = how_often(order.rate, num_seeds)
    head = head_share(found, pairs)
    return lj.Findings(
        verdicts=(
            lj.Verdict(
                claim="C7",
                statement="Across features and hyperparameters, a better loss often comes with a worse accuracy.",
                where=where,
                contrast="inverted share of resolved pairs",
                rule=C7_RULE,
                estimate=order.rate,
                outcome=often_inverted if resolved else "unresolved",
                num_seeds=num_seeds,
                scope=scope,
                note=told,
            ),
            lj.Verdict(
                claim="C7",
                statement="To improve both at once is rare.",
                where=where,
                contrast="inverted share of resolved pairs",
                rule=RARE_RULE,
                estimate=order.rate,
                outcome=judge(order.rate, threshold=RARE, num_seeds=num_seeds),
                num_seeds=num_seeds,
                scope=scope,
                note=told,
            ),
            lj.Verdict(
                claim="C8",
                statement="The accuracy that comes with a worse loss is gained on the frequent classes.",
                where=where,
                contrast="head's share of the accuracy gain minus its share of examples, in inverted pairs",
                rule=C8_RULE,
                estimate=head,
                outcome=judge(head, num_seeds=num_seeds),
                num_seeds=num_seeds,
                scope="seeds, on these conditions and this split",
                note=f"{len(pairs)} inverted pairs; the head has {np.mean(found.group == 0):.0%} of the test examples",
            ),
        ),
        numbers=numbers | {name: lj.Interval(value, *[float("nan")] * 2) for name, value in of_the_split.items()},
        tables={
            "conditions": condition_table(found),
            "references": {
                "name": np.array(["class prior", "uniform"]),
                "loss": np.array([prior.loss, chance.loss]),
                "accuracy": np.array([prior.accuracy, chance.accuracy]),
            },
            "pairs": pair_table(found, pairs),
            **({} if apart is None else {"taken_apart": apart_table(found, pairs[0], apart)}),
        },
        notes=(
            *(() if apart is None else (in_words(found, pairs[0], apart),)),
            *(
                ()
                if apart is None
                else ("That pair was chosen for its size, so its differences are on the large side of the truth.",)
            ),
            f"A town's features: {'; '.join(FEATURE_NAMES.values())}.",
            "Loss and accuracy are of the test split at the end of training; nothing was selected.",
            f"Runs not finite: {int((~found.finite).sum())} of {found.loss.size}.",
            *(f"{name}: computed from this split's labels, not estimated" for name in of_the_split),
        ),
    )


def how_often(rate: lj.Interval, num_seeds: int) -> Outcome:
    """By ``C7_RULE``."""
    outcome = judge(rate, threshold=OFTEN, num_seeds=num_seeds)
    if outcome == "refuted" and rate.high >= NEGLIGIBLE:
        return "in part" if rate.low > NEGLIGIBLE else "unresolved"
    return outcome


def inverted_pairs(found: Conditions, order: Inversions) -> list[tuple[int, int]]:
    """(a, b), b with the higher accuracy and the higher loss; those first in which both differ most."""
    pairs = []
    for a, b in zip(*np.nonzero(np.triu(order.relation < 0)), strict=True):
        both = found.finite[a] & found.finite[b]
        gain = float((found.accuracy[b] - found.accuracy[a])[both].mean())
        rise = float((found.loss[b] - found.loss[a])[both].mean())
        pairs.append((gain * rise, (int(a), int(b)) if gain > 0 else (int(b), int(a))))
    return [pair for _, pair in sorted(pairs, reverse=True)]


def head_share(found: Conditions, pairs: list[tuple[int, int]]) -> lj.Interval:
    """Mean over the seeds at which all runs of these pairs are finite."""
    involved = sorted({one for pair in pairs for one in pair})
    seeds = np.flatnonzero(found.finite[involved].all(axis=0))
    if not pairs or len(seeds) < 2:
        return lj.Interval(float("nan"), float("nan"), float("nan"))
    gained = np.zeros((len(seeds), len(GROUPS)))
    for a, b in pairs:
        change = found.example_correct[b][seeds].astype(float) - found.example_correct[a][seeds]
        gained += np.stack([change[:, found.group == group].sum(axis=1) for group in range(len(GROUPS))], axis=1)
    return mean_interval(gained[:, 0] / gained.sum(axis=1) - np.mean(found.group == 0))


def disagree(loss_a: np.ndarray, loss_b: np.ndarray, accuracy_a: np.ndarray, accuracy_b: np.ndarray) -> np.ndarray:
    return (loss_b - loss_a) * (accuracy_b - accuracy_a) > 0


def same_condition(found: Conditions) -> lj.Interval:
    """Of the pairs of one condition's runs, those in which one has the better loss, the other the better accuracy."""

    def share(conditions: np.ndarray, seeds: np.ndarray) -> float:
        each, weight = weighted_pairs(found.loss, found.accuracy, seeds)
        return float(np.sum(conditions * each) / np.sum(conditions * weight))

    return crossed_share(share, found.loss.shape)


def one_run_each(found: Conditions) -> lj.Interval:
    """The same for pairs of conditions, a seed at a time."""

    def share(conditions: np.ndarray, seeds: np.ndarray) -> float:
        each, weight = weighted_pairs(found.loss.T, found.accuracy.T, conditions)
        return float(np.sum(seeds * each) / np.sum(seeds * weight))

    return crossed_share(share, found.loss.shape)


def weighted_pairs(loss: np.ndarray, accuracy: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[row] weight of the pairs of columns on which loss and accuracy disagree, and of all pairs, both finite."""
    a, b = np.triu_indices(loss.shape[1], 1)
    weight = weights[a] * weights[b] * np.isfinite(loss[:, a] + loss[:, b])
    return np.sum(weight * disagree(loss[:, a], loss[:, b], accuracy[:, a], accuracy[:, b]), axis=1), weight.sum(axis=1)


def crossed_share(share: Callable[[np.ndarray, np.ndarray], float], shape: tuple[int, int]) -> lj.Interval:
    """A share of pairs of runs by weights of conditions and of seeds, for fresh ones of both."""
    conditions, seeds = crossed_weights(*shape, RESAMPLES, 0)
    ones = np.ones(shape[0]), np.ones(shape[1])
    with np.errstate(invalid="ignore"):  # a resample of a single seed has no pairs
        by_condition, by_seed, by_both = (
            np.array([[share(*weights)] for weights in zip(*pair, strict=True)])
            for pair in (
                (conditions, [ones[1]] * RESAMPLES),
                ([ones[0]] * RESAMPLES, seeds),
                (conditions, seeds),
            )
        )
    estimate = share(*ones)
    variance, df = crossed_variance(np.array([estimate]), by_condition, by_seed, by_both, shape)
    return pair_share(estimate, float(variance[0]), float(df[0]), shape[0])


def taken_apart(found: Conditions, pair: tuple[int, int]) -> Comparison:
    both = found.finite[pair[0]] & found.finite[pair[1]]
    return compare_records(
        found.records(pair[0], both),
        found.records(pair[1], both),
        groups=np.array(GROUPS)[found.group],
        ordered=False,
        same_seeds=True,
    )


def in_words(found: Conditions, pair: tuple[int, int], apart: Comparison) -> str:
    a, b = (found.names[one] for one in pair)
    cells = ", ".join(f"{apart.cells[cell].estimate:+.3f} from {cell}" for cell in CELLS)
    groups = ", ".join(f"{interval.estimate:+.3f} from the {name}" for name, interval in apart.by_group.items())
    scale = apart.delta_calibration
    repaired = "" if scale is None else f" A temperature each takes {scale.estimate:+.3f} nats of it away."
    return (
        f"One inverted pair, the one in which both differ most: from “{a}” to “{b}” the loss changes by "
        f"{apart.delta_loss.estimate:+.3f} nats {spelled(apart.delta_loss)} and the accuracy by "
        f"{100 * apart.delta_accuracy.estimate:+.2f} points [{100 * apart.delta_accuracy.low:+.2f}, "
        f"{100 * apart.delta_accuracy.high:+.2f}]. Of the loss: {cells}; by the classes' training frequency, "
        f"{groups}.{repaired} Regime {apart.refinement}."
    )


def spelled(interval: lj.Interval) -> str:
    return f"[{interval.low:+.3f}, {interval.high:+.3f}]"


# What is plotted ---------------------------------------------------------------------------------------------------


def condition_table(found: Conditions) -> dict[str, np.ndarray]:
    """Means over seeds × examples with two-way intervals, and how far they are from the mean of the features' set.

    ``pareto`` are the conditions that no other beats in both, ``pareto_of_set`` those that none of its set does.
    """
    rows: dict[str, list[Any]] = {"condition": found.names, "seeds": found.finite.sum(axis=1).tolist()}
    sets = np.array([name.split("-")[0] for name in found.names])
    for key, values in (("loss", found.example_loss), ("accuracy", found.example_correct)):
        intervals = [seeds_and_examples(values[at][found.finite[at]]) for at in range(len(found.names))]
        deviations: dict[int, lj.Interval] = {}
        for one in np.unique(sets):
            mine = np.flatnonzero(sets == one)
            seeds = found.finite[mine].all(axis=0)
            of_set = values[mine][:, seeds].astype(np.float64)
            mean = of_set.mean(axis=0)
            deviations |= {at: seeds_and_examples(row - mean) for at, row in zip(mine, of_set, strict=True)}
        for column, each in (
            (key, intervals),
            (f"{key}_deviation", [deviations[at] for at in range(len(found.names))]),
        ):
            rows[column] = [interval.estimate for interval in each]
            rows[f"{column}_low"] = [interval.low for interval in each]
            rows[f"{column}_high"] = [interval.high for interval in each]
    rows["refinement"] = np.nanmean(np.where(found.finite, found.refinement, np.nan), axis=1).tolist()
    rows["temperature"] = np.nanmean(np.where(found.finite, found.temperature, np.nan), axis=1).tolist()
    table = {key: np.array(column) for key, column in rows.items()}
    loss, accuracy = table["loss"], table["accuracy"]
    dominated = (loss[:, None] > loss) & (accuracy[:, None] < accuracy)
    table["pareto"] = np.asarray(~dominated.any(axis=1))
    table["pareto_of_set"] = np.asarray(~(dominated & (sets[:, None] == sets)).any(axis=1))
    return table


def seeds_and_examples(values: np.ndarray) -> lj.Interval:
    """Of the mean of [seed, example]; nan below two seeds."""
    return two_way_interval(values.astype(np.float64)) if len(values) >= 2 else lj.Interval(*[float("nan")] * 3)


def pair_table(found: Conditions, pairs: list[tuple[int, int]]) -> dict[str, np.ndarray]:
    def mean(values: np.ndarray, a: int, b: int) -> float:
        both = found.finite[a] & found.finite[b]
        return float((values[b] - values[a])[both].mean())

    return {
        "from": np.array([found.names[a] for a, _ in pairs], dtype=str),
        "to": np.array([found.names[b] for _, b in pairs], dtype=str),
        "delta_loss": np.array([mean(found.loss, *pair) for pair in pairs]),
        "delta_accuracy": np.array([mean(found.accuracy, *pair) for pair in pairs]),
        "delta_refinement": np.array([mean(found.refinement, *pair) for pair in pairs]),
    }


def apart_table(found: Conditions, pair: tuple[int, int], apart: Comparison) -> dict[str, np.ndarray]:
    parts: list[tuple[str, str, lj.Interval | None]] = [
        *(("by crossing of the argmax", cell, apart.cells[cell]) for cell in CELLS),
        *(
            ("by the class's training frequency", group, apart.by_group[group])
            for group in GROUPS
            if group in apart.by_group
        ),
        ("by what a temperature can mend", "calibration", apart.delta_calibration),
        ("by what a temperature can mend", "refinement", apart.delta_refinement),
    ]
    kept = [(how, part, interval) for how, part, interval in parts if interval is not None]
    return {
        "from": np.array([found.names[pair[0]]] * len(kept)),
        "to": np.array([found.names[pair[1]]] * len(kept)),
        "how": np.array([how for how, _, _ in kept]),
        "part": np.array([part for _, part, _ in kept]),
        "contribution": np.array([interval.estimate for _, _, interval in kept]),
        "contribution_low": np.array([interval.low for _, _, interval in kept]),
        "contribution_high": np.array([interval.high for _, _, interval in kept]),
    }


def plot(findings: lj.Findings) -> dict[str, lj.Figure]:
    from lossjax.reports import imbalanced

    table, references, pairs = (findings.tables[name] for name in ("conditions", "references", "pairs"))
    names = table["condition"].tolist()
    features = np.array([name.split("-")[0] for name in names])
    worst = findings.tables.get("taken_apart")
    alone = {
        str(name): (float(loss), float(accuracy))
        for name, loss, accuracy in zip(*(references[key] for key in ("name", "loss", "accuracy")), strict=True)
    }

    def deviations(one: str) -> imbalanced.Deviations:
        mine = np.flatnonzero(features == one)
        place = {names[at]: index for index, at in enumerate(mine)}
        spelled = [names[at].split("-", 1)[1].split(", ", 1) for at in mine]
        mean = [float((table[key] - table[f"{key}_deviation"])[mine].mean()) for key in ("loss", "accuracy")]
        return imbalanced.Deviations(
            FEATURE_NAMES[one],
            kinds=[change for _, change in spelled],
            sizes=[f"width {width}" for width, _ in spelled],
            **{
                f"{key}{end}": table[f"{key}_deviation{end}"][mine]
                for key in ("loss", "accuracy")
                for end in ("", "_low", "_high")
            },
            pareto=table["pareto_of_set"][mine],
            pairs=[
                (place[a], place[b])
                for a, b in zip(pairs["from"].tolist(), pairs["to"].tolist(), strict=True)
                if a in place and b in place
            ],
            references={name: (loss - mean[0], accuracy - mean[1]) for name, (loss, accuracy) in alone.items()},
        )

    figures = {
        "loss_against_accuracy": lj.Figure(
            imbalanced.loss_against_accuracy(
                table["loss"],
                table["accuracy"],
                low=(table["loss_low"], table["accuracy_low"]),
                high=(table["loss_high"], table["accuracy_high"]),
                kinds=[FEATURE_NAMES[name] for name in features.tolist()],
                pareto=table["pareto"],
                names=names,
                pair=None if worst is None else (str(worst["from"][0]), str(worst["to"][0])),
                references=alone,
            ),
            "Every condition by its test loss and accuracy (bars: 95 % over seeds × examples). Better is up and left; "
            "ringed conditions are beaten by no other in both, by estimates. The long arrow is the inverted pair in "
            "which both differ most. Far off, where the small arrows point: the class prior alone and the uniform "
            "distribution.",
        ),
        "within_features": lj.Figure(
            imbalanced.within_sets([deviations(one) for one in FEATURES if one in features]),
            "The same a set of features at a time: how far each condition is from the set's mean (bars: 95 % over "
            "seeds × examples, of the difference, in which what all share cancels). A line joins two conditions that "
            "are inverted, both differences resolved: the one with the better accuracy has the worse loss. Ringed: "
            "beaten in both by no other of the set, by estimates. Small arrows: how far off the class prior and the "
            "uniform distribution are.",
        ),
    }
    if worst is not None:
        figures["taken_apart"] = lj.Figure(
            imbalanced.taken_apart(
                worst["how"].tolist(),
                worst["part"].tolist(),
                worst["contribution"],
                worst["contribution_low"],
                worst["contribution_high"],
                title=f"from {worst['from'][0]} to {worst['to'][0]}",
            ),
            "The change in loss between the two conditions, split three ways; each way adds up to the same change.",
        )
    return figures


experiment = lj.Experiment(
    name="conditions_table",
    question="With thousands of imbalanced classes, how often does a better loss come with a worse accuracy?",
    claims=("C7", "C8"),
    sweep=sweep,
    analyse=analyse,
    plot=plot,
    scales=("smoke", "laptop", "paper"),
)

if __name__ == "__main__":
    lj.main(experiment)
