"""The report's tables in Markdown, from the measurements and the findings."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import lossjax as lj
from lossjax.analysis.tables import with_bounds
from speed.findings import over_plain, over_torch, workload_of
from speed.record import Section
from speed.sections import OURS, PLAIN
from speed.workloads import TARGETS, WORKLOADS, Target

REACHED_HEADER: Final = (
    "workload",
    "µs a member-step",
    "member-steps, over jit(vmap)",
    "η",
    "η by XLA's own product",
    "whole runs, over PyTorch, a process a core",
)
_ARM_HEADER: Final = ("workload", "arm", "rate", "range", "members", "tile", "processes", "compilation", "peak memory")
_STARTUP_HEADER: Final = ("workload", "cache", "compilation", "first step done", "process and all")


def markdown(sections: Mapping[str, Section], findings: lj.Findings) -> Iterator[str]:
    """What was reached, what each rate was measured with, and how long starting takes: those that were measured."""
    tables = findings.tables
    if "steps" in tables:
        yield "## Reached"
        yield "The median [range of the repetitions], and what was asked for."
        yield _table(REACHED_HEADER, reached(sections, findings))
    for name, column, what in (
        ("steps", "us_per_member_step", "Member-steps (µs each)"),
        ("runs", "runs_per_second", "Whole runs (a second)"),
    ):
        if name in tables:
            yield f"## {what}"
            yield _table(_ARM_HEADER, _arm_rows(tables[name], column))
    if "startup" in tables:
        yield "## Start-up"
        help_text = _range(findings.numbers["lossjax --help, seconds"])
        yield f"`lossjax --help`: {help_text} s. A workload's first process and its second, one reading each:"
        yield _table(_STARTUP_HEADER, _startup_rows(tables["startup"]))


def reached(sections: Mapping[str, Section], findings: lj.Findings) -> list[tuple[str, ...]]:
    """A row a workload: what was reached and (asked); ✓ where the median reaches it."""
    rows: list[tuple[str, ...]] = []
    numbers, steps = findings.numbers, findings.tables["steps"]
    for name in (name for name in WORKLOADS if name in sections):
        section, workload = sections[name], workload_of(sections[name])
        # what is asked is asked for a population of the full size
        is_full = section["steps"][PLAIN]["members"] == 512
        target = TARGETS.get(name, Target()) if is_full else Target()
        cost = steps["us_per_member_step"][(steps["workload"] == name) & (steps["arm"] == OURS)][0]
        by_xla = numbers[f"{name}: η against XLA's own product"]
        rows.append(
            (
                workload.label,
                f"{cost:,.0f}",
                _against(numbers[over_plain(workload, section)], target.plain, "×"),
                _against(numbers[f"{name}: η"], target.eta, ""),
                f"{by_xla.estimate:.2f}",
                _against(numbers[over_torch(name)], target.runs, "×"),
            )
        )
    return rows


def _against(value: lj.Interval, target: float | None, unit: str) -> str:
    text = f"**{_digits(value.estimate)}{unit}** [{_digits(value.low)}, {_digits(value.high)}]"
    if target is None:
        return text
    if target == 1:  # "ahead" is a direction, so the interval decides; any other target is one for the median
        found = "✓" if value.low > 1 else "✗" if value.high < 1 else "not told apart"
        return f"{text} (asked: ahead; {found})"
    return f"{text} (asked: {target:g}{unit} {'✓' if value.estimate >= target else '✗'})"


def _arm_rows(table: Mapping, column: str) -> Iterator[tuple[str, ...]]:
    for row in range(len(table["arm"])):
        value, low, high = (table[key][row] for key in with_bounds(column))
        seconds, tile = table["compile_seconds"][row], table["tile"][row]
        yield (
            str(table["label"][row]),
            str(table["arm"][row]),
            _digits(value),
            f"{_digits(low)} … {_digits(high)}",
            str(table["members"][row]),
            str(tile) if tile else "–",
            str(table["processes"][row]),
            f"{seconds:.1f} s" if seconds else "–",
            f"{table['peak_gib'][row]:.2f} GiB",
        )


def _startup_rows(table: Mapping) -> Iterator[tuple[str, ...]]:
    for row in range(len(table["workload"])):
        yield (
            WORKLOADS[str(table["workload"][row])].label,
            str(table["cache"][row]),
            *(f"{table[f'{what}_seconds'][row]:.1f} s" for what in ("compile", "first_step", "process")),
        )


def _range(value: lj.Interval) -> str:
    return f"{_digits(value.estimate)} [{_digits(value.low)}, {_digits(value.high)}]"


def _digits(value: float) -> str:
    """Three significant digits, all of a whole number."""
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(header: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows))
