"""Seed tables, and streams that do not depend on one another."""

import jax
import numpy as np
import pytest

from lossjax.keys import STREAMS, crossed, redrawn, seeds_by_stream, streams_from_seeds, tied
from lossjax.tasks import RandomLabels


def draws(seeds) -> dict[str, np.ndarray]:
    """Some random numbers of each stream."""
    streams = streams_from_seeds(np.asarray(seeds, np.uint32))
    return {name: np.asarray(jax.random.bits(getattr(streams, name), (4,))) for name in STREAMS}


def test_tied_seeds_are_the_same_in_all_streams():
    assert tied(3).table.tolist() == [[0] * 4, [1] * 4, [2] * 4]
    assert tied([7, 2**32 - 1]).table.tolist() == [[7] * 4, [2**32 - 1] * 4]
    assert tied(3).table.dtype == np.uint32
    assert len(tied(3)) == 3


def test_more_tied_seeds_keep_the_design_and_begin_alike():
    assert tied(3).design == tied(30).design
    assert np.array_equal(tied(30).table[:3], tied(3).table)


def test_crossed_seeds_are_every_combination():
    seeds = crossed(init=2, data=[5, 6, 7])
    assert len(seeds) == 6
    columns = seeds_by_stream(seeds.table)
    pairs = set(zip(columns["data"].tolist(), columns["init"].tolist(), strict=True))
    assert pairs == {(data, init) for data in (5, 6, 7) for init in (0, 1)}
    assert not columns["order"].any()
    assert not columns["noise"].any()


def test_designs_tell_seeds_apart():
    designs = [s.design for s in (tied(2), crossed(data=2), crossed(init=2), redrawn(2), redrawn(2, ["init"]))]
    assert len(set(designs)) == len(designs)


def test_redrawn_changes_one_stream_at_a_time():
    seeds = redrawn(3, ["init", "order"])
    assert len(seeds) == 3 * 3
    for seed, rows in enumerate(seeds.table.reshape(3, 3, 4)):
        base, other_init, other_order = rows
        assert base.tolist() == [seed] * 4
        assert (other_init != base).tolist() == [False, True, False, False]
        assert (other_order != base).tolist() == [False, False, True, False]
    assert len({tuple(row) for row in seeds.table.tolist()}) == 9


def test_a_row_anew_in_all_streams_shares_one_stream_with_each_redrawn_row():
    table = redrawn(3, all_anew=True).table.reshape(3, 6, 4)
    shared = table[:, :-1] == table[:, -1:]
    assert not shared[:, 0].any()
    assert (shared[:, 1:] == np.eye(4, dtype=bool)).all()
    assert np.array_equal(table[:, :-1].reshape(-1, 4), redrawn(3).table)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tied(0), "names no seeds"),
        (lambda: tied([]), "names no seeds"),
        (lambda: tied([0.5]), "names no seeds"),
        (lambda: tied([-1]), "seeds lie in"),
        (lambda: tied([4, 5, 4]), "seeds has seed 4 more than once"),
        (lambda: crossed(init=[1, 1]), "init has seed 1 more than once"),
        (lambda: tied([2**32]), "seeds lie in"),
        (lambda: tied(5 * 10**9), "seeds=5000000000 are more than there are: seeds lie in 0 … 4294967295"),
        (lambda: crossed(inti=2), r"no stream named \['inti'\]; the streams are data, init, order, noise"),
        (lambda: crossed(init=0), "names no seeds"),
        (lambda: redrawn(2, ["dropout"]), "no stream named"),
        (lambda: redrawn(0), "seeds lie in"),
    ],
)
def test_what_is_no_seed_or_stream_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_streams_of_one_seed_draw_different_numbers():
    drawn = draws([5, 5, 5, 5])
    assert len({tuple(numbers) for numbers in drawn.values()}) == 4


@pytest.mark.parametrize("changed", range(4))
def test_another_seed_of_one_stream_leaves_the_others(changed):
    base, other = [5, 5, 5, 5], [5, 5, 5, 5]
    other[changed] = 6
    before, after = draws(base), draws(other)
    for index, name in enumerate(STREAMS):
        assert np.array_equal(before[name], after[name]) == (index != changed)


def test_mapped_streams_are_those_of_each_member_alone():
    table = redrawn(2).table
    mapped = jax.vmap(lambda seeds: jax.random.bits(streams_from_seeds(seeds).noise, (4,)))(table)
    assert np.array_equal(mapped, [draws(seeds)["noise"] for seeds in table])


def test_a_member_s_examples_depend_on_its_data_stream_only():
    task = RandomLabels(num_examples=5, seq_len=2, num_heldout=4)
    base, same, other = (streams_from_seeds(np.array(s, np.uint32)) for s in ([1] * 4, [1, 2, 2, 2], [2, 1, 1, 1]))
    inputs = [np.asarray(task.splits(streams.data).train.inputs) for streams in (base, same, other)]
    assert np.array_equal(inputs[0], inputs[1])
    assert not np.array_equal(inputs[0], inputs[2])


def test_draws_are_golden():
    message = "the numbers behind every stored result changed: raise the version and say so, or find out why"
    streams = streams_from_seeds(np.array([3, 3, 3, 3], np.uint32))
    drawn = [int(jax.random.bits(getattr(streams, name))) for name in STREAMS]
    assert drawn == [37346497, 111646283, 1195459093, 1175006118], message


def test_only_the_first_seeds_may_grow_others_are_a_design_of_their_own():
    assert tied(3).design == tied(4).design == tied([0, 1, 2]).design == "tied"
    assert tied([5, 6, 7]).design == tied([0, 2]).design == "listed"
    assert tied(np.int64(2)).table.tolist() == tied(2).table.tolist()
    for wrong in (True, 1.5, [1.5]):
        with pytest.raises(ValueError, match="names no seeds"):
            tied(wrong)
    # an iterator is read once
    assert crossed(data=iter([3, 4])).design == crossed(data=[3, 4]).design
