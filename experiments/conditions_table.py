"""Thousands of imbalanced classes: does a better loss come with a worse accuracy, from one condition to another?

The published case (W4): about 3,000 classes, and for each of three conditions, a feature or a hyperparameter apart, a
validation loss and an accuracy that rank them differently. Here: 2,800 regions of the world, a town's region to be told
from what is known of the town; and the next of 3,000 words from those before it. By a convolutional network; on each,
three sets of features × two widths × five settings, eight seeds each.

- C7: across features and hyperparameters, a better loss often comes with a worse accuracy; to improve both is rare;
- C8: imbalance explains it: the accuracy is gained on the frequent classes. (A balanced control is in imbalance.py.)
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

import lossjax as lj
from lossjax.analysis.attribution import CELLS, frequency_groups
from lossjax.analysis.baselines import references
from lossjax.analysis.comparison import Comparison
from lossjax.analysis.conditions import (
    GROUPS,
    Conditions,
    Pair,
    accuracy_by_group,
    condition_table,
    conditions,
    head_share,
    inverted_pairs,
    taken_apart,
)
from lossjax.analysis.families import corrected
from lossjax.analysis.findings import Outcome
from lossjax.analysis.inversions import Inversions, inversions
from lossjax.analysis.pairs import disagreeing_share
from lossjax.analysis.tables import table, with_bounds
from lossjax.analysis.verdicts import judge
from lossjax.tasks import class_counts

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

# What is trained ---------------------------------------------------------------------------------------------------

PLACES = {
    "A": lj.tasks.PlaceNames(features=("timezone", "name")),
    "B": lj.tasks.PlaceNames(features=("coordinates", "name")),
    "C": lj.tasks.PlaceNames(features=("timezone", "coordinates")),
}
WORDS = {
    name: lj.tasks.NextWord(context_length=length, num_train=24_000, num_test=5000, num_val=0)
    for name, length in (("D", 1), ("E", 2), ("F", 8))
}
DATA: Mapping[str, Mapping[str, Any]] = {"places": PLACES, "words": WORDS}
DATA_NAMES = {"places": "place names", "words": "next word"}
FEATURE_NAMES = {
    "A": "A: timezone and name",
    "B": "B: coordinates and name",
    "C": "C: timezone and coordinates",
    "D": "D: the word before",
    "E": "E: two words before",
    "F": "F: eight words before",
}
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
SEEN = 5  # training examples of a class that was seen often
OF_OFTEN = f"test examples whose class was seen at least {SEEN} times"
HEAD_CONTRAST = "head's share of the accuracy gain minus its share of examples, in inverted pairs"
SELDOM = {
    "places": "one town of each region is always trained on, so a region with a single town is never tested, and one "
    "with two is so at most once.",
    "words": "books lie in one split as a whole, and of the training books a sample is used: a word may be tested that "
    "was never trained on.",
}
FATES = {"reversed": "no longer inverted", "unresolved": "not resolved", "persists": "still inverted"}


def sweep(scale: str) -> lj.Sweep:
    def cell(data: str, features: str, width: int) -> lj.Cell:
        config = lj.TrainConfig(
            batch_size=64,
            **({"num_steps": 20} if scale == "smoke" else {"epochs": EPOCHS[scale]}),
            num_evals=2 if data == "places" else 1,
            measure=lj.Measure(splits=("test",), per_example=("test",)),
        )
        return lj.Cell(DATA[data][features], lj.models.Conv(width=width), config)

    settings = [BASE | dict(change) for change in CHANGES.values()]
    return lj.Sweep(
        cells={
            f"{features}-{width}": cell(data, features, width)
            for data, sets in DATA.items()
            for features in sets
            for width in WIDTHS[scale]
        },
        hyperparams=lj.Hyperparams(**{name: np.array([one[name] for one in settings]) for name in BASE}),
        seeds=SEEDS[scale],
        part_size=48,
    )


# What is concluded -------------------------------------------------------------------------------------------------


def called(setting: Mapping[str, Any]) -> str:
    """The change that makes this setting of the base."""
    for name, change in CHANGES.items():
        wanted = BASE | dict(change)
        if all(np.isclose(setting[key], value) for key, value in wanted.items()):
            return name
    raise ValueError(f"no change of the base gives {dict(setting)}")


def analyse(histories: Mapping[str, lj.History]) -> lj.Findings:
    found = {}
    for data, sets in DATA.items():
        task = next(iter(sets.values()))  # the test examples do not depend on the features
        counts, labels = class_counts(task), np.asarray(task.splits().test.labels)
        mine = {name: history for name, history in histories.items() if name.split("-")[0] in sets}
        found[data] = conclude(data, conditions(mine, frequency_groups(counts)[labels], called), counts, labels)
    return joined(found)


def joined(found: Mapping[str, lj.Findings]) -> lj.Findings:
    """Those of all data as one: numbers and notes by the data's name, tables with a column for it."""
    names = dict.fromkeys(name for one in found.values() for name in one.tables)
    return lj.Findings(
        verdicts=corrected([verdict for one in found.values() for verdict in one.verdicts], compared_with),
        numbers={
            f"{DATA_NAMES[data]}: {name}": number for data, one in found.items() for name, number in one.numbers.items()
        },
        tables={
            name: table({"data": data, **one.tables[name]} for data, one in found.items() if name in one.tables)
            for name in names
        },
        notes=tuple(f"{DATA_NAMES[data]}: {note}" for data, one in found.items() for note in one.notes),
    )


