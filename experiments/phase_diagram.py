"""Where do loss and accuracy part ways? Phase diagrams of the second half of training over two planes.

An LSTM on a teacher's labels and on handwritten digits, at every point of two planes: label noise by training examples,
and learning rate by weight decay. Each run is given the regime of the second half of its training, on held-out
examples; a point's phase is the regime of most of its runs.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

import lossjax as lj
from lossjax.analysis.phases import PhaseDiagram, phase_diagram
from lossjax.analysis.regimes import DIVERGENCE, Flat, windows
from lossjax.analysis.resampling import mean_interval
from lossjax.analysis.tables import table

# What is looked at, written before the results ---------------------------------------------------------------------

FLAT = Flat(loss=0.005, accuracy=0.02)  # as in plateau.py: thousands of held-out examples do not resolve half a point
LEVEL = 0.05  # false discoveries among the points that are marked
HALF, END = 1, 2  # evaluations: the window is the second half of training

# What is trained ---------------------------------------------------------------------------------------------------

LSTM = lj.models.LSTM(hidden=16)
STEPS, RATE = 480, 1e-2
NOISE = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)  # of the labels redrawn
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
DECAYS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


@dataclasses.dataclass(frozen=True)
class Place:
    """A data set, the sizes of its training set, and where the plane of rates and decays lies."""

    name: str
    task: Any
    sizes: tuple[int, ...]
    train_size: int
    label_noise: float


PLACES: Final = {
    # a teacher of its own a seed; at this temperature their mean Bayes accuracy is 0.90 (sd 0.03)
    "teacher": Place(
        "teacher",
        lj.tasks.Teacher(
            num_examples=1600, seq_len=10, num_features=5, temperature=0.27, num_test=3000, teacher_seed=None
        ),
        sizes=(50, 100, 200, 400, 800, 1600),
        train_size=200,
        label_noise=0.0,
    ),
    "digits": Place(
        "digits",
        lj.tasks.Digits(val_fraction=0.0, test_fraction=0.6),
        sizes=(22, 45, 90, 180, 360, 719),
        train_size=180,
        label_noise=0.2,
    ),
}


@dataclasses.dataclass(frozen=True)
class Plane:
    """Two hyperparameters that vary; the others are a place's own."""

    name: str
    x: str
    y: str
    x_label: str
    y_label: str


PLANES: Final = {
    "data": Plane("noise and examples", "train_size", "label_noise", "training examples", "label noise"),
    "training": Plane("rate and decay", "learning_rate", "weight_decay", "learning rate", "decoupled weight decay"),
}


def points(place: Place, plane: str) -> list[dict[str, float]]:
    """The configurations of a plane, y by y."""
    common = {
        "learning_rate": RATE,
        "weight_decay": 0.0,
        "train_size": place.train_size,
        "label_noise": place.label_noise,
    }
    if plane == "data":
        return [common | {"label_noise": noise, "train_size": size} for noise in NOISE for size in place.sizes]
    return [common | {"weight_decay": decay, "learning_rate": rate} for decay in DECAYS for rate in RATES]


def sweep(scale: str) -> lj.Sweep:
    full = scale == "full"
    config = lj.TrainConfig(
        batch_size=16,
        num_steps=STEPS if full else 16,
        num_evals=END,
        measure=lj.Measure(splits=("test",), num_groups=0, per_example=("test",)),
    )

    def population(place: Place) -> lj.Hyperparams:
        # the planes cross: a configuration of both is trained once
        rows = list({tuple(row.values()): row for plane in PLANES for row in points(place, plane)}.values())
        return lj.Hyperparams(**{name: np.array([row[name] for row in rows], np.float32) for name in rows[0]})

    return lj.Sweep(
        cells={key: lj.Cell(place.task, LSTM, config) for key, place in PLACES.items()},
        hyperparams={key: population(place) for key, place in PLACES.items()},
        seeds=40 if full else 2,
        part_size=166,
    )


