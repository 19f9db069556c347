"""The SQLite file: connections, transactions and migrations."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from clinloop.errors import NotNow
from clinloop.failpoints import UNCOMMITTED, reach
from clinloop.signing import Signer

_DISK_ERRORS = ("database or disk is full", "disk I/O error", "unable to open database file")
_MIGRATIONS = (("m001_schema", "schema.sql"), ("m002_people", "people.sql"), ("m003_queue", "queue.sql"))


def utc_now() -> str:
    """Return the time as UTC ISO-8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Connection(sqlite3.Connection):
    """A connection whose ledger entries can be signed."""

    signer: Signer
    pid: int
    """The process that opened it."""
    file: tuple[int, int] | None
    """The file that it is open on, whatever lies in its place by now."""


class Database:
    """Opens a connection per operation, so that threads and processes may share one file; a busy server keeps some open."""

    def __init__(self, state: Path) -> None:
        """Open or create STATE/clinloop.sqlite and bring its schema up to date."""
        self._n_kept = 0
        self._idle: deque[Connection] = deque()  # its pop and append are atomic
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = state / "clinloop.sqlite"
        self.signer = Signer(state)
        if not self._file.exists():
            _create(self._file)
        self._migrate()

    def keep_connections(self, n: int) -> None:
        """Keep up to n idle connections for the next operations: opening one costs more than what most operations do with it."""
        self._n_kept = n

    def close(self) -> None:
        """Close what is kept; the next operation opens a connection of its own."""
        self._n_kept = 0
        while self._idle:
            self._idle.pop().close()

    def _migrate(self) -> None:
        """Apply the migrations that are missing, all in one transaction; the usual case, that none is, takes no lock."""
        with self.connect() as connection:
            if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'migration'").fetchone():
                applied = {row["name"] for row in connection.execute("SELECT name FROM migration")}
                if applied >= {name for name, _ in _MIGRATIONS}:
                    return
            # A table that others refer to can only be made anew while references are not checked, which no transaction can change.
            connection.execute("PRAGMA foreign_keys = OFF")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS migration (name TEXT PRIMARY KEY, applied_at TEXT NOT NULL) STRICT"
            )
            applied = {row["name"] for row in connection.execute("SELECT name FROM migration")}
            for name, script in _MIGRATIONS:
                if name not in applied:
                    for statement in _statements((Path(__file__).parent / script).read_text(encoding="utf-8")):
                        connection.execute(statement)
                    connection.execute("INSERT INTO migration VALUES (?, ?)", (name, utc_now()))
            assert not connection.execute("PRAGMA foreign_key_check").fetchall()
            connection.execute("COMMIT")

    @contextmanager
    def connect(self) -> Generator[Connection]:
        """Yield a connection for reading.

        Raises:
            NotNow: the disk is full or fails; without room for its log SQLite cannot even read.
        """
        connection = self._taken() or self._opened()
        is_sound = False
        try:
            if connection.row_factory is None:  # new
                connection.row_factory = sqlite3.Row
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA foreign_keys = ON")
            yield connection
            is_sound = True
        except sqlite3.OperationalError as error:
            if not str(error).startswith(_DISK_ERRORS):
                raise
            raise NotNow(
                f"The server's store cannot be used ({error}), most likely because its disk is full; nothing was recorded. "
                "Tell the custodian, then repeat the call."
            ) from error
        finally:
            if is_sound and len(self._idle) < self._n_kept and not connection.in_transaction:
                self._idle.append(connection)
            else:
                connection.close()

    def _taken(self) -> Connection | None:
        """Return a kept connection to the file that is there now."""
        try:
            connection = self._idle.pop()
        except IndexError:
            return None
        if connection.pid == os.getpid() and connection.file == _identity(self._file):
            return connection
        if connection.pid == os.getpid():  # a parent's must be left alone: SQLite's locks are of the process
            connection.close()
        return None

    def _opened(self) -> Connection:
        connection = sqlite3.connect(
            self._file, timeout=30, isolation_level=None, factory=Connection, check_same_thread=False
        )
        connection.signer = self.signer
        if self._n_kept:
            connection.pid, connection.file = os.getpid(), _identity(self._file)
        return connection

    @contextmanager
    def transaction(self, failpoint: str = "") -> Generator[Connection]:
        """Yield a connection that holds the write lock; commit at the end, roll back on any exception.

        One that changes the state of a task or a run names its failpoint.
        """
        with self.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                if failpoint:
                    reach(failpoint + UNCOMMITTED)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # SQLite itself rolls back on a full disk
                    connection.execute("ROLLBACK")
                raise
        if failpoint:
            reach(failpoint)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _create(file: Path) -> None:
    """Put an empty file in WAL mode in place; of processes that do so at once, one wins.

    Not done in place: SQLite switches the mode under an exclusive lock for which it does not wait ("database is locked").
    """
    temporary = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    connection = sqlite3.connect(temporary)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
        os.link(temporary, file)
    except FileExistsError:
        pass
    finally:
        connection.close()
        temporary.unlink(missing_ok=True)


def _statements(script: str) -> Iterator[str]:
    """Split a script into statements (executescript would commit the migration's transaction)."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
