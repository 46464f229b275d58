"""Populations: a member's result is its own, whatever its neighbours, tile, devices, cuts and interruptions."""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import quickly

import lossjax
from lossjax.hyperparams import Hyperparams, grid
from lossjax.keys import crossed, redrawn, streams_from_seeds, tied
from lossjax.models import LSTM, Conv, Dense, Transformer, lstm
from lossjax.tasks import RandomLabels, Split, Splits
from lossjax.training import memory, population, program, train
from lossjax.training.config import Measure, TrainConfig
from lossjax.training.population import Members, compile_cell, flatten, train_members
from lossjax.training.program import Program, compile_program
from lossjax.training.train import Cell

# ten examples in batches of four: nine steps, every third on two examples only
TASK = RandomLabels(num_examples=10, seq_len=4, num_features=2, num_heldout=8)
# lean, because compiling a temperature's fit takes longer than all else; where every metric is looked at it is said
LEAN = Measure(splits=("train", "val"), calibration=False, num_groups=0)
CELL = Cell(TASK, LSTM(hidden=4), TrainConfig(4, epochs=3, measure=LEAN))
BREAKS = 3e38  # the first update at this rate makes parameters that are no numbers
MEMBERS = flatten(grid(learning_rate=[1e-2, BREAKS]), tied(5))

DENSE = Cell(TASK, Dense(width=4, layers=1), TrainConfig(4, epochs=3, measure=LEAN))


def drain(training, each=lambda segment: None) -> dict[str, np.ndarray]:
    """The records that ``train_members`` returns at its end; ``each`` sees every segment."""
    while True:
        try:
            each(next(training))
        except StopIteration as finished:
            return finished.value


def records(cell: Cell, members: Members, tile: int, num_devices: int = 1, resume=None) -> dict[str, np.ndarray]:
    program = compile_cell(cell, members, tile=tile, devices=jax.devices()[:num_devices])
    return drain(train_members(cell, members, program, resume))


def assert_bytes_equal(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(actual) == set(expected)
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype
        assert actual[name].shape == array.shape
        differing = [i for i in range(len(array)) if actual[name][i].tobytes() != array[i].tobytes()]
        assert not differing, f"{name} differs for members {differing}"


def only(arrays: dict[str, np.ndarray], members) -> dict[str, np.ndarray]:
    return {name: array[members] for name, array in arrays.items()}


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return records(CELL, MEMBERS, tile=2)


@pytest.fixture
def single_steps(monkeypatch):
    """Segments of one step each, as if a step took all of a segment's time."""
    monkeypatch.setattr(population, "SEGMENT_SECONDS", 0.0)
    monkeypatch.setattr(population, "FIRST_STEPS", 3)


# A member's result is its own ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tile", "num_devices"), [(4, 1), (8, 1), (2, 2)])
def test_tiles_and_devices_change_no_byte(expected, tile, num_devices):
    assert_bytes_equal(records(CELL, MEMBERS, tile, num_devices), expected)


def test_two_devices_change_no_byte_of_what_is_scaled_by_a_hyperparameter():
    """A division by a traced scalar compiles to other code on one device than on two."""
    cell = dataclasses.replace(DENSE, model=Dense(width=17))
    members = flatten(grid(learning_rate=1e-2, dropout=[0.1, 0.3], clip_norm=[0.05, 0.2]), tied(4))
    assert_bytes_equal(records(cell, members, 8, num_devices=2), records(cell, members, 8))


@pytest.mark.parametrize("cell", [CELL, DENSE], ids=["uniform parameters", "truncated normal parameters"])
def test_what_is_drawn_does_not_depend_on_how_thoroughly_its_program_is_compiled(cell, monkeypatch):
    arguments = (cell, tuple(MEMBERS.hyperparams), 2, tuple(jax.devices()[:1]))
    seeds, hparams = MEMBERS.seeds[:2], Hyperparams(learning_rate=MEMBERS.hyperparams["learning_rate"][:2])
    quickly = compile_program(*arguments).start(seeds, hparams, None)
    monkeypatch.setattr(program, "QUICKLY_COMPILED", {})
    thoroughly = compile_program.__wrapped__(*arguments).start(seeds, hparams, None)
    assert jax.tree.all(
        jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), *map(jax.device_get, (quickly, thoroughly)))
    )