def conclude(data: str, found: Conditions, counts: np.ndarray, labels: np.ndarray) -> lj.Findings:
    order = inversions(found.loss, found.accuracy, tempered_losses=found.refinement)
    assert order.tempered is not None
    assert order.fates is not None
    pairs = inverted_pairs(found, order)
    apart = taken_apart(found, pairs[0]) if pairs else None
    known = references(counts, labels)
    often = counts[labels] >= SEEN
    among_often = inversions(
        np.where(found.finite, found.example_loss[..., often].mean(axis=2), np.nan),
        found.example_correct[..., often].mean(axis=2),
    )
    numbers = {
        "inverted share of the resolved pairs": order.rate,
        "inverted share with losses at T*": order.tempered.rate,
        f"inverted share among {OF_OFTEN}": among_often.rate,
        "Kendall's τ_b of loss and accuracy": order.kendall,
        "Kendall's τ_b with losses at T*": order.tempered.kendall,
        **{f"inverted pairs that at T* are {FATES[fate]}": share for fate, share in order.fates.items()},
        "two runs that differ in seed only: loss and accuracy disagree": disagreeing_share(
            found.loss, found.accuracy, "seeds"
        ),
        "two conditions, one run each: loss and accuracy disagree": disagreeing_share(
            found.loss, found.accuracy, "configurations"
        ),
        **({f"{HEAD_CONTRAST}, {OF_OFTEN}": head_share(found, pairs, often)} if pairs else {}),
    }
    of_the_split = {
        "loss of the class prior alone (nats)": known["class prior"].loss,
        "accuracy of the class prior alone": known["class prior"].accuracy,
        "loss of the uniform distribution (nats)": known["uniform"].loss,
        f"share of {OF_OFTEN}": float(often.mean()),
        "share of test examples whose class was never seen in training": float(np.mean(counts[labels] == 0)),
    }
    return lj.Findings(
        verdicts=verdicts(data, found, order, pairs, len(counts)),
        numbers=numbers | {name: lj.Interval.without_bounds(value) for name, value in of_the_split.items()},
        tables={
            "conditions": condition_table(found, often),
            "references": table(
                {"name": name, "loss": one.loss, "accuracy": one.accuracy} for name, one in known.items()
            ),
            "pairs": pair_table(found, pairs),
            **({} if apart is None else {"taken_apart": apart_table(found, pairs[0], apart)}),
        },
        notes=(
            *(() if apart is None else (in_words(found, pairs[0], apart, often),)),
            f"features: {'; '.join(FEATURE_NAMES[features] for features in DATA[data])}.",
            "loss and accuracy are of the test split at the end of training; nothing was selected.",
            SELDOM[data],
            f"runs not finite: {int((~found.finite).sum())} of {found.loss.size}.",
            *(f"{name}: computed from this split's labels, not estimated" for name in of_the_split),
        ),
    )


