"""Phase diagrams: on histories whose answer is known."""

import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

import lossjax as lj
from lossjax.reports import maps
from lossjax.reports.report import read_findings, write_findings
from lossjax.sweeps.experiment import load_experiment

EXPERIMENT = load_experiment(Path(__file__).parents[1] / "experiments" / "phase_diagram.py")
phase_diagram = sys.modules[EXPERIMENT.sweep.__module__]
SEEDS, EXAMPLES = 12, 400
# what loss, refined loss and accuracy do in the second half
MOVES = {
    "P": (-0.2, -0.2, 0.0),
    "O": (0.2, 0.0, 0.0),
    "K": (0.2, 0.2, 0.0),
    "W": (0.2, 0.2, -0.3),
    "G": (-0.2, -0.2, 0.1),
}


def runs(letters, **hyperparams):
    """A member a letter: the first half halves all losses, then the regime's moves; "∞" stops being finite."""
    rng = np.random.default_rng(0)
    losses, refined, correct = [], [], []
    rank = np.linspace(0, 1, EXAMPLES, endpoint=False)
    for letter in letters:
        loss, refinement, accuracy = MOVES.get(letter, (0.0, 0.0, 0.0))
        own = rng.uniform(0.5, 1.5, EXAMPLES)  # what an example has at every evaluation cancels in differences
        spread = 0.01 * rng.standard_normal((3, EXAMPLES))
        if letter == "?":
            spread[2] += 5 * rng.standard_normal(EXAMPLES)
        losses.append(own * np.array([[2.0], [1.0], [1.0]]) + np.array([[0.0], [0.0], [loss]]) + spread)
        refined.append(own + np.array([[0.0], [0.0], [refinement]]) + spread)
        correct.append(rank < np.array([[0.5], [0.7], [0.7 + accuracy]]))
    num_members = len(letters)
    return lj.History(
        metrics={
            "test_example_loss": np.array(losses, np.float32),
            "test_example_refined_loss": np.array(refined, np.float32),
            "test_example_correct": np.array(correct),
        },
        steps=np.array([0, 240, 480]),
        seeds={"init": np.arange(num_members, dtype=np.uint32) % SEEDS},
        hyperparams={name: np.asarray(values, np.float32) for name, values in hyperparams.items()},
        nonfinite_step=np.where(np.array(letters) == "∞", 300, -1).astype(np.int32),
        info={"num_classes": 2},
    )


def test_the_second_half_has_its_regime():
    letters = [*MOVES, "?", "∞"]
    assert phase_diagram.regimes_of(runs(letters)).tolist() == [*MOVES, "undecided", "nonfinite"]
    assert phase_diagram.regimes_of(runs([" "])).tolist() == ["N"]


def regime(place, *, train_size, label_noise, learning_rate, weight_decay):
    """Two phases on each plane, with a corner of runs that broke."""
    if learning_rate > 0.05 and weight_decay > 2:
        return "∞"
    if learning_rate != np.float32(0.01) or weight_decay > 0:
        return "O" if weight_decay < 0.1 else "P"
    return "W" if label_noise > 0.25 else "O" if train_size < 500 else "G"


@pytest.fixture(scope="module")
def findings():
    sweep, cells = EXPERIMENT.sweep("smoke"), {}
    for key, place in phase_diagram.PLACES.items():
        columns = {
            name: np.asarray(values) for name, values in vars(sweep.hyperparams[key]).items() if values is not None
        }
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)] * SEEDS
        letters = [regime(place, **row) for row in rows]
        tiled = {name: np.tile(values, SEEDS) for name, values in columns.items()}
        history = runs(letters, **tiled)
        history.seeds["init"][:] = np.repeat(np.arange(SEEDS), len(columns["train_size"]))  # seed-major
        cells[key] = history
    return EXPERIMENT.analyse(cells)


def test_every_point_has_its_phase(findings):
    phases = findings.tables["phases"]
    assert set(phases["runs"]) == {SEEDS}
    assert set(phases["share"]) == {1.0}
    data = (phases["place"] == "teacher") & (phases["plane"] == phase_diagram.PLANES["data"].name)
    expected = np.where(phases["y"] > 0.25, "W", np.where(phases["x"] < 500, "O", "G"))
    np.testing.assert_array_equal(phases["commonest"][data], expected[data])
    assert set(phases["x"][data]) == set(phase_diagram.PLACES["teacher"].sizes)
    assert set(phases["y"]) == {*phase_diagram.NOISE, *phase_diagram.DECAYS}
    corner = (phases["x"] == 0.1) & (phases["y"] == 3.0)
    assert set(phases["commonest"][corner]) == {"nonfinite"}
    assert set(phases["share_nonfinite_low"][corner]) == {phases["share_low"][0]}


def test_what_is_reported_of_a_plane(findings):
    numbers = findings.numbers
    assert numbers["teacher, noise and examples: runs in W"].estimate == pytest.approx(4 / 7)
    # at the most examples: none in O or K; at the fewest: those without much noise
    change = numbers["teacher, noise and examples: O or K, at the highest minus at the lowest training examples"]
    assert change.estimate == pytest.approx(-3 / 7)
    assert numbers["teacher, rate and decay: runs in nonfinite"].estimate == pytest.approx(1 / 42)
    assert any("of 42 points" in note for note in findings.notes)


def test_figures_need_the_tables_alone(findings, tmp_path):
    write_findings(findings, tmp_path)
    figures = EXPERIMENT.plot(read_findings(tmp_path))
    assert set(figures) == {"phase_diagram"}
    assert len(figures["phase_diagram"].figure.axes) == 4


def test_a_map_shows_what_is_commonest_how_common_and_how_surely():
    drawn = maps.phase_maps(
        [
            maps.PhaseMap(
                "teacher",
                "data",
                "a teacher",
                "examples",
                "noise",
                ["50", "100"],
                ["0"],
                np.array([["O", "undecided"]]),
                np.array([[1.0, 0.5]]),
                resolved=np.array([[True, False]]),
                differs=np.array([[True, False]]),
            )
        ]
    )
    (ax,) = drawn.axes
    tiles = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    np.testing.assert_allclose(tiles[0].get_facecolor()[:3], to_rgb(maps.PHASES["O"][2]))
    assert sum(tiles[1].get_facecolor()[:3]) > sum(to_rgb(maps.PHASES["undecided"][2]))  # paler
    assert [bool(tile.get_hatch()) for tile in tiles] == [False, True]
    assert [(text.get_text(), text.get_weight()) for text in ax.texts] == [("O 100", "bold"), ("? 50", "normal")]
    unknown = maps.PhaseMap("a", "b", "c", "x", "y", ["1"], ["1"], np.array([["Q"]]), *[np.ones((1, 1))] * 3)
    with pytest.raises(ValueError, match="no phase is named 'Q'"):
        maps.phase_maps([unknown])


def test_the_smoke_sweep_differs_in_size_only():
    full, smoke = EXPERIMENT.sweep("full"), EXPERIMENT.sweep("smoke")
    assert list(smoke.cells) == list(full.cells)
    for name, cell in full.cells.items():
        assert cell.task == smoke.cells[name].task
        assert cell.config.num_evals == smoke.cells[name].config.num_evals == 2
        # the planes cross in one configuration, which is trained once
        assert len(full.hyperparams[name].learning_rate) == 2 * 42 - 1
    assert len(full.members("teacher")) >= 40 * 83
