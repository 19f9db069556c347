"""Hashes that the verifier computes again: of a JSON value and of a ledger row."""

from __future__ import annotations

import hashlib

from clinloop.report.data import LedgerRow
from clinloop.spec import canonical


def sha256_json(value: object) -> str:
    """Return the SHA-256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def row_hash(row: LedgerRow) -> str:
    """Return the hash that a ledger row must carry.

    Written a second time on purpose: a verifier that shared the store's code would share its mistakes.
    """
    return sha256_json([row.scope, row.seq, row.at, row.event, row.resource, row.amount, row.run, row.detail, row.prev])
