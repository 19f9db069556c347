"""How much anybody may ask of the server: size of a request, requests per second, and requests at once."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Generator
from contextlib import contextmanager

import anyio
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope

HEADERS_MOST = 64
"""Header lines of a request; browsers and agents send about twenty."""
ONCE = (b"host", b"authorization", b"origin", b"content-type", b"mcp-session-id", b"mcp-protocol-version")
"""Headers of which a second one could mean something else to a proxy than to this server."""
HEAD_BYTES = 16 << 10
"""Bytes of a request's first line and headers; the server closes a connection that sends more."""
URL_BYTES = 4 << 10
"""Bytes of path and query."""
MCP_BODY_BYTES = 4 << 20
"""Bytes of one message of an agent; the local socket has the same limit."""
FORM_BODY_BYTES = 64 << 10
"""Bytes of a form; the longest text of any form has a few thousand characters."""
BODY_S = 30.0
"""Seconds in which a body must have arrived; 4 MiB come in that time over 1.1 Mbit/s."""
SEND_S = 60.0
"""Seconds for which a client may refuse to take more of an answer."""
STRANGER_PER_S, STRANGER_BURST = 20.0, 200.0
"""Requests of one address that show no valid credential; a page with its files makes about six."""
SIGN_INS_PER_S, SIGN_INS_BURST = 0.1, 5.0
"""Attempts to sign in of one address: five, then one in ten seconds. Tokens have 256 random bits; this keeps the log readable."""
AT_ONCE, AT_ONCE_AGENTS, AT_ONCE_EACH = 1024, 768, 256
"""Requests at once: in all, of agents (the rest is kept for people), and of one principal. A wait and a stream are one request each."""
WORKING_EACH = 8
"""Tools of one principal that may work in threads at once; more wait in line. Of `THREADS`, so that nobody takes them all."""
THREADS = 64
"""Threads for tools and pages."""
SESSIONS_EACH = 200
"""Open sessions of the handshake era of one principal."""


class Buckets:
    """Token buckets by key: each fills at a rate up to a burst; the keys used longest ago are forgotten."""

    def __init__(self, per_s: float, burst: float, *, keys: int = 4096) -> None:
        self._per_s, self._burst, self._keys = per_s, burst, keys
        self._levels = OrderedDict[str, tuple[float, float]]()

    def take(self, key: str) -> float:
        """Take one and return 0, or return the seconds after which there will be one."""
        now = time.monotonic()
        level, then = self._levels.pop(key, (self._burst, now))
        level = min(self._burst, level + (now - then) * self._per_s)
        wait = 0.0 if level >= 1 else (1 - level) / self._per_s
        self._levels[key] = (level - 1 if wait == 0.0 else level, now)
        if len(self._levels) > self._keys:
            self._levels.popitem(last=False)
        return wait


class Room:
    """The requests that are being served."""

    def __init__(self) -> None:
        self._each = Counter[str]()
        self._agents = self._all = 0

    def is_full(self, key: str, *, is_agent: bool) -> bool:
        """Tell whether there is no room for one more request of a principal."""
        return (
            self._all >= AT_ONCE
            or (is_agent and self._agents >= AT_ONCE_AGENTS)
            or (bool(key) and self._each[key] >= AT_ONCE_EACH)
        )

    @contextmanager
    def one(self, key: str, *, is_agent: bool) -> Generator[None]:
        """Count a request while it is served; an empty key counts in all only."""
        self._all += 1
        self._agents += is_agent
        self._each[key] += 1
        try:
            yield
        finally:
            self._all -= 1
            self._agents -= is_agent
            self._each[key] -= 1
            if not self._each[key]:
                del self._each[key]


class Slots:
    """Who may work in threads: a semaphore per principal."""

    def __init__(self) -> None:
        self._each = dict[str, anyio.Semaphore]()

    def of(self, key: str) -> anyio.Semaphore:
        """Return a principal's semaphore; principals are few, so all are kept."""
        return self._each.setdefault(key, anyio.Semaphore(WORKING_EACH))


def too_many(seconds: float, what: str) -> Response:
    """Return the answer to a request that is one too many."""
    wait = max(1, int(seconds + 0.999))
    return PlainTextResponse(f"Too many {what}; try again in {wait} s.\n", 429, {"Retry-After": str(wait)})


def refuse_head(scope: Scope) -> Response | None:
    """Return the answer to a request whose head is too large, or says twice what may be said once."""
    if len(scope["headers"]) > HEADERS_MOST or sum(len(a) + len(b) for a, b in scope["headers"]) > HEAD_BYTES:
        return PlainTextResponse("The headers are too large.\n", 431)
    names = [name for name, _ in scope["headers"]]
    if twice := [name.decode() for name in ONCE if names.count(name) > 1]:
        return PlainTextResponse(f"The header {twice[0]} may be there only once.\n", 400)
    if len(scope.get("raw_path") or scope["path"].encode()) + len(scope["query_string"]) > URL_BYTES:
        return PlainTextResponse("The address is too long.\n", 414)
    return None


async def read_body(scope: Scope, receive: Receive, most: int) -> Receive | Response:
    """Read the body of a request and return how to receive it again, or the answer when it is too large or too slow."""
    too_large = PlainTextResponse(f"A request may have {most} bytes.\n", 413, {"Connection": "close"})
    for name, value in scope["headers"]:
        if name == b"content-length" and (not value.isdigit() or int(value[:19]) > most):
            return too_large
    body = bytearray()
    with anyio.move_on_after(BODY_S):
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return PlainTextResponse("The request did not arrive whole.\n", 400, {"Connection": "close"})
            body += message.get("body", b"")
            if len(body) > most:
                return too_large
            if not message.get("more_body"):
                return _once({"type": "http.request", "body": bytes(body), "more_body": False}, receive)
    return PlainTextResponse("The request did not arrive in time.\n", 408, {"Connection": "close"})


def _once(first: Message, receive: Receive) -> Receive:
    """Return a channel that gives a message, then what comes."""
    pending = [first]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again
