"""lossjax's arm: its own engine with its own settings, through the entry points that a sweep uses."""

import itertools
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import lossjax as lj
from lossjax import devices as device_settings
from lossjax.keys import streams_from_seeds
from lossjax.sweeps import parts, store
from lossjax.sweeps.plan import CellPlan
from lossjax.training.population import as_history, compile_cell, flatten, train_members
from lossjax.training.program import Program
from speed.workers import Work, timed
from speed.workloads import HEADS, KERNEL_SIZE, MLP_RATIO, Workload

# what the peers measure too, and not the calibration fits that a history has by default
MEASURE = lj.Measure(splits=("train",), calibration=False, num_groups=0)
LONG = 10**7  # steps: a training that no repetition reaches the end of


def cell(workload: Workload, **length: int) -> lj.Cell:
    task = lj.tasks.RandomLabels(workload.num_examples, workload.seq_len, workload.features, workload.num_classes)
    return lj.Cell(task, model(workload), lj.TrainConfig(batch_size=workload.batch_size, measure=MEASURE, **length))


def model(workload: Workload) -> Any:
    match workload.kind:
        case "lstm":
            return lj.models.LSTM(hidden=workload.width, layers=workload.layers)
        case "transformer":
            return lj.models.Transformer(workload.width, workload.layers, HEADS, MLP_RATIO)
        case "conv":
            return lj.models.Conv(workload.width, KERNEL_SIZE, workload.layers)


