"""Experiment: a question, what is trained to answer it, how the answer is computed, and how it is drawn."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossjax import origin
from lossjax.analysis.findings import Findings
from lossjax.history import History
from lossjax.sweeps.plan import StoreError, check_folder_name

if TYPE_CHECKING:
    from lossjax.sweeps.simulation import Simulations
    from lossjax.sweeps.sweep import Sweep

SMOKE = "smoke"


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
        sweep: the Sweep at one of the ``scales``. Where nothing is trained, the Simulations.
        analyse: cell name → History, to Findings.
        plot: Findings, to figures by file name; reads nothing else, so figures are redrawn from the committed files.
        scales: "smoke" (seconds to a minute, to see that everything runs) and others; the second is the usual one. An
            experiment that takes hours in full has "laptop" there, and "paper" after it.
    """

    name: str
    question: str
    claims: tuple[str, ...]
    sweep: "Callable[[str], Sweep | Simulations]"
    analyse: Callable[[Mapping[str, History]], Findings]
    plot: Callable[[Findings], Mapping[str, Figure]]
    scales: tuple[str, ...] = (SMOKE, "full")

    def __post_init__(self) -> None:
        check_folder_name("experiment", self.name)
        if len(self.scales) < 2 or self.scales[0] != SMOKE:
            raise ValueError(f"scales={self.scales!r} must be {SMOKE!r}, the usual one, and any others")
        for scale in (SMOKE, *self.scales):
            check_folder_name("scale", scale)
            if self.name.endswith(f"-{scale}"):
                raise ValueError(f"experiment name {self.name!r} ends as the folder of a {scale} run does; rename it")
        for name in ("sweep", "analyse", "plot"):
            if not callable(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r} of experiment {self.name!r} must be a function")

    def scale(self, name: str | None = None) -> str:
        """A scale by its name; the usual one where no name is given. ValueError where the experiment has none such."""
        if name is None:
            return self.scales[1]
        if name not in self.scales:
            raise ValueError(f"experiment {self.name!r} has no scale {name!r}; it has {', '.join(self.scales)}")
        return name

    def folder(self, scale: str) -> str:
        """Under the results: ``<name>`` at the usual scale, else ``<name>-<scale>``, so that no scales are mixed."""
        return self.name if scale == self.scales[1] else f"{self.name}-{scale}"


@contextlib.contextmanager
def own_code() -> Iterator[None]:
    """What an experiment's own code raises becomes one line with the place: ``file.py, line 12: NameError: …``.

    Raises:
        ValueError: that line. An error of the store stays as it is.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        raise ValueError(origin.told(error)) from error


def load_experiment(path: str | Path) -> Experiment:
    """The ``experiment`` of a Python file, from any folder; it may import what lies beside it.

    Raises:
        ValueError: where there is no such file, it cannot be run, or it defines no Experiment of that name.
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
    beside = str(file.resolve().parent)
    if beside not in sys.path:
        sys.path.insert(0, beside)  # as `python file.py` has it
    with own_code():
        spec.loader.exec_module(module)
    experiment = getattr(module, "experiment", None)
    if not isinstance(experiment, Experiment):
        raise ValueError(f"{file} defines no experiment; it needs a line  experiment = lossjax.Experiment(…)")
    return experiment