@dataclasses.dataclass(frozen=True)
class SharedExamples:
    """The same examples for every member, as a data set gives them: they have no member axis."""

    num_steps: int = 20

    shared = True
    num_classes = 3
    num_tokens = None
    bayes = None

    def splits(self, key):
        rng = np.random.default_rng(0)
        parts = []
        for size in (12, 128):
            inputs = rng.normal(size=(size, self.num_steps, 5)).astype(np.float32)
            parts.append(Split(inputs, rng.integers(3, size=size).astype(np.int32)))
        return Splits(parts[0], parts[1], jax.tree.map(lambda array: array[:0], parts[1]))


@dataclasses.dataclass(frozen=True)
class OwnExamples(SharedExamples):
    """Other examples for each member, by one draw: compiling draws takes longer than compiling what is trained."""

    shared = False

    def splits(self, key):
        moved = jax.random.uniform(key)
        return jax.tree.map(lambda leaf: leaf + moved if leaf.dtype == "float32" else leaf, super().splits(key))


@dataclasses.dataclass(frozen=True)
class TwoClasses(OwnExamples):
    num_classes = 2

    def splits(self, key):
        return jax.tree.map(lambda leaf: leaf if leaf.dtype == "float32" else leaf % 2, super().splits(key))


@pytest.mark.parametrize(
    ("model", "task"),
    [
        (LSTM(hidden=32), OwnExamples(num_steps=5)),
        (LSTM(hidden=32), SharedExamples(num_steps=5)),
        (Conv(width=16, layers=1), SharedExamples()),
        (Transformer(width=16, layers=1), SharedExamples()),
    ],
    ids=["lstm, own examples", "lstm", "conv", "transformer"],
)
def test_the_tiles_that_are_chosen_change_no_byte(model, task):
    """Tiles of 4 and 8 at sizes that vectorise, down to the logits of each example.

    An epoch of the LSTM has a batch whose steps are written out and one whose steps are a loop.
    Shared examples are the hard case: but for a trick of ``_logits`` they would have no member axis. All models are
    given examples of their own in test_models.
    """
    batch_size = lstm.FEWEST_UNROLLED if isinstance(model, LSTM) else 4
    cell = Cell(task, model, TrainConfig(batch_size, epochs=1, measure=dataclasses.replace(LEAN, logits=("val",))))
    members = flatten(grid(learning_rate=1e-2), tied(8))
    assert_bytes_equal(records(cell, members, 4), records(cell, members, 8))


@pytest.mark.parametrize(
    ("model", "task", "what"),
    [
        (Dense(width=4, num_classes=1), TASK, "have shape (4, 1) and the task has 2 classes"),
        (Dense(width=4, num_classes=5), TASK, "have shape (4, 5) and the task has 2 classes"),
        (LSTM(hidden=4, num_tokens=3), TASK, "the model has num_tokens=3 and the task None"),
    ],
)
def test_a_model_for_another_task_is_refused(model, task, what):
    with pytest.raises(ValueError, match=re.escape(what)):
        compile_cell(Cell(task, model, TrainConfig(4, epochs=1)), MEMBERS)


def test_splits_without_examples_are_refused_where_nothing_else_is_measured():
    bare = RandomLabels(num_examples=10, seq_len=4)
    with pytest.raises(ValueError, match="none of the splits"):
        compile_cell(Cell(bare, Dense(width=4), TrainConfig(4, epochs=1, measure=Measure(splits=("val",)))), MEMBERS)


