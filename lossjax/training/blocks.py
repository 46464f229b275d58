"""Examples taken in blocks that stay in the cache."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lossjax.xla import apart


def in_blocks(function: Callable[[Any], Any], examples: Any, most: int) -> Any:
    """``function(examples)``, of at most so many examples at a time.

    The blocks are of one length, so the last one may begin with examples of the one before. Unlike with
    ``jax.lax.map``, whose blocks are an axis of their own, no array is copied to put that axis first under vmap.

    Args:
        function: of arrays [block, ...] to arrays [block, ...], an example's values being its own.
        examples: a tree of arrays [example, ...].
    """
    num_examples = len(jax.tree.leaves(examples)[0])
    num_blocks = -(-num_examples // most)
    if num_blocks == 1:
        return function(examples)
    size = -(-num_examples // num_blocks)

    @apart  # or whatever reads a block would find where it begins anew for each of its values
    def block(start: Any, examples: Any) -> Any:
        return jax.tree.map(lambda array: jax.lax.dynamic_slice_in_dim(array, start, size), examples)

    def add(index: Any, results: Any) -> Any:
        start = jnp.minimum(index * size, num_examples - size)
        return jax.tree.map(
            lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, start, axis=0),
            results,
            function(block(start, examples)),
        )

    empty = jax.tree.map(
        lambda shape: jnp.zeros((num_examples, *shape.shape[1:]), shape.dtype),
        jax.eval_shape(lambda: function(block(0, examples))),
    )
    return jax.lax.fori_loop(0, num_blocks, add, empty)
