"""The offline check computes the analysis of a report again and names what was changed in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clinloop.report.data import ReportData
from clinloop.report.evidence import Evidence
from clinloop.report.rescore import analysis_differences
from clinloop.report.verify import TOLERANCE, Verification, verify
from clinloop.scoring import service

from .conftest import CLASSES, read_truth, write_task


@pytest.fixture(scope="module")
def aged(evidence: Evidence) -> Evidence:
    """The evidence with an attribute."""
    truth = [
        case._replace(attributes={"age": "old" if int(case.case_id[-1], 16) % 3 else "young"})
        for case in read_truth(evidence)
    ]
    return Evidence(service.truth_csv(truth), evidence.initial, evidence.refined)


@pytest.fixture(scope="module")
def analysed(scored_data: ReportData, aged: Evidence) -> ReportData:
    initial, refined = ({"MEL": {"threshold": point.threshold}} for point in scored_data.operating_points)
    found = service.analyse(
        aged.initial,
        aged.refined,
        read_truth(aged),
        scheme=service.Scheme(tuple(CLASSES)),
        primary="macro_auc",
        p_values={metric.name: metric.p for metric in scored_data.final},
        operating_points=(initial, refined),
        resamples=40,
        seed=6,
    )
    return scored_data.model_copy(update={"analysis": found})


def analysis_check(verification: Verification) -> tuple[bool, str]:
    return next((check.ok, check.detail) for check in verification.checks if check.name == "analysis")


def edit(report: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((report / "report.json").read_text())
    change(content)
    (report / "report.json").write_text(json.dumps(content))


def test_an_honest_analysis_is_found_equal_and_comes_back_from_the_file(
    analysed: ReportData, aged: Evidence, tmp_path: Path
) -> None:
    report = write_task(analysed, aged, tmp_path) / "report"
    stored = ReportData.model_validate_json((report / "report.json").read_bytes())
    assert stored.analysis == analysed.analysis
    is_ok, detail = analysis_check(verify(report))
    assert is_ok, detail
    assert "2 subgroups" in detail
    edit(report, lambda content: content.update(clinloop_version="0.0.9"))
    edit(
        report,
        lambda content: content["analysis"]["notes"].__setitem__(
            slice(None), ["x"] * len(content["analysis"]["notes"])
        ),
    )
    assert analysis_check(verify(report))[0], "another version may say the same in other words"


def test_each_changed_number_is_named(analysed: ReportData, aged: Evidence, tmp_path: Path) -> None:
    report = write_task(analysed, aged, tmp_path) / "report"

    def nicer(content: dict[str, Any]) -> None:
        found = content["analysis"]
        found["subgroups"][1]["refined"]["low"] += 1e-6
        found["curves"][3]["y"][2] += 0.01
        found["calibration"][5]["bins"][0]["n"] += 1
        found["confounders"][0]["metrics"][0]["p_holm"] = 0.001
        found["confounders"][0]["sentence"] = "The model does not look at the age."
        found["checks"][0]["note"] = ""
        found["adjusted_p"]["f1"] = 0.0001
        found["confusion"][0]["matrix"].pop()
        del found["decision_curves"][2:]

    edit(report, nicer)
    data = ReportData.model_validate_json((report / "report.json").read_bytes())
    assert data.analysis is not None
    found = analysis_differences(data, data.analysis, aged, tolerance=TOLERANCE, words=True)
    assert len(found) == 9
    for words in (
        "subgroups[1].refined.low",
        "curves[3].y[2]",
        "calibration[5].bins[0].n",
        "confounders[0].metrics[0].p_holm",
        "confounders[0].sentence",
        "checks[0].note",
        "adjusted_p.f1",
        "confusion[0].matrix: the evidence gives 8 entries, the report states 7",
        "decision_curves: the evidence gives 8 entries, the report states 2",
    ):
        assert any(line.startswith(words) for line in found), words


def test_a_changed_number_other_evidence_and_senseless_resamples_fail_the_check(
    analysed: ReportData, aged: Evidence, tmp_path: Path
) -> None:
    report = write_task(analysed, aged, tmp_path) / "report"
    edit(report, lambda content: content["analysis"]["subgroups"][0]["difference"].update(value=0.5))
    is_ok, detail = analysis_check(verify(report))
    assert not is_ok
    assert detail.startswith("subgroups[0].difference.value: the evidence gives")
    edit(report, lambda content: content["analysis"].update(resamples=10**9))
    assert analysis_check(verify(report)) == (False, "there must be at most 1000000 resamples")
    (report / "evidence" / "refined.csv").write_bytes(b"case_id\n")
    edit(report, lambda content: content["analysis"].update(resamples=40))
    assert "cannot be analysed" in analysis_check(verify(report))[1]


def test_an_older_report_without_an_analysis_is_not_asked_for_one(
    scored_data: ReportData, evidence: Evidence, tmp_path: Path
) -> None:
    report = write_task(scored_data, evidence, tmp_path) / "report"
    edit(report, lambda content: content.pop("analysis"))
    failed = {check.name for check in verify(report).checks if not check.ok}
    assert failed == {"seal"}