def test_a_file_that_changed_is_read_again(tmp_path):
    """The compiled program of a cell is kept in memory, and with it the data of a task that all members share."""
    path = tmp_path / "data.npz"
    rng = np.random.default_rng(0)

    def trained() -> np.ndarray:
        labels = np.arange(20) % 2
        np.savez(path, x=rng.normal(size=(20, 3, 2)).astype("f4"), y=labels)
        task = lossjax.tasks.Arrays(str(path))
        history = lossjax.train(
            task, Dense(4), TrainConfig(4, epochs=1, measure=LEAN), hyperparams=grid(learning_rate=1e-2)
        )
        return history.metrics["train_loss"]

    assert not np.array_equal(trained(), trained())


def test_the_first_segment_is_short_and_later_waves_know_the_pace():
    """A step may take long, and a stop waits for a segment's end."""
    long = dataclasses.replace(DENSE, config=TrainConfig(4, epochs=40, measure=LEAN))
    members = flatten(grid(learning_rate=1e-2), tied(8))
    segments = []
    drain(train_members(long, members, compile_cell(long, members, tile=4, devices=jax.devices()[:1])), segments.append)
    per_wave = [segment.member_steps // 4 for segment in segments]
    assert per_wave[:2] == [0, population.FIRST_STEPS]
    second = per_wave[per_wave.index(0, 1) :]
    assert second[1] > population.FIRST_STEPS


def test_a_segment_has_time_for_its_evaluations():
    """Log-spaced ones follow one another closely at first; with thousands of classes, each may take a second."""
    pace, evaluations = population._Pace(), np.array([0, 1, 2, 3, 5, 8, 40, 1000])
    assert pace.end(0, evaluations) == population.FIRST_STEPS  # nothing is known yet
    pace.took(0, population.SEGMENT_SECONDS / 2.5)
    assert pace.end(0, evaluations) == 2
    assert pace.end(4, evaluations) == 4 + population.FIRST_STEPS
    pace.took(10, population.SEGMENT_SECONDS / 10)
    assert [pace.end(first, evaluations) for first in (3, 8, 39, 950)] == [8, 108, 139, 1000]
    pace.took(0, 4 * population.SEGMENT_SECONDS)
    assert [pace.end(first, evaluations) for first in (0, 1, 4, 8, 950)] == [1, 2, 5, 108, 1000]


@pytest.mark.parametrize("task", [SharedExamples(), TwoClasses()], ids=["groups", "none"])
def test_every_metric_is_the_same_for_the_tiles_that_are_chosen_on_one_device_and_two(task):
    """Three classes, hence groups, of labels that members share; and two classes, hence none, of their own."""
    cell = Cell(task, Dense(width=16), TrainConfig(4, epochs=1, measure=Measure(splits=("val",))))
    members = flatten(grid(learning_rate=1e-2), tied(16))
    widest = records(cell, members, 16)
    assert ("val_group_temperature" in widest) == (task.num_classes == 3)
    assert_bytes_equal(records(cell, members, 4, num_devices=2), widest)


@dataclasses.dataclass(frozen=True)
class ManyClasses(SharedExamples):
    """So many classes that sums over them go by halves and metrics block by block; some are without examples."""

    num_classes = 200

    def splits(self, key):
        rng = np.random.default_rng(1)
        train, val = (
            Split(rng.normal(size=(size, 3, 5)).astype(np.float32), (200 * rng.random(size) ** 2).astype(np.int32))
            for size in (60, 700)
        )
        return Splits(train, val, jax.tree.map(lambda array: array[:0], val))


WIDE = Cell(
    ManyClasses(), Dense(width=16), TrainConfig(16, epochs=2, measure=Measure(("val",), adjusted=1.0, logits=("val",)))
)


@pytest.fixture(scope="module")
def wide() -> dict[str, np.ndarray]:
    members = flatten(grid(learning_rate=1e-2, class_balance=[0.0, 1.0]), tied(8))
    found = records(WIDE, members, 16)
    assert_bytes_equal(records(WIDE, members, 4, num_devices=2), found)
    return found


def test_many_classes_drawn_in_balance_change_no_byte_with_tile_and_devices(wide):
    assert not np.array_equal(wide["val_loss"][0], wide["val_loss"][1])


def test_adjusted_metrics_are_those_of_logits_without_the_training_prior(wide):
    splits = WIDE.task.splits(None)
    counts = np.maximum(np.bincount(splits.train.labels, minlength=200), 1)
    for member in (0, 1):
        logits = wide["val_logits"][member, -1] - np.log(counts / 60)
        chosen, labels = logits.argmax(1), splits.val.labels
        losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(700), labels]
        np.testing.assert_allclose(wide["val_adjusted_loss"][member, -1], losses.mean(), rtol=1e-5)
        np.testing.assert_allclose(wide["val_adjusted_accuracy"][member, -1], (chosen == labels).mean(), rtol=1e-6)
        recalls = [(chosen == labels)[labels == k].mean() for k in np.unique(labels)]
        np.testing.assert_allclose(wide["val_adjusted_balanced_accuracy"][member, -1], np.mean(recalls), rtol=1e-5)


