"""History: labels stay with their members through selection, joining, storing and conversion."""

import numpy as np
import pytest

from lossjax.history import History, concatenate

MEMBERS, EVALS, EXAMPLES = 6, 3, 4
QUANTILES = np.array([0.05, 0.5, 0.75], np.float32)


def make_history(first: int = 0, num_members: int = MEMBERS) -> History:
    """Members of seeds 0, 1, … with two learning rates each; every value tells its member and evaluation."""
    member = np.arange(first, first + num_members)
    value = (member[:, None] * 10 + np.arange(EVALS)).astype(np.float32)
    return History(
        metrics={
            "val_loss": value,
            "val_group_loss": value[..., None] + np.arange(2, dtype=np.float32) / 10,
            "val_margin_quantiles": value[..., None] + QUANTILES,
            "val_group_margin_quantiles": value[..., None, None] + np.arange(2, dtype=np.float32)[:, None] + QUANTILES,
            "val_example_loss": value[..., None] + np.arange(EXAMPLES, dtype=np.float32) / 10,
            "test_logits": np.zeros((num_members, EVALS, EXAMPLES + 1, 2), np.float32),
        },
        steps=np.array([0, 5, 10], np.int32),
        seeds={"data": (member // 2).astype(np.uint32), "init": (member // 2).astype(np.uint32)},
        hyperparams={"learning_rate": np.where(member % 2 == 0, 0.01, 0.1).astype(np.float32)},
        nonfinite_step=np.where(member == 3, 7, -1).astype(np.int32),
        info={"steps_per_epoch": 5, "config": {"measure": {"quantiles": [0.05, 0.5, 0.75]}}},
    )


def assert_same(a: History, b: History) -> None:
    arrays_a, arrays_b = a.to_arrays(), b.to_arrays()
    assert set(arrays_a) == set(arrays_b)
    for name in arrays_a:
        np.testing.assert_array_equal(arrays_a[name], arrays_b[name], err_msg=name)
        assert arrays_a[name].dtype == arrays_b[name].dtype
    assert a.info == b.info


def test_sizes_status_and_epochs():
    history = make_history()
    assert (history.num_members, history.num_evals) == (MEMBERS, EVALS)
    assert history.epochs.tolist() == [0, 1, 2]
    assert history.status.tolist() == ["ok", "ok", "ok", "nonfinite", "ok", "ok"]
    assert history.finite.sum() == 5


def test_select_takes_the_members_with_all_labels():
    history = make_history()
    selected = history.select(learning_rate=0.1)  # float32 0.1 is not Python's 0.1
    assert selected.metrics["val_loss"][:, 0].tolist() == [10, 30, 50]
    assert history.select(learning_rate=0.1, data=1).metrics["val_loss"][:, 0].tolist() == [30]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"learning_rte": 0.1}, "no label 'learning_rte'; this history has learning_rate, data, init"),
        ({"learning_rate": 0.2}, "no member has learning_rate=0.2; there are"),
        ({"learning_rate": 0.1, "data": 7}, "no member has data=7; there are"),
        ({"data": 0.5}, "no member has data=0.5; there are"),
        ({"data": -1}, "no member has data=-1; there are"),
        ({"data": 2**32}, "no member has data=4294967296; there are"),
    ],
)
def test_select_refuses_labels_that_no_member_has(labels, message):
    with pytest.raises(KeyError, match=message):
        make_history().select(**labels)


