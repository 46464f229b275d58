"""How fast is lossjax, against what people use today and against the machine? Needs `pip install "lossjax[peers]"`.

    python experiments/throughput.py [--quick] [--only W1 scale …] [--resume] [--json OUT] [--device gpu]

Sections: one for each workload (a validity gate, then member-steps, the machine's own speeds and whole runs, all arms
alternating), ``scale`` and ``startup``; with ``--device gpu`` only ``gpu``. Each is written to
``results/throughput/measurements.json`` when it is done, and the report is made from what is there; ``--resume`` leaves
out what the same code, versions and machine have measured already.

No ``lj.Experiment``: that one trains a sweep and analyses the stored histories, a function of what was trained and of
nothing else; here the times are the result, most of the work is done by other libraries, and a part that is stored
already must not be passed over. What is committed has the same form (summary.json, CSV, report.md, figures).

Exit codes: 0 done; 1 an arm failed, or the gate (nothing of that workload is timed); 2 wrong input; 75 stopped.
"""

import dataclasses
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import tyro
from speed.figures import plot
from speed.findings import findings
from speed.record import Record, Section, num_cores, write_json
from speed.sections import GateError, Settings, gpu_section, scale_section, startup_section, workload_section
from speed.tables import markdown
from speed.workers import WorkerError
from speed.workloads import WORKLOADS

from lossjax.reports.plots import save
from lossjax.reports.report import write_findings, write_report

QUESTION = "How fast is lossjax, against what people use today and against what the machine allows?"
ARM_FAILED, WRONG_INPUT, STOPPED = 1, 2, 75
QUICK = ("W1", "scale", "startup")


@dataclasses.dataclass(frozen=True)
class Options:
    quick: bool = False
    """Three repetitions, few workloads and small populations, in results/throughput-smoke: to see that it runs."""
    only: tuple[str, ...] = ()
    """These sections: names of workloads, scale, startup. All where none is given."""
    resume: bool = False
    """Leave out the sections that the same code, versions and machine have measured already."""
    json: Path | None = None
    """Write all measurements and numbers to this file too."""
    device: Literal["cpu", "gpu"] = "cpu"
    """gpu: whole runs of the LSTM workloads on one GPU against cuDNN's."""
    members: int | None = None
    """Members that jit(vmap) maps at once; 512, or 64 with --quick."""
    repetitions: int | None = None
    """Counted repetitions of every arm; 5, or 3 with --quick."""
    results: Path = Path("results")
    """Where results are kept."""


def main() -> int:
    options = tyro.cli(Options, description=QUESTION)
    settings = settings_of(options)
    sections = sections_of(settings, options.device)
    chosen = options.only or (QUICK if options.quick and options.device == "cpu" else tuple(sections))
    unknown = [name for name in chosen if name not in sections]
    wrong = None
    if unknown:
        wrong = f"no section {unknown[0]!r}; the sections are {', '.join(sections)}"
    elif settings.members < 1 or settings.repetitions < 1:
        wrong = "--members and --repetitions are at least 1; give more, or leave them out"
    elif options.json is not None and not options.json.parent.is_dir():
        wrong = f"there is no folder {options.json.parent} to write {options.json} in; make it first"
    if wrong is not None:
        print(f"throughput: {wrong}", file=sys.stderr)
        return WRONG_INPUT
    folder = options.results / ("throughput-smoke" if options.quick else "throughput")
    record = Record.open(folder, shlex.join(["python", "experiments/throughput.py", *sys.argv[1:]]))
    for name in chosen:
        if options.resume and record.has(name):
            continue
        print(f"measuring {name}", file=sys.stderr, flush=True)
        try:
            record.measure(name, sections[name])
        except GateError as error:
            print(f"throughput: {error}", file=sys.stderr)
            return ARM_FAILED
        except WorkerError as error:
            *_, reason = str(error).strip().splitlines()
            print(f"throughput: {name} could not be measured: {reason}", file=sys.stderr)
            return ARM_FAILED
        except KeyboardInterrupt:
            print("throughput: stopped; finished sections are kept, --resume leaves them out", file=sys.stderr)
            return STOPPED
    publish(record, options.json)
    return 0


def settings_of(options: Options) -> Settings:
    cores = num_cores()
    settings = Settings(cores)
    if options.quick:
        settings = Settings(
            cores,
            repetitions=3,
            seconds=0.4,
            members=64,
            torch_members=16,
            scale_members=(16, 64, 256),
            scale_steps=7,
            scales={"width": (8, 16, 32), "seq_len": (5, 20), "num_classes": (2, 200)},
            started=("W1",),
            gpu_members=(64, 512),
        )
    return dataclasses.replace(
        settings,
        members=settings.members if options.members is None else options.members,
        repetitions=settings.repetitions if options.repetitions is None else options.repetitions,
    )


def sections_of(settings: Settings, device: str) -> dict[str, Callable[[], Section]]:
    if device == "gpu":
        return {"gpu": partial(gpu_section, settings)}
    workloads = {name: partial(workload_section, workload, settings) for name, workload in WORKLOADS.items()}
    return {**workloads, "scale": partial(scale_section, settings), "startup": partial(startup_section, settings)}


def publish(record: Record, json_path: Path | None) -> None:
    """summary.json, the tables, the figures and the report, from the sections that were measured."""
    found = findings(record.sections)
    write_findings(found, record.folder)
    drawn = []
    for name, figure in plot(found).items():
        save(figure.figure, record.folder / name)
        drawn.append((f"{name}.png", figure.caption))
    report = write_report("throughput", QUESTION, found, drawn, record.folder)
    # the house's report has no place for tables of one's own: they follow the question
    own = [f"{block}\n\n" for block in markdown(record.sections, found)]
    begin, rest = report.read_text(encoding="utf-8").split(f"{QUESTION}\n\n", 1)
    report.write_text("".join([begin, QUESTION, "\n\n", *own, rest]), encoding="utf-8")
    print("".join(own[:3]), end="")
    if json_path is not None:
        numbers = {name: dataclasses.asdict(number) for name, number in found.numbers.items()}
        write_json(json_path, {"numbers": numbers, "sections": record.sections})
    print(report)


if __name__ == "__main__":
    sys.exit(main())
