"""Store: every durable fact about tasks and runs, each change in one transaction together with its ledger entry."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from clinloop.errors import BudgetExceeded
from clinloop.guarantee import Level, lowest
from clinloop.signing import fingerprint
from clinloop.store import ledger
from clinloop.store.database import Database, utc_now
from clinloop.store.gpus import Gpus
from clinloop.store.ledger import LedgerRow
from clinloop.store.questions import Questions
from clinloop.store.runs import Runs
from clinloop.store.tasks import Tasks
from clinloop.store.tokens import Tokens


class Store(Tasks, Runs, Gpus, Questions, Tokens):
    """Tasks, runs and ledger of one state folder; threads and processes may share it or make their own."""

    def __init__(self, state: Path) -> None:
        """Open or create the store of a state folder."""
        self._database = Database(state)

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

    @property
    def public_key(self) -> str:
        """Key that signs the ledger of this state folder; made when it is missing."""
        return self._database.signer.public_key

    @property
    def key_fingerprint(self) -> str:
        """Fingerprint of that key: what a person notes."""
        return fingerprint(self.public_key)

    def recorded_level(self, task_id: str) -> Level:
        """Return the lowest guarantee level that was recorded while a task was worked on."""
        return lowest(row.detail["level"] for row in self.ledger(f"task:{task_id}") if row.event == "guarantee")

    def balance(self, task_id: str) -> dict[str, int]:
        """Return what a task has left of each resource."""
        with self._database.connect() as connection:
            return ledger.balance(connection, f"task:{task_id}")

    def granted_runs(self, task_id: str) -> int:
        """Return how many charged runs a task was granted, extensions included."""
        with self._database.connect() as connection:
            row = connection.execute(
                "SELECT COALESCE(SUM(amount), 0) AS granted FROM ledger WHERE scope = ? AND event = 'granted' AND resource = 'run'",
                (f"task:{task_id}",),
            ).fetchone()
        return row["granted"]

    def spend_error_view(self, task_id: str, detail: dict[str, Any]) -> None:
        """Charge one view of validation errors with their labels.

        Raises:
            BudgetExceeded: none is left.
            LedgerBroken: somebody else than the server has changed the task's ledger.
        """
        try:
            with self._database.transaction() as connection:
                ledger.require_whole(connection, f"task:{task_id}")
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
