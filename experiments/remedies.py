"""What keeps loss and accuracy together? Dose and response of regularisation, early stopping, learning rate and data.

One baseline without regularisation, and one remedy at a time, in doses: on a teacher's labels and on real data
(handwritten digits with and without label noise, and spoken vowels).

- C11: dropout and L2 weight decay reduce the disagreement of loss and accuracy (and label smoothing, beside);
- C12: early stopping on validation loss prevents it;
- C13: learning rate and optimiser matter for it;
- C14: more, and more diverse, data reduces it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np

import lossjax as lj
from lossjax.analysis.onset import Onset, best_evaluation, logrank_p, onset, patience_stop
from lossjax.analysis.proportions import bonett_price, wilson
from lossjax.analysis.regimes import Flat, observed_windows
from lossjax.analysis.resampling import mean_interval
from lossjax.analysis.significance import holm, mean_beyond_p
from lossjax.analysis.summary import last_regimes, outcomes
from lossjax.analysis.verdicts import judge

# The rules, written before the results -----------------------------------------------------------------------------

FLAT = Flat(loss=0.02, accuracy=0.02)  # of one run by its estimates, on some 500 test examples
SMALLEST_PAID = 0.01  # nats
SMALLEST_PARTED = 0.1  # of the runs
MOST_LOSS, MOST_ACCURACY = 0.01, 0.005  # nats and share of examples by which the best may be worse
MOST_NONFINITE = 0.05
MEASURES = (
    "D, the test loss where validation accuracy is highest minus that where validation loss is lowest (nats: what "
    "choosing by accuracy costs), and P, the share of all runs whose test loss is higher at the end than there by more "
    "than 0.02 nats while test accuracy is not lower by more than 2 pp (O or K, by estimates)"
)
GATE = (
    "It counts only where the best test loss (at the lowest validation loss) and accuracy (at the highest) are "
    "non-inferior: upper bound under +0.01 nats, lower bound above −0.5 pp; and where at most 5 % of its runs are "
    "non-finite"
)
OUTCOME = (
    "Supported: both measures lie wholly beyond these limits and pass Holm's correction at 5 % over all measures of "
    "the claim's rows; in part: one of them; refuted: neither is beyond its limit, with intervals that exclude it, or "
    "the best is resolved as inferior; else unresolved"
)
REDUCES_RULE = (
    f"{MEASURES}: with the remedy minus without, paired by seed, at the dose of the lowest mean validation loss; D "
    f"less by more than 0.01 nats, P by more than 10 pp. {GATE}. {OUTCOME}"
)
STOPPING_RULE = (
    f"{MEASURES}: for runs stopped after two evaluations (a sixth of training) without a lower validation loss, "
    f"minus the same runs trained to the end; D less by more than 0.01 nats, P by more than 10 pp. {GATE}. {OUTCOME}"
)
RATE_RULE = (
    f"{MEASURES}: at the lowest minus at the highest of Adam's learning rates whose mean best validation loss and "
    "accuracy are within 0.01 nats and 0.5 pp of the best rate's; D different by more than 0.01 nats, P by more than "
    f"10 pp, in either direction. {GATE}: here of the one with the smaller D against the other. {OUTCOME}"
)
OPTIMISER_RULE = (
    f"{MEASURES}: of momentum minus of Adam, each at the learning rate of its lowest mean validation loss; D different "
    f"by more than 0.01 nats, P by more than 10 pp, in either direction. {GATE}: here of the one with the smaller D "
    f"against the other. {OUTCOME}"
)
DATA_RULE = (
    f"{MEASURES}: with four times the training examples minus with a quarter of them, paired by seed; D less by more "
    f"than 0.01 nats, P by more than 10 pp. {GATE}. {OUTCOME}"
)
STATEMENTS = {
    "C11": "Regularise: dropout and L2 weight decay reduce the disagreement.",
    "C12": "Early stopping on validation loss prevents it.",
    "C13": "Learning rate and optimiser choice matter for it.",
    "C14": "More, and more diverse, data reduces it.",
}

# What is trained ---------------------------------------------------------------------------------------------------

EVALS = 12
LSTM, BATCH = lj.models.LSTM(hidden=16), 16
RATE, MOMENTUM_RATE = 1e-2, 1e-1


@dataclasses.dataclass(frozen=True)
class Place:
    """A data set with its baseline: a quarter of the training examples."""

    name: str
    task: Any
    train_size: int
    steps: int
    label_noise: float = 0.0
    whole: bool = True  # also with momentum, and with more examples at the same epochs

    @property
    def cell(self) -> str:
        return self.name.rsplit(" ", 1)[-1]


# a teacher of its own a seed; at this temperature their mean Bayes accuracy is 0.90 (sd 0.03)
TEACHER = lj.tasks.Teacher(
    num_examples=1000, seq_len=10, num_features=5, temperature=0.27, num_val=250, num_test=500, teacher_seed=None
)
DIGITS = lj.tasks.Digits(val_fraction=0.2, test_fraction=0.3)
PLACES = (
    Place("teacher", TEACHER, train_size=250, steps=240),
    Place("digits", DIGITS, train_size=224, steps=320),
    Place("noisy digits", DIGITS, train_size=224, steps=320, label_noise=0.2),
    Place("vowels", lj.tasks.JapaneseVowels(val_fraction=0.4), train_size=40, steps=128, whole=False),
)
PLACE_NAMES = {
    "teacher": "teacher",
    "digits": "digits",
    "noisy digits": "digits, 20 % label noise",
    "vowels": "JapaneseVowels",
}


@dataclasses.dataclass(frozen=True)
class Remedy:
    """Something to change about the baseline, in doses; ``field`` is a hyperparameter."""

    key: str
    name: str
    field: str
    doses: tuple[float, ...]  # without the baseline's


REGULARISERS = (
    Remedy("dropout", "dropout", "dropout", (0.25, 0.5, 0.75)),
    Remedy("l2", "L2 in the gradient", "l2", (1e-3, 3e-3, 1e-2)),
    Remedy("decay", "decoupled weight decay", "weight_decay", (0.1, 0.3, 1.0)),
    Remedy("smoothing", "label smoothing", "label_smoothing", (0.05, 0.1, 0.2)),
)
RATES = Remedy("rate", "learning rate, Adam", "learning_rate", (1e-3, 3e-3, 3e-2))
MOMENTUM = Remedy("momentum", "learning rate, momentum", "learning_rate", (3e-2, 1e-1, 3e-1))
TIMES = (2, 4)  # the training examples
PATIENCES = (1, 2, 4)  # evaluations
STOPPED_BY: Final[Mapping[str, tuple[str, Literal["lowest", "highest"]]]] = {
    "stop-loss": ("loss", "lowest"),
    "stop-accuracy": ("accuracy", "highest"),
    "stop-brier": ("brier", "lowest"),
    "stop-refinement": ("refinement", "lowest"),
}
REMEDY_NAMES = {
    **{remedy.key: remedy.name for remedy in (*REGULARISERS, RATES, MOMENTUM)},
    "steps": "training examples, same steps",
    "epochs": "training examples, same epochs",
    "stop-loss": "patience, validation loss",
    "stop-accuracy": "patience, validation accuracy",
    "stop-brier": "patience, validation Brier score",
    "stop-refinement": "patience, validation loss at T*",
}


def sweep(scale: str) -> lj.Sweep:
    full = scale == "full"
    measure = lj.Measure(splits=("val", "test"), num_groups=0)
    cells, hyperparams = {}, {}
    for place in PLACES:
        if place.label_noise:
            continue  # in the cells of the same data without noise
        noise = {"label_noise": [one.label_noise for one in PLACES if one.cell == place.cell]}
        noise = noise if len(noise["label_noise"]) > 1 else {}
        baseline = baseline_of(place)
        varied = [{}, *({one.field: dose} for one in (*REGULARISERS, RATES) for dose in one.doses)]
        varied += [{"train_size": times * place.train_size} for times in TIMES]
        rows = [
            baseline | change | {"label_noise": level} for level in noise.get("label_noise", [0.0]) for change in varied
        ]
        steps = place.steps if full else 48

        def config(num_steps: int, optimizer: Literal["adam", "momentum"], place: Place = place) -> lj.TrainConfig:
            return lj.TrainConfig(
                batch_size=BATCH,
                num_steps=num_steps,
                num_evals=EVALS,
                optimizer=optimizer,
                measure=measure,
            )

        cells[place.cell] = lj.Cell(place.task, LSTM, config(steps, "adam"))
        hyperparams[place.cell] = lj.Hyperparams(
            **{name: np.array([row[name] for row in rows], np.float32) for name in rows[0]}
        )
        if not place.whole:
            continue
        cells[f"{place.cell}-momentum"] = lj.Cell(place.task, LSTM, config(steps, "momentum"))
        hyperparams[f"{place.cell}-momentum"] = lj.grid(
            learning_rate=MOMENTUM.doses, train_size=place.train_size, **noise
        )
        most = TIMES[-1]
        cells[f"{place.cell}-longer"] = lj.Cell(place.task, LSTM, config(most * steps, "adam"))
        hyperparams[f"{place.cell}-longer"] = lj.grid(learning_rate=RATE, train_size=most * place.train_size, **noise)
    return lj.Sweep(cells=cells, hyperparams=hyperparams, seeds=100 if full else 6, part_size=64)


def baseline_of(place: Place) -> dict[str, float]:
    fields = {one.field: 0.0 for one in REGULARISERS}
    return {"learning_rate": RATE, **fields, "train_size": place.train_size}


# What is concluded -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Arm:
    """One dose in one place: a number a seed, nan where the run stopped being finite."""

    seeds: np.ndarray  # [seed]
    finite: np.ndarray  # [seed]
    values: Mapping[str, np.ndarray]  # [seed] as in ``outcomes``; val_loss and val_accuracy: the best on validation
    letters: np.ndarray  # [seed] the regime from the best validation loss to the end; "nonfinite"
    onset: Onset
    num_evals: int

    @property
    def parted(self) -> np.ndarray:
        """[seed] whether O or K at the end."""
        return np.asarray(self.letters == "O/K")

    def mean(self, name: str) -> lj.Interval:
        return mean_interval(self.values[name][self.finite])

    @property
    def share_nonfinite(self) -> lj.Interval:
        return wilson(int((~self.finite).sum()), len(self.finite))

    def share(self, letter: str) -> lj.Interval:
        return wilson(int((self.letters == letter).sum()), len(self.letters))

    @property
    def cost(self) -> float:
        """Mean best validation loss, by which doses are tuned; infinite where too many runs are not finite."""
        if (~self.finite).mean() > MOST_NONFINITE:
            return float("inf")
        return float(self.values["val_loss"][self.finite].mean())


def arm(history: lj.History, stop: tuple[str, int] | None = None) -> Arm:
    """``stop`` is what runs are stopped by, as in ``STOPPED_BY``, and the patience in evaluations."""
    curves = {name: np.asarray(values, np.float64) for name, values in history.metrics.items() if values.ndim == 2}
    last = np.full(history.num_members, history.num_evals - 1)
    if stop is not None:
        metric, best = STOPPED_BY[stop[0]]
        last = patience_stop(curves[f"val_{metric}"], best, stop[1])
    # what comes after the end has not been seen
    after = np.arange(history.num_evals) > last[:, None]
    curves = {name: np.where(after, np.nan, values) for name, values in curves.items()}
    finite = history.finite
    four = [curves[name][finite] for name in ("val_loss", "val_accuracy", "test_loss", "test_accuracy")]
    found = outcomes(four[0], four[1], four[2], four[3], history.steps, last=last[finite])
    found |= {"val_loss": np.nanmin(four[0], axis=1), "val_accuracy": np.nanmax(four[1], axis=1)}
    values = {name: np.full(history.num_members, np.nan) for name in found}
    for name in found:
        values[name][finite] = found[name]
    letters = np.full(history.num_members, "nonfinite", dtype="<U9")
    letters[finite] = last_regimes(four[0], four[2], four[3], flat=FLAT, last=last[finite])
    broke = np.where(finite, history.num_evals, np.searchsorted(history.steps, history.nonfinite_step))
    return Arm(
        seeds=history.seeds["data"],
        finite=finite,
        values=values,
        letters=letters,
        onset=onset(
            observed_windows(curves["test_loss"], curves["test_accuracy"], flat=FLAT).letters,
            best_evaluation(curves["val_loss"], "lowest"),
            nonfinite=broke,
        ),
        num_evals=history.num_evals,
    )


Doses = Mapping[float, Arm]  # by dose, ascending


def doses_of(place: Place, histories: Mapping[str, lj.History]) -> dict[str, Doses]:
    """Remedy → its doses with the baseline's."""

    def chosen(history: lj.History, **labels: float) -> lj.History:
        noisy = {"label_noise": place.label_noise} if "label_noise" in history.hyperparams else {}
        return history.select(**labels, **noisy)

    main, baseline = histories[place.cell], baseline_of(place)
    untreated = chosen(main, **baseline)
    base = arm(untreated)
    found: dict[str, dict[float, Arm]] = {}
    for one in (*REGULARISERS, RATES):
        found[one.key] = {dose: arm(chosen(main, **baseline | {one.field: dose})) for dose in one.doses}
        found[one.key][baseline[one.field]] = base
    sizes = {times: times * place.train_size for times in TIMES}
    found["steps"] = {1: base, **{t: arm(chosen(main, **baseline | {"train_size": n})) for t, n in sizes.items()}}
    if place.whole:
        momentum = histories[f"{place.cell}-momentum"]
        found["momentum"] = {dose: arm(chosen(momentum, learning_rate=dose)) for dose in MOMENTUM.doses}
        found["epochs"] = {1: base, TIMES[-1]: arm(chosen(histories[f"{place.cell}-longer"]))}
    for key in STOPPED_BY:
        found[key] = {float("inf"): base, **{patience: arm(untreated, (key, patience)) for patience in PATIENCES}}
    return {key: dict(sorted(doses.items())) for key, doses in found.items()}


