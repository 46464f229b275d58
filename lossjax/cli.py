"""The ``lossjax`` command. It starts jax only where something is trained."""

import atexit
import contextlib
import dataclasses
import gc
import inspect
import json
import os
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from lossjax.analysis.findings import Findings
    from lossjax.sweeps.experiment import Experiment
    from lossjax.sweeps.simulation import Simulations
    from lossjax.sweeps.sweep import Sweep

# exit codes; UNEXPECTED is EX_SOFTWARE of sysexits.h, and stopped on request is signals.STOPPED, 75
PARTS_FAILED, WRONG_INPUT, UNEXPECTED = 1, 2, 70


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
    """Say what would be trained, in members, steps and memory, and stop."""


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


@contextlib.contextmanager
def _ended_with_a_code() -> Iterator[None]:
    """Ctrl-C or SIGTERM outside of training is a line; an unexpected error is not taken for failed parts."""
    from lossjax.sweeps.signals import STOPPED

    # or Python's own end would look for garbage among all objects, several times: half a second on an idle machine
    atexit.register(gc.freeze)
    try:
        with _warned_in_a_line(), _terminated_as_interrupted():
            yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nlossjax: stopped; what is committed is kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(STOPPED)
    except BrokenPipeError:  # whoever read the output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor may Python's last flush complain
        sys.exit(1)
    except Exception:
        traceback.print_exc()
        sys.exit(UNEXPECTED)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM as Ctrl-C, where nobody handles it yet; while members are trained ``stop_request`` handles both."""
    is_free = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not is_free or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _warned_in_a_line() -> Iterator[None]:
    """lossjax's own warnings read as its other messages do; those of libraries keep their place."""
    usual = warnings.formatwarning

    def in_a_line(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: Any = None) -> str:
        is_own = Path(filename).is_relative_to(Path(__file__).parent)
        return f"lossjax: {message}\n" if is_own else usual(message, category, filename, lineno, line)

    warnings.formatwarning = in_a_line
    try:
        yield
    finally:
        warnings.formatwarning = usual


@_ended_with_a_code()
def main(experiment: "Experiment | None" = None, arguments: Sequence[str] | None = None) -> None:
    """The command line; with an experiment, that of its own file (``python experiments/x.py --smoke``).

    Exit codes: 0 done; 1 parts failed; 2 wrong input, with one line that says what; 70 an unexpected error, with its
    traceback; 75 stopped on request.
    """
    program = Path(sys.argv[0]).name
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if experiment is not None:
        options = tyro.cli(RunOptions, args=arguments, description=experiment.question)
        sys.exit(_run(experiment, options, shlex.join(["python", program, *arguments])))
    command: Command = tyro.cli(Command, prog="lossjax", args=arguments)
    match command:
        case Run():
            sys.exit(_run(_load(command.experiment), command, shlex.join(["lossjax", *arguments])))
        case Status():
            _status(command)
        case Figures():
            experiment = _load(command.experiment)
            with _explained(ValueError):
                scale = command.chosen(experiment)
            _redraw(experiment, command.results / experiment.folder(scale))
        case Claims():
            _claims(command)
        case Report():
            _report(command)
        case Diagnose():
            _diagnose(command)


@contextlib.contextmanager
def _explained(*kinds: type[Exception], kept: str = "") -> Iterator[None]:
    """What a user can mend becomes one line and exit code 2; anything else is a bug and keeps its traceback."""
    try:
        yield
    except BrokenPipeError:  # an OSError, but not of what was read
        raise
    except kinds as error:
        print(f"lossjax: {error}{kept}", file=sys.stderr)
        sys.exit(WRONG_INPUT)


def _load(path: Path) -> "Experiment":
    from lossjax.sweeps.experiment import load_experiment

    with _explained(ValueError, ImportError):
        return load_experiment(path)


def _run(experiment: "Experiment", options: RunOptions, command: str) -> int:
    from lossjax.analysis.findings import Findings
    from lossjax.sweeps import run, signals, simulation, store
    from lossjax.sweeps.experiment import own_code
    from lossjax.sweeps.sweep import Sweep

    with _explained(ValueError):
        scale = options.chosen(experiment)
    root = options.results / experiment.folder(scale)
    try:
        with _explained(ValueError, ImportError, MemoryError, OSError):
            with own_code():
                sweep = experiment.sweep(scale)
            if not isinstance(sweep, Sweep | simulation.Simulations):
                raise ValueError(f"sweep({scale!r}) of experiment {experiment.name!r} gave {sweep!r} and no Sweep")
            if options.seeds is not None:
                sweep = sweep.with_seeds(options.seeds)
            if options.dry_run:
                _tell(experiment, sweep, options.results)
                return 0
            if isinstance(sweep, simulation.Simulations):
                simulation.run_simulations(
                    sweep,
                    root,
                    source=Path(inspect.getfile(experiment.sweep)),
                    experiment=experiment.name,
                    scale=scale,
                    command=command,
                    mix_versions=options.mix_versions,
                )
            else:
                run.run_sweep(
                    sweep,
                    root,
                    experiment=experiment.name,
                    scale=scale,
                    command=command,
                    checkpoint_seconds=options.checkpoint_seconds,
                    mix_versions=options.mix_versions,
                )
    except signals.Stopped as stopped:
        print(f"lossjax: {stopped}", file=sys.stderr)
        return signals.STOPPED
    except run.PartsFailed as failed:
        print(f"lossjax: {failed}", file=sys.stderr)
        return PARTS_FAILED
    print(f"analysing {root}", file=sys.stderr)
    with _explained(ValueError, kept=f"; what was trained is kept in {root}"):
        with own_code():
            findings = experiment.analyse(store.load(root))
        if not isinstance(findings, Findings):
            raise ValueError(f"analyse of experiment {experiment.name!r} gave {findings!r} and no Findings")
        findings = dataclasses.replace(findings, meta={**store.cost(root), **findings.meta})
    _publish(experiment, findings, root)
    return 0


