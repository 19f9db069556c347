"""The ledger: budget and events as an append-only chain of signed hashes, one chain per dataset and per task."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple, cast

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
    return [_row(row) for row in found]


def require_whole(connection: Connection, scope: str) -> None:
    """Refuse to build on a chain that somebody else has changed; whoever spends from it or opens the test set calls this first.

    A process checks each entry once (180 µs with its signature) and remembers what it saw, word for word.

    Raises:
        LedgerBroken: an entry was changed, does not follow from the one before, or is not signed by this server's key.
    """
    prev = None
    for place, row in enumerate(connection.execute("SELECT * FROM ledger WHERE scope = ? ORDER BY seq", (scope,))):
        if row["seq"] != place or prev not in (None, row["prev"]):
            problem = "does not follow from the one before"
        else:
            problem = _problem(connection.signer.public_key, *row)
        if problem:
            raise LedgerBroken(
                f"The ledger of {scope.partition(':')[2]} was changed by somebody else than the server: entry {place} ({row['event']}) {problem}. "
                "Nothing is charged to it any more. Tell the custodian: `clinloop verify` with the task's name shows all that is wrong with it."
            )
        prev = row["hash"]


@lru_cache(maxsize=20_000)
def _problem(public_key: str, *entry: str | int | None) -> str:
    row = _row(entry)
    if _hash_of(row) != row.hash:
        return "is not what was recorded"
    return "" if is_signed(public_key, row.hash, row.signature) else "is not signed by it"


def _hash_of(row: LedgerRow) -> str:
    fields = row._asdict()
    return row_hash(**{name: fields[name] for name in fields if name not in ("hash", "signature")})


def _row(entry: Iterable[Any]) -> LedgerRow:
    row = LedgerRow(*entry)
    return row._replace(detail=json.loads(cast(str, row.detail)))


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
