"""What people say about a task: questions that it waits for, notes to its agent, pauses, a larger budget; each with its ledger entry."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from clinloop.errors import NotNow
from clinloop.spec import TaskSpec, canonical
from clinloop.store import ledger
from clinloop.store.database import Connection, Database, utc_now
from clinloop.store.rows import NoteRow, QuestionKind, QuestionRow, question_row


class Questions:
    """The part of the store that keeps what people say."""

    _database: Database

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
        with self._database.transaction("task:confirmed") as connection:
            self._answer(connection, task_id, "spec", by=by, answer=answer, at=at, status="preparing")
            connection.execute(
                "UPDATE task SET spec = ? WHERE id = ?", (canonical(spec.model_dump(mode="json")), task_id)
            )
            first = next(row for row in ledger.rows(connection, f"task:{task_id}") if row.event == "contract")
            kept = {key: value for key, value in first.detail.items() if key != "signer"}
            detail = {**kept, "spec_sha256": spec.sha256(), "confirmed_by": by, "replaces": first.detail["spec_sha256"]}
            ledger.append(connection, f"task:{task_id}", "contract", at=at, detail=detail)

    def decline_spec(self, task_id: str, *, by: str, why: str) -> None:
        """End a task whose contract the clinician does not want.

        Raises:
            NotNow: the task does not wait for that.
        """
        at, answer = utc_now(), {"confirmed": False, "why": why}
        with self._database.transaction("task:declined") as connection:
            self._answer(connection, task_id, "spec", by=by, answer=answer, at=at, status="declined")
            connection.execute("UPDATE task SET ended_at = ? WHERE id = ?", (at, task_id))
            ledger.append(connection, f"task:{task_id}", "declined", at=at, detail={"by": by, "why": why})

    def ask_finalize(self, task_id: str, run: str) -> bool:
        """Let an open task wait for the clinician's yes to opening the test set; False when it waits already.

        Raises:
            NotNow: the task is neither open nor waiting for that, or a run is active.
        """
        return self._ask(task_id, "finalize", {"run": run}, status="awaiting_confirmation")

    def answer_finalize(self, task_id: str, *, by: str, approved: bool, why: str) -> None:
        """Open a task again, with the clinician's yes or no to opening the test set.

        Raises:
            NotNow: the task does not wait for that.
        """
        at, answer = utc_now(), {"approved": approved, "why": why}
        with self._database.transaction("finalize:answered") as connection:
            asked = self._answer(connection, task_id, "finalize", by=by, answer=answer, at=at, status="open")
            ledger.append(
                connection,
                f"task:{task_id}",
                "finalize_approved" if approved else "finalize_declined",
                at=at,
                run=asked["run"],
                detail={"by": by, "why": why},
            )

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
        with self._database.transaction("task:chosen") as connection:
            status = _status(connection, task_id)
            if status == "awaiting_choice":
                answer = {"run": run, "why": why}
                self._answer(connection, task_id, "tradeoff", by=by, answer=answer, at=at, status="open")
            elif status not in ("open", "paused"):
                raise NotNow(f"Task {task_id} is {status}; a run can be chosen while it is open.")
            connection.execute("UPDATE task SET chosen_run = ?, chosen_at = ? WHERE id = ?", (run, at, task_id))
            ledger.append(
                connection, f"task:{task_id}", "chosen", at=at, run=run, detail={"by": by, "why": why, **(given or {})}
            )

    def set_paused(self, task_id: str, paused: bool, *, by: str, why: str) -> None:
        """Let no run of an open task start, or let them start again; a run that is active goes on.

        Raises:
            NotNow: the task is in another state.
        """
        at, (before, after) = utc_now(), ("open", "paused") if paused else ("paused", "open")
        with self._database.transaction("task:paused") as connection:
            if _status(connection, task_id) == after:
                return
            changed = connection.execute(
                "UPDATE task SET status = ? WHERE id = ? AND status = ?", (after, task_id, before)
            ).rowcount
            if not changed:
                raise NotNow(f"Task {task_id} is {_status(connection, task_id)}, not {before}.")
            event = "paused" if paused else "resumed_by_person"
            ledger.append(connection, f"task:{task_id}", event, at=at, detail={"by": by, "why": why})

    def extend_budget(self, task_id: str, runs: int, *, by: str, why: str) -> None:
        """Grant further runs.

        Raises:
            NotNow: the test set has been touched, or is about to be.
        """
        at = utc_now()
        with self._database.transaction("task:extended") as connection:
            status = _status(connection, task_id)
            if status not in ("awaiting_confirmation", "preparing", "open", "paused", "awaiting_choice"):
                raise NotNow(f"Task {task_id} is {status}; a budget is extended before finalize.")
            detail = {"by": by, "why": why, "extension": True}
            scope = f"task:{task_id}"
            ledger.append(connection, scope, "granted", at=at, resource="run", amount=runs, detail=detail)

    def add_note(self, task_id: str, text: str, *, author: str) -> NoteRow:
        """Write a note to the agent; the ledger keeps it."""
        at = utc_now()
        with self._database.transaction("task:note") as connection:
            number = connection.execute(
                "SELECT COALESCE(MAX(number), 0) + 1 AS next FROM note WHERE task_id = ?", (task_id,)
            ).fetchone()["next"]
            row = NoteRow(task_id, number, author, text, at, None)
            connection.execute(
                "INSERT INTO note (task_id, number, author, text, written_at) VALUES (?, ?, ?, ?, ?)",
                (task_id, number, author, text, at),
            )
            ledger.append(connection, f"task:{task_id}", "note", at=at, detail={"by": author, "text": text})
            return row

    def notes(self, task_id: str) -> list[NoteRow]:
        """Return the notes of a task, oldest first."""
        with self._database.connect() as connection:
            found = connection.execute("SELECT * FROM note WHERE task_id = ? ORDER BY number", (task_id,))
            return [NoteRow(**dict(row)) for row in found]

    def take_notes(self, task_id: str) -> list[NoteRow]:
        """Return the notes that no reply has carried yet, and mark them as delivered."""
        if all(note.delivered_at for note in self.notes(task_id)):
            return []
        with self._database.transaction() as connection:
            found = connection.execute(
                "SELECT * FROM note WHERE task_id = ? AND delivered_at IS NULL ORDER BY number", (task_id,)
            ).fetchall()
            connection.execute(
                "UPDATE note SET delivered_at = ? WHERE task_id = ? AND delivered_at IS NULL", (utc_now(), task_id)
            )
            return [NoteRow(**dict(row)) for row in found]

    def _ask(self, task_id: str, kind: QuestionKind, asked: dict[str, Any], *, status: str) -> bool:
        at = utc_now()
        with self._database.transaction("task:asked") as connection:
            found = connection.execute(
                "SELECT kind FROM question WHERE task_id = ? AND answered_at IS NULL", (task_id,)
            ).fetchone()
            if found is not None and found["kind"] == kind:
                return False
            if (now := _status(connection, task_id)) != "open":
                raise NotNow(f"Task {task_id} is {now}; it has to be open for that.")
            active = connection.execute(
                "SELECT name FROM run WHERE task_id = ? AND ended_at IS NULL", (task_id,)
            ).fetchone()
            if active is not None:
                raise NotNow(f"{active['name']} is active; wait for it with read_validation first.")
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
