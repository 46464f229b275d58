"""Do the intervals hold what they promise? Each estimator on made-up data whose truth is known, again and again.

Labels are drawn from a known posterior p*(y|x); a model's logits are made from log p* by a wrong scale, which one
temperature repairs, and by noise, which none does. So the true loss, refinement, calibration loss and accuracy are
known: averages over a million points with p* as weights. Nothing is trained.
"""

# the folder of an experiment is on the path while it runs, and numba asks for the package of this name
if __name__ == "coverage":
    raise ImportError("this is lossjax's experiment and not the package coverage")

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import optimize, special

import lossjax as lj
from lossjax.analysis.calibration import decompose, scores
from lossjax.analysis.comparison import Records, compare, compare_records
from lossjax.analysis.inversions import inversions
from lossjax.analysis.onset import adequate_evaluations, best_evaluation, onset
from lossjax.analysis.proportions import bonett_price, wilson
from lossjax.analysis.regimes import DIVERGENCE, Flat, windows
from lossjax.analysis.resampling import mean_interval
from lossjax.analysis.streams import variance_by_stream
from lossjax.keys import seeds_by_stream

# The rules, written before the results -----------------------------------------------------------------------------


class Target(NamedTuple):
    """What a row is to show: a share of simulations in [low, high]. No bounds: reported, not judged."""

    low: float
    high: float


MEANS_OF_EXAMPLES = {2000: Target(0.93, 0.97), 200: Target(0.91, 0.98)}
SHARES = Target(0.93, 1.0)
ABOVE_ZERO = Target(0.975, 1.0)  # of calibrated models whose lower bound is not above 0
CALIBRATION = Target(0.91, 0.98)  # where nC ≥ 100
LARGE_CALIBRATION = 100
MEANS_OF_SEEDS = {5: Target(0.92, 0.99), 50: Target(0.93, 0.97)}
BEST = Target(0.95, 1.0)
NO_FALSE_ALARM = Target(0.95, 1.0)  # of onset on flat tails, and of divergence between seeds of one configuration
NEVER = Target(1.0, 1.0)  # of divergence by a no-op
ACROSS = Target(0.90, 0.98)  # τ_b over 30 configurations or more, variance shares over 200 base seeds or more
NOT_JUDGED = Target(float("nan"), float("nan"))
RULE = (
    "Rule: a target is met where the share of simulations lies in it, and missed where the share's whole Wilson "
    "interval lies outside; between the two it is not told apart from the target."
)

# Known posteriors --------------------------------------------------------------------------------------------------

POPULATION = 10**6


@dataclasses.dataclass(frozen=True)
class Posterior:
    """log p*(·|x) = log softmax of normal scores: the wider they are spread, the surer the labels."""

    classes: int
    spread: float

    def draw(self, num_examples: int, rng: np.random.Generator) -> np.ndarray:
        """[example, class] log p*."""
        scores = self.spread * rng.standard_normal((num_examples, self.classes))
        return np.asarray(special.log_softmax(scores, axis=1))


@dataclasses.dataclass(frozen=True)
class Model:
    """Logits = scale · log p* + noise · normal. Calibrated with scale 1 and no noise."""

    scale: float
    noise: float


class Truth(NamedTuple):
    loss: float  # nats
    refinement: float  # the least loss over temperatures
    accuracy: float


@functools.cache
def truth(posterior: Posterior, model: Model) -> Truth:
    """Over ``POPULATION`` points, the label's distribution taken whole: its sampling adds no error."""
    rng = np.random.default_rng(0)
    log_posterior = posterior.draw(POPULATION, rng)
    probabilities = np.exp(log_posterior)
    logits = model.scale * log_posterior + model.noise * rng.standard_normal(log_posterior.shape)
    label_logit = float((probabilities * logits).sum(axis=1).mean())
    highest = logits.max(axis=1)
    # float32 is exact enough for each example's part: the mean over a million is taken in float64
    shifted = (logits - highest[:, None]).astype(np.float32)

    def loss(log_inverse_temperature: float) -> float:
        inverse = np.exp(log_inverse_temperature)
        rest = np.log(np.exp(np.float32(inverse) * shifted).sum(axis=1))
        return inverse * (float(highest.mean()) - label_logit) + float(rest.mean(dtype=np.float64))

    best = optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-3})
    hit = np.take_along_axis(probabilities, logits.argmax(axis=1)[:, None], axis=1)
    return Truth(loss(0.0), float(best.fun), float(hit.mean()))


