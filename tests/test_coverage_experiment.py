"""The coverage simulation: its truths by closed forms, its draws, and what it concludes of counts."""

import functools
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, special, stats

import lossjax as lj
from lossjax.reports.report import read_findings, write_findings
from lossjax.sweeps.experiment import load_experiment

EXPERIMENT = load_experiment(Path(__file__).parents[1] / "experiments" / "coverage.py")
coverage = sys.modules[EXPERIMENT.sweep.__module__]
examples, populations, runs, searches, spread, targets, truth = (
    importlib.import_module(f"simulated.{part}")
    for part in ("examples", "populations", "runs", "searches", "spread", "targets", "truth")
)
PAIR = truth.Posterior(2, 1.5)


@pytest.fixture(autouse=True)
def _smaller_population(monkeypatch):
    remembered = (truth.truth, truth.binned_error, searches.inverted_share, searches.kept_in_the_better_half)
    monkeypatch.setattr(truth, "POPULATION", 10**5)
    monkeypatch.setattr(searches, "SEARCHES", 25)
    monkeypatch.setattr(searches, "SETS", 2000)
    for function in remembered:
        function.cache_clear()
    yield
    for function in remembered:
        function.cache_clear()


def of_two_classes(function):
    """E f(p) for two classes: p = 1/(1 + exp(−m)) with m normal of variance 2 · 1.5²."""
    margin = stats.norm(scale=1.5 * np.sqrt(2))
    return integrate.quad(lambda m: function(special.expit(m)) * margin.pdf(m), -30, 30)[0]


def entropy(p):
    return -special.xlogy(p, p) - special.xlogy(1 - p, 1 - p)


def test_a_calibrated_model_has_the_bayes_loss_and_no_calibration_loss():
    true = truth.truth(PAIR, truth.Model(1.0, 0.0))
    assert true.loss == pytest.approx(of_two_classes(entropy), abs=2e-3)
    assert true.refinement == pytest.approx(true.loss, abs=1e-6)
    assert true.accuracy == pytest.approx(of_two_classes(lambda p: max(p, 1 - p)), abs=2e-3)


def test_what_one_temperature_repairs_is_calibration():
    true = truth.truth(PAIR, truth.Model(3.0, 0.0))
    calibrated = truth.truth(PAIR, truth.Model(1.0, 0.0))
    assert true.refinement == pytest.approx(calibrated.loss, abs=1e-5)
    assert true.accuracy == calibrated.accuracy

    def loss(p):
        q = np.clip(special.expit(3 * special.logit(p)), 1e-12, 1 - 1e-12)
        return -p * np.log(q) - (1 - p) * np.log1p(-q)

    assert true.loss == pytest.approx(of_two_classes(lambda p: loss(np.clip(p, 1e-12, 1 - 1e-12))), abs=5e-3)


def test_noise_is_not_repaired_by_a_temperature():
    noisy = truth.truth(PAIR, truth.Model(1.0, 1.0))
    assert noisy.refinement > truth.truth(PAIR, truth.Model(1.0, 0.0)).refinement + 0.01


def test_labels_have_their_posterior():
    rng = np.random.default_rng(0)
    log_posterior = np.tile(np.log([0.2, 0.5, 0.3]), (100_000, 1))
    shares = np.bincount(truth.labels_of(log_posterior, rng)) / 100_000
    np.testing.assert_allclose(shares, [0.2, 0.5, 0.3], atol=0.006)


@pytest.mark.parametrize(
    ("shape", "mean"), [("normal", 0), ("uniform", 0.5), ("accuracies", 0.9), ("lognormal", np.exp(0.5))]
)
def test_means_over_seeds_are_of_the_stated_distribution(shape, mean, monkeypatch):
    """Judged by the mean it is judged by: an interval that holds only the true mean is always right."""
    seen = []
    monkeypatch.setattr(runs, "mean_interval", lambda values, seed: seen.append(values) or lj.Interval(0.0, 0.0, 0.0))
    monkeypatch.setattr(runs, "covers", lambda interval, true: true)
    for seed in range(400):
        assert runs.Seeds(shape, 50)(seed)["mean"] == pytest.approx(mean)
    values = np.concatenate(seen)
    assert abs(values.mean() - mean) < 4 * values.std() / np.sqrt(len(values))


