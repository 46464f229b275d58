"""The page of a results folder: everything committed is on it, and nothing in it is markup by accident."""

import numpy as np
import pytest
from matplotlib.figure import Figure

import lossjax
from lossjax.analysis.findings import Findings, Verdict
from lossjax.analysis.interval import Interval
from lossjax.reports.plots import save
from lossjax.reports.report import write_findings, write_report
from lossjax.reports.results import results_page


def verdict(claim, outcome="supported"):
    estimate = Interval(0.25, 0.2, 0.3)
    return Verdict(claim, "A <b>statement</b>", "a task", "a $contrast$", "a rule", estimate, outcome, 20, "seeds")


@pytest.fixture
def results(tmp_path):
    for name, claims in (("second", ["C10"]), ("first", ["C2", "C10"])):
        findings = Findings(
            tuple(verdict(claim) for claim in claims),
            {"a number": Interval(1.5, 1.0, 2.0), "another": Interval(3.0, np.nan, np.nan)},
            notes=("another: it was not resampled", "<script>window.pwned = 1</script>"),
            meta={"command": "lossjax run x.py"},
        )
        figure = Figure(figsize=(1, 1))
        figure.subplots().plot([0, 1])
        save(figure, tmp_path / name / "curve")
        write_findings(findings, tmp_path / name)
        write_report(name, "Does it $work*?", findings, [("curve.png", "A *caption* | with <marks>")], tmp_path / name)
    return tmp_path


def test_all_that_is_committed_is_on_the_page(results):
    text = results_page(results)
    assert text.index(">C2<") < text.index(">C10<")
    assert text.count("data:image/png;base64,iVBOR") == 2
    for part in (
        "Does it $work*?",
        "0.250 [0.200, 0.300]",
        "3.00 (no interval: it was not resampled)",
        "lossjax run x.py",
    ):
        assert part in text
    assert "A *caption* | with &lt;marks&gt;" in text
    assert "&lt;script&gt;window.pwned" in text
    assert "<script" not in text
    assert "A &lt;b&gt;statement&lt;/b&gt;" in text
    assert text == results_page(results)


def test_the_command_writes_it(results, capsys):
    lossjax.main(arguments=["report", str(results)])
    assert capsys.readouterr().out.strip() == str(results / "report.html")
    assert (results / "report.html").read_text(encoding="utf-8") == results_page(results)


@pytest.mark.parametrize("damage", ["figure", "none"])
def test_what_is_missing_or_damaged_is_one_line(results, capsys, damage):
    if damage == "figure":
        (results / "first" / "curve.png").write_bytes(b"no picture")
    folder = results if damage == "figure" else results / "first"
    with pytest.raises(SystemExit) as end:
        lossjax.main(arguments=["report", str(folder)])
    assert end.value.code == 2
    assert ("is no PNG" if damage == "figure" else "no <experiment>/summary.json") in capsys.readouterr().err
