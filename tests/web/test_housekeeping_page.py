"""The page of all tasks, the disk and clean-up."""

from __future__ import annotations

from pathlib import Path

from ..faults.lab import until
from .conftest import Web


def ended(web: Web) -> tuple[str, Path]:
    """Return a declined task with outputs of a run, and the folder of these."""
    task = web.codex.begin(confirm_spec="required")
    web.services.store.decline_spec(task, by="Dr. Weber", why="Not this one.")
    out = web.services.state.task(task).run("run1").out
    out.mkdir(parents=True)
    (out / "checkpoint").write_bytes(b"x" * 7_000_000)
    return task, out


def measured(web: Web) -> str:
    """Return the page; nothing while the disk is still being measured."""
    page = web.custodian.get("/housekeeping").text
    return "" if "is being measured" in page else page


def test_all_tasks_are_listed_with_owner_state_and_what_they_take(web: Web) -> None:
    task, _ = ended(web)
    open_task = web.claude.begin(objective="Tell three kinds of moles apart, once more.")
    page = until(lambda: measured(web), 60)
    for text in (task, open_task, "codex", "claude", "Declined", "7 MB", "moles"):
        assert text in page, text
    assert f'href="/tasks/{open_task}/steer"' in page and f"scope=task&amp;task={task}" in page


def test_a_clean_up_is_shown_first_then_done_once_and_recorded_with_a_name(web: Web) -> None:
    task, out = ended(web)
    custodian = web.custodian
    shown = custodian.get("/housekeeping/plan?scope=runs").text
    assert "runs/run1/out" in shown and out.exists()

    assert custodian.post("/housekeeping/clean", scope="runs", task=task).status_code == 400  # the box was not ticked
    assert out.exists()
    done = custodian.post("/housekeeping/clean", scope="runs", task=task, agreed="yes")

    assert done.status_code == 200 and "of 1 task were removed" in done.text and not out.exists()
    assert "There is nothing to remove" in custodian.get("/housekeeping/plan?scope=runs").text
    (entry,) = [row for row in web.services.store.ledger(f"task:{task}") if row.event == "cleaned"]
    assert entry.detail["by"] == "IT" and entry.detail["bytes"] >= 7_000_000
    ledger = custodian.get(f"/tasks/{task}/ledger").text
    assert "Clean-up: outputs that nothing refers to" in ledger and "Verified" in ledger


def test_an_open_task_is_refused_in_one_sentence(web: Web) -> None:
    task = web.codex.begin()
    custodian = web.custodian
    assert custodian.get(f"/housekeeping/plan?scope=task&task={task}").status_code == 409
    refused = custodian.post("/housekeeping/clean", scope="task", task=task, agreed="yes")
    assert (
        refused.status_code == 409
        and f"Task {task} is open; files are removed of tasks that have ended" in refused.text
    )
    assert (web.services.state.task(task).data / "cases.csv").exists()


def test_clinicians_and_agents_clean_nothing(web: Web) -> None:
    task, out = ended(web)
    for visitor in (web.clinician, web.codex):
        assert visitor.get("/housekeeping").status_code == 403
        assert visitor.get("/housekeeping/plan").status_code == 403
        assert visitor.post("/housekeeping/clean", scope="task", task=task, agreed="yes").status_code == 403
    assert out.exists()


def test_bad_fields_are_refused(web: Web) -> None:
    custodian = web.custodian
    assert custodian.get("/housekeeping/plan?scope=everything").status_code == 400
    assert custodian.get("/housekeeping/plan?scope=task&task=../..").status_code == 404
    assert custodian.post("/housekeeping/clean", scope="task", task="../..", agreed="yes").status_code == 404


def test_measuring_again_shows_what_was_written_since(web: Web) -> None:
    _, out = ended(web)
    custodian = web.custodian
    assert "7 MB" in custodian.get("/housekeeping").text
    (out / "more").write_bytes(b"x" * 2_000_000)
    assert custodian.post("/housekeeping").status_code == 303
    assert "9 MB" in custodian.get("/housekeeping").text
