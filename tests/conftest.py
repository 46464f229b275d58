"""Settings of the whole session: two devices, a compilation cache of its own, and shapes checked as the code runs."""

import atexit
import importlib.util
import inspect
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jaxtyping
import pytest
from beartype import beartype
from jaxtyping import install_import_hook, jaxtyped

# before the backend starts: tests spread populations over two devices, whatever the machine has
jax.config.update("jax_num_cpu_devices", 2)

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers share the folder of the process that started them
    _cache = tempfile.mkdtemp(prefix="lossjax-tests-")
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
    os.environ["XDG_CACHE_HOME"] = _cache
    # programs as small as the tests' count too: subprocesses then start in a second
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
# from the first program on, also where a test names its devices: lossjax sets it when it chooses them
jax.config.update("jax_compilation_cache_dir", str(Path(os.environ["XDG_CACHE_HOME"]) / "lossjax" / "compiled"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Consecutive tests stay with one worker, which so makes a module's fixtures and programs once; the rest is stolen.

    The default deals tests out singly, and each worker makes everything.
    """
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None


# Annotated shapes are checked at every call of a statistic. Not in findings.py, which is what a report is given: tests
# of the report give it what is wrong on purpose.
_analysis = Path(importlib.util.find_spec("lossjax.analysis").origin).parent
_checked = [
    f"lossjax.analysis.{file.stem}" for file in _analysis.glob("*.py") if file.stem not in ("__init__", "findings")
]
install_import_hook(_checked, "beartype.beartype")


def _once_per_definition(*, typechecker: Callable) -> Callable:
    """``jaxtyped`` as the hook writes it above each function, but for functions within functions that state no shape.

    Those are defined at every call, and building a checker takes a hundred times as long as calling it: with them a
    fit of temperatures took ten times its own time.
    """

    def decorate(defined: Any) -> Any:
        within = "<locals>" in getattr(defined, "__qualname__", "")
        if within and not any(re.search("ndarray, ['\"]", str(stated)) for stated in defined.__annotations__.values()):
            return defined
        return jaxtyped(defined, typechecker=typechecker)

    return decorate


jaxtyping.jaxtyped = _once_per_definition


def _check_shapes_in_training() -> None:
    """The same for the functions that one member's training is made of, as ``train.py`` calls them.

    Not by the import hook, which checks dataclasses too: jax builds those with specifications and placeholders in the
    place of arrays. Not Linen modules, whose fields Flax fills in later.
    """
    from lossjax.training import train

    for name, function in vars(train).copy().items():
        if inspect.isfunction(function) and function.__module__.startswith("lossjax.training."):
            setattr(train, name, jaxtyped(function, typechecker=beartype))


_check_shapes_in_training()


EXPERIMENT = """
import os

import lossjax as lj
from lossjax.training import population

if "TEST_SEGMENT_SECONDS" in os.environ:
    population.SEGMENT_SECONDS = float(os.environ["TEST_SEGMENT_SECONDS"])

TASK = lj.tasks.RandomLabels(num_examples=10, seq_len=4, num_features=2, num_heldout=8)
MEASURE = lj.Measure(splits=("train", "val"), calibration=False, num_groups=0)


def sweep(scale):
    cell = lj.Cell(TASK, lj.models.Dense(width=4, layers=1), lj.TrainConfig({config}, measure=MEASURE))
    return lj.Sweep({{"a": cell}}, lj.grid({hyperparams}), seeds={seeds}, part_size=5)


def analyse(histories):
    history = histories["a"]
    curve = history.metrics["val_loss"].mean(axis=0, dtype=float)
    final = lj.Interval(curve[-1], curve[-1] - 0.1, curve[-1] + 0.1, 0.95)
    verdict = lj.Verdict("C1", "Loss falls", "tiny", "final loss", "below 1", final, "unresolved", 6, "seeds")
    return lj.Findings((verdict,), {{"final loss": final}}, {{"curve": {{"step": history.steps, "val_loss": curve}}}})


def plot(findings):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot(findings.tables["curve"]["step"], findings.tables["curve"]["val_loss"])
    return {{"curve": lj.Figure(figure, "Mean validation loss.")}}


experiment = lj.Experiment("tiny", "Does it run?", ("C1",), sweep, analyse, plot)

if __name__ == "__main__":
    lj.main(experiment)
"""


@pytest.fixture
def write_experiment(tmp_path) -> Callable[..., Path]:
    """Writes a small experiment file; what its members are is given as Python source."""

    def write(
        file: str = "tiny.py", config: str = "4, epochs=3", hyperparams: str = "learning_rate=0.05", seeds: int = 6
    ) -> Path:
        path = tmp_path / file
        path.write_text(EXPERIMENT.format(config=config, hyperparams=hyperparams, seeds=seeds))
        return path

    return write
