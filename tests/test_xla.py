"""Borders of fusions, and reductions by halves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossjax.xla import apart, last_max, last_sum


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="borders are for XLA's fusion on a CPU")
def test_what_is_computed_apart_is_fused_with_nothing():
    def program(wrap):
        def product(values):
            once = wrap(jnp.tanh)(values)
            return jnp.sum(once[:, None] * once[None], axis=1)

        return jax.jit(jax.vmap(product)).lower(jnp.ones((3, 5, 7))).compile()

    borders = program(apart)
    assert " call(" in borders.as_text()
    assert " call(" not in program(lambda function: function).as_text()
    np.testing.assert_allclose(borders(jnp.ones((3, 5, 7))), 5 * np.tanh(1.0) ** 2, rtol=1e-5)


# 64 is halved once, 200 leaves a tail, 7 is short
@pytest.mark.parametrize("length", [1, 7, 63, 64, 65, 200, 3000])
def test_reductions_by_halves_are_numpys(length):
    values = np.random.default_rng(length).normal(size=(2, 3, length)).astype(np.float32)
    exact = values.astype(np.float64).sum(axis=-1)
    np.testing.assert_allclose(last_sum(jnp.asarray(values)), exact, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(last_sum(jnp.asarray(values), shortest=2), exact, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(last_max(jnp.asarray(values)), values.max(axis=-1))
    counts = np.arange(length, dtype=np.int32)
    assert last_sum(jnp.asarray(counts)).dtype == jnp.int32
    assert last_sum(jnp.asarray(counts)) == counts.sum()


@pytest.mark.parametrize("place", [0, 100, 199])
def test_a_nan_anywhere_is_the_sum_and_the_maximum(place):
    values = jnp.zeros(200).at[place].set(jnp.nan)
    assert jnp.isnan(last_sum(values))
    assert jnp.isnan(last_max(values))