def _tell(experiment: "Experiment", sweep: "Sweep | Simulations", results: Path) -> None:
    """What would be trained, and for how long at what the usual scale took."""
    from lossjax.sweeps.simulation import Simulations

    if isinstance(sweep, Simulations):
        print(f"{len(sweep.cases):,} cases × {sweep.draws:,} draws")
        return
    from lossjax.reports.report import read_findings
    from lossjax.sweeps.forecast import forecast, member_steps

    print("\n".join(forecast(sweep)))
    usual = experiment.scale()
    summary = results / experiment.folder(usual)
    if not (summary / "summary.json").exists():
        return
    took, members = (read_findings(summary).meta.get(key) for key in ("core_seconds", "members"))
    known = experiment.sweep(usual)
    if took is not None and members and not isinstance(known, Simulations):
        planned = sum(len(known.members(name)) for name in known.cells)
        done = member_steps(known) * members["planned"] / planned  # the results may have other seeds
        print(
            f"about {took * member_steps(sweep) / done / 3600:.1f} core-hours, if a member-step takes what it took in "
            f"{summary}, evaluations included; larger networks take more"
        )


def _redraw(experiment: "Experiment", root: Path) -> None:
    from lossjax.reports.report import read_findings

    with _explained(ValueError, OSError):
        findings = read_findings(root)
    _publish(experiment, findings, root)


def _publish(experiment: "Experiment", findings: "Findings", root: Path) -> None:
    """Writes what is committed: summary.json, tables, figures, and the report that shows them."""
    from lossjax.reports.plots import save
    from lossjax.reports.report import estimate_text, write_findings, write_report
    from lossjax.sweeps.experiment import own_code

    drawn = []
    with _explained(ValueError, OSError, kept=f"; what was trained is kept in {root}"):
        write_findings(findings, root)
        with own_code():
            for name, figure in experiment.plot(findings).items():
                save(figure.figure, root / name)
                drawn.append((f"{name}.png", figure.caption))
        report = write_report(experiment.name, experiment.question, findings, drawn, root)
    for verdict in findings.verdicts:
        print(
            f"{verdict.claim} {verdict.outcome}: {verdict.contrast} {estimate_text(verdict.estimate)} ({verdict.where})"
        )
    print(report)


def _status(options: Status) -> None:
    from lossjax.sweeps import store

    folder: Path = options.folder
    below = sorted(folder.glob("*/plan.json"))
    is_one = (folder / "plan.json").exists() or not below
    with _explained(store.StoreError, OSError):
        folders = [folder] if is_one else [path.parent for path in below]
        found = {each.resolve().name: store.status(each) for each in folders}
    if options.json:
        print(json.dumps(next(iter(found.values())) if is_one else found, indent=1))
        return
    for name, status in found.items():
        print(f"{name}: {_counts(status)}")
        for cell, counts in status["cells"].items():
            print(f"  {cell}: {_counts(counts)}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{counts[key]} {key}" for key in ("planned", "done", "nonfinite", "failed", "pending"))


def _claims(options: Claims) -> None:
    from lossjax.reports.report import ledger

    with _explained(ValueError, OSError):
        print(ledger(options.results), end="")


def _report(options: Report) -> None:
    from lossjax.reports.results import results_page

    path = options.results / "report.html" if options.html is None else options.html
    with _explained(ValueError, OSError):
        path.write_text(results_page(options.results), encoding="utf-8")
    print(path)


def _diagnose(options: Diagnose) -> None:
    from lossjax.diagnosis.diagnose import diagnose
    from lossjax.diagnosis.page import to_page
    from lossjax.diagnosis.reading import InputError, shown
    from lossjax.diagnosis.text import to_text

    with _explained(InputError, OSError, MemoryError):
        if len(options.files) not in (1, 2):
            raise InputError(
                f"{len(options.files)} files were given; give one run or curve, or one before and one after"
            )
        for written in (options.html, options.json):
            if written is not None and not written.parent.is_dir():
                raise InputError(f"there is no folder {written.parent} to write {written} in; make it first")
            if (
                written is not None
                and written.exists()
                and any(file.exists() and file.samefile(written) for file in options.files)
            ):
                raise InputError(f"{written} is what is to be read; write the answer to another file")
        if options.html is not None and options.html == options.json:
            raise InputError(f"{options.html} cannot hold both the page and the JSON; name two files")
        if not 0 < options.max_gigabytes < 2**20:
            raise InputError(f"--max-gigabytes={options.max_gigabytes:g} is no size of memory; give a few")
        found = diagnose(
            options.files[0],
            options.files[1] if len(options.files) == 2 else None,
            train_counts=options.groups,
            ordered=not options.unordered,
            seed_axis=options.seed_axis,
            loss_column=options.loss_column,
            accuracy_column=options.accuracy_column,
            num_examples=options.examples,
            flat_loss=options.flat_loss,
            flat_accuracy=options.flat_accuracy,
            level=options.level,
            seed=options.seed,
            max_bytes=int(options.max_gigabytes * 2**30),
        )
    with _explained(OSError):
        if options.json is not None:
            options.json.write_text(found.to_json(), encoding="utf-8")
        if options.html is not None:
            names = " and ".join(shown(file.name) for file in options.files)
            options.html.write_text(to_page(found, names), encoding="utf-8")
    print(to_text(found), end="")


if __name__ == "__main__":
    main()
