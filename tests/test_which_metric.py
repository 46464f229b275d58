"""Which metric selects best: on scores and histories whose answer is known."""

import sys
from pathlib import Path

import numpy as np
import pytest

import lossjax as lj
from lossjax.reports.report import read_findings, write_findings
from lossjax.sweeps.experiment import load_experiment

EXPERIMENT = load_experiment(Path(__file__).parents[1] / "experiments" / "which_metric.py")
which = sys.modules[EXPERIMENT.sweep.__module__]
SEEDS, CONFIGS, EXAMPLES = 8, 16, 1000


def history(margins, broken=()):
    """Runs with these final margins [seed, config, example], of two classes; some members broke."""
    num_seeds, num_configs, _ = margins.shape
    flat = margins.reshape(num_seeds * num_configs, 1, -1).astype(np.float32)
    nonfinite = np.full(len(flat), -1, np.int32)
    nonfinite[list(broken)] = 3
    flat[list(broken)] = np.nan
    seeds = np.repeat(np.arange(num_seeds, dtype=np.uint32), num_configs)
    return lj.History(
        metrics={"test_example_margin": np.concatenate([np.zeros_like(flat), flat], axis=1)},
        steps=np.array([0, 16]),
        seeds={"init": seeds},
        hyperparams={"learning_rate": np.tile(np.arange(1, num_configs + 1, dtype=np.float32), num_seeds)},
        nonfinite_step=nonfinite,
        info={"steps_per_epoch": 16, "num_classes": 2},
    )


def margins(seed=0):
    """Configurations of which later ones are better and more sure of themselves."""
    rng = np.random.default_rng(seed)
    quality = np.linspace(0.2, 2.0, CONFIGS)[:, None]
    return quality * (1 + rng.normal(size=(SEEDS, CONFIGS, EXAMPLES)))


def test_the_three_parts_share_no_example():
    order = np.random.default_rng(0).permutation(EXAMPLES)
    marked = np.full(EXAMPLES, -1.0)
    marked[order[:400]] = 1.0
    scores = which.score_runs(history(np.tile(marked, (2, 3, 1))), None)
    assert (scores.validation["accuracy"] == 1).all()
    assert (scores.test["accuracy"] == 0).all()
    assert (scores.third["accuracy"] == 0).all()
    marked[order[400:700]] = 1.0
    scores = which.score_runs(history(np.tile(marked, (2, 3, 1))), None)
    assert (scores.test["accuracy"] == 1).all()
    assert (scores.third["accuracy"] == 0).all()


def test_scores_are_those_of_the_margins():
    given = margins()
    scores = which.score_runs(history(given), None)
    test = np.random.default_rng(0).permutation(EXAMPLES)[400:700]
    np.testing.assert_allclose(scores.test["accuracy"], (given[:, :, test] > 0).mean(axis=2), atol=1e-9)
    np.testing.assert_allclose(scores.test["loss"], np.logaddexp(0, -given[:, :, test]).mean(axis=2), rtol=1e-6)
    assert scores.validation["brier"].shape == (len(which.SIZES), SEEDS, CONFIGS)


def test_members_stay_with_their_configuration_and_their_logits():
    """Digits come with logits, and their labels from the data set."""
    pytest.importorskip("sklearn")
    labels = np.asarray(which.DIGITS.splits().test.labels)
    hits = np.eye(10)[labels]
    given = np.stack([scale * hits for scale in (1.0, -1.0, 2.0, -2.0, 3.0, -3.0)]).astype(np.float32)
    base = history(np.zeros((2, 3, 5)))
    logits = lj.History(
        {"test_logits": given[:, None]}, base.steps[1:], base.seeds, base.hyperparams, base.nonfinite_step, base.info
    )
    _, of_data = which.held_out(logits, which.DIGITS)
    np.testing.assert_array_equal(of_data, labels)
    scores = which.score_runs(logits, which.DIGITS)
    assert scores.test["accuracy"].tolist() == [[1, 0, 1], [0, 1, 0]]


