"""Where an error comes from: lossjax, a library, or the user's own code, and there from which line."""

import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

_PACKAGE: Final = Path(__file__).parent
_LIBRARIES: Final = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]


def told(error: Exception) -> str:
    """An error in one line, with its place in the user's code: ``file.py, line 12: NameError: …``."""
    # lossjax's own messages say all; of the others the kind is half of it
    text = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
    first = text.split("\n\n")[0]  # jax's go on for paragraphs
    return place(error) + " ".join(first.split())


def place(error: Exception) -> str:
    """The last line of an error's way that is neither lossjax's nor a library's; empty where there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: "
    return next((f"{file}, line {line}: " for file, line, owner in _way(error) if owner == "user"), "")


def is_users(error: Exception) -> bool:
    """Whether it was raised in the user's code or in a library that this code called, and not in lossjax."""
    return next((owner for _, _, owner in _way(error) if owner != "library"), None) == "user"


def is_lossjaxs(error: Exception) -> bool:
    """Whether a line of lossjax raised it, and no library's."""
    is_shortened = any("JAX has removed its internal frames" in note for note in getattr(error, "__notes__", ()))
    return not is_shortened and next((owner for _, _, owner in _way(error)), None) == "lossjax"


def _way(error: Exception) -> Iterator[tuple[str, int | None, Literal["lossjax", "library", "user"]]]:
    """File, line and whose they are, from where the error was raised outwards."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_relative_to(_PACKAGE):  # first, since it may be installed among the libraries
            yield frame.filename, frame.lineno, "lossjax"
        elif not file.is_file() or any(file.is_relative_to(folder) for folder in _LIBRARIES):
            yield frame.filename, frame.lineno, "library"  # or generated code, as a dataclass's __init__
        else:
            yield frame.filename, frame.lineno, "user"
