"""Sweep: named cells times a population. One cell is one compilation and one place in the store."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lossjax.hyperparams import Hyperparams, as_configs
from lossjax.identity import describe, digest
from lossjax.keys import Seeds, tied
from lossjax.training.check import check_cell, check_types
from lossjax.training.population import Members, flatten
from lossjax.training.program import compiler_options
from lossjax.training.train import Cell

PART_SIZE = 256
PLATFORMS = ("cpu", "gpu")  # that results may come from


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
    """What an experiment trains.

    Attributes:
        cells: name → Cell(task, model, config). Names become folder names.
        hyperparams: for all cells, or name → Hyperparams.
        seeds: how many tied seeds (0 … seeds-1) or ``Seeds``, for all cells or by name.
        part_size: members a part, the unit of commit and of resume.
        keep_params: members of each cell whose final parameters are kept.
    """

    cells: Mapping[str, Cell]
    hyperparams: Hyperparams | Mapping[str, Hyperparams]
    seeds: int | Seeds | Mapping[str, int | Seeds] = 1
    part_size: int = PART_SIZE
    keep_params: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.cells, Mapping) or not self.cells:
            raise ValueError(f"cells={self.cells!r} must be a dict of at least one cell, by name: {{'a': Cell(…)}}")
        for name, cell in self.cells.items():
            if not isinstance(cell, Cell):
                raise ValueError(f"cell {name!r} is {cell!r}; it must be a Cell(task, model, config)")
            check_types(cell, f" of cell {name!r}")
        each = self.hyperparams.values() if isinstance(self.hyperparams, Mapping) else [self.hyperparams]
        for hyperparams in each:
            if not isinstance(hyperparams, Hyperparams):
                raise ValueError(
                    f"hyperparams={self.hyperparams!r} must be Hyperparams, as grid(learning_rate=1e-2) gives them, or "
                    "a dict of them by cell"
                )
        for field in ("hyperparams", "seeds"):
            value = getattr(self, field)
            if isinstance(value, Mapping) and set(value) != set(self.cells):
                raise ValueError(
                    f"{field} names {sorted(value)} and the cells are {sorted(self.cells)}; name each cell"
                )
        if type(self.part_size) is not int or self.part_size < 1:
            raise ValueError(f"part_size={self.part_size} must be at least 1, a whole number")
        if not isinstance(self.keep_params, tuple) or any(type(member) is not int for member in self.keep_params):
            raise ValueError(f"keep_params={self.keep_params!r} must be a tuple of members, such as (0, 3)")

    def with_seeds(self, num_seeds: int) -> "Sweep":
        """The same sweep with another number of tied seeds; seeds designed otherwise cannot be changed by a number."""
        for name in self.cells:
            if self.seeds_of(name).design != "tied":
                raise ValueError(f"cell {name!r} has seeds of its own design; edit the experiment file to change them")
        return dataclasses.replace(self, seeds=num_seeds)

    def pinned(self) -> "Sweep":
        """The same sweep with the content of its tasks' files pinned (see ``Cell.pinned``)."""
        return dataclasses.replace(self, cells={name: cell.pinned() for name, cell in self.cells.items()})

    def seeds_of(self, name: str) -> Seeds:
        seeds = self.seeds[name] if isinstance(self.seeds, Mapping) else self.seeds
        return seeds if isinstance(seeds, Seeds) else tied(seeds)

    def hyperparams_of(self, name: str) -> Hyperparams:
        return self.hyperparams[name] if isinstance(self.hyperparams, Mapping) else self.hyperparams

    def members(self, name: str) -> Members:
        """The cell's population, flattened."""
        return flatten(self.hyperparams_of(name), self.seeds_of(name))

    def check(self, name: str) -> None:
        """Refuses (ValueError) a cell that does not fit its members, and members to be kept that there are not."""
        members = self.members(name)
        check_cell(self.cells[name], members)
        for member in self.keep_params:
            if not 0 <= member < len(members):
                raise ValueError(
                    f"keep_params names member {member} and cell {name!r} has the members 0 … {len(members) - 1}; name "
                    "members that every cell has"
                )

    def description(self, name: str) -> dict[str, Any]:
        """Everything a cell's results depend on; its digest names their folder."""
        cell, seeds = self.cells[name].pinned(), self.seeds_of(name)
        return {
            "task": describe(cell.task),
            "model": describe(cell.model),
            "config": describe(cell.config),
            # of every platform, whichever this machine is: a cell started here is found elsewhere
            "compiler_options": {platform: compiler_options(cell, platform) for platform in PLATFORMS},
            "hyperparams": describe(as_configs(self.hyperparams_of(name))),
            # more tied seeds only append members, so their number is no part of what a cell is
            "seeds": seeds.design if seeds.design == "tied" else f"{seeds.design} {digest(describe(seeds.table))[:12]}",
        }
