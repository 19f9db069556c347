"""Serve many clients on a local socket: one MCP session per connection, each in a thread with an event loop of its own.

A tool that waits for the store, a client that does not read, or one that sends without end holds up its own connection only. On the wire are
newline-delimited JSON-RPC messages, as on standard input and output.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import stat
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import FrameType

import anyio
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp import types
from mcp.shared.message import SessionMessage

from clinloop import exposure
from clinloop.access import Client, group_id, peer_client
from clinloop.app import build
from clinloop.errors import BadInput, NotNow
from clinloop.services import Services, local_agent

MESSAGE_BYTES = 4 << 20
"""Longest message of a client; the SDK's HTTP server has the same cap."""
IN_FLIGHT, WORKERS = 32, 4
"""Requests of one connection that are not answered yet, after which no more is read; and how many of them may work, not wait, at once."""
CONNECTIONS, CONNECTIONS_PER_USER = 512, 128
_BACKLOG = 256
_END_S, _FLUSH_S = 5.0, 2.0
_PARSE_ERROR, _INVALID_REQUEST = -32700, -32600
_log = logging.getLogger("clinloop.service")


class _Ended(Exception):
    """SIGTERM or SIGINT arrived."""


def serve_socket(services: Services, path: Path, *, group: str | None = None, is_open: bool = False) -> None:
    """Serve until SIGTERM or SIGINT; runs go on without the server.

    Raises:
        BadInput: no such group, or the socket cannot be made there.
        NotNow: another service listens there.
    """
    os.umask(0o077)
    exposure.hide_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    build(services)  # imports what the first client would wait for
    _ = services.store
    gc.enable()
    gc.freeze()
    listener = _bind(path, group, is_open)
    identity = path.stat().st_ino
    connections = _Connections(services)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    _log.info("serving on %s as uid %d", path, os.geteuid())
    try:
        while True:
            with suppress(ConnectionAbortedError):
                connections.serve(listener.accept()[0])
    except _Ended:
        _log.info("ending; runs go on")
    finally:
        listener.close()
        with suppress(OSError):
            if path.stat().st_ino == identity:
                path.unlink()
        connections.end()


