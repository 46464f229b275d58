"""What was measured, as it was measured: a JSON file, with what each section's figures depend on."""

import dataclasses
import datetime
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from lossjax.sweeps.provenance import PACKAGES, git_commit, versions
from speed.workers import Work

SCHEMA: Final = 1
FILE: Final = "measurements.json"
Section = dict[str, Any]


@dataclasses.dataclass
class Record:
    """Sections by name; each is written when it is done, so that a stop costs the section in hand."""

    folder: Path
    command: str
    sections: dict[str, Section] = dataclasses.field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, command: str) -> "Record":
        """With the sections that are there. Raises ValueError for a file of another form."""
        path = folder / FILE
        if not path.exists():
            return cls(folder, command)
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept.get("schema") != SCHEMA:
            raise ValueError(f"{path} has schema {kept.get('schema')}, not {SCHEMA}; delete it and measure again")
        return cls(folder, command, kept["sections"])

    def has(self, name: str) -> bool:
        """Whether the section was measured with the same code, versions and machine."""
        made = self.sections.get(name, {}).get("made", {})
        return all(made.get(key) == value for key, value in conditions().items())

    def measure(self, name: str, function: Callable[[], Section]) -> None:
        began = time.monotonic()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        section = function()
        made = conditions() | {"command": self.command, "when": now, "wall_seconds": round(time.monotonic() - began, 1)}
        self.sections[name] = section | {"made": made}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / FILE, {"schema": SCHEMA, "sections": self.sections})


def conditions() -> dict[str, Any]:
    """What a figure depends on besides the workload; no host's name."""
    return {
        "versions": versions((*PACKAGES, "scipy", "torch")),
        "git_commit": _commit(),
        "processor": _processor(),
        "cores": num_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        # the variables a user may have set are taken away from every arm
        "flags": "each library's defaults; lossjax sets its own",
    }


def _commit() -> str | None:
    """Of the code; what a benchmark writes into results/ makes no other code of it."""
    commit = git_commit()
    if commit is None or not commit.endswith("-dirty"):
        return commit
    changed = ["git", "status", "--porcelain", "--", "lossjax", "experiments", "pyproject.toml"]
    found = subprocess.run(changed, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    return commit if found.returncode or found.stdout.strip() else commit.removesuffix("-dirty")


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def as_json(works: list[Work]) -> dict[str, list[float]]:
    """Counts and seconds, repetition by repetition."""
    return {"count": [work.count for work in works], "seconds": [work.stop - work.start for work in works]}


def write_json(path: Path, value: Any) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
