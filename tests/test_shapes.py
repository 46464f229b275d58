"""Annotated shapes are checked as the tests run: what ``conftest.py`` sets up, tried on what breaks them."""

import jaxtyping
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import Float

from lossjax.analysis import calibration


def test_a_statistic_is_given_the_shapes_that_it_states():
    with pytest.raises(jaxtyping.TypeCheckError, match="scores"):
        calibration.scores(np.zeros(3), np.zeros(3, dtype=int))
    with pytest.raises(jaxtyping.TypeCheckError, match="scores"):
        calibration.scores(np.zeros((3, 2)), np.zeros(4, dtype=int))


def test_a_function_within_a_function_is_checked_where_it_states_a_shape():
    @jaxtyping.jaxtyped(typechecker=beartype)
    def stated(values: Float[np.ndarray, "one two"]) -> float:
        return values.sum()

    @jaxtyping.jaxtyped(typechecker=beartype)
    def written(values: "Float[np.ndarray, 'one two']"):
        return values.sum()

    @jaxtyping.jaxtyped(typechecker=beartype)
    def shapeless(values: tuple[np.ndarray, ...]) -> np.ndarray:
        return values[0]

    for checked in (stated, written):
        assert checked(np.zeros((2, 3))) == 0
        with pytest.raises(jaxtyping.TypeCheckError):
            checked(np.zeros(3))
    assert not hasattr(shapeless, "__wrapped__")
