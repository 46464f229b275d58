"""The page of a results folder: the ledger of claims, then each experiment's verdicts, figures, numbers and notes."""

from __future__ import annotations

import base64
import dataclasses
import os
import re
from pathlib import Path

from lossjax.analysis.findings import Findings, Verdict
from lossjax.reports.page import render
from lossjax.reports.report import by_number, estimate_text, experiment_folders, read_findings, reasons

_FIGURE = re.compile(r"^!\[.*\]\(([\w.-]+\.png)\)\n\n\*(.*)\*$", re.MULTILINE)  # as report.md embeds it
_HEADING = re.compile(r"\A# .*\n\n(.*)\n")
MAX_FIGURE_BYTES = 2**24


@dataclasses.dataclass(frozen=True)
class _Figure:
    caption: str
    data: str  # a data: URL


@dataclasses.dataclass(frozen=True)
class _Experiment:
    name: str
    question: str
    verdicts: tuple[tuple[str, ...], ...]
    rules: tuple[tuple[str, str, str], ...]  # claim, statement, rule
    figures: tuple[_Figure, ...]
    numbers: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    command: str


def results_page(results_dir: str | os.PathLike[str]) -> str:
    """One self-contained HTML file for ``<results_dir>/<experiment>/``, smoke runs left out.

    Verdicts and numbers come from each ``summary.json``, the question and the captions from its ``report.md``.

    Raises:
        FileNotFoundError: there is no experiment.
        ValueError: findings are damaged, or a figure is no PNG.
    """
    folders = experiment_folders(results_dir)
    findings = {folder.name: read_findings(folder) for folder in folders}
    entries = [(name, verdict) for name, found in findings.items() for verdict in found.verdicts]
    entries.sort(key=lambda entry: by_number(entry[1].claim))
    return render(
        "results.html",
        ledger=[(verdict.claim, name, *_verdict_row(verdict)) for name, verdict in entries],
        experiments=[_experiment(folder, findings[folder.name]) for folder in folders],
    )


def _experiment(folder: Path, found: Findings) -> _Experiment:
    report = folder / "report.md"
    text = report.read_text(encoding="utf-8") if report.exists() else ""
    heading = _HEADING.search(text)
    without_bounds = reasons(found)
    used = {f"{name}: {reason}" for name, reason in without_bounds.items()}
    return _Experiment(
        name=folder.name,
        question=_unescaped(heading[1]) if heading else "",
        verdicts=tuple((verdict.claim, *_verdict_row(verdict)) for verdict in found.verdicts),
        rules=tuple(dict.fromkeys((verdict.claim, verdict.statement, _rule(verdict)) for verdict in found.verdicts)),
        figures=tuple(
            _Figure(_unescaped(caption), _embedded(folder / file)) for file, caption in _FIGURE.findall(text)
        ),
        numbers=tuple(
            (name, estimate_text(number, without_bounds.get(name, ""))) for name, number in found.numbers.items()
        ),
        notes=tuple(note for note in found.notes if note not in used),
        command=str(found.meta.get("command", "")),
    )


def _rule(verdict: Verdict) -> str:
    if not verdict.amended:
        return verdict.rule
    how = "Chosen" if verdict.as_written is None else "Amended"
    return f"{verdict.rule}. {how} after the first result: {verdict.amended}"


def _verdict_row(verdict: Verdict) -> tuple[str, ...]:
    return (
        verdict.where,
        verdict.contrast,
        estimate_text(verdict.estimate, verdict.note),
        verdict.seeds_text,
        verdict.outcome + (f" ({verdict.amendment})" if verdict.amended else ""),
    )


def _embedded(path: Path) -> str:
    """A figure as a data: URL."""
    with open(path, "rb") as stream:
        data = stream.read(MAX_FIGURE_BYTES + 1)
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or len(data) > MAX_FIGURE_BYTES:
        raise ValueError(f"{path} is no PNG of at most {MAX_FIGURE_BYTES} bytes; draw it again with lossjax figures")
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _unescaped(markdown: str) -> str:
    """Text without the backslashes that Markdown needs."""
    return re.sub(r"\\([*~$<|])", r"\1", markdown)
