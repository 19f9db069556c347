"""Serve over HTTP until SIGTERM or SIGINT; runs go on without the server."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import resource
import signal
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address
from types import FrameType
from typing import NamedTuple

import uvicorn
from rich.console import Console

from clinloop import exposure
from clinloop.errors import BadInput, NotNow
from clinloop.services import Services
from clinloop.web.app import build
from clinloop.web.connections import CONNECTIONS, IDLE_S, Patient
from clinloop.web.limits import HEAD_BYTES
from clinloop.web.signing_in import SignIn
from clinloop.web.watch import Watch

_GRACEFUL_S, _HARD_S = 3, 5.0
"""Seconds after SIGTERM in which requests must have ended, and after which the process ends whatever a thread of it still does."""
_FILES = 65_536
_log = logging.getLogger("clinloop.http")


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Only programs of this machine reach it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def serve_http(services: Services, address: str, console: Console) -> None:
    """Serve at HOST:PORT; without any token of a person, print a link that signs in once.

    Raises:
        BadInput: no address, or not a loopback address and no agent's token exists.
        NotNow: the port is taken.
    """
    with _listening(services, address) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _nothing)  # what comes back when uvicorn's own handler goes, and is called then
        console.print(f"Agents: {server.page}/mcp", highlight=False)
        if any(services.store.has_tokens(role) for role in ("clinician", "custodian")):
            console.print(f"Page: {server.page} (sign in with a token: clinloop token create)", highlight=False)
        else:
            link = f"{server.page}/sign-in?key={server.sign_in.link_key}"
            console.print(f"Page, for one sign-in: {link}", highlight=False, soft_wrap=True)
        server.run(sockets=[server.listener])


@contextmanager
def beside(services: Services, address: str) -> Generator[None]:
    """Serve at HOST:PORT in a thread as long as something else is served; when the thread breaks off, the process is told to end.

    Raises:
        BadInput: no address, or not a loopback address and no agent's token exists.
        NotNow: the port is taken.
    """
    with _listening(services, address) as server:

        def run() -> None:
            try:
                server.run(sockets=[server.listener])
            finally:
                if not server.should_exit:
                    _log.error("the HTTP server broke off")
                    os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=run, daemon=True, name="http")
        thread.start()
        try:
            yield
        finally:
            server.stop()
            thread.join(_HARD_S)


class _Server(uvicorn.Server):
    """uvicorn's server with what belongs to it; when it is told to end, it ends waits and streams too."""

    def __init__(self, services: Services, listener: socket.socket, address: Address) -> None:
        self.listener = listener
        self.page = services.settings.page_url or f"http://{address}"
        shown = services.settings.model_copy(update={"page_url": self.page})
        made = build(replace(services, settings=shown), _hosts(services, address), is_open=address.is_loopback)
        self.sign_in: SignIn = made.state.sign_in
        self._ends: Watch = made.state.watch
        self._event_loop: asyncio.AbstractEventLoop | None = None
        config = uvicorn.Config(
            made,
            http=Patient,
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACEFUL_S,
            timeout_keep_alive=IDLE_S,
            limit_concurrency=CONNECTIONS,
            h11_max_incomplete_event_size=HEAD_BYTES,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        self._event_loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        _log.info("ending; runs go on")
        hard = threading.Timer(_HARD_S, os._exit, (0,))
        hard.daemon = True
        hard.start()
        self._end()
        super().handle_exit(sig, frame)

    def stop(self) -> None:
        """End, from another thread."""
        self._end()
        self.should_exit = True

    def _end(self) -> None:
        if self._event_loop is not None:
            with suppress(RuntimeError):  # the loop is closed already
                self._event_loop.call_soon_threadsafe(self._ends.stop)


@contextmanager
def _listening(services: Services, text: str) -> Generator[_Server]:
    """Yield a server that listens, with the process made ready for it, and noted in the state folder."""
    address = _parsed(text)
    if not address.is_loopback and not services.store.has_tokens("agent"):
        raise BadInput(
            f"{address.host} can be reached from other machines, and there is no agent's token: make one first (clinloop token create --role "
            "agent --name NAME), or serve on 127.0.0.1. Either way put a reverse proxy with TLS in front (docs/http.md has examples for Caddy "
            "and nginx): tokens must not travel in the clear."
        )
    os.umask(0o077)
    exposure.hide_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    for name in ("mcp.server.streamable_http", "mcp.server.streamable_http_manager"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they write ids of sessions
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if most == resource.RLIM_INFINITY else min(_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    with _bound(address) as listener:
        address = Address(address.host, listener.getsockname()[1])
        server = _Server(services, listener, address)
        gc.enable()
        gc.freeze()
        if not address.is_loopback:
            _log.warning(
                "%s is not encrypted: let only a reverse proxy with TLS, or a network that you trust, reach it", address
            )
        _log.info("serving on http://%s as uid %d", address, os.geteuid())
        note = services.state.http / f"{os.getpid()}.json"
        note.parent.mkdir(mode=0o700, exist_ok=True)
        note.write_text(json.dumps({"address": str(address), "page": server.page}), encoding="utf-8")
        try:
            yield server
        finally:
            note.unlink(missing_ok=True)


def _hosts(services: Services, address: Address) -> list[str]:
    """Return under which names the server is reached."""
    names = {str(address), f"127.0.0.1:{address.port}", f"localhost:{address.port}", f"[::1]:{address.port}"}
    page = services.settings.page_url.partition("://")[2].partition("/")[0]
    return sorted({*names, *services.settings.allowed_hosts, *([page] if page else [])})


def _parsed(address: str) -> Address:
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or int(port) > 65_535:
        raise BadInput(f"--http {address}: give HOST:PORT, e.g. 127.0.0.1:8765.")
    return Address(host.strip("[]"), int(port))


@contextmanager
def _bound(address: Address) -> Generator[socket.socket]:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # Named, because asyncio sets TCP_NODELAY only where it sees this protocol; without it each small answer waits 40 ms for an ACK.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise NotNow(f"Cannot listen on {address} ({error.strerror}); choose another port or address.") from error
        listener.listen(512)
        listener.set_inheritable(False)
        yield listener


def _nothing(_number: int, _frame: FrameType | None) -> None:
    pass
