"""The sections of the benchmark: each asks its arms in turn and returns what they did, in JSON's types."""

import contextlib
import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from speed.record import Section, as_json
from speed.workers import Arm, Work, alternate
from speed.workloads import WORKLOADS, Workload

GATE_STEPS: Final = 20
# relative; float32 rounding, amplified by 20 steps of Adam
GATE_TOLERANCE: Final = 1e-4
OURS, PLAIN = "lossjax", "Flax jit(vmap)"
PER_CORE, ALL_THREADS = "PyTorch, a process a core", "PyTorch, all threads"
TORCH_VMAP, LOOP = "torch.func.vmap", "Flax jit, in a loop"
DISCUSSED: Final = ("W1", "W2", "W3")
# A virtual machine's host takes freed memory back, and halts it now and then meanwhile: in the seconds after 13 GB were
# freed single products ran at 12 to 120 GFLOP/s instead of 160 to 190.
LARGE: Final = 4 * 2**30  # bytes of an arm after whose repetitions the machine is left alone
REST: Final = 10.0  # seconds


class GateError(RuntimeError):
    """An arm does not compute what the others do; nothing it does is timed."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is done. The full benchmark's values; ``quick`` ones in throughput.py."""

    cores: int
    repetitions: int = 5
    seconds: float = 1.0  # a repetition, where it can be chosen
    members: int = 512  # of the populations that are mapped whole
    torch_members: int = 128  # of torch.func's, whose cost is mostly Python's
    scale_members: tuple[int, ...] = (64, 512, 4096, 16_384)
    scale_steps: int = 42
    scales: Mapping[str, tuple[int, ...]] = dataclasses.field(
        default_factory=lambda: {
            "width": (16, 32, 64, 128),
            "seq_len": (10, 20, 40, 80),
            "num_classes": (2, 30, 300, 3000),
        }
    )
    started: tuple[str, ...] = tuple(WORKLOADS)  # workloads whose start-up is timed
    gpu_members: tuple[int, ...] = (64, 512, 4096, 16_384)


def workload_section(workload: Workload, settings: Settings) -> Section:
    """Gate, member-steps, the machine's own speeds, whole runs: all in one call, alternating."""
    size = dataclasses.asdict(workload)
    discussed = workload.name in DISCUSSED
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(empty_cache())
        one_thread = {"threads": 1}, settings.cores, {"OMP_NUM_THREADS": "1"}
        ways: dict[str, tuple[Any, ...]] = {
            OURS: ("ours:Population", {"members": settings.members}, 1, cache),
            PLAIN: ("flax_arms:Vmapped", {"members": settings.members}),
            PER_CORE: ("torch_arms:Sequence", *one_thread),
            ALL_THREADS: ("torch_arms:Sequence", {}),
        }
        if discussed:
            ways[LOOP] = "flax_arms:Looped", {}
            ways[TORCH_VMAP] = "torch_arms:Vmapped", {"members": settings.torch_members}
        arms = {
            name: stack.enter_context(Arm(target, {"workload": size, **arguments}, *rest))
            for name, (target, arguments, *rest) in ways.items()
        }
        machine = stack.enter_context(Arm("machine:Peaks", {"cores": settings.cores}))
        gate = check(workload, arms)
        steps = _member_steps({name: arms[name] for name in (OURS, PLAIN)}, machine, settings)
        timed = {name: arm for name, arm in arms.items() if name != PLAIN or discussed}
        for arm in timed.values():
            arm.prepare("runs", seconds=settings.seconds, epochs=workload.epochs)
        runs = _results(timed, alternate(timed, "runs", settings.repetitions))
    return {"workload": size, "gate": gate, **steps, "runs": runs}


def check(workload: Workload, arms: Mapping[str, Arm]) -> Section:
    """Largest relative difference of each arm's batch losses from PyTorch's in float64, from the same start.

    Flax's LSTM has one bias a gate where PyTorch and lossjax have two, which Adam moves twice as fast: its reference
    has one bias too. Raises GateError.
    """
    with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
        path = str(Path(folder) / "start.npz")
        losses = {OURS: arms[OURS].call("start", path=path, num_steps=GATE_STEPS)}
        losses |= {name: arm.call("losses", path=path) for name, arm in arms.items() if name != OURS}
        reference = {
            one_bias: np.array(arms[ALL_THREADS].call("reference", path=path, one_bias=one_bias))
            for one_bias in (False, True)
        }
    found = {}
    for name, values in losses.items():
        expected = reference[name in (PLAIN, LOOP)]
        found[name] = float(np.max(np.abs(np.array(values) / expected - 1)))
        if not found[name] < GATE_TOLERANCE:
            raise GateError(
                f"{workload.name}: {name}'s losses of {GATE_STEPS} steps differ from float64 by "
                f"{found[name]:.2g} of themselves and may by {GATE_TOLERANCE:g}; it computes something else, so "
                "nothing is timed: correct the arm"
            )
    return {"steps": GATE_STEPS, "tolerance": GATE_TOLERANCE, "largest_relative_difference": found}


