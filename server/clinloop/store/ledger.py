"""The ledger: budget and events as an append-only chain of signed hashes, one chain per dataset and per task."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from typing import Any, NamedTuple

from clinloop.errors import LedgerBroken
from clinloop.signing import is_signed
from clinloop.spec import canonical
from clinloop.store.database import Connection

GENESIS = "0" * 64


class LedgerRow(NamedTuple):
    """One entry; `hash` seals all the others, `signature` says who made it."""

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
    signature: str


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
    """Return the SHA-256 of an entry: canonical JSON of its fields in the order of LedgerRow, without the last two."""
    return hashlib.sha256(canonical([scope, seq, at, event, resource, amount, run, detail, prev]).encode()).hexdigest()


def append(
    connection: Connection,
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
    """Append one signed entry inside the caller's transaction and return the new head; the first of a chain names the key.

    Raises:
        sqlite3.IntegrityError: "budget exceeded", "test set already unsealed" or "ledger chain broken".
    """
    last = connection.execute(
        "SELECT seq, hash FROM ledger WHERE scope = ? ORDER BY seq DESC LIMIT 1", (scope,)
    ).fetchone()
    seq, prev = (last["seq"] + 1, last["hash"]) if last else (0, genesis)
    signer = {} if last else {"signer": connection.signer.public_key}
    sealed: dict[str, Any] = json.loads(canonical({**(detail or {}), **signer}))
    digest = row_hash(
        scope=scope, seq=seq, at=at, event=event, resource=resource, amount=amount, run=run, detail=sealed, prev=prev
    )
    connection.execute(
        "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (scope, seq, at, event, resource, amount, run, canonical(sealed), prev, digest, connection.signer.sign(digest)),
    )
    return digest


def rows(connection: sqlite3.Connection, scope: str) -> list[LedgerRow]:
    """Return the chain of a scope, oldest first."""
    found = connection.execute("SELECT * FROM ledger WHERE scope = ? ORDER BY seq", (scope,)).fetchall()
    return [LedgerRow(**{**dict(row), "detail": json.loads(row["detail"])}) for row in found]


def require_whole(connection: Connection, scope: str) -> None:
    """Refuse to build on a chain that somebody else has changed; whoever spends from it or opens the test set calls this first.

    Hashes are computed again each time; a signature is checked once per process (70 µs).

    Raises:
        LedgerBroken: an entry was changed, does not follow from the one before, or is not signed by this server's key.
    """
    if problem := _first_problem(rows(connection, scope), connection.signer.public_key):
        raise LedgerBroken(
            f"The ledger of {scope.partition(':')[2]} was changed by somebody else than the server ({problem}), so nothing is charged to it any more. "
            f"Tell the custodian: `clinloop verify` with the task's name shows all that is wrong with it."
        )


def _first_problem(chain: list[LedgerRow], public_key: str) -> str:
    for place, row in enumerate(chain):
        fields = row._asdict()
        signature, digest = fields.pop("signature"), fields.pop("hash")
        if row.seq != place or (place and row.prev != chain[place - 1].hash) or row_hash(**fields) != digest:
            return f"entry {place} ({row.event}) is not what was recorded"
        if not is_signed(public_key, digest, signature):
            return f"entry {place} ({row.event}) is not signed by this server"
    return ""


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
