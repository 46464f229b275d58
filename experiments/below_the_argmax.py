"""Can a loss fall a lot while accuracy stands still, because examples move without crossing the argmax (0.30 → 0.49)?

Every example is right or wrong before and right or wrong after: four cells, whose contributions add up to the change in
loss. Accuracy changes by the two cells that cross and by nothing else; so the claim (C2) is that the loss falls in the
two that do not.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

import lossjax as lj
from lossjax.analysis.attribution import CELLS, four_cells
from lossjax.analysis.families import corrected
from lossjax.analysis.plateaus import held_out_records
from lossjax.analysis.proportions import wilson
from lossjax.analysis.regimes import Flat, Windows, windows
from lossjax.analysis.resampling import mean_interval, mean_intervals
from lossjax.analysis.tables import table
from lossjax.analysis.verdicts import judge

# The rules, written before the results -----------------------------------------------------------------------------

FLAT = Flat(loss=0.005, accuracy=0.02)  # some 1,000 held-out examples do not resolve half a percentage point
STATEMENT = "A loss can fall a lot with no accuracy change because examples move without crossing the argmax."
ALL_RULE = (
    "mean over runs of what the examples that stay right or stay wrong take off the held-out loss, minus half of what "
    "all take off, in nats; summed over the run's steps from one of 12 evaluations, evenly spaced in log(step), to the "
    "next in which the loss is resolved as falling: supported if the interval lies above 0, refuted if below"
)
FLAT_RULE = (
    "the same over the run's longest window in which loss is resolved as falling and accuracy as flat within ±2 pp "
    "(P; neither at chance nor at 100 %); runs without such a window are counted apart"
)

# The closed form ---------------------------------------------------------------------------------------------------

BEFORE, AFTER = 0.30, 0.49  # probability of the true class, of two
CASE: Final = float(np.log(AFTER / BEFORE))  # nats by which the loss falls; accuracy stays


def closed_form() -> dict[str, np.ndarray]:
    """The loss of one example by the probability of its true class, on both sides of the argmax."""
    probability = np.linspace(0.02, 0.98, 97)
    return {"probability": probability, "loss": -np.log(probability)}


# What is trained ---------------------------------------------------------------------------------------------------

LSTM = lj.models.LSTM(hidden=32)
# a teacher of its own a seed; at this temperature their mean Bayes accuracy is 0.90 (sd 0.03)
TEACHER = lj.tasks.Teacher(num_examples=500, num_features=5, temperature=0.27, num_test=1000, teacher_seed=None)
DIGITS = lj.tasks.Digits(val_fraction=0.1, test_fraction=0.4)
NOISE = 0.2
CELL_NAMES = {
    "teacher-lstm": "teacher, LSTM",
    "teacher-transformer": "teacher, transformer",
    "teacher-conv": "teacher, convolution",
    "digits-lstm": "digits, LSTM",
    "noisy-digits-lstm": "digits with 20 % label noise, LSTM",
    "italy-lstm": "ItalyPowerDemand, LSTM",
}


def sweep(scale: str) -> lj.Sweep:
    full = scale == "full"

    def cell(task: Any, model: Any, num_steps: int, batch_size: int = 32) -> lj.Cell:
        measure = lj.Measure(
            splits=("test",) if task is TEACHER else ("val", "test"),
            calibration=False,
            num_groups=0,
            per_example=("test",) if task is TEACHER else ("val", "test"),
        )
        config = lj.TrainConfig(
            batch_size=batch_size,
            num_steps=num_steps if full else 60,
            num_evals=12,
            eval_spacing="log",
            measure=measure,
        )
        return lj.Cell(task, model, config)

    cells = {
        "teacher-lstm": cell(TEACHER, LSTM, 640),
        "teacher-transformer": cell(TEACHER, lj.models.Transformer(width=16, layers=1, heads=2), 640),
        "teacher-conv": cell(TEACHER, lj.models.Conv(width=16), 640),
        "digits-lstm": cell(DIGITS, LSTM, 840),  # with and without label noise
        "italy-lstm": cell(lj.tasks.ItalyPowerDemand(), LSTM, 400, batch_size=16),
    }
    rates = {name: 1e-2 if name.endswith("lstm") else 3e-3 for name in cells}
    return lj.Sweep(
        cells=cells,
        hyperparams={
            name: lj.grid(learning_rate=rate, **({"label_noise": [0.0, NOISE]} if name == "digits-lstm" else {}))
            for name, rate in rates.items()
        },
        seeds=200 if full else 8,
        part_size=64,
    )


# What is concluded -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Runs:
    """What is needed of one cell's finite members once their per-example records are gone."""

    num_members: int
    epochs: np.ndarray  # [eval]
    accuracy: np.ndarray  # [member, eval] held out
    steps_cells: np.ndarray  # [member, eval − 1, cell] contributions to ΔL from one evaluation to the next
    falls: np.ndarray  # [member, eval − 1] whether that step's loss is resolved as falling
    flat_cells: np.ndarray  # [run with a P window, cell] contributions over the longest
    large_moves: np.ndarray  # [run with a P window, 2] share that stayed wrong and fell by CASE; its part of ΔL
    moves: np.ndarray  # [bin before, bin after] examples of all P windows by the probability of the true class

    @property
    def flat_share(self) -> lj.Interval:
        return wilson(len(self.flat_cells), self.num_members)