def without(key: str) -> float:
    """The baseline's dose."""
    if key in STOPPED_BY:
        return float("inf")
    return {"rate": RATE, "momentum": MOMENTUM_RATE, "steps": 1.0, "epochs": 1.0}.get(key, 0.0)


def tuned(doses: Doses, *, among: Sequence[float] | None = None) -> float:
    """The dose of the lowest mean validation loss."""
    return min(doses if among is None else among, key=lambda dose: doses[dose].cost)


@dataclasses.dataclass(frozen=True)
class Row:
    """One contrast, treated minus untreated, by seed."""

    claim: str
    place: Place
    name: str
    rule: str
    told: str  # what is compared
    either: bool  # whether any difference counts, or only a reduction
    treated: Arm
    untreated: Arm

    def difference(self, name: str) -> np.ndarray:
        """[seed] of the pairs in which both are finite."""
        return paired(self.treated.values[name], self.untreated.values[name])

    @property
    def paid(self) -> lj.Interval:
        return mean_interval(self.difference("loss_paid"))

    @property
    def parted(self) -> lj.Interval:
        now, before = self.treated.parted, self.untreated.parted
        return bonett_price(int((now & ~before).sum()), int((before & ~now).sum()), len(now))

    @property
    def p_values(self) -> tuple[float, float]:
        """That D, and that P, differs by no more than the smallest effect of interest."""
        parted = self.treated.parted.astype(float) - self.untreated.parted
        return (
            p_beyond(self.difference("loss_paid"), SMALLEST_PAID, either=self.either),
            p_beyond(parted, SMALLEST_PARTED, either=self.either),
        )

    @property
    def gate(self) -> str:
        """``"non-inferior"``, ``"inferior"`` or ``"unresolved"``: the best loss and accuracy."""
        sign = -1.0 if self.either and self.paid.estimate > 0 else 1.0
        better = self.untreated if sign < 0 else self.treated
        if (~better.finite).mean() > MOST_NONFINITE:
            return "inferior"
        loss = judge(mean_interval(sign * self.difference("loss_best")), claim="less", threshold=MOST_LOSS)
        accuracy = judge(mean_interval(sign * self.difference("accuracy_best")), threshold=-MOST_ACCURACY)
        if "refuted" in (loss, accuracy):
            return "inferior"
        return "non-inferior" if (loss, accuracy) == ("supported", "supported") else "unresolved"


