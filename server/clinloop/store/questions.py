"""What people say about a task: questions that it waits for, notes to its agent, pauses, a larger budget; each with its ledger entry."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from clinloop.errors import NotNow
from clinloop.spec import PRESETS, TaskSpec, canonical
from clinloop.store import ledger
from clinloop.store.database import Connection, utc_now
from clinloop.store.notes import Notes, tell
from clinloop.store.rows import QuestionKind, QuestionRow, question_row

UNFINISHED = ("awaiting_confirmation", "preparing", "open", "paused", "awaiting_choice")
"""States of a task before its evaluation."""
_NOTE_CAP = 2000


class Questions(Notes):
    """The part of the store that keeps what people say."""

    def questions(self, task_id: str) -> list[QuestionRow]:
        """Return the questions of a task, oldest first."""
        with self._database.connect() as connection:
            found = connection.execute("SELECT * FROM question WHERE task_id = ? ORDER BY number", (task_id,))
            return [question_row(row) for row in found]

    def open_question(self, task_id: str) -> QuestionRow | None:
        """Return what a task waits for; None when it waits for nobody."""
        return next((question for question in self.questions(task_id) if question.answer is None), None)

    def confirm_spec(self, task_id: str, spec: TaskSpec, *, by: str, answer: dict[str, Any]) -> None:
        """Make a confirmed, perhaps edited, spec the contract; its ledger entry repeats the first one's facts.

        Raises:
            NotNow: the task does not wait for that.
        """
        at = utc_now()
        scope, preset = f"task:{task_id}", PRESETS[spec.budget]
        with self._database.transaction("clinician:confirmed") as connection:
            self._answer(connection, task_id, "spec", by=by, answer=answer, at=at, status="preparing")
            ledger.require_whole(connection, scope)
            connection.execute(
                "UPDATE task SET spec = ? WHERE id = ?", (canonical(spec.model_dump(mode="json")), task_id)
            )
            first = next(row for row in ledger.rows(connection, scope) if row.event == "contract")
            kept = {key: value for key, value in first.detail.items() if key != "signer"}
            detail = {
                **kept,
                "spec_sha256": spec.sha256(),
                "budget": {"preset": spec.budget, **preset._asdict()},
                "confirmed_by": by,
                "changed": answer["changed"],
                "replaces": first.detail["spec_sha256"],
            }
            ledger.append(connection, scope, "contract", at=at, detail=detail)
            before = PRESETS[first.detail["budget"]["preset"]]
            for resource, more in (
                ("run", preset.runs - before.runs),
                ("smoke", preset.smokes - before.smokes),
                ("error_view", preset.error_views - before.error_views),
            ):
                if more:
                    ledger.append(
                        connection, scope, "granted", at=at, resource=resource, amount=more, detail={"by": by}
                    )
            tell(connection, task_id, by, _confirmation(answer), at=at)

    def decline_spec(self, task_id: str, *, by: str, why: str) -> None:
        """End a task whose contract the clinician does not want.

        Raises:
            NotNow: the task does not wait for that.
        """
        at, answer = utc_now(), {"confirmed": False, "why": why}
        with self._database.transaction("clinician:declined") as connection:
            self._answer(connection, task_id, "spec", by=by, answer=answer, at=at, status="declined")
            connection.execute("UPDATE task SET ended_at = ? WHERE id = ?", (at, task_id))
            ledger.append(connection, f"task:{task_id}", "declined", at=at, detail={"by": by, "why": why})
            tell(connection, task_id, by, f"has declined the contract: {why}", at=at)

    def ask_finalize(self, task_id: str, run: str) -> bool:
        """Let an open task wait for the clinician's yes to opening the test set; False when it waits already, or has been answered.

        Raises:
            NotNow: the task is neither open nor waiting for that, a run is active, or `run` is not the incumbent any more.
        """
        return self._ask(task_id, "finalize", {"run": run}, status="awaiting_confirmation")

    def answer_finalize(self, task_id: str, *, by: str, approved: bool, why: str) -> None:
        """Begin the evaluation of the very run that was asked about, or open the task again.

        A yes and the start are one transaction: it cannot be kept for another run.

        Raises:
            NotNow: the task does not wait for that.
            LedgerBroken: somebody else than the server has changed the task's ledger.
        """
        at, answer, scope = utc_now(), {"approved": approved, "why": why}, f"task:{task_id}"
        status, event = ("evaluating", "finalize_approved") if approved else ("open", "finalize_declined")
        with self._database.transaction("clinician:approved" if approved else "clinician:refused") as connection:
            run = self._answer(connection, task_id, "finalize", by=by, answer=answer, at=at, status=status)["run"]
            detail = {"by": by, "why": why}
            if approved:
                ledger.require_whole(connection, scope)
                if incumbent_name(connection, task_id) != run:
                    raise NotNow(f"{run} is not the incumbent of task {task_id} any more; decline, and finalize again.")
                ledger.append(connection, scope, event, at=at, run=run, detail=detail)
                begin_evaluation(connection, task_id, run, at=at)
            else:
                ledger.append(connection, scope, event, at=at, run=run, detail=detail)
            said = "has agreed to open the test set" if approved else "does not want the test set opened yet"
            tell(connection, task_id, by, f"{said} for {run}{_because(why)}", at=at)

    def ask_choice(self, task_id: str, asked: dict[str, Any]) -> bool:
        """Let an open task wait for the clinician to choose among runs; False when it waits already.

        Raises:
            NotNow: the task is neither open nor waiting for that, or a run is active.
        """
        return self._ask(task_id, "tradeoff", asked, status="awaiting_choice")

    def choose_run(self, task_id: str, run: str, *, by: str, why: str, given: dict[str, Any] | None = None) -> None:
        """Make a run the incumbent because the clinician wants it; a task that waited for that is open again.

        given: what the choice gave and took, for the ledger.

        Raises:
            NotNow: the task is neither open, paused nor waiting for a choice.
        """
        at = utc_now()
        with self._database.transaction("clinician:chosen") as connection:
            status = _status(connection, task_id)
            if status == "awaiting_choice":
                answer = {"run": run, "why": why}
                self._answer(connection, task_id, "tradeoff", by=by, answer=answer, at=at, status="open")
            elif status not in ("open", "paused"):
                raise NotNow(f"Task {task_id} is {status}; a run can be chosen while it is open.")
            connection.execute("UPDATE task SET chosen_run = ?, chosen_at = ? WHERE id = ?", (run, at, task_id))
            detail = {"by": by, "why": why, **(given or {})}
            ledger.append(connection, f"task:{task_id}", "chosen", at=at, run=run, detail=detail)
            tell(connection, task_id, by, f"has made {run} the incumbent{_because(why)}", at=at)

    def set_paused(self, task_id: str, paused: bool, *, by: str, why: str) -> None:
        """Let no run of an open task start, or let them start again; a run that is active goes on.

        Raises:
            NotNow: the task is in another state.
        """
        at, (before, after) = utc_now(), ("open", "paused") if paused else ("paused", "open")
        with self._database.transaction("clinician:paused" if paused else "clinician:resumed") as connection:
            if _status(connection, task_id) == after:
                return
            changed = connection.execute(
                "UPDATE task SET status = ? WHERE id = ? AND status = ?", (after, task_id, before)
            ).rowcount
            if not changed:
                raise NotNow(f"Task {task_id} is {_status(connection, task_id)}, not {before}.")
            event = "paused" if paused else "resumed_by_person"
            ledger.append(connection, f"task:{task_id}", event, at=at, detail={"by": by, "why": why})
            said = "has paused the task, so no run can start" if paused else "lets the task go on"
            tell(connection, task_id, by, f"{said}{_because(why)}", at=at)

    def stop_by_person(self, task_id: str, run: str, *, by: str, why: str) -> None:
        """Ask the supervisor of a run to stop it, in a person's name; asked once.

        Raises:
            NotNow: the run has ended, or is being stopped.
        """
        at = utc_now()
        with self._database.transaction("clinician:stopped") as connection:
            changed = connection.execute(
                "UPDATE run SET stop_requested = 1 WHERE task_id = ? AND name = ? AND ended_at IS NULL AND stop_requested = 0",
                (task_id, run),
            ).rowcount
            if not changed:
                raise NotNow(f"{run} has ended or is being stopped already.")
            detail = {"by": by, "why": why}
            ledger.append(connection, f"task:{task_id}", "stopped_by_person", at=at, run=run, detail=detail)
            tell(connection, task_id, by, f"has stopped {run}{_because(why)}", at=at)

    def extend_budget(self, task_id: str, runs: int, *, by: str, why: str) -> None:
        """Grant further runs.

        Raises:
            NotNow: the test set has been touched, or is about to be.
        """
        at = utc_now()
        with self._database.transaction("clinician:extended") as connection:
            status = _status(connection, task_id)
            if status not in UNFINISHED:
                raise NotNow(f"Task {task_id} is {status}; a budget is extended before finalize.")
            detail = {"by": by, "why": why, "extension": True}
            scope = f"task:{task_id}"
            ledger.append(connection, scope, "granted", at=at, resource="run", amount=runs, detail=detail)
            tell(connection, task_id, by, f"has extended the budget by {runs} run{'s' * (runs > 1)}: {why}", at=at)

    def require_open(self, task_id: str) -> None:
        """Refuse where no run can start and nothing be finalized.

        Raises:
            NotNow: says what the task waits for, or who has closed it and why.
        """
        with self._database.connect() as connection:
            if _status(connection, task_id) != "open":
                raise NotNow(why_closed(connection, task_id))

    def why_closed(self, task_id: str) -> str:
        """Say why no run of a task that is not open can start, and what to do."""
        with self._database.connect() as connection:
            return why_closed(connection, task_id)

    def waits_for_person(self, task_id: str) -> str:
        """Say what a task waits for a person to do; empty when it waits for nobody."""
        with self._database.connect() as connection:
            return _waits_for(connection, task_id)

    def _ask(self, task_id: str, kind: QuestionKind, asked: dict[str, Any], *, status: str) -> bool:
        at = utc_now()
        with self._database.transaction("clinician:asked") as connection:
            found = connection.execute(
                "SELECT kind FROM question WHERE task_id = ? AND answered_at IS NULL", (task_id,)
            ).fetchone()
            if found is not None and found["kind"] == kind:
                return False
            if (now := _status(connection, task_id)) != "open":
                if kind == "finalize" and now not in UNFINISHED:
                    return False
                raise NotNow(why_closed(connection, task_id))
            active = connection.execute(
                "SELECT name FROM run WHERE task_id = ? AND ended_at IS NULL", (task_id,)
            ).fetchone()
            if active is not None:
                raise NotNow(f"{active['name']} is active; wait for it with read_validation first.")
            if kind == "finalize" and incumbent_name(connection, task_id) != asked["run"]:
                raise NotNow(
                    f"{asked['run']} is not the incumbent of task {task_id} any more; read_validation names it."
                )
            open_question(connection, task_id, kind, asked, at=at)
            connection.execute("UPDATE task SET status = ? WHERE id = ?", (status, task_id))
            return True

    @staticmethod
    def _answer(
        connection: Connection,
        task_id: str,
        kind: QuestionKind,
        *,
        by: str,
        answer: dict[str, Any],
        at: str,
        status: str,
    ) -> dict[str, Any]:
        """Answer the open question of a kind and set the task's state; returns what was asked."""
        row = connection.execute(
            "SELECT * FROM question WHERE task_id = ? AND kind = ? AND answered_at IS NULL", (task_id, kind)
        ).fetchone()
        if row is None:
            raise NotNow(f"Task {task_id} is {_status(connection, task_id)}; it does not wait for that answer.")
        connection.execute(
            "UPDATE question SET answer = ?, answered_by = ?, answered_at = ? WHERE task_id = ? AND number = ?",
            (canonical(answer), by, at, task_id, row["number"]),
        )
        connection.execute("UPDATE task SET status = ? WHERE id = ?", (status, task_id))
        return json.loads(row["asked"])