def test_select_takes_one_number_a_label():
    with pytest.raises(ValueError, match=r"data=\[0, 1\] must be one number"):
        make_history().select(data=[0, 1])


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (2, [2]),
        (-1, [5]),
        (slice(1, 6, 2), [1, 3, 5]),
        ([4, 0], [4, 0]),
        (np.arange(MEMBERS) < 2, [0, 1]),
    ],
)
def test_indexing_moves_every_array_alike(index, expected):
    taken = make_history()[index]
    members = np.array(expected)
    assert taken.metrics["val_loss"][:, 0].tolist() == (10 * members).tolist()
    assert taken.metrics["test_logits"].shape == (len(members), EVALS, EXAMPLES + 1, 2)
    assert taken.seeds["data"].tolist() == (members // 2).tolist()
    assert (taken.nonfinite_step >= 0).tolist() == (members == 3).tolist()
    assert taken.steps.tolist() == [0, 5, 10]


def test_an_index_that_is_no_member_is_an_error():
    with pytest.raises(IndexError):
        make_history()[MEMBERS]
    with pytest.raises(IndexError):
        make_history()[np.ones(MEMBERS + 1, bool)]


def test_arrays_give_the_history_back():
    history = make_history()
    assert_same(History.from_arrays(history.to_arrays(), history.info), history)


def test_concatenated_parts_are_the_whole():
    assert_same(concatenate([make_history(0, 4), make_history(4, 2)]), make_history(0, 6))


def test_histories_of_different_cells_are_not_joined():
    history = make_history()
    other = History(
        {"val_loss": history.metrics["val_loss"]},
        history.steps,
        history.seeds,
        history.hyperparams,
        history.nonfinite_step,
    )
    with pytest.raises(ValueError, match="different cells"):
        concatenate([history, other])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("metrics", {"val_loss": np.zeros((MEMBERS, EVALS + 1))}, r"metric 'val_loss' has shape \(6, 4\)"),
        ("seeds", {"data": np.zeros(MEMBERS - 1)}, r"label 'data' has shape \(5,\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(field, value, message):
    history = make_history()
    fields = {name: getattr(history, name) for name in ("metrics", "steps", "seeds", "hyperparams", "nonfinite_step")}
    with pytest.raises(ValueError, match=message):
        History(**{**fields, field: value})


def test_to_xarray_names_every_dimension():
    pytest.importorskip("xarray")
    dataset = make_history().to_xarray()
    assert dataset["val_loss"].dims == ("member", "eval")
    assert dataset["val_group_loss"].dims == ("member", "eval", "group")
    assert dataset["val_margin_quantiles"].dims == ("member", "eval", "quantile")
    assert dataset["val_group_margin_quantiles"].dims == ("member", "eval", "group", "quantile")
    median = dataset["val_group_margin_quantiles"].sel(quantile=0.5, group=1)
    np.testing.assert_allclose(median[2, 1], 2 * 10 + 1 + 1 + 0.5)
    assert dataset["val_example_loss"].dims == ("member", "eval", "val_example")
    assert dataset["test_logits"].dims == ("member", "eval", "test_example", "class")
    assert dataset.coords["step"].values.tolist() == [0, 5, 10]
    at_rate = dataset["val_loss"].where(dataset.learning_rate == np.float32(0.1), drop=True)
    assert at_rate.values[:, 0].tolist() == [10, 30, 50]


def test_to_pandas_has_a_row_a_member_and_evaluation():
    pytest.importorskip("pandas")
    history = make_history()
    frame = history.to_pandas()
    assert len(frame) == MEMBERS * EVALS
    labels = {"member", "step", "seed_data", "seed_init", "learning_rate", "status"}
    margins = {f"val_margin_quantiles[{q}]" for q in (0.05, 0.5, 0.75)}
    by_group = {f"val_group_margin_quantiles[{group}, {q}]" for group in (0, 1) for q in (0.05, 0.5, 0.75)}
    assert set(frame) == {*labels, "val_loss", "val_group_loss[0]", "val_group_loss[1]", *margins, *by_group}
    for (member, step), rows in frame.groupby(["member", "step"]):
        assert rows["val_loss"].item() == history.metrics["val_loss"][member, step // 5]
        assert rows["status"].item() == history.status[member]
        for group in (0, 1):
            value = history.metrics["val_group_margin_quantiles"][member, step // 5, group, 2]
            assert rows[f"val_group_margin_quantiles[{group}, 0.75]"].item() == value


def test_frames_without_quantiles_need_no_word_on_which():
    history = make_history()
    plain = History(
        {name: history.metrics[name] for name in ("val_loss", "val_group_loss")},
        history.steps,
        history.seeds,
        history.hyperparams,
        history.nonfinite_step,
        {"steps_per_epoch": 5},
    )
    pytest.importorskip("xarray")
    assert "quantile" not in plain.to_xarray().dims
    assert "val_group_loss[1]" in plain.to_pandas()
