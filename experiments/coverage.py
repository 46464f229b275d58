"""Do the intervals hold what they promise? Each estimator on made-up data whose truth is known, again and again.

Labels are drawn from a known posterior p*(y|x); a model's logits are made from log p* by a wrong scale, which one
temperature repairs, and by noise, which none does. So the true loss, refinement, calibration loss and accuracy are
known: averages over a million points with p* as weights. Nothing is trained.
"""

# the folder of an experiment is on the path while it runs, and numba asks for the package of this name
if __name__ == "coverage":
    raise ImportError("this is lossjax's experiment and not the package coverage")

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from simulated.examples import Accuracy, BinnedError, Clustered, Difference, Discordant, OneModel, TwoModels
from simulated.populations import Kendall, Shares, share_name
from simulated.runs import Best, FlatTail, Gained, Groups, NoOp, Parting, Seeds, Shape
from simulated.searches import Inverted, Kept, Selected
from simulated.spread import Alike
from simulated.targets import Target
from simulated.truth import Model, Posterior

import lossjax as lj
from lossjax.analysis.calibration_error import Scheme
from lossjax.analysis.proportions import wilson
from lossjax.analysis.tables import table

# The rule, written before the results; the targets are in simulated/targets.py ---------------------------------------

RULE = (
    "Rule: a target is met where the share of simulations lies in it, and missed where the share's whole Wilson "
    "interval lies outside; between the two it is not told apart from the target."
)

NO_TARGET = (
    "METHODS has no target for means over 20 seeds, calibration errors, Kaplan–Meier, differences of independent "
    "shares (Newcombe), the share of inverted pairs, the order kept by a metric, the variance between runs over err/2n "
    "and disagreement: these are shown, and not judged. Differences between selectors are means over searches, hence "
    "judged as means over as few or as many seeds."
)

# What is simulated -------------------------------------------------------------------------------------------------

TEN, PAIR, SURE = Posterior(10, 1.5), Posterior(2, 1.5), Posterior(10, 4.0)
ONE_MODEL = {
    "calibrated": (TEN, Model(1.0, 0.0)),
    "calibrated, two classes": (PAIR, Model(1.0, 0.0)),
    "a little over-confident": (TEN, Model(1.2, 0.2)),
    "sure labels, over-confident": (SURE, Model(3.0, 1.0)),
}
TWO_MODELS = {
    "early → late": (TEN, Model(0.7, 0.5), Model(2.5, 1.0), 0.5),
    "two classes, a little better": (PAIR, Model(0.6, 0.5), Model(0.9, 0.4), 0.9),
    "sure labels, few large losses": (SURE, Model(0.9, 0.5), Model(3.0, 2.0), 0.5),
}
BINNED: tuple[tuple[str, Scheme, str, int], ...] = (
    ("equal width", "width", "calibrated", 200),
    ("equal width", "width", "a little over-confident", 200),
    ("equal width", "width", "sure labels, over-confident", 200),
    ("equal mass", "mass", "sure labels, over-confident", 200),
    ("equal mass", "mass", "calibrated", 1000),
    ("equal width", "width", "sure labels, over-confident", 1000),
)