def open_question(connection: Connection, task_id: str, kind: QuestionKind, asked: dict[str, Any], *, at: str) -> None:
    """Write down, inside the caller's transaction, what a task waits for."""
    number = connection.execute(
        "SELECT COALESCE(MAX(number), 0) + 1 AS next FROM question WHERE task_id = ?", (task_id,)
    ).fetchone()["next"]
    connection.execute(
        "INSERT INTO question (task_id, number, kind, asked, asked_at) VALUES (?, ?, ?, ?, ?)",
        (task_id, number, kind, canonical(asked), at),
    )
    ledger.append(connection, f"task:{task_id}", "asked", at=at, detail={"kind": kind, **asked})


def _status(connection: sqlite3.Connection, task_id: str) -> str:
    row = connection.execute("SELECT status FROM task WHERE id = ?", (task_id,)).fetchone()
    return row["status"] if row else "unknown"


def begin_evaluation(connection: Connection, task_id: str, run: str, *, at: str) -> None:
    """Freeze, inside the caller's transaction, which run is evaluated."""
    connection.execute(
        "UPDATE task SET status = 'evaluating', phase = 'queued', final_run = ? WHERE id = ?", (run, task_id)
    )
    ledger.append(connection, f"task:{task_id}", "evaluation_started", at=at, run=run)


