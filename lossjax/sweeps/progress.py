"""Progress of a run: a bar on a terminal, a plain line every ten seconds elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 10.0


class Meter:
    """Members, steps, member-steps a second and time left of one cell; a context manager."""

    def __init__(self, cell: str, num_members: int, num_done: int, num_steps: int) -> None:
        self._cell, self._num_members, self._num_steps = cell, num_members, num_steps
        self._total = num_members * num_steps
        self._before = num_done * num_steps  # of an earlier run: no work of this one
        self._worked = 0
        self._began = self._said = time.monotonic()
        self._console = Console(file=sys.stderr)
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[facts]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(cell, total=self._total, completed=self._before, facts="")

    def __enter__(self) -> "Meter":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def skip(self, member_steps: int) -> None:
        """Steps that a checkpoint already holds."""
        self._before += member_steps

    def update(self, member_steps: int, members_done: int, step: int) -> None:
        """After a segment: steps it did, members done in all, and the step at which the wave in training is."""
        self._worked += member_steps
        seconds = time.monotonic() - self._began
        rate = self._worked / seconds if seconds > 0 else 0.0
        facts = f"{members_done}/{self._num_members} members, step {step}/{self._num_steps}, {rate:,.0f} member-steps/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._before + self._worked, facts=facts)
        elif time.monotonic() - self._said >= PLAIN_SECONDS:
            self._said = time.monotonic()
            left = (self._total - self._before - self._worked) / rate if rate else float("nan")
            print(f"{self._cell}: {facts}, {left:.0f} s left", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line that stays above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)