def test_after_a_member_broke_nothing_is_recorded(expected):
    """However long its wave went on: a wave without finite members ends early."""
    steps = CELL.config.eval_steps(10)
    broken = expected["nonfinite_step"] >= 0
    for name in ("val_loss", "val_accuracy", "batch_loss"):
        for member in np.flatnonzero(broken):
            after = steps >= expected["nonfinite_step"][member]
            assert np.isnan(expected[name][member][after]).all()
    alone = records(
        CELL, Members(MEMBERS.seeds[broken], {"learning_rate": np.full(broken.sum(), BREAKS, "f4")}), tile=2
    )
    assert_bytes_equal(alone, only(expected, broken))


def test_a_member_alone_is_what_it_is_among_others(expected):
    for member in range(4):
        alone = records(CELL, MEMBERS[member : member + 1], tile=2)
        assert_bytes_equal(alone, only(expected, slice(member, member + 1)))


def test_a_member_is_close_to_a_loop_over_its_steps(expected):
    """Mapped against ``train.step`` compiled for one member, whose last bits differ."""
    hparams = Hyperparams(learning_rate=jnp.float32(1e-2))
    streams = streams_from_seeds(jnp.asarray(MEMBERS.seeds[2]))
    data = train.prepare(CELL, streams, hparams, TASK.splits(streams.data))
    state = train.init(CELL, streams, hparams, data)
    step = quickly(lambda state, order, index: train.step(CELL, state, streams, hparams, data, order, index))
    losses = []
    for index in range(9):
        order = jax.random.permutation(jax.random.fold_in(streams.order, index // 3), 10)
        state = step(state, jnp.resize(order, (12,)), jnp.int32(index))
        losses.append(float(state.batch_loss))
    np.testing.assert_allclose(expected["batch_loss"][2, 1:], losses[2::3], rtol=1e-5)
    final = quickly(functools.partial(train.evaluate, CELL))(state.params, hparams, data, state.batch_loss)
    for name in ("train_loss", "val_loss", "val_brier", "val_confidence", "val_ece_width"):
        np.testing.assert_allclose(expected[name][2, -1], final[name], rtol=1e-4, err_msg=name)


def test_members_that_break_are_dated_and_leave_the_others_alone(expected):
    rates = MEMBERS.hyperparams["learning_rate"]
    assert (expected["nonfinite_step"] == np.where(rates == np.float32(BREAKS), 2, -1)).all()
    sound = flatten(grid(learning_rate=1e-2), tied(5))
    assert_bytes_equal(records(CELL, sound, tile=2), only(expected, rates == np.float32(1e-2)))


def test_more_seeds_append_members(expected):
    fewer = flatten(grid(learning_rate=[1e-2, BREAKS]), tied(2))
    assert_bytes_equal(records(CELL, fewer, tile=2), only(expected, slice(4)))


def test_every_cut_gives_the_same_bytes(expected, single_steps):
    program = compile_cell(CELL, MEMBERS, tile=8, devices=jax.devices()[:1])
    segments = []
    assert_bytes_equal(drain(train_members(CELL, MEMBERS, program), segments.append), expected)
    # two waves, of eight members and of two: the evaluation before any step, the first few, and step after step
    steps = [segment.step for segment in segments]
    assert steps == [0, 3, 4, 5, 6, 7, 8, 9, *range(10)]
    per_member = [0, 3, *[1] * 6], [0, *[1] * 9]
    assert [s.member_steps for s in segments] == [8 * n for n in per_member[0]] + [2 * n for n in per_member[1]]


@pytest.mark.parametrize("stop", [0, 1, 4, 7, 8, 11])
@pytest.mark.parametrize("tile_after", [2, 8])
def test_resumed_from_any_segment_is_uninterrupted(expected, single_steps, stop, tile_after):
    """Cut in the first and the second wave, at their ends too; resumed with a smaller tile and with the same."""
    program = compile_cell(CELL, MEMBERS, tile=8, devices=jax.devices()[:1])
    training = train_members(CELL, MEMBERS, program)
    segment = next(itertools.islice(training, stop, None))
    snapshot = segment.snapshot()
    training.close()
    assert snapshot.num_done == segment.members_done == (0 if stop < 7 else 8)
    assert_bytes_equal(records(CELL, MEMBERS, tile_after, resume=snapshot), expected)


def test_a_snapshot_outlives_the_training_that_goes_on(expected, single_steps):
    """The state is donated to the next segment, so what was copied must be a copy."""
    program = compile_cell(CELL, MEMBERS, tile=8, devices=jax.devices()[:1])
    training = train_members(CELL, MEMBERS, program)
    early = next(itertools.islice(training, 3, None)).snapshot()
    before = {name: array.copy() for name, array in early.state.items()}
    drain(training)
    assert_bytes_equal(dict(early.state), before)


def test_a_snapshot_of_another_cell_is_refused(expected, single_steps):
    program = compile_cell(CELL, MEMBERS, tile=8, devices=jax.devices()[:1])
    snapshot = next(itertools.islice(train_members(CELL, MEMBERS, program), 2, None)).snapshot()
    state = {path: array.astype(np.float64) for path, array in snapshot.state.items()}
    with pytest.raises(ValueError, match="of another cell"):
        records(CELL, MEMBERS, tile=8, resume=dataclasses.replace(snapshot, state=state))


# Memory --------------------------------------------------------------------------------------------------------------


def failing_at(compiled: Program, call: int, message: str) -> Program:
    """The program, one of whose calls ends as it would on a device whose memory is full."""
    calls = itertools.count(1)

    def advance(*arguments):
        if next(calls) == call:
            raise jax.errors.JaxRuntimeError(message)
        return compiled.advance(*arguments)

    return dataclasses.replace(compiled, advance=advance)


@pytest.mark.parametrize("keeps_snapshots", [False, True])
@pytest.mark.parametrize("call", [1, 5, 12])
def test_exhausted_memory_goes_on_with_half_the_tile(expected, single_steps, call, keeps_snapshots):
    program = compile_cell(CELL, MEMBERS, tile=4, devices=jax.devices()[:1])
    failing = failing_at(program, call, "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 7 bytes")
    training = train_members(CELL, MEMBERS, failing)

    def keep(segment) -> None:
        if keeps_snapshots and segment.step in (4, 9):
            segment.snapshot()

    with pytest.warns(UserWarning, match="ran out of memory with tile=4; going on with 2"):
        arrays = drain(training, keep)
    assert_bytes_equal(arrays, expected)


def test_the_smallest_tile_and_other_errors_are_raised(expected):
    program = compile_cell(CELL, MEMBERS, tile=2, devices=jax.devices()[:1])
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        drain(train_members(CELL, MEMBERS, failing_at(program, 2, "RESOURCE_EXHAUSTED: full")))
    program = compile_cell(CELL, MEMBERS, tile=4, devices=jax.devices()[:1])
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        drain(train_members(CELL, MEMBERS, failing_at(program, 2, "INTERNAL: broken")))


def test_a_program_that_does_not_fit_is_refused_before_it_starts(expected, monkeypatch):
    monkeypatch.setattr(population.device_settings, "memory_limit", lambda device: 1000)
    with pytest.raises(MemoryError, match=r"the program needs .* GiB are free; lower the tile \(now 2\)"):
        compile_cell(CELL, MEMBERS, tile=2, devices=jax.devices()[:1])


def test_the_tile_follows_the_residuals_and_the_members(monkeypatch):
    """Residuals of at most twice the second-level cache, a power of two in 4 … 16, no more than the members need."""
    cpu = tuple(jax.devices()[:1])
    fields = ("learning_rate",)
    residuals = memory.residual_bytes(CELL, fields)
    for members_in_cache, tile in ((100, 16), (4, 8), (7, 8), (3, 4), (1, 4)):
        monkeypatch.setattr(memory.devices, "level2_cache", lambda held=members_in_cache: held * residuals)
        assert memory.choose_tile(CELL, fields, 1000, cpu) == tile
    monkeypatch.setattr(memory.devices, "level2_cache", lambda: 100 * residuals)
    assert memory.choose_tile(CELL, fields, 5, cpu) == 8
    assert memory.choose_tile(CELL, fields, 1, cpu) == 4
    assert memory.choose_tile(CELL, fields, 17, tuple(jax.devices())) == 16
    # at least the hidden layer of every example of a batch is kept, in float32
    assert memory.residual_bytes(dataclasses.replace(CELL, model=Dense(width=4096)), fields) >= 4 * 4096 * 4


# Evaluations and what is kept an example -----------------------------------------------------------------------------

KEEPING = Cell(
    TASK,
    LSTM(hidden=4),
    TrainConfig(
        4,
        num_steps=9,
        num_evals=2,
        eval_spacing="log",
        measure=dataclasses.replace(LEAN, per_example=("val",), logits=("val",), budget_gib=5e-6),
    ),
)
FEW = flatten(grid(learning_rate=1e-2), tied(4))


@pytest.fixture(scope="module")
def kept() -> dict[str, np.ndarray]:
    return records(KEEPING, FEW, tile=2)


def test_other_evaluations_change_no_byte_of_a_member(expected, kept):
    assert KEEPING.config.eval_steps(10).tolist() == [0, 1, 9]
    for name in expected:
        if name != "nonfinite_step":
            for slot_kept, slot in ((0, 0), (2, 3)):
                actual, wanted = kept[name][:, slot_kept], expected[name][:8:2, slot]
                assert actual.tobytes() == np.ascontiguousarray(wanted).tobytes(), name


def test_records_of_examples_average_to_the_metrics(kept):
    assert kept["val_logits"].shape == (4, 3, 4, 2)
    assert kept["val_example_loss"].shape == (4, 3, 4)
    np.testing.assert_allclose(kept["val_example_loss"].mean(2), kept["val_loss"], rtol=1e-5)
    np.testing.assert_allclose(kept["val_example_correct"].mean(2), kept["val_accuracy"], rtol=1e-6)
    labels = np.stack([TASK.splits(streams_from_seeds(jnp.asarray(s)).data).val.labels for s in FEW.seeds])
    logits = kept["val_logits"]
    of_label = np.take_along_axis(logits, labels[:, None, :, None], axis=3)[..., 0]
    losses = np.logaddexp(logits[..., 0], logits[..., 1]) - of_label
    np.testing.assert_allclose(losses, kept["val_example_loss"], rtol=1e-4)
    other = np.take_along_axis(logits, 1 - labels[:, None, :, None], axis=3)[..., 0]
    np.testing.assert_allclose(of_label - other, kept["val_example_margin"], rtol=1e-4, atol=1e-6)


def test_records_beyond_the_budget_are_refused(kept):
    many = flatten(grid(learning_rate=1e-2), tied(100))
    with pytest.raises(ValueError, match=r"per-example records of 100 members .* budget_gib=5e-06; keep fewer"):
        compile_cell(KEEPING, many, tile=2, devices=jax.devices()[:1])


# Hyperparameters that change the data or the network -----------------------------------------------------------------

# one program: nothing of the three, each alone, all labels redrawn with dropout
VARIED = Hyperparams(
    learning_rate=np.full(5, 0.05),
    label_noise=np.array([0.0, 1.0, 0.0, 0.0, 1.0]),
    train_size=np.array([10.0, 10.0, 3.0, 10.0, 10.0]),
    dropout=np.array([0.0, 0.0, 0.0, 0.5, 0.5]),
)


@pytest.fixture(scope="module")
def varied() -> tuple[Members, dict[str, np.ndarray]]:
    """Five configurations of seed 0, then of it with each stream redrawn; with final parameters."""
    members = flatten(VARIED, redrawn(1))
    program = compile_cell(DENSE, members, tile=2, devices=jax.devices()[:1])
    return members, drain(train_members(DENSE, members, program, with_params=True))


def test_hyperparameters_that_do_nothing_give_what_their_absence_gives(varied):
    plain = records(DENSE, flatten(grid(learning_rate=0.05), tied(1)), tile=2)
    for name in plain:
        # another program, hence other last bits
        np.testing.assert_allclose(varied[1][name][0], plain[name][0], rtol=2e-5, atol=1e-7, err_msg=name)


def test_final_metrics_are_those_of_the_kept_parameters(varied):
    """By hand: no dropout when measuring, training labels as trained on, of the examples used; clean ones held out."""
    members, arrays = varied
    for row in range(5):
        streams = streams_from_seeds(jnp.asarray(members.seeds[row]))
        hparams = Hyperparams(**{name: jnp.float32(values[row]) for name, values in members.hyperparams.items()})
        splits = TASK.splits(streams.data)
        trained_on = train.prepare(DENSE, streams, hparams, splits).train_labels
        params = {
            layer: {leaf: arrays[f"params/{layer}/{leaf}"][row] for leaf in ("kernel", "bias")}
            for layer in ("layer_0", "output")
        }
        used = int(hparams.train_size)
        for name, inputs, labels in (
            ("train", splits.train.inputs[:used], trained_on[:used]),
            ("val", splits.val.inputs, splits.val.labels),
        ):
            flat = np.reshape(inputs, (len(inputs), -1))
            hidden = np.maximum(flat @ params["layer_0"]["kernel"] + params["layer_0"]["bias"], 0)
            logits = hidden @ params["output"]["kernel"] + params["output"]["bias"]
            correct = logits.argmax(1) == labels
            losses = np.logaddexp(logits[:, 0], logits[:, 1]) - logits[np.arange(len(labels)), labels]
            np.testing.assert_allclose(arrays[f"{name}_loss"][row, -1], losses.mean(), rtol=1e-4)
            np.testing.assert_allclose(arrays[f"{name}_accuracy"][row, -1], correct.mean(), rtol=1e-6)


def test_each_hyperparameter_changes_what_it_should(varied):
    val_loss, train_loss = varied[1]["val_loss"][:5], varied[1]["train_loss"][:5]
    assert (val_loss[:, 0] == val_loss[0, 0]).all()  # none of them touches the start
    assert len(set(val_loss[:, -1])) == 5
    assert train_loss[1, 0] != train_loss[0, 0]  # measured on other labels
    assert train_loss[3, 0] == train_loss[0, 0]


def test_redrawing_a_stream_leaves_what_the_others_drew(varied):
    """Before any step: order and dropout do not show yet, label noise shows in training metrics only."""
    base, data, init, order, noise = (only(varied[1], slice(5 * i, 5 * i + 5)) for i in range(5))
    names = ("train_loss", "train_brier", "val_loss", "val_brier", "val_confidence")
    for name in names:
        assert np.array_equal(order[name][:, 0], base[name][:, 0])
        assert not (data[name][:, 0] == base[name][:, 0]).any()
        assert not (init[name][:, 0] == base[name][:, 0]).any()
    for name in names[2:]:
        assert np.array_equal(noise[name][:, 0], base[name][:, 0])
    # with neither label noise nor dropout, the noise stream is never used
    assert_bytes_equal(only(noise, [0, 2]), only(base, [0, 2]))
    for other in (data, init, order):
        assert not (other["val_loss"][:, -1] == base["val_loss"][:, -1]).any()
    assert not (noise["val_loss"][[1, 3, 4], -1] == base["val_loss"][[1, 3, 4], -1]).any()


# The surface ---------------------------------------------------------------------------------------------------------


def test_train_returns_a_labelled_history_seed_major():
    history = lossjax.train(
        TASK,
        DENSE.model,
        DENSE.config,
        hyperparams=grid(learning_rate=[0.05, 0.1]),
        seeds=crossed(data=2, init=[5, 7]),
        tile=2,
        devices=jax.devices()[:1],
    )
    assert history.num_members == 8
    assert history.steps.tolist() == [0, 3, 6, 9]
    assert history.hyperparams["learning_rate"].tolist() == [np.float32(0.05), np.float32(0.1)] * 4
    assert history.seeds["init"].tolist() == [5, 5, 7, 7] * 2
    assert history.seeds["data"].tolist() == [0] * 4 + [1] * 4
    assert history.metrics["val_loss"].shape == (8, 4)
    assert np.isnan(history.metrics["batch_loss"][:, 0]).all()
    assert np.isfinite(history.metrics["batch_loss"][:, 1:]).all()
    assert history.info["num_examples"] == {"train": 10, "val": 4, "test": 4}
    assert history.info["bayes_loss"] == pytest.approx(np.log(2))
    np.testing.assert_array_equal(history.epochs, [0, 1, 2, 3])
    # the same examples and parameters, so the same start whatever the rate
    start = history.metrics["val_loss"][:, 0].reshape(4, 2)
    assert (start[:, 0] == start[:, 1]).all()
    assert len(set(start[:, 0])) == 4


@pytest.mark.parametrize(
    ("hyperparams", "config", "message"),
    [
        ({"train_size": 11}, {}, "train_size=11 exceeds the 10 training examples; lower it"),
        ({"beta1": 0.9}, {"optimizer": "sgd"}, "beta1 is given, but"),
        ({}, {"optimizer": "adamw"}, "optimizer='adamw' needs weight_decay, which is absent"),
        ({}, {"batch_size": 11}, "batch_size=11 exceeds the 10 training examples"),
        ({}, {"num_evals": 10}, "num_evals=10 exceeds num_steps=9"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_compiled(monkeypatch, hyperparams, config, message):
    monkeypatch.setattr(population, "compile_program", lambda *arguments: pytest.fail("compiled"))
    config = TrainConfig(**{"batch_size": 4, "epochs": 3, **config})
    with pytest.raises(ValueError, match=message):
        lossjax.train(TASK, DENSE.model, config, hyperparams=grid(learning_rate=0.1, **hyperparams))


@pytest.mark.parametrize("tile", [1, 0, 2.0, "4", True])
def test_a_tile_of_one_or_of_no_number_is_refused(tile):
    with pytest.raises(ValueError, match=f"tile={tile!r} must be an integer of at least 2"):
        lossjax.train(TASK, DENSE.model, DENSE.config, hyperparams=grid(learning_rate=0.1), tile=tile)


@pytest.mark.parametrize("devices", [[], "cpu", ["cpu"], jax.devices()[0], [jax.devices()[0]] * 2], ids=repr)
def test_what_are_no_devices_is_refused(devices):
    with pytest.raises(ValueError, match=re.escape(f"devices={devices!r} must be a sequence of different devices")):
        lossjax.train(TASK, DENSE.model, DENSE.config, hyperparams=grid(learning_rate=0.1), devices=devices)