def _end(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise _Ended


class _Connections:
    """The connections that are open, and their threads."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = threading.Lock()
        self._open = dict[socket.socket, tuple[threading.Thread, int]]()

    def serve(self, connection: socket.socket) -> None:
        """Serve a new connection in a thread, unless there are too many."""
        try:
            client = peer_client(connection)
        except OSError:  # a level that is not known is not claimed
            _log.exception("refused a connection whose user the kernel does not name")
            connection.close()
            return
        with self._lock:
            users = Counter(uid for _, uid in self._open.values())
            if len(self._open) >= CONNECTIONS or users[client.uid] >= CONNECTIONS_PER_USER:
                _log.warning("refused a connection of uid %d: too many are open", client.uid)
                connection.close()
                return
            thread = threading.Thread(target=self._run, args=(connection, client), daemon=True)
            self._open[connection] = (thread, client.uid)
        try:
            thread.start()
        except RuntimeError:
            _log.exception("no thread for a connection of uid %d", client.uid)
            self._close(connection)

    def end(self) -> None:
        """End all sessions as if their clients had left, and wait for them a little."""
        with self._lock:
            found = dict(self._open)
        for connection in found:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread, _ in found.values():
            thread.join(_END_S / max(1, len(found)))

    def _run(self, connection: socket.socket, client: Client) -> None:
        services = self._services.for_client("socket", client, local_agent(client))
        _log.info("uid %d (%s), pid %d: connected", client.uid, client.name, client.pid)
        try:
            connection.setblocking(False)
            anyio.run(_session, services, connection)
        except Exception:
            _log.exception("uid %d: the session broke off", client.uid)
        finally:
            self._close(connection)
            _log.info("uid %d, pid %d: left", client.uid, client.pid)

    def _close(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.pop(connection, None)
        connection.close()


async def _session(services: Services, connection: socket.socket) -> None:
    """Serve one MCP session on a connection, in the era with which the client opens."""
    anyio.to_thread.current_default_thread_limiter().total_tokens = WORKERS
    server = build(services)._lowlevel_server  # pyright: ignore[reportPrivateUsage]  # `run_stdio_async` does the same with other streams
    stream = await anyio.abc.UNIXSocketStream.from_socket(connection.dup())
    into, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, out_of = anyio.create_memory_object_stream[SessionMessage](0)
    in_flight = _InFlight()
    async with stream, anyio.create_task_group() as tasks:
        tasks.start_soon(_read, stream, into, outgoing.clone(), in_flight)
        written = anyio.Event()
        tasks.start_soon(_write, stream, out_of, in_flight, written, tasks.cancel_scope)
        await server.run(incoming, outgoing, server.create_initialization_options())
        with anyio.move_on_after(_FLUSH_S):
            await written.wait()
        tasks.cancel_scope.cancel()


class _InFlight:
    """The requests of a connection that have not been answered; there is room for a certain number."""

    def __init__(self) -> None:
        self._ids = set[types.RequestId]()
        self._changed = anyio.Event()

    async def begin(self, request: types.RequestId) -> None:
        """Wait for room and take it."""
        while len(self._ids) >= IN_FLIGHT:
            await self._changed.wait()
        self._ids.add(request)

    def end(self, request: types.RequestId | None) -> None:
        """Give room back."""
        if request in self._ids:
            self._ids.discard(request)
            self._changed.set()
            self._changed = anyio.Event()


async def _read(
    stream: ByteStream,
    into: anyio.abc.ObjectSendStream[SessionMessage | Exception],
    answers: anyio.abc.ObjectSendStream[SessionMessage],
    in_flight: _InFlight,
) -> None:
    """Hand on what the client sends, message by message; a message that is too long ends the session."""
    lines = BufferedByteReceiveStream(stream)
    async with into, answers:
        while True:
            try:
                line = await lines.receive_until(b"\n", MESSAGE_BYTES)
            except (anyio.EndOfStream, anyio.IncompleteRead, anyio.ClosedResourceError, anyio.BrokenResourceError):
                return
            except anyio.DelimiterNotFound:
                await answers.send(_refusal(_INVALID_REQUEST, f"A message may have {MESSAGE_BYTES} bytes."))
                return
            if not line.strip():
                continue
            try:
                message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
            except ValueError:
                await answers.send(_refusal(_PARSE_ERROR, "That was no JSON-RPC message."))
                continue
            if isinstance(message, types.JSONRPCRequest):
                await in_flight.begin(message.id)
            elif isinstance(message, types.JSONRPCNotification) and message.method == "notifications/cancelled":
                in_flight.end((message.params or {}).get("requestId"))
            try:
                await into.send(SessionMessage(message))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return


async def _write(
    stream: ByteStream,
    out_of: anyio.abc.ObjectReceiveStream[SessionMessage],
    in_flight: _InFlight,
    written: anyio.Event,
    session: anyio.CancelScope,
) -> None:
    """Send what the session answers, until it ends; when the client has gone, the session ends although nothing more is read."""
    try:
        async with out_of:
            async for item in out_of:
                message = item.message
                text = message.model_dump_json(by_alias=True, exclude_unset=True)
                await stream.send(text.encode() + b"\n")
                if isinstance(message, types.JSONRPCResponse | types.JSONRPCError):
                    in_flight.end(message.id)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        session.cancel()
    finally:
        written.set()


def _refusal(code: int, text: str) -> SessionMessage:
    return SessionMessage(types.JSONRPCError(jsonrpc="2.0", id=None, error=types.ErrorData(code=code, message=text)))


def _bind(path: Path, group: str | None, is_open: bool) -> socket.socket:
    """Return a listening socket at a path that nobody else listens on; its mode lets the group, or everybody, in."""
    number = None if group is None else group_id(group)
    if group is not None and number is None:
        raise BadInput(f"There is no group {group!r} on this machine; make it with groupadd, or leave --group out.")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear(path)
        listener.bind(str(path))
        if number is not None:
            os.chown(path, -1, number)
        path.chmod(0o666 if is_open else 0o660)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise BadInput(
            f"The socket {path} cannot be made ({error.strerror or error}): its folder must exist and be this user's own, and this user "
            "must be in the group that is to use it."
        ) from error
    return listener


def _clear(path: Path) -> None:
    """Remove the socket of a service that has ended.

    Raises:
        NotNow: the service lives.
        BadInput: something else lies there.
    """
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(facts.st_mode):
        raise BadInput(f"{path} exists and is no socket; name another.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.settimeout(5)
        try:
            other.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError:
            pass
    raise NotNow(f"Another service listens on {path}; end it first.")
