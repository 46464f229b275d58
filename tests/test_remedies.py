"""Remedies: on histories whose answer is known."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from test_analysis_arms import ACCURACY, SEEDS, UNTREATED, arm_of, history, with_examples

from lossjax.analysis.arms import Stop
from lossjax.analysis.contrasts import Contrast, Pair, judged
from lossjax.analysis.doses import tuned, validation_cost
from lossjax.history import concatenate
from lossjax.reports.report import read_findings, write_findings
from lossjax.sweeps.experiment import load_experiment

EXPERIMENT = load_experiment(Path(__file__).parents[1] / "experiments" / "remedies.py")
remedies = sys.modules[EXPERIMENT.sweep.__module__]


def row(treated, untreated=UNTREATED, *, claim="C11"):
    pair = Pair(*(arm_of(one) for one in (treated, untreated)))
    names = {"statement": "…", "where": "teacher: dropout", "told": "told", "rule": "rule", "scope": "seeds"}
    return Contrast(claim, **names, pair=pair, as_written=pair, amended=remedies.AMENDED, either=claim == "C13")


def best(row):
    return row.pair.gate(remedies.LIMITS, either=row.either).outcome


def verdict(*args, **changes):
    (found,) = judged([row(*args, **changes)], remedies.LIMITS)
    return found


def test_what_takes_both_away_is_supported():
    found = verdict(history(0.0, seed=1))
    assert found.estimate.estimate == pytest.approx(-0.3, abs=0.01)
    assert found.outcome == "supported"
    assert "P 100 → 0 %" in found.note
    assert "onset in 100 → 0 % of runs" in found.note


def test_less_loss_paid_in_runs_that_still_part_is_half_of_it():
    found = verdict(history(0.1, seed=1))
    assert found.estimate.estimate == pytest.approx(-0.2, abs=0.01)
    assert found.outcome == "in part"


def test_nothing_changed_is_refuted_and_so_is_less_than_what_counts():
    assert verdict(history(0.3, seed=1)).outcome == "refuted"
    assert verdict(history(0.295, seed=1)).outcome == "refuted"
    assert verdict(history(0.5, seed=1)).outcome == "refuted"


@pytest.mark.parametrize("worse", [{"dip": 0.63}, {"accuracy": ACCURACY - 0.02}])
def test_a_remedy_that_learns_less_does_not_count(worse):
    treated = history(0.0, seed=1, **worse)
    assert best(row(treated)) == "inferior"
    assert verdict(treated).outcome == "refuted"


def test_a_best_that_is_not_resolved_leaves_it_open():
    rng = np.random.default_rng(2)
    treated = history(0.0, seed=1)
    noisy = 0.1 * rng.standard_normal((SEEDS, 1))
    metrics = {name: one + noisy if "loss" in name else one for name, one in treated.metrics.items()}
    treated = dataclasses.replace(treated, metrics=metrics)
    assert best(row(treated)) == "unresolved"
    assert verdict(treated).outcome == "unresolved"


def test_runs_that_broke_count():
    assert best(row(history(0.0, seed=1, missing=2))) == "non-inferior"
    broken = row(history(0.0, seed=1, missing=4))
    assert best(broken) == "inferior"
    assert validation_cost(broken.pair.treated, 0.05) == np.inf
    assert broken.pair.treated.share_nonfinite.estimate == broken.pair.treated.share("nonfinite").estimate == 0.1
    assert len(broken.pair.difference("loss_paid")) == SEEDS - 4
    both = arm_of(history(0.3, missing=10))
    assert both.share("O/K").estimate == 0.75
    assert both.onset.share().estimate == 0.75


def test_either_direction_counts_for_the_learning_rate_and_the_better_one_must_not_learn_less():
    assert verdict(UNTREATED, history(0.0, seed=1), claim="C13").outcome == "supported"
    assert verdict(history(0.0, seed=1), UNTREATED, claim="C13").outcome == "supported"
    assert verdict(UNTREATED, history(0.3, seed=1), claim="C13").outcome == "refuted"
    slow = history(0.0, dip=0.65, seed=1)
    for pair in ((slow, UNTREATED), (UNTREATED, slow)):
        assert best(row(*pair, claim="C13")) == "inferior"


def test_holm_takes_all_measures_of_a_claim():
    rows = [row(history(0.0, seed=1)), row(history(0.3, seed=1))]
    assert [one.outcome for one in judged(rows, remedies.LIMITS)] == ["supported", "refuted"]
    pair = rows[0].pair
    assert pair.says(remedies.LIMITS, (0.04, 0.06)) == ("supported", "unresolved")


def test_the_outcome_by_the_rule_as_written_is_kept():
    found = verdict(history(0.0, seed=1))
    assert (found.outcome, found.as_written) == ("supported", "supported")
    assert "W" in found.amended
    stopped = Pair(arm_of(UNTREATED, stop=Stop("loss", "lowest", 2)), arm_of(UNTREATED))
    assert "not defined" in stopped.onsets_told()


def test_doses_are_tuned_on_validation_and_broken_ones_left_out():
    doses = {0.1: history(0.3, dip=0.6), 0.2: history(0.3, dip=0.5), 0.5: history(0.3, dip=0.4, missing=10)}
    assert tuned({dose: arm_of(one) for dose, one in doses.items()}, 0.05) == 0.2


def test_rates_as_good_are_told_on_validation():
    best = arm_of(UNTREATED)
    assert remedies.as_good(arm_of(history(0.3, dip=0.605)), best)
    assert not remedies.as_good(arm_of(history(0.3, dip=0.62)), best)
    assert not remedies.as_good(arm_of(history(0.3, accuracy=ACCURACY - 0.01)), best)
    # as amended, what is not resolved as worse is as good
    rng = np.random.default_rng(4)
    noisy = history(0.3, dip=0.62)
    metrics = {n: v + 0.2 * rng.standard_normal((SEEDS, 1)) * ("loss" in n) for n, v in noisy.metrics.items()}
    noisy = arm_of(dataclasses.replace(noisy, metrics=metrics))
    assert remedies.not_resolved_as_worse(noisy, best)
    assert remedies.not_resolved_as_worse(best, best)
    assert not remedies.not_resolved_as_worse(arm_of(history(0.3, dip=0.62)), best)


def made(sweep):
    """A history a cell: regularised, slow and better fed runs rise less; the noisy ones more."""
    cells = {}
    for name in sweep.cells:
        members = sweep.members(name)
        columns = {key: np.asarray(values) for key, values in members.hyperparams.items()}
        configs = np.unique(np.stack(list(columns.values()), axis=1), axis=0)
        place = next(place for place in remedies.PLACES if place.cell == name.split("-")[0])
        parts = []
        for seed, config in enumerate(configs):
            labels = dict(zip(columns, config.tolist(), strict=True))
            rise = 0.3 + labels.get("label_noise", 0.0)
            rise /= labels["train_size"] / place.train_size
            if any(labels.get(field, 0) for field in remedies.REGULARISERS.values()):
                rise = 0.0
            dip = 0.6 if labels["learning_rate"] > 5e-3 else 0.65
            one = history(rise, dip=dip, seed=seed, **labels)
            parts.append(with_examples(one) if sweep.cells[name].task.shared else one)
        cells[name] = concatenate(parts)
    return cells


def test_figures_need_the_tables_alone(tmp_path):
    findings = EXPERIMENT.analyse(made(EXPERIMENT.sweep("smoke")))
    outcomes = {(one.claim, one.where): one.outcome for one in findings.verdicts}
    assert len(outcomes) == len(findings.verdicts) == 34
    for place in (place.shown for place in remedies.PLACES):
        for key in remedies.REGULARISERS:
            assert outcomes["C11", f"{place}: {remedies.REMEDIES[key].name}"] == "supported"
        assert outcomes["C14", f"{place}: data, same steps"] == "in part"  # a quarter of the rise is left
        if place != "JapaneseVowels":
            assert outcomes["C13", f"{place}: optimiser"] == "refuted"
            assert outcomes["C14", f"{place}: data, same epochs"] == "in part"
    write_findings(findings, tmp_path)
    figures = EXPERIMENT.plot(read_findings(tmp_path))
    assert set(figures) == {"scorecard", "regularisation", "training_and_data", "onset_teacher", "onset_vowels"}


def test_the_smoke_sweep_differs_in_size_only():
    full, smoke = EXPERIMENT.sweep("full"), EXPERIMENT.sweep("smoke")
    assert list(smoke.cells) == list(full.cells)
    for name, cell in full.cells.items():
        assert cell.task == smoke.cells[name].task
        assert cell.config.num_evals == remedies.EVALS
        np.testing.assert_array_equal(
            np.unique(full.members(name).hyperparams["train_size"]),
            np.unique(smoke.members(name).hyperparams["train_size"]),
        )
    # at the same epochs: as many steps as there are examples, relative to the baseline
    for place in remedies.PLACES[:3]:
        assert full.cells[f"{place.cell}-longer"].config.num_steps == 4 * place.steps
