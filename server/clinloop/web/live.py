"""Live pages: one poll of the store per page that is watched, whoever many watch it, and changed parts alone as server-sent events."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Hashable, Mapping

import anyio
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from clinloop.errors import Refusal

POLL_S = 1.0
"""Seconds between two looks at the store; ten times as long as a look takes where that is more, up to SELDOM_S."""
SELDOM_S = 5.0
BEAT_S = 5.0
"""Seconds after which a watcher hears something in any case, so that a connection that is dead is found out."""
MOST_WATCHERS = 400

Parts = Mapping[str, str]
"""HTML by name of the part of the page."""
Produce = Callable[[], Parts]
_log = logging.getLogger(__name__)


class Live:
    """The pages of one server that are being watched."""

    def __init__(self) -> None:
        self._channels: dict[Hashable, _Channel] = {}

    @property
    def polls(self) -> int:
        """How many pages are polled."""
        return len(self._channels)

    def watch(self, request: Request, key: Hashable, produce: Produce) -> Response:
        """Return the stream of a page; watchers of the same `key` share one poll by the `produce` of the first."""
        if sum(channel.watchers for channel in self._channels.values()) >= MOST_WATCHERS:
            return Response("Too many live pages; the page can be loaded again by hand.\n", 503, {"Retry-After": "30"})
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = _Channel(produce, lambda: self._channels.pop(key, None))
        return _Stream(channel, request)


class _Channel:
    """One page that is watched, and the task that polls it as long as somebody does."""

    def __init__(self, produce: Produce, forget: Callable[[], object]) -> None:
        self.watchers = 0
        self.parts: Parts = {}
        self.is_over = False
        self._produce, self._forget = produce, forget
        self._changed = asyncio.Event()
        self._poll: asyncio.Task[None] | None = None

    def join(self) -> None:
        self.watchers += 1
        if self._poll is None:
            self._poll = asyncio.create_task(self._run())

    def leave(self) -> None:
        self.watchers -= 1
        if self.watchers == 0 and self._poll is not None:
            self._forget()
            self._poll.cancel()

    async def change(self) -> None:
        """Wait until the parts change, or the page ends."""
        await self._changed.wait()

    async def _run(self) -> None:
        try:
            while True:
                begun = time.monotonic()
                found = await run_sync(self._produce, limiter=_few_threads())
                if found != self.parts:
                    self.parts = found
                    self._wake()
                await asyncio.sleep(min(SELDOM_S, max(POLL_S, 10 * (time.monotonic() - begun))))
        except Refusal:
            pass  # the task is gone, and with it what could be shown
        except Exception:
            _log.exception("a live page could not be made")
        self.is_over = True
        self._forget()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class _Stream(Response):
    """The events of one watcher: it gets the newest state, however slowly it reads, and nothing waits for it in memory.

    The gate ends it when the credential is revoked, the server stops, or nothing can be sent for a minute.
    """

    def __init__(self, channel: _Channel, request: Request) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        del self.headers["content-length"]
        self._channel, self._request = channel, request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._channel.join()
        try:
            async with anyio.create_task_group() as group:

                async def until_gone() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    group.cancel_scope.cancel()

                group.start_soon(until_gone)
                await self._send_all(send)
                group.cancel_scope.cancel()
        finally:
            self._channel.leave()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        given = self._request.query_params.get("seen", "")
        known = dict(entry.split(":", 1) for entry in given.split(",") if ":" in entry)
        text = "retry: 3000\n\n"
        while True:
            parts = self._channel.parts
            for name, html in parts.items():
                if known.get(name) != (now := digest(html)):
                    known[name] = now
                    text += event(name, html)
            if text:
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
                text = ""
            if self._channel.is_over:
                break
            if parts is self._channel.parts:
                with anyio.move_on_after(BEAT_S) as beat:
                    await self._channel.change()
                text = ": still here\n\n" if beat.cancelled_caught else ""
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def digest(html: str) -> str:
    """Return the short digest by which a stream knows what its page shows already."""
    return hashlib.sha256(html.encode()).hexdigest()[:10]


def seen(parts: Parts) -> str:
    """Return what a page passes as `seen`, so that its stream begins with what has changed since."""
    return ",".join(f"{name}:{digest(html)}" for name, html in parts.items())


def event(name: str, html: str) -> str:
    """Return one event."""
    lines = "".join(f"data: {line}\n" for line in html.split("\n"))
    return f"event: {name}\n{lines}\n"


_LIMITERS: dict[asyncio.AbstractEventLoop, anyio.CapacityLimiter] = {}


def _few_threads() -> anyio.CapacityLimiter:
    """Return the two threads that all live pages share, so that they never keep a page waiting."""
    loop = asyncio.get_running_loop()
    for old in [known for known in _LIMITERS if known.is_closed()]:
        del _LIMITERS[old]
    return _LIMITERS.setdefault(loop, anyio.CapacityLimiter(2))
