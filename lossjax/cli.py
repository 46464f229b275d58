"""The ``lossjax`` command. It starts jax only where something is trained."""

import dataclasses
import inspect
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from lossjax.endings import PARTS_FAILED, ended_with_a_code, explained
from lossjax.options import Claims, Command, Diagnose, Figures, Report, Run, RunOptions, Status

if TYPE_CHECKING:
    from lossjax.analysis.findings import Findings
    from lossjax.sweeps.experiment import Experiment
    from lossjax.sweeps.simulation import Simulations
    from lossjax.sweeps.sweep import Sweep


@ended_with_a_code()
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
            with explained(ValueError):
                scale = command.chosen(experiment)
            _redraw(experiment, command.results / experiment.folder(scale))
        case Claims():
            _claims(command)
        case Report():
            _report(command)
        case Diagnose():
            _diagnose(command)


def _load(path: Path) -> "Experiment":
    from lossjax.sweeps.experiment import load_experiment

    with explained(ValueError, ImportError):
        return load_experiment(path)


def _run(experiment: "Experiment", options: RunOptions, command: str) -> int:
    from lossjax.analysis.findings import Findings
    from lossjax.sweeps import run, signals, simulation, store
    from lossjax.sweeps.experiment import own_code
    from lossjax.sweeps.sweep import Sweep

    with explained(ValueError):
        scale = options.chosen(experiment)
    root = options.results / experiment.folder(scale)
    try:
        with explained(ValueError, ImportError, MemoryError, OSError):
            with own_code():
                sweep = experiment.sweep(scale)
            if not isinstance(sweep, Sweep | simulation.Simulations):
                raise ValueError(f"sweep({scale!r}) of experiment {experiment.name!r} gave {sweep!r} and no Sweep")
            if options.seeds is not None:
                sweep = sweep.with_seeds(options.seeds)
            run.check_checkpoint_seconds(options.checkpoint_seconds)
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
    with explained(ValueError, kept=f"; what was trained is kept in {root}"):
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

    with explained(ValueError, OSError):
        findings = read_findings(root)
    _publish(experiment, findings, root)


def _publish(experiment: "Experiment", findings: "Findings", root: Path) -> None:
    """Writes what is committed: summary.json, tables, figures, and the report that shows them."""
    from lossjax.reports.plots import save
    from lossjax.reports.report import estimate_text, write_findings, write_report
    from lossjax.sweeps.experiment import own_code

    drawn = []
    with explained(ValueError, OSError, kept=f"; what was trained is kept in {root}"):
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
    with explained(store.StoreError, OSError):
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

    with explained(ValueError, OSError):
        print(ledger(options.results), end="")


def _report(options: Report) -> None:
    from lossjax.reports.results import results_page

    path = options.results / "report.html" if options.html is None else options.html
    with explained(ValueError, OSError):
        path.write_text(results_page(options.results), encoding="utf-8")
    print(path)


def _diagnose(options: Diagnose) -> None:
    from lossjax.diagnosis.diagnose import diagnose
    from lossjax.diagnosis.page import to_page
    from lossjax.diagnosis.reading import InputError, shown
    from lossjax.diagnosis.text import to_text

    with explained(InputError, OSError, MemoryError):
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
    with explained(OSError):
        if options.json is not None:
            options.json.write_text(found.to_json(), encoding="utf-8")
        if options.html is not None:
            names = " and ".join(shown(file.name) for file in options.files)
            options.html.write_text(to_page(found, names), encoding="utf-8")
    print(to_text(found), end="")


if __name__ == "__main__":
    main()
