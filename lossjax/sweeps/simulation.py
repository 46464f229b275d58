"""Simulations: what an experiment draws again and again where nothing is trained, as to try an estimator.

A case is to a draw what a cell is to a member: draws are stored in parts, resumed, counted and verified like members,
and come back as the History of their case. They run in processes of one thread each.
"""

import dataclasses
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from lossjax.history import History
from lossjax.identity import describe, digest
from lossjax.sweeps import parts, store
from lossjax.sweeps.experiment import load_experiment
from lossjax.sweeps.plan import CellPlan, plan_changes, write_plan
from lossjax.sweeps.progress import Meter
from lossjax.sweeps.provenance import versions
from lossjax.sweeps.signals import Stopped, StopRequest, stop_request

# more threads in each process than there are cores for would only get in each other's way
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class Case(Protocol):
    """A frozen dataclass of plain values: all that its draws depend on but the seed."""

    def __call__(self, seed: int) -> Mapping[str, float]:
        """One independent draw; the same names every time."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Simulations:
    """What an experiment simulates in the place of a Sweep; ``cases`` are named as cells are.

    Attributes:
        draws: of each case, with the seeds 0 … draws − 1.
        part_size: draws a part, the unit of commit and of resume.
    """

    cases: Mapping[str, Case]
    draws: int
    part_size: int = 100

    def __post_init__(self) -> None:
        for name in ("draws", "part_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")

    def with_seeds(self, num_seeds: int) -> "Simulations":
        return dataclasses.replace(self, draws=num_seeds)


def run_simulations(
    simulations: Simulations,
    root: Path,
    *,
    source: Path,
    experiment: str,
    scale: str,
    command: str,
    mix_versions: bool = False,
) -> None:
    """Draws what the folder ``root`` lacks; ``run_sweep`` for simulations.

    Args:
        source: the experiment's file, from which each process takes the cases.

    Raises:
        ValueError: the folder is foreign, damaged, unwritable or being written.
        Stopped: SIGINT or SIGTERM came; every finished part is kept.
    """
    store.prepare(root)
    plans = {}
    for name, case in simulations.cases.items():
        description = {"case": describe(case)}
        plans[name] = CellPlan(name, digest(description), simulations.draws, description)
    with store.lock(root), stop_request() as stop:
        missing = {name: parts.missing(root, plan, simulations.part_size) for name, plan in plans.items()}
        for name, plan in plans.items():
            if missing[name]:  # before the plan changes
                parts.check_versions(root, plan, versions(), mix_versions=mix_versions)
        changes = plan_changes(root, plans.values())
        if changes:
            print(f"changes to the plan in {root}:\n{changes}", file=sys.stderr)
        write_plan(root, plans.values(), experiment=experiment, scale=scale, command=command)
        if not any(missing.values()):
            return
        with _processes() as (pool, num_processes):
            for name, ranges in missing.items():
                with Meter(name, simulations.draws, simulations.draws - _count(ranges), 1) as meter:
                    _run_case(pool, num_processes, source, scale, plans[name], ranges, root, stop, meter)


def _run_case(
    pool: ProcessPoolExecutor,
    num_processes: int,
    source: Path,
    scale: str,
    plan: CellPlan,
    missing: list[tuple[int, int]],
    root: Path,
    stop: StopRequest,
    meter: Meter,
) -> None:
    waiting: dict[Future[dict[str, np.ndarray]], tuple[int, int]] = {}
    left = list(missing)
    num_done = plan.num_members - _count(missing)
    began = time.monotonic()
    while waiting or (left and stop.received is None):
        # no more than are drawn at once: what was handed over cannot be taken back when a stop comes
        while left and stop.received is None and len(waiting) < num_processes:
            first, last = left.pop(0)
            waiting[pool.submit(_draw_part, str(source), scale, plan.name, first, last)] = first, last
        finished, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
        for future in finished:
            first, last = waiting.pop(future)
            now = time.monotonic()
            _commit(root, plan, first, last, future.result(), num_processes, now - began)
            began = now
            num_done += last - first
            meter.update(last - first, num_done, 1)
    if stop.received is not None:
        raise Stopped(f"stopped in {plan.name}; the same command goes on from here")


def _draw_part(source: str, scale: str, name: str, first: int, last: int) -> dict[str, np.ndarray]:
    """Runs in a process of its own: outcome → [draw]."""
    case = _simulations(source, scale).cases[name]
    draws = [case(seed) for seed in range(first, last)]
    return {outcome: np.array([draw[outcome] for draw in draws], np.float64) for outcome in draws[0]}


@functools.cache  # once a process: a case may remember what is dear, such as its truth
def _simulations(source: str, scale: str) -> Simulations:
    simulations = load_experiment(source).sweep(scale)
    assert isinstance(simulations, Simulations)
    return simulations


def _commit(
    root: Path,
    plan: CellPlan,
    first: int,
    last: int,
    outcomes: Mapping[str, np.ndarray],
    num_processes: int,
    seconds: float,
) -> None:
    history = History(
        metrics={name: values[:, None] for name, values in outcomes.items()},
        steps=np.zeros(1, np.int32),
        seeds={"data": np.arange(first, last, dtype=np.uint32)},
        hyperparams={},
        nonfinite_step=np.full(last - first, -1, np.int32),
    )
    parts.commit(
        root,
        plan,
        first,
        last,
        history.to_arrays(),
        info={**plan.description, "versions": versions(), "steps_per_epoch": 1},
        device="cpu",
        num_devices=num_processes,
        tile=1,
        elapsed_seconds=seconds,
        evaluation_seconds=0.0,
    )


@contextmanager
def _processes() -> Iterator[tuple[ProcessPoolExecutor, int]]:
    """A process a core, each with one thread; new interpreters, because a forked one may hold others' locks."""
    number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        with ProcessPoolExecutor(number, multiprocessing.get_context("spawn"), initializer=_start_process) as pool:
            yield pool, number
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start_process() -> None:
    # a stop is for the process that asked for the draws: it waits for those under way
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _count(ranges: list[tuple[int, int]]) -> int:
    return sum(last - first for first, last in ranges)
