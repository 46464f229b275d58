import csv
import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lossjax.analysis.findings import Findings, Verdict
from lossjax.analysis.interval import Interval
from lossjax.reports.report import estimate_text, ledger, read_findings, write_findings, write_report

NAN = math.nan


def verdict(claim="C1", outcome="supported", where="random labels, LSTM, test", **changes):
    fields = {
        "claim": claim,
        "statement": "Accuracy plateaus while loss goes on falling.",
        "where": where,
        "contrast": "share of runs with a P window",
        "rule": "supported if the lower bound exceeds 1/2; refuted if the upper bound is under 1/2",
        "estimate": Interval(0.61, 0.58, 0.64),
        "outcome": outcome,
        "num_seeds": 1000,
        "scope": "seeds×examples; one data set",
    }
    return Verdict(**fields | changes)


def example_findings():
    return Findings(
        verdicts=(
            verdict(),
            verdict(
                "C10", "unresolved", estimate=Interval(0.2, NAN, NAN), note="a single checkpoint", units="20 draws"
            ),
        ),
        numbers={"final loss": Interval(0.1 + 0.2, 0.25, math.inf, 0.9), "Bayes loss": Interval(0.5, NAN, NAN)},
        tables={
            "curves": {
                "step": np.array([0, 7], np.int32),
                "loss": np.array([0.1, NAN]),
                "loss_low": np.array([1 / 3, -math.inf], np.float32),
                "cell": np.array(['a, "b"', "é\n"]),
                "resolved": np.array([True, False]),
            }
        },
        notes=("Bayes loss: exact, from the known posterior", "teacher draws were not replicated"),
        meta={
            "command": "lossjax run x.py",
            "wall_seconds": 3912.4,
            "core_seconds": 42.0,
            "members": {"planned": 10, "done": 9, "nonfinite": 1, "failed": 0},
            "versions": {"jax": "0.10.1"},
        },
    )


def assert_same(found, expected):
    """Equal with nan equal to nan, order included."""
    # repr tells nan as nan, and every float from its neighbours
    assert repr(found.verdicts) == repr(expected.verdicts)
    assert list(found.numbers.items()).__repr__() == list(expected.numbers.items()).__repr__()
    assert (found.notes, found.meta) == (expected.notes, expected.meta)
    assert list(found.tables) == list(expected.tables)
    for name, table in expected.tables.items():
        assert list(found.tables[name]) == list(table)
        for column, values in table.items():
            assert found.tables[name][column].dtype == values.dtype
            np.testing.assert_array_equal(found.tables[name][column], values)


def test_what_is_written_is_read_back(tmp_path):
    write_findings(example_findings(), tmp_path)
    assert_same(read_findings(tmp_path), example_findings())


_columns = st.one_of(
    arrays.arrays(np.float64, 3),
    arrays.arrays(np.float32, 3),
    arrays.arrays(np.int64, 3),
    arrays.arrays(np.uint32, 3),
    arrays.arrays(np.bool_, 3),
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=4), min_size=3, max_size=3
    ).map(np.array),
)


@settings(max_examples=60, deadline=None)
@given(columns=st.lists(_columns, min_size=1, max_size=3), estimate=st.floats(), level=st.floats(0.01, 0.99))
def test_any_findings_are_read_back(tmp_path_factory, columns, estimate, level):
    findings = Findings(
        numbers={"a": Interval(estimate, NAN, NAN, level)},
        tables={"t": {f"column {index}": values for index, values in enumerate(columns)}},
    )
    folder = tmp_path_factory.mktemp("findings")
    write_findings(findings, folder)
    assert_same(read_findings(folder), findings)


