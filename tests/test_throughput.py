"""The benchmark: that its arms do the same work, that the gate would see it if not, and what it computes from times."""

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import lossjax as lj
from lossjax.reports.report import read_findings, write_findings

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

from speed import findings, sections, tables
from speed.figures import plot
from speed.record import Record
from speed.sections import ALL_THREADS, LOOP, OURS, PER_CORE, PLAIN
from speed.workers import Arm, Work, WorkerError, alternate
from speed.workloads import TARGETS, WORKLOADS, Workload

SMALL = {
    "lstm": Workload("small", "lstm", 3, 8, 2, seq_len=5, batch_size=4, num_examples=10),
    "transformer": Workload(
        "small", "transformer", 3, 8, 2, seq_len=5, batch_size=4, num_examples=10, num_classes=5, learning_rate=1e-3
    ),
    "conv": Workload(
        "small", "conv", 3, 8, 2, seq_len=7, batch_size=4, num_examples=10, num_classes=5, learning_rate=1e-3
    ),
}


class InProcess:
    """An arm without a process of its own."""

    def __init__(self, worker):
        self.worker = worker

    def call(self, method, **arguments):
        return getattr(self.worker, method)(**arguments)


def small_arms(kind: str, **changed) -> dict[str, InProcess]:
    """All arms of a small workload; ``changed`` is what the Flax arm does differently."""
    pytest.importorskip("torch")
    from speed import flax_arms, ours, torch_arms

    size = dataclasses.asdict(SMALL[kind])
    arms = {
        OURS: ours.Population(size, members=4),
        PLAIN: flax_arms.Vmapped({**size, **changed}, members=2),
        ALL_THREADS: torch_arms.Sequence(size),
    }
    if kind == "lstm":
        arms[sections.TORCH_VMAP] = torch_arms.Vmapped(size, members=2)
    return {name: InProcess(arm) for name, arm in arms.items()}


@pytest.mark.parametrize("kind", SMALL)
def test_all_arms_take_the_same_steps_as_pytorch_in_float64(kind):
    arms = small_arms(kind)
    found = sections.check(SMALL[kind], arms)["largest_relative_difference"]
    assert set(found) == set(arms)
    assert max(found.values()) < sections.GATE_TOLERANCE


def test_the_gate_sees_another_learning_rate():
    """1 % more."""
    with pytest.raises(sections.GateError, match=r"small: Flax jit\(vmap\)'s losses of 20 steps differ from float64"):
        sections.check(SMALL["lstm"], small_arms("lstm", learning_rate=1.01e-2))


def test_flax_is_held_against_a_reference_with_one_bias():
    """Its LSTM is another model than PyTorch's, by more than the gate lets through."""
    pytest.importorskip("torch")
    from speed.torch_arms import Sequence

    arms = small_arms("lstm")

    class TwoBiases(Sequence):
        def reference(self, path, one_bias):
            return super().reference(path, one_bias=False)

    arms[ALL_THREADS] = InProcess(TwoBiases(dataclasses.asdict(SMALL["lstm"])))
    with pytest.raises(sections.GateError, match="Flax"):
        sections.check(SMALL["lstm"], arms)


def test_repetitions_count_what_they_did():
    """In this process: steps and runs of each arm, as many as it says."""
    pytest.importorskip("torch")
    from speed import flax_arms, ours, torch_arms

    size = dataclasses.asdict(SMALL["lstm"])
    plain = flax_arms.Vmapped(size, members=3)
    assert plain.prepare_steps(seconds=1e-9)["steps"] == 1
    assert plain.repeat_steps().count == 3
    assert plain.prepare_runs(seconds=1e9, epochs=2)["epochs"] == 2  # never more than a run has
    assert plain.repeat_runs().count == 3
    assert plain.run(plain.keys[0], 2).shape == (2, 2)

    population = ours.Population(size, members=6)
    facts = population.prepare_steps(seconds=0.01)
    work = population.repeat_steps()
    assert work.count % min(6, facts["tile"] * facts["devices"]) == 0
    assert work.stop - work.start >= 0.01
    population.prepare_population(num_steps=3, num_evals=1)
    assert population.repeat_population().count == 6 * 3

    sequence = torch_arms.Sequence(size)
    assert sequence.prepare_runs(seconds=1e-9, epochs=2)["members"] == 1
    assert sequence.repeat_runs().count == 1
    sequence.share(2)
    assert sequence.repeat_runs().count == 2
    mapped = torch_arms.Vmapped(size, members=3)
    assert mapped.prepare_runs(seconds=1e9, epochs=2)["epochs"] == 2
    assert mapped._run().shape == (2, 3, 2)


