"""GPUs in the store: a line in order of arrival, and leases by UUID that end with the run or evaluation that holds them."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import NamedTuple

from clinloop.store.database import Database, utc_now

FINALIZE = "finalize"
"""The holder of the GPUs of a task's evaluation."""


class Place(NamedTuple):
    """Where a run or an evaluation that wants GPUs stands."""

    wanted: int
    uuids: tuple[str, ...]
    """What it holds; empty while it waits."""
    ahead: int
    """How many wait before it."""
    note: str
    """Why the first in line still waits."""

    @property
    def text(self) -> str:
        """What is waited for, in words for the agent."""
        what = f"{self.wanted} GPU{'s' if self.wanted > 1 else ''}"
        where = f"{self.ahead} before it in the line" if self.ahead else "next in the line"
        return f"{what}, {where}{f': {self.note}' if self.note else ''}"


class Gpus:
    """The part of the store that keeps the line and the leases."""

    _database: Database

    def claim_gpus(self, task_id: str, holder: str, wanted: int) -> None:
        """Stand in line for GPUs; who stands there keeps the place."""
        with self._database.transaction() as connection:
            enter_line(connection, task_id, holder, wanted)

    def lease_gpus(self, task_id: str, holder: str, usable: Collection[str]) -> tuple[str, ...]:
        """Take all GPUs that a claim wants, or none: what it holds already, else the first free ones of `usable` when its turn has come.

        Nothing comes back while an earlier claim waits, even if that wants more than is free: strict order of arrival.
        """
        with self._database.transaction("gpu:leased") as connection:
            place = _place(connection, task_id, holder)
            if place is None or place.uuids or place.ahead:
                return place.uuids if place else ()
            leased = {row["uuid"] for row in connection.execute("SELECT uuid FROM gpu_lease WHERE released_at IS NULL")}
            free = [uuid for uuid in usable if uuid not in leased][: place.wanted]
            if len(free) < place.wanted:
                return ()
            at = utc_now()
            connection.executemany(
                "INSERT INTO gpu_lease (uuid, task_id, holder, leased_at) VALUES (?, ?, ?, ?)",
                [(uuid, task_id, holder, at) for uuid in free],
            )
            return tuple(free)

    def release_gpus(self, task_id: str, holder: str) -> None:
        """Leave the line and give back what was held; harmless when there is nothing."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM gpu_claim WHERE task_id = ? AND holder = ?", (task_id, holder))

    def gpu_place(self, task_id: str, holder: str) -> Place | None:
        """Return where a holder stands; None when it wants no GPU (any more)."""
        with self._database.connect() as connection:
            return _place(connection, task_id, holder)

    def note_gpu_wait(self, task_id: str, holder: str, note: str) -> None:
        """Say why a claim waits, for whoever asks."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE gpu_claim SET note = ? WHERE task_id = ? AND holder = ?", (note, task_id, holder)
            )

    def leased_gpus(self) -> dict[str, str]:
        """Return {uuid: "TASK/HOLDER"} of all leases that last."""
        with self._database.connect() as connection:
            found = connection.execute("SELECT uuid, task_id, holder FROM gpu_lease WHERE released_at IS NULL")
            return {row["uuid"]: f"{row['task_id']}/{row['holder']}" for row in found}


def enter_line(connection: sqlite3.Connection, task_id: str, holder: str, wanted: int) -> None:
    """Stand in line inside the caller's transaction; nothing happens for none."""
    if wanted > 0:
        connection.execute(
            "INSERT INTO gpu_claim (task_id, holder, wanted) VALUES (?, ?, ?) ON CONFLICT (task_id, holder) DO NOTHING",
            (task_id, holder, wanted),
        )


def _place(connection: sqlite3.Connection, task_id: str, holder: str) -> Place | None:
    claim = connection.execute("SELECT * FROM gpu_claim WHERE task_id = ? AND holder = ?", (task_id, holder)).fetchone()
    if claim is None:
        return None
    held = connection.execute(
        "SELECT uuid FROM gpu_lease WHERE task_id = ? AND holder = ? AND released_at IS NULL ORDER BY rowid",
        (task_id, holder),
    ).fetchall()
    ahead = connection.execute(
        "SELECT COUNT(*) AS number FROM gpu_claim AS earlier WHERE place < ? AND NOT EXISTS (SELECT 1 FROM gpu_lease WHERE"
        " task_id = earlier.task_id AND holder = earlier.holder AND released_at IS NULL)",
        (claim["place"],),
    ).fetchone()["number"]
    return Place(claim["wanted"], tuple(row["uuid"] for row in held), ahead, claim["note"])
