"""The line in the store for GPUs and CPU slots, and leases that end with the run or evaluation that holds them."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, NamedTuple

from clinloop.store.database import Database, utc_now
from clinloop.store.turns import Waiting, in_turn, is_served

Lane = Literal["gpu", "cpu", "smoke"]
LANES: tuple[Lane, ...] = ("gpu", "cpu", "smoke")
FINALIZE = "finalize"
"""The holder of the GPUs of a task's evaluation."""
_SLOTS = {"cpu": "CPU slot", "smoke": "smoke-test slot"}


class Place(NamedTuple):
    """Where a run or an evaluation that wants units stands."""

    lane: Lane
    wanted: int
    units: tuple[str, ...]
    """What it holds; empty while it waits."""
    ahead: int
    """How many are served before it."""
    note: str
    """Why the first in line still waits."""

    @property
    def text(self) -> str:
        """What is waited for, in words for the agent."""
        what = f"{self.wanted} GPU{'s' if self.wanted > 1 else ''}" if self.lane == "gpu" else _SLOTS[self.lane]
        where = f"{self.ahead} before it in the line" if self.ahead else "next in the line"
        return f"{what}, {where}{f': {self.note}' if self.note else ''}"


@dataclass(frozen=True)
class InLine:
    """One run or evaluation that has units or waits for some."""

    lane: Lane
    task: str
    holder: str
    """A run's name, or "finalize"."""
    owner: str
    """Of the task; empty for clients without a token."""
    wanted: int
    place: int
    """0 = it has its units, 1 = it is served next."""
    since: str
    """When it came (UTC)."""
    leased_at: str | None
    """When it got its units."""
    units: tuple[str, ...]
    deadline_unix: float | None
    """When its training ends at the latest, while it trains; predicting and scoring follow."""
    note: str
    """Why the first in line still waits."""


class Queue:
    """The part of the store that keeps the line and the leases."""

    _database: Database

    def claim_units(self, task_id: str, holder: str, lane: Lane, wanted: int) -> None:
        """Stand in line; who stands there keeps the place, and who wants nothing stands in none."""
        with self._database.transaction() as connection:
            enter_line(connection, task_id, holder, lane, wanted)

    def lease_units(self, task_id: str, holder: str, usable: Collection[str]) -> tuple[str, ...]:
        """Take all units that a claim wants, or none: what it holds already, else the first free ones of `usable` when its turn has come.

        Nothing comes back unless all that are before it in the line find enough, too.
        """
        with self._database.transaction("queue:leased") as connection:
            claim = _claim(connection, task_id, holder)
            if claim is None:
                return ()
            if held := _held(connection, task_id, holder):
                return held
            leased = {row["unit"] for row in connection.execute("SELECT unit FROM lease WHERE released_at IS NULL")}
            free = [unit for unit in usable if unit not in leased]
            if not is_served(_line(connection, claim["lane"]), claim["place"], len(free)):
                return ()
            taken, at = free[: claim["wanted"]], utc_now()
            connection.executemany(
                "INSERT INTO lease (unit, lane, task_id, holder, leased_at) VALUES (?, ?, ?, ?, ?)",
                [(unit, claim["lane"], task_id, holder, at) for unit in taken],
            )
            return tuple(taken)

    def release_units(self, task_id: str, holder: str) -> None:
        """Leave the line and give back what was held; harmless when there is nothing."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM claim WHERE task_id = ? AND holder = ?", (task_id, holder))

    def place(self, task_id: str, holder: str) -> Place | None:
        """Return where a holder stands; None when it wants nothing (any more)."""
        with self._database.connect() as connection:
            connection.execute("BEGIN")  # one moment for all that is read
            claim = _claim(connection, task_id, holder)
            if claim is None:
                return None
            held = _held(connection, task_id, holder)
            places = [] if held else [other.place for other in _line(connection, claim["lane"])]
            ahead = 0 if held else places.index(claim["place"])
            return Place(claim["lane"], claim["wanted"], held, ahead, claim["note"])

    def note_wait(self, task_id: str, holder: str, note: str) -> None:
        """Say why a claim waits, for whoever asks."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE claim SET note = ? WHERE task_id = ? AND holder = ?", (note, task_id, holder))

    def leased_units(self) -> dict[str, str]:
        """Return {unit: "TASK/HOLDER"} of all leases that last."""
        with self._database.connect() as connection:
            found = connection.execute(
                "SELECT unit, task_id, holder FROM lease WHERE released_at IS NULL ORDER BY rowid"
            )
            return {row["unit"]: f"{row['task_id']}/{row['holder']}" for row in found}

    def line(self) -> list[InLine]:
        """Return who has units and who waits for some, lane by lane in the order in which they are served."""
        with self._database.connect() as connection:
            connection.execute("BEGIN")
            places = {
                claim.place: number for lane in LANES for number, claim in enumerate(_line(connection, lane), start=1)
            }
            leases = connection.execute("SELECT * FROM lease WHERE released_at IS NULL ORDER BY rowid").fetchall()
            claims = connection.execute(
                "SELECT claim.*, owner, deadline_unix FROM claim JOIN task ON task.id = claim.task_id"
                " LEFT JOIN run ON run.task_id = claim.task_id AND run.name = holder AND run.status = 'training'"
            ).fetchall()
        rows: list[InLine] = []
        for claim in claims:
            own = [
                lease for lease in leases if (lease["task_id"], lease["holder"]) == (claim["task_id"], claim["holder"])
            ]
            rows.append(
                InLine(
                    lane=claim["lane"],
                    task=claim["task_id"],
                    holder=claim["holder"],
                    owner=claim["owner"],
                    wanted=claim["wanted"],
                    place=places.get(claim["place"], 0),
                    since=claim["since"],
                    leased_at=own[0]["leased_at"] if own else None,
                    units=tuple(lease["unit"] for lease in own),
                    deadline_unix=claim["deadline_unix"],
                    note=claim["note"],
                )
            )
        return sorted(rows, key=lambda row: (LANES.index(row.lane), row.place, row.leased_at or ""))