def incumbent_name(connection: sqlite3.Connection, task_id: str) -> str | None:
    """Return the name of the run that was accepted last, or that the clinician chose since then."""
    task = connection.execute("SELECT chosen_run, chosen_at FROM task WHERE id = ?", (task_id,)).fetchone()
    chosen, since = (task["chosen_run"], task["chosen_at"] or "") if task else (None, "")
    accepted = connection.execute(
        "SELECT name FROM run WHERE task_id = ? AND decision = 'accepted' AND created_at > ? ORDER BY rowid DESC",
        (task_id, since),
    ).fetchone()
    return accepted["name"] if accepted else chosen


def why_closed(connection: sqlite3.Connection, task_id: str) -> str:
    """Say why no run of a task can start and nothing be finalized, and what to do."""
    if waits := _waits_for(connection, task_id):
        return f"{waits} Nothing can be run or finalized before; read_validation(task_id='{task_id}') waits for it."
    status = _status(connection, task_id)
    if status == "declined":
        last = _last(connection, task_id, "declined")
        return (
            f"{last.get('by')} has declined the contract of task {task_id}: {last.get('why')} Tell whoever asked you, and call init_task with a "
            "contract that meets this."
        )
    if status == "preparing":
        return f"Task {task_id} is preparing its workspace; call read_validation(task_id='{task_id}') first."
    return f"Task {task_id} is {status}, so no run can start; call init_task for a new task."


