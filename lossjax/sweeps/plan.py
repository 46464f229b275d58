"""The plan of an experiment folder: which cells it is to hold, and how many members of each."""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from lossjax.identity import digest
from lossjax.sweeps import durable
from lossjax.sweeps.provenance import versions

FORMAT: Final = "lossjax results 1"
_DIGEST_IN_NAME: Final = 12  # hexadecimal digits: 48 bits tell the edits of one cell apart
_LONGEST_LIST: Final = 16  # numbers that are written out; a random search has hundreds


class StoreError(ValueError):
    """Results cannot be written or read as asked; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class CellPlan:
    """A cell of a sweep as the store knows it.

    Attributes:
        name: unique in the experiment, and fit to be a folder's name.
        digest: hexadecimal SHA-256 of everything that a member's result depends on.
        num_members: how many members the cell is to have.
        description: task, model, config and population in JSON's types, for people to compare: the digest tells cells
            apart. Long lists of numbers are in the file by their number, range and digest alone.
    """

    name: str
    digest: str
    num_members: int
    description: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_folder_name("cell", self.name)
        if not re.fullmatch(rf"[0-9a-f]{{{_DIGEST_IN_NAME},}}", self.digest):
            raise ValueError(
                f"digest {self.digest!r} of cell {self.name!r} is not {_DIGEST_IN_NAME} or more hexadecimal digits"
            )
        if self.num_members < 1:
            raise ValueError(f"num_members={self.num_members} of cell {self.name!r} must be at least 1")

    @property
    def folder(self) -> str:
        """The name of the cell's folder; an edited cell has another."""
        return f"{self.name}-{self.digest[:_DIGEST_IN_NAME]}"


def check_folder_name(kind: str, name: str) -> None:
    """Refuses a name that is not one folder's on every system."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=,+-]{0,99}", name):
        raise ValueError(
            f"{kind} name {name!r} names a folder: it starts with a letter or digit, holds letters, digits and "
            f". _ = , + - only, and has at most 100 characters; rename the {kind}"
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """What an experiment folder is to hold, and the command that asked for it."""

    experiment: str
    scale: str  # "full" or "smoke", for example
    command: str
    lossjax: str | None  # its version
    cells: tuple[CellPlan, ...]

    def cell(self, name: str) -> CellPlan:
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise StoreError(
            f"no cell {name!r} in {self.experiment}; its cells are {', '.join(c.name for c in self.cells)}"
        )


def read_plan(root: str | Path) -> Plan:
    """The plan of an experiment folder.

    Raises:
        StoreError: there is none, or it is not lossjax's, or it is damaged.
    """
    path = Path(root) / "plan.json"
    if not path.exists():
        below = sorted(found.parent.name for found in Path(root).glob("*/plan.json"))
        hint = f"; choose one of its folders: {', '.join(below)}" if below else "; `lossjax run` makes them"
        raise StoreError(f"{root} holds no results: there is no plan.json in it{hint}")
    try:
        content = durable.read_json(path)
        if content.get("format") != FORMAT:
            raise durable.Damaged(
                f"{path} has the format {content.get('format')!r} where this version reads {FORMAT!r}"
            )
    except durable.Damaged as error:
        raise StoreError(f"{error}; delete it and run the same command again, which keeps all parts") from error
    fields = {field.name: content[field.name] for field in dataclasses.fields(Plan)}
    return Plan(**{**fields, "cells": tuple(CellPlan(**cell) for cell in fields["cells"])})


def write_plan(root: str | Path, cells: Iterable[CellPlan], *, experiment: str, scale: str, command: str) -> Plan:
    """Write down what the folder is to hold; replaces the plan of an earlier run of the same experiment.

    Cells of the earlier plan that were edited or removed keep their parts on disk and are no longer read.

    Raises:
        StoreError: the folder holds another experiment, or the same at another scale.
    """
    plan = Plan(experiment, scale, command, versions()["lossjax"], tuple(cells))
    names = [cell.name for cell in plan.cells]
    if len(set(names)) < len(names):
        raise ValueError(f"cells share a name: {sorted({name for name in names if names.count(name) > 1})}")
    path = Path(root) / "plan.json"
    if path.exists():
        earlier = read_plan(root)
        if (earlier.experiment, earlier.scale) != (experiment, scale):
            raise StoreError(
                f"{root} holds {earlier.experiment} ({earlier.scale}) and not {experiment} ({scale}); a folder holds "
                "one experiment at one scale: choose another results folder"
            )
    briefly = tuple(dataclasses.replace(cell, description=brief(cell.description)) for cell in plan.cells)
    durable.write_json(path, {"format": FORMAT, **dataclasses.asdict(dataclasses.replace(plan, cells=briefly))})
    return plan


def plan_changes(root: str | Path, cells: Iterable[CellPlan]) -> str:
    """What these cells change of the plan in the folder, a line a change; empty where nothing changes or none is."""
    if not (Path(root) / "plan.json").exists():
        return ""
    earlier, now = {c.name: c for c in read_plan(root).cells}, {c.name: c for c in cells}
    lines = [f"{name}: no longer planned; its parts stay" for name in earlier if name not in now]
    for name, cell in now.items():
        if name not in earlier:
            lines.append(f"{name}: new, {cell.num_members} members")
            continue
        before = earlier[name]
        if before.num_members != cell.num_members:
            fewer = "; the others stay and are no longer read, so summary and report are of fewer"
            lines.append(
                f"{name}: {before.num_members} → {cell.num_members} members"
                + (fewer if cell.num_members < before.num_members else "")
            )
        if before.digest != cell.digest:
            is_back = (Path(root) / "cells" / cell.folder / "parts").exists()
            begins = f"goes on with what is stored in {cell.folder}" if is_back else "starts anew"
            lines.append(f"{name}: edited, {begins}; parts of the earlier edit stay in {before.folder}")
            lines += [f"    {line}" for line in _differences(brief(before.description), brief(cell.description))]
    return "\n".join(lines)


def brief(description: Any) -> Any:
    """A description with long lists of numbers as ``"33 numbers, 0.0003 … 0.0984 (2f5a60c1d2e3)"``."""
    if isinstance(description, Mapping):
        return {key: brief(value) for key, value in description.items()}
    if not isinstance(description, list | tuple):
        return description
    if len(description) <= _LONGEST_LIST or any(type(value) not in (int, float) for value in description):
        return [brief(value) for value in description]
    values = [float(value) for value in description]
    return f"{len(values)} numbers, {min(values):.3g} … {max(values):.3g} ({digest(values)[:_DIGEST_IN_NAME]})"


def _differences(before: Any, now: Any, path: str = "") -> list[str]:
    """Lines ``task.num_features: 1 → 5`` for two values of JSON's types."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        lines = []
        for key in [*before, *(key for key in now if key not in before)]:
            below = f"{path}.{key}" if path else str(key)
            if key not in now:
                lines.append(f"{below}: {json.dumps(before[key], ensure_ascii=False)} removed")
            elif key not in before:
                lines.append(f"{below}: {json.dumps(now[key], ensure_ascii=False)} added")
            else:
                lines += _differences(before[key], now[key], below)
        return lines
    if json.dumps(before) == json.dumps(now):  # as JSON, where a tuple is a list
        return []
    return [f"{path}: {json.dumps(before, ensure_ascii=False)} → {json.dumps(now, ensure_ascii=False)}"]
