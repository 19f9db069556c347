"""Who sends a request: a bearer token, a cookie of somebody who signed in, or a program on this machine."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from typing import NamedTuple

from starlette.requests import HTTPConnection, Request

from clinloop.principal import LOCAL_AGENT, Principal, Role
from clinloop.services import Services

COOKIE = "clinloop"
SESSION_S = 12 * 3600
"""Seconds after which somebody who signed in has to do so again."""
_LOCAL = "local"
_LOCAL_ROLES: frozenset[Role] = frozenset(["clinician", "custodian"])


class Caller(NamedTuple):
    """Who sends a request, and how that was shown."""

    principal: Principal
    credential: str
    """Identifies the credential, for limits and sessions: a token's id, "local", or empty for a program without one."""
    cookie: str = ""
    """The cookie that was shown; forms must carry its `csrf`."""


class SignIn:
    """Checks credentials against the store; holds the key of the sign-in link that a server without tokens prints."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._key = hmac.digest(services.key, b"web session", "sha256")
        self.link_key = secrets.token_urlsafe(24)
        self._local_key = secrets.token_bytes(32)  # a link's sessions end with the server

    def caller(self, request: HTTPConnection) -> Caller | None:
        """Return who sends a request; None for a credential that is wrong, and for no credential where one is needed."""
        header = request.headers.get("authorization", "")
        if header:
            scheme, _, secret = header.partition(" ")
            token = self._services.store.find_token(secret.strip()) if scheme.lower() == "bearer" else None
            return Caller(token.principal, token.id) if token else None
        if cookie := request.cookies.get(COOKIE):
            return self._of_cookie(cookie)
        return None

    def anonymous_agent(self) -> Caller | None:
        """Return the agent without a token, which a server without agents' tokens serves on loopback; None where tokens are needed."""
        return None if self._services.store.has_tokens("agent") else Caller(LOCAL_AGENT, "")

    def session(self, secret: str) -> str | None:
        """Return the cookie for a token, or for the key of the link; None when it is neither."""
        if hmac.compare_digest(secret.encode(), self.link_key.encode()):
            return self._sealed(_LOCAL)
        token = self._services.store.find_token(secret)
        return self._sealed(token.id) if token and token.role != "agent" else None

    def csrf(self, cookie: str) -> str:
        """Return what a form of this session must carry."""
        return hmac.new(self._key, f"csrf {cookie}".encode(), hashlib.sha256).hexdigest()

    def _sealed(self, who: str) -> str:
        text = f"{who}.{int(time.time()) + SESSION_S}"
        return f"{text}.{self._seal(who, text)}"

    def _seal(self, who: str, text: str) -> str:
        return hmac.new(self._local_key if who == _LOCAL else self._key, text.encode(), hashlib.sha256).hexdigest()

    def _of_cookie(self, cookie: str) -> Caller | None:
        text, _, seal = cookie.rpartition(".")
        who, _, until = text.partition(".")
        if not hmac.compare_digest(self._seal(who, text).encode(), seal.encode()) or int(until) < time.time():
            return None
        if who == _LOCAL:
            return Caller(Principal("", _LOCAL_ROLES), _LOCAL, cookie)
        token = self._services.store.valid_token(who)
        return Caller(token.principal, token.id, cookie) if token else None


def caller_of(request: Request) -> Caller:
    """Return who sends a request that has passed the gate."""
    return request.scope["clinloop.caller"]


def services_of(request: Request) -> Services:
    """Return the services of who sends a request that has passed the gate."""
    return request.scope["clinloop.services"]
