"""The ledger: budget and events as an append-only chain of hashes, one chain per dataset and per task."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from typing import Any, NamedTuple

from clinloop.spec import canonical

GENESIS = "0" * 64


class LedgerRow(NamedTuple):
    """One entry; `hash` seals all the others."""

    scope: str
    seq: int
    at: str
    event: str
    resource: str | None
    amount: int
    run: str | None
    detail: dict[str, Any]
    prev: str
    hash: str


def row_hash(
    *,
    scope: str,
    seq: int,
    at: str,
    event: str,
    resource: str | None,
    amount: int,
    run: str | None,
    detail: dict[str, Any],
    prev: str,
) -> str:
    """Return the SHA-256 of an entry: canonical JSON of its fields in the order of LedgerRow, without `hash`."""
    return hashlib.sha256(canonical([scope, seq, at, event, resource, amount, run, detail, prev]).encode()).hexdigest()


def append(
    connection: sqlite3.Connection,
    scope: str,
    event: str,
    *,
    at: str,
    resource: str | None = None,
    amount: int = 0,
    run: str | None = None,
    detail: dict[str, Any] | None = None,
    genesis: str = GENESIS,
) -> str:
    """Append one entry inside the caller's transaction and return the new head.

    Raises:
        sqlite3.IntegrityError: "budget exceeded", "test set already unsealed" or "ledger chain broken".
    """
    last = connection.execute(
        "SELECT seq, hash FROM ledger WHERE scope = ? ORDER BY seq DESC LIMIT 1", (scope,)
    ).fetchone()
    seq, prev = (last["seq"] + 1, last["hash"]) if last else (0, genesis)
    sealed: dict[str, Any] = json.loads(canonical(detail or {}))
    digest = row_hash(
        scope=scope, seq=seq, at=at, event=event, resource=resource, amount=amount, run=run, detail=sealed, prev=prev
    )
    connection.execute(
        "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (scope, seq, at, event, resource, amount, run, canonical(sealed), prev, digest),
    )
    return digest


def rows(connection: sqlite3.Connection, scope: str) -> list[LedgerRow]:
    """Return the chain of a scope, oldest first."""
    found = connection.execute("SELECT * FROM ledger WHERE scope = ? ORDER BY seq", (scope,)).fetchall()
    return [LedgerRow(**{**dict(row), "detail": json.loads(row["detail"])}) for row in found]


def head(connection: sqlite3.Connection, scope: str) -> str:
    """Return the hash of the newest entry, GENESIS for an empty chain."""
    row = connection.execute("SELECT hash FROM ledger WHERE scope = ? ORDER BY seq DESC LIMIT 1", (scope,)).fetchone()
    return row["hash"] if row else GENESIS


def balance(connection: sqlite3.Connection, scope: str) -> dict[str, int]:
    """Return what is left of each resource."""
    found = connection.execute(
        "SELECT resource, SUM(amount) AS left FROM ledger WHERE scope = ? AND resource IS NOT NULL GROUP BY resource",
        (scope,),
    )
    return {row["resource"]: row["left"] for row in found}
