"""A client without a library: JSON lines to a server of its own, which may be killed at any moment; the next call starts another one."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

_HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "mcp", "version": "0"}}


class Reply(NamedTuple):
    """What came back: a result, a refusal, or nothing because the server died; then nobody knows what was done."""

    result: dict[str, Any] | None
    refusal: str = ""


class WireClient:
    """One client of one server process without isolation."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._process: subprocess.Popen[str] | None = None
        self._ids = itertools.count()
        self.n_deaths = 0

    def call(self, tool: str, **arguments: Any) -> Reply:
        """Call a tool."""
        try:
            if self._process is None:
                self._start()
            answer = self._ask("tools/call", {"name": tool, "arguments": arguments})
        except (OSError, EOFError):
            self.n_deaths += 1
            self.close()
            return Reply(None)
        if answer.get("isError"):
            return Reply(None, answer["content"][0]["text"])
        return Reply(answer["structuredContent"])

    def close(self) -> None:
        """End the server."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):  # what could not be sent any more
                    pipe.close()
            self._process = None

    def _start(self) -> None:
        words = ["-I", "-m", "clinloop", "serve", "--stdio", "--state", str(self._state), "--sandbox", "none"]
        with (self._state / "stderr.txt").open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, *words, "--i-accept-no-isolation"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._ask("initialize", _HELLO)
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def _ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number = next(self._ids)
        self._send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        assert self._process is not None and self._process.stdout is not None
        while line := self._process.stdout.readline():
            message = json.loads(line)
            if message.get("id") == number and "method" not in message:
                return message["result"]
        raise EOFError

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
