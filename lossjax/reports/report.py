"""Findings on disk (summary.json and one CSV a table), the Markdown report, and the ledger of claims."""

import csv
import dataclasses
import io
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from lossjax.analysis.findings import Findings, Verdict
from lossjax.analysis.interval import Interval

SCHEMA: Final = 1  # of summary.json; raised when a reader of the old form would misread the new one

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_VERDICT_COLUMNS = ("claim", "where", "contrast", "estimate", "seeds", "scope", "outcome")
_LEDGER_COLUMNS = ("claim", "experiment", "where", "contrast", "estimate", "seeds", "outcome")
_NO_REASON = "no reason was given"
_EXPECTED_META = ("command", "versions", "wall_seconds", "core_seconds", "members")


def write_findings(findings: Findings, directory: str | os.PathLike[str]) -> None:
    """Writes ``summary.json`` and ``<table>.csv`` for each table; the same findings always give the same bytes.

    Numbers are written in full precision and keys in the order of the findings. In ``summary.json`` nan is null.
    Raises ValueError for a table that is not made of equally long [row] arrays of numbers, bools or strings, and for
    meta that JSON would change.
    """
    summary = {
        "schema": SCHEMA,
        "verdicts": [_verdict_to_json(verdict) for verdict in findings.verdicts],
        "numbers": {name: _interval_to_json(number) for name, number in findings.numbers.items()},
        "notes": list(findings.notes),
        "meta": _checked_meta(findings.meta),
        # a CSV has no types of its own
        "tables": {name: _column_types(name, table) for name, table in findings.tables.items()},
    }
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in findings.tables.items():
        _write_text(folder / f"{name}.csv", _to_csv(table))
    # last: a summary never names a table that is not there yet
    _write_text(folder / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_findings(directory: str | os.PathLike[str]) -> Findings:
    """The inverse of ``write_findings``: equal values, types and order.

    Raises FileNotFoundError where there are no findings and ValueError where they are damaged or of another schema.
    """
    path = Path(directory) / "summary.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; run the experiment first, which writes it")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); run the experiment again, which rewrites it") from error
    found = summary.get("schema") if isinstance(summary, dict) else None
    if found != SCHEMA:
        raise ValueError(
            f"{path} has schema {found} and this lossjax reads schema {SCHEMA}; use the lossjax that wrote it, "
            "or run the experiment again"
        )
    try:
        return Findings(
            verdicts=tuple(_verdict_from_json(verdict) for verdict in summary["verdicts"]),
            numbers={name: _interval_from_json(number) for name, number in summary["numbers"].items()},
            tables={name: _read_csv(path.parent, name, types) for name, types in summary["tables"].items()},
            notes=tuple(summary["notes"]),
            meta=summary["meta"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} lacks a part ({error!r}); run the experiment again, which rewrites it") from error


def write_report(
    experiment_name: str,
    question: str,
    findings: Findings,
    figures: Iterable[tuple[str, str]],
    directory: str | os.PathLike[str],
) -> Path:
    """Writes ``report.md`` in GitHub's Markdown and returns its path.

    ``figures`` are (file name relative to the directory, caption). A number without bounds shows in their place the
    note that begins with its name and a colon; a verdict without bounds shows its own note.
    """
    missing = reasons(findings)
    used = {f"{name}: {reason}" for name, reason in missing.items()}
    sections = [f"# {_escape(experiment_name)}", _escape(question)]
    if findings.verdicts:
        sections += ["## Verdicts", _verdict_table(findings.verdicts), *_rules(findings.verdicts)]
    embedded = [
        f"![{_escape(caption).replace('[', '(').replace(']', ')')}]({file})\n\n*{_escape(caption)}*"
        for file, caption in figures
    ]
    if embedded:
        sections += ["## Figures", *embedded]
    if findings.numbers:
        rows = [
            (name, estimate_text(number, missing.get(name, _NO_REASON))) for name, number in findings.numbers.items()
        ]
        sections += ["## Numbers", _table(("number", "estimate"), rows)]
    notes = [note for note in findings.notes if note not in used]
    if notes:
        sections += ["## Notes", "\n".join(f"- {_escape(note)}" for note in notes)]
    if findings.tables:
        links = "\n".join(f"- [{name}.csv]({name}.csv)" for name in findings.tables)
        sections += ["## Plotted numbers", links]
    sections += ["## How this was made", _meta_table(findings.meta)]
    sections.append(
        "Brackets are 95 % intervals unless another level is given; the experiment coverage tells how often they cover "
        "the truth: least often those of means over few seeds, and of skewed or heavy-tailed values. "
        "`summary.json` holds every verdict and number in full precision."
    )
    path = Path(directory) / "report.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_text(path, "\n\n".join(sections) + "\n")
    return path


def ledger(results_dir: str | os.PathLike[str]) -> str:
    """A Markdown table of every verdict in ``<results_dir>/<experiment>/summary.json``, by claim, then by experiment.

    Folders of smoke runs (``<experiment>-smoke``) are left out: their verdicts are of no size that says anything.
    """
    folders = experiment_folders(results_dir)
    entries = [(folder.name, verdict) for folder in folders for verdict in read_findings(folder).verdicts]
    entries.sort(key=lambda entry: by_number(entry[1].claim))  # stable: experiments and places keep their order
    rows = [
        (v.claim, name, v.where, v.contrast, _with_reason(v), v.seeds_text, _outcome_text(v)) for name, v in entries
    ]
    return _table(_LEDGER_COLUMNS, rows) + "\n"


def experiment_folders(results_dir: str | os.PathLike[str]) -> list[Path]:
    """The folders of finished experiments, in the order of their names; FileNotFoundError where there are none."""
    folders = sorted(
        path.parent for path in Path(results_dir).glob("*/summary.json") if not path.parent.name.endswith("-smoke")
    )
    if not folders:
        raise FileNotFoundError(f"no <experiment>/summary.json in {results_dir}; run an experiment first")
    return folders


def estimate_text(interval: Interval, reason: str = "") -> str:
    """``0.123 [0.101, 0.145]``: the largest with three significant digits, or the width with two where that shows more.

    Without bounds, the reason for it stands in their place.
    """
    values = (interval.estimate, interval.low, interval.high)
    decimals = _decimals(values)
    estimate, low, high = (_number_text(value, decimals) for value in values)
    if math.isnan(interval.low) or math.isnan(interval.high):
        return f"{estimate} (no interval: {reason})" if reason else f"{estimate} (no interval)"
    level = "" if interval.level == 0.95 else f" ({100 * interval.level:g} %)"
    return f"{estimate} [{low}, {high}]{level}"


def _decimals(values: Sequence[float]) -> int:
    finite = [abs(value) for value in values if math.isfinite(value)]
    largest = max(finite, default=0.0)
    width = values[2] - values[1]
    digits = 2 - math.floor(math.log10(largest)) if largest > 0 else 0
    if math.isfinite(width) and width > 0:
        digits = max(digits, 1 - math.floor(math.log10(width)))
    return max(digits, 0)


def _number_text(value: float, decimals: int) -> str:
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.{decimals}f}" if decimals <= 7 or value == 0 else f"{value:.2e}"
    if float(text) == 0:  # no "−0.00"
        text = text.lstrip("-")
    return text.replace("-", "−", 1) if text.startswith("-") else text