def test_a_flat_tail_is_flat():
    values = runs.stationary(30, 20_000, 0.9, np.random.default_rng(0))
    np.testing.assert_allclose(values.mean(axis=1), 0, atol=0.03)
    np.testing.assert_allclose(values.std(axis=1), 1, atol=0.03)
    assert np.corrcoef(values[3], values[4])[0, 1] == pytest.approx(0.9, abs=0.01)


def test_kendalls_tau_is_that_of_normals():
    """Counted over pairs of a hundred thousand configurations, each of the means that the case is drawn with."""
    case = populations.Kendall(0.5, 1.0, 30, 5)
    rng = np.random.default_rng(1)
    quality = rng.standard_normal((2, 100_000, 1))
    quality[1] = 0.5 * quality[0] + np.sqrt(0.75) * quality[1]
    error = rng.standard_normal((2, 100_000, 5))
    error[1] = 0.5 * error[0] + np.sqrt(0.75) * error[1]
    first, second = (quality + error).mean(axis=2)
    assert case.tau == pytest.approx(stats.kendalltau(first, second).statistic, abs=0.008)


@pytest.mark.parametrize(
    "case", [populations.Shares(1.0, 0.5, 1.0, 200, False), populations.Shares(0.6, 0.3, 0.0, 200, True)]
)
def test_variance_shares_are_those_of_many_draws(case):
    """By their definitions: the variance of a mean over the other streams, and of what is left when they are kept."""
    rng = np.random.default_rng(2)
    data, init = (rng.standard_normal((2, 400_000)) for _ in range(2))
    order, noise = (rng.standard_normal((2, 400_000)) for _ in range(2))

    def value(d, i, o, n):
        f = case.data * d + case.init * i + case.product * o * n
        return np.exp(f) if case.skewed else f

    base = value(data[0], init[0], order[0], noise[0])
    first, total = case.truth()
    kept = value(data[0], init[1], order[1], noise[1])  # the data alone
    assert first["data"] == pytest.approx(np.cov(base, kept)[0, 1] / base.var(), abs=0.015)
    redrawn = value(data[0], init[1], order[0], noise[0])
    assert total["init"] == pytest.approx(np.mean((base - redrawn) ** 2) / 2 / base.var(), abs=0.015)
    if not case.skewed:
        redrawn = value(data[0], init[0], order[1], noise[0])
        assert total["order"] == pytest.approx(np.mean((base - redrawn) ** 2) / 2 / base.var(), abs=0.015)


def errors_of(case, module, draws, monkeypatch):
    """outcome → [draw] the estimate minus what is taken for true."""
    monkeypatch.setattr(module, "covers", lambda interval, true: interval.estimate - true)
    found = [case(seed) for seed in range(draws)]
    return {outcome: np.array([draw[outcome] for draw in found]) for outcome in case.rows()}


def assert_no_bias(errors):
    """Within four standard errors."""
    for outcome, values in errors.items():
        assert abs(values.mean()) < 4 * values.std(ddof=1) / np.sqrt(len(values)), outcome


def test_the_binned_error_of_a_model_that_is_nowhere_too_modest():
    """In no bin do gaps cancel, so it is mean confidence less accuracy, whatever the bins."""
    more = of_two_classes(lambda p: special.expit(3 * abs(special.logit(p)))) - of_two_classes(lambda p: max(p, 1 - p))
    for scheme in ("width", "mass"):
        assert truth.binned_error(PAIR, truth.Model(3.0, 0.0), scheme) == pytest.approx(more, abs=2e-3)
        assert truth.binned_error(PAIR, truth.Model(1.0, 0.0), scheme) == pytest.approx(0, abs=5e-3)


def test_configurations_that_are_all_resolved_are_inverted_as_kendalls_tau_says():
    tau = 2 / np.pi * np.arcsin(0.5)
    assert searches.inverted_share(searches.Inverted(0.5, 1e-4, 30, 8)) == pytest.approx((1 - tau) / 2, abs=0.05)


@pytest.mark.parametrize("same_seeds", [True, False])
def test_the_order_kept_is_that_of_many_measurements(same_seeds, monkeypatch):
    monkeypatch.setattr(searches, "SETS", 10_000)
    few = functools.partial(searches.metric_reliability, resamples=2)
    monkeypatch.setattr(searches, "metric_reliability", few)
    assert_no_bias(errors_of(searches.Kept(1.0, 20, 4, same_seeds), searches, 100, monkeypatch))


