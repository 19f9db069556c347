"""Connections over TCP: whose they are is looked up when they open, and a client that does not send its request, or take its answer, is dropped."""

from __future__ import annotations

import asyncio
import socket
import struct

from uvicorn.protocols.http.h11_impl import H11Protocol

from clinloop.web.peer import WIRE, wire

HEAD_S = 10.0
"""Seconds in which the head of a request must have arrived."""
IDLE_S = 30
"""Seconds for which a connection is kept between two requests."""
HANG_UP = "clinloop.hang_up"
"""Where a connection carries what drops it at once (state of the ASGI scope); closing would wait until the client has read everything."""
_AT_ONCE = struct.pack("ii", 1, 0)
"""linger: on, for no time (POSIX sys/socket.h)."""
CONNECTIONS = 2048
"""Connections at once; further ones are told that the server is busy."""


class Patient(H11Protocol):
    """HTTP/1.1 with patience that ends."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Look up whose connection it is, once: its port may be another user's later."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, WIRE: wire(self.client, self.server), HANG_UP: self._hang_up}
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take what arrived; a request that has begun to arrive must arrive whole."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._unwatch()
        super().connection_lost(exc)

    def _hang_up(self) -> None:
        """Drop the connection with all that the client has not taken, also what the kernel holds for it."""
        if not self.transport.is_closing():
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self.transport.abort()

    def _watch(self) -> None:
        cycle = self.cycle  # None until the first request
        if cycle and not cycle.response_complete:
            self._unwatch()
        elif self._timer is None and not self.transport.is_closing() and not self.timeout_keep_alive_task:
            self._timer = self.loop.call_later(HEAD_S, self.transport.close)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