class Population:
    """A workload's population, on all devices or the first few."""

    def __init__(self, workload: dict[str, Any], members: int = 512, devices: int | None = None) -> None:
        self.workload = Workload(**workload)
        self.devices = device_settings.start()[:devices]
        self.hyperparams = lj.grid(learning_rate=self.workload.learning_rate)
        self.members = flatten(self.hyperparams, lj.tied(members))

    def start(self, path: str, num_steps: int) -> list[float]:
        """Batch losses [step] of the member with seed 0, in the tile that is timed.

        Writes where it started and what it was given, for the other arms to repeat: initial parameters, examples, and
        the examples of each batch with their weights, [step, batch].
        """
        short = cell(self.workload, num_steps=num_steps, num_evals=num_steps)
        one = self.members[:1]
        history = as_history(short, one, _records(train_members(short, one, self._compile(short))))
        streams = streams_from_seeds(jax.numpy.zeros(4, "uint32"))
        examples = short.task.splits(streams.data).train
        params = jax.device_get(short.network.init(streams.init, examples.inputs[:1])["params"])
        named = {
            jax.tree_util.keystr(place, simple=True, separator="/"): leaf
            for place, leaf in jax.tree_util.tree_leaves_with_path(params)
        }
        size, per_epoch = self.workload.num_examples, self.workload.steps_per_epoch
        rows, weights = [], []
        for epoch in range(-(-num_steps // per_epoch)):
            order = np.array(jax.random.permutation(jax.random.fold_in(streams.order, epoch), size))
            filled = np.resize(order, per_epoch * self.workload.batch_size)
            rows.append(filled.reshape(per_epoch, -1))
            weights.append((np.arange(filled.size) < size).astype(np.float32).reshape(per_epoch, -1))
        np.savez(
            path,
            inputs=np.array(examples.inputs),
            labels=np.array(examples.labels),
            rows=np.concatenate(rows)[:num_steps],
            weights=np.concatenate(weights)[:num_steps],
            **{f"params/{name}": np.asarray(leaf) for name, leaf in named.items()},  # type: ignore[arg-type]
        )
        return history.metrics["batch_loss"][0, 1:].astype(float).tolist()

    # Member-steps: optimiser steps and the shuffling of every epoch; no evaluation ------------------------------------

    def prepare_steps(self, seconds: float) -> dict[str, Any]:
        self.steps_cell = cell(self.workload, num_steps=LONG, num_evals=1)
        self.steps_program = self._compile(self.steps_cell)
        self.seconds = seconds
        self.repeat_steps()
        return self._facts(self.steps_program)

    def repeat_steps(self) -> Work:
        """Some of the segments of a fresh population, the first ones left out: they evaluate and size the others."""
        training = train_members(self.steps_cell, self.members, self.steps_program)
        for _ in range(2):
            next(training)
        count = 0
        with timed() as clock:
            while time.monotonic() - clock[0] < self.seconds:
                count += next(training).member_steps
        training.close()
        return Work(count, *clock)

    # Whole runs: data, initial parameters, training, an evaluation an epoch, the store --------------------------------

    def prepare_runs(self, seconds: float, epochs: int) -> dict[str, Any]:
        """As many whole waves as take about so many seconds."""
        self._prepare_whole(cell(self.workload, epochs=epochs))
        self.runs = self.members[: self.program.wave]
        clock = self.repeat_runs()
        # a part is committed once: enough members that this is as small a share as in a part of 256
        waves = max(1, round(4 * seconds / (clock.stop - clock.start)))
        self.runs = flatten(self.hyperparams, lj.tied(waves * self.program.wave))
        return self._facts(self.program) | {"members": len(self.runs), "epochs": epochs}

    def repeat_runs(self) -> Work:
        with timed() as clock:
            began = time.monotonic()
            records = _records(train_members(self.cell, self.runs, self.program))
            history = as_history(self.cell, self.runs, records)
            first = next(self.first)
            plan = CellPlan("cell", "0" * 64, first + len(self.runs), {})
            parts.commit(
                self.root,
                plan,
                first,
                first + len(self.runs),
                history.to_arrays(),
                info=history.info,
                device=self.program.devices[0].device_kind,
                num_devices=len(self.program.devices),
                tile=self.program.tile,
                elapsed_seconds=time.monotonic() - began,
                evaluation_seconds=0.0,
            )
        return Work(len(self.runs), *clock)

    # All members, for a few steps -------------------------------------------------------------------------------------

    def prepare_population(self, **length: int) -> dict[str, Any]:
        """``epochs=``, or ``num_steps=`` and ``num_evals=``."""
        self._prepare_whole(cell(self.workload, **length))
        self.runs = self.members[: self.program.wave]
        self.repeat_runs()
        self.runs = self.members
        return self._facts(self.program) | {"steps": self.cell.num_steps}

    def repeat_population(self) -> Work:
        work = self.repeat_runs()
        return Work(work.count * self.cell.num_steps, work.start, work.stop)

    def first_call(self, epochs: int) -> dict[str, Any]:
        """From a compilation that finds what the cache holds to the first optimiser step done."""
        whole = cell(self.workload, epochs=epochs)
        with timed() as clock:
            program = self._compile(whole)
            training = train_members(whole, self.members, program)
            for _ in range(2):
                next(training)
        training.close()
        return {"compile_seconds": program.compile_seconds, "seconds": clock[1] - clock[0], "tile": program.tile}

    def _prepare_whole(self, whole: lj.Cell) -> None:
        self.cell = whole
        self.program = self._compile(whole)
        self.folder = tempfile.TemporaryDirectory(prefix="throughput-")
        self.root = Path(self.folder.name)
        self.first = itertools.count(0, 10**6)  # each repetition stores other members
        store.prepare(self.root)

    def _compile(self, of: lj.Cell) -> Program:
        return compile_cell(of, self.members, devices=self.devices)

    def _facts(self, program: Program) -> dict[str, Any]:
        return {
            "members": len(self.members),
            "tile": program.tile,
            "devices": len(program.devices),
            "device": program.devices[0].device_kind,
            "compile_seconds": program.compile_seconds,
        }


def _records(training: Generator[Any, None, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    while True:
        try:
            next(training)
        except StopIteration as finished:
            records: dict[str, np.ndarray] = finished.value
            return records