def test_files_are_plain_json_and_csv_and_the_same_each_time(tmp_path):
    for name in ("a", "b"):
        write_findings(example_findings(), tmp_path / name)
    for file in ("summary.json", "curves.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["schema"] == 1
    assert summary["numbers"]["Bayes loss"] == {"estimate": 0.5, "low": None, "high": None, "level": 0.95}
    assert summary["numbers"]["final loss"]["high"] == "inf"
    with open(tmp_path / "a" / "curves.csv", newline="") as file:
        header, first, _ = csv.reader(file)
    assert header == ["step", "loss", "loss_low", "cell", "resolved"]
    assert first == ["0", "0.1", "0.333333343", 'a, "b"', "True"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["curves.csv", "summary.json"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"x": np.zeros((2, 2))}, r"float64 array \(2, 2\)"),
        ({"x": np.array([None])}, "object array"),
        ({"x": [1.0]}, "is a list"),
        ({"x": np.zeros(2), "y": np.zeros(3)}, "differ in length"),
        ({}, "no columns"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, table, message):
    with pytest.raises(ValueError, match=message):
        write_findings(Findings(tables={"t": table}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_names_and_meta_that_would_not_survive_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is no file name"):
        write_findings(Findings(tables={"../t": {"x": np.zeros(1)}}), tmp_path)
    for value in ((1, 2), NAN, np.int64(3), {1: 2}):
        with pytest.raises(ValueError, match="would not come back from JSON"):
            write_findings(Findings(meta={"a": value}), tmp_path)


def test_damage_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the experiment first"):
        read_findings(tmp_path)
    write_findings(example_findings(), tmp_path)
    path, table = tmp_path / "summary.json", tmp_path / "curves.csv"
    whole, rows = path.read_text(), table.read_text()
    for damaged, message in (
        (whole[:-20], "is not JSON"),
        (whole.replace('"schema": 1', '"schema": 2'), "has schema 2 and this lossjax reads schema 1"),
        (whole.replace('"contrast"', '"contrest"'), "lacks a part"),
        (whole.replace('"curves"', '"../curves"'), "is no file name"),
        (whole.replace('"<i4"', '"|O"'), "another type"),
    ):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=message):
            read_findings(tmp_path)
    path.write_text(whole)
    for damaged, message in (
        (rows.replace("step", "stop", 1), "columns"),
        (rows.replace("\n7,", "\n7.5,"), "another type"),
    ):
        table.write_text(damaged)
        with pytest.raises(ValueError, match=message):
            read_findings(tmp_path)
    table.unlink()
    with pytest.raises(ValueError, match="is missing"):
        read_findings(tmp_path)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(0.1234, 0.1011, 0.1449), "0.123 [0.101, 0.145]"),
        (Interval(0.49853, 0.49812, 0.49894), "0.49853 [0.49812, 0.49894]"),
        (Interval(-0.0031, -0.021, 0.0283), "−0.0031 [−0.0210, 0.0283]"),
        (Interval(1234.5, 1000.0, 1500.0), "1234 [1000, 1500]"),
        (Interval(0.0, 0.0, 0.0), "0 [0, 0]"),
        (Interval(-1e-9, -0.5, 0.5), "0.000 [−0.500, 0.500]"),
        (Interval(2e-9, 1e-9, 3e-9), "2.00e-09 [1.00e-09, 3.00e-09]"),
        (Interval(3.0, 2.0, math.inf, 0.9), "3.00 [2.00, ∞] (90 %)"),
        (Interval(0.5, NAN, NAN), "0.500 (no interval)"),
        (Interval(NAN, NAN, NAN), "undefined (no interval)"),
    ],
)
def test_estimates_are_written_with_their_interval(interval, text):
    assert estimate_text(interval) == text


def test_report_shows_every_number_with_its_interval_or_the_reason_why_not(tmp_path):
    text = write_report("lstm_examples", "Do they part?", example_findings(), [("a.png", "Loss [nats]")], tmp_path)
    lines = text.read_text(encoding="utf-8").splitlines()
    assert lines[:3] == ["# lstm_examples", "", "Do they part?"]
    row = next(line for line in lines if line.startswith("| C1 "))
    assert "| 0.610 [0.580, 0.640] | 1000 | seeds×examples; one data set | **supported** |" in row
    row = next(line for line in lines if line.startswith("| C10 "))
    assert "| 0.200 (no interval: a single checkpoint) | 1000 (interval over 20 draws) |" in row
    assert "| Bayes loss | 0.500 (no interval: exact, from the known posterior) |" in lines
    assert "- teacher draws were not replicated" in lines
    assert sum("supported if the lower bound exceeds 1/2" in line for line in lines) == 2  # once a claim
    assert "![Loss (nats)](a.png)" in lines
    for line in ("| command | `lossjax run x.py` |", "| wall time | 1 h 05 min (3912 s) |", "| core time | 42 s |"):
        assert line in lines
    assert "| members | planned 10, done 9, nonfinite 1, failed 0 |" in lines


