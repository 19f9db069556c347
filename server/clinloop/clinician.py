"""What the clinician, and in part the custodian, may do to a task: confirm, choose, approve, steer. Every act is in the ledger with who did it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from clinloop import runs, tasks
from clinloop.datasets.dataset import Dataset
from clinloop.errors import BadInput, NotNow
from clinloop.principal import Principal
from clinloop.scoring.acceptance import FAMILY_LEVEL
from clinloop.services import Services
from clinloop.spec import Answer, TaskSpec, freeze
from clinloop.store.rows import RunRow, TaskRow
from clinloop.tradeoffs import given_up, tradeoffs_of

NOTE_CHARACTERS = 2000
RUNS_MOST = 100
"""Most runs that one extension of a budget grants."""


def confirm_spec(
    services: Services,
    task_id: str,
    *,
    answers: Mapping[str, str] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> TaskRow:
    """Make a task's spec its contract, with answers (by question) and changed fields, and prepare its workspace.

    Raises:
        Forbidden: only a clinician confirms.
        BadInput: a changed field does not fit the data (all problems at once), or cannot be changed; an answer to a question that was
            not asked, or too long.
        NotNow: the task does not wait for that.
    """
    services.principal.require("clinician", what="confirm a contract")
    task = services.task(task_id)
    asked = services.store.open_question(task_id)
    if asked is None or asked.kind != "spec":
        raise NotNow(f"Task {task_id} is {task.status}; it does not wait for its contract to be confirmed.")
    given = {question: text.strip() for question, text in (answers or {}).items() if text.strip()}
    if wrong := [question for question in given if question not in task.spec.open_questions]:
        raise BadInput(f"answers: {wrong} were not asked; open questions: {list(task.spec.open_questions)}.")
    if wrong := [question for question, text in given.items() if len(text) > NOTE_CHARACTERS]:
        raise BadInput(f"answers: an answer has at most {NOTE_CHARACTERS} characters; too long: {wrong}.")
    spec = _edited(services, task, given, changes or {})
    changed = sorted(
        name
        for name in TaskSpec.model_fields
        if name not in ("answers", "open_questions") and getattr(spec, name) != getattr(task.spec, name)
    )
    answer = {"confirmed": True, "answers": given, "changed": changed}
    services.store.confirm_spec(task_id, spec, by=speaker(services.principal), answer=answer)
    return tasks.prepare(services, task_id)


def _edited(services: Services, task: TaskRow, answers: Mapping[str, str], changes: Mapping[str, Any]) -> TaskSpec:
    """Return the spec with the clinician's changes and answers, checked like any other."""
    fixed = ("answers", "open_questions", "task_type")
    valid = [name for name in TaskSpec.model_fields if name not in fixed]
    if wrong := [name for name in changes if name not in valid]:
        raise BadInput(f"changes: {wrong} cannot be changed here; valid are {', '.join(valid)}.")
    values = {
        **task.spec.model_dump(mode="json"),
        **changes,
        "answers": [Answer(question=question, answer=text).model_dump() for question, text in answers.items()],
        "open_questions": [question for question in task.spec.open_questions if question not in answers],
    }
    try:
        spec = TaskSpec.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors()[:10])
        raise BadInput(f"The changed contract cannot be used ({problems}).") from error
    return freeze(spec, tasks.spec_facts(Dataset.load(services.settings.state, task.dataset), is_confirmed=True))


def decline_spec(services: Services, task_id: str, why: str) -> TaskRow:
    """End a task whose contract is not what the clinician wants; nothing was run.

    Raises:
        Forbidden, NotNow: as for confirm_spec.
        BadInput: no reason.
    """
    services.principal.require("clinician", what="decline a contract")
    services.task(task_id)
    services.store.decline_spec(task_id, by=speaker(services.principal), why=_text(why))
    return services.task(task_id)


def answer_finalize(services: Services, task_id: str, *, approved: bool, why: str = "") -> TaskRow:
    """Say yes or no to opening the test set; a yes starts the evaluation, a no gives the task back to its agent with the reason.

    Raises:
        Forbidden: only a clinician decides that.
        NotNow: the task does not wait for that.
        BadInput: a no without a reason.
    """
    services.principal.require("clinician", what="decide whether the test set is opened")
    services.task(task_id)
    reason = _reason(why) if approved else _text(why)
    services.store.answer_finalize(task_id, by=speaker(services.principal), approved=approved, why=reason)
    runs.recover(services, task_id)
    return services.task(task_id)


