"""Class-frequency groups: one definition, for arrays of NumPy and of jax. Importing it starts no jax."""

from __future__ import annotations

from typing import Any


def class_groups(counts: Any, num_groups: int) -> Any:
    """The class-frequency group of each class: 0 the head, num_groups - 1 the tail, of equal shares of training mass.

    With classes laid end to end, the most frequent first (the lower index first where counts are equal), a class is
    in the group in which its examples begin. So the most frequent class is always in group 0, and a group may have no
    class where a single one has more than a group's share. Classes without examples are in the tail.

    Args:
        counts: training examples of each class, [class] of NumPy or jax, also traced and under vmap.

    Returns:
        [class] int32, of the same kind as the counts.
    """
    array = counts.__array_namespace__()
    order = array.argsort(-counts, stable=True)
    ordered = counts[order]
    begin = array.cumsum(ordered) - ordered
    group = array.minimum((begin * num_groups) // array.sum(counts), num_groups - 1)
    return group.astype(array.int32)[array.argsort(order, stable=True)]  # from the order of counts back to the classes'
