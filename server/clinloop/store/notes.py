"""Notes in the store: what people told the agent of a task, and did to it, until a reply has carried it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from clinloop.store import ledger
from clinloop.store.database import Connection, Database, utc_now
from clinloop.store.rows import NoteRow


class Notes:
    """The part of the store that keeps notes."""

    _database: Database

    def add_note(self, task_id: str, text: str, *, author: str) -> NoteRow:
        """Write a note to the agent; the ledger keeps it."""
        at = utc_now()
        with self._database.transaction("clinician:note") as connection:
            row = tell(connection, task_id, author, text, at=at, kind="note")
            ledger.append(connection, f"task:{task_id}", "note", at=at, detail={"by": author, "text": text})
            return row

    def notes(self, task_id: str) -> list[NoteRow]:
        """Return what people told the agent of a task, and did to it, oldest first."""
        with self._database.connect() as connection:
            found = connection.execute("SELECT * FROM note WHERE task_id = ? ORDER BY number", (task_id,))
            return [NoteRow(**dict(row)) for row in found]

    def waiting_notes(self, task_id: str) -> list[NoteRow]:
        """Return the notes that no reply has carried yet, oldest first."""
        return [note for note in self.notes(task_id) if note.delivered_at is None]

    def mark_delivered(self, notes: Sequence[NoteRow]) -> None:
        """Write down that a reply carries these notes."""
        if not notes:
            return
        at = utc_now()
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE note SET delivered_at = ? WHERE task_id = ? AND number = ? AND delivered_at IS NULL",
                [(at, note.task_id, note.number) for note in notes],
            )


def tell(
    connection: Connection, task_id: str, author: str, text: str, *, at: str, kind: Literal["note", "act"] = "act"
) -> NoteRow:
    """Leave something for the agent's next reply, inside the caller's transaction."""
    number = connection.execute(
        "SELECT COALESCE(MAX(number), 0) + 1 AS next FROM note WHERE task_id = ?", (task_id,)
    ).fetchone()["next"]
    row = NoteRow(task_id, number, kind, author, text, at, None)
    connection.execute(
        "INSERT INTO note (task_id, number, kind, author, text, written_at) VALUES (?, ?, ?, ?, ?, ?)",
        (task_id, number, kind, author, text, at),
    )
    return row
