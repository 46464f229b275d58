"""The check against PyTorch: that it agrees where the two are the same, and would not where they are not."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import lossjax as lj
from lossjax.reports.report import read_findings, write_findings
from lossjax.sweeps.experiment import load_experiment

EXPERIMENT = load_experiment(Path(__file__).parents[1] / "experiments" / "pytorch_check.py")
check = sys.modules[EXPERIMENT.sweep.__module__]


def final(losses: list[float], accuracies: list[float], nonfinite_step: list[int] | None = None) -> lj.History:
    """Members as they are after one epoch."""
    num_members = len(losses)
    return lj.History(
        metrics={
            "train_loss": np.array(losses, np.float32)[:, None],
            "train_accuracy": np.array(accuracies, np.float32)[:, None],
        },
        steps=np.array([7], np.int32),
        seeds={"data": np.arange(num_members, dtype=np.uint32)},
        hyperparams={},
        nonfinite_step=np.array(nonfinite_step or [-1] * num_members, np.int32),
        info={"steps_per_epoch": 7},
    )


@pytest.mark.parametrize("workload", ["W1", "W2", "W3"])
def test_workloads_are_those_of_the_discussion(workload):
    cell = EXPERIMENT.sweep("full").cells[workload]
    features, hidden, layers = {"W1": (1, 16, 1), "W2": (5, 32, 1), "W3": (5, 32, 2)}[workload]
    assert cell.task == lj.tasks.RandomLabels(num_examples=100, seq_len=20, num_features=features, num_classes=2)
    assert cell.model == lj.models.LSTM(hidden=hidden, layers=layers, pooling="last", initializer="torch")
    assert (cell.config.batch_size, cell.config.epochs, cell.config.optimizer) == (16, 50, "adam")
    assert cell.steps_per_epoch == 7  # six batches of 16, and the four examples left


def test_full_sweep_has_200_seeds_at_the_learning_rate_of_the_discussion():
    members = EXPERIMENT.sweep("full").members("W3")
    assert len(members) == 200
    np.testing.assert_array_equal(members.hyperparams["learning_rate"], np.float32(0.01))


def test_losses_of_20_steps_agree():
    pytest.importorskip("torch")
    ours, theirs = check.step_losses("W3")  # the one with two layers to copy
    assert ours.shape == theirs.shape == (20,)  # two epochs and most of a third: the short batch twice
    np.testing.assert_allclose(ours, theirs, rtol=check.STEP_TOLERANCE)
    assert np.ptp(theirs) > 0.01  # the steps do something


@pytest.mark.parametrize("change", ["learning rate", "forget bias", "order"])
def test_another_training_does_not_agree(change, monkeypatch):
    """The tolerance tells rounding from a mistake."""
    torch = pytest.importorskip("torch")
    if change == "learning rate":
        adam = torch.optim.Adam
        monkeypatch.setattr(torch.optim, "Adam", lambda params, lr: adam(params, lr=1.01 * lr))
    elif change == "forget bias":
        run = check.train_epoch

        def biased(network, *rest):
            with torch.no_grad():
                network.lstm.bias_hh_l0[32:64] += 0.01
            return run(network, *rest)

        monkeypatch.setattr(check, "train_epoch", biased)
    else:
        run = check.train_epoch
        monkeypatch.setattr(check, "train_epoch", lambda *args: run(*args[:-1], args[-1].flip(0)))
    ours, theirs = check.step_losses("W3")
    assert np.max(np.abs(ours / theirs - 1)) > check.STEP_TOLERANCE


def test_a_run_of_pytorch_is_its_seed():
    pytest.importorskip("torch")
    loss, accuracy = check.torch_run((1, 16, 1), 3, 1)
    assert (loss, accuracy) == check.torch_run((1, 16, 1), 3, 1)
    assert loss != check.torch_run((1, 16, 1), 4, 1)[0]
    assert accuracy in np.arange(101) / 100


def test_equal_accuracies_are_ties():
    """float32 rounds most hundredths; compared as they are, equal distributions would differ at every step."""
    accuracies = [count / 100 for count in range(101)]
    ours = check._finals(final([0.5] * 101, accuracies))[:, 1]
    assert stats.ks_2samp(ours, accuracies).statistic == 0
    widened = np.array(accuracies, np.float32).astype(np.float64)
    assert stats.ks_2samp(widened, accuracies).statistic > 0  # what the rounding to whole examples prevents


def test_runs_that_are_not_finite_are_left_out():
    finals = check._finals(final([0.5, np.nan, 0.25], [0.5, 0.0, 1.0], nonfinite_step=[-1, 3, -1]))
    np.testing.assert_array_equal(finals, [[0.5, 0.5], [0.25, 1.0]])


def test_analysis_reports_what_agrees_and_what_does_not(monkeypatch):
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    losses, counts = rng.normal(0.6, 0.05, 40), rng.integers(50, 80, 40)
    # W1: the same numbers; W2: another loss; W3: another accuracy
    shifts = {"W1": (0.0, 0.0), "W2": (0.1, 0.0), "W3": (0.0, 0.2)}
    monkeypatch.setattr(
        check, "torch_finals", lambda workload, *_: np.stack([losses, counts / 100], axis=1) + shifts[workload]
    )
    steps = np.linspace(0.7, 0.6, 20)
    monkeypatch.setattr(check, "step_losses", lambda workload: (steps, steps * (1.001 if workload == "W3" else 1)))
    history = final(losses.tolist(), (counts / 100).tolist())
    findings = EXPERIMENT.analyse(dict.fromkeys(("W1", "W2", "W3"), history))
    told = {note.split(": ")[0]: note for note in findings.notes}
    assert "distributions are not told apart (p = 1)" in told["W1, final training accuracy"]
    disagree = [name for name, note in told.items() if "DISAGREE" in note or "DIFFER" in note]
    assert disagree == ["W2, final training loss", "W3, step by step", "W3, final training accuracy"]
    difference = findings.numbers["W2: mean final training loss, PyTorch minus lossjax"]
    assert difference.estimate == pytest.approx(0.1, abs=1e-6)


def test_figures_need_the_tables_alone(monkeypatch, tmp_path):
    rows = [(w, s, seed) for w in ("W1", "W2", "W3") for s in ("lossjax", "PyTorch") for seed in range(3)]
    workload, source, seed = (np.array(column) for column in zip(*rows, strict=True))
    tests = [(w, m, 0.1, 0.9) for w in ("W1", "W2", "W3") for m in ("loss", "accuracy")]
    tables = {
        "runs": {
            "workload": workload,
            "source": source,
            "seed": seed,
            "loss": (seed + 1) / 10.0,
            "accuracy": seed / 5.0,
        },
        "tests": dict(
            zip(
                ("workload", "metric", "distance", "p"),
                (np.array(column) for column in zip(*tests, strict=True)),
                strict=True,
            )
        ),
    }
    monkeypatch.setitem(sys.modules, "torch", None)
    write_findings(lj.Findings(tables=tables), tmp_path)
    assert set(EXPERIMENT.plot(read_findings(tmp_path))) == {"final_loss", "final_accuracy"}


def test_without_pytorch_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r'pip install "lossjax\[peers\]"'):
        EXPERIMENT.analyse({})


def test_the_smoke_sweep_differs_in_size_only():
    full, smoke = EXPERIMENT.sweep("full"), EXPERIMENT.sweep("smoke")
    assert list(smoke.cells) == list(full.cells)
    for name, cell in smoke.cells.items():
        longer = dataclasses.replace(cell.config, epochs=50)
        assert dataclasses.replace(cell, config=longer) == full.cells[name]