def cases() -> dict[str, tuple[str, Any]]:
    """Folder name → (how it is called, case)."""
    found: list[tuple[str, Any]] = []
    for n in (200, 2000):
        found += [(name, OneModel(*setting, n)) for name, setting in ONE_MODEL.items()]
        found += [(name, TwoModels(*setting, n)) for name, setting in TWO_MODELS.items()]
        found += [(f"accuracy {share:g}, n = {n:,}", Accuracy(share, n)) for share in (0.5, 0.9, 0.99)]
        found += [
            (f"{gained:.1%} gained, {lost:.1%} lost, n = {n:,}", Discordant(gained, lost, n))
            for gained, lost in ((0.01, 0.01), (0.02, 0.0), (0.15, 0.05))
        ]
    found += [
        (
            f"{gained:.1%} gained, {lost:.1%} lost, {clusters} clusters of {size}, correlation {correlation:g}",
            Clustered(gained, lost, clusters, size, correlation),
        )
        for gained, lost, clusters, size, correlation in (
            (0.01, 0.0, 50, 10, 0.3),
            (0.05, 0.02, 50, 10, 0.0),
            (0.05, 0.02, 50, 10, 0.3),
            (0.05, 0.02, 20, 20, 0.3),
            (0.15, 0.05, 100, 20, 0.3),
        )
    ]
    for count in (5, 20, 50):
        shapes: tuple[Shape, ...] = ("normal", "uniform", "accuracies", "t3", "exponential", "lognormal", "collapses")
        found += [(shape, Seeds(shape, count)) for shape in shapes]
    found += [
        (f"{members} and {members} seeds, {examples:,} examples", Groups(members, examples, between))
        for members, examples, between in ((5, 1000, 0.3), (10, 300, 0.1), (24, 300, 0.3))
    ]
    found += [
        (
            f"{gained:.1%} gained, {members} and {members} seeds, {examples} examples",
            Gained(members, examples, gained, 0.002),
        )
        for members, examples, gained in ((5, 200, 0.01), (5, 200, 0.02), (20, 200, 0.01), (20, 100, 0.02))
    ]
    for population in (False, True):
        what = "populations" if population else "models"
        found += [
            ("a constant added to each example's logits, " + what, NoOp("constant", population)),
            ("classes permuted, " + what, NoOp("classes", population)),
            ("examples permuted, " + what, NoOp("examples", population)),
        ]
    found.append(("members permuted", NoOp("members", True)))
    found += [
        (f"{'all equal' if curve == 'flat' else 'one best'}, {units} {kind}", Best(curve, units, kind == "examples"))
        for curve in ("bowl", "flat")
        for units, kind in ((10, "seeds"), (50, "seeds"), (500, "examples"))
    ]
    found += [(f"memory {memory:g}, n = {n:,}", FlatTail(memory, n)) for memory in (0.0, 0.9) for n in (300, 2000)]
    found += [
        (f"{words}, {configs} configurations of {seeds} seeds", Kendall(agreement, noise, configs, seeds))
        for words, agreement, noise, configs, seeds in (
            ("hardly alike", 0.0, 0.3, 30, 5),
            ("half alike", 0.5, 1.0, 30, 5),
            ("nearly alike", 0.95, 0.3, 30, 20),
            ("half alike", 0.5, 0.3, 60, 5),
        )
    ]
    found += [
        ("of two streams and a product", Shares(1.0, 0.5, 1.0, 200, False)),
        ("one stream is nearly all", Shares(3.0, 0.3, 0.3, 200, False)),
        ("skewed", Shares(0.6, 0.3, 0.0, 200, True)),
    ]
    found += [
        (f"{bins}, {model}, n = {n:,}", BinnedError(*ONE_MODEL[model], scheme, n)) for bins, scheme, model, n in BINNED
    ]
    found += [
        (f"{a:g} of {n:,} and {b:g} of {m:,}", Difference(a, n, b, m))
        for a, n, b, m in (
            (0.5, 100, 0.5, 100),
            (0.9, 50, 0.8, 50),
            (0.02, 50, 0.02, 50),
            (0.02, 200, 0.05, 200),
            (0.1, 30, 0.2, 300),
            (0.98, 400, 0.99, 400),
        )
    ]
    found += [
        (f"{members} runs, evaluation {at} of 20", Parting(0.05, 0.02, members, 20, at))
        for members in (20, 100, 400)
        for at in (2, 8, 18)
    ]
    found += [
        (f"{runs} runs, {examples} examples" + (", some runs luckier" if luck else ""), Alike(runs, examples, luck))
        for runs, examples, luck in ((10, 300, 0.0), (50, 300, 0.1))
    ]
    found += [
        (f"{words}, {configs} configurations of {seeds} seeds", Inverted(agreement, noise, configs, seeds))
        for words, agreement, noise, configs, seeds in (
            ("hardly alike", 0.0, 0.3, 30, 8),
            ("half alike", 0.5, 1.0, 30, 20),
            ("nearly alike", 0.9, 0.3, 30, 8),
        )
    ]
    found += [
        (
            f"noise {noise:g}, {configs} configurations of {seeds} seeds" + ("" if same else ", then of fresh ones"),
            Kept(noise, configs, seeds, same),
        )
        for noise, configs, seeds, same in ((0.5, 30, 5, True), (1.5, 30, 5, False))
    ]
    found += [
        (f"{words}, {case.searches} searches", case)
        for words, case in (
            ("one sees better", Selected((0.5, 1.0), 0.5, 5, 16, False)),
            ("one sees better", Selected((0.5, 1.0), 0.5, 50, 16, False)),
            ("mostly the same choice", Selected((0.5, 0.55), 0.99, 50, 16, False)),
            ("skewed scores", Selected((0.5, 1.0), 0.5, 50, 16, True)),
        )
    ]
    return {folder(case): (name, case) for name, case in found}


def folder(case: Any) -> str:
    """A folder's name from what the case is: ``OneModel-10-1.5-1-0-200``."""
    return "-".join([type(case).__name__, *_plain(dataclasses.astuple(case))])


def _plain(values: tuple[Any, ...]) -> list[str]:
    return [part for v in values for part in (_plain(v) if isinstance(v, tuple) else [str(v)])]


def sweep(scale: str) -> lj.Simulations:
    draws = 2000 if scale == "full" else 20
    return lj.Simulations({name: case for name, (_, case) in cases().items()}, draws, part_size=100)


# What is concluded -------------------------------------------------------------------------------------------------


