"""A diagnosis as a page: which numbers go into which table and picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lossjax import __version__
from lossjax.analysis.interval import Interval
from lossjax.diagnosis.answer import GOALS, Diagnosis
from lossjax.diagnosis.phrases import cost, nats, percent, points, shown
from lossjax.reports import charts
from lossjax.reports.page import render


@dataclasses.dataclass(frozen=True)
class Table:
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def to_page(found: Diagnosis, source: str) -> str:
    """One self-contained HTML file; ``source`` names what was diagnosed."""
    sections = [
        ("numbers", "Numbers", True),
        ("evidence", "Evidence", True),
        ("path", "Path", True),
        ("cells", "Right and wrong", found.cells is not None),
        ("reliability", "Reliability", bool(found.reliability)),
        ("groups", "Classes", bool(found.groups or found.classes)),
        ("examples", "Examples", bool(found.examples)),
        ("keep", "Which to keep", bool(found.choices)),
        ("next", "What to try next", True),
        ("notes", "Beware", True),
    ]
    return render(
        "diagnosis.html",
        found=found,
        source=source,
        sections=[(key, title) for key, title, there in sections if there],
        numbers=_numbers(found),
        path=_path(found),
        cells=_cells(found),
        reliability=_reliability(found),
        groups=_groups(found),
        classes=_classes(found),
        examples=_examples(found),
        choices=_choices(found),
        settings=", ".join(
            [f"lossjax {__version__}", f"schema {found.schema}"]
            + [f"{name.replace('_', ' ')} {value}" for name, value in found.settings.items() if value is not None]
        ),
    )


def _numbers(found: Diagnosis) -> Table:
    before, after = found.before, found.after
    rows = [
        ("loss (nats)", before.loss, after.loss, found.delta_loss),
        ("accuracy (%)", _percent(before.accuracy), _percent(after.accuracy), _percent(found.delta_accuracy)),
        ("refinement: loss at the best temperature", before.refinement, after.refinement, found.delta_refinement),
        ("calibration: what it removes", before.calibration, after.calibration, found.delta_calibration),
        ("Brier score", before.brier, after.brier, None),
        ("best temperature", before.temperature, after.temperature, None),
        ("mean confidence", before.confidence, after.confidence, None),
        ("expected calibration error", before.calibration_error, after.calibration_error, None),
        ("… of a calibrated model", before.calibration_error_null, after.calibration_error_null, None),
    ]
    level = found.settings.get("level", 0.95)
    known = [row for row in rows if row[1] is not None or row[2] is not None]
    return Table(
        f"With {100 * level:g} % intervals" if found.kind != "curve" else "Of the curve",
        ("", before.name, after.name, "change"),
        tuple((name, *(_text(value) for value in values)) for name, *values in known),
    )


def _path(found: Diagnosis) -> dict[str, object]:
    path = found.path
    plane = [
        charts.Series("", "third", [(p.loss, p.accuracy) for p in path], radius=2 if len(path) > 2 else 0),
        charts.Series(found.before.name, "before", _points_named(found, found.before.name), joined=False, radius=5),
        charts.Series(found.after.name, "after", _points_named(found, found.after.name), joined=False, radius=5),
    ]
    order = "in the order of training" if len(path) > 2 else f"from {found.before.name} to {found.after.name}"
    drawn = [charts.chart(f"Loss and accuracy, {order}", plane, x_label="loss (nats)", y_label="accuracy")]
    if len(path) > 2:
        steps = [float(index) if p.step is None else p.step for index, p in enumerate(path)]
        unit = "checkpoint" if path[0].step is None else found.timing.unit.removesuffix("s") if found.timing else "step"
        losses = [charts.Series("loss", "after", [(s, p.loss) for s, p in zip(steps, path, strict=True)], radius=1.8)]
        refined = [(s, p.refinement) for s, p in zip(steps, path, strict=True) if p.refinement is not None]
        if refined:
            losses.append(charts.Series("loss at the best temperature", "third", refined, radius=1.8))
        accuracy = [charts.Series("accuracy", "before", [(s, p.accuracy) for s, p in zip(steps, path, strict=True)])]
        drawn.append(charts.chart("Loss along the run", losses, x_label=unit, y_label="loss (nats)"))
        drawn.append(charts.chart("Accuracy along the run", accuracy, x_label=unit, y_label="accuracy"))
    header = ("", "loss", "accuracy", "loss at best T", "T")
    rows = [(p.name, f"{p.loss:.4g}", percent(p.accuracy), _text(p.refinement), _text(p.temperature)) for p in path]
    known = [column for column in range(len(header)) if any(row[column] for row in rows)]
    return {
        "charts": drawn,
        "table": Table(
            "All checkpoints",
            tuple(header[column] for column in known),
            tuple(tuple(row[column] for column in known) for row in rows),
        ),
    }


def _points_named(found: Diagnosis, name: str) -> list[tuple[float, float]]:
    return [(p.loss, p.accuracy) for p in found.path if p.name == name]


def _cells(found: Diagnosis) -> dict[str, object] | None:
    if found.cells is None:
        return None
    styles = {
        cell: "up" if change.change.estimate > 0 else "down" if change.change.estimate < 0 else "none"
        for cell, change in found.cells.items()
    }
    shares = {cell: change.share for cell, change in found.cells.items()}
    rows = tuple((cell, percent(change.share), _text(change.change)) for cell, change in found.cells.items())
    total = ("all", "100 %", _text(found.delta_loss))
    return {
        "flow": charts.flow("Examples that were right and wrong before (left) and after (right)", shares, styles),
        "legend": [("up", "adds to the loss"), ("down", "takes from it")],
        "table": Table("Contributions to the change in loss (nats)", ("", "examples", "loss"), (*rows, total)),
    }


def _reliability(found: Diagnosis) -> dict[str, object] | None:
    if not found.reliability:
        return None
    series, rows = [], []
    for (name, bins), style in zip(found.reliability.items(), ("before", "after", "third"), strict=True):
        series.append(
            charts.Series(
                name,
                style,
                [(one.confidence, one.accuracy.estimate) for one in bins],
                whiskers=[(one.accuracy.low, one.accuracy.high) for one in bins],
            )
        )
        rows += [
            (name, f"{one.low:.2f}–{one.high:.2f}", f"{one.count:,}", f"{one.confidence:.3f}", _text(one.accuracy))
            for one in bins
        ]
    drawn = charts.chart(
        "Accuracy against confidence in 15 bins of equal width; on the dashed line a model is calibrated",
        series,
        x_label="mean confidence",
        y_label="accuracy",
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
        diagonal=True,
    )
    header = ("", "confidence", "examples", "mean", "accuracy")
    return {"chart": drawn, "table": Table("Bins of the diagram", header, tuple(rows))}


def _groups(found: Diagnosis) -> dict[str, object] | None:
    if not found.groups:
        return None
    rows = [(g.name, g.delta_loss.estimate, g.delta_loss.low, g.delta_loss.high) for g in found.groups]
    lines = tuple(
        (
            group.name,
            str(group.num_classes),
            percent(group.share),
            _text(group.delta_loss),
            _text(_percent(group.delta_accuracy)),
        )
        for group in found.groups
    )
    header = ("", "classes", "examples", "loss (nats)", "accuracy (points)")
    return {
        "forest": charts.forest("What each group adds to the change in loss", rows, x_label="nats"),
        "table": Table("Groups with equal shares of the training examples", header, lines),
    }


def _classes(found: Diagnosis) -> Table | None:
    if not found.classes:
        return None
    rows = tuple(
        (
            one.name,
            f"{one.num_examples:,}",
            percent(one.share),
            f"{one.delta_loss:+.3g}".replace("-", "−"),
            percent(one.accuracy_before),
            percent(one.accuracy_after),
        )
        for one in found.classes
    )
    header = ("label", "examples", "share", "change in loss (nats)", "accuracy before", "after")
    return Table(
        "The classes that contribute most to the change in loss, without intervals: the largest of all", header, rows
    )


def _examples(found: Diagnosis) -> Table | None:
    if not found.examples:
        return None
    rows = tuple(
        (
            str(example.index),
            example.label,
            example.predicted_before or "",
            example.predicted_after or "",
            f"{example.probability_before:.3g}",
            f"{example.probability_after:.3g}",
            f"{example.change:+.3g}".replace("-", "−"),
            percent(example.share),
        )
        for example in found.examples
    )
    header = (
        "index",
        "label",
        "predicted before",
        "after",
        "p of label before",
        "after",
        "loss (nats)",
        "of all change",
    )
    return Table("By the size of the change in loss; look at their labels first", header, rows)


def _choices(found: Diagnosis) -> Table | None:
    if not found.choices:
        return None
    rows = []
    for choice in found.choices:
        show = points if choice.goal in ("accuracy", "balanced") else nats
        ties = [name for name in choice.as_good if name != choice.keep]
        rows.append(
            (
                GOALS[choice.goal],
                choice.keep,
                show(choice.value),
                _few(ties) or "none",
                "; ".join(f"{name}: {cost(choice, regret)}" for name, regret in choice.regret.items()),
            )
        )
    header = ("goal", "keep", "its score", "not resolved as worse", "what keeping another costs instead")
    judged = "By goal, judged on examples that had no part in choosing; a cost below 0 is a gain"
    return Table(judged if found.kind == "run" else "By goal", header, tuple(rows))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _percent(interval: Interval) -> Interval:
    return Interval(100 * interval.estimate, 100 * interval.low, 100 * interval.high, interval.level)


def _text(value: Interval | float | None) -> str:
    if value is None:
        return ""
    return shown(value) if isinstance(value, Interval) else f"{value:.3g}"