BINS = np.linspace(0, 1, 41)


def summarise(history: lj.History) -> Runs:
    finite = history[history.finite]
    losses, correct = held_out_records(finite)
    found = windows(losses, correct, chance=1 / history.info["num_classes"], flat=FLAT)
    steps = four_cells(losses[:, :-1], losses[:, 1:], correct[:, :-1], correct[:, 1:])
    following = np.arange(finite.num_evals - 1)
    flat_cells, large, moves = [], [], np.zeros((len(BINS) - 1,) * 2)
    for member in range(finite.num_members):
        window = longest_plateau(found, member, finite.steps)
        if window is None:
            continue
        a, b = ((losses[member, at], correct[member, at]) for at in window)
        cells = four_cells(a[0], b[0], a[1], b[1])
        flat_cells.append([cells[cell].mean() for cell in CELLS])
        moved = cells["wrong→wrong"] <= -CASE
        change = float((b[0] - a[0]).mean())
        large.append((moved.mean(), np.where(moved, cells["wrong→wrong"], 0.0).mean() / change))
        moves += np.histogram2d(np.exp(-a[0]), np.exp(-b[0]), bins=(BINS, BINS))[0]
    return Runs(
        num_members=history.num_members,
        epochs=finite.epochs,
        accuracy=correct.mean(axis=2),
        steps_cells=np.stack([steps[cell].mean(axis=2) for cell in CELLS], axis=2),
        falls=found.loss[:, following, following + 1] == "-",
        flat_cells=np.array(flat_cells).reshape(-1, len(CELLS)),
        large_moves=np.array(large).reshape(-1, 2),
        moves=moves,
    )


def longest_plateau(found: Windows, member: int, steps: np.ndarray) -> tuple[int, int] | None:
    """The first of the longest windows, in steps, with P; neither at the ceiling nor at chance."""
    span = np.where((found.letters[member] == "P") & found.interior[member], steps[None, :] - steps[:, None], 0)
    if not span.any():
        return None
    start, end = np.unravel_index(span.argmax(), span.shape)
    return int(start), int(end)


STAYING = [CELLS.index("right→right"), CELLS.index("wrong→wrong")]


def beyond_half(cells: np.ndarray) -> np.ndarray:
    """[run] what staying examples take off the loss minus half of what all do, nats; ``cells`` is [run, cell]."""
    return np.asarray(cells.sum(axis=1) / 2 - cells[:, STAYING].sum(axis=1))