def paired(treated: np.ndarray, untreated: np.ndarray) -> np.ndarray:
    difference = treated - untreated
    return np.asarray(difference[np.isfinite(difference)])


def p_beyond(differences: np.ndarray, smallest: float, *, either: bool) -> float:
    """p of a t test that the mean is not below −smallest; with ``either``, that it lies within ±smallest."""
    below = mean_beyond_p(differences, -smallest, "below")
    return min(1.0, 2 * min(below, mean_beyond_p(differences, smallest, "above"))) if either else below


def measured(interval: lj.Interval, smallest: float, adjusted_p: float, *, either: bool) -> str:
    """What one measure says: ``"supported"``, ``"refuted"`` or ``"unresolved"``."""
    if either:
        beyond = interval.high < -smallest or interval.low > smallest
        outcome = "supported" if beyond else "refuted" if interval.within(-smallest, smallest) else "unresolved"
    else:
        outcome = judge(interval, claim="less", smallest=smallest)
    return "unresolved" if outcome == "supported" and adjusted_p > 0.05 else outcome


def concluded(measures: Sequence[str], gate: str) -> Literal["supported", "refuted", "unresolved", "in part"]:
    """``OUTCOME``: of what both measures say and of the gate."""
    if "supported" in measures:
        if gate == "inferior":
            return "refuted"
        if gate == "unresolved":
            return "unresolved"
        return "supported" if set(measures) == {"supported"} else "in part"
    return "refuted" if set(measures) == {"refuted"} else "unresolved"


