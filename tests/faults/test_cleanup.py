"""Clean-up of ended tasks: what goes, what stays, what refuses, and kills in between."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from mcp import Client

from clinloop import cleanup
from clinloop.app import build
from clinloop.errors import BadInput, Forbidden, LedgerBroken, NotNow
from clinloop.principal import LOCAL_AGENT, Principal
from clinloop.report.verify import verify
from clinloop.services import Services
from clinloop.settings import load_settings

from .conftest import SMALL, end_supervisors
from .killing import failpoints
from .lab import Lab

CUSTODIAN = Principal("Mrs. Key", frozenset(["custodian"]))


def custodian(lab: Lab) -> Services:
    return lab.services.for_principal(CUSTODIAN)


@pytest.fixture(scope="module")
def played(ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """A state folder with an evaluated task: run0 is baseline, incumbent and final, run1 was rejected, smoke1 says nothing."""
    state = Path(shutil.copytree(ingested, tmp_path_factory.mktemp("played") / "state"))
    lab = Lab(Services(load_settings(state, sandbox="none", limits=SMALL), accept_no_isolation=True))
    task = lab.task()
    assert lab.full(task).decision == "accepted"
    assert lab.smoke(task).status == "succeeded"
    assert lab.full(task).decision == "rejected"
    lab.finalize(task)
    assert lab.evaluated(task).status == "evaluated"
    yield state
    end_supervisors(state)


@pytest.fixture
def ended_lab(played: Path, tmp_path: Path) -> Lab:
    """A copy of that folder."""
    state = Path(shutil.copytree(played, tmp_path / "played"))
    return Lab(Services(load_settings(state, sandbox="none", limits=SMALL), accept_no_isolation=True))


def ended(lab: Lab) -> str:
    """Return its task."""
    return lab.store.tasks()[0].id


def files(lab: Lab, task: str) -> set[str]:
    root = lab.services.state.task(task).root
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def cleaned(lab: Lab, task: str) -> list[dict[str, object]]:
    return [row.detail for row in lab.store.ledger(f"task:{task}") if row.event == "cleaned"]


def test_outputs_of_rejected_runs_go_and_everything_that_says_what_happened_stays(ended_lab: Lab) -> None:
    task = ended(ended_lab)
    before = files(ended_lab, task)
    planned = cleanup.plan(custodian(ended_lab), task, "runs")
    assert {item.path.split("/")[1] for item in planned.items} == {"run1", "smoke1"}
    assert files(ended_lab, task) == before  # a plan changes nothing

    done = cleanup.clean(custodian(ended_lab), task, "runs")

    assert done == planned and done.bytes > 0
    gone = before - files(ended_lab, task)
    assert gone and all(name.startswith(("runs/run1/", "runs/smoke1/")) for name in gone)
    assert "runs/run1/predicted/predictions" in files(ended_lab, task) and "runs/run1/log-train.txt" in files(
        ended_lab, task
    )
    (entry,) = cleaned(ended_lab, task)
    assert (entry["by"], entry["scope"], entry["bytes"]) == ("Mrs. Key", "runs", done.bytes)
    assert cleanup.clean(custodian(ended_lab), task, "runs").items == () and len(cleaned(ended_lab, task)) == 1
    ended_lab.check(task)


def test_a_removed_task_keeps_ledger_report_evidence_models_and_code(ended_lab: Lab) -> None:
    task = ended(ended_lab)
    before = files(ended_lab, task)

    cleanup.clean(custodian(ended_lab), task, "runs")
    cleanup.clean(custodian(ended_lab), task, "task")

    left = files(ended_lab, task)
    for kept in ("report/", "model/", "final/", "revisions.git/", "workspace/"):
        assert {name for name in left if name.startswith(kept)} == {name for name in before if name.startswith(kept)}
    assert not any(name.startswith(("data/", "runs/run1/", "runs/smoke1/", "runs/run0/out/")) for name in left)
    assert "runs/run0/predicted/predictions" in left  # an export compares with them
    assert verify(ended_lab.services.state.task(task).report).ok
    ended_lab.check(task)


@pytest.mark.anyio
async def test_an_agent_is_told_in_a_sentence_that_files_were_removed_and_pays_nothing_for_it(ended_lab: Lab) -> None:
    task = ended(ended_lab)
    cleanup.clean(custodian(ended_lab), task, "task")
    views = ended_lab.store.balance(task)["error_view"]
    async with Client(build(ended_lab.services.for_principal(LOCAL_AGENT))) as client:
        for run, view in (("run1", "log"), ("run1", "curve"), ("run1", "errors"), ("run0", "errors")):
            answer = await client.call_tool("read_validation", {"task_id": task, "run": run, "view": view})
            assert answer.is_error, (run, view)
            assert f"These files of {run} were removed on 20" in answer.content[0].text  # type: ignore[union-attr]
        for run, view in (("run1", "status"), ("run1", "scores"), ("run1", "runs"), ("run0", "log"), ("", "figure")):
            answer = await client.call_tool("read_validation", {"task_id": task, "run": run, "view": view})
            assert not answer.is_error, (run, view, answer.content)
    assert ended_lab.store.balance(task)["error_view"] == views


@pytest.mark.parametrize("scope", cleanup.SCOPES)
def test_nothing_of_an_open_task_goes(lab: Lab, scope: cleanup.Scope) -> None:
    task = lab.task()
    before = files(lab, task)
    with pytest.raises(NotNow, match=f"Task {task} is open; files are removed of tasks that have ended"):
        cleanup.clean(custodian(lab), task, scope)
    assert cleanup.plans(custodian(lab), scope) == [] and files(lab, task) == before


@pytest.mark.parametrize("scope", cleanup.SCOPES)
def test_nothing_of_a_task_whose_ledger_was_changed_goes(ended_lab: Lab, scope: cleanup.Scope) -> None:
    task = ended(ended_lab)
    before = files(ended_lab, task)
    with sqlite3.connect(ended_lab.services.settings.state / "clinloop.sqlite") as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(
            "UPDATE ledger SET amount = 99 WHERE scope = ? AND resource = 'run' AND seq = 1", (f"task:{task}",)
        )
    connection.close()
    with pytest.raises(LedgerBroken):
        cleanup.clean(custodian(ended_lab), task, scope)
    assert cleanup.plans(custodian(ended_lab), scope) == [] and files(ended_lab, task) == before


def test_only_a_custodian_removes_files(ended_lab: Lab) -> None:
    task = ended(ended_lab)
    before = files(ended_lab, task)
    for role in ("agent", "clinician"):
        somebody = ended_lab.services.for_principal(Principal("X", frozenset([role])))  # type: ignore[list-item]
        with pytest.raises(Forbidden):
            cleanup.clean(somebody, task, "task")
        with pytest.raises(Forbidden):
            cleanup.remove_dataset(somebody, "moles")
    assert files(ended_lab, task) == before


def test_a_dataset_is_removed_when_no_task_needs_it_any_more(ended_lab: Lab) -> None:
    lab, done = ended_lab, ended(ended_lab)
    task = lab.task()
    with pytest.raises(BadInput, match=f"used by tasks that have not ended \\({task}\\)"):
        cleanup.remove_dataset(custodian(lab), "moles")
    with sqlite3.connect(lab.services.settings.state / "clinloop.sqlite") as connection:
        connection.execute("UPDATE task SET status = 'declined' WHERE id = ?", (task,))
    connection.close()
    cleanup.remove_dataset(custodian(lab), "moles")
    assert not (lab.services.settings.state / "datasets" / "moles").exists()
    assert verify(lab.services.state.task(done).report).ok
    assert lab.store.ledger("dataset:moles")[-1].detail == {"by": "Mrs. Key"}


@pytest.mark.parametrize("name", failpoints("clean:"))
def test_a_clean_up_that_is_killed_is_recorded_once_and_finished_by_the_next(ended_lab: Lab, name: str) -> None:
    task = ended(ended_lab)
    planned = cleanup.plan(custodian(ended_lab), task, "task")
    died = command(ended_lab, task, failpoint=name)
    assert died.returncode == -9 and f"killed at failpoint {name}" in died.stderr, died.stderr
    assert len(cleaned(ended_lab, task)) == (name == "clean:recorded")
    assert verify(ended_lab.services.state.task(task).report).ok  # nothing that a report needs was touched

    done = command(ended_lab, task)

    assert done.returncode == 0, done.stderr
    (entry,) = cleaned(ended_lab, task)
    assert (entry["by"], entry["bytes"]) == ("local user", planned.bytes)
    assert set(entry["removed"]) == {item.path for item in planned.items}  # type: ignore[call-overload]
    root = ended_lab.services.state.task(task).root
    assert not list(root.glob(".removed-*")) and not (root / "data").exists()
    ended_lab.check(task)


def test_a_clean_up_that_dies_between_two_moves_loses_no_byte_from_the_ledger(
    ended_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = ended(ended_lab)
    planned = cleanup.plan(custodian(ended_lab), task, "task")
    moved: list[Path] = []
    rename = Path.rename

    def dying(self: Path, target: Path) -> Path:
        if ".removed-" in str(target):
            moved.append(self)
            if len(moved) == 3:
                raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dying)
    with pytest.raises(KeyboardInterrupt):
        cleanup.clean(custodian(ended_lab), task, "task")
    monkeypatch.undo()

    cleanup.clean(custodian(ended_lab), task, "task")

    assert sum(int(str(entry["bytes"])) for entry in cleaned(ended_lab, task)) == planned.bytes
    assert [entry["n_removed"] for entry in cleaned(ended_lab, task)] == [2, len(planned.items) - 2]
    assert not list(ended_lab.services.state.task(task).root.glob(".removed-*"))


def test_of_two_clean_ups_at_once_one_is_told_to_wait(ended_lab: Lab) -> None:
    task = ended(ended_lab)
    held = cleanup._alone(ended_lab.services.state.task(task).root)  # pyright: ignore[reportPrivateUsage]
    with held, pytest.raises(NotNow, match="being cleaned up by another process"):
        cleanup.clean(custodian(ended_lab), task, "task")
    assert cleanup.clean(custodian(ended_lab), task, "task").items


def command(lab: Lab, task: str, *, failpoint: str = "") -> subprocess.CompletedProcess[str]:
    state = str(lab.services.settings.state)
    return subprocess.run(
        [sys.executable, "-m", "clinloop", "task", "remove", task, "--yes", "--state", state],
        env=os.environ | ({"CLINLOOP_FAILPOINT": failpoint} if failpoint else {}),
        capture_output=True,
        text=True,
        check=False,
    )
