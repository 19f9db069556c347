"""Tasks in the store: a frozen contract with its budget, and the one evaluation that ends it."""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Literal

from clinloop.errors import NotNow, unknown
from clinloop.principal import LOCAL, Principal
from clinloop.spec import PRESETS, TaskSpec, canonical
from clinloop.store import ledger
from clinloop.store.database import Database, utc_now
from clinloop.store.questions import UNFINISHED, begin_evaluation, open_question, why_closed
from clinloop.store.rows import TaskRow, task_row

REFUNDS_PER_TASK = 3
"""How often a fault of the server gives a run back; bounded, because an agent on the same machine could kill supervisors on purpose."""


class Tasks:
    """The part of the store that keeps tasks."""

    _database: Database

    def create_task(
        self,
        *,
        task_id: str,
        dataset: str,
        request: str,
        spec: TaskSpec,
        template: str,
        tier: str = "standard",
        seed: int,
        settings: dict[str, Any],
        init_key: str,
        owner: str = "",
        confirms: bool = False,
    ) -> tuple[TaskRow, bool]:
        """Freeze a contract, grant its budget and open its chain on the dataset's; an equal init_key returns the task there is.

        confirms: the task waits until the clinician has confirmed the contract.
        """
        preset = PRESETS[spec.budget]
        scope, at = f"task:{task_id}", utc_now()
        with self._database.transaction("task:created") as connection:
            found = connection.execute("SELECT * FROM task WHERE init_key = ?", (init_key,)).fetchone()
            if found:
                return task_row(found), False
            connection.execute(
                "INSERT INTO task (id, dataset, request, spec, template, seed, settings, init_key, status, created_at, owner)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    task_id,
                    dataset,
                    request,
                    canonical(spec.model_dump(mode="json")),
                    template,
                    seed,
                    canonical(settings),
                    init_key,
                    "awaiting_confirmation" if confirms else "preparing",
                    at,
                    owner,
                ),
            )
            dataset_head = ledger.head(connection, f"dataset:{dataset}")
            contract = {
                "dataset": dataset,
                "dataset_head": dataset_head,
                "request": request,
                "spec_sha256": spec.sha256(),
                "template": template,
                "tier": tier,
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
            if confirms:
                open_question(connection, task_id, "spec", {"questions": list(spec.open_questions)}, at=at)
            return task_row(connection.execute("SELECT * FROM task WHERE id = ?", (task_id,)).fetchone()), True

    def open_task(self, task_id: str) -> None:
        """Declare a prepared task ready for runs."""
        with self._database.transaction("task:opened") as connection:
            connection.execute("UPDATE task SET status = 'open' WHERE id = ? AND status = 'preparing'", (task_id,))

    def task(self, task_id: str, principal: Principal = LOCAL) -> TaskRow:
        """Return a task.

        Raises:
            Unknown: no such task, or the principal does not see it; the text lists those that it sees.
        """
        with self._database.connect() as connection:
            row = connection.execute("SELECT * FROM task WHERE id = ?", (task_id,)).fetchone()
        if row is None or not principal.sees(row["owner"]):
            known = [task.id for task in self.tasks() if principal.sees(task.owner)]
            raise unknown("task_id", task_id, known, "Call init_task to create one.")
        return task_row(row)

    def task_of_key(self, init_key: str) -> TaskRow | None:
        """Return the task that equal arguments of init_task made; None when there is none."""
        with self._database.connect() as connection:
            row = connection.execute("SELECT * FROM task WHERE init_key = ?", (init_key,)).fetchone()
        return task_row(row) if row else None

    def tasks(self) -> list[TaskRow]:
        """Return all tasks, newest first."""
        with self._database.connect() as connection:
            return [task_row(row) for row in connection.execute("SELECT * FROM task ORDER BY rowid DESC")]

    # evaluation --------------------------------------------------------------------------------------------------

    def begin_evaluation(self, task_id: str, run_name: str) -> bool:
        """Close a task for runs and start its evaluation; False when one has started before.

        Raises:
            NotNow: a run is active, or the clinician has to agree first, which is another transaction (Questions.answer_finalize).
            LedgerBroken: somebody else than the server has changed the task's ledger.
        """
        with self._database.transaction("finalize:started") as connection:
            task = connection.execute("SELECT status, spec FROM task WHERE id = ?", (task_id,)).fetchone()
            if task is None or task["status"] not in UNFINISHED:
                return False
            if task["status"] != "open":
                raise NotNow(why_closed(connection, task_id))
            if TaskSpec.model_validate_json(task["spec"]).confirm_finalize == "required":
                raise NotNow(f"The test set of task {task_id} is opened only after the clinician has agreed.")
            active = connection.execute(
                "SELECT name FROM run WHERE task_id = ? AND ended_at IS NULL", (task_id,)
            ).fetchone()
            if active:
                raise NotNow(
                    f"{active['name']} is active; wait for it with read_validation, or stop it with run_training(mode='stop'), then finalize."
                )
            ledger.require_whole(connection, f"task:{task_id}")
            begin_evaluation(connection, task_id, run_name, at=utc_now())
            return True

    def reopen_task(self, task_id: str, reason: str) -> None:
        """Give a task back to its agent when the evaluation failed before the test set was touched."""
        with self._database.transaction("finalize:reopened") as connection:
            if connection.execute(
                "UPDATE task SET status = 'open', phase = ?, final_run = NULL WHERE id = ? AND status = 'evaluating'",
                (reason, task_id),
            ).rowcount:
                ledger.append(
                    connection, f"task:{task_id}", "rehearsal_failed", at=utc_now(), detail={"reason": reason}
                )

    def set_phase(self, task_id: str, phase: str) -> None:
        """Say what an evaluation is doing."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE task SET phase = ? WHERE id = ? AND status IN ('evaluating', 'awaiting_unseal', 'unsealed')",
                (phase, task_id),
            )

    def await_unseal(self, task_id: str, detail: dict[str, Any]) -> None:
        """Leave a rehearsed evaluation, its frozen models recorded, to whoever holds the key of the test set."""
        with self._database.transaction("finalize:awaiting_unseal") as connection:
            if connection.execute(
                "UPDATE task SET status = 'awaiting_unseal', phase = '' WHERE id = ? AND status = 'evaluating'",
                (task_id,),
            ).rowcount:
                ledger.append(connection, f"task:{task_id}", "frozen", at=utc_now(), detail=detail)

    def unseal(self, task_id: str, detail: dict[str, Any]) -> None:
        """Record durably that the test set is about to be touched; before it is.

        Raises:
            NotNow: it was touched before, or no evaluation of the task is under way.
            LedgerBroken: somebody else than the server has changed the task's ledger.
        """
        try:
            with self._database.transaction("finalize:unsealing") as connection:
                ledger.require_whole(connection, f"task:{task_id}")
                ledger.append(connection, f"task:{task_id}", "unsealing", at=utc_now(), detail=detail)
                if not connection.execute(
                    "UPDATE task SET status = 'unsealed' WHERE id = ? AND status IN ('evaluating', 'awaiting_unseal')",
                    (task_id,),
                ).rowcount:
                    raise NotNow(f"Task {task_id} is not being evaluated, so its test set stays closed.")
        except sqlite3.IntegrityError as error:
            raise NotNow(f"The test set of task {task_id} was unsealed before; it is opened once.") from error

    def end_evaluation(
        self, task_id: str, status: Literal["evaluated", "invalid"], result: dict[str, Any], detail: dict[str, Any]
    ) -> None:
        """Reach the terminal state of a task with its result."""
        at = utc_now()
        with self._database.transaction(f"finalize:{status}") as connection:
            if connection.execute(
                "UPDATE task SET status = ?, phase = '', result = ?, ended_at = ? WHERE id = ? AND status IN ('evaluating', 'unsealed')",
                (status, json.dumps(result), at, task_id),
            ).rowcount:
                ledger.append(connection, f"task:{task_id}", status, at=at, detail=detail)