def rows_of(place: Place, found: Mapping[str, Doses]) -> tuple[list[Row], list[lj.Verdict]]:
    """The contrasts of one place; and verdicts where there is nothing to contrast."""
    rows, verdicts = [], []
    base = found["steps"][1]

    def add(claim: str, name: str, rule: str, told: str, treated: Arm, untreated: Arm) -> None:
        rows.append(Row(claim, place, name, rule, told, claim == "C13", treated, untreated))

    for one in REGULARISERS:
        dose = tuned(found[one.key], among=one.doses)
        add("C11", one.name, REDUCES_RULE, f"{one.name} {dose:g} against none", found[one.key][dose], base)
    add("C12", "early stopping", STOPPING_RULE, "patience of 2 evaluations", found["stop-loss"][2], base)

    rates = found["rate"]
    best = rates[tuned(rates)]
    good = [rate for rate in rates if as_good(rates[rate], best)]
    if len(good) > 1:
        told = f"Adam at {min(good):g} against {max(good):g}"
        add("C13", "learning rate", RATE_RULE, told, rates[min(good)], rates[max(good)])
    else:
        verdicts.append(no_other_rate(place, tuned(rates)))
    if place.whole:
        momentum = tuned(found["momentum"])
        told = f"momentum at {momentum:g} against Adam at {tuned(rates):g}"
        add("C13", "optimiser", OPTIMISER_RULE, told, found["momentum"][momentum], best)

    most = TIMES[-1]
    for key, name in (("steps", "data, same steps"), ("epochs", "data, same epochs")):
        if key not in found:
            continue
        told = f"{most * place.train_size} examples against {place.train_size}"
        add("C14", name, DATA_RULE, told, found[key][most], base)
    return rows, verdicts


