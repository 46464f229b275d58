"""Stopping when asked: the first SIGINT or SIGTERM is a request, the second ends the process."""

import contextlib
import os
import signal
import threading
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
        self.received = self.received or signal.Signals(number)


_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = b"\x1b[?25h"  # a progress bar hides it, and is given no time to show it again


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Handles SIGINT and SIGTERM inside the block; only the main thread can, elsewhere they stay as they are."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.signal(number, request._handle) for number in _NUMBERS}
    with _acknowledgements():
        try:
            yield request
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _acknowledgements() -> Iterator[None]:
    """Answers each signal at once from a thread: Python's handlers wait until a compilation or a device call returns.

    The answer goes to standard error as it is now, which a compilation replaces for its time (``quiet_compilation``).
    """
    arrivals, wakeup = os.pipe()
    os.set_blocking(wakeup, False)  # as set_wakeup_fd asks for
    terminal = os.dup(2)
    before = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    thread = threading.Thread(target=_acknowledge, args=(arrivals, terminal), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(wakeup)
        thread.join()
        os.close(arrivals)
        os.close(terminal)


def _acknowledge(arrivals: int, terminal: int) -> None:
    asked = False
    while arrived := os.read(arrivals, 1):  # the signal's number, a byte
        number = arrived[0]
        if number not in _NUMBERS:
            continue
        if asked:
            if os.isatty(terminal):
                os.write(terminal, _SHOW_CURSOR)
            os._exit(128 + number)  # not even a running device call is waited for
        asked = True
        text = f"\n{signal.Signals(number).name}: stopping after this segment and keeping a checkpoint"
        with contextlib.suppress(OSError):  # a terminal that is gone
            os.write(terminal, f"{text}; once more to end at once\n".encode())