@pytest.mark.parametrize("skewed", [False, True])
def test_what_is_selected_is_worth_what_many_searches_say(skewed, monkeypatch):
    assert_no_bias(errors_of(searches.Selected((0.5, 1.0), 0.5, 15, 16, skewed), searches, 100, monkeypatch))


@pytest.mark.parametrize("luck", [0.0, 0.3])
def test_runs_differ_as_the_moments_say(luck, monkeypatch):
    assert_no_bias(errors_of(spread.Alike(12, 200, luck), spread, 100, monkeypatch))


def test_runs_part_as_their_hazards_say(monkeypatch):
    errors = errors_of(runs.Parting(0.05, 0.02, 20_000, 20, 8), runs, 3, monkeypatch)
    assert max(abs(values).max() for values in errors.values()) < 0.012


def test_every_case_is_a_draw_of_what_its_rows_name():
    for name, (_, case) in coverage.cases().items():
        small = name in ("OneModel-2-1.5-1.0-0.0-200", "TwoModels-2-1.5-0.6-0.5-0.9-0.4-0.9-200")
        if not isinstance(case, examples.OneModel | examples.TwoModels) or small:
            outcomes = case(0)
            assert set(case.rows()) <= set(outcomes)
            assert set(outcomes.values()) <= {0.0, 1.0}
            assert case(0) == outcomes
        assert {group for group, _ in case.rows().values()} <= set(coverage.GROUPS)


def test_an_interval_that_is_too_narrow_is_seen(monkeypatch):
    """Half the width covers far too seldom; the row would be missed."""

    def narrow(values, seed):
        reach = 0.98 * values.std() / np.sqrt(len(values))
        return lj.Interval(values.mean(), values.mean() - reach, values.mean() + reach)

    monkeypatch.setattr(runs, "mean_interval", narrow)
    kept = sum(runs.Seeds("normal", 50)(seed)["mean"] for seed in range(400))
    assert coverage.outcome_of(coverage.wilson(int(kept), 400), targets.MEANS_OF_SEEDS[50]) == "missed"


@pytest.mark.parametrize(
    ("hits", "expected"),
    [(1900, "met"), (1850, "not told apart"), (1700, "missed"), (1990, "missed"), (1945, "not told apart")],
)
def test_outcomes(hits, expected):
    assert coverage.outcome_of(coverage.wilson(hits, 2000), targets.Target(0.93, 0.97)) == expected


def histories(kept):
    """Every outcome of every case true in all of 100 draws, but those named."""
    found = {}
    for name, (_, case) in coverage.cases().items():
        metrics = {}
        for outcome in case.rows():
            values = np.ones((100, 1))
            values[: kept.get((name, outcome), 0)] = 0
            metrics[outcome] = values
        found[name] = lj.History(metrics, np.zeros(1, np.int32), {}, {}, np.full(100, -1, np.int32))
    return found


def test_a_shortfall_is_told_and_drawn_from_the_tables_alone(tmp_path):
    findings = EXPERIMENT.analyse(histories({("NoOp-constant-False", "no_divergence"): 50}))
    table = findings.tables["coverage"]
    missed = (table["group"] == "no divergence by a no-op") & (table["target"] == "missed")
    assert table["case"][missed].tolist() == ["a constant added to each example's logits, models"]
    assert table["share"][missed].tolist() == [0.5]
    (note,) = [note for note in findings.notes if note.startswith("Missed: no divergence")]
    assert "50.0%" in note
    write_findings(findings, tmp_path)
    (figure,) = EXPERIMENT.plot(read_findings(tmp_path)).values()
    assert any("a constant added" in text.get_text() for text in figure.figure.axes[0].texts)


def test_the_full_simulation_has_two_thousand_draws_a_case():
    full, smoke = EXPERIMENT.sweep("full"), EXPERIMENT.sweep("smoke")
    assert full.draws == 2000
    assert list(smoke.cases) == list(full.cases)


def test_it_is_not_taken_for_the_package_of_its_name():
    """numba, and with it aeon, imports ``coverage`` where it can; the folder is on the path while experiments run."""
    folder = Path(__file__).parents[1] / "experiments"
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import coverage"
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert failed.stderr.rstrip().endswith("ImportError: this is lossjax's experiment and not the package coverage")
