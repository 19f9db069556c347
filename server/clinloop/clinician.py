"""What the clinician, and in part the custodian, may do to a task: confirm, choose, approve, steer. Every act is in the ledger with who did it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clinloop import evaluation, runs, tasks
from clinloop.datasets.dataset import Dataset
from clinloop.errors import BadInput
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
        BadInput: a changed field does not fit the data (all problems at once), or an answer to a question that was not asked.
        NotNow: the task does not wait for that.
    """
    services.principal.require("clinician", what="confirm a contract")
    task = services.task(task_id)
    given = {question: text.strip() for question, text in (answers or {}).items() if text.strip()}
    if wrong := [question for question in given if question not in task.spec.open_questions]:
        raise BadInput(f"answers: {wrong} were not asked; open questions: {list(task.spec.open_questions)}.")
    values = {
        **task.spec.model_dump(mode="json"),
        **(changes or {}),
        "answers": [Answer(question=question, answer=text).model_dump() for question, text in given.items()],
        "open_questions": [question for question in task.spec.open_questions if question not in given],
    }
    dataset = Dataset.load(services.settings.state, task.dataset)
    spec = freeze(TaskSpec.model_validate(values), tasks.spec_facts(dataset, is_confirmed=True))
    changed = sorted(name for name in changes or {} if getattr(spec, name) != getattr(task.spec, name))
    answer = {"confirmed": True, "answers": given, "changed": changed}
    services.store.confirm_spec(task_id, spec, by=services.principal.label, answer=answer)
    return tasks.prepare(services, task_id)


def decline_spec(services: Services, task_id: str, why: str) -> TaskRow:
    """End a task whose contract is not what the clinician wants; nothing was run.

    Raises:
        Forbidden, NotNow: as for confirm_spec.
        BadInput: no reason.
    """
    services.principal.require("clinician", what="decline a contract")
    services.task(task_id)
    services.store.decline_spec(task_id, by=services.principal.label, why=_text(why))
    return services.task(task_id)


def answer_finalize(services: Services, task_id: str, *, approved: bool, why: str = "") -> TaskRow:
    """Say yes or no to opening the test set; a yes starts the evaluation, a no gives the task back to its agent with the reason.

    Raises:
        Forbidden: only a clinician decides that.
        NotNow: the task does not wait for that.
        BadInput: a no without a reason.
    """
    services.principal.require("clinician", what="decide whether the test set is opened")
    task = services.task(task_id)
    asked = services.store.open_question(task_id)
    reason = why.strip() if approved else _text(why)
    services.store.answer_finalize(task_id, by=services.principal.label, approved=approved, why=reason)
    if approved and asked is not None:
        evaluation.start(services, task.id, str(asked.asked["run"]))
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
    services.store.choose_run(task_id, run, by=services.principal.label, why=why.strip(), given=given)
    return services.task(task_id)


def write_note(services: Services, task_id: str, text: str) -> TaskRow:
    """Tell the agent something; its next reply carries it as the words of who wrote it.

    Raises:
        Forbidden: agents write none.
        BadInput: no text, or more than NOTE_CHARACTERS.
    """
    services.principal.require("clinician", "custodian", what="write a note")
    services.task(task_id)
    services.store.add_note(task_id, _text(text), author=services.principal.label)
    return services.task(task_id)


def set_paused(services: Services, task_id: str, paused: bool, why: str = "") -> TaskRow:
    """Let no run of a task start, or let them start again; a run that is active goes on.

    Raises:
        Forbidden: agents may not.
        NotNow: the task is neither open nor paused.
    """
    services.principal.require("clinician", "custodian", what="pause a task")
    services.task(task_id)
    services.store.set_paused(task_id, paused, by=services.principal.label, why=why.strip())
    return services.task(task_id)


def stop_run(services: Services, task_id: str, run: str, why: str = "") -> RunRow:
    """Stop a run in a person's name; it stays recorded and charged.

    Raises:
        Forbidden: agents use run_training(mode='stop').
        NotNow: the run has ended.
    """
    services.principal.require("clinician", "custodian", what="stop a run")
    services.task(task_id)
    stopped = runs.stop(services, task_id, run)
    detail = {"by": services.principal.label, "why": why.strip()}
    services.store.record(f"task:{task_id}", "stopped_by_person", detail, run=run)
    return stopped


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
    services.store.extend_budget(task_id, number, by=services.principal.label, why=_text(why))
    return services.task(task_id)


def _text(text: str) -> str:
    """Return a text that a person has to give."""
    if not text.strip() or len(text) > NOTE_CHARACTERS:
        raise BadInput(f"Write 1 to {NOTE_CHARACTERS} characters; they are recorded and the agent reads them.")
    return text.strip()