def _member_steps(arms: Mapping[str, Arm], machine: Arm, settings: Settings) -> Section:
    speeds = ("xla", "blas", "tanh")
    for arm in arms.values():
        arm.prepare("steps", seconds=settings.seconds)
    for speed in speeds:
        machine.prepare(speed)
    done: dict[str, list[Work]] = {name: [] for name in (*arms, *speeds)}
    for _ in range(settings.repetitions):
        for name, arm in arms.items():
            done[name].append(arm.repeat("steps"))
            if arm.peak_bytes() > LARGE:
                time.sleep(REST)
        for speed in speeds:
            done[speed].append(machine.repeat(speed))
    return {"steps": _results(arms, done), "machine": {speed: as_json(done[speed]) for speed in speeds}}


def scale_section(settings: Settings) -> Section:
    """Cost against members, hidden size, time steps and classes; one CPU device against all."""
    found: Section = {}
    with empty_cache() as cache:
        sizes: dict[str, dict[str, Any]] = {str(members): {"members": members} for members in settings.scale_members}
        length = {"num_steps": settings.scale_steps, "num_evals": 1}
        # compiled beforehand: a process that compiles needs more memory than the population does
        with _populations(WORKLOADS["W1"], {"": {"members": max(settings.scale_members)}}, cache) as arms:
            arms[""].prepare("population", **length)
        with _populations(WORKLOADS["W1"], sizes, cache) as arms:
            for arm in arms.values():
                arm.prepare("population", **length)
            found["members"] = _results(arms, alternate(arms, "population", settings.repetitions))
        base = WORKLOADS["lstm32"]
        for field, values in settings.scales.items():
            sizes = {str(value): {"workload": dataclasses.asdict(base) | {field: value}} for value in values}
            found[field] = _steps(base, sizes, cache, settings)
        for name in ("W1", "W2"):
            sizes = {str(devices): {"devices": devices} for devices in (1, settings.cores)}
            found[f"devices {name}"] = _steps(WORKLOADS[name], sizes, cache, settings)
    return found


def startup_section(settings: Settings) -> Section:
    """``lossjax --help``; a workload's first step with an empty compilation cache, and in a second process with it."""
    command = Path(sys.executable).with_name("lossjax")
    seconds = []
    for _ in range(settings.repetitions + 1):
        began = time.monotonic()
        subprocess.run([str(command), "--help"], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.monotonic() - began)
    found: Section = {"help": {"count": [1.0] * settings.repetitions, "seconds": seconds[1:]}}
    for name in settings.started:
        workload = WORKLOADS[name]
        with empty_cache() as cache:
            found[name] = {}
            for temperature in ("cold", "warm"):
                began = time.monotonic()
                with Arm("ours:Population", {"workload": dataclasses.asdict(workload)}, settings=cache) as arm:
                    first = arm.call("first_call", epochs=workload.epochs)
                    found[name][temperature] = first | {"process_seconds": time.monotonic() - began}
    return found


def gpu_section(settings: Settings) -> Section:
    """Whole runs on one GPU against cuDNN's LSTM, one run after another."""
    found: Section = {}
    for name in (*DISCUSSED, "lstm16", "lstm32", "lstm64", "lstm128"):
        workload = WORKLOADS[name]
        size = dataclasses.asdict(workload)
        found[name] = {}
        with empty_cache() as cache, Arm("torch_arms:Sequence", {"workload": size, "device": "cuda"}) as theirs:
            theirs.prepare("runs", seconds=settings.seconds, epochs=workload.epochs)
            for members in settings.gpu_members:
                # one process of ours at a time: jax takes most of the device's memory
                with Arm("ours:Population", {"workload": size, "members": members}, settings=cache) as ours:
                    ours.prepare("population", epochs=workload.epochs)
                    arms = {OURS: ours, "cuDNN in sequence": theirs}
                    done: dict[str, list[Work]] = {arm: [] for arm in arms}
                    for _ in range(settings.repetitions):
                        done[OURS].append(ours.repeat("runs"))
                        done["cuDNN in sequence"].append(theirs.repeat("runs"))
                    found[name][str(members)] = _results(arms, done)
    return found


@contextlib.contextmanager
def empty_cache() -> Iterator[dict[str, str]]:
    """Settings with which lossjax keeps its compiled programs in a folder of their own, empty at first."""
    with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
        yield {"XDG_CACHE_HOME": folder}


@contextlib.contextmanager
def _populations(
    workload: Workload, ways: Mapping[str, Mapping[str, Any]], cache: Mapping[str, str]
) -> Iterator[dict[str, Arm]]:
    """lossjax in several ways, each in a process of its own: what is different, by name."""
    common = {"workload": dataclasses.asdict(workload)}
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(Arm("ours:Population", {**common, **given}, settings=cache))
            for name, given in ways.items()
        }


def _steps(
    workload: Workload, ways: Mapping[str, Mapping[str, Any]], cache: Mapping[str, str], settings: Settings
) -> Section:
    with _populations(workload, ways, cache) as arms:
        for arm in arms.values():
            arm.prepare("steps", seconds=settings.seconds)
        return _results(arms, alternate(arms, "steps", settings.repetitions))


def _results(arms: Mapping[str, Arm], done: Mapping[str, list[Work]]) -> Section:
    return {name: arm.info | {"peak_bytes": arm.peak_bytes()} | as_json(done[name]) for name, arm in arms.items()}
