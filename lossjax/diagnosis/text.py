"""A diagnosis in a terminal: plain lines, the verdict first."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence

from lossjax.analysis.interval import Interval
from lossjax.diagnosis.answer import GOALS, Diagnosis
from lossjax.diagnosis.phrases import cost, percent, shown

WIDTH = 100
SHOWN_EXAMPLES = 5
SHOWN_POINTS = 24


def to_text(found: Diagnosis) -> str:
    """All of a diagnosis but most of its examples, in lines of at most 100 characters where words allow it."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Diagnosis) -> Iterator[str]:
    yield from _wrapped(found.verdict)
    yield ""
    yield f"Regime {found.regime_detail}: {found.regime_name}"
    yield from _table(
        [
            ("", found.before.name, found.after.name, "change"),
            ("loss (nats)", _short(found.before.loss), _short(found.after.loss), _short(found.delta_loss)),
            (
                "accuracy (%)",
                _short(found.before.accuracy, 100),
                _short(found.after.accuracy, 100),
                _short(found.delta_accuracy, 100),
            ),
            (
                "refinement (nats)",
                _short(found.before.refinement),
                _short(found.after.refinement),
                _short(found.delta_refinement),
            ),
            (
                "calibration (nats)",
                _short(found.before.calibration),
                _short(found.after.calibration),
                _short(found.delta_calibration),
            ),
            ("temperature", _number(found.before.temperature), _number(found.after.temperature), ""),
            ("mean confidence", _number(found.before.confidence), _number(found.after.confidence), ""),
            ("ECE, 15 equal bins", _number(found.before.calibration_error), _number(found.after.calibration_error), ""),
            (
                "  if calibrated",
                _number(found.before.calibration_error_null),
                _number(found.after.calibration_error_null),
                "",
            ),
        ]
    )
    yield from _section("Evidence", found.evidence)
    rows: list[tuple[str, ...]]
    if found.cells is not None:
        yield from ("", "What was right before → after")
        rows = [("", "examples", "of the change in loss (nats)")]
        rows += [(cell, percent(change.share), _short(change.change)) for cell, change in found.cells.items()]
        yield from _table(rows)
    if found.groups:
        yield from ("", "By training frequency of the class")
        rows = [("", "classes", "examples", "change in loss (nats)", "change in accuracy (points)")]
        rows += [
            (g.name, str(g.num_classes), percent(g.share), _short(g.delta_loss), _short(g.delta_accuracy, 100))
            for g in found.groups
        ]
        yield from _table(rows)
    if found.classes:
        yield from ("", "Classes that carry most, by the label")
        rows = [("", "examples", "change in loss (nats)", "accuracy of its own (%)")]
        rows += [
            (
                one.name,
                percent(one.share),
                f"{one.delta_loss:+.3g}".replace("-", "−"),
                f"{100 * one.accuracy_before:.3g} → {100 * one.accuracy_after:.3g}",
            )
            for one in found.classes[:SHOWN_EXAMPLES]
        ]
        yield from _table(rows)
    if found.examples:
        yield from ("", f"Examples that changed most ({SHOWN_EXAMPLES} of {len(found.examples)})")
        rows = [("index", "label", "predicted", "p of the label", "change (nats)")]
        rows += [
            (
                str(example.index),
                example.label,
                f"{example.predicted_before} → {example.predicted_after}" if example.predicted_after else "",
                f"{example.probability_before:.2g} → {example.probability_after:.2g}",
                f"{example.change:+.3g}".replace("-", "−"),
            )
            for example in found.examples[:SHOWN_EXAMPLES]
        ]
        yield from _table(rows)
    if found.choices:
        judged = " (below 0 it gains), on examples that had no part in choosing" if found.kind == "run" else ""
        yield from ("", f"Which to keep, and what another choice costs instead{judged}")
        for choice in found.choices:
            ties = "" if choice.resolved else f" (not resolved from {_some(choice.as_good, choice.keep)})"
            yield from _wrapped(f"- For {GOALS[choice.goal]}: {choice.keep}{ties}.", "  ")
            for name, regret in choice.regret.items():
                yield f"    {name}: {cost(choice, regret)}"
    if len(found.path) > 2:
        yield from ("", "Path")
        rows = [("", "loss", "accuracy", "loss recalibrated", "temperature")]
        chosen = _thinned(len(found.path))
        rows += [
            (p.name, f"{p.loss:.4g}", percent(p.accuracy), _number(p.refinement), _number(p.temperature))
            for p in (found.path[index] for index in chosen)
        ]
        yield from _table(rows)
    yield from _section("What to try next", [f"{step.action} {step.because}" for step in found.next_steps])
    yield from _section("Notes", found.notes)


def _section(title: str, items: Sequence[str]) -> Iterator[str]:
    if items:
        yield from ("", title)
        for item in items:
            yield from _wrapped(f"- {item}", "  ")


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows under one of names, without rows and columns that hold nothing."""
    kept = [rows[0], *(row for row in rows[1:] if any(row[1:]))]
    columns = [column for column in range(len(rows[0])) if any(row[column] for row in kept[1:])]
    kept = [[row[column] for column in columns] for row in kept]
    widths = [max(len(row[column]) for row in kept) for column in range(len(columns))]
    for row in kept:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _short(interval: Interval | None, scale: float = 1.0) -> str:
    return "" if interval is None else shown(interval, scale)


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3g}"


def _some(names: Sequence[str], without: str) -> str:
    others = [name for name in names if name != without]
    return ", ".join(others[:6]) + (f" and {len(others) - 6} more" if len(others) > 6 else "")


def _thinned(count: int) -> list[int]:
    """All, or evenly spread ones with the first and the last."""
    if count <= SHOWN_POINTS:
        return list(range(count))
    return sorted({round(index * (count - 1) / (SHOWN_POINTS - 1)) for index in range(SHOWN_POINTS)})
