"""Runs in the store: each takes its unit of budget before anything starts, and ends exactly once."""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Literal

from clinloop.errors import BudgetExceeded, NotNow, unknown
from clinloop.store import ledger
from clinloop.store.database import Database, utc_now
from clinloop.store.questions import why_closed
from clinloop.store.queue import Lane, enter_line
from clinloop.store.rows import Mode, RunRow, run_row

ACTIVE = ("queued", "training", "predicting", "scoring")


class Runs:
    """The part of the store that keeps runs."""

    _database: Database

    def run(self, task_id: str, name: str) -> RunRow:
        """Return a run.

        Raises:
            Unknown: no such run; the text lists those that exist.
        """
        with self._database.connect() as connection:
            found = connection.execute("SELECT * FROM run WHERE task_id = ? AND name = ?", (task_id, name)).fetchone()
        if found is None:
            raise unknown("run", name, [row.name for row in self.runs(task_id)], "Start one with run_training.")
        return run_row(found)

    def runs(self, task_id: str) -> list[RunRow]:
        """Return the runs of a task in order of creation."""
        with self._database.connect() as connection:
            return [
                run_row(row)
                for row in connection.execute("SELECT * FROM run WHERE task_id = ? ORDER BY rowid", (task_id,))
            ]

    def active_runs(self) -> list[RunRow]:
        """Return the runs of all tasks that have no end yet."""
        with self._database.connect() as connection:
            return [
                run_row(row) for row in connection.execute("SELECT * FROM run WHERE ended_at IS NULL ORDER BY rowid")
            ]

    def has_active_run(self, task_id: str) -> bool:
        """Tell whether a run of a task has no end yet."""
        with self._database.connect() as connection:
            found = connection.execute("SELECT 1 FROM run WHERE task_id = ? AND ended_at IS NULL", (task_id,))
            return found.fetchone() is not None

    def baseline(self, task_id: str) -> RunRow | None:
        """Return the first full run that got a score."""
        return next((run for run in self.runs(task_id) if run.decision == "accepted"), None)

    def incumbent(self, task_id: str) -> RunRow | None:
        """Return the run that was accepted last, or that the clinician chose since then."""
        with self._database.connect() as connection:
            row = connection.execute(
                "SELECT run.* FROM run JOIN task ON task.id = task_id WHERE task_id = ?"
                " AND (decision = 'accepted' AND run.created_at > COALESCE(chosen_at, '') OR name = chosen_run)"
                " ORDER BY decision = 'accepted' AND run.created_at > COALESCE(chosen_at, '') DESC, run.rowid DESC LIMIT 1",
                (task_id,),
            ).fetchone()
        return run_row(row) if row else None

    def reserve_run(
        self,
        *,
        task_id: str,
        mode: Mode,
        request_id: str,
        revision: str,
        tree_sha256: str,
        hypothesis: str,
        inputs: list[str],
        gpus: int = 0,
        joins: bool = True,
    ) -> tuple[RunRow, bool]:
        """Take one unit of budget and queue a run, before anything starts; (run, False) when this start was made before.

        joins: an active run of the same code and inputs counts as this start; not for a caller who names its starts, because the name
        would be good for another run once that one has ended.

        Raises:
            Unknown: no such task.
            NotNow: the task is not open, or another run of it is active.
            BudgetExceeded: no unit is left.
            LedgerBroken: somebody else than the server has changed the task's ledger.
        """
        resource, at = ("run" if mode == "full" else "smoke"), utc_now()
        asked = (mode, tree_sha256, json.dumps(inputs), gpus)
        try:
            with self._database.transaction("run:reserved") as connection:
                found = connection.execute(
                    "SELECT * FROM run WHERE task_id = ? AND request_id = ?", (task_id, request_id)
                ).fetchone()
                if found:
                    return run_row(found), False
                task = connection.execute("SELECT status FROM task WHERE id = ?", (task_id,)).fetchone()
                if task is None:
                    known = [row["id"] for row in connection.execute("SELECT id FROM task ORDER BY rowid DESC")]
                    raise unknown("task_id", task_id, known, "Call init_task to create one.")
                if task["status"] != "open":
                    raise NotNow(why_closed(connection, task_id))
                active = connection.execute(
                    "SELECT * FROM run WHERE task_id = ? AND ended_at IS NULL", (task_id,)
                ).fetchone()
                if active:
                    if joins and (active["mode"], active["tree_sha256"], active["inputs"], active["gpus"]) == asked:
                        return run_row(active), False
                    raise NotNow(
                        f"{active['name']} of this task is {active['status']}; wait for it with read_validation, or stop it with "
                        f"run_training(mode='stop', run='{active['name']}')."
                    )
                ledger.require_whole(connection, f"task:{task_id}")
                number = connection.execute(
                    "SELECT COALESCE(MAX(number) + 1, ?) AS next FROM run WHERE task_id = ? AND mode = ?",
                    (int(mode == "smoke"), task_id, mode),
                ).fetchone()["next"]
                name = f"run{number}" if mode == "full" else f"smoke{number}"
                ledger.append(
                    connection,
                    f"task:{task_id}",
                    "reserved",
                    at=at,
                    resource=resource,
                    amount=-1,
                    run=name,
                    detail={
                        "revision": revision,
                        "tree_sha256": tree_sha256,
                        "hypothesis": hypothesis,
                        "inputs": inputs,
                    },
                )
                connection.execute(
                    "INSERT INTO run (task_id, name, number, mode, request_id, revision, tree_sha256, hypothesis, inputs, gpus, status,"
                    " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'queued', ?)",
                    (
                        task_id,
                        name,
                        number,
                        mode,
                        request_id,
                        revision,
                        tree_sha256,
                        hypothesis,
                        json.dumps(inputs),
                        gpus,
                        at,
                    ),
                )
                lane: Lane = "gpu" if gpus else "smoke" if mode == "smoke" else "cpu"
                enter_line(connection, task_id, name, lane, gpus or 1)
                return run_row(
                    connection.execute("SELECT * FROM run WHERE task_id = ? AND name = ?", (task_id, name)).fetchone()
                ), True
        except sqlite3.IntegrityError as error:
            if "budget exceeded" not in str(error):
                raise
            what = "training runs" if mode == "full" else "smoke tests"
            raise BudgetExceeded(
                f"All {what} of task {task_id} are used; read_validation shows what there is, finalize ends the task."
            ) from error

    def advance_run(self, task_id: str, name: str, status: str, **columns: str | float | None) -> None:
        """Move an active run to another active status and set columns (started_at, deadline_unix, sandbox_ref, facts)."""
        allowed = {"started_at", "deadline_unix", "sandbox_ref", "facts"}
        if status not in ACTIVE or set(columns) - allowed:
            raise ValueError(f"cannot set {status} {sorted(columns)}")
        changes = "".join(f", {column} = :{column}" for column in columns)
        with self._database.transaction(f"run:{status}") as connection:
            connection.execute(
                f"UPDATE run SET status = :status{changes} WHERE task_id = :task_id AND name = :name AND ended_at IS NULL",  # noqa: S608 - names are from `allowed`
                {"status": status, "task_id": task_id, "name": name, **columns},
            )

    def request_stop(self, task_id: str, name: str) -> RunRow:
        """Ask the supervisor of a run to stop it; no effect on a run that has ended."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE run SET stop_requested = 1 WHERE task_id = ? AND name = ? AND ended_at IS NULL", (task_id, name)
            )
        return self.run(task_id, name)

    def settle_run(
        self,
        task_id: str,
        name: str,
        status: Literal["succeeded", "failed", "stopped", "lost"],
        *,
        end_reason: str,
        message: str,
        score: float | None = None,
        scores: dict[str, Any] | None = None,
        decision: str = "none",
        reason: str = "",
        reason_text: str = "",
        detail: dict[str, Any] | None = None,
    ) -> bool:
        """End a run exactly once, with its ledger entry; False if it had ended.

        Given back are a lost run, while refunds last, and one that was stopped before it started: that cost nothing.
        """
        at, scope = utc_now(), f"task:{task_id}"
        with self._database.transaction("run:settled") as connection:
            if status == "stopped":
                message = _who_stopped(connection, scope, name) + message
            changed = connection.execute(
                "UPDATE run SET status = ?, end_reason = ?, message = ?, score = ?, scores = ?, decision = ?, reason = ?, reason_text = ?,"
                " ended_at = ? WHERE task_id = ? AND name = ? AND ended_at IS NULL",
                (
                    status,
                    end_reason,
                    message,
                    score,
                    json.dumps(scores) if scores else None,
                    decision,
                    reason,
                    reason_text,
                    at,
                    task_id,
                    name,
                ),
            ).rowcount
            if not changed:
                return False
            facts = {
                "status": status,
                "end_reason": end_reason,
                "score": score,
                "decision": decision,
                "reason": reason,
                **(detail or {}),
            }
            ledger.append(connection, scope, "settled", at=at, run=name, detail=facts)
            resource = "run" if name.startswith("run") else "smoke"
            started_at = connection.execute(
                "SELECT started_at FROM run WHERE task_id = ? AND name = ?", (task_id, name)
            ).fetchone()["started_at"]
            is_lost = status == "lost" and ledger.balance(connection, scope).get("refund", 0) > 0
            if is_lost:
                ledger.append(connection, scope, "refund_used", at=at, resource="refund", amount=-1, run=name)
            if is_lost or (status == "stopped" and started_at is None):
                ledger.append(connection, scope, "refunded", at=at, resource=resource, amount=1, run=name)
            return True


def _who_stopped(connection: sqlite3.Connection, scope: str, run: str) -> str:
    """Say which person stopped a run and why; empty when its agent did."""
    row = connection.execute(
        "SELECT detail FROM ledger WHERE scope = ? AND run = ? AND event = 'stopped_by_person'", (scope, run)
    ).fetchone()
    if row is None:
        return ""
    detail = json.loads(row["detail"])
    return f"{detail['by']} stopped it{': ' + detail['why'] if detail['why'] else '.'} "