# What is concluded -------------------------------------------------------------------------------------------------

UNDECIDED = "undecided"
ORDER = ("P", "O", "K", "S", "G", "W", "N", UNDECIDED, "nonfinite")


def regimes_of(history: lj.History) -> np.ndarray:
    """[member] the regime of the second half: a letter, ``"undecided"`` (N-u) or ``"nonfinite"``."""
    found = np.full(history.num_members, "nonfinite", dtype="<U9")
    finite = history[history.finite]
    losses, correct, refined = (
        finite.metrics[f"test_example_{what}"][:, HALF:] for what in ("loss", "correct", "refined_loss")
    )
    window = windows(losses, correct, chance=1 / history.info["num_classes"], refined_losses=refined, flat=FLAT)
    letters = np.where(window.refinements == "N-u", UNDECIDED, window.letters)
    found[history.finite] = letters[:, 0, -1]
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Mapped:
    """One plane in one place."""

    regimes: np.ndarray  # [seed, y, x]
    diagram: PhaseDiagram

    def share(self, *letters: str) -> lj.Interval:
        """Of the plane's runs in these regimes; the interval is over seeds, each with a run at every point."""
        return over_seeds(np.isin(self.regimes, letters).mean(axis=(1, 2)))

    def trend(self, axis: int, *letters: str) -> lj.Interval:
        """The share at the highest value along y (1) or x (2) minus at the lowest, mean over the other axis."""
        chosen = np.isin(self.regimes, letters).astype(float)
        change = np.take(chosen, -1, axis=axis) - np.take(chosen, 0, axis=axis)
        return over_seeds(change.mean(axis=1))


def over_seeds(values: np.ndarray) -> lj.Interval:
    """Without bounds where all seeds are the same: there is no spread to tell how sure that is."""
    if np.ptp(values) == 0:
        return lj.Interval(float(values[0]), float("nan"), float("nan"))
    return mean_interval(values)


def mapped(history: lj.History, place: Place, plane: str) -> Mapped:
    rows, columns = PLANES[plane].y, PLANES[plane].x
    fixed = {name: value for name, value in points(place, plane)[0].items() if name not in (rows, columns)}
    history = history.select(**fixed)
    # as they were written: float32 has digits of its own
    x, y = (np.round(history.hyperparams[name].astype(np.float64), 6) for name in (columns, rows))
    regimes = regimes_of(history)
    diagram = phase_diagram(regimes, x, y, order=ORDER)
    by_seed = np.lexsort([x, y, history.seeds["init"]])
    return Mapped(regimes[by_seed].reshape(-1, *diagram.totals.shape), diagram)


def analyse(histories: Mapping[str, lj.History]) -> lj.Findings:
    found = {(key, plane): mapped(histories[key], place, plane) for key, place in PLACES.items() for plane in PLANES}
    reported = {name: value for key in found for name, value in numbers(*key, found[key]).items()}
    return lj.Findings(
        numbers=reported,
        tables={
            "phases": table(
                {"place": place, "plane": PLANES[plane].name, **one.diagram.table(ORDER)}
                for (place, plane), one in found.items()
            )
        },
        notes=(
            f"The window is the second half of {STEPS} steps. A run's regime is over its own held-out examples (3,000 "
            "of a teacher, 1,078 digits), loss flat within ±0.005 nats and accuracy within ±2 pp; within a run, seed "
            "variance is not observed. Undecided: too few examples to tell.",
            "Marks: the commonest regime against the next, and its share against that on the whole plane, by exact "
            "binomial tests with 5 % false discoveries over each map (Benjamini–Hochberg).",
            *(marks(*key, found[key].diagram) for key in found),
            *(f"{name}: the same in every seed" for name, value in reported.items() if np.isnan(value.low)),
            "Over-confident and the like: one temperature repairs at least four fifths of the loss's growth, by the "
            "sign of an estimate.",
            "A teacher's seeds have a teacher and data of their own, the same at every point; digits are one data set "
            "and one split, so shares are over seeds of training on these data. Labels are noisy in training only.",
            f"Adam, batches of 16; rate and decay vary with {PLACES['teacher'].train_size} examples of a teacher and "
            f"with {PLACES['digits'].train_size} digits, of whose labels 20 % are redrawn; noise and examples vary at "
            f"a rate of {RATE:g} without decay.",
            "The map is exploratory: it has no claim and no verdict. Planes, window and limits were fixed before a "
            "trial of three other seeds; after it only the cost was cut (seeds, units and test examples).",
        ),
    )