def test_an_arm_of_several_processes_adds_up_their_work_and_passes_errors_on():
    with Arm("machine:Peaks", {"cores": 1}, processes=2) as arm:
        arm.prepare("tanh")
        alone = alternate({"a": arm}, "tanh", 2)["a"]
        assert [work.count for work in alone] == [2.0 * 16_384 * 1_000] * 2
        assert alone[0].start < alone[0].stop <= alone[1].start < alone[1].stop
        assert arm.peak_bytes() > 2 * 50e6  # two interpreters with jax
        with pytest.raises(WorkerError, match="prepare_nothing"):
            arm.prepare("nothing")


def test_processes_that_chose_different_numbers_of_runs_all_do_the_largest(monkeypatch):
    asked = []

    def answers(method, arguments):
        asked.append((method, arguments))
        return [{"members": 3, "epochs": 2}, {"members": 5, "epochs": 2}]

    arm = Arm.__new__(Arm)
    arm.info = {"processes": 2}
    monkeypatch.setattr(arm, "_ask", answers)
    assert arm.prepare("runs", seconds=1.0) == {"processes": 2, "members": 5, "epochs": 2}
    assert asked == [("prepare_runs", {"seconds": 1.0}), ("share", {"members": 5})]


def test_arms_alternate():
    order = []

    class Told:
        def __init__(self, name):
            self.name = name

        def repeat(self, what):
            order.append(self.name + what)
            return Work(1, 0, 1)

    alternate({"a": Told("a"), "b": Told("b")}, "x", 2)
    assert order == ["ax", "bx", "ax", "bx"]


def test_operations_of_an_lstm_are_those_of_the_formula():
    """BENCHMARKS.md: 3 · 2 · B·T·4H·(I+H) and 5·B·T·H a layer; the output layer beside them. An epoch: 100 examples."""
    w3 = WORKLOADS["W3"]
    layers = 6 * 100 * 20 * 4 * 32 * (5 + 32) + 6 * 100 * 20 * 4 * 32 * (32 + 32)
    assert 7 * w3.flops == pytest.approx(layers + 6 * 100 * 32 * 2, rel=1e-12)
    assert 7 * w3.transcendentals == pytest.approx(2 * 5 * 100 * 20 * 32, rel=1e-12)