def enter_line(connection: sqlite3.Connection, task_id: str, holder: str, lane: Lane, wanted: int) -> None:
    """Stand in line inside the caller's transaction; nothing happens for none."""
    if wanted > 0:
        connection.execute(
            "INSERT INTO claim (task_id, holder, lane, wanted, arrived, since)"
            " VALUES (?, ?, ?, ?, (SELECT COALESCE(MAX(ended), 0) FROM turn), ?) ON CONFLICT (task_id, holder) DO NOTHING",
            (task_id, holder, lane, wanted, utc_now()),
        )


def _claim(connection: sqlite3.Connection, task_id: str, holder: str) -> sqlite3.Row | None:
    return connection.execute("SELECT * FROM claim WHERE task_id = ? AND holder = ?", (task_id, holder)).fetchone()


def _held(connection: sqlite3.Connection, task_id: str, holder: str) -> tuple[str, ...]:
    found = connection.execute(
        "SELECT unit FROM lease WHERE task_id = ? AND holder = ? AND released_at IS NULL ORDER BY rowid",
        (task_id, holder),
    )
    return tuple(row["unit"] for row in found)


def _line(connection: sqlite3.Connection, lane: Lane) -> list[Waiting]:
    """Return the claims that wait in a lane, in the order in which they are served."""
    waiting = connection.execute(
        "SELECT place, owner, wanted, arrived FROM claim JOIN task ON task.id = task_id WHERE lane = ? AND NOT EXISTS"
        " (SELECT 1 FROM lease WHERE lease.task_id = claim.task_id AND lease.holder = claim.holder AND released_at IS NULL)",
        (lane,),
    )
    held = connection.execute(
        "SELECT owner, COUNT(*) AS number FROM lease JOIN task ON task.id = task_id WHERE lane = ? AND released_at IS NULL"
        " GROUP BY owner",
        (lane,),
    )
    ended = connection.execute("SELECT owner, ended FROM turn WHERE lane = ?", (lane,))
    return in_turn(
        [Waiting(*row) for row in waiting],
        {row["owner"]: row["number"] for row in held},
        {row["owner"]: row["ended"] for row in ended},
    )
