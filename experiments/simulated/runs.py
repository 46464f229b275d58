"""Estimators over runs: means over seeds, groups of seeds that do not differ, no-ops, best times, onsets."""

import dataclasses
from typing import Literal

import numpy as np

import lossjax as lj
from lossjax.analysis.calibration import scores
from lossjax.analysis.comparison import compare_records
from lossjax.analysis.onset import Onset, adequate_evaluations, best_evaluation, onset, survival
from lossjax.analysis.records import Records
from lossjax.analysis.regimes import DIVERGENCE, Flat, windows
from lossjax.analysis.resampling import mean_interval
from simulated.targets import BEST, MEANS_OF_SEEDS, NEVER, NO_FALSE_ALARM, NOT_JUDGED, SHARES, Row, covers

Shape = Literal["normal", "uniform", "accuracies", "t3", "exponential", "lognormal", "collapses"]


@dataclasses.dataclass(frozen=True)
class Seeds:
    """The mean over seeds of one number a run."""

    shape: Shape
    seeds: int

    def __call__(self, seed: int) -> dict[str, float]:
        rng = np.random.default_rng([seed, 5])
        match self.shape:
            case "normal":
                values, mean = rng.standard_normal(self.seeds), 0.0
            case "uniform":
                values, mean = rng.uniform(size=self.seeds), 0.5
            case "accuracies":  # of 1,000 examples, where seeds differ by two points
                values = rng.binomial(1000, rng.beta(202.5, 22.5, size=self.seeds)) / 1000
                mean = 0.9
            case "t3":
                values, mean = rng.standard_t(3, size=self.seeds), 0.0
            case "exponential":
                values, mean = rng.exponential(size=self.seeds), 1.0
            case "lognormal":
                values, mean = rng.lognormal(sigma=1.0, size=self.seeds), float(np.exp(0.5))
            case "collapses":  # a tenth of the runs ends at ten standard deviations from the others
                values = rng.standard_normal(self.seeds) + 10 * (rng.random(self.seeds) < 0.1)
                mean = 1.0
        return {"mean": covers(mean_interval(values, seed=seed), mean)}

    def rows(self) -> dict[str, Row]:
        return {"mean": Row(f"mean over {self.seeds} seeds", MEANS_OF_SEEDS[self.seeds])}


@dataclasses.dataclass(frozen=True)
class Groups:
    """Two groups of seeds of one configuration on the same test examples: there is nothing to find.

    An example's margin is its own, plus the run's, plus what is the run's on this example alone.
    """

    members: int  # in each group
    examples: int
    between_runs: float  # standard deviation of the run's part; that of the example's part is 2

    def __call__(self, seed: int) -> dict[str, float]:
        rng = np.random.default_rng([seed, 6])
        shape = (2, self.members, self.examples)
        margins = 1.5 + 2 * rng.standard_normal(self.examples) + rng.standard_normal(shape)
        margins += self.between_runs * rng.standard_normal((2, self.members, 1))
        losses = np.logaddexp(0, -margins)
        records = [Records(loss, margin > 0) for loss, margin in zip(losses, margins, strict=True)]
        # flatter than METHODS' half a point: the more accuracies count as equal, the more can diverge
        found = compare_records(*records, ordered=False, flat=Flat(loss=0.005, accuracy=0.02), seed=seed)
        return {
            "no_divergence": float(found.regime not in DIVERGENCE),
            "delta_loss": covers(found.delta_loss, 0.0),
            "delta_accuracy": covers(found.delta_accuracy, 0.0),
        }

    def rows(self) -> dict[str, Row]:
        return {
            "no_divergence": Row("no false divergence, two groups of seeds", NO_FALSE_ALARM),
            # the table's numbers for means of few and of many seeds
            "delta_loss": Row("ΔL over seeds × examples", MEANS_OF_SEEDS[5 if self.members < 20 else 50]),
            "delta_accuracy": Row("ΔA over seeds × examples", SHARES),
        }


@dataclasses.dataclass(frozen=True)
class Gained:
    """Two groups of seeds, all of the second right on a few examples on which all of the first are wrong."""

    members: int
    examples: int
    gained: float
    slips: float  # of each run's answers, that are turned round for no reason

    def __call__(self, seed: int) -> dict[str, float]:
        rng = np.random.default_rng([seed, 13])
        right, gained = rng.random(self.examples) < 0.85, rng.random(self.examples) < self.gained
        records = []
        for hits in (right & ~gained, right | gained):
            correct = hits ^ (rng.random((self.members, self.examples)) < self.slips)
            records.append(Records(np.where(correct, 0.2, 1.5), correct))
        found = compare_records(*records, seed=seed)
        return {"delta_accuracy": covers(found.delta_accuracy, self.gained * (1 - 2 * self.slips))}

    def rows(self) -> dict[str, Row]:
        return {"delta_accuracy": Row("ΔA over seeds × examples", SHARES)}