def analyse(histories: Mapping[str, lj.History]) -> lj.Findings:
    rows: list[dict[str, Any]] = []
    for name, (called, case) in cases().items():
        for outcome, (group, target) in case.rows().items():
            kept = histories[name].metrics[outcome][:, 0]
            share = wilson(int(kept.sum()), len(kept))
            rows.append(
                {
                    "group": group,
                    "case": called,
                    "simulations": len(kept),
                    "share": share,
                    "target_low": target.low,
                    "target_high": target.high,
                    "target": outcome_of(share, target),
                }
            )
    order = list(dict.fromkeys([*GROUPS, *(row["group"] for row in rows)]))
    rows.sort(key=lambda row: order.index(row["group"]))
    judged = [row for row in rows if row["target"] != "not judged"]
    met = wilson(sum(row["target"] == "met" for row in judged), len(judged))
    return lj.Findings(
        numbers={
            "rows whose target is met, of those with one": lj.Interval(met.estimate, float("nan"), float("nan")),
            **{f"{row['group']}; {row['case']}": row["share"] for row in rows},
        },
        tables={"coverage": table(rows)},
        notes=(
            "rows whose target is met, of those with one: a count of these rows, which were not drawn from any others",
            RULE,
            NO_TARGET,
            *shortfalls(rows),
        ),
    )


def outcome_of(share: lj.Interval, target: Target) -> str:
    if np.isnan(target.low):
        return "not judged"
    if target.low <= share.estimate <= target.high:
        return "met"
    return "missed" if share.high < target.low or share.low > target.high else "not told apart"


def shortfalls(rows: list[dict[str, Any]]) -> list[str]:
    found = []
    for row in rows:
        share: lj.Interval = row["share"]
        told = f"{row['group']}; {row['case']}: {share.estimate:.1%} [{share.low:.1%}, {share.high:.1%}]"
        if row["target"] == "not judged":
            found.append(f"No target: {told}, {share.estimate - 0.95:+.1%} from 95 %.")
        elif row["target"] != "met":
            word = "Missed" if row["target"] == "missed" else "Not told apart from its target"
            found.append(f"{word}: {told}, target {row['target_low']:.1%} to {row['target_high']:.1%}.")
    return found


# from top to bottom of the figure
GROUPS = (
    *(f"{name}, n = {n}" for name in ("loss L", "refinement R", "ΔL", "ΔR", "O/K contrast") for n in ("200", "2,000")),
    "accuracy (Wilson)",
    "difference of shares (Newcombe)",
    "ΔA (Bonett–Price)",
    "ΔA in clusters of examples",
    "ΔA over seeds × examples",
    "C = 0: lower bound not above 0",
    "calibration C, nC ≥ 100",
    "calibration C, nC < 100",
    "expected calibration error",
    "no miscalibration of a calibrated model",
    "mean over 5 seeds",
    "mean over 20 seeds",
    "mean over 50 seeds",
    "ΔL over seeds × examples",
    "difference between selectors",
    "confidence set of t_X",
    "onset curve (Wilson)",
    "Kaplan–Meier",
    "τ_b over 30 configurations",
    "τ_b over 60 configurations",
    "share of inverted pairs",
    "order kept by a metric",
    "order kept in the better half",
    "rank correlation with a fresh measurement",
    *(share_name(kind, stream) for stream in ("data", "init", "order") for kind in ("first", "total")),
    "variance between runs over err/2n",
    "variance by independent errors over err/2n",
    "variance of the error rate on the distribution",
    "disagreement of runs",
    "disagreement minus error",
    "no false onset on a flat tail",
    "no false divergence, two groups of seeds",
    "no divergence by a no-op",
)


def plot(findings: lj.Findings) -> dict[str, lj.Figure]:
    from lossjax.reports import panels

    found = findings.tables["coverage"]
    groups = [
        panels.Shares(
            group,
            target=(float(found["target_low"][mine][0]), float(found["target_high"][mine][0])),
            labels=found["case"][mine].tolist(),
            estimate=found["share"][mine],
            low=found["share_low"][mine],
            high=found["share_high"][mine],
            missed=found["target"][mine] == "missed",
        )
        for group in dict.fromkeys(found["group"].tolist())
        for mine in [found["group"] == group]
    ]
    return {
        "coverage": lj.Figure(
            panels.shares_against_targets(groups, x_label="simulations in which what was promised came true"),
            f"Each mark is a case of {int(found['simulations'].min()):,} simulations with its Wilson interval, each "
            "band the target; what is missed is named. Truth is known by construction.",
        )
    }


experiment = lj.Experiment(
    name="coverage",
    question="Do the intervals cover the truth as often as they promise, and is nothing found where nothing is?",
    claims=(),
    sweep=sweep,
    analyse=analyse,
    plot=plot,
)

if __name__ == "__main__":
    lj.main(experiment)
