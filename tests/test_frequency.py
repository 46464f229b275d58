"""Class-frequency groups: by hand, and the same for arrays of NumPy and of jax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossjax.analysis.attribution import frequency_groups
from lossjax.frequency import class_groups

COUNTS = np.array([1, 30, 2, 20, 10, 0, 15, 22])


def test_groups_have_equal_shares_of_the_training_mass():
    # from the most frequent: 30, 22, 20, 15, 10, 2, 1, 0 begin at 0, 30, 52, 72, 87, 97, 99, 100 of 100
    assert class_groups(COUNTS, 2).tolist() == [1, 0, 1, 1, 1, 1, 1, 0]
    assert class_groups(COUNTS, 3).tolist() == [2, 0, 2, 1, 2, 2, 2, 0]
    assert class_groups(np.full(6, 7), 3).tolist() == [0, 0, 1, 1, 2, 2]  # among equals the lower index first
    assert class_groups(np.array([1, 9, 1, 1]), 3).tolist() == [2, 0, 2, 2]  # no class begins in the second third


def by_a_loop(counts, num_groups):
    """A class at a time, in whole numbers."""
    groups, begin = np.empty(len(counts), int), 0
    for one in sorted(range(len(counts)), key=lambda one: (-counts[one], one)):
        groups[one] = min(begin * num_groups // counts.sum(), num_groups - 1)
        begin += counts[one]
    return groups


@pytest.mark.parametrize("num_groups", [1, 3, 5])
def test_analysis_and_training_have_the_same_groups(num_groups):
    """Training counts in float32, traced and mapped over members; analysis in whole numbers."""
    rng = np.random.default_rng(0)
    zipf = rng.poisson(400 / np.arange(1, 301), size=(3, 300))
    expected = [by_a_loop(counts, num_groups) for counts in zipf]
    for counts, groups in zip(zipf, expected, strict=True):
        np.testing.assert_array_equal(frequency_groups(counts, num_groups), groups)
    mapped = jax.jit(jax.vmap(lambda counts: class_groups(counts, num_groups)))(jnp.asarray(zipf, jnp.float32))
    np.testing.assert_array_equal(mapped, expected)