def verdicts(
    data: str, found: Conditions, order: Inversions, pairs: list[Pair], num_classes: int
) -> tuple[lj.Verdict, ...]:
    num_seeds = found.loss.shape[1]
    told = f"{order.inverted} inverted, {order.concordant} concordant, {order.unresolved} unresolved pairs"
    how_many = f"{len(pairs)} inverted pairs; the head has {np.mean(found.group == 0):.0%} of the test examples"
    head = head_share(found, pairs)

    def verdict(claim: str, statement: str, rule: str, estimate: lj.Interval, outcome: Outcome) -> lj.Verdict:
        is_c7 = claim == "C7"
        return lj.Verdict(
            claim=claim,
            statement=statement,
            where=f"{DATA_NAMES[data]}, {num_classes:,} classes; convolutional network, {len(found.names)} conditions",
            contrast="inverted share of resolved pairs" if is_c7 else HEAD_CONTRAST,
            rule=rule,
            estimate=estimate,
            outcome=outcome,
            num_seeds=num_seeds,
            scope="conditions × seeds; one data set, one split"
            if is_c7
            else "seeds, on these conditions and this split",
            note=told if is_c7 else how_many,
        )

    return (
        verdict(
            "C7",
            "Across features and hyperparameters, a better loss often comes with a worse accuracy.",
            C7_RULE,
            order.rate,
            how_often(order.rate, num_seeds),
        ),
        verdict(
            "C7",
            "To improve both at once is rare.",
            RARE_RULE,
            order.rate,
            judge(order.rate, threshold=RARE, num_seeds=num_seeds),
        ),
        verdict(
            "C8",
            "The accuracy that comes with a worse loss is gained on the frequent classes.",
            C8_RULE,
            head,
            judge(head, num_seeds=num_seeds),
        ),
    )


def compared_with(verdict: lj.Verdict) -> tuple[float, ...]:
    """The limits of its rule that decide."""
    if verdict.claim == "C8":
        return (0.0,)
    if verdict.rule == RARE_RULE:
        return (RARE,)
    return {"refuted": (NEGLIGIBLE,), "in part": (NEGLIGIBLE, OFTEN)}.get(verdict.outcome, (OFTEN,))


def how_often(rate: lj.Interval, num_seeds: int) -> Outcome:
    """By ``C7_RULE``."""
    outcome = judge(rate, threshold=OFTEN, num_seeds=num_seeds)
    if outcome == "refuted" and rate.high >= NEGLIGIBLE:
        return "in part" if rate.low > NEGLIGIBLE else "unresolved"
    return outcome


def in_words(found: Conditions, pair: Pair, apart: Comparison, often: np.ndarray) -> str:
    a, b = (found.names[one] for one in pair)
    of_often = [found.change(name, pair)[:, often].mean() for name in ("example_loss", "example_correct")]
    cells = ", ".join(f"{apart.cells[cell].estimate:+.3f} from {cell}" for cell in CELLS)
    groups = ", ".join(f"{interval.estimate:+.3f} from the {name}" for name, interval in apart.by_group.items())
    scale = apart.delta_calibration
    repaired = "" if scale is None else f" A temperature each takes {scale.estimate:+.3f} nats of it away."
    return (
        f"one inverted pair, the one in which both differ most: from “{a}” to “{b}” the loss changes by "
        f"{apart.delta_loss.estimate:+.3f} nats {spelled(apart.delta_loss)} and the accuracy by "
        f"{100 * apart.delta_accuracy.estimate:+.2f} points [{100 * apart.delta_accuracy.low:+.2f}, "
        f"{100 * apart.delta_accuracy.high:+.2f}]. Of the loss: {cells}; by the classes' training frequency, "
        f"{groups}.{repaired} Regime {apart.refinement}. Among {OF_OFTEN}: {of_often[0]:+.3f} nats and "
        f"{100 * of_often[1]:+.2f} points. The pair was chosen for its size: its differences are on the large side of "
        "the truth."
    )


def spelled(interval: lj.Interval) -> str:
    return f"[{interval.low:+.3f}, {interval.high:+.3f}]"


# What is plotted ---------------------------------------------------------------------------------------------------


def pair_table(found: Conditions, pairs: list[Pair]) -> dict[str, np.ndarray]:
    names = np.array(found.names)
    first, second = np.array(pairs, dtype=int).reshape(-1, 2).T
    return {"from": names[first], "to": names[second]} | {
        f"delta_{metric}": np.array([found.change(metric, pair).mean() for pair in pairs])
        for metric in ("loss", "accuracy", "refinement")
    }


def apart_table(found: Conditions, pair: Pair, apart: Comparison) -> dict[str, np.ndarray]:
    by_frequency = "by the class's training frequency"
    ways: dict[tuple[str, str], Mapping[str, lj.Interval | None]] = {
        ("loss", "by crossing of the argmax"): {cell: apart.cells[cell] for cell in CELLS},
        ("loss", by_frequency): {group: apart.by_group.get(group) for group in GROUPS},
        ("loss", "by what a temperature can mend"): {
            "calibration": apart.delta_calibration,
            "refinement": apart.delta_refinement,
        },
        ("accuracy", by_frequency): accuracy_by_group(found, pair),
    }
    a, b = (found.names[one] for one in pair)
    return table(
        {"from": a, "to": b, "of": of, "how": how, "part": part, "contribution": interval}
        for (of, how), parts in ways.items()
        for part, interval in parts.items()
        if interval is not None
    )