def analyse(histories: Mapping[str, lj.History]) -> lj.Findings:
    runs = {}
    for name in histories:
        history = histories[name]
        if name == "digits-lstm":
            runs[name] = summarise(history.select(label_noise=0.0))
            runs[f"noisy-{name}"] = summarise(history.select(label_noise=NOISE))
        else:
            runs[name] = summarise(history)
    return lj.Findings(
        verdicts=corrected([one for name in runs for one in verdicts(name, runs[name])], lambda _: (0.0,)),
        numbers={key: value for name in runs for key, value in numbers(CELL_NAMES[name], runs[name]).items()},
        tables={
            "closed_form": closed_form(),
            "phases": phase_table(runs),
            "moves": move_table(runs),
            "plateau_cells": plateau_table(runs),
        },
        notes=(
            f"The case of the discussion: at two classes an example that goes from {BEFORE} to {AFTER} takes "
            f"{CASE:.3f} nats off its loss and stays wrong; from {AFTER} to {1 - AFTER:.2f} it takes "
            f"{np.log((1 - AFTER) / AFTER):.3f} nats off and turns right.",
            "Teachers, inputs and labels are drawn anew for each seed; digits and ItalyPowerDemand are one data set "
            "and one split each, so their intervals are over seeds of training on these data.",
            "Held out: 1,000 fresh examples of a teacher; 898 digits; 1,042 days of ItalyPowerDemand.",
        ),
    )


def verdicts(name: str, runs: Runs) -> list[lj.Verdict]:
    scope = "seeds, each with a teacher and data of its own" if name.startswith("teacher") else "seeds, on these data"
    falling = np.where(runs.falls[..., None], runs.steps_cells, 0.0).sum(axis=1)
    found = []
    for where, cells, rule, note in (
        ("all resolved drops", falling, ALL_RULE, ""),
        ("accuracy flat", runs.flat_cells, FLAT_RULE, f"runs with such a window: {runs.flat_share}"),
    ):
        estimate = mean_interval(beyond_half(cells)) if len(cells) > 1 else lj.Interval(*[float("nan")] * 3)
        taken = -cells.mean(axis=0) if len(cells) else []
        told = ", ".join(f"{nats:.3g} by {cell}" for cell, nats in zip(CELLS, taken, strict=False))
        found.append(
            lj.Verdict(
                claim="C2",
                statement=STATEMENT,
                where=f"{CELL_NAMES[name]}; {where}",
                contrast="drop by examples that stay, minus half of the drop (nats)",
                rule=rule,
                estimate=estimate,
                outcome=judge(estimate, num_seeds=max(len(cells), 1)),
                num_seeds=len(cells),
                scope=scope,
                note="; ".join(part for part in (told and f"nats taken off: {told}", note) if part),
            )
        )
    return found


def numbers(name: str, runs: Runs) -> dict[str, lj.Interval]:
    found = {
        f"{name}: runs not finite": wilson(runs.num_members - len(runs.accuracy), runs.num_members),
        f"{name}: runs with a window of falling loss and flat accuracy": runs.flat_share,
    }
    if len(runs.flat_cells) > 1:
        found[f"{name}: drop of the loss in it (nats)"] = mean_interval(-runs.flat_cells.sum(axis=1))
        for cell, contribution in zip(CELLS, -runs.flat_cells.T, strict=True):
            found[f"{name}: … taken off by {cell} (nats)"] = mean_interval(contribution)
        found[
            f"{name}: examples that stay wrong in it while their loss falls by {CASE:.2f} nats (0.30 → 0.49) or more"
        ] = mean_interval(runs.large_moves[:, 0])
        found[f"{name}: what those take off the loss, as a share of the drop"] = mean_interval(runs.large_moves[:, 1])
    return found


# What is plotted ---------------------------------------------------------------------------------------------------


def phase_table(runs: Mapping[str, Runs]) -> dict[str, np.ndarray]:
    """Each cell's contribution to ΔL from one evaluation to the next, means over runs; ΔL and ΔA beside."""
    return table(
        {
            "cell": name,
            "from_epoch": found.epochs[:-1],
            "to_epoch": found.epochs[1:],
            "what": what,
            "mean": mean_intervals(values),
        }
        for name, found in runs.items()
        for what, values in [
            *((cell, found.steps_cells[..., i]) for i, cell in enumerate(CELLS)),
            ("ΔL", found.steps_cells.sum(axis=2)),
            ("ΔA", np.diff(found.accuracy, axis=1)),
        ]
    )