def choose_run(services: Services, task_id: str, run: str, why: str = "") -> TaskRow:
    """Make a run the incumbent, whatever the acceptance rule said.

    Raises:
        Forbidden: only a clinician chooses.
        Unknown: no such run.
        BadInput: the run has no score.
        NotNow: the task is neither open, paused nor waiting for a choice.
    """
    services.principal.require("clinician", what="choose among runs")
    services.task(task_id)
    chosen = services.store.run(task_id, run)
    if chosen.scores is None or chosen.mode != "full":
        raise BadInput(f"{run} has no score on validation, so it cannot be chosen.")
    given = given_up(tradeoffs_of(services, task_id), run)
    services.store.choose_run(task_id, run, by=speaker(services.principal), why=_reason(why), given=given)
    return services.task(task_id)


def write_note(services: Services, task_id: str, text: str) -> TaskRow:
    """Tell the agent something; its next reply carries it as the words of who wrote it.

    Raises:
        Forbidden: agents write none.
        BadInput: no text, or more than NOTE_CHARACTERS.
    """
    services.principal.require("clinician", "custodian", what="write a note")
    services.task(task_id)
    services.store.add_note(task_id, _text(text), author=speaker(services.principal))
    return services.task(task_id)


def set_paused(services: Services, task_id: str, paused: bool, why: str = "") -> TaskRow:
    """Let no run of a task start, or let them start again; a run that is active goes on.

    Raises:
        Forbidden: agents may not.
        NotNow: the task is neither open nor paused.
    """
    services.principal.require("clinician", "custodian", what="pause a task")
    services.task(task_id)
    services.store.set_paused(task_id, paused, by=speaker(services.principal), why=_reason(why))
    return services.task(task_id)


def stop_run(services: Services, task_id: str, run: str, why: str = "") -> RunRow:
    """Stop a run in a person's name; it stays recorded and charged.

    Raises:
        Forbidden: agents use run_training(mode='stop').
        NotNow: the run has ended.
    """
    services.principal.require("clinician", "custodian", what="stop a run")
    services.task(task_id)
    return runs.stop_by_person(services, task_id, run, by=speaker(services.principal), why=_reason(why))


def extend_budget(services: Services, task_id: str, number: int, why: str) -> TaskRow:
    """Grant a task further runs.

    Raises:
        Forbidden: agents may not.
        BadInput: no reason, or a number outside 1 to RUNS_MOST.
        NotNow: the test set has been touched, or is about to be.
    """
    services.principal.require("clinician", "custodian", what="extend a budget")
    services.task(task_id)
    if not 1 <= number <= RUNS_MOST:
        raise BadInput(f"A budget is extended by 1 to {RUNS_MOST} runs, not by {number}.")
    services.store.extend_budget(task_id, number, by=speaker(services.principal), why=_text(why))
    return services.task(task_id)


def level_note(services: Services, task_id: str) -> str:
    """Say that the acceptance rule has spent its level, so that it can accept no further run; empty while it can."""
    task = services.task(task_id)
    spent = sum(
        float(row.detail.get("spends") or 0.0)
        for row in services.store.ledger(f"task:{task_id}")
        if row.event == "settled" and row.detail.get("decision") == "rejected"
    )
    if task.spec.acceptance == "paper" or spent < FAMILY_LEVEL - 1e-9:
        return ""
    return (
        f"The runs so far have used all of the {FAMILY_LEVEL:.0%} that acceptance {task.spec.acceptance!r} may err by, so it can accept none of the "
        "further runs; you can choose one yourself. Extend a budget before its last run."
    )


def speaker(principal: Principal) -> str:
    """Return who speaks, as the ledger, the report and the agent name them: with the role that they speak in."""
    return f"{principal.label} ({'clinician' if principal.may('clinician') else 'custodian'})"


def _reason(text: str) -> str:
    """Return a reason that a person may leave out."""
    return _text(text) if text.strip() else ""


def _text(text: str) -> str:
    """Return a text that a person has to give."""
    if not text.strip() or len(text) > NOTE_CHARACTERS:
        raise BadInput(f"Write 1 to {NOTE_CHARACTERS} characters; they are recorded and the agent reads them.")
    return text.strip()
