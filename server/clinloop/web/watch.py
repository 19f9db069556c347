"""Ends what goes on for too long: requests and sessions whose credential no longer holds, and all of them when the server stops."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from typing import NamedTuple

import anyio

from clinloop.web.limits import SESSIONS_EACH
from clinloop.web.signing_in import Caller, SignIn

CHECK_S = 2.0
"""Seconds after which a revoked token has ended the waits, streams and sessions that it opened, at the latest."""
GRACE_S = 1.0
"""Seconds that a stopping server leaves to requests that are about to be answered."""
_IDLE_S = 31 * 60.0
"""Seconds after which a session is forgotten here; the protocol ends it after 30 idle minutes."""
_log = logging.getLogger("clinloop.http")


class _Served(NamedTuple):
    caller: Caller
    scope: anyio.CancelScope
    begun: float


class _Session(NamedTuple):
    caller: Caller
    seen: float


class Watch:
    """The requests that are being served and the sessions that are open, each with who opened it."""

    def __init__(self, sign_in: SignIn) -> None:
        self._sign_in = sign_in
        self._served = dict[int, _Served]()
        self._sessions = dict[str, _Session]()
        self._ending = anyio.Event()
        self.is_ending = False
        self.end_session: Callable[[str, Caller], Awaitable[None]] | None = None
        """Ends a session of the protocol."""

    def stop(self) -> None:
        """Begin to end; to be called in the event loop."""
        self.is_ending = True
        self._ending.set()

    @contextmanager
    def serving(self, caller: Caller, scope: anyio.CancelScope) -> Generator[None]:
        """Keep a request that is being served; `scope` is cancelled to end it."""
        self._served[id(scope)] = _Served(caller, scope, time.monotonic())
        try:
            yield
        finally:
            del self._served[id(scope)]

    @property
    def sessions(self) -> int:
        """Open sessions."""
        return len(self._sessions)

    def may_open(self, caller: Caller) -> bool:
        """Tell whether a principal may open one more session."""
        self._forget()
        return sum(kept.caller.key == caller.key for kept in self._sessions.values()) < SESSIONS_EACH

    def saw_session(self, session: str, caller: Caller, *, is_over: bool) -> None:
        """Note that a session was used, or ended."""
        if is_over:
            self._sessions.pop(session, None)
        else:
            self._sessions[session] = _Session(caller, time.monotonic())

    async def run(self) -> None:
        """Check every few seconds until the server stops, then end everything."""
        while not self.is_ending:
            with anyio.move_on_after(CHECK_S):
                await self._ending.wait()
                break
            try:
                await self._check()
                await anyio.to_thread.run_sync(
                    self._sign_in.note_uses
                )  # afterwards: it may have to wait for who writes
            except Exception:  # a store that is busy or a disk that is full must not end the watch
                _log.exception("credentials could not be checked again")
        await anyio.sleep(GRACE_S)
        for served in self._served.values():
            served.scope.cancel()

    async def _check(self) -> None:
        now = time.monotonic()
        served = [kept for kept in self._served.values() if now - kept.begun > CHECK_S / 2]
        callers = {kept.caller.credential: kept.caller for kept in (*served, *self._sessions.values())}
        if not callers:
            return
        ended = await anyio.to_thread.run_sync(self._invalid, callers.values())
        for kept in served:
            if kept.caller.credential in ended:
                kept.scope.cancel()
        for session, kept in list(self._sessions.items()):
            if kept.caller.credential in ended:
                self._sessions.pop(session, None)
                if self.end_session is not None:
                    await self.end_session(session, kept.caller)

    def _invalid(self, callers: Iterable[Caller]) -> set[str]:
        return {caller.credential for caller in callers if not self._sign_in.holds(caller)}

    def _forget(self) -> None:
        limit = time.monotonic() - _IDLE_S
        for session in [name for name, kept in self._sessions.items() if kept.seen < limit]:
            del self._sessions[session]
