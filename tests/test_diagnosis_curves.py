"""Curves as Keras, Lightning, Hugging Face, TensorBoard and Weights & Biases write them, and what a curve can tell."""

import json

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
# rows of training and of validation, each with the other's cells empty; steps repeat
LIGHTNING = "epoch,step,train_loss_epoch,train_loss_step,val_acc,val_loss\n" + "".join(
    f"{i},{10 * i + 9},,{1 - i / 10},,\n{i},{10 * i + 9},,,{a},{loss}\n{i},{10 * i + 9},{1 - i / 10},,,\n"
    for i, (loss, a) in enumerate(zip(LOSS, ACCURACY, strict=True))
)
HUGGING_FACE = json.dumps(
    {
        "best_metric": None,
        "epoch": 5.0,
        "log_history": [
            entry
            for i, (loss, a) in enumerate(zip(LOSS, ACCURACY, strict=True))
            for entry in (
                {"epoch": i + 1.0, "grad_norm": 1.2, "learning_rate": 5e-5, "loss": 1 - i / 10, "step": 10 * i},
                {"epoch": i + 1.0, "eval_accuracy": a, "eval_loss": loss, "eval_runtime": 0.2, "step": 10 * i},
            )
        ]
        + [{"epoch": 5.0, "step": 40, "train_loss": 0.5, "train_runtime": 9.0}],
    }
)
WANDB = '"Step","sun-1 - val_loss","sun-1 - val_loss__MIN","sun-1 - val_loss__MAX","sun-1 - val_acc"\n'
WANDB += "".join(
    f'"{10 * i}","{loss}","{loss}","{loss}","{a}"\n' for i, (loss, a) in enumerate(zip(LOSS, ACCURACY, strict=True))
)


def write(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(
    ("name", "text", "time_name", "times"),
    [
        ("log.csv", KERAS, "epoch", [0, 1, 2, 3, 4]),
        ("metrics.csv", LIGHTNING, "step", [9, 19, 29, 39, 49]),
        ("trainer_state.json", HUGGING_FACE, "step", [0, 10, 20, 30, 40]),
        ("wandb_export.csv", WANDB, "step", [0, 10, 20, 30, 40]),
    ],
)
def test_what_each_tool_writes(tmp_path, name, text, time_name, times):
    curve = read_curve([write(tmp_path, name, text)])
    assert curve.time_name == time_name
    assert curve.split == "held-out"
    np.testing.assert_array_equal(curve.times, times)
    np.testing.assert_array_equal(curve.loss, LOSS)
    np.testing.assert_array_equal(curve.accuracy, ACCURACY)


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


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "has 0 lines"),
        ("a.csv", "epoch,val_loss,val_accuracy\n", "has 1 lines"),
        ("a.csv", "epoch,val_loss,val_accuracy\n1,2\n", "line 2 of .* has 2 cells and the first line 3"),
        ("a.csv", "epoch,val_loss,val_loss\n1,2,3\n", "more than once"),
        ("a.csv", "val_loss,val_accuracy\n1,0.5\n", "none is step or epoch"),
        ("a.csv", "epoch,val_loss,val_accuracy\n1,2,0.5\n", "1 rows hold both"),
        ("a.csv", "epoch,val_loss,val_accuracy\n1,2,\n2,,0.5\n", "0 rows hold both"),
        ("a.csv", "epoch,val_loss,val_accuracy\n1,2,500\n2,1,0.5\n", "what is no accuracy"),
        ("a.csv", "epoch,val_loss,val_accuracy\n1,-2,0.5\n2,1,0.5\n", "never below 0"),
        ("a.csv", "epoch,val_loss,test_loss,val_acc,val_accuracy\n1,2,3,0.1,0.2\n", "may each be the accuracy"),
        ("a.csv", "epoch,x\n" + "1," + "9" * 200_000 + "\n", "no readable CSV"),
        ("a.json", "[" * 100_000, "no readable JSON"),
        ("a.json", "{}", "no log_history"),
        ("a.json", '{"log_history": [1, 2]}', "no log_history"),
        ("a.json", '{"log_history": [{"step": 1e999, "eval_loss": 1}]}', "no accuracy"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message) as error:
        read_curve([write(tmp_path, name, text)])
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
