"""Stopping when asked: the first SIGINT or SIGTERM is a request, the second ends the process."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

STOPPED = 75  # exit code: stopped on request, the same command goes on (EX_TEMPFAIL of sysexits.h)


class Stopped(Exception):
    """Training was stopped on request, after a checkpoint."""


class StopRequest:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)  # not even a running device call is waited for
        self.received = signal.Signals(number)
        print(
            f"\n{self.received.name}: stopping after this segment and keeping a checkpoint; once more to end at once",
            file=sys.stderr,
            flush=True,
        )


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Handles SIGINT and SIGTERM inside the block; only the main thread can, elsewhere they stay as they are."""
    request = StopRequest()
    try:
        previous = {number: signal.signal(number, request._handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        yield request
        return
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
