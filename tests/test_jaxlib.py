"""The installed jaxlib computes what it should: it is none of the releases that pyproject.toml excludes."""

import jax
import jax.numpy as jnp
import numpy as np


def test_a_mapped_product_followed_by_a_sum_is_right_on_a_long_axis():
    """jaxlib 0.10.2 gives other values on a CPU (jax issue 39103), from 32,769 rows on in float32."""
    num_rows = 32_769
    rows = np.zeros((num_rows, 3), np.float32)
    rows[:, 0] = np.arange(num_rows)
    identity = jnp.eye(3)

    @jax.jit
    def squared_norms(rows):
        return jax.vmap(lambda row: jnp.sum((identity @ row) ** 2))(rows)

    message = "this jaxlib is broken on CPU; install one that pyproject.toml allows"
    np.testing.assert_array_equal(squared_norms(rows), rows[:, 0] ** 2, err_msg=message)
