"""Examples in blocks: as if they were taken all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossjax.training.blocks import in_blocks


def of_examples(examples):
    values, labels = examples
    return {"sums": values.sum(axis=-1) + labels, "matrix": values * 2, "labels": labels}


# one block, whole blocks, one that begins in the one before, and single examples
@pytest.mark.parametrize("most", [10, 7, 5, 4, 3, 1])
def test_blocks_are_the_whole(most):
    examples = (jnp.arange(21.0).reshape(7, 3), jnp.arange(7))
    found = in_blocks(of_examples, examples, most)
    jax.tree.map(np.testing.assert_array_equal, found, of_examples(examples))


def test_no_block_has_more_examples_than_are_asked_for():
    lengths = []

    def noted(values):
        lengths.append(len(values))
        return values

    in_blocks(noted, jnp.arange(100), 30)
    assert set(lengths) == {25}  # four blocks of one length


def test_mapped_over_members_nothing_is_turned():
    values, labels = jnp.ones((3, 40, 5)), jnp.ones((3, 40))

    def mapped(values, labels):
        return jax.vmap(lambda *examples: in_blocks(of_examples, examples, 8))(values, labels)

    found = jax.jit(mapped)(values, labels)
    jax.tree.map(np.testing.assert_array_equal, found, jax.vmap(lambda *both: of_examples(both))(values, labels))
    assert "transpose" not in str(jax.jit(mapped).lower(values, labels).compile().as_text())
