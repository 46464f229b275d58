"""Forecast: what a sweep would train, measure and keep, from shapes alone. Nothing is drawn, compiled or trained."""

from lossjax.sweeps.sweep import Sweep
from lossjax.training.memory import per_example_bytes

# float32 numbers a parameter: its own, its gradient, and two of an optimiser such as Adam
NUMBERS_A_PARAMETER = 4


def forecast(sweep: Sweep) -> list[str]:
    """A line a cell, and the sum. What a member holds is a lower bound; the compiler knows the rest.

    Raises ValueError where a cell is one that training would refuse.
    """
    lines = []
    for name, cell in sweep.cells.items():
        sweep.check(name)
        members = sweep.members(name)
        measured = sum(cell.sizes[split] for split in cell.measured)
        num_evals = len(cell.config.eval_steps(cell.sizes["train"]))
        held = 4 * (NUMBERS_A_PARAMETER * cell.num_parameters + measured * cell.task.num_classes)
        lines.append(
            f"{name}: {len(members):,} members × {cell.num_steps:,} steps, {cell.num_parameters:,} parameters each; "
            f"{num_evals} evaluations of {measured:,} examples × {cell.task.num_classes:,} classes; a member holds at "
            f"least {_size(held)} in training; records of examples take {_size(per_example_bytes(cell) * len(members))}"
        )
    num_members = sum(len(sweep.members(name)) for name in sweep.cells)
    lines.append(f"in all: {num_members:,} members, {member_steps(sweep):,} member-steps")
    return lines


def member_steps(sweep: Sweep) -> int:
    return sum(len(sweep.members(name)) * cell.num_steps for name, cell in sweep.cells.items())


def _size(num_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"