def _waits_for(connection: sqlite3.Connection, task_id: str) -> str:
    status = _status(connection, task_id)
    if status == "paused":
        last = _last(connection, task_id, "paused")
        return f"{last.get('by')} has paused task {task_id}{_because(str(last.get('why', '')))}"
    if status not in ("awaiting_confirmation", "awaiting_choice"):
        return ""
    asked = connection.execute(
        "SELECT kind, asked FROM question WHERE task_id = ? AND answered_at IS NULL", (task_id,)
    ).fetchone()
    match asked["kind"] if asked else "":
        case "finalize":
            return f"Task {task_id} waits for the clinician's yes to opening the test set for {json.loads(asked['asked'])['run']}."
        case "tradeoff":
            return f"Task {task_id} waits for the clinician to choose among its runs."
        case _:
            return f"Task {task_id} waits for the clinician to confirm its contract."


def _last(connection: sqlite3.Connection, task_id: str, event: str) -> dict[str, Any]:
    row = connection.execute(
        "SELECT detail FROM ledger WHERE scope = ? AND event = ? ORDER BY seq DESC", (f"task:{task_id}", event)
    ).fetchone()
    return json.loads(row["detail"]) if row else {}


def _confirmation(answer: dict[str, Any]) -> str:
    """Say what a confirmation answered and changed."""
    changed = ", ".join(answer["changed"])
    text = f"has confirmed the contract{f', with changed fields: {changed}' if changed else ', unchanged'}."
    text += "".join(f" Question: {question} Answer: {given}" for question, given in answer["answers"].items())
    return text if len(text) <= _NOTE_CAP else f"{text[: _NOTE_CAP - 40]}… (whole in view 'spec')"


def _because(why: str) -> str:
    return f": {why}" if why else "."
