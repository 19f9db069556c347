"""Tokens in the store: what agents, clinicians and custodians show over HTTP; only a hash of each is kept."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, cast

from clinloop.errors import BadInput, NotNow, unknown
from clinloop.principal import Principal, Role
from clinloop.store.database import Database, utc_now
from clinloop.untrusted import clean

RESERVED = "user:"
"""Begins the names of users of this machine that show no token."""
NAME_CAP = 80
"""Characters of a name."""
_USE_S = 60
"""Seconds within which a use is not written again."""


class TokenRow(NamedTuple):
    """One token, without its secret."""

    id: str
    name: str
    role: Role
    created_at: str
    expires_at: str
    revoked_at: str | None
    last_used_at: str | None

    @property
    def principal(self) -> Principal:
        """Who shows it."""
        return Principal(self.name, frozenset([self.role]))

    @property
    def state(self) -> str:
        """valid, expired or revoked."""
        return "revoked" if self.revoked_at else "expired" if self.expires_at <= utc_now() else "valid"


class Tokens:
    """The part of the store that keeps tokens."""

    _database: Database

    def create_token(self, name: str, role: Role, *, days: float) -> tuple[TokenRow, str]:
        """Make a token and return it with its secret, which is nowhere else.

        Raises:
            BadInput: no name that can be shown, or one that belongs to somebody with another role.
        """
        if not name.strip() or name != clean(name, cap=NAME_CAP) or "\n" in name or name.startswith(RESERVED):
            raise BadInput(
                f"A name has 1 to {NAME_CAP} characters that can be shown, in one line, and does not begin with {RESERVED!r}."
            )
        secret = f"clinloop_{secrets.token_urlsafe(32)}"
        now = datetime.now(UTC)
        row = TokenRow(
            id=secrets.token_hex(4),
            name=name,
            role=role,
            created_at=now.isoformat(timespec="milliseconds"),
            expires_at=(now + timedelta(days=days)).isoformat(timespec="milliseconds"),
            revoked_at=None,
            last_used_at=None,
        )
        with self._database.transaction() as connection:
            other = connection.execute("SELECT role FROM token WHERE name = ? AND role <> ?", (name, role)).fetchone()
            if other is not None:
                raise BadInput(f"There is a {other['role']} named {name!r}; give the {role} another name.")
            connection.execute(
                "INSERT INTO token (id, name, role, sha256, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
                (row.id, name, role, _hash(secret), row.created_at, row.expires_at),
            )
        return row, secret

    def tokens(self) -> list[TokenRow]:
        """Return all tokens, newest first."""
        with self._database.connect() as connection:
            return [_token(row) for row in connection.execute("SELECT * FROM token ORDER BY created_at DESC, id")]

    def revoke_token(self, token_id: str) -> TokenRow:
        """End a token at once; one that has ended stays so.

        Raises:
            Unknown: no such token; the text lists those that exist.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE token SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL", (utc_now(), token_id)
            )
            row = connection.execute("SELECT * FROM token WHERE id = ?", (token_id,)).fetchone()
            if row is None:
                known = [found["id"] for found in connection.execute("SELECT id FROM token ORDER BY created_at DESC")]
                raise unknown("token", token_id, known)
            return _token(row)

    def find_token(self, secret: str) -> TokenRow | None:
        """Return the valid token of a secret; None when there is none, or it has expired or was revoked."""
        return self._valid("sha256 = ?", _hash(secret))

    def valid_token(self, token_id: str) -> TokenRow | None:
        """Return a token by its id while it is valid."""
        return self._valid("id = ?", token_id)

    def note_uses(self, token_ids: Iterable[str]) -> None:
        """Write that tokens were used now, unless that was written within a minute, or cannot be: a use that is missing harms nobody."""
        now = datetime.now(UTC)
        before = (now - timedelta(seconds=_USE_S)).isoformat(timespec="milliseconds")
        with suppress(NotNow, sqlite3.OperationalError), self._database.transaction() as connection:
            connection.executemany(
                "UPDATE token SET last_used_at = ? WHERE id = ? AND (last_used_at IS NULL OR last_used_at < ?)",
                [(now.isoformat(timespec="milliseconds"), token_id, before) for token_id in token_ids],
            )

    def has_tokens(self, role: Role) -> bool:
        """Tell whether a valid token of a role exists."""
        with self._database.connect() as connection:
            return bool(
                connection.execute(
                    "SELECT 1 FROM token WHERE role = ? AND revoked_at IS NULL AND expires_at > ?", (role, utc_now())
                ).fetchone()
            )

    def had_tokens(self, role: Role) -> bool:
        """Tell whether a token of a role was ever made; what it closed does not open again when it expires or is revoked."""
        with self._database.connect() as connection:
            return bool(connection.execute("SELECT 1 FROM token WHERE role = ?", (role,)).fetchone())

    def end_session(self, seal: str, *, until: int) -> None:
        """Remember that a session of the page was ended, until it would have ended by itself (seconds since 1970)."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM ended_session WHERE until < ?", (int(time.time()),))
            connection.execute("INSERT OR IGNORE INTO ended_session (seal, until) VALUES (?, ?)", (seal, until))

    def is_ended(self, seal: str) -> bool:
        """Tell whether a session of the page was ended."""
        with self._database.connect() as connection:
            return bool(connection.execute("SELECT 1 FROM ended_session WHERE seal = ?", (seal,)).fetchone())

    def _valid(self, where: str, value: str) -> TokenRow | None:
        now = utc_now()
        with self._database.connect() as connection:
            row = connection.execute(
                f"SELECT * FROM token WHERE {where} AND revoked_at IS NULL AND expires_at > ?",  # noqa: S608 - written above
                (value, now),
            ).fetchone()
        return _token(row) if row else None


def _hash(secret: str) -> str:
    """Return the SHA-256 of a secret; enough, because a secret has 256 random bits and cannot be guessed from it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _token(row: sqlite3.Row) -> TokenRow:
    return TokenRow(
        id=row["id"],
        name=row["name"],
        role=cast("Role", row["role"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=row["last_used_at"],
    )
