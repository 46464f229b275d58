"""Curves as Keras, Lightning, Hugging Face, TensorBoard and Weights & Biases write them, and what a curve can tell."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from lossjax.diagnosis.curves import read_curve
from lossjax.diagnosis.diagnose import diagnose
from lossjax.diagnosis.reading import InputError

LOSS = [0.9, 0.5, 0.4, 0.45, 0.6]
ACCURACY = [0.6, 0.75, 0.8, 0.82, 0.83]

KERAS = "epoch,accuracy,learning_rate,loss,val_accuracy,val_loss\n" + "".join(
    f"{i},0.{i + 5},0.01,{1 - i / 10},{a},{loss}\n" for i, (loss, a) in enumerate(zip(LOSS, ACCURACY, strict=True))
)
# Files that the tools themselves wrote, of small trainings: Keras' and Lightning's CSVLogger, Hugging Face's
# Trainer.save_state, and what TensorBoard's server answers to its download links. Of Weights & Biases a run's history,
# read from its offline run; and, from the same records, its charts' export in the form of public ones.
WRITTEN = Path(__file__).parent / "curves"
TENSORBOARD = [WRITTEN / f"run-light_v-tag-val_{metric}.json" for metric in ("loss", "acc")]


def write(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


def test_what_keras_writes():
    with open(WRITTEN / "keras.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    curve = read_curve([WRITTEN / "keras.csv"])
    assert (curve.time_name, curve.split) == ("epoch", "held-out")
    np.testing.assert_array_equal(curve.times, np.arange(20))
    np.testing.assert_array_equal(curve.loss, [float(row["val_loss"]) for row in rows])
    np.testing.assert_array_equal(curve.accuracy, [float(row["val_accuracy"]) for row in rows])
    np.testing.assert_array_equal(curve.train_loss, [float(row["loss"]) for row in rows])


def test_what_hugging_face_writes():
    log = json.loads((WRITTEN / "trainer_state.json").read_text())["log_history"]
    evaluations = [entry for entry in log if "eval_loss" in entry]
    curve = read_curve([WRITTEN / "trainer_state.json"])
    assert (curve.time_name, curve.split) == ("step", "held-out")
    np.testing.assert_array_equal(curve.times, [entry["step"] for entry in evaluations])
    np.testing.assert_array_equal(curve.loss, [entry["eval_loss"] for entry in evaluations])
    np.testing.assert_array_equal(curve.accuracy, [entry["eval_accuracy"] for entry in evaluations])
    # its training loss is logged every ten steps; the mean of the whole training, at the end, is none of these
    logged = {entry["step"]: entry["loss"] for entry in log if "loss" in entry}
    expected = [[loss for step, loss in logged.items() if step <= time][-1] for time in curve.times]
    np.testing.assert_array_equal(curve.train_loss, expected)


@pytest.mark.parametrize(
    "names",
    [
        ["lightning.csv"],
        ["run-light_v-tag-val_loss.csv", "run-light_v-tag-val_acc.csv"],
        ["run-light_v-tag-val_loss.json", "run-light_v-tag-val_acc.json"],
        ["wandb_history.csv"],
        ["wandb_export_loss.csv", "wandb_export_acc.csv"],
    ],
)
def test_one_training_of_lightning_as_four_loggers_tell_it(names):
    """The numbers are those of TensorBoard's JSON, whichever file they are read from."""
    loss, accuracy = (np.array(json.loads(path.read_text())) for path in TENSORBOARD)
    curve = read_curve([WRITTEN / name for name in names])
    assert (curve.time_name, curve.split) == ("step", "held-out")
    np.testing.assert_array_equal(curve.times, loss[:, 1])
    np.testing.assert_array_equal(curve.loss, loss[:, 2])
    np.testing.assert_array_equal(curve.accuracy, accuracy[:, 2])


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("run-validation-tag-epoch_loss", "held-out"),  # Keras' callback
        ("run-train-tag-epoch_loss", "training"),
        ("run-test_run-tag-train_loss", "training"),  # the metric's own word, not the run's
        ("run-.-tag-eval_loss (1)", "held-out"),  # a browser's second download
    ],
)
def test_the_split_in_names_of_tensorboards_files(tmp_path, name, split):
    loss, accuracy = (
        write(tmp_path, f"{stem}.csv", "Wall time,Step,Value\n1.5,0,0.5\n2.5,1,0.25\n")
        for stem in (name, name.replace("loss", "accuracy"))
    )
    assert read_curve([loss, accuracy]).split == split


