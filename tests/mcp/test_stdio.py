"""The server as clients start it: a subprocess on standard input and output."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError

from .conftest import ERAS, Agent

pytestmark = pytest.mark.anyio

SECRET = "sk-of-the-client-that-nobody-else-may-see"
ENVIRONMENT = {"ANTHROPIC_API_KEY": SECRET, "OPENAI_API_KEY": SECRET, "AWS_SESSION_TOKEN": SECRET, "PYTHONPATH": SECRET}


def command(state: Path) -> list[str]:
    return [
        sys.executable,
        "-I",
        "-m",
        "clinloop",
        "serve",
        "--stdio",
        "--state",
        str(state),
        "--sandbox",
        "none",
        "--i-accept-no-isolation",
    ]


@asynccontextmanager
async def connected(state: Path, era: str) -> AsyncGenerator[Agent]:
    first, *rest = command(state)
    server = StdioServerParameters(command=first, args=rest, env=ENVIRONMENT)
    with (state / "stderr.txt").open("w", encoding="utf-8") as errors:
        async with Client(stdio_client(server, errlog=errors), mode=era) as client:
            yield Agent(client)


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_lists_calls_and_fails_and_the_server_lives_on(state: Path, era: str) -> None:
    async with connected(state, era) as agent:
        assert len((await agent.client.list_tools()).tools) == 6
        assert (await agent.call("inspect_dataset"))["datasets"] == ["moles"]
        assert "moles" in await agent.refused("inspect_dataset", dataset="nope")
        record = state / "datasets" / "moles" / "audit.json"
        kept = record.rename(record.with_suffix(".kept"))
        crashed = await agent.refused("inspect_dataset", dataset="moles", view="audit")
        assert crashed.startswith("Error executing tool inspect_dataset: a fault of the server")
        assert "audit.json" not in crashed
        kept.rename(record)
        assert (await agent.call("inspect_dataset", dataset="moles", view="audit"))["status"] == "ok"
        with pytest.raises(MCPError):
            await agent.client.session.send_request(_unknown_request(), dict)  # type: ignore[arg-type]
        assert (await agent.call("inspect_dataset"))["datasets"] == ["moles"]
    assert "Traceback" in (state / "stderr.txt").read_text(encoding="utf-8")  # for the custodian, not for the agent


def _unknown_request() -> Any:
    from mcp.types import Request

    return Request(method="clinloop/unknown", params=None)


def test_only_protocol_reaches_the_wire_and_the_server_ends_when_its_input_does(state: Path) -> None:
    lines = [
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "clientInfo": {"name": "t", "version": "1"},
            },
        },
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "no/such/method"},
        {
            "jsonrpc": "2.0",
            "id": 3,
            "method": "tools/call",
            "params": {"name": "inspect_dataset", "arguments": {"dataset": "moles"}},
        },
        {
            "jsonrpc": "2.0",
            "id": 4,
            "method": "tools/call",
            "params": {"name": "inspect_dataset", "arguments": {"dataset": "moles", "view": "gallery"}},
        },
    ]
    with subprocess.Popen(
        command(state), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin and process.stdout
        answers: dict[int, Any] = {}
        process.stdin.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        process.stdin.flush()
        while len(answers) < 4:
            answer = json.loads(process.stdout.readline())  # a print of ours would not be JSON
            assert answer["jsonrpc"] == "2.0"
            if "id" in answer:
                answers[answer["id"]] = answer
        assert answers[1]["result"]["serverInfo"]["name"] == "clinloop"
        assert answers[2]["error"]["code"] == -32601
        assert answers[3]["result"]["structuredContent"]["status"] == "ok"
        assert answers[4]["result"]["content"][0]["type"] == "image"
        process.stdin.close()
        assert process.wait(timeout=20) == 0
        assert process.stdout.read() == b""


SPY = """
import json, os
from pathlib import Path
seen = []
for folder in Path("/proc").iterdir():
    try:
        seen.append((folder / "environ").read_bytes().decode(errors="replace") if folder.name == str(os.getpid()) else "")
    except OSError:
        pass
print("ENVIRONMENT", json.dumps(dict(os.environ)), "".join(seen))
import time
time.sleep(30)
"""


async def test_the_environment_of_the_client_reaches_neither_supervisor_nor_code(state: Path) -> None:
    async with connected(state, ERAS[0]) as agent:
        task_id = await agent.begin()
        await agent.call(
            "edit_workspace", task_id=task_id, operation="create", path="train.py", text=SPY, overwrite=True
        )
        run = (await agent.call("run_training", task_id=task_id, mode="smoke"))["run"]["run"]
        log = ""
        with anyio.fail_after(60):
            while "ENVIRONMENT" not in log:
                seen = await agent.call("read_validation", task_id=task_id, run=run, view="log")
                log = seen["log"]
                assert seen["status"] in ("queued", "training"), seen
                await anyio.sleep(0.1)
        servers = [read_environment(pid) for pid in processes(state, "serve")]
        assert servers and all(SECRET in text for text in servers)  # the server has it, as with real clients
        found = {pid: read_environment(pid) for pid in processes(state, "clinloop.supervisor")}
        assert found, "no supervisor is running"
        assert [pid for pid, text in found.items() if SECRET in text or "API_KEY" in text] == []
        assert SECRET not in log and "API_KEY" not in log
        await agent.call("run_training", task_id=task_id, mode="stop", run=run)
        assert (await agent.wait(task_id, run))["status"] == "stopped"


async def test_a_run_goes_on_when_the_client_and_its_server_are_gone(state: Path) -> None:
    async with connected(state, ERAS[1]) as agent:
        task_id = await agent.begin()
        run = (await agent.call("run_training", task_id=task_id))["run"]["run"]
    async with connected(state, ERAS[0]) as agent:
        assert (await agent.wait(task_id, run))["status"] == "succeeded"


def processes(state: Path, word: str) -> list[int]:
    """Return the processes that were started for this state folder with a certain argument."""
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if str(state) in words and word in words:
            found.append(int(folder.name))
    return found


def read_environment(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
