"""Many clients of /mcp in one process that shares nothing with the server but the cores: keep-alive connections that send prepared calls.

python http_clients.py < PLAN  reads {port, clients: [{token, calls: [{tool, arguments}]}], era, n_calls, pause_s, seconds} and prints what came back.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from typing import Any, NamedTuple

MODERN = "2026-07-28"
LEGACY = "2025-11-25"


class Answer(NamedTuple):
    """One answer over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """One keep-alive connection."""

    def __init__(self, port: int, token: str, era: str) -> None:
        self._port, self._token, self._era = port, token, era
        self._session = ""
        self._number = 0
        self.n_reconnects = 0

    async def open(self) -> None:
        """Connect, and in the handshake era begin a session."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22)
        if self._era == LEGACY:
            hello = {
                "protocolVersion": LEGACY,
                "capabilities": {},
                "clientInfo": {"name": "claude-code", "version": "1"},
            }
            answer = await self._send({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello})
            assert answer.status == 200, answer
            self._session = answer.headers["mcp-session-id"]
            await self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def call(self, tool: str, arguments: dict[str, Any]) -> str:
        """Call a tool and return "" or what was wrong."""
        self._number += 1
        params: dict[str, Any] = {"name": tool, "arguments": arguments}
        if self._era == MODERN:
            params["_meta"] = {
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientInfo": {"name": "claude-code", "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": {},
            }
        answer = await self._send(
            {"jsonrpc": "2.0", "id": self._number, "method": "tools/call", "params": params}, tool
        )
        if answer.status != 200:
            return f"HTTP {answer.status}: {answer.body[:100]!r}"
        text = answer.body.decode()
        if "event-stream" in answer.headers.get("content-type", ""):
            text = next(line[5:] for line in text.splitlines() if line.startswith("data:") and '"result"' in line)
        result = json.loads(text).get("result")
        return "" if result and not result.get("isError") else text[:200]

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    async def _send(self, message: dict[str, Any], tool: str = "") -> Answer:
        body = json.dumps(message).encode()
        fields = {
            "Host": f"127.0.0.1:{self._port}",
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Content-Length": str(len(body)),
            "MCP-Protocol-Version": self._era,
        }
        if self._era == MODERN:
            fields |= {"Mcp-Method": message["method"], "Mcp-Name": tool}
        if self._session:
            fields["Mcp-Session-Id"] = self._session
        head = "\r\n".join(["POST /mcp HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())])
        try:
            self._writer.write(head.encode() + b"\r\n\r\n" + body)
            await self._writer.drain()
            return await self._read()
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            # A server may close what was idle; what was sent at that moment is sent again, as all clients of HTTP do.
            if isinstance(error, asyncio.IncompleteReadError) and error.partial:
                raise
            self.n_reconnects += 1
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22)
            self._writer.write(head.encode() + b"\r\n\r\n" + body)
            return await self._read()

    async def _read(self) -> Answer:
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                body += await self._reader.readexactly(size + 2)
                body = body[:-2]
            await self._reader.readexactly(2)
        else:
            body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(first.split()[1]), headers, body)


async def measure(plan: dict[str, Any]) -> dict[str, Any]:
    """Return all latencies in seconds and what went wrong."""
    latencies: dict[str, list[float]] = {}
    wrong = Counter[str]()
    connections = [Connection(plan["port"], client["token"], plan["era"]) for client in plan["clients"]]
    for connection in connections:
        await connection.open()
    begun = time.perf_counter()

    async def work(connection: Connection, calls: list[dict[str, Any]], offset: int) -> None:
        moments = random.Random(offset)
        if plan["pause_s"]:
            await asyncio.sleep(moments.uniform(0, plan["pause_s"]))
        for number in range(plan["n_calls"]):
            call = calls[(number + offset) % len(calls)]
            started = time.perf_counter()
            if fault := await connection.call(call["tool"], call["arguments"]):
                wrong[fault] += 1
            latencies.setdefault(call["tool"], []).append(time.perf_counter() - started)
            if plan["pause_s"]:
                await asyncio.sleep(moments.expovariate(1 / plan["pause_s"]))

    await asyncio.gather(
        *(
            work(connection, client["calls"], offset)
            for offset, (connection, client) in enumerate(zip(connections, plan["clients"], strict=True))
        )
    )
    wall = time.perf_counter() - begun
    for connection in connections:
        connection.close()
    return {
        "wall_s": wall,
        "latencies": latencies,
        "wrong": dict(wrong.most_common(5)),
        "n_wrong": wrong.total(),
        "reconnects": sum(connection.n_reconnects for connection in connections),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(json.load(sys.stdin)))))