def move_table(runs: Mapping[str, Runs]) -> dict[str, np.ndarray]:
    """How many examples went from one bin of the true class's probability to another within P windows; not empty."""
    return table(
        {
            "cell": name,
            "before": BINS[before],
            "after": BINS[after],
            "examples": found.moves[before, after].astype(np.int64),
        }
        for name, found in runs.items()
        for before, after in [np.nonzero(found.moves)]
    )


def plateau_table(runs: Mapping[str, Runs]) -> dict[str, np.ndarray]:
    """Each cell's contribution to ΔL over the longest P windows, means over the runs that have one."""
    found = {name: cells for name, cells in ((name, one.flat_cells) for name, one in runs.items()) if len(cells)}
    return {
        "cell": np.array(list(found), dtype=str),
        **{cell: np.array([cells[:, i].mean() for cells in found.values()]) for i, cell in enumerate(CELLS)},
    }


SHOWN = ("teacher-lstm", "digits-lstm", "noisy-digits-lstm", "italy-lstm")


def plot(findings: lj.Findings) -> dict[str, lj.Figure]:
    from lossjax.reports import panels

    form, moves, phases, plateaus = (
        findings.tables[name] for name in ("closed_form", "moves", "phases", "plateau_cells")
    )
    mine = moves["cell"] == "teacher-lstm"
    counts = np.zeros((len(BINS) - 1,) * 2)
    bins = [np.searchsorted(BINS, moves[side][mine] + 1e-9) - 1 for side in ("before", "after")]
    counts[bins[0], bins[1]] = moves["examples"][mine]
    row = np.flatnonzero(plateaus["cell"] == "teacher-lstm")
    parts = {cell: float(plateaus[cell][row[0]]) if len(row) else 0.0 for cell in CELLS}

    def phase(name: str) -> panels.Phases:
        def column(what: str, key: str) -> np.ndarray:
            return phases[key][(phases["cell"] == name) & (phases["what"] == what)]

        return panels.Phases(
            CELL_NAMES[name].replace(", LSTM", ""),
            begin=column("ΔA", "from_epoch"),
            end=column("ΔA", "to_epoch"),
            contributions={cell: column(cell, "mean") for cell in CELLS},
            loss_low=column("ΔL", "mean_low"),
            loss_high=column("ΔL", "mean_high"),
            accuracy=column("ΔA", "mean"),
            accuracy_low=column("ΔA", "mean_low"),
            accuracy_high=column("ΔA", "mean_high"),
        )

    return {
        "below_the_argmax": lj.Figure(
            panels.below_the_argmax(
                form["probability"], form["loss"], (BEFORE, AFTER), edges=BINS, counts=counts, contributions=parts
            ),
            "Left, the closed form: from 0.30 to 0.49 an example's loss falls by 0.49 nats and it stays wrong. Right, "
            "an LSTM on a teacher's two classes, from the start to the end of each run's longest window of falling "
            "loss and flat accuracy: held-out examples by the probability of their true class (number on a log "
            "scale), and each quadrant's share of the drop in loss.",
        ),
        "four_cells": lj.Figure(
            panels.cells_by_phase([phase(name) for name in SHOWN]),
            "An LSTM's held-out loss from one evaluation to the next, and the cells that the change comes from (means "
            "over runs; the dot is the sum, with its 95 % interval); below, the change in accuracy in the same steps, "
            "with 95 % intervals.",
        ),
    }


experiment = lj.Experiment(
    name="below_the_argmax",
    question="When a loss falls, how much of it comes from examples that cross the argmax, and how much from others?",
    claims=("C2",),
    sweep=sweep,
    analyse=analyse,
    plot=plot,
)

if __name__ == "__main__":
    lj.main(experiment)