def as_good(one: Arm, best: Arm) -> bool:
    """On validation, by the means: what ``RATE_RULE`` takes for a rate as good as the best."""
    if not np.isfinite(one.cost):
        return False
    accuracy, best_accuracy = (a.values["val_accuracy"][a.finite].mean() for a in (one, best))
    return one.cost <= best.cost + MOST_LOSS and accuracy >= best_accuracy - MOST_ACCURACY


def no_other_rate(place: Place, rate: float) -> lj.Verdict:
    return lj.Verdict(
        claim="C13",
        statement=STATEMENTS["C13"],
        where=f"{PLACE_NAMES[place.name]}: learning rate",
        contrast="D with minus without (nats)",
        rule=RATE_RULE,
        estimate=lj.Interval(float("nan"), float("nan"), float("nan")),
        outcome="unresolved",
        num_seeds=0,
        scope=scope(place),
        note=f"no other rate is as good on validation as {rate:g}, so there is no choice",
    )


def scope(place: Place) -> str:
    return "seeds, each with a teacher and data of its own" if place.name == "teacher" else "seeds, on these data"


def judged(rows: Sequence[Row]) -> list[lj.Verdict]:
    """Every row's verdict, with Holm's correction over both measures of all rows of a claim."""
    verdicts = []
    for claim in STATEMENTS:
        own = [row for row in rows if row.claim == claim]
        adjusted = holm(np.array([p for row in own for p in row.p_values])).reshape(-1, 2)
        verdicts += [verdict_of(row, *pair) for row, pair in zip(own, adjusted.tolist(), strict=True)]
    return verdicts


def verdict_of(row: Row, paid_p: float, parted_p: float) -> lj.Verdict:
    measures = (
        measured(row.paid, SMALLEST_PAID, paid_p, either=row.either),
        measured(row.parted, SMALLEST_PARTED, parted_p, either=row.either),
    )
    loss, accuracy = (mean_interval(row.difference(name)) for name in ("loss_best", "accuracy_best"))
    onsets = [one.onset for one in (row.treated, row.untreated)]
    p_value = logrank_p(*(part for one in onsets for part in (one.evaluation, one.observed)))

    def change(name: str) -> str:
        return f"{row.untreated.mean(name).estimate:.3f} → {row.treated.mean(name).estimate:.3f}"

    parted, both = (
        [100 * one.share(letter).estimate for one in (row.untreated, row.treated)] for letter in ("O/K", "W")
    )
    seen = [100 * one.onset.share().estimate for one in (row.untreated, row.treated)]
    return lj.Verdict(
        claim=row.claim,
        statement=STATEMENTS[row.claim],
        where=f"{PLACE_NAMES[row.place.name]}: {row.name}",
        contrast="D with minus without (nats)",
        rule=row.rule,
        estimate=row.paid,
        outcome=concluded(measures, row.gate),
        num_seeds=len(row.treated.seeds),
        scope=scope(row.place),
        note=(
            f"{row.told}: D {change('loss_paid')} nats ({measures[0]}); P {parted[0]:.0f} → {parted[1]:.0f} %, "
            f"difference {row.parted} ({measures[1]}), both worse (W) {both[0]:.0f} → {both[1]:.0f} %; best "
            f"{row.gate}: loss by {loss}, accuracy by {accuracy}; final loss {change('loss_end')}, accuracy "
            f"{change('accuracy_end')}; onset in {seen[0]:.0f} → {seen[1]:.0f} % of runs (log-rank p = {p_value:.2g})"
        ),
    )


