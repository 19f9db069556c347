"""Store: every durable fact about tasks and runs, each change in one transaction together with its ledger entry."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any, Literal

from clinloop.errors import BudgetExceeded, NotNow, unknown
from clinloop.spec import PRESETS, TaskSpec, canonical
from clinloop.store import ledger
from clinloop.store.database import Database, utc_now
from clinloop.store.ledger import LedgerRow
from clinloop.store.rows import Mode, RunRow, TaskRow, run_row, task_row

ACTIVE = ("queued", "training", "predicting", "scoring")
REFUNDS_PER_TASK = 3
"""How often a fault of the server gives a run back; bounded, because an agent on the same machine could kill supervisors on purpose."""


class Store:
    """Tasks, runs and ledger of one state folder; threads and processes may share it or make their own."""

    def __init__(self, state: Path) -> None:
        """Open or create the store of a state folder."""
        self._database = Database(state)

    # ledger ------------------------------------------------------------------------------------------------------

    def record(self, scope: str, event: str, detail: dict[str, Any], *, run: str | None = None) -> str:
        """Append an event that touches no budget and return the new head."""
        with self._database.transaction() as connection:
            return ledger.append(connection, scope, event, at=utc_now(), run=run, detail=detail)

    def ledger(self, scope: str) -> list[LedgerRow]:
        """Return the chain of a scope, oldest first."""
        with self._database.connect() as connection:
            return ledger.rows(connection, scope)

    def head(self, scope: str) -> str:
        """Return the newest hash of a scope."""
        with self._database.connect() as connection:
            return ledger.head(connection, scope)

    def balance(self, task_id: str) -> dict[str, int]:
        """Return what a task has left of each resource."""
        with self._database.connect() as connection:
            return ledger.balance(connection, f"task:{task_id}")

    def spend_error_view(self, task_id: str, detail: dict[str, Any]) -> None:
        """Charge one view of validation errors with their labels.

        Raises:
            BudgetExceeded: none is left.
        """
        try:
            with self._database.transaction() as connection:
                ledger.append(
                    connection,
                    f"task:{task_id}",
                    "error_view",
                    at=utc_now(),
                    resource="error_view",
                    amount=-1,
                    detail=detail,
                )
        except sqlite3.IntegrityError as error:
            raise BudgetExceeded(
                "No view of validation errors is left for this task; use the scores, curves and logs."
            ) from error

    # tasks -------------------------------------------------------------------------------------------------------

    def create_task(
        self,
        *,
        task_id: str,
        dataset: str,
        request: str,
        spec: TaskSpec,
        template: str,
        seed: int,
        settings: dict[str, Any],
        init_key: str,
    ) -> tuple[TaskRow, bool]:
        """Freeze a contract, grant its budget and open its chain on the dataset's; an equal init_key returns the task there is."""
        preset = PRESETS[spec.budget]
        scope, at = f"task:{task_id}", utc_now()
        with self._database.transaction() as connection:
            found = connection.execute("SELECT * FROM task WHERE init_key = ?", (init_key,)).fetchone()
            if found:
                return task_row(found), False
            connection.execute(
                "INSERT INTO task (id, dataset, request, spec, template, seed, settings, init_key, status, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'preparing', ?)",
                (
                    task_id,
                    dataset,
                    request,
                    canonical(spec.model_dump(mode="json")),
                    template,
                    seed,
                    canonical(settings),
                    init_key,
                    at,
                ),
            )
            dataset_head = ledger.head(connection, f"dataset:{dataset}")
            contract = {
                "dataset": dataset,
                "dataset_head": dataset_head,
                "request": request,
                "spec_sha256": spec.sha256(),
                "template": template,
                "budget": {"preset": spec.budget, **preset._asdict()},
            }
            ledger.append(connection, scope, "contract", at=at, detail=contract, genesis=dataset_head)
            grants = {
                "run": preset.runs,
                "smoke": preset.smokes,
                "error_view": preset.error_views,
                "refund": REFUNDS_PER_TASK,
            }
            for resource, amount in grants.items():
                ledger.append(connection, scope, "granted", at=at, resource=resource, amount=amount)
            return task_row(connection.execute("SELECT * FROM task WHERE id = ?", (task_id,)).fetchone()), True

    def open_task(self, task_id: str) -> None:
        """Declare a prepared task ready for runs."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE task SET status = 'open' WHERE id = ? AND status = 'preparing'", (task_id,))

    def task(self, task_id: str) -> TaskRow:
        """Return a task.

        Raises:
            Unknown: no such task; the text lists those that exist.
        """
        with self._database.connect() as connection:
            row = connection.execute("SELECT * FROM task WHERE id = ?", (task_id,)).fetchone()
        if row is None:
            raise unknown("task_id", task_id, [task.id for task in self.tasks()], "Call init_task to create one.")
        return task_row(row)

    def tasks(self) -> list[TaskRow]:
        """Return all tasks, newest first."""
        with self._database.connect() as connection:
            return [task_row(row) for row in connection.execute("SELECT * FROM task ORDER BY created_at DESC, id")]

    # runs --------------------------------------------------------------------------------------------------------

    def run(self, task_id: str, name: str) -> RunRow:
        """Return a run.

        Raises:
            Unknown: no such run; the text lists those that exist.
        """
        for row in (known := self.runs(task_id)):
            if row.name == name:
                return row
        raise unknown("run", name, [row.name for row in known], "Start one with run_training.")

    def runs(self, task_id: str) -> list[RunRow]:
        """Return the runs of a task in order of creation."""
        with self._database.connect() as connection:
            return [
                run_row(row)
                for row in connection.execute(
                    "SELECT * FROM run WHERE task_id = ? ORDER BY created_at, rowid", (task_id,)
                )
            ]

    def active_runs(self) -> list[RunRow]:
        """Return the runs of all tasks that have no end yet."""
        with self._database.connect() as connection:
            return [
                run_row(row)
                for row in connection.execute("SELECT * FROM run WHERE ended_at IS NULL ORDER BY created_at")
            ]

    def baseline(self, task_id: str) -> RunRow | None:
        """Return the first full run that got a score."""
        return next((run for run in self.runs(task_id) if run.decision == "accepted"), None)

    def incumbent(self, task_id: str) -> RunRow | None:
        """Return the run that was accepted last."""
        return next((run for run in reversed(self.runs(task_id)) if run.decision == "accepted"), None)

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
    ) -> tuple[RunRow, bool]:
        """Take one unit of budget and queue a run, before anything starts; (run, False) when this start was made before.

        Raises:
            NotNow: the task is not open, or another run of it is active.
            BudgetExceeded: no unit is left.
        """
        resource, at = ("run" if mode == "full" else "smoke"), utc_now()
        try:
            with self._database.transaction() as connection:
                found = connection.execute(
                    "SELECT * FROM run WHERE task_id = ? AND request_id = ?", (task_id, request_id)
                ).fetchone()
                if found:
                    return run_row(found), False
                status = connection.execute("SELECT status FROM task WHERE id = ?", (task_id,)).fetchone()["status"]
                if status != "open":
                    raise NotNow(f"Task {task_id} is {status}, so no run can start; call init_task for a new task.")
                active = connection.execute(
                    "SELECT * FROM run WHERE task_id = ? AND ended_at IS NULL", (task_id,)
                ).fetchone()
                if active:
                    if (active["mode"], active["tree_sha256"]) == (mode, tree_sha256):
                        return run_row(active), False
                    raise NotNow(
                        f"{active['name']} of this task is {active['status']}; wait for it with read_validation, or stop it with "
                        f"run_training(mode='stop', run='{active['name']}')."
                    )
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
                    "INSERT INTO run (task_id, name, number, mode, request_id, revision, tree_sha256, hypothesis, inputs, status, created_at)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'queued', ?)",
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
                        at,
                    ),
                )
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
        with self._database.transaction() as connection:
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
        """End a run exactly once, with its ledger entry; a lost full run is given back while refunds last. False if it had ended."""
        at, scope = utc_now(), f"task:{task_id}"
        with self._database.transaction() as connection:
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
            if status == "lost" and ledger.balance(connection, scope).get("refund", 0) > 0:
                resource = "run" if name.startswith("run") else "smoke"
                ledger.append(connection, scope, "refund_used", at=at, resource="refund", amount=-1, run=name)
                ledger.append(connection, scope, "refunded", at=at, resource=resource, amount=1, run=name)
            return True

    # evaluation --------------------------------------------------------------------------------------------------

    def begin_evaluation(self, task_id: str, run_name: str) -> bool:
        """Close a task for runs and start its evaluation; False when one has started before.

        Raises:
            NotNow: a run is active.
        """
        with self._database.transaction() as connection:
            active = connection.execute(
                "SELECT name FROM run WHERE task_id = ? AND ended_at IS NULL", (task_id,)
            ).fetchone()
            if active:
                raise NotNow(
                    f"{active['name']} is active; wait for it with read_validation, or stop it with run_training(mode='stop'), then finalize."
                )
            changed = connection.execute(
                "UPDATE task SET status = 'evaluating', phase = 'queued', final_run = ? WHERE id = ? AND status = 'open'",
                (run_name, task_id),
            ).rowcount
            if changed:
                ledger.append(connection, f"task:{task_id}", "evaluation_started", at=utc_now(), run=run_name)
            return bool(changed)

    def reopen_task(self, task_id: str, reason: str) -> None:
        """Give a task back to its agent when the evaluation failed before the test set was touched."""
        with self._database.transaction() as connection:
            if connection.execute(
                "UPDATE task SET status = 'open', phase = '', final_run = NULL WHERE id = ? AND status = 'evaluating'",
                (task_id,),
            ).rowcount:
                ledger.append(
                    connection, f"task:{task_id}", "rehearsal_failed", at=utc_now(), detail={"reason": reason}
                )

    def set_phase(self, task_id: str, phase: str) -> None:
        """Say what an evaluation is doing."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE task SET phase = ? WHERE id = ? AND status IN ('evaluating', 'unsealed')", (phase, task_id)
            )

    def unseal(self, task_id: str, detail: dict[str, Any]) -> None:
        """Record durably that the test set is about to be touched; before it is.

        Raises:
            NotNow: it was touched before.
        """
        try:
            with self._database.transaction() as connection:
                ledger.append(connection, f"task:{task_id}", "unsealing", at=utc_now(), detail=detail)
                connection.execute(
                    "UPDATE task SET status = 'unsealed' WHERE id = ? AND status = 'evaluating'", (task_id,)
                )
        except sqlite3.IntegrityError as error:
            raise NotNow(f"The test set of task {task_id} was unsealed before; it is opened once.") from error

    def end_evaluation(
        self, task_id: str, status: Literal["evaluated", "invalid"], result: dict[str, Any], detail: dict[str, Any]
    ) -> None:
        """Reach the terminal state of a task with its result."""
        at = utc_now()
        with self._database.transaction() as connection:
            if connection.execute(
                "UPDATE task SET status = ?, phase = '', result = ?, ended_at = ? WHERE id = ? AND status IN ('evaluating', 'unsealed')",
                (status, json.dumps(result), at, task_id),
            ).rowcount:
                ledger.append(connection, f"task:{task_id}", status, at=at, detail=detail)

    def set_result(self, task_id: str, result: dict[str, Any]) -> None:
        """Replace the stored result of an ended task (the report's location, written after the terminal state)."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE task SET result = ? WHERE id = ? AND status IN ('evaluated', 'invalid')",
                (json.dumps(result), task_id),
            )
