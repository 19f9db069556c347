"""The gate: every request passes limits, Host and Origin checks and is known to come from somebody, before anything else looks at it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clinloop.app import MCP_PATH, mark_authenticated, opens_session
from clinloop.principal import Role
from clinloop.services import Services
from clinloop.untrusted import clean
from clinloop.web import limits
from clinloop.web.connections import HANG_UP
from clinloop.web.metrics import Metrics
from clinloop.web.peer import Peer, peer
from clinloop.web.signing_in import Caller, SignIn
from clinloop.web.watch import Watch

OPEN_PATHS = ("/healthz", "/readyz", "/sign-in", "/static/")
"""What needs no credential; a path that ends in / means all below it."""
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
STATIC_CACHE = "private, max-age=600"
"""How long a browser keeps style, scripts and icon; they change with a version."""
PAGE_ROLES: frozenset[Role] = frozenset(["clinician", "custodian"])
_SESSION = b"mcp-session-id"
_VIEW_S = 30.0
"""Seconds for which the services of a user of this machine are kept; a group that it joins later counts from then on."""
_VIEWS = 256
_log = logging.getLogger("clinloop.http")


class Gate:
    """ASGI middleware: refuses, or hands on a request with `clinloop.caller` and `clinloop.services` in its scope."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        services: Services,
        sign_in: SignIn,
        hosts: Collection[str],
        metrics: Metrics,
        watch: Watch,
    ) -> None:
        self._app, self._services, self._sign_in = app, services, sign_in
        self._hosts = frozenset(host.lower() for host in hosts)
        self._metrics, self._watch = metrics, watch
        self._room, self._slots = limits.Room(), limits.Slots()
        rate = services.settings.requests_per_s
        self._known = limits.Buckets(rate, 2.0 * rate)
        self._strangers = limits.Buckets(limits.STRANGER_PER_S, limits.STRANGER_BURST)
        self._views = dict[tuple[str, int], tuple[float, Services]]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, count it and write a line about it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, answer = time.monotonic(), _Answer(scope, send)
        found = peer(scope, self._services.settings)
        try:
            await self._serve(scope, receive, answer, found)
        except* _NotTaken:
            scope.get("state", {}).get(HANG_UP, _nothing)()
            await anyio.sleep(0)  # the server below hears of it before it could miss the rest of the answer
        finally:
            seconds = time.monotonic() - begun
            route = _route(scope)
            self._metrics.request(scope["method"], route, answer.status, seconds)
            caller: Caller | None = scope.get("clinloop.caller")
            who = clean(caller.principal.label, cap=100) if caller else "nobody"
            what = f"{route} {scope['clinloop.tool']}" if "clinloop.tool" in scope else route
            method = clean(scope["method"], cap=10)
            _log.info("%s %r %s %s %d %.0f ms", found.address, who, method, what, answer.status, seconds * 1000)

    async def _serve(self, scope: Scope, receive: Receive, answer: _Answer, found: Peer) -> None:
        request = HTTPConnection(scope)
        refusal = self._refuse_head(request)
        if refusal is not None:
            await refusal(scope, receive, answer.send)
            return
        scope["clinloop.peer"] = found
        caller = self._caller(request, found)  # in the loop: it only reads, which in SQLite's WAL mode waits for nobody
        if isinstance(caller, Response):
            wait = self._strangers.take(found.address)
            refusal = limits.too_many(wait, "requests") if wait else caller
            await refusal(scope, receive, answer.send)
            return
        refusal = self._refuse_more(caller, found, request)
        if refusal is not None:
            await refusal(scope, receive, answer.send)
            return
        if caller is not None:
            self._admit(scope, caller, found)
        with self._room.one(caller.key if caller else "", is_agent=bool(caller and not _is_person(caller))):
            await self._hand_on(scope, receive, answer, caller)

    def _refuse_head(self, request: HTTPConnection) -> Response | None:
        if self._watch.is_ending:
            return PlainTextResponse("The server is ending; runs go on.\n", 503, {"Retry-After": "5"})
        if refusal := limits.refuse_head(request.scope):
            return refusal
        if not self._is_own_name(request.headers.get("host", "").lower(), request.scope):
            return PlainTextResponse(
                "This server is not reached under that name; see the setting allowed_hosts.\n", 421
            )
        origin = request.headers.get("origin")
        if origin is not None and not self._is_own_origin(origin, request.scope):
            return PlainTextResponse("Requests from other sites are refused.\n", 403)
        return None

    def _is_own_name(self, host: str, scope: Scope) -> bool:
        """Tell whether a Host is a name of this server, or the address itself to which the client connected: no other site can take that."""
        if host in self._hosts:
            return True
        address: tuple[str, int | None] | None = scope.get("server")
        if address is None or address[1] is None:
            return False
        name = f"[{address[0]}]" if ":" in address[0] else address[0]
        return name[-1:] in "0123456789]" and host == f"{name}:{address[1]}"

    def _is_own_origin(self, origin: str, scope: Scope) -> bool:
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        return parts.scheme in ("http", "https") and self._is_own_name(parts.netloc.lower(), scope)

    def _caller(self, request: HTTPConnection, found: Peer) -> Caller | Response | None:
        """Return who sends a request, None where that does not matter, or the answer to somebody who may not."""
        path: str = request.scope["path"]
        if any(path.startswith(allowed) if allowed.endswith("/") else path == allowed for allowed in OPEN_PATHS):
            return None
        caller = self._sign_in.caller(request)
        if path == MCP_PATH:
            if caller is None and "authorization" not in request.headers:
                caller = self._sign_in.program(found)
            if caller is None or caller.cookie:
                return PlainTextResponse(
                    "A valid token is needed: Authorization: Bearer TOKEN (clinloop token create).\n",
                    401,
                    {"WWW-Authenticate": "Bearer"},
                )
            return caller
        if caller is None:
            return RedirectResponse("/sign-in", 303)
        if not _is_person(caller):
            return PlainTextResponse("Agents have no page; they use /mcp.\n", 403)
        return caller

    def _refuse_more(self, caller: Caller | None, found: Peer, request: HTTPConnection) -> Response | None:
        wait = self._known.take(caller.key) if caller else self._strangers.take(found.address)
        if wait:
            return limits.too_many(wait, "requests")
        is_agent = caller is not None and not _is_person(caller)
        if self._room.is_full(caller.key if caller else "", is_agent=is_agent):
            return limits.too_many(1, "requests at once")
        opens = request.scope["path"] == MCP_PATH and opens_session(request.headers)
        if caller and opens and not self._watch.may_open(caller):
            return limits.too_many(60, "sessions")
        return None

    def _admit(self, scope: Scope, caller: Caller, found: Peer) -> None:
        scope["clinloop.caller"] = caller
        scope["clinloop.services"] = self._view(found).for_principal(caller.principal)
        if scope["path"] == MCP_PATH:
            mark_authenticated(scope, caller.credential)
            scope["clinloop.slots"] = self._slots.of(caller.key)
            scope["clinloop.observe"] = _observer(scope, self._metrics)

    def _view(self, found: Peer) -> Services:
        """Return the services as a user of this machine, or somebody elsewhere, sees them; each keeps its guarantee level for a while."""
        key = (found.connection, found.client.uid)
        until, kept = self._views.get(key, (0.0, None))
        if kept is None or until < time.monotonic():
            if len(self._views) >= _VIEWS:
                self._views.clear()
            kept = self._services.for_client(found.connection, found.client)
            self._views[key] = (time.monotonic() + _VIEW_S, kept)
        return kept

    async def _hand_on(self, scope: Scope, receive: Receive, answer: _Answer, caller: Caller | None) -> None:
        most = limits.MCP_BODY_BYTES if scope["path"] == MCP_PATH else limits.FORM_BODY_BYTES
        if scope["method"] not in ("GET", "HEAD"):
            body = await limits.read_body(scope, receive, most)
            if isinstance(body, Response):
                await body(scope, receive, answer.send)
                return
            receive = body
            answer.has_read = True
        if caller is None:
            await self._app(scope, receive, answer.send)
            return
        with anyio.CancelScope() as lasting, self._watch.serving(caller, lasting), self._session(scope, caller, answer):
            await self._app(scope, receive, answer.send)
        if lasting.cancelled_caught:
            await answer.break_off(receive, is_ending=self._watch.is_ending)

    @contextmanager
    def _session(self, scope: Scope, caller: Caller, answer: _Answer):
        """Note what a request did to a session of the handshake era: opened, used or ended it."""
        yield
        session = answer.session or next((value for name, value in scope["headers"] if name == _SESSION), b"")
        if session and scope["path"] == MCP_PATH:
            is_over = scope["method"] == "DELETE" or answer.status == 404
            self._watch.saw_session(session.decode("latin-1"), caller, is_over=is_over)