def labels_of(log_posterior: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[example], each drawn from its own posterior."""
    return np.asarray((log_posterior + rng.gumbel(size=log_posterior.shape)).argmax(axis=1))


# One simulation of each kind ---------------------------------------------------------------------------------------
# A case maps a seed to outcomes, 1 where what was promised came true; ``rows`` names what each outcome is a row of.


class Row(NamedTuple):
    group: str  # the rows of the figure
    target: Target


@dataclasses.dataclass(frozen=True)
class OneModel:
    """L, R, C and accuracy of one model."""

    posterior: Posterior
    model: Model
    examples: int

    def __call__(self, seed: int) -> dict[str, float]:
        rng = np.random.default_rng([seed, 1])
        log_posterior = self.posterior.draw(self.examples, rng)
        labels = labels_of(log_posterior, rng)
        logits = self.model.scale * log_posterior + self.model.noise * rng.standard_normal(log_posterior.shape)
        found, true = decompose(logits, labels, seed=seed), truth(self.posterior, self.model)
        correct = scores(logits, labels).correct
        return {
            "loss": covers(found.loss, true.loss),
            "refinement": covers(found.refinement, true.refinement),
            # in name that of a calibrated model; its C is 0 by construction, not by a minimiser's last digits
            "calibration": covers(found.calibration, 0.0 if self.calibrated else true.loss - true.refinement),
            "above_zero": float(not found.calibration.low > 0),
            "accuracy": covers(wilson(int(correct.sum()), self.examples), true.accuracy),
        }

    @property
    def calibrated(self) -> bool:
        return self.model == Model(1.0, 0.0)

    def rows(self) -> dict[str, Row]:
        n = f"n = {self.examples:,}"
        rows = {
            "loss": Row(f"loss L, {n}", MEANS_OF_EXAMPLES[self.examples]),
            "refinement": Row(f"refinement R, {n}", MEANS_OF_EXAMPLES[self.examples]),
            "accuracy": Row("accuracy (Wilson)", SHARES),
        }
        if self.calibrated:
            return rows | {"above_zero": Row("C = 0: lower bound not above 0", ABOVE_ZERO)}
        true = truth(self.posterior, self.model)
        large = self.examples * (true.loss - true.refinement) >= LARGE_CALIBRATION
        name = "nC ≥ 100" if large else "nC < 100"
        return rows | {"calibration": Row(f"calibration C, {name}", CALIBRATION if large else NOT_JUDGED)}


@dataclasses.dataclass(frozen=True)
class TwoModels:
    """ΔL, ΔR, the O/K contrast and ΔA of two models whose noise is partly the same."""

    posterior: Posterior
    a: Model
    b: Model
    shared: float  # correlation of the two models' noise
    examples: int

    def __call__(self, seed: int) -> dict[str, float]:
        rng = np.random.default_rng([seed, 2])
        log_posterior = self.posterior.draw(self.examples, rng)
        labels = labels_of(log_posterior, rng)
        common, *own = rng.standard_normal((3, *log_posterior.shape))
        logits_a, logits_b = (
            model.scale * log_posterior
            + model.noise * (np.sqrt(self.shared) * common + np.sqrt(1 - self.shared) * noise)
            for model, noise in zip((self.a, self.b), own, strict=True)
        )
        found = compare(logits_a, logits_b, labels, seed=seed)
        a, b = truth(self.posterior, self.a), truth(self.posterior, self.b)
        delta_loss, delta_refinement = b.loss - a.loss, b.refinement - a.refinement
        assert found.delta_refinement is not None
        assert found.contrast is not None
        return {
            "delta_loss": covers(found.delta_loss, delta_loss),
            "delta_refinement": covers(found.delta_refinement, delta_refinement),
            "contrast": covers(found.contrast, 0.2 * delta_loss - delta_refinement),
            "delta_accuracy": covers(found.delta_accuracy, b.accuracy - a.accuracy),
        }

    def rows(self) -> dict[str, Row]:
        n, target = f"n = {self.examples:,}", MEANS_OF_EXAMPLES[self.examples]
        return {
            "delta_loss": Row(f"ΔL, {n}", target),
            "delta_refinement": Row(f"ΔR, {n}", target),
            "contrast": Row(f"O/K contrast, {n}", target),
            "delta_accuracy": Row("ΔA (Bonett–Price)", SHARES),
        }


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """A share near its limit: Wilson."""

    share: float
    examples: int

    def __call__(self, seed: int) -> dict[str, float]:
        hits = np.random.default_rng([seed, 3]).binomial(self.examples, self.share)
        return {"accuracy": covers(wilson(int(hits), self.examples), self.share)}

    def rows(self) -> dict[str, Row]:
        return {"accuracy": Row("accuracy (Wilson)", SHARES)}


@dataclasses.dataclass(frozen=True)
class Discordant:
    """Few examples on which two models differ: Bonett–Price."""

    gained: float
    lost: float
    examples: int

    def __call__(self, seed: int) -> dict[str, float]:
        chances = [self.gained, self.lost, 1 - self.gained - self.lost]
        gained, lost, _ = np.random.default_rng([seed, 4]).multinomial(self.examples, chances)
        interval = bonett_price(int(gained), int(lost), self.examples)
        return {"delta_accuracy": covers(interval, self.gained - self.lost)}

    def rows(self) -> dict[str, Row]:
        return {"delta_accuracy": Row("ΔA (Bonett–Price)", SHARES)}


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
        }

    def rows(self) -> dict[str, Row]:
        return {
            "no_divergence": Row("no false divergence, two groups of seeds", NO_FALSE_ALARM),
            # the table's numbers for means of few and of many seeds
            "delta_loss": Row("ΔL over seeds × examples", MEANS_OF_SEEDS[5 if self.members < 20 else 50]),
        }


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


@dataclasses.dataclass(frozen=True)
class Kendall:
    """τ_b of mean loss and accuracy over configurations of normal qualities, each run with several seeds.

    A run's two errors correlate by a half, and a seed is easy or hard for all configurations alike. With means of
    correlation ρ, τ is 2/π · arcsin ρ (Kendall 1938), whatever the number of configurations.
    """

    agreement: float  # correlation of the qualities that the two metrics measure
    noise: float  # standard deviation of a run's error; that of the qualities is 1
    configs: int
    seeds: int

    def __call__(self, seed: int) -> dict[str, float]:
        rng = np.random.default_rng([seed, 10])
        quality = rng.standard_normal((2, self.configs, 1))
        quality[1] = self.agreement * quality[0] + np.sqrt(1 - self.agreement**2) * quality[1]
        error = self.noise * rng.standard_normal((2, self.configs, self.seeds))
        error[1] = 0.5 * error[0] + np.sqrt(0.75) * error[1]
        found = quality + error + 0.3 * rng.standard_normal((2, 1, self.seeds))
        return {"kendall": covers(inversions(-found[0], found[1], seed=seed).kendall, self.tau)}

    @property
    def tau(self) -> float:
        variance = self.noise**2 / self.seeds
        return float(2 / np.pi * np.arcsin((self.agreement + 0.5 * variance) / (1 + variance)))

    def rows(self) -> dict[str, Row]:
        return {"kendall": Row(f"τ_b over {self.configs} configurations", ACROSS)}


@dataclasses.dataclass(frozen=True)
class Shares:
    """Shares of the variance by stream, where f = a·data + b·init + c·order·noise of independent normals, or e to it.

    Exponentials of normals (``skewed``) have known shares too: Var E[eᶠ | x_k] = (e^{a_k²} − 1) · (E eᶠ)², and the
    product c is then 0.
    """

    data: float
    init: float
    product: float
    base_seeds: int
    skewed: bool

    def __call__(self, seed: int) -> dict[str, float]:
        seeds = redrawn_seeds(self.base_seeds)
        rng = np.random.default_rng([seed, 11])
        drawn = {}
        for stream, column in seeds.items():
            values, index = np.unique(column, return_inverse=True)
            drawn[stream] = rng.standard_normal(len(values))[index]
        values = self.data * drawn["data"] + self.init * drawn["init"] + self.product * drawn["order"] * drawn["noise"]
        found = variance_by_stream(np.exp(values) if self.skewed else values, seeds, seed=seed)
        assert found.first_share is not None
        assert found.total_share is not None
        return {
            f"{kind}_{stream}": covers(shares[found.streams.index(stream)], true)
            for kind, shares, truths in zip(
                ("first", "total"), (found.first_share, found.total_share), self.truth(), strict=True
            )
            for stream, true in truths.items()
        }

    def truth(self) -> tuple[dict[str, float], dict[str, float]]:
        """First-order and total shares."""
        alone = {"data": self.data**2, "init": self.init**2}
        if self.skewed:
            grown = {stream: np.expm1(variance) for stream, variance in alone.items()}
            whole = np.expm1(sum(alone.values()))
            others = {"data": alone["init"], "init": alone["data"]}
            first = {stream: float(each / whole) for stream, each in grown.items()}
            return first, {stream: float(grown[stream] * np.exp(others[stream]) / whole) for stream in grown}
        variance = sum(alone.values()) + self.product**2
        first = {stream: each / variance for stream, each in alone.items()}
        return first | {"order": 0.0}, first | {"order": self.product**2 / variance}

    def rows(self) -> dict[str, Row]:
        return {
            f"{kind}_{stream}": Row(share_name(kind, stream), ACROSS)
            for kind, truths in zip(("first", "total"), self.truth(), strict=True)
            for stream in truths
        }


def share_name(kind: str, stream: str) -> str:
    return f"variance share of {stream}, " + {"first": "alone", "total": "with interactions"}[kind]


@functools.cache
def redrawn_seeds(base_seeds: int) -> Mapping[str, np.ndarray]:
    return seeds_by_stream(lj.redrawn(base_seeds, all_anew=True).table)


def stationary(num_evals: int, num_units: int, memory: float, rng: np.random.Generator) -> np.ndarray:
    """[eval, unit] standard normal at every evaluation, correlated ``memory`` with the evaluation before."""
    values = rng.standard_normal((num_evals, num_units))
    for at in range(1, num_evals):
        values[at] = memory * values[at - 1] + np.sqrt(1 - memory**2) * values[at]
    return values


def covers(interval: lj.Interval, true: float) -> float:
    return float(interval.low <= true <= interval.high)


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
    for count in (5, 50):
        shapes: tuple[Shape, ...] = ("normal", "uniform", "accuracies", "t3", "exponential", "lognormal", "collapses")
        found += [(shape, Seeds(shape, count)) for shape in shapes]
    found += [
        (f"{members} and {members} seeds, {examples:,} examples", Groups(members, examples, between))
        for members, examples, between in ((5, 1000, 0.3), (10, 300, 0.1), (24, 300, 0.3))
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


COLUMNS = ("group", "case", "simulations", "share", "share_low", "share_high", "target_low", "target_high", "target")


def analyse(histories: Mapping[str, lj.History]) -> lj.Findings:
    columns = (
        "group",
        "case",
        "simulations",
        "share",
        "share_low",
        "share_high",
        "target_low",
        "target_high",
        "target",
    )
    rows: list[tuple[Any, ...]] = []
    for name, (called, case) in cases().items():
        history = histories[name]
        for outcome, (group, target) in case.rows().items():
            kept = history.metrics[outcome][:, 0]
            share = wilson(int(kept.sum()), len(kept))
            values = (len(kept), share.estimate, share.low, share.high)
            rows.append((group, called, *values, *target, outcome_of(share, target)))
    order = list(dict.fromkeys(GROUPS + tuple(row[0] for row in rows)))
    rows.sort(key=lambda row: order.index(row[0]))
    judged = [row for row in rows if row[-1] != "not judged"]
    met = wilson(sum(row[-1] == "met" for row in judged), len(judged))
    return lj.Findings(
        numbers={
            "rows whose target is met, of those with one": lj.Interval(met.estimate, float("nan"), float("nan")),
            **{f"{group}; {called}": lj.Interval(*values) for group, called, _, *values in (row[:6] for row in rows)},
        },
        tables={
            "coverage": {name: np.array(column) for name, column in zip(columns, zip(*rows, strict=True), strict=True)}
        },
        notes=(
            "rows whose target is met, of those with one: a count of these rows, which were not drawn from any others",
            RULE,
            *shortfalls(rows),
        ),
    )


def outcome_of(share: lj.Interval, target: Target) -> str:
    if np.isnan(target.low):
        return "not judged"
    if target.low <= share.estimate <= target.high:
        return "met"
    return "missed" if share.high < target.low or share.low > target.high else "not told apart"


def shortfalls(rows: list[tuple[Any, ...]]) -> list[str]:
    found = []
    for group, called, _, share, low, high, target_low, target_high, outcome in rows:
        told = f"{share:.1%} [{low:.1%}, {high:.1%}]"
        if outcome == "not judged":
            found.append(f"No target: {group}; {called}: {told}, {share - 0.95:+.1%} from 95 %.")
        elif outcome != "met":
            word = "Missed" if outcome == "missed" else "Not told apart from its target"
            found.append(f"{word}: {group}; {called}: {told}, target {target_low:.1%} to {target_high:.1%}.")
    return found


# from top to bottom of the figure
GROUPS = (
    *(f"{name}, n = {n}" for name in ("loss L", "refinement R", "ΔL", "ΔR", "O/K contrast") for n in ("200", "2,000")),
    "accuracy (Wilson)",
    "ΔA (Bonett–Price)",
    "C = 0: lower bound not above 0",
    "calibration C, nC ≥ 100",
    "calibration C, nC < 100",
    "mean over 5 seeds",
    "mean over 50 seeds",
    "ΔL over seeds × examples",
    "confidence set of t_X",
    "τ_b over 30 configurations",
    "τ_b over 60 configurations",
    *(share_name(kind, stream) for stream in ("data", "init", "order") for kind in ("first", "total")),
    "no false onset on a flat tail",
    "no false divergence, two groups of seeds",
    "no divergence by a no-op",
)


def plot(findings: lj.Findings) -> dict[str, lj.Figure]:
    from lossjax.reports import panels

    table = findings.tables["coverage"]
    groups = [
        panels.Shares(
            group,
            target=(float(table["target_low"][mine][0]), float(table["target_high"][mine][0])),
            labels=table["case"][mine].tolist(),
            estimate=table["share"][mine],
            low=table["share_low"][mine],
            high=table["share_high"][mine],
            missed=table["target"][mine] == "missed",
        )
        for group in dict.fromkeys(table["group"].tolist())
        for mine in [table["group"] == group]
    ]
    return {
        "coverage": lj.Figure(
            panels.shares_against_targets(groups, x_label="simulations in which what was promised came true"),
            f"Each mark is a case of {int(table['simulations'].min()):,} simulations with its Wilson interval, each "
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
