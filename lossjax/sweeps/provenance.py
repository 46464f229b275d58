"""What made a result: versions and the git commit. Nothing is imported to find out."""

import functools
import importlib.metadata
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import lossjax

PACKAGES: Final = ("lossjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str | None]:
    """package → its version, lossjax's own from its code; None where it is not installed as a package."""
    return {package: _version(package) for package in packages}


@functools.cache  # reading a package's metadata takes milliseconds, and every part and checkpoint asks
def _version(package: str) -> str | None:
    if package == "lossjax":
        return lossjax.__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache  # the code in memory is that of the process's start, whatever is committed meanwhile
def git_commit() -> str | None:
    """The commit of the repository that lossjax runs from, else of the working directory's; None outside of any.

    Ends in ``-dirty`` where tracked files were changed.
    """
    for folder in (Path(__file__).parent, Path.cwd()):
        try:
            described = subprocess.run(
                ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
                capture_output=True,
                text=True,
                timeout=10,
            )
        except (OSError, subprocess.TimeoutExpired):  # no git here, or a file system that does not answer
            continue
        if described.returncode == 0:
            return described.stdout.strip()
    return None