def analyse(histories: Mapping[str, lj.History]) -> lj.Findings:
    found, rows, verdicts = {}, [], []
    for place in PLACES:
        found[place.name] = doses_of(place, histories)
        own, without_rows = rows_of(place, found[place.name])
        rows += own
        verdicts += without_rows
    # in the order of claims, then of remedies, then of places
    order = {name: n for n, name in enumerate(dict.fromkeys(["learning rate", *(row.name for row in rows)]))}
    verdicts = sorted([*judged(rows), *verdicts], key=lambda v: (v.claim, order[v.where.split(": ")[1]]))
    return lj.Findings(
        verdicts=tuple(verdicts),
        numbers={key: value for place in PLACES for key, value in numbers(place, found[place.name]).items()},
        tables={
            "doses": dose_table(found),
            "onset": onset_table(found),
            "scorecard": scorecard_table(rows, verdicts),
        },
        notes=(
            "The baseline is a quarter of the training examples and no regularisation. Doses, learning rates and the "
            "limits in the rules were set after a trial with 16 seeds, before the runs that are judged here.",
            *little_to_reduce(found),
            "A contrast whose interval lies beyond the limit is unresolved where it fails Holm's correction, which is "
            "over 32 measures for C11.",
            "More examples at the same steps is more distinct examples among as many seen; at the same epochs, every "
            "example is seen as often, in four times the steps.",
            "JapaneseVowels, whose sequences are the longest, is not trained with momentum nor with more examples at "
            "the same epochs: the two cells would have cost a quarter more.",
            "Label smoothing is not in the words of C11; it stands beside. Its validation loss is plain cross-entropy, "
            "as everywhere.",
            "Stopped runs are the baseline's, cut where training would have ended; their last weights are judged for "
            "P, and the best on validation until there for D and the best.",
            "A teacher's seeds have a teacher and data of their own; digits and JapaneseVowels are one data set and "
            "one split each, so their intervals are over seeds of training on these data. Labels are noisy in training "
            "only.",
            "Held out: a teacher's 250 examples for validation and 500 for test; 359 and 539 digits; 108 and 370 "
            "vowels.",
        ),
    )


def little_to_reduce(found: Mapping[str, Mapping[str, Doses]]) -> list[str]:
    """Where the baseline's D is under twice the smallest effect of interest."""
    paid = {place: doses["steps"][1].mean("loss_paid") for place, doses in found.items()}
    return [
        f"{PLACE_NAMES[place]}: the baseline's D is {interval} nats, so there is little to take away, and a refuted "
        "reduction says no more than that."
        for place, interval in paid.items()
        if interval.estimate < 2 * SMALLEST_PAID
    ]


def numbers(place: Place, found: Mapping[str, Doses]) -> dict[str, lj.Interval]:
    name, base = PLACE_NAMES[place.name], found["steps"][1]
    numbers = {
        f"{name}, baseline: D, loss paid for choosing by accuracy (nats)": base.mean("loss_paid"),
        f"{name}, baseline: accuracy gained by it": base.mean("accuracy_gained"),
        f"{name}, baseline: runs with O or K at the end (P)": base.share("O/K"),
        f"{name}, baseline: runs with loss and accuracy worse at the end (W)": base.share("W"),
        f"{name}, baseline: runs with onset": base.onset.share(),
        f"{name}, baseline: test loss at the end minus at the best (nats)": mean_interval(
            paired(base.values["loss_end"], base.values["loss_best"])
        ),
        f"{name}, baseline: runs not finite": base.share_nonfinite,
    }
    for key in ("dropout", "l2", "decay", "smoothing", "steps"):
        paid = np.stack([one.values["loss_paid"] for one in found[key].values()], axis=1)
        paid = paid[np.isfinite(paid).all(axis=1)]
        place_on_scale = np.arange(paid.shape[1]) - (paid.shape[1] - 1) / 2
        slopes = paid @ place_on_scale / (place_on_scale**2).sum()
        numbers[f"{name}, {REMEDY_NAMES[key]}: slope of D over the doses (nats a dose)"] = mean_interval(slopes)
    return numbers


