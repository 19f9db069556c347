"""Who sends a request: a bearer token, a cookie of somebody who signed in, or a program on this machine."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from typing import NamedTuple

from starlette.requests import HTTPConnection, Request

from clinloop.principal import Principal, Role
from clinloop.services import Services, local_agent
from clinloop.store.tokens import TokenRow
from clinloop.web.peer import Peer

COOKIE = "clinloop"
SESSION_S = 12 * 3600
"""Seconds after which somebody who signed in has to do so again."""
_LOCAL = "local"
_LOCAL_ROLES: frozenset[Role] = frozenset(["clinician", "custodian"])
_PROGRAM = "program:"
_LONGEST = 512
"""Characters of a credential; longer ones are none of ours."""


class Caller(NamedTuple):
    """Who sends a request, and how that was shown."""

    principal: Principal
    credential: str
    """Identifies the credential, for sessions and checks: a token's id, "local" with the end of its session, or "program:" and its user."""
    cookie: str = ""
    """The cookie that was shown; forms must carry its `csrf`."""

    @property
    def key(self) -> str:
        """Identifies the principal, for limits."""
        return self.principal.name or self.credential


class SignIn:
    """Checks credentials against the store; holds the key of the sign-in link that a server without tokens prints."""

    def __init__(self, services: Services, *, is_open: bool = True) -> None:
        self._services = services
        self._is_open = is_open
        """The server listens on this machine only."""
        self._key = hmac.digest(services.key, b"web session", "sha256")
        self.link_key = secrets.token_urlsafe(24)
        self._link_used = False
        self._lock = threading.Lock()
        self._local_key = secrets.token_bytes(32)  # a link's sessions end with the server
        self._used = set[str]()

    def caller(self, request: HTTPConnection) -> Caller | None:
        """Return who sends a request; None for a credential that is wrong, and for no credential where one is needed."""
        header = request.headers.get("authorization", "")
        if header:
            scheme, _, secret = header.partition(" ")
            is_possible = scheme.lower() == "bearer" and len(secret) <= _LONGEST
            token = self._services.store.find_token(secret.strip()) if is_possible else None
            return self._shown(token) if token else None
        cookie = request.cookies.get(COOKIE, "")
        return self._of_cookie(cookie) if cookie and len(cookie) <= _LONGEST else None

    def program(self, peer: Peer) -> Caller | None:
        """Return a program of this machine that shows no token; None where tokens are needed, from the first agent's token on."""
        is_here = self._is_open and peer.connection == "http" and peer.is_direct
        if not is_here or self._services.store.had_tokens("agent"):
            return None
        return Caller(local_agent(peer.client), f"{_PROGRAM}{peer.client.uid}")

    def holds(self, caller: Caller) -> bool:
        """Tell whether what a caller showed is still valid."""
        if caller.cookie:
            return self._of_cookie(caller.cookie) is not None
        if caller.credential.startswith(_PROGRAM):
            return not self._services.store.had_tokens("agent")
        return self._services.store.valid_token(caller.credential) is not None

    def note_uses(self) -> None:
        """Write which tokens were shown since the last time; for a thread, because it may wait for other writers of the store."""
        used, self._used = self._used, set[str]()
        if used:
            self._services.store.note_uses(tuple(used))  # a copy in one step: the loop may still add to it

    def session(self, secret: str) -> str | None:
        """Return the cookie for a token of a person, or for the key of the link, once; None when it is neither."""
        given = secret.encode(errors="replace")
        if len(given) > _LONGEST:
            return None
        if hmac.compare_digest(given, self.link_key.encode()):
            with self._lock:
                was_used, self._link_used = self._link_used, True
            return None if was_used else self._sealed(_LOCAL)
        token = self._services.store.find_token(given.decode())
        return self._sealed(token.id) if token and token.role != "agent" else None

    def sign_out(self, caller: Caller) -> None:
        """End the session of a cookie for good."""
        if caller.cookie:
            text, _, seal = caller.cookie.rpartition(".")
            self._services.store.end_session(seal, until=int(text.rpartition(".")[2]))

    def csrf(self, cookie: str) -> str:
        """Return what a form of this session must carry."""
        return hmac.new(self._key, f"csrf {cookie}".encode(), hashlib.sha256).hexdigest()

    def _sealed(self, who: str) -> str:
        text = f"{who}.{secrets.token_urlsafe(9)}.{int(time.time()) + SESSION_S}"
        return f"{text}.{self._seal(who, text)}"

    def _seal(self, who: str, text: str) -> str:
        return hmac.new(self._local_key if who == _LOCAL else self._key, text.encode(), hashlib.sha256).hexdigest()

    def _of_cookie(self, cookie: str) -> Caller | None:
        text, _, seal = cookie.rpartition(".")
        who = text.partition(".")[0]
        if not hmac.compare_digest(self._seal(who, text).encode(), seal.encode()):
            return None
        if int(text.rpartition(".")[2]) < time.time() or self._services.store.is_ended(seal):
            return None
        if who == _LOCAL:
            return Caller(Principal("", _LOCAL_ROLES), text.rpartition(".")[0], cookie)
        token = self._services.store.valid_token(who)
        return self._shown(token, cookie) if token else None

    def _shown(self, token: TokenRow, cookie: str = "") -> Caller:
        self._used.add(token.id)
        return Caller(token.principal, token.id, cookie)


def caller_of(request: Request) -> Caller:
    """Return who sends a request that has passed the gate."""
    return request.scope["clinloop.caller"]


def services_of(request: Request) -> Services:
    """Return the services of who sends a request that has passed the gate."""
    return request.scope["clinloop.services"]