def _with_reason(verdict: Verdict) -> str:
    return estimate_text(verdict.estimate, verdict.note or _NO_REASON)


def _outcome_text(verdict: Verdict) -> str:
    """The outcome and, where the rule was amended after the first result, that by the rule as written."""
    return f"**{verdict.outcome}**" + (f" ({verdict.amendment})" if verdict.amended else "")


def _verdict_table(verdicts: Sequence[Verdict]) -> str:
    rows = [(v.claim, v.where, v.contrast, _with_reason(v), v.seeds_text, v.scope, _outcome_text(v)) for v in verdicts]
    return _table(_VERDICT_COLUMNS, rows)


def _rules(verdicts: Sequence[Verdict]) -> list[str]:
    """A section a claim: its statement, and every rule with the places that it was applied to."""
    sections = []
    for claim in dict.fromkeys(verdict.claim for verdict in verdicts):
        own = [verdict for verdict in verdicts if verdict.claim == claim]
        for statement in dict.fromkeys(verdict.statement for verdict in own):
            sections.append(f"### {_escape(claim)}: {_escape(statement)}")
            stated = [verdict for verdict in own if verdict.statement == statement]
            for rule, amended, chosen in dict.fromkeys(map(_rule_of, stated)):
                places = [verdict for verdict in stated if _rule_of(verdict) == (rule, amended, chosen)]
                lines = [
                    f"- {_escape(verdict.where)}: {_outcome_text(verdict)}."
                    + (f" {_escape(verdict.note)}" if verdict.note else "")
                    for verdict in places
                ]
                if chosen:
                    sections.append(f"Rule, chosen after the first result ({_escape(amended)}): {_escape(rule)}")
                else:
                    sections.append(f"Rule, written before the result: {_escape(rule)}")
                    if amended:
                        sections.append(f"Amended after the first result: {_escape(amended)}")
                sections.append("\n".join(lines))
        if len(own) > 1 and any("Holm" in verdict.note for verdict in own):
            sections.append(
                f"Outcomes are after Holm's correction at 5 % over the {len(own)} rows, with the p that each interval "
                "implies."
            )
        elif len(own) > 1 and not any("Holm" in verdict.rule for verdict in own):
            sections.append(
                f"Each of the {len(own)} rows has a 95 % interval of its own; they are not corrected for being several."
            )
    return sections


