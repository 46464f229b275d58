"""Tables by hand."""

import numpy as np
import pytest

from lossjax.analysis.interval import Interval, Intervals
from lossjax.analysis.summary import Summary
from lossjax.analysis.tables import table, with_bounds


def test_what_is_single_stands_in_every_row_of_its_part():
    curve = Intervals(np.array([1.0, 2.0]), np.array([0.5, 1.5]), np.array([1.5, 2.5]))
    found = table(
        [
            {"cell": "a", "step": np.array([0, 8], np.int32), "mean": curve, "share": Interval(0.5, 0.25, 0.75)},
            {"cell": "longer", "step": 16, "mean": Interval(3.0, 2.0, 4.0), "share": Interval(0.0, 0.0, 0.5)},
        ]
    )
    assert list(found) == ["cell", "step", *with_bounds("mean"), *with_bounds("share")]
    assert found["cell"].tolist() == ["a", "a", "longer"]
    assert found["step"].tolist() == [0, 8, 16]
    assert found["mean_low"].tolist() == [0.5, 1.5, 2.0]
    assert found["share_high"].tolist() == [0.75, 0.75, 0.5]
    assert [values.dtype.kind for values in found.values()] == list("Uiffffff")
    assert table([]) == {}


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="differ in length"):
        table([{"x": np.arange(2), "y": np.arange(3)}])
    with pytest.raises(ValueError, match="give all the same"):
        table([{"x": 1}, {"y": 1}])


def test_a_summary_is_a_table():
    two = Intervals(np.array([0.1, 0.2]), np.array([0.0, 0.1]), np.array([0.2, 0.3]))
    rates = np.array([0.01, 0.1], np.float32)
    summary = Summary({"learning_rate": rates}, np.array([5, 6]), two, {"loss_end": two}, two, {"O/K": two})
    found = summary.table()
    intervals = ("nonfinite", "loss_end", "plateau", "regime_O/K")
    assert list(found) == ["learning_rate", "num_members", *(name for one in intervals for name in with_bounds(one))]
    assert found["learning_rate"].dtype == np.float32  # as the members have it
    np.testing.assert_array_equal(found["plateau_high"], two.high)
