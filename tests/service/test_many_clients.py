"""One service, many clients: all are answered, none can hold up the others, and runs outlive the service."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import stdio_client

from ..mcp.conftest import ERAS, REQUEST, SPEC, Agent
from .conftest import Service, wait

pytestmark = pytest.mark.anyio
CLIENTS = 50


@asynccontextmanager
async def connected(service: Service, era: str = ERAS[0]) -> AsyncGenerator[Agent]:
    with (service.folder / "stderr.txt").open("a", encoding="utf-8") as errors:
        async with Client(stdio_client(service.client(), errlog=errors), mode=era) as client:
            yield Agent(client)


async def test_fifty_clients_at_once_are_all_answered(service: Service) -> None:
    service.start()
    together, present = anyio.Event(), 0
    made: list[str] = []

    async def client(number: int) -> None:
        nonlocal present
        async with connected(service, ERAS[number % 2]) as agent:
            assert len((await agent.client.list_tools()).tools) == 6
            present += 1
            if present == CLIENTS:
                together.set()
            await together.wait()  # all are connected at the same time
            assert (await agent.call("inspect_dataset", dataset="moles"))["guarantee"] == "L2"
            task = await agent.call(
                "init_task", dataset="moles", request=REQUEST, spec=SPEC, template="linear", seed=number
            )
            seen = await agent.call("edit_workspace", task_id=task["task_id"], operation="view", path="train.py")
            assert seen["status"] == "open"
            assert "known" in await agent.refused("read_validation", task_id="nothing")
            read = await agent.call("read_validation", task_id=task["task_id"], wait=0)
            assert read["budget"]["runs_left"] == 8
            made.append(task["task_id"])

    with anyio.fail_after(400):
        async with anyio.create_task_group() as group:
            for number in range(CLIENTS):
                group.start_soon(client, number)
    assert len(set(made)) == CLIENTS
    log = service.log.read_text(encoding="utf-8")
    assert "Traceback" not in log
    wait(lambda: service.log.read_text(encoding="utf-8").count(": left") >= CLIENTS)


def hello(number: int = 1) -> bytes:
    request = {
        "jsonrpc": "2.0",
        "id": number,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "raw", "version": "1"},
        },
    }
    return line(request) + line({"jsonrpc": "2.0", "method": "notifications/initialized"})


def line(message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


def raw(service: Service) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(60)
    connection.connect(str(service.socket))
    return connection


def until_closed(connection: socket.socket) -> list[Any]:
    """Return all messages that come until the service closes the connection."""
    received = b""
    while data := connection.recv(1 << 16):
        received += data
    return [json.loads(message) for message in received.splitlines()]


async def test_clients_that_flood_or_never_read_hold_up_nobody_else(service: Service) -> None:
    service.start()
    with ExitStack() as hostile:
        for _ in range(6):
            hostile.enter_context(flood(service))
        for _ in range(6):
            half = hostile.enter_context(raw(service))
            half.sendall(b'{"jsonrpc": "2.0", "id":')  # and nothing more
        with anyio.fail_after(60):
            async with connected(service) as agent:
                for _ in range(5):
                    await agent.call("inspect_dataset", dataset="moles")
        assert service.process is not None and service.process.poll() is None
    wait(lambda: service.log.read_text(encoding="utf-8").count(": left") >= 13)
    assert "Traceback" not in service.log.read_text(encoding="utf-8")


def flood(service: Service) -> socket.socket:
    """Send calls with large answers and read none, until the service reads no more."""
    connection = raw(service)
    connection.sendall(hello())
    connection.settimeout(0.5)
    call = {"name": "inspect_dataset", "arguments": {"dataset": "moles", "view": "gallery"}}
    try:
        for number in range(2, 20_000):
            connection.sendall(line({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": call}))
    except TimeoutError:
        return connection
    connection.close()
    raise AssertionError("the service read on and on")


def test_a_message_that_is_too_long_ends_only_its_connection(service: Service) -> None:
    service.start()
    with raw(service) as connection:
        connection.sendall(hello())
        chunk = b"x" * (1 << 20)
        try:
            for _ in range(64):
                connection.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            answers = until_closed(connection)
        except ConnectionResetError:
            answers = []
        assert all(answer.get("id") in (1, None) for answer in answers)
    with raw(service) as connection:
        connection.sendall(b"this is no message\n" + hello() + b"\xff\xfe\n")
        connection.shutdown(socket.SHUT_WR)
        answers = until_closed(connection)
    assert [answer["error"]["code"] for answer in answers if "error" in answer] == [-32700, -32700]
    assert [answer["id"] for answer in answers if "result" in answer] == [1]


async def test_runs_go_on_while_the_service_is_restarted(service: Service) -> None:
    service.start()
    async with connected(service) as agent:
        task_id = await agent.begin()
        run = (await agent.call("run_training", task_id=task_id))["run"]["run"]
        begun = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - begun < 20
        assert not service.socket.exists()
    service.start()
    async with connected(service, ERAS[1]) as agent:
        ended = await agent.wait(task_id, run)
        assert (ended["status"], ended["decision"]) == ("succeeded", "accepted")


async def test_a_client_without_a_service_gets_one_line(service: Service) -> None:
    client = service.client()
    done = await anyio.run_process([client.command, *client.args], check=False, stdin=None)
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.decode().count("\n") == 1
    assert "no service listens there" in done.stderr.decode()


def test_a_second_service_on_the_same_socket_is_refused(service: Service) -> None:
    service.start()
    assert "Another service listens" in service.start_another()
    with raw(service) as connection:
        connection.sendall(hello())
        assert json.loads(connection.recv(1 << 16).partition(b"\n")[0])["id"] == 1


def test_a_socket_that_a_killed_service_left_is_replaced(service: Service) -> None:
    service.start()
    assert service.process is not None
    service.process.kill()
    service.process.wait()
    assert service.socket.exists()
    service.start()
    with raw(service) as connection:
        connection.sendall(hello())
        assert json.loads(connection.recv(1 << 16).partition(b"\n")[0])["id"] == 1
