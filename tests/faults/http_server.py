"""A real server process over HTTP for tests: started on a free port, looked at through /proc, stopped or killed; and clients of it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import Implementation

from .lab import until

MODERN, LEGACY = ERAS = ("2026-07-28", "legacy")
HEADERS = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


class Server:
    """`clinloop serve --http` on a state folder, without isolation; what it says goes to a file."""

    def __init__(self, state: Path, *words: str, program: Sequence[str] = ()) -> None:
        self.state, self._words = state, words
        self._program = program or (sys.executable, "-I", "-m", "clinloop")
        self._n_starts = 0
        self.port = 0
        self.log_folder = state.parent
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def start(self) -> None:
        """Start it, again on the same port, and wait until it answers."""
        self._n_starts += 1
        self.log_file = self.log_folder / f"{self.state.name}-http-{os.getpid()}-{id(self)}-{self._n_starts}.log"
        words = ["serve", "--http", f"127.0.0.1:{self.port}", "--state", str(self.state), *self._words]
        words += ["--sandbox", "none", "--i-accept-no-isolation"]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._program, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        process = self.process

        def told() -> re.Match[str] | None:
            assert process.poll() is None, self.log
            return re.search(r"Agents: \S+:(\d+)/mcp", self.log)

        self.port = int(until(told, 60)[1])
        until(lambda: _connects(self.port), 20)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def token(self, role: str = "agent", name: str = "codex") -> str:
        """Make a token at the command line, as a custodian does."""
        return self._command("token", "create", "--role", role, "--name", name).strip()

    def revoke(self, name: str) -> None:
        """Revoke all tokens of somebody."""
        from clinloop.store.store import Store

        for token in Store(self.state).tokens():
            if token.name == name:
                self._command("token", "revoke", token.id)

    def _command(self, *words: str) -> str:
        command = [sys.executable, "-I", "-m", "clinloop", *words, "--state", str(self.state)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    def stop(self, within_s: float = 30) -> int:
        """Send SIGTERM and return how it ended."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=within_s)

    def kill(self) -> None:
        """Send SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    # what it holds ------------------------------------------------------------------------------------------------

    def n_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - descriptors are no files

    def n_sockets(self) -> int:
        """Return how many connections it holds, the listening one left out."""
        return len(_sockets(self.pid))

    def memory(self) -> int:
        """Return its resident memory in bytes."""
        fields = Path(f"/proc/{self.pid}/statm").read_text(encoding="utf-8").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    # clients ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def client(self, era: str = MODERN, token: str = "", *, name: str = "claude-code") -> AsyncGenerator[Client]:
        """Yield a client that waits long."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60) as connection,
            Client(
                streamable_http_client(f"{self.url}/mcp", http_client=connection),
                mode=era,
                client_info=Implementation(name=name, version="1"),
            ) as client,
        ):
            yield client

    def connection(self) -> socket.socket:
        """Return a bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def request(self, body: bytes, *, path: str = "/mcp", method: str = "POST", **headers: str) -> bytes:
        """Return a request as bytes; a header's name has underscores for hyphens, and one that is empty is left out."""
        fields = {"Host": f"127.0.0.1:{self.port}", **HEADERS, "Content-Length": str(len(body))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value)]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def answers(self) -> bool:
        """Tell whether it serves somebody else in time."""
        return httpx2.get(f"{self.url}/healthz", timeout=15).status_code == 200


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool, which must not fail, and return its structured content."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return result.structured_content


def modern(method: str, number: int = 1, **params: Any) -> dict[str, Any]:
    """Return a message of the stateless era."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "claude-code", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": {**params, "_meta": meta}}


def modern_headers(method: str, name: str = "", token: str = "") -> dict[str, str]:
    """Return the headers that a message of the stateless era needs."""
    headers = {**HEADERS, "MCP-Protocol-Version": MODERN, "Mcp-Method": method}
    return headers | ({"Mcp-Name": name} if name else {}) | ({"Authorization": f"Bearer {token}"} if token else {})


def faults(log: str) -> list[str]:
    """Return what a server must never log."""
    return [line for line in log.splitlines() if re.search(r"Traceback|Exception in ASGI|database is locked", line)]


def _connects(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def _sockets(pid: int) -> list[str]:
    """Return the inodes of a process's TCP connections, those that listen left out."""
    held = set[str]()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held.add(str(path.readlink()))
        except OSError:  # closed meanwhile
            continue
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text(encoding="utf-8").splitlines()[1:]]
    return [line[9] for line in lines if line[3] != "0A" and f"socket:[{line[9]}]" in held]
