"""Experiment: a question, what is trained to answer it, how the answer is computed, and how it is drawn."""

import dataclasses
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lossjax.analysis.findings import Findings
from lossjax.history import History

if TYPE_CHECKING:
    from lossjax.sweeps.simulation import Simulations
    from lossjax.sweeps.sweep import Sweep

Scale = Literal["smoke", "full"]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawn figure (matplotlib's) and the sentence below it in the report."""

    figure: Any
    caption: str


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The value a file of ``experiments/`` defines as ``experiment``.

    Attributes:
        name: its folder under the results.
        question: in a sentence.
        claims: ids of CLAIMS that it tests.
        sweep: the Sweep at a scale: "smoke" (seconds to a minute, to see that everything runs) or "full". Where nothing
            is trained, the Simulations.
        analyse: cell name → History, to Findings.
        plot: Findings, to figures by file name; reads nothing else, so figures are redrawn from the committed files.
    """

    name: str
    question: str
    claims: tuple[str, ...]
    sweep: "Callable[[Scale], Sweep | Simulations]"
    analyse: Callable[[Mapping[str, History]], Findings]
    plot: Callable[[Findings], Mapping[str, Figure]]


def load_experiment(path: str | Path) -> Experiment:
    """The ``experiment`` of a Python file, from any folder.

    Raises:
        ValueError: where there is no such file, or it defines no Experiment of that name.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(
            f"{file} is no file; give the path of an experiment file, such as experiments/lstm_examples.py"
        )
    # a name of its own for each path, so that two files of one name do not meet in sys.modules
    name = f"lossjax_experiment_{file.stem}_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is not a Python file; an experiment file ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise ValueError(f"{file} cannot be loaded: {error}") from error
    experiment = getattr(module, "experiment", None)
    if not isinstance(experiment, Experiment):
        raise ValueError(f"{file} defines no experiment; it needs a line  experiment = lossjax.Experiment(…)")
    return experiment