# What is plotted ---------------------------------------------------------------------------------------------------

MEASURED = ("loss_best", "accuracy_best", "loss_end", "accuracy_end", "loss_paid", "accuracy_gained")


def dose_table(found: Mapping[str, Mapping[str, Doses]]) -> dict[str, np.ndarray]:
    """A row a place, remedy and dose; ``worse``: the best loss or accuracy is resolved as inferior to the "
    "baseline's."""
    rows: list[dict[str, Any]] = []
    for place in PLACES:
        for key, doses in found[place.name].items():
            base = doses[without(key)]
            for dose, one in doses.items():
                measures = {name: one.mean(name) for name in MEASURED}
                measures |= {
                    "nonfinite": one.share_nonfinite,
                    "parted": one.share("O/K"),
                    "both_worse": one.share("W"),
                    "onset": one.onset.share(),
                }
                gate = Row("", place, "", "", "", False, one, base).gate
                row = {"place": place.name, "remedy": key, "dose": float(dose), "worse": gate == "inferior"}
                for name, interval in measures.items():
                    row |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
                rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


ONSETS = ("dropout", "l2", "decay", "rate", "steps", "epochs")


def onset_table(found: Mapping[str, Mapping[str, Doses]]) -> dict[str, np.ndarray]:
    """The share of runs with onset by each part of training."""
    columns: dict[str, list[Any]] = {
        key: [] for key in ("place", "remedy", "dose", "progress", "share", "share_low", "share_high")
    }
    for place in PLACES:
        for key in ONSETS:
            for dose, one in found[place.name].get(key, {}).items():
                curve = one.onset.curve(one.num_evals)
                columns["place"] += [place.name] * len(curve)
                columns["remedy"] += [key] * len(curve)
                columns["dose"] += [float(dose)] * len(curve)
                columns["progress"] += np.linspace(0, 1, len(curve)).tolist()
                for name, values in (
                    ("share", curve.estimate),
                    ("share_low", curve.low),
                    ("share_high", curve.high),
                ):
                    columns[name] += values.tolist()
    return {name: np.array(values) for name, values in columns.items()}


def scorecard_table(rows: Sequence[Row], verdicts: Sequence[lj.Verdict]) -> dict[str, np.ndarray]:
    """A row a contrast: both measures' differences and the outcome."""
    outcomes = {(verdict.claim, verdict.where): verdict.outcome for verdict in verdicts}
    columns: dict[str, list[Any]] = {
        key: [] for key in ("claim", "remedy", "place", "told", "paid", "parted", "gate", "outcome")
    }
    for row in rows:
        columns["claim"].append(row.claim)
        columns["remedy"].append(row.name)
        columns["place"].append(row.place.name)
        columns["told"].append(row.told)
        columns["paid"].append(row.paid.estimate)
        columns["parted"].append(row.parted.estimate)
        columns["gate"].append(row.gate)
        columns["outcome"].append(outcomes[row.claim, f"{PLACE_NAMES[row.place.name]}: {row.name}"])
    return {name: np.array(values) for name, values in columns.items()}


COLUMNS = {
    "regularisation": ("dropout", "l2", "decay", "smoothing"),
    "training_and_data": ("stop-loss", "rate", "momentum", "steps", "epochs"),
}
SHORT = {
    "stop-loss": "early stopping",
    "rate": "learning rate,\nAdam",
    "momentum": "learning rate,\nmomentum",
    "steps": "examples,\nsame steps",
    "epochs": "examples,\nsame epochs",
    "dropout": "dropout",
    "l2": "L2 in\nthe gradient",
    "decay": "decoupled\nweight decay",
    "smoothing": "label\nsmoothing",
}
DOSE_LABELS = {
    "stop-loss": "patience (evaluations)",
    "rate": "rate",
    "momentum": "rate",
    "steps": "times the baseline's",
    "epochs": "times the baseline's",
    "dropout": "rate",
    "l2": "coefficient",
    "decay": "coefficient",
    "smoothing": "weight",
}
RESPONSES = {
    "loss_end": "final test loss\n(nats)",
    "accuracy_end": "final test\naccuracy",
    "loss_paid": "D: loss paid for\naccuracy (nats)",
    "onset": "runs with\nonset",
}