@dataclasses.dataclass(frozen=True)
class NoOp:
    """A change of logits that changes no probability, or of order that changes nothing: never a divergence."""

    change: Literal["constant", "classes", "examples", "members"]
    population: bool

    def __call__(self, seed: int) -> dict[str, float]:
        rng = np.random.default_rng([seed, 7])
        members, examples, classes = 5 if self.population else 1, 300, 4
        logits = 3 * rng.standard_normal((examples, classes)) + rng.standard_normal((members, examples, classes))
        labels = rng.integers(0, classes, examples)
        a = [scores(z, labels) for z in logits]
        match self.change:
            case "constant":
                b = [scores(z + 100 * rng.standard_normal((examples, 1)), labels) for z in logits]
            case "classes":
                order = rng.permutation(classes)
                b = [scores(z[:, order], np.argsort(order)[labels]) for z in logits]
            case "examples":
                order = rng.permutation(examples)
                back = np.argsort(order)
                shuffled = [scores(z[order], labels[order]) for z in logits]
                b = [s._replace(loss=s.loss[back], correct=s.correct[back]) for s in shuffled]
            case "members":
                b = [a[i] for i in rng.permutation(members)]
        records = [Records(np.stack([s.loss for s in side]), np.stack([s.correct for s in side])) for side in (a, b)]
        if not self.population:
            records = [Records(side.loss[0], side.correct[0]) for side in records]
        found = compare_records(*records, flat=Flat(0.0005, 0.02), seed=seed)
        return {"no_divergence": float(found.regime not in DIVERGENCE)}

    def rows(self) -> dict[str, Row]:
        return {"no_divergence": Row("no divergence by a no-op", NEVER)}


@dataclasses.dataclass(frozen=True)
class Best:
    """The confidence set of the best of 20 evaluations; noise has memory along the run."""

    curve: Literal["bowl", "flat"]  # in the flat one all are best, and the set is to hold any one of them
    units: int
    skewed: bool

    def __call__(self, seed: int) -> dict[str, float]:
        rng = np.random.default_rng([seed, 8])
        num_evals, best = 20, 8
        position = np.arange(num_evals)
        spread = 1 / np.sqrt(self.units)
        # in standard errors, so that neighbours of the best are never told apart from it and the ends are
        curve = 0.05 * spread * (position - best) ** 2 if self.curve == "bowl" else np.zeros(num_evals)
        noise = stationary(num_evals, self.units, 0.8, rng)
        noise = noise + rng.standard_normal(self.units)  # what is the unit's throughout
        if self.skewed:
            noise = np.exp(noise / 2)
        return {"kept": float(adequate_evaluations(curve[:, None] + noise, "lowest", seed=seed)[best])}

    def rows(self) -> dict[str, Row]:
        return {"kept": Row("confidence set of t_X", BEST)}


@dataclasses.dataclass(frozen=True)
class FlatTail:
    """A run whose loss falls for 8 evaluations and then stands still, in truth: no onset is to be seen.

    Each example's margin goes on wandering in the tail, with the same distribution at every evaluation; the
    population's loss and accuracy are exactly constant there.
    """

    memory: float  # correlation of an example's margin from one evaluation to the next
    examples: int

    def __call__(self, seed: int) -> dict[str, float]:
        rng = np.random.default_rng([seed, 9])
        num_evals, tail = 26, 8
        level = 1.5 * np.minimum(np.arange(num_evals) / tail, 1.0)[:, None]
        losses, correct = [], []
        for _ in ("val", "test"):
            wandering = stationary(num_evals, self.examples, self.memory, rng)
            margins = level * (1 + 0.8 * rng.standard_normal(self.examples)) + wandering
            losses.append(np.logaddexp(0, -margins))
            correct.append(margins > 0)
        start = best_evaluation(losses[0].mean(axis=1)[None], "lowest")
        # flatter than METHODS' half a point: the more accuracies count as equal, the more onsets there are
        test = windows(losses[1][None], correct[1][None], chance=0.5, flat=Flat(loss=0.005, accuracy=0.02))
        return {"no_onset": float(not onset(test.letters, start).observed[0])}

    def rows(self) -> dict[str, Row]:
        return {"no_onset": Row("no false onset on a flat tail", NO_FALSE_ALARM)}


def stationary(num_evals: int, num_units: int, memory: float, rng: np.random.Generator) -> np.ndarray:
    """[eval, unit] standard normal at every evaluation, correlated ``memory`` with the evaluation before."""
    values = rng.standard_normal((num_evals, num_units))
    for at in range(1, num_evals):
        values[at] = memory * values[at - 1] + np.sqrt(1 - memory**2) * values[at]
    return values


@dataclasses.dataclass(frozen=True)
class Parting:
    """When runs part: a hazard of onset at every evaluation, a hazard of ending non-finite after it, and an end.

    Cause-specific survival is (1 − onset)ᵗ, the cumulative incidence among all runs less than one minus that.
    """

    onset: float
    nonfinite: float
    members: int
    num_evals: int
    at: int  # the evaluation, from 1, by which runs are asked whether they have parted

    def __call__(self, seed: int) -> dict[str, float]:
        rng = np.random.default_rng([seed, 18])
        parts, breaks = (rng.geometric(hazard, self.members) for hazard in (self.onset, max(self.nonfinite, 1e-9)))
        # a run that parts at the evaluation after which it breaks has parted
        ends = np.minimum(np.minimum(parts, breaks), self.num_evals)
        event = np.select([parts == ends, breaks == ends], ["onset", "nonfinite"], "censored")
        found = Onset(ends, event)
        kept = survival(ends, found.observed)
        step = int(np.searchsorted(kept.times, self.at, side="right")) - 1
        alive = kept.share[step] if step >= 0 else lj.Interval.without_bounds(1.0)
        incidence = found.curve(self.num_evals + 1)[self.at]
        return {
            "survival": covers(alive, (1 - self.onset) ** self.at),
            "incidence": covers(incidence, self.incidence),
        }

    @property
    def incidence(self) -> float:
        stays = (1 - self.onset) * (1 - self.nonfinite)
        return self.onset * (1 - stays**self.at) / (1 - stays)

    def rows(self) -> dict[str, Row]:
        return {
            "survival": Row("Kaplan–Meier", NOT_JUDGED),
            "incidence": Row("onset curve (Wilson)", SHARES),
        }