class _NotTaken(Exception):
    """A client did not take its answer in time."""


class _Answer:
    """What is sent back: security headers are added, the status is kept, and a client that does not take it is dropped."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self.status = 0
        """0 = nothing was sent."""
        self.session = b""
        self.has_read = False
        """The body of the request was taken."""
        self._is_whole = False
        self._is_static = scope["path"].startswith("/static/")

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.session = next((value for name, value in message["headers"] if name.lower() == _SESSION), b"")
            message["headers"] = self._headers(message["headers"])
        elif message["type"] == "http.response.body":
            self._is_whole = not message.get("more_body")
        try:
            with anyio.fail_after(limits.SEND_S):
                await self._send(message)
        except TimeoutError:
            raise _NotTaken from None

    async def break_off(self, receive: Receive, *, is_ending: bool) -> None:
        """End an answer that was cut short."""
        if self.status == 0:
            refusal = (
                PlainTextResponse("The server is ending; runs go on.\n", 503, {"Retry-After": "5"})
                if is_ending
                else PlainTextResponse("The token was revoked or has expired.\n", 401, {"WWW-Authenticate": "Bearer"})
            )
            await refusal(self._scope, receive, self.send)
        elif not self._is_whole:
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    def _headers(self, given: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        if not self.has_read and any(
            name in (b"content-length", b"transfer-encoding") for name, _ in self._scope["headers"]
        ):
            given = [
                *given,
                (b"connection", b"close"),
            ]  # what was not read is not read afterwards either, however long it is
        if self._scope["path"] == MCP_PATH:
            return given
        present = {name.lower() for name, _ in given}
        wanted = {**HEADERS, "Cache-Control": STATIC_CACHE} if self._is_static and self.status == 200 else HEADERS
        added = ((name.lower().encode(), value.encode()) for name, value in wanted.items())
        return [*given, *((name, value) for name, value in added if name not in present)]


def _observer(scope: Scope, metrics: Metrics) -> Callable[[str, str, float], None]:
    def observe(name: str, outcome: str, seconds: float) -> None:
        scope["clinloop.tool"] = name
        metrics.tool(name, outcome, seconds)

    return observe


def _nothing() -> None:
    pass


def _is_person(caller: Caller) -> bool:
    return caller.principal.may(*PAGE_ROLES)


def _route(scope: Scope) -> str:
    """Return the template of the route that served a request, never its path: that holds names of tasks."""
    route: Any = scope.get("route")
    return str(getattr(route, "path", "") or "-")
