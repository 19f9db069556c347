"""A server over HTTP in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

COMMAND = [sys.executable, "-I", "-m", "clinloop", "serve", "--sandbox", "none", "--i-accept-no-isolation"]


class Server:
    """`clinloop serve --http` on a state folder; its log is kept."""

    def __init__(self, state: Path, *, log: str = "http.log", address: str = "127.0.0.1:0", **environment: str) -> None:
        self.state, self.log = state, state.parent / log
        self._begin = len(self.text) if self.log.exists() else 0
        with self.log.open("ab") as log_file:
            self.process = subprocess.Popen(
                [*COMMAND, "--http", address, "--state", str(state)],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                env=dict(os.environ) | environment,
            )
        self.url = self._wait()

    def _wait(self) -> str:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.text
            said = self.text[self._begin :]
            if "Application startup complete" in said:
                return said.partition("serving on ")[2].split()[0]
            time.sleep(0.05)
        raise AssertionError(self.text)

    @property
    def text(self) -> str:
        """What it has written so far."""
        return self.log.read_text(encoding="utf-8")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stop(self, number: int = signal.SIGTERM) -> float:
        """End it and return the seconds that it took."""
        begun = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(timeout=60)
        return time.monotonic() - begun

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop(signal.SIGKILL)


def agent_of(server: Server, era: str, http: httpx2.AsyncClient) -> Client:
    """Return a client of a server; `http` carries the token."""
    return Client(streamable_http_client(f"{server.url}/mcp", http_client=http), mode=era)


def with_token(token: str = "") -> httpx2.AsyncClient:
    """Return a client over HTTP that shows a token."""
    headers: dict[str, Any] = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx2.AsyncClient(headers=headers, timeout=60)