def test_two_runs_in_one_export_are_asked_about(tmp_path):
    text = '"Step","a-1 - val_loss","a-1 - val_acc","b-2 - val_loss","b-2 - val_acc"\n'
    text += '"0","1","0.5","2","0.4"\n"1","0.9","0.5","2","0.4"\n'
    path = write(tmp_path, "wandb_export.csv", text)
    with pytest.raises(InputError, match=r"a-1 - val_loss, b-2 - val_loss may each be the loss; say which with --loss"):
        read_curve([path])
    found = read_curve([path], loss="b-2 - val_loss", accuracy="b-2 - val_acc")
    np.testing.assert_array_equal(found.loss, [2, 2])


def test_two_tensorboard_files_are_joined(tmp_path):
    files = [
        write(
            tmp_path,
            f"run-validation-tag-epoch_{metric}.csv",
            "Wall time,Step,Value\n" + "".join(f"1700000000.{i},{i},{v}\n" for i, v in enumerate(values)),
        )
        for metric, values in (("loss", LOSS), ("accuracy", ACCURACY))
    ]
    curve = read_curve(files)
    np.testing.assert_array_equal(curve.loss, LOSS)
    np.testing.assert_array_equal(curve.accuracy, ACCURACY)
    assert curve.split == "held-out"
    with pytest.raises(InputError, match="no accuracy"):
        read_curve(files[:1])


def test_training_metrics_alone_are_said_to_be_so(tmp_path):
    text = "epoch,accuracy,loss\n0,0.5,0.9\n1,0.6,0.7\n"
    curve = read_curve([write(tmp_path, "log.csv", text)])
    assert curve.split == "training"
    assert any("no held-out" in note for note in curve.notes)


def test_per_cent_and_unknown_names(tmp_path):
    text = "step,dev_nll,dev_acc,dev_acc5\n0,0.9,50,90\n10,0.7,62.5,99\n"
    curve = read_curve([write(tmp_path, "log.csv", text)])
    np.testing.assert_array_equal(curve.accuracy, [0.5, 0.625])
    assert any("per cent" in note for note in curve.notes)
    text = "step,objective,hits\n0,0.9,0.5\n10,0.7,0.6\n"
    path = write(tmp_path, "log.csv", text)
    with pytest.raises(InputError, match=r"step, objective, hits.*--loss-column"):
        read_curve([path])
    np.testing.assert_array_equal(read_curve([path], loss="objective", accuracy="hits").loss, [0.9, 0.7])
    with pytest.raises(InputError, match="no column 'hit'"):
        read_curve([path], loss="objective", accuracy="hit")


def test_losses_that_are_not_finite_are_left_out_and_said(tmp_path):
    text = "epoch,val_loss,val_accuracy\n0,0.9,0.5\n1,0.7,0.6\n2,nan,0.1\n"
    curve = read_curve([write(tmp_path, "log.csv", text)])
    np.testing.assert_array_equal(curve.times, [0, 1])
    assert any("1 of 3 losses are not finite, the first at epoch 2" in note for note in curve.notes)
    curve = read_curve([write(tmp_path, "log.csv", text.replace("0.6", "nan").replace("nan,0.1", "0.6,0.1"))])
    np.testing.assert_array_equal(curve.times, [0, 2])
    assert any("1 of 3 accuracies are not finite" in note for note in curve.notes)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "has 0 lines"),
        ("a.csv", "epoch,val_loss,val_accuracy\n", "has 1 lines"),
        ("a.csv", "epoch,val_loss,val_accuracy\n1,2\n", "line 2 of .* has 2 cells and the first line 3"),
        ("a.csv", "epoch,val_loss,val_loss\n1,2,3\n", "more than once"),
        ("a.csv", "val_loss,val_accuracy\n1,0.5\n", "none is step or epoch"),
        ("a.csv", "epoch;val_loss;val_accuracy\n1;2,5;0,3\n2;2,1;0,4\n", "separated by semicolons"),
        ("a.csv", "epoch\tval_loss\tval_accuracy\n1\t2\t0.3\n", "separated by tabs"),
        ("a.csv", "epoch,val_loss,val_accuracy\n1,2,0.5\n", "1 rows hold both"),
        ("a.csv", "epoch,val_loss,val_accuracy\n1,2,\n2,,0.5\n", "0 rows hold both"),
        ("a.csv", "epoch,val_loss,val_accuracy\n1,2,500\n2,1,0.5\n", "what is no accuracy"),
        ("a.csv", "epoch,val_loss,val_accuracy\n1,-2,0.5\n2,1,0.5\n", "never below 0"),
        ("a.csv", "epoch,val_loss,test_loss,val_acc,val_accuracy\n1,2,3,0.1,0.2\n", "may each be the accuracy"),
        ("a.csv", "epoch,x\n" + "1," + "9" * 200_000 + "\n", "no readable CSV"),
        ("a.json", "[" * 100_000, "no readable JSON"),
        ("a.json", "{}", "no log_history"),
        ("a.json", '{"log_history": [1, 2]}', "no log_history"),
        ("a.json", "[[1, 2, 3], [1, 2]]", "no log_history"),
        ("a.json", '{"log_history": [{"step": 1e999, "eval_loss": 1}]}', "no accuracy"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message) as error:
        read_curve([write(tmp_path, name, text)])
    assert str(error.value).isprintable()