def dose_name(key: str, dose: float) -> str:
    if key in STOPPED_BY and np.isinf(dose):
        return "∞"
    if key in ("steps", "epochs"):
        return f"{dose:g}×"
    return f"{dose:g}"


def signed(value: float, decimals: int) -> str:
    return f"{round(value, decimals) + 0.0:+.{decimals}f}".replace("-", "−")


def plot(findings: lj.Findings) -> dict[str, lj.Figure]:
    from lossjax.reports import doses

    table, onsets, scorecard = (findings.tables[name] for name in ("doses", "onset", "scorecard"))

    def responses(key: str) -> doses.Remedy:
        own = table["remedy"] == key
        levels = np.unique(table["dose"][own])

        def lines(measure: str) -> list[doses.Line]:
            found = []
            for name, shown in PLACE_NAMES.items():
                mine = own & (table["place"] == name)
                if not mine.any():
                    continue
                columns = (table[column][mine] for column in (measure, f"{measure}_low", f"{measure}_high", "worse"))
                found.append(doses.Line(shown, *columns))
            return found

        return doses.Remedy(
            SHORT[key],
            DOSE_LABELS[key],
            [dose_name(key, dose) for dose in levels],
            int(np.flatnonzero(levels == without(key))[0]),
            {measure: lines(measure) for measure in RESPONSES},
        )

    def onset_panel(place: str, key: str) -> doses.Onsets | None:
        own = (onsets["remedy"] == key) & (onsets["place"] == place)
        if not own.any():
            return None
        curves = {}
        for dose in np.unique(onsets["dose"][own]):
            mine = own & (onsets["dose"] == dose)
            curves[dose_name(key, float(dose))] = tuple(
                onsets[column][mine] for column in ("progress", "share", "share_low", "share_high")
            )
        return doses.Onsets(PLACE_NAMES[place], SHORT[key], dose_name(key, without(key)), curves)

    score = {
        (str(remedy), PLACE_NAMES[str(place)]): (
            f"{signed(paid, 3)} | {signed(100 * parted, 0)} pp",
            str(outcome),
        )
        for remedy, place, paid, parted, outcome in zip(
            *(scorecard[name] for name in ("remedy", "place", "paid", "parted", "outcome")), strict=True
        )
    }
    claims = {}
    for verdict in findings.verdicts:
        where, remedy = verdict.where.rsplit(": ", 1)
        claims[remedy] = verdict.claim
        if verdict.num_seeds == 0:
            score[remedy, where] = ("no choice", verdict.outcome)
    hollow = "Hollow: best test loss or accuracy is resolved as worse than without the remedy. Dotted: the baseline."
    return {
        "scorecard": lj.Figure(
            doses.scorecard(
                {remedy: f"{claim}  {remedy}" for remedy, claim in claims.items()}, list(PLACE_NAMES.values()), score
            ),
            "What each remedy does to the disagreement: change of D, the loss paid for choosing by accuracy (nats), "
            "and of P, the share of runs whose loss has parted from accuracy at the end. For the learning rate, lowest "
            "minus highest of the rates that are as good; for the optimiser, momentum minus Adam.",
        ),
        "regularisation": lj.Figure(
            doses.dose_response([responses(key) for key in COLUMNS["regularisation"]], RESPONSES),
            f"Dose and response, means over seeds with 95 % intervals. {hollow}",
        ),
        "training_and_data": lj.Figure(
            doses.dose_response([responses(key) for key in COLUMNS["training_and_data"]], RESPONSES),
            f"Dose and response of stopping, learning rate and data, means over seeds with 95 % intervals. {hollow}",
        ),
        "onset": lj.Figure(
            doses.onsets([[onset_panel(place, key) for key in ONSETS] for place in ("teacher", "vowels")]),
            "The share of runs in which loss and accuracy have parted by each part of training (O or K against the "
            "best validation loss, three evaluations running, by estimates), by dose, with 95 % intervals.",
        ),
    }


experiment = lj.Experiment(
    name="remedies",
    question="What keeps loss and accuracy together: regularisation, early stopping, learning rate, optimiser or data?",
    claims=("C11", "C12", "C13", "C14"),
    sweep=sweep,
    analyse=analyse,
    plot=plot,
)

if __name__ == "__main__":
    lj.main(experiment)
