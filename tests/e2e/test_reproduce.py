"""`clinloop reproduce`: all six tasks of the paper, played on stand-ins with the smallest budget, and each moves as in the paper.

About half an hour of both cores, and significance is a matter of luck too: run it with `pytest -m long` on a quiet machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clinloop.report.verify import verify
from clinloop.targets import TASK_NAMES, TaskName

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.sandbox, pytest.mark.timeout(3600)]


def reproduce(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clinloop", "reproduce", *arguments, "--target", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=3500)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `clinloop reproduce all` leaves."""
    folder = tmp_path_factory.mktemp("reproduce") / "all"
    ended = reproduce(folder, "all")
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def tables(folder: Path) -> dict[TaskName, dict[str, Any]]:
    return json.loads((folder / "tables.json").read_text(encoding="utf-8"))["tasks"]


def ours(table: dict[str, Any], name: str) -> dict[str, Any]:
    return next(metric["ours"] for metric in table["metrics"] if metric["name"] == name)


def test_all_tasks_end_with_tables_and_figures(folder: Path, tables: dict[TaskName, dict[str, Any]]) -> None:
    assert list(tables) == list(TASK_NAMES)
    for name in TASK_NAMES:
        figures = {path.name for path in (folder / name).glob("figure-*")}
        assert figures >= {"figure-3.svg", "figure-3.png", "figure-4.svg", "figure-4.png"}
    assert (folder / "pneumothorax" / "figure-5.png").is_file()


@pytest.mark.parametrize("name", TASK_NAMES)
def test_the_refined_model_beats_the_baseline_on_the_test_set(
    tables: dict[TaskName, dict[str, Any]], name: TaskName
) -> None:
    primary = ours(tables[name], tables[name]["primary_metric"])
    assert primary["refined"]["value"] > primary["initial"]["value"]
    assert primary["p"] < 0.05
    assert len(tables[name]["runs"]) >= 4


def test_debiasing_lowers_the_partial_correlation_by_a_quarter_and_the_share_of_drains(
    tables: dict[TaskName, dict[str, Any]],
) -> None:
    table = tables["pneumothorax"]
    partial = ours(table, "partial_r_drain")
    assert 0.4 <= partial["initial"]["value"] <= 0.6
    assert partial["refined"]["value"] <= 0.75 * partial["initial"]["value"]
    assert partial["difference"]["high"] < 0
    assert ours(table, "fp_share_drain")["difference"]["value"] < 0
    assert any(line.startswith("The price in AUC") for line in table["findings"])


def test_the_drains_of_task_5_are_the_helper_models_and_its_report_says_what_that_has_seen(
    tables: dict[TaskName, dict[str, Any]],
) -> None:
    report = Path(tables["pneumothorax"]["report"]).parent
    data = json.loads((report / "report.json").read_text(encoding="utf-8"))
    notes = " ".join(item["text"] for item in data["dataset"]["audit"])
    assert f"task {tables['drain']['task_id']}" in notes
    assert "Overlap with what that model was made with" in notes


@pytest.mark.parametrize("name", TASK_NAMES)
def test_every_report_verifies_offline(tables: dict[TaskName, dict[str, Any]], name: TaskName) -> None:
    verification = verify(Path(tables[name]["report"]).parent)
    assert verification.ok, [check for check in verification.checks if not check.ok]


def test_a_second_call_finds_everything_done(folder: Path, tables: dict[TaskName, dict[str, Any]]) -> None:
    ended = reproduce(folder, "all")
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert json.loads((folder / "tables.json").read_text(encoding="utf-8"))["tasks"] == tables


def test_other_data_under_the_name_of_a_dataset_is_refused(
    folder: Path, tables: dict[TaskName, dict[str, Any]]
) -> None:
    assert tables
    ended = reproduce(folder, "isic8", "--images", "300")
    assert ended.returncode == 1
    assert "give the same again, or another --target" in " ".join(ended.stderr.split())
