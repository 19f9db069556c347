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
from clinloop.web.signing_in import SignIn

POLL_S = 1.0
"""Seconds between two looks at the store; more where a look takes longer than a twentieth of that."""
BEAT_S = 5.0
"""Seconds after which a watcher hears something in any case, and its credential is looked at again."""
SLOW_S = 20.0
"""Seconds that a watcher may take to read what was sent."""
MOST_WATCHERS = 400

Parts = Mapping[str, str]
"""HTML by name of the part of the page."""
Produce = Callable[[], Parts]
_log = logging.getLogger(__name__)


class Live:
    """The pages of one server that are being watched."""

    def __init__(self) -> None:
        self._channels: dict[Hashable, _Channel] = {}
        self.ended = asyncio.Event()

    def close(self) -> None:
        """End all streams, because the server stops; browsers try again by themselves."""
        self.ended.set()

    @property
    def polls(self) -> int:
        """How many pages are polled."""
        return len(self._channels)

    def watch(self, request: Request, key: Hashable, produce: Produce) -> Response:
        """Return the stream of a page; watchers of the same `key` share one poll by the `produce` of the first."""
        if self.ended.is_set() or sum(channel.watchers for channel in self._channels.values()) >= MOST_WATCHERS:
            return Response("Too many live pages; the page can be loaded again by hand.\n", 503, {"Retry-After": "30"})
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = _Channel(produce, lambda: self._channels.pop(key, None))
        return _Stream(self, channel, request)


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
                await asyncio.sleep(max(POLL_S, 20 * (time.monotonic() - begun)))
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
    """The events of one watcher: it gets the newest state, however slowly it reads, and nothing waits for it in memory."""

    def __init__(self, live: Live, channel: _Channel, request: Request) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        del self.headers["content-length"]
        self._live, self._channel, self._request = live, channel, request

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
        seen = dict(
            entry.split(":", 1) for entry in self._request.query_params.get("seen", "").split(",") if ":" in entry
        )
        checked = time.monotonic()
        text = "retry: 3000\n\n"
        with anyio.move_on_after(SLOW_S) as patience:
            while True:
                parts = self._channel.parts
                for name, html in parts.items():
                    if seen.get(name) != (now := digest(html)):
                        seen[name] = now
                        text += event(name, html)
                if text:
                    patience.deadline = anyio.current_time() + SLOW_S
                    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
                    text = ""
                patience.deadline = anyio.current_time() + 4 * BEAT_S
                if self._live.ended.is_set() or self._channel.is_over:
                    break
                if parts is self._channel.parts and not await self._wait():
                    text = ": still here\n\n"
                if time.monotonic() - checked >= BEAT_S:
                    checked = time.monotonic()
                    if not await run_sync(self._is_admitted):
                        break
        with anyio.move_on_after(1):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _wait(self) -> bool:
        """Wait for a change, or the end of the server; False when neither came for BEAT_S."""
        waiting = [asyncio.ensure_future(self._channel.change()), asyncio.ensure_future(self._live.ended.wait())]
        try:
            done, _ = await asyncio.wait(waiting, timeout=BEAT_S, return_when=asyncio.FIRST_COMPLETED)
            return bool(done)
        finally:
            for each in waiting:
                each.cancel()

    def _is_admitted(self) -> bool:
        """Tell whether who watches may still: the token is neither revoked nor expired, the session not over."""
        checks: SignIn = self._request.app.state.sign_in
        caller = checks.caller(self._request)
        return caller is not None and caller.principal.may("clinician", "custodian")


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
