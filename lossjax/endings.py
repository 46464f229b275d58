"""How the command ends: exit codes, and one line for what a user can mend."""

import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# exit codes; UNEXPECTED is EX_SOFTWARE of sysexits.h, and stopped on request is signals.STOPPED, 75
PARTS_FAILED, WRONG_INPUT, UNEXPECTED = 1, 2, 70


@contextlib.contextmanager
def ended_with_a_code() -> Iterator[None]:
    """Ctrl-C or SIGTERM outside of training is a line; an unexpected error is not taken for failed parts."""
    from lossjax.sweeps.signals import STOPPED

    # or Python's own end would look for garbage among all objects, several times: half a second on an idle machine
    atexit.register(gc.freeze)
    try:
        with _warned_in_a_line(), _terminated_as_interrupted():
            yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nlossjax: stopped; what is committed is kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(STOPPED)
    except BrokenPipeError:  # whoever read the output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor may Python's last flush complain
        sys.exit(1)
    except Exception:
        traceback.print_exc()
        sys.exit(UNEXPECTED)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM as Ctrl-C, where nobody handles it yet; while members are trained ``stop_request`` handles both."""
    is_free = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not is_free or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _warned_in_a_line() -> Iterator[None]:
    """lossjax's own warnings read as its other messages do; those of libraries keep their place."""
    usual = warnings.formatwarning

    def in_a_line(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: Any = None) -> str:
        is_own = Path(filename).is_relative_to(Path(__file__).parent)
        return f"lossjax: {message}\n" if is_own else usual(message, category, filename, lineno, line)

    warnings.formatwarning = in_a_line
    try:
        yield
    finally:
        warnings.formatwarning = usual


@contextlib.contextmanager
def explained(*kinds: type[Exception], kept: str = "") -> Iterator[None]:
    """What a user can mend becomes one line and exit code 2; anything else is a bug and keeps its traceback."""
    try:
        yield
    except BrokenPipeError:  # an OSError, but not of what was read
        raise
    except kinds as error:
        print(f"lossjax: {error}{kept}", file=sys.stderr)
        sys.exit(WRONG_INPUT)
