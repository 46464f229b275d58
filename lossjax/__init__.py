"""lossjax: when loss and accuracy diverge, over populations of runs trained as one compiled program.

The names below are resolved at first use, so that ``import lossjax`` starts neither jax nor anything else.
"""

import importlib
from typing import Any

# stands here and not only in the package's metadata, which an editable install keeps from the day it was made
__version__ = "0.8.0"

_HOME = {
    # what is trained
    "tasks": "lossjax.tasks",
    "models": "lossjax.models",
    "TrainConfig": "lossjax.training.config",
    "Measure": "lossjax.training.config",
    "Hyperparams": "lossjax.hyperparams",
    "grid": "lossjax.hyperparams",
    "sample": "lossjax.hyperparams",
    "Seeds": "lossjax.keys",
    "tied": "lossjax.keys",
    "crossed": "lossjax.keys",
    "redrawn": "lossjax.keys",
    "train": "lossjax.training.population",
    "Cell": "lossjax.training.train",
    "Sweep": "lossjax.sweeps.sweep",
    "Simulations": "lossjax.sweeps.simulation",
    # what is left behind
    "History": "lossjax.history",
    "load": "lossjax.sweeps.store",
    "load_model": "lossjax.sweeps.params",
    # your own model, from any framework
    "Recorder": "lossjax.recorder",
    "diagnose": "lossjax.diagnosis.diagnose",
    "Diagnosis": "lossjax.diagnosis.answer",
    # what it says
    "Interval": "lossjax.analysis.interval",
    "Findings": "lossjax.analysis.findings",
    "Verdict": "lossjax.analysis.findings",
    "Experiment": "lossjax.sweeps.experiment",
    "Figure": "lossjax.sweeps.experiment",
    "main": "lossjax.cli",
}
_MODULES = ("tasks", "models")

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"lossjax has no {name!r}; it has {', '.join(__all__)}")
    module = importlib.import_module(_HOME[name])
    value = module if name in _MODULES else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
