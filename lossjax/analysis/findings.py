"""Findings: what an experiment's analysis concludes. Everything a report or a figure shows comes from here."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from lossjax.analysis.interval import Interval

Outcome = Literal["supported", "refuted", "unresolved", "in part"]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A claim's primary contrast and what it says of the claim, by a rule written before the result.

    Where the rule turned out wrong, ``amended`` says what was changed after the first result, and ``outcome`` is by the
    amended rule; ``as_written`` keeps the outcome by ``rule`` as it was. An amended rule with nothing in ``as_written``
    is one that was chosen as a whole after the first result.
    """

    claim: str  # its id, "C1"
    statement: str  # the claim in a sentence
    where: str  # the task, model and split it was tested on
    contrast: str  # what the estimate is, with its unit
    rule: str  # when supported, when refuted
    estimate: Interval
    outcome: Outcome
    num_seeds: int  # runs it rests on
    scope: str  # "examples", "seeds" or "seeds×examples", and what was not replicated
    note: str = ""
    units: str = ""  # what the interval is over where that is not the seeds, and how many: "10 draws"
    amended: str = ""  # what was changed about the rule after the first result, and why; "": nothing
    as_written: Outcome | None = None  # the outcome by the rule before it was amended

    def __post_init__(self) -> None:
        if self.as_written is not None and not self.amended:
            raise ValueError("as_written is the outcome before the rule was amended; say in amended what was changed")

    @property
    def amendment(self) -> str:
        """What stands behind the outcome, in brackets, where the rule was not all written before the result."""
        if not self.amended:
            return ""
        if self.as_written is None:
            return "rule chosen after the first result"
        return f"rule amended after the first result; as written: {self.as_written}"

    @property
    def seeds_text(self) -> str:
        """The number of seeds, with the units of the interval beside it where they are others."""
        return f"{self.num_seeds} (interval over {self.units})" if self.units else str(self.num_seeds)


@dataclasses.dataclass(frozen=True)
class Findings:
    """Written as ``summary.json`` and one CSV a table; figures are drawn from nothing else.

    Attributes:
        verdicts: one a claim and place tested.
        numbers: other reported quantities by name.
        tables: name → column → [row] array, the numbers that figures plot. Bounds of a column ``x`` are ``x_low`` and
            ``x_high``.
        notes: sentences for the report: what surprised, what was not replicated, what fell short.
    """

    verdicts: tuple[Verdict, ...] = ()
    numbers: Mapping[str, Interval] = dataclasses.field(default_factory=dict)
    tables: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # command, versions, cost; filled in by the run
