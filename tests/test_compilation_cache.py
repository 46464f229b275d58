"""The persistent compilation cache: what one process compiled, the next finds."""

import json
import os
import subprocess
import sys

FIRST_CALL = """
import json
import time

import jax

import lossjax as lj
from lossjax.training.population import compile_cell, flatten

hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("cache_hits") else None)
cell = lj.Cell(lj.tasks.RandomLabels(100, 20, 5), lj.models.LSTM(hidden=32), lj.TrainConfig(16, epochs=1))
members = flatten(lj.grid(learning_rate=1e-2), lj.tied(4))
began = time.perf_counter()
compile_cell(cell, members)
print(json.dumps({"hits": len(hits), "seconds": time.perf_counter() - began}))
"""


def first_call(folder) -> dict[str, float]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder)}
    # as users have it: what tests set is for programs that take no time
    environment.pop("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", None)
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALL], capture_output=True, text=True, env=environment, check=True
    )
    return json.loads(done.stdout)


def test_a_second_process_finds_the_compiled_programs(tmp_path):
    cold, warm = first_call(tmp_path), first_call(tmp_path)
    assert cold["hits"] == 0
    assert warm["hits"] >= 2  # to start, and to advance
    assert warm["seconds"] < 0.7 * cold["seconds"]
