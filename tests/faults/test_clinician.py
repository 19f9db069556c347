"""SIGKILL at every failpoint of what a clinician does: it has happened as a whole or not at all, and the next call goes on from there."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from clinloop import runs, tasks
from clinloop.errors import NotNow
from clinloop.failpoints import UNCOMMITTED
from clinloop.spec import PRESETS, TaskSpec

from . import victim
from .killing import failpoints, fresh, victims
from .lab import Lab, train_code, until

NAMES = failpoints("clinician:")
LONG = train_code("time.sleep(60)")
CONTRACT_FIRST = ("confirmed", "declined")
OTHERS: dict[str, dict[str, str]] = {
    "confirmed": {"confirm_spec": "required"},
    "declined": {"confirm_spec": "required"},
    "asked": {"confirm_finalize": "required"},
    "approved": {"confirm_finalize": "required"},
    "refused": {"confirm_finalize": "required"},
}
"""What the contract of the task says besides, by act."""
AFTER = {
    "confirmed": ("open", "contract"),
    "declined": ("declined", "declined"),
    "asked": ("awaiting_confirmation", "asked"),
    "approved": ("evaluated", "evaluation_started"),
    "refused": ("open", "finalize_declined"),
    "chosen": ("open", "chosen"),
    "paused": ("paused", "paused"),
    "resumed": ("open", "resumed_by_person"),
    "stopped": ("open", "stopped_by_person"),
    "extended": ("open", "granted"),
    "note": ("open", "note"),
}
"""State of the task in the end, and an event of the act, by act."""


def ready_for(lab: Lab, act: str) -> str:
    """Make a task to which a clinician can do this."""
    if act in CONTRACT_FIRST:
        spec = TaskSpec.model_validate(
            {"objective": "Tell three kinds of moles apart.", "budget": "demo", **OTHERS[act]}
        )
        return tasks.create(lab.services, dataset_name="moles", request=victim.REQUEST, spec=spec, template="linear").id
    task = lab.task(LONG, **OTHERS.get(act, {})) if act == "stopped" else lab.task(**OTHERS.get(act, {}))
    if act == "stopped":
        lab.reach(lab.start(task), "training")
    elif act in ("asked", "approved", "refused", "chosen"):
        assert lab.full(task).decision == "accepted"
    if act in ("approved", "refused"):
        lab.finalize(task)
    if act == "resumed":
        victim.ACTS["paused"](lab.services, task)
    return task


@pytest.mark.parametrize("name", NAMES)
def test_what_a_clinician_does_survives_a_kill_as_a_whole_or_not_at_all(lab: Lab, name: str) -> None:
    act = name.removesuffix(UNCOMMITTED).removeprefix("clinician:")
    task = ready_for(lab, act)
    status, event = AFTER[act]
    before, counted = lab.store.head(f"task:{task}"), lab.events(task).count(event)

    with victims(lab, act, "finalize", (task, name)) as (server,):
        assert server.process.wait(timeout=60) == -signal.SIGKILL

    another = fresh(lab)
    if name.endswith(UNCOMMITTED):
        assert another.store.head(f"task:{task}") == before
        victim.ACTS[act](another.services, task)
    else:
        assert another.store.head(f"task:{task}") != before
        if act in ("confirmed", "declined", "approved", "refused", "stopped"):
            with pytest.raises(NotNow):
                victim.ACTS[act](another.services, task)
    FINISH.get(act, lambda lab, task: None)(another, task)
    assert another.store.task(task).status == status
    assert another.events(task).count(event) == counted + 1
    told = [note.text for note in another.store.notes(task)]
    assert len(told) == (0 if act == "asked" else 2 if act == "resumed" else 1), told
    if status in ("open", "evaluated"):
        another.check(task)


def finish_confirmed(lab: Lab, task: str) -> None:
    """The next call about the task prepares it, and the budget of the confirmed contract is granted once."""
    assert tasks.require_workspace(lab.services, task).status == "open"
    assert lab.services.state.task(task).workspace.is_dir()
    assert lab.store.balance(task)["run"] == lab.store.granted_runs(task) == PRESETS["quick"].runs
    assert ready_for(lab, "confirmed") == task  # the same init_task finds it


def finish_stopped(lab: Lab, task: str) -> None:
    run = lab.end(lab.store.run(task, "run0"))
    assert run.status == "stopped" and "stopped it: It is worth it." in run.message, run


def finish_approved(lab: Lab, task: str) -> None:
    assert lab.evaluated(task).final_run == "run0"
    until(lambda: not runs.recover(lab.services, task) and not lab.supervisors(task, "finalize"), 30)


def finish_extended(lab: Lab, task: str) -> None:
    assert lab.store.granted_runs(task) == PRESETS["demo"].runs + 2


FINISH: dict[str, Callable[[Lab, str], None]] = {
    "confirmed": finish_confirmed,
    "stopped": finish_stopped,
    "approved": finish_approved,
    "extended": finish_extended,
}