def test_operations_of_a_transformer_are_those_of_its_products():
    """Counted from the shapes of lossjax's own parameters: each matrix is used once an example and step."""
    jax = pytest.importorskip("jax")
    from speed import ours

    workload = WORKLOADS["transformer32"]
    cell = ours.cell(workload, epochs=1)
    inputs = np.zeros((1, workload.seq_len, workload.features), np.float32)
    shapes = jax.eval_shape(lambda: cell.network.init(jax.random.key(0), inputs))["params"]
    kernels = {jax.tree_util.keystr(path): leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
    each_step = sum(size for name, size in kernels.items() if "kernel" in name and "output" not in name)
    output = sum(size for name, size in kernels.items() if "kernel" in name and "output" in name)
    scores_and_values = 2 * 2 * 20 * 20 * 32  # layers, products, query, key, width
    assert workload.flops == 6 * 32 * (20 * each_step + output + scores_and_values)


def test_workloads_and_targets_name_each_other():
    assert set(TARGETS) <= set(WORKLOADS)
    assert all(name == workload.name for name, workload in WORKLOADS.items())
    assert WORKLOADS["W1"].steps_per_epoch == 7


def test_median_of_repetitions_has_its_level():
    found = findings.median(np.array([3.0, 1.0, 2.0, 5.0, 4.0]))
    assert (found.estimate, found.low, found.high, found.level) == (3.0, 1.0, 5.0, 1 - 2 * 0.5**5)
    alone = findings.median(np.array([3.0]))
    assert alone.estimate == 3.0
    assert math.isnan(alone.low)


def test_exponent_of_a_power_and_of_a_curve():
    sizes = np.array([16.0, 32, 64, 128])
    power = findings.exponent(sizes, 3 * sizes**1.7)
    assert power.estimate == pytest.approx(1.7)
    assert power.high - power.low == pytest.approx(0, abs=1e-6)
    curve = findings.exponent(sizes, 100 + sizes**2)
    assert curve.low < curve.estimate < curve.high
    assert math.isnan(findings.exponent(sizes[:2], sizes[:2]).low)


def result(seconds: list[float], count: float, **facts) -> dict:
    common = {"members": 512, "processes": 1, "peak_bytes": 2**30}
    return common | facts | {"count": [count] * len(seconds), "seconds": seconds}


@pytest.fixture
def measured() -> dict:
    """A workload whose ratios are known: 4 in member-steps, 8 in runs; η 1/4, by XLA's slower product more."""
    workload = WORKLOADS["W1"]
    bound = workload.flops / 1e11 + workload.transcendentals / 1e10
    made = {
        "command": "python x.py",
        "when": "2026-01-01T00:00:00+00:00",
        "git_commit": "abc",
        "wall_seconds": 1.0,
        "versions": {"jax": "0"},
        "processor": "p",
        "cores": 2,
        "memory_gib": 1.0,
        "system": "s",
        "python": "3",
        "flags": "none",
    }
    steps = {
        OURS: result([400 * bound, 380 * bound, 420 * bound], 100.0, tile=8, devices=2),
        PLAIN: result([1600 * bound, 1520 * bound, 1680 * bound], 100.0),
    }
    runs = {
        OURS: result([1.0, 1.0, 1.0], 16, epochs=50),
        PER_CORE: result([2.0, 2.0, 2.0], 4, epochs=50),
        LOOP: result([1.0, 1.0, 1.0], 10, epochs=5),  # a tenth of a run each
    }
    peak = {
        "xla": result([2.0, 4.0], 1e11),
        "blas": result([1.0, 2.0], 1e11),
        "tanh": result([1.0, 1.0], 1e10),
    }
    gate = {"steps": 20, "tolerance": 1e-4, "largest_relative_difference": {OURS: 1e-7, PLAIN: 2e-6}}
    scale = {
        "members": {str(m): result([m / 1e4, m / 1e4], m, members=m) for m in (64, 512, 4096)},
        "devices W2": {"1": result([1.0, 1.0], 100), "2": result([1.0, 1.0], 195)},
    }
    startup = {
        "help": {"count": [1.0, 1.0], "seconds": [0.4, 0.3]},
        "W1": {
            c: {"compile_seconds": 3.0, "seconds": 4.0, "process_seconds": 5.0, "tile": 8} for c in ("cold", "warm")
        },
    }
    size = dataclasses.asdict(workload)
    return {
        "W1": {"workload": size, "gate": gate, "steps": steps, "machine": peak, "runs": runs, "made": made},
        "scale": scale | {"made": made},
        "startup": startup | {"made": made},
    }


def test_a_section_of_a_slowed_machine_says_so(measured):
    slow = {
        key: result | {"seconds": [2 * s for s in result["seconds"]]}
        for key, result in measured["W1"]["machine"].items()
    }
    notes = findings.findings(measured | {"W2": measured["W1"] | {"machine": slow}}).notes
    assert [("50% of the best section's" in note) for note in notes if "Peaks in the same call" in note] == [
        False,
        True,
    ]


def test_ratios_limit_and_scale_are_those_of_the_times(measured):
    numbers = findings.findings(measured).numbers
    ratio = numbers["W1: member-steps a second over jit(vmap) of 512 members"]
    assert (ratio.estimate, ratio.low, ratio.high) == pytest.approx((4, 4, 4))  # of neighbours, which vary together
    eta = numbers["W1: η"]
    assert (eta.estimate, eta.low, eta.high) == pytest.approx((1 / 4, 1 / 4.2, 1 / 3.8))
    assert numbers["W1: η against XLA's own product"].estimate > eta.estimate
    assert numbers["W1: whole runs a second over PyTorch, a process a core"].estimate == 8
    assert numbers[f"W1: whole runs a second over {LOOP}"].estimate == 16
    assert numbers["W1, 64 to 4,096 members: slowest member-steps a second over fastest"].estimate == pytest.approx(1)
    assert numbers["exponent of the cost in members"].estimate == pytest.approx(1)
    assert numbers["W2: 2 CPU devices over 1"].estimate == pytest.approx(1.95)


def test_targets_are_marked_as_reached_or_not(measured):
    row = dict(zip(tables.REACHED_HEADER, tables.reached(measured, findings.findings(measured))[0], strict=True))
    assert row["workload"] == "LSTM 1→16 (W1)"
    assert row["member-steps, over jit(vmap)"].endswith("(asked: 3.3× ✓)")
    assert row["η"].endswith("(asked: 0.28 ✗)")
    measured["W1"]["steps"][PLAIN]["members"] = 64  # a quick look is held to nothing
    assert "asked" not in tables.reached(measured, findings.findings(measured))[0][2]


def test_findings_are_written_and_drawn_from_what_was_written(measured, tmp_path):
    found = findings.findings(measured)
    write_findings(found, tmp_path)
    again = read_findings(tmp_path)
    assert again.numbers.keys() == found.numbers.keys()
    assert again.meta == found.meta
    assert len(again.tables["repetitions"]["seconds"]) == 6 + 9 + 6 + 6 + 4 + 2
    text = "\n".join(tables.markdown(measured, again))
    assert "`lossjax --help`: 0.35 [0.3, 0.4] s" in text
    figures = plot(again)
    assert set(figures) == {"gain", "scaling"}
    assert all(isinstance(figure, lj.Figure) for figure in figures.values())


def test_a_section_is_kept_and_measured_again_only_when_something_changed(tmp_path, monkeypatch):
    record = Record.open(tmp_path, "python x.py")
    record.measure("a", lambda: {"value": 1})
    again = Record.open(tmp_path, "python x.py")
    assert again.sections["a"]["value"] == 1
    assert again.has("a")
    assert not again.has("b")
    monkeypatch.setattr("speed.record.git_commit", lambda: "another")
    assert not again.has("a")