def scores(validation, quality):
    """Scores of which only those named in ``validation`` know the quality; accuracies of test are 0.8 + 0.03 q."""
    rng = np.random.default_rng(1)
    noise = {m: rng.normal(size=(len(which.SIZES), *quality.shape)) for m in which.METRICS}
    sign = {m: 1.0 if m == "accuracy" else -1.0 for m in which.METRICS}
    test = {m: (0.8 if m == "accuracy" else 0.0) + 0.03 * sign[m] * quality for m in which.METRICS}
    known = {m: sign[m] * quality if m in validation else noise[m] for m in which.METRICS}
    selecting = {m: np.broadcast_to(known[m], noise[m].shape) for m in which.METRICS}
    return which.Scores(selecting, test, test)


@pytest.mark.parametrize(
    ("validation", "outcome"),
    [(("loss", "brier", "refinement"), "supported"), (("accuracy",), "refuted"), (tuple(which.METRICS), "refuted")],
)
def test_the_metric_that_knows_selects_best(validation, outcome):
    quality = np.random.default_rng(2).normal(size=(30, 32))
    given = scores(validation, quality)
    found = which.random_searches(given, CONFIGS)
    assert found.num_searches == 60
    verdict = which.verdict("teacher", 100, found, 30)
    assert verdict.outcome == outcome
    if len(validation) == 4:  # all choose alike: no difference, and nothing between them and the oracle
        assert verdict.estimate.estimate == 0
        np.testing.assert_allclose(found.regret.estimate, 0, atol=1e-12)
    if validation == ("accuracy",):
        assert found.regret[2, 0, 0].high < 1e-9 < found.regret[2, 1, 0].low
        assert verdict.estimate.high < -0.02


def test_seeds_are_the_unit():
    quality = np.random.default_rng(3).normal(size=(30, 32))
    found = which.random_searches(scores(("accuracy",), quality), CONFIGS)
    chosen = np.random.default_rng(0)
    dealt = np.stack([chosen.permutation(32) for _ in range(30)]).reshape(30, 2, 16)
    best = np.take_along_axis(quality[:, None], dealt, axis=2).max(axis=2).mean(axis=1)  # [seed]
    np.testing.assert_allclose(found.judged.estimate[0, 0, 0], 0.8 + 0.03 * best.mean())
    width = found.judged.high[0, 0, 0] - found.judged.low[0, 0, 0]
    assert width == pytest.approx(0.03 * 2 * 1.96 * best.std() / np.sqrt(30), rel=0.25)


def findings(broken=()):
    return EXPERIMENT.analyse({name: history(margins(), broken) for name in which.TASKS})


def test_runs_that_broke_rank_last_and_are_counted():
    # the last configuration, which is the best, broke in the first two seeds
    found = findings(broken=(15, 31))
    share = found.numbers["teacher: runs not finite"]
    assert share.estimate == pytest.approx(2 / (SEEDS * CONFIGS))
    assert len(found.verdicts) == 8
    assert all(np.isfinite(verdict.estimate.estimate) for verdict in found.verdicts)


def test_figures_need_the_tables_alone(tmp_path):
    found = findings()
    # better configurations are better by every metric on 400 examples, and one run tells nearly all
    kept = found.numbers["digits, 400 validation examples: order kept by loss"]
    assert kept.estimate > 0.85
    write_findings(found, tmp_path)
    figures = EXPERIMENT.plot(read_findings(tmp_path))
    assert set(figures) == {"accuracy_by_selector", "regret_matrix", "order_kept"}
    assert len(figures["order_kept"].figure.axes) == 8


def test_the_smoke_sweep_differs_in_size_only():
    full, smoke = EXPERIMENT.sweep("full"), EXPERIMENT.sweep("smoke")
    assert list(smoke.cells) == list(full.cells) == list(which.TASKS)
    assert len(full.members("teacher")) == 150 * 32
    assert set(full.members("noisy-digits").hyperparams["label_noise"]) == {np.float32(0.2)}
    assert "label_noise" not in full.members("teacher").hyperparams
    np.testing.assert_array_equal(
        full.members("teacher").hyperparams["learning_rate"][:32],
        smoke.members("italy").hyperparams["learning_rate"][:32],
    )
