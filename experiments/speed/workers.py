"""Processes that are told "one repetition" over a pipe and idle in between, so that the ways to do a thing alternate.

Each way needs settings of its own that hold for a whole process (devices, threads, flags), hence a process each; a way
with one process a core has several. ``main`` is the process's side.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# what a user may have set, and what would make a peer something else than its default
_SETTINGS = ("XLA_", "JAX_", "OMP_", "MKL_", "OPENBLAS_", "TORCH_", "KMP_")
_FOLDER = Path(__file__).resolve().parents[1]  # where the package ``speed`` is found


class WorkerError(RuntimeError):
    """A worker could not do what it was told; the message is its traceback."""


@dataclasses.dataclass(frozen=True)
class Work:
    """One repetition: ``count`` of something between two readings of the machine's monotonic clock, in seconds."""

    count: float
    start: float
    stop: float


class Arm:
    """One way to do the work: one process, or several that do the same at the same time."""

    def __init__(
        self,
        target: str,
        arguments: Mapping[str, Any],
        processes: int = 1,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            target: ``module:Class`` of this package; its ``repeat(...)`` returns a Work.
            arguments: of the class, in JSON's types.
            settings: environment variables; all others that set threads, devices or flags are taken away.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
        path = os.pathsep.join(filter(None, (str(_FOLDER), os.environ.get("PYTHONPATH"))))
        environment = kept | {"PYTHONPATH": path} | dict(settings or {})
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", "import sys; from speed.workers import main; main(sys.argv[1])", target],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                text=True,
            )
            for _ in range(processes)
        ]
        self.info: dict[str, Any] = {"processes": processes}
        self._send("__init__", arguments)
        self._started = False  # its answer is read before the next one's, so that arms start at the same time

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:  # nobody waits for what they are doing
            for process in self._processes:
                process.terminate()
        self.close()

    def call(self, method: str, **arguments: Any) -> Any:
        """What the method returns in the first process; all processes do it. Raises WorkerError."""
        return self._ask(method, arguments)[0]

    def prepare(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Everything up to and including a warm-up; what is to be stated beside the figure.

        Processes that chose to do different numbers of runs a repetition all do the largest.
        """
        prepared = self._ask(f"prepare_{what}", arguments)
        self.info = {**self.info, **prepared[0]}
        if len(prepared) > 1 and "members" in prepared[0]:
            self.info["members"] = max(each["members"] for each in prepared)
            self._ask("share", {"members": self.info["members"]})
        return self.info

    def repeat(self, what: str) -> Work:
        """One repetition of what was prepared, by all processes at once: from the first start to the last stop."""
        done = [Work(*work) for work in self._ask(f"repeat_{what}", {})]
        return Work(sum(w.count for w in done), min(w.start for w in done), max(w.stop for w in done))

    def peak_bytes(self) -> int:
        """The most memory resident at once, of all processes together."""
        return sum(self._ask("peak_bytes", {}))

    def close(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        for process in self._processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _ask(self, method: str, arguments: Mapping[str, Any]) -> list[Any]:
        if not self._started:
            self._started = True
            self._answers()
        self._send(method, arguments)
        return self._answers()

    def _answers(self) -> list[Any]:
        return [_answer(process) for process in self._processes]

    def _send(self, method: str, arguments: Mapping[str, Any]) -> None:
        request = json.dumps({"method": method, "arguments": arguments}) + "\n"
        for process in self._processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # the missing answer says so
                process.stdin.write(request)
                process.stdin.flush()


def alternate(arms: Mapping[str, Arm], what: str, repetitions: int) -> dict[str, list[Work]]:
    """A B C A B C …, one at a time; each arm must be prepared."""
    done: dict[str, list[Work]] = {name: [] for name in arms}
    for _ in range(repetitions):
        for name, arm in arms.items():
            done[name].append(arm.repeat(what))
    return done


@contextlib.contextmanager
def timed() -> Iterator[list[float]]:
    """Readings of the monotonic clock before and after: the same clock in all processes."""
    readings = [time.monotonic()]
    yield readings
    readings.append(time.monotonic())


def main(target: str) -> None:
    """Answers one line of JSON for each line of JSON, until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    # Ctrl-C reaches all processes; the one that asks decides. An exit by exception clears temporary folders away
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    module, name = target.split(":")
    worker: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        method, given = request["method"], request["arguments"]
        try:
            if method == "__init__":
                worker = getattr(importlib.import_module(f"speed.{module}"), name)(**given)
                value: Any = None
            elif method == "peak_bytes":
                value = _peak_bytes()
            else:
                value = getattr(worker, method)(**given)
            answer = {"value": list(dataclasses.astuple(value)) if isinstance(value, Work) else value}
        except Exception:  # passed on whole: the process that asked raises it
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _peak_bytes() -> int:
    """The most memory of this process that was resident at once."""
    try:
        # not ru_maxrss where there is this: on Linux that one counts the process before exec too
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _answer(process: subprocess.Popen) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise WorkerError(f"a worker ended with exit code {process.wait()} without an answer")
    answer = json.loads(line)
    if "error" in answer:
        raise WorkerError(answer["error"])
    return answer["value"]