def called(place: str, plane: str) -> str:
    return f"{PLACES[place].name}, {PLANES[plane].name}"


def numbers(place: str, plane: str, found: Mapped) -> dict[str, lj.Interval]:
    name = called(place, plane)
    numbers = {f"{name}: runs in which loss and accuracy part (P, O, K or S)": found.share(*DIVERGENCE)}
    numbers |= {f"{name}: runs in {letter}": found.share(letter) for letter in found.diagram.counts}
    for axis, label in ((2, PLANES[plane].x_label), (1, PLANES[plane].y_label)):
        for letters, what in ((("O", "K"), "O or K"), (("W",), "W")):
            numbers[f"{name}: {what}, at the highest minus at the lowest {label}"] = found.trend(axis, *letters)
    return numbers


def marks(place: str, plane: str, diagram: PhaseDiagram) -> str:
    """What is marked on a map, in a sentence."""
    columns = diagram.table(ORDER)
    resolved, differs = (int((columns[f"q_{what}"] < LEVEL).sum()) for what in ("commonest", "differs"))
    return (
        f"{called(place, plane)}: of {diagram.totals.size} points the commonest regime is resolved as such at "
        f"{resolved}, and its share differs from that on the whole plane at {differs}."
    )


# What is plotted ---------------------------------------------------------------------------------------------------


def plot(findings: lj.Findings) -> dict[str, lj.Figure]:
    from lossjax.reports import maps

    phases = findings.tables["phases"]

    def phase_map(key: str, place: Place, plane: Plane) -> maps.PhaseMap:
        mine = (phases["place"] == key) & (phases["plane"] == plane.name)
        x, y = (np.unique(phases[axis][mine]) for axis in ("x", "y"))
        commonest, share, q_commonest, q_differs = (
            phases[name][mine].reshape(len(y), len(x)) for name in ("commonest", "share", "q_commonest", "q_differs")
        )
        fixed = f"{place.train_size} examples" + (", 20 % label noise" if place.label_noise else "")
        return maps.PhaseMap(
            key,
            plane.name,
            f"{place.name}, {fixed}" if plane.x == "learning_rate" else place.name,
            plane.x_label,
            plane.y_label,
            [f"{value:g}" for value in x],
            [f"{value:g}" for value in y],
            commonest,
            share,
            resolved=q_commonest < LEVEL,
            differs=q_differs < LEVEL,
        )

    return {
        "phase_diagram": lj.Figure(
            maps.phase_maps(
                [phase_map(key, place, plane) for key, place in PLACES.items() for plane in PLANES.values()]
            ),
            "What becomes of held-out loss and accuracy in the second half of training: the commonest regime of the "
            f"{int(phases['runs'].max())} runs at each point, with its per cent; the paler, the fewer. Hatched: not "
            "resolved as the commonest. Bold: a share other than on the whole plane (both at 5 % false discoveries).",
        )
    }


experiment = lj.Experiment(
    name="phase_diagram",
    question="Where, by label noise and data, by learning rate and decay, do loss and accuracy part ways?",
    claims=(),
    sweep=sweep,
    analyse=analyse,
    plot=plot,
)

if __name__ == "__main__":
    lj.main(experiment)