def splits(worst: Mapping[str, np.ndarray], of: str) -> list[Any]:
    from lossjax.reports.imbalanced import Split

    titles = dict.fromkeys(worst["how"][worst["of"] == of].tolist())
    rows = {title: (worst["of"] == of) & (worst["how"] == title) for title in titles}
    return [
        Split(title, worst["part"][one].tolist(), *(worst[key][one] for key in with_bounds("contribution")))
        for title, one in rows.items()
    ]


def plot(findings: lj.Findings) -> dict[str, lj.Figure]:
    figures: dict[str, lj.Figure] = {}
    for data in dict.fromkeys(findings.tables["conditions"]["data"].tolist()):
        tables = {
            name: {key: column[one["data"] == data] for key, column in one.items()}
            for name, one in findings.tables.items()
        }
        figures |= {f"{name}_{data}": figure for name, figure in plot_data(data, tables).items()}
    return figures


def plot_data(data: str, tables: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, lj.Figure]:
    from lossjax.reports import imbalanced

    rows, pairs = tables["conditions"], tables["pairs"]
    names = rows["condition"].tolist()
    features = np.array([name.split("-")[0] for name in names])
    worst = tables.get("taken_apart")
    if worst is not None and len(worst["from"]) == 0:
        worst = None
    known = {
        str(name): (float(loss), float(accuracy))
        for name, loss, accuracy in zip(
            *(tables["references"][key] for key in ("name", "loss", "accuracy")), strict=True
        )
    }

    def deviations(one: str) -> imbalanced.Deviations:
        mine = np.flatnonzero(features == one)
        place = {names[at]: index for index, at in enumerate(mine)}
        spelled = [names[at].split("-", 1)[1].split(", ", 1) for at in mine]
        mean = [float((rows[key] - rows[f"{key}_deviation"])[mine].mean()) for key in ("loss", "accuracy")]
        return imbalanced.Deviations(
            FEATURE_NAMES[one],
            kinds=[change for _, change in spelled],
            sizes=[f"width {width}" for width, _ in spelled],
            **{
                f"{key}{end}": rows[f"{key}_deviation{end}"][mine]
                for key in ("loss", "accuracy")
                for end in ("", "_low", "_high")
            },
            pareto=rows["pareto_of_set"][mine],
            pairs=[
                (place[a], place[b])
                for a, b in zip(pairs["from"].tolist(), pairs["to"].tolist(), strict=True)
                if a in place and b in place
            ],
            references={name: (loss - mean[0], accuracy - mean[1]) for name, (loss, accuracy) in known.items()},
        )

    first = names[0].split(", ")[0]
    figures = {
        "loss_against_accuracy": lj.Figure(
            imbalanced.loss_against_accuracy(
                rows["loss"],
                rows["accuracy"],
                low=(rows["loss_low"], rows["accuracy_low"]),
                high=(rows["loss_high"], rows["accuracy_high"]),
                kinds=[FEATURE_NAMES[name] for name in features.tolist()],
                pareto=rows["pareto"],
                names=names,
                pair=None if worst is None else (str(worst["from"][0]), str(worst["to"][0])),
                references=known,
            ),
            f"{DATA_NAMES[data].capitalize()}: every condition by its test loss and accuracy (bars: 95 % over seeds × "
            "examples). Better is up and left; ringed conditions are beaten by no other in both, by estimates. The "
            f"arrow is the inverted pair in which both differ most; {first} is the convolution of width "
            f"{first.split('-')[1]} with the features {first.split('-')[0]}. In the small picture, dashed: loss and "
            "accuracy of the class prior alone and of the uniform distribution.",
        ),
        "within_features": lj.Figure(
            imbalanced.within_sets([deviations(one) for one in dict.fromkeys(features.tolist())]),
            f"{DATA_NAMES[data].capitalize()}, a set of features at a time: how far each condition is from the set's "
            "mean (bars: 95 % over seeds × examples, of the difference, in which what all share cancels). A line joins "
            "two conditions that are inverted, both differences resolved: the one with the better accuracy has the "
            "worse loss. Ringed: beaten in both by no other of the set, by estimates. Small arrows: how far off the "
            "class prior and the uniform distribution are.",
        ),
    }
    if worst is not None:
        figures["taken_apart"] = lj.Figure(
            imbalanced.taken_apart(
                splits(worst, "loss"), splits(worst, "accuracy"), title=f"from {worst['from'][0]} to {worst['to'][0]}"
            ),
            f"{DATA_NAMES[data].capitalize()}: the change in loss between the two conditions, split three ways, each "
            "of which adds up to it; and whose accuracy changes (bars: 95 % over seeds × examples).",
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