def _rule_of(verdict: Verdict) -> tuple[str, str, bool]:
    """The rule, what was amended, and whether it was chosen as a whole after the first result."""
    return verdict.rule, verdict.amended, bool(verdict.amended) and verdict.as_written is None


def reasons(findings: Findings) -> dict[str, str]:
    """Why a number has no interval: number → the rest of the note that begins with its name and a colon."""
    without = [name for name, number in findings.numbers.items() if math.isnan(number.low) or math.isnan(number.high)]
    return {
        name: note.removeprefix(f"{name}: ")
        for name in without
        for note in findings.notes
        if note.startswith(f"{name}: ")
    }


def _meta_table(meta: Mapping[str, Any]) -> str:
    names = [*_EXPECTED_META, *(name for name in meta if name not in _EXPECTED_META)]
    rows = [(name.replace("_seconds", "_time").replace("_", " "), _meta_text(name, meta.get(name))) for name in names]
    return _table(("what", "value"), rows)


def _meta_text(name: str, value: Any) -> str:
    if value is None:
        return "not recorded"
    if name == "command":
        return f"`{value if isinstance(value, str) else ' '.join(value)}`"
    if name.endswith("_seconds") and isinstance(value, int | float):
        return _duration_text(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_meta_text(key, entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return ", ".join(_meta_text("", entry) for entry in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _duration_text(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    clock = f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{clock} ({seconds:.0f} s)"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(header), ["---"] * len(header), *([_escape(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _escape(text: str) -> str:
    """Text that GitHub shows as it stands, in a table cell too; bold words and `code` are kept."""
    flat = " ".join(text.split())
    # a pipe ends a table's cell even within code
    return re.sub(
        r"(`[^`]*`)|(\*\*[^*]+\*\*)|([*~$<|])",
        lambda match: match[1].replace("|", "\\|") if match[1] else match[2] or "\\" + match[3],
        flat,
    )


def by_number(claim: str) -> list[tuple[int, str]]:
    """C2 before C10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", claim)]


def _verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    fields = {field.name: getattr(verdict, field.name) for field in dataclasses.fields(verdict)}
    if not verdict.amended:  # few are
        del fields["amended"], fields["as_written"]
    return fields | {"estimate": _interval_to_json(verdict.estimate)}


def _verdict_from_json(fields: Mapping[str, Any]) -> Verdict:
    return Verdict(**{**fields, "estimate": _interval_from_json(fields["estimate"])})


def _interval_to_json(interval: Interval) -> dict[str, float | str | None]:
    """JSON has no nan and no infinity: null, and the strings inf and -inf."""
    values = {name: float(getattr(interval, name)) for name in ("estimate", "low", "high", "level")}
    return {
        name: None if math.isnan(value) else value if math.isfinite(value) else str(value)
        for name, value in values.items()
    }


def _interval_from_json(fields: Mapping[str, Any]) -> Interval:
    return Interval(**{name: math.nan if value is None else float(value) for name, value in fields.items()})


def _checked_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in meta.items():
        try:
            kept = json.loads(json.dumps(value, allow_nan=False)) == value
        except (TypeError, ValueError):
            kept = False
        if not kept:
            raise ValueError(
                f"meta[{name!r}]={value!r} would not come back from JSON as it is; use str keys, lists for tuples, "
                "Python numbers for NumPy's and None for nan"
            )
    return dict(meta)


def _column_types(name: str, table: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Column → NumPy's name of its type, once the table is known to be one."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"table name {name!r} is no file name; use letters, digits, '_', '-' and '.'")
    if not table:
        raise ValueError(f"table {name!r} has no columns; leave it out")
    rows = {}
    for column, values in table.items():
        if not isinstance(values, np.ndarray) or values.ndim != 1 or not _storable(values.dtype):
            what = f"{values.dtype} array {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
            raise ValueError(
                f"column {column!r} of table {name!r} is a {what}; give a [row] array of numbers, bools or strings"
            )
        rows[column] = len(values)
    if len(set(rows.values())) > 1:
        raise ValueError(f"the columns of table {name!r} differ in length ({rows}); give one value a row each")
    return {column: values.dtype.str for column, values in table.items()}


def _storable(dtype: np.dtype) -> bool:
    return dtype.kind in "biuU" or dtype in (np.float32, np.float64)


def _to_csv(table: Mapping[str, np.ndarray]) -> str:
    stream = io.StringIO()
    # strings always quoted: a bare carriage return would otherwise be read as the end of a row
    writer = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(table)
    writer.writerows(zip(*(_as_python(values) for values in table.values()), strict=True))
    return stream.getvalue()


def _as_python(values: np.ndarray) -> list[Any]:
    if values.dtype == np.float32:
        return [float(f"{value:.9g}") for value in values.tolist()]  # nine digits tell every float32 apart
    return values.tolist()


def _read_csv(folder: Path, name: str, types: Mapping[str, str]) -> dict[str, np.ndarray]:
    if not _NAME.fullmatch(name):
        raise ValueError(f"table name {name!r} in {folder / 'summary.json'} is no file name; run the experiment again")
    path = folder / f"{name}.csv"
    if not path.exists():
        raise ValueError(f"{path} is missing although summary.json names it; restore it or run the experiment again")
    header, *rows = csv.reader(io.StringIO(path.read_bytes().decode("utf-8"), newline=""))
    if header != list(types) or any(len(row) != len(types) for row in rows):
        raise ValueError(f"{path} does not have the columns {list(types)} in every row; run the experiment again")
    try:
        return {
            column: _from_text([row[index] for row in rows], np.dtype(type_name))
            for index, (column, type_name) in enumerate(types.items())
        }
    except ValueError as error:
        raise ValueError(f"{path} holds a value of another type ({error}); run the experiment again") from error


def _from_text(texts: Sequence[str], dtype: np.dtype) -> np.ndarray:
    if not _storable(dtype):
        raise ValueError(f"{dtype} is no type of a table's column")
    if dtype.kind == "b":
        if set(texts) - {"True", "False"}:
            raise ValueError(f"{sorted(set(texts) - {'True', 'False'})[0]!r} is not True or False")
        return np.array([text == "True" for text in texts], dtype)
    if dtype.kind == "f":
        return np.array([float(text) for text in texts], dtype)
    if dtype.kind == "U":
        return np.array(texts, dtype)
    return np.array([int(text) for text in texts], dtype)


def _write_text(path: Path, text: str) -> None:
    """Whole or not at all, and the same bytes on every system."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(text.encode("utf-8"))
    os.replace(temporary, path)
