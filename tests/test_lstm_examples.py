"""The LSTM examples: that runs which stop being finite count."""

import dataclasses
import sys
from pathlib import Path

import numpy as np

import lossjax as lj
from lossjax.sweeps.experiment import load_experiment

EXPERIMENT = load_experiment(Path(__file__).parents[1] / "experiments" / "lstm_examples.py")
lstm = sys.modules[EXPERIMENT.sweep.__module__]
SEEDS, EVALS, EXAMPLES = 6, 12, 400


def history(broken):
    """The loss turns at the fourth evaluation and accuracy stays; some runs break after the sixth."""
    rng = np.random.default_rng(0)
    level = np.interp(np.arange(EVALS), [0, 3, EVALS - 1], [0.7, 0.4, 1.0])
    losses = level[:, None] + 0.2 * rng.standard_normal(EXAMPLES) + np.zeros((SEEDS, 1, 1))
    right = np.broadcast_to(np.arange(EXAMPLES) < 0.8 * EXAMPLES, losses.shape).copy()
    metrics = {}
    for split in ("val", "test"):
        metrics |= {f"{split}_example_loss": losses, f"{split}_example_correct": right}
        metrics |= {f"{split}_loss": losses.mean(axis=2), f"{split}_accuracy": right.mean(axis=2)}
    metrics |= {"test_refinement": np.full((SEEDS, EVALS), 0.4)}
    falling = np.tile(np.linspace(0.7, 0.2, EVALS), (SEEDS, 1))
    rising = np.tile(np.linspace(0.2, 0.7, EVALS), (SEEDS, 1))
    metrics |= {"train_loss": falling, "batch_loss": rising, "train_accuracy": np.full((SEEDS, EVALS), 0.9)}
    status = np.full(SEEDS, -1, np.int32)
    status[:broken] = 60
    for values in metrics.values():
        if values.dtype == float:
            values[:broken, 6:] = np.nan
    return lj.History(
        metrics=metrics,
        steps=np.arange(EVALS) * 10,
        seeds={"data": np.arange(SEEDS, dtype=np.uint32)},
        hyperparams={"learning_rate": np.full(SEEDS, 0.01, np.float32)},
        nonfinite_step=status,
        info={"steps_per_epoch": 10, "num_classes": 2},
    )


def test_runs_that_broke_stay_in_the_denominators():
    whole, some = (lstm.summarise(history(broken)) for broken in (0, 2))
    assert whole.onset.share().estimate == 1.0
    assert some.onset.share().estimate == 4 / 6
    assert some.onset.event.tolist() == ["nonfinite"] * 2 + ["onset"] * 4
    table = lstm.regime_table({"teacher": some})
    assert table["O"].tolist() == [4 / 6]
    assert table["N"].tolist() == [2 / 6]
    assert sum(values[0] for name, values in table.items() if name != "cell") == 1.0
    assert some.undecided.mean() == 2 / 6


def test_plateaus_are_counted_of_all_runs():
    """Held out the loss is below its first value until the 6th of 11 intervals; in training it falls throughout."""
    found = lstm.summarise(history(2)).plateaus
    np.testing.assert_allclose(found.resolved, 6 / 11)
    np.testing.assert_allclose(found.by_estimate, 6 / 11)
    shares = {name.removeprefix("W: "): share.estimate for name, share in found.numbers("W").items()}
    assert shares == {
        "runs not finite": 2 / 6,
        "runs with a held-out plateau": 4 / 6,
        "… by estimates alone, resolved or not": 4 / 6,
        "… at the ceiling or at chance, counted apart": 0.0,
        "runs with a plateau of training accuracy below 100 %, by training loss": 4 / 6,
        "runs with a plateau of training accuracy below 100 %, by the last batch's loss": 0.0,
    }
    # 55 % of training is long enough, and no more
    assert dataclasses.replace(found, shortest=6 / 11).count(found.resolved) == 4
    assert dataclasses.replace(found, shortest=0.55).count(found.resolved) == 0