def test_a_table_is_bounded_in_cells(tmp_path, monkeypatch):
    monkeypatch.setattr("lossjax.diagnosis.curves.MAX_CELLS", 8)
    with pytest.raises(InputError, match="more than 8 cells"):
        read_curve([write(tmp_path, "a.csv", "epoch,val_loss,val_accuracy\n" + "1,2,0.5\n" * 2)])


def test_a_files_name_is_no_command_to_the_terminal(tmp_path):
    path = write(tmp_path, "a\x1b[2Jb.csv", "epoch\n")
    with pytest.raises(InputError, match="has 1 lines") as error:
        read_curve([path])
    assert str(error.value).isprintable()


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00epoch")
    with pytest.raises(InputError, match="UTF-8"):
        read_curve([tmp_path / "a.csv"])


# What a curve can tell ------------------------------------------------------------------------------------------------


def test_a_rising_loss_and_accuracy_cannot_be_told_apart_further(tmp_path):
    found = diagnose(write(tmp_path, "log.csv", KERAS), num_examples=1000)
    assert found.kind == "curve"
    assert found.regime == "O/K"
    assert found.regime_detail == "O/K+"
    assert found.before.name == "epoch 2"
    assert found.after.name == "epoch 4"
    assert found.delta_loss.estimate == pytest.approx(0.2)
    assert np.isnan(found.delta_loss.low)
    assert "A curve cannot say why" in found.verdict
    assert "Recorder" in found.next_steps[0].action
    assert any("1,000 examples" in line for line in found.evidence)
    answer = json.loads(found.to_json())
    assert answer["delta_loss"] == {"estimate": pytest.approx(0.2), "low": None, "high": None, "level": 0.95}
    assert answer["cells"] is None
    assert answer["temperature"] is None


def test_a_loss_that_still_falls(tmp_path):
    text = "epoch,val_loss,val_accuracy\n" + "".join(f"{i},{1 - i / 10},0.8\n" for i in range(8))
    found = diagnose(write(tmp_path, "log.csv", text))
    assert found.regime == "P"
    assert found.before.name == "epoch 3"
    assert any(step.action == "Train longer." for step in found.next_steps)


def test_over_fitting_is_told_by_a_training_loss_that_falls(tmp_path):
    """Both of the held-out examples get worse; what the training loss does says why."""
    text = "epoch,loss,val_loss,val_accuracy\n0,1,0.5,0.8\n1,0.8,0.4,0.9\n2,{},0.6,0.7\n"
    found = diagnose(write(tmp_path, "log.csv", text.format(0.3)))
    assert found.regime == "W"
    assert "the training loss fell by 0.5 nats: the model over-fits." in found.verdict
    found = diagnose(write(tmp_path, "log.csv", text.format(0.9)))
    assert "no over-fitting" in found.verdict
    text = "epoch,val_loss,val_accuracy\n0,0.5,0.8\n1,0.4,0.9\n2,0.6,0.7\n"
    assert "which would tell, is not in the file" in diagnose(write(tmp_path, "log.csv", text)).verdict
    text = "epoch,loss,accuracy\n0,0.5,0.8\n1,0.4,0.9\n2,0.6,0.7\n"
    assert "on the training examples themselves" in diagnose(write(tmp_path, "log.csv", text)).verdict
