"""The scorecard of a real task: what is missed shows while it is open, and the report says the same in the end."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from clinloop.cli import app
from clinloop.report.data import ReportData
from clinloop.report.scorecard import NOT_REACHED
from clinloop.scorecards import scorecard_of

from .lab import Lab


def test_the_scorecard_of_an_open_task_says_what_was_missed_and_the_report_says_the_same_in_the_end(lab: Lab) -> None:
    task = lab.task()
    lab.smoke(task)
    lab.full(task)
    lab.edit(task, "notes.md", "nothing new")
    lab.full(task)
    so_far = {item.code: (item.points, item.error) for item in scorecard_of(lab.services, task).items}
    assert so_far["S2.1"] == (4, "") and so_far["S2.2"] == (4, "")
    assert so_far["S1.5"] == (0, "E-THIN-HYPOTHESIS"), "the lab gives every run the same hypothesis"
    assert so_far["S2.3"] == (0, "E-UNTESTED-CODE")
    assert so_far["S3.2"] == (0, "E-NO-VALIDATION")
    assert so_far["S3.3"] == (0, "E-NO-GAIN")
    assert so_far["S3.6"] == (1, "E-FEW-CANDIDATES")
    assert so_far["S4.1"] == (5, "") and so_far["S4.3"] == (0, NOT_REACHED)
    assert so_far["S5.1"] == (0, "E-NOT-FINALIZED")

    lab.finalize(task)
    assert lab.evaluated(task).status == "evaluated"
    lab.check(task)  # verifies the report, and with it the scorecard
    report = lab.services.state.task(task).report / "report.json"
    stated = ReportData.model_validate_json(report.read_bytes()).scorecard
    assert stated is not None and stated.stage_points()["S5"] == 10
    assert scorecard_of(lab.services, task) == stated

    arguments = ["task", "score", task, "--state", str(lab.services.settings.state)]
    shown = CliRunner().invoke(app, [*arguments, "--json"])
    assert shown.exit_code == 0 and json.loads(shown.stdout) == stated.model_dump(mode="json")
    table = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert table.exit_code == 0 and "E-UNTESTED-CODE" in table.stdout and f"{stated.total:g} of 100" in table.stdout
