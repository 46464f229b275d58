"""What each command of ``lossjax`` takes: the fields are its arguments, their docstrings its help."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from lossjax.sweeps.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class ScaleOptions:
    scale: str | None = None
    """One of the experiment's scales, each in a folder of its own; the usual one, in <experiment>, if none is given."""
    smoke: bool = False
    """The same as --scale smoke: a few small members, in <experiment>-smoke; mostly compiling, so minutes at first."""

    def chosen(self, experiment: "Experiment") -> str:
        """The name of the scale; ValueError where the experiment has none such, or two are given."""
        if self.smoke and self.scale not in (None, "smoke"):
            raise ValueError(f"--smoke and --scale {self.scale} were given; leave out one of them")
        return experiment.scale("smoke" if self.smoke else self.scale)


@dataclasses.dataclass(frozen=True)
class RunOptions(ScaleOptions):
    seeds: int | None = None
    """Another number of seeds; more than are stored only adds members."""
    results: Path = Path("results")
    """Where results are kept."""
    checkpoint_seconds: float = 30.0
    """How often the members in training are kept."""
    mix_versions: bool = False
    """Add to results that another version of lossjax or jax made."""
    dry_run: bool = False
    """Say what would be trained, in members, steps and memory, and stop; what is stored is not looked into."""


@dataclasses.dataclass(frozen=True)
class Run(RunOptions):
    """Train what an experiment lacks, analyse, draw and write its report. The same command goes on after a stop."""

    experiment: Annotated[Path, tyro.conf.Positional] = dataclasses.field(kw_only=True)
    """An experiment file."""


@dataclasses.dataclass(frozen=True)
class Status:
    """How far the results in a folder are, in members: planned = done + nonfinite + failed + pending."""

    folder: Annotated[Path, tyro.conf.Positional]
    """An experiment's folder, or the folder of all results."""
    json: bool = False
    """As JSON."""


@dataclasses.dataclass(frozen=True)
class Figures(ScaleOptions):
    """Draw an experiment's figures and report again from its committed summary and tables; nothing is trained."""

    experiment: Annotated[Path, tyro.conf.Positional] = dataclasses.field(kw_only=True)
    """An experiment file."""
    results: Path = Path("results")
    """Where results are kept."""


@dataclasses.dataclass(frozen=True)
class Claims:
    """The ledger of claims: where each was tested, its estimate with interval, seeds and verdict, as Markdown."""

    results: Annotated[Path, tyro.conf.Positional] = Path("results")
    """The folder of all results."""


@dataclasses.dataclass(frozen=True)
class Report:
    """A page of all results: the ledger of claims, then each experiment's verdicts, figures, numbers and notes."""

    results: Annotated[Path, tyro.conf.Positional] = Path("results")
    """The folder of all results."""
    html: Path | None = None
    """Where to write it; report.html in that folder unless given."""


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """Why loss and accuracy moved as they did in your own model, from any framework, and what to do.

    Give two .npz files (before and after), one .npz file with the checkpoints of a run, or a training curve. An .npz
    file holds logits [example, class] or [checkpoint, example, class] and labels [example]; lossjax.Recorder writes it.
    It may hold steps or epochs [checkpoint], train_counts and class_names [class] and clusters [example], and several
    seeds as a first axis. Log-probabilities and probabilities are recognised.
    """

    files: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE [FILE]")]
    """before.npz after.npz, or run.npz, or a curve in one file or two: CSV of Keras, Lightning, TensorBoard or W&B,
    trainer_state.json."""
    groups: Path | None = None
    """An .npy file with the number of training examples of each class, for frequent and rare classes."""
    html: Path | None = None
    """Write the answer as a page."""
    json: Path | None = None
    """Write the answer as JSON."""
    unordered: bool = False
    """The two files are two models to choose from, not two times of a training."""
    seed_axis: bool = False
    """In a single file, the first of three axes is seeds and not checkpoints."""
    loss_column: str | None = None
    """Of a curve: the column of the loss, where names do not tell."""
    accuracy_column: str | None = None
    """Of a curve: the column of the accuracy."""
    examples: int | None = None
    """Of a curve: how many examples it was measured on."""
    flat_loss: float = 0.005
    """Changes of the loss within this many nats count as none. Set it before you look."""
    flat_accuracy: float = 0.005
    """Changes of accuracy within this fraction count as none."""
    level: float = 0.95
    """Of the intervals."""
    seed: int = 0
    """Of folds and resamples."""
    max_gigabytes: float = 4.0
    """Refuse files whose arrays take more, before anything is expanded, or would when they are worked on."""


Command = (
    Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Status, tyro.conf.subcommand("status")]
    | Annotated[Figures, tyro.conf.subcommand("figures")]
    | Annotated[Claims, tyro.conf.subcommand("claims")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Diagnose, tyro.conf.subcommand("diagnose")]
)