def test_report_says_what_was_not_given(tmp_path):
    findings = Findings(numbers={"x": Interval(1.0, NAN, NAN)})
    lines = write_report("e", "?", findings, [], tmp_path).read_text().splitlines()
    assert "| x | 1.00 (no interval: no reason was given) |" in lines
    assert "| versions | not recorded |" in lines


def test_markdown_in_text_is_shown_as_it_stands(tmp_path):
    odd = verdict(where="loss | a<b, T*\nand T*, `x|y`")
    lines = write_report("e", "?", Findings(verdicts=(odd,)), [], tmp_path).read_text().splitlines()
    row = next(line for line in lines if line.startswith("| C1 "))
    assert r"| loss \| a\<b, T\* and T\*, `x\|y` |" in row


def test_ledger_sorts_claims_by_number_and_leaves_smoke_runs_out(tmp_path):
    write_findings(Findings(verdicts=(verdict("C10"), verdict("C2", "refuted"))), tmp_path / "b")
    write_findings(Findings(verdicts=(verdict("C2"),)), tmp_path / "a")
    write_findings(Findings(verdicts=(verdict("C3"),)), tmp_path / "a-smoke")
    (tmp_path / "unfinished").mkdir()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in ledger(tmp_path).splitlines()[2:]]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("C2", "a", "**supported**"),
        ("C2", "b", "**refuted**"),
        ("C10", "b", "**supported**"),
    ]
    with pytest.raises(FileNotFoundError, match="run an experiment first"):
        ledger(tmp_path / "unfinished")


def test_reading_reporting_and_drawing_do_without_jax_and_pyplot():
    for module, unwanted in (("report", {"jax", "matplotlib"}), ("plots", {"jax", "matplotlib.pyplot"})):
        code = f"import sys, lossjax.reports.{module}; print({unwanted} & set(sys.modules))"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_a_rule_changed_after_the_result_is_not_said_to_be_written_before(tmp_path):
    amended = dataclasses.replace(verdict(), amended="the first one let ties win", as_written="refuted")
    chosen = dataclasses.replace(verdict("C2"), amended="nothing else was resolved")
    write_findings(Findings(verdicts=(amended, chosen, verdict("C3"))), tmp_path / "e")
    found = read_findings(tmp_path / "e")
    assert found.verdicts[:2] == (amended, chosen)
    assert "amended" not in json.loads((tmp_path / "e" / "summary.json").read_text())["verdicts"][2]
    outcomes = [line.split("|")[-2].strip() for line in ledger(tmp_path).splitlines()[2:]]
    assert outcomes == [
        "**supported** (rule amended after the first result; as written: refuted)",
        "**supported** (rule chosen after the first result)",
        "**supported**",
    ]
    text = write_report("e", "?", found, [], tmp_path / "e").read_text(encoding="utf-8")
    of_claim = {part.split(":")[0]: part for part in text.split("### ")[1:]}
    assert "Rule, written before the result" in of_claim["C1"]
    assert "Amended after the first result: the first one let ties win" in of_claim["C1"]
    assert "Rule, chosen after the first result (nothing else was resolved):" in of_claim["C2"]
    assert "written before" not in of_claim["C2"]
    with pytest.raises(ValueError, match="say in amended"):
        dataclasses.replace(verdict(), as_written="refuted")


def test_several_rows_without_a_correction_say_so(tmp_path):
    both = Findings(verdicts=(verdict(), verdict(where="elsewhere")))
    assert "Each of the 2 rows" in write_report("e", "?", both, [], tmp_path).read_text(encoding="utf-8")
    corrected = dataclasses.replace(verdict(where="elsewhere"), rule="by Holm's correction")
    text = write_report("e", "?", Findings(verdicts=(verdict(), corrected)), [], tmp_path).read_text(encoding="utf-8")
    assert "not corrected" not in text
