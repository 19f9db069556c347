"""The server as it is started: signals, logs, several of them on one state folder, waits, slow clients."""

from __future__ import annotations

import re
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.exceptions import MCPError

from clinloop.services import Services
from clinloop.web import connections

from ..mcp.conftest import ERAS, Agent
from . import serving
from .conftest import ACCEPT
from .serving import COMMAND, Server, agent_of, with_token

pytestmark = pytest.mark.anyio


async def begin_slowly(agent: Agent) -> tuple[str, str]:
    """Start a task and a smoke test of two minutes, and return their names."""
    task = await agent.begin(budget="paper")
    sleep = "import time\nwhile True:\n    time.sleep(0.1)\n"
    await agent.call("edit_workspace", task_id=task, operation="create", path="train.py", text=sleep, overwrite=True)
    return task, (await agent.call("run_training", task_id=task, mode="smoke"))["run"]["run"]


@pytest.mark.parametrize("era", ERAS)
async def test_sigterm_ends_waits_soon_and_the_run_goes_on_and_the_next_server_finds_it(
    services: Services, era: str
) -> None:
    task, run, took = "", "", 99.0
    with Server(services.settings.state) as server:
        async with with_token() as http:
            try:
                async with agent_of(server, era, http) as client:
                    agent = Agent(client)
                    task, run = await begin_slowly(agent)
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(_wait_long, client, task)
                        await anyio.sleep(1.5)
                        took = await anyio.to_thread.run_sync(server.stop)
                        tasks.cancel_scope.cancel()
            except* Exception as group:  # the client notices that its server has gone
                assert server.process.poll() == 0, group
    assert took < 5
    assert server.process.returncode == 0
    assert services.store.active_runs()
    with Server(services.settings.state) as later:
        async with with_token() as http, agent_of(later, era, http) as client:
            agent = Agent(client)
            found = await agent.call("read_validation", task_id=task, wait=0)
            assert found["run"]["status"] in ("queued", "training")
            await agent.call("run_training", task_id=task, mode="stop", run=run)
            assert (await agent.wait(task, run))["status"] == "stopped"


async def _wait_long(client: Client, task: str) -> None:
    await client.call_tool("read_validation", {"task_id": task, "wait": 3600})


async def _wait_until_refused(client: Client, task: str, ended: list[float]) -> None:
    try:
        await client.call_tool("read_validation", {"task_id": task, "wait": 40})
    except MCPError:
        ended.append(time.monotonic())


@pytest.mark.parametrize("era", ERAS)
async def test_a_token_that_is_revoked_ends_a_wait_within_seconds(services: Services, era: str) -> None:
    row, secret = services.store.create_token("codex", "agent", days=1)
    with Server(services.settings.state) as server:
        task, run = "", ""
        async with with_token(secret) as http:
            ended: list[float] = []
            with suppress(Exception):
                async with agent_of(server, era, http) as client, anyio.create_task_group() as tasks:
                    agent = Agent(client)
                    task, run = await begin_slowly(agent)
                    tasks.start_soon(_wait_until_refused, client, task, ended)
                    await anyio.sleep(2)
                    services.store.revoke_token(row.id)
                    begun = time.monotonic()
                    while not ended and time.monotonic() < begun + 20:
                        await anyio.sleep(0.1)
                    ended.append(ended[0] - begun if ended else 99.0)
                    tasks.cancel_scope.cancel()
        assert ended[-1] < 10
        services.store.request_stop(task, run)
        text = server.text
    assert re.search(r"'codex' POST /mcp read_validation (401|200) [2-9]\d\d\d ms", text)
    assert secret not in text


async def test_waits_hold_up_nobody(services: Services) -> None:
    with Server(services.settings.state) as server:
        async with with_token() as http, agent_of(server, ERAS[0], http) as client:
            agent = Agent(client)
            task, run = await begin_slowly(agent)
            async with anyio.create_task_group() as tasks:
                for _ in range(60):
                    tasks.start_soon(_wait_long, client, task)
                await anyio.sleep(3)
                assert (await agent.call("inspect_dataset"))["datasets"] == ["moles"]
                async with httpx2.AsyncClient() as other:
                    assert (await other.get(f"{server.url}/healthz", timeout=10)).status_code == 200
                await agent.call("run_training", task_id=task, mode="stop", run=run)
                tasks.cancel_scope.cancel()


@pytest.mark.parametrize("era", ERAS)
async def test_servers_on_standard_input_and_over_http_share_a_state_folder(services: Services, era: str) -> None:
    state = services.settings.state
    first, *rest = [*COMMAND, "--stdio", "--state", str(state)]
    local = StdioServerParameters(command=first, args=rest)
    with (
        Server(state, log="one.log") as one,
        Server(state, log="two.log") as two,
        (state.parent / "errors.txt").open("w", encoding="utf-8") as errors,
    ):
        async with (
            with_token() as http,
            agent_of(one, era, http) as at_one,
            agent_of(two, era, http) as at_two,
            Client(stdio_client(local, errlog=errors), mode=era) as at_local,
        ):
            agents = [Agent(at_one), Agent(at_two), Agent(at_local)]
            task = await agents[0].begin()
            for agent in agents:
                assert await agent.begin() == task
                assert (await agent.call("read_validation", task_id=task))["task_id"] == task
        assert len(list(services.state.http.glob("*.json"))) == 2


def test_the_log_has_one_plain_line_per_request_and_no_secret(services: Services) -> None:
    with Server(services.settings.state) as server:
        key = re.findall(r"key=(\S+)", server.text)[0]
        answer = httpx2.get(f"{server.url}/sign-in?key={key}", headers={"Cookie": "clinloop=of-somebody"})
        assert answer.status_code == 303
        hello: dict[str, Any] = {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "a", "version": "1"},
        }
        opening = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
        begun = httpx2.post(f"{server.url}/mcp", json=opening, headers={"Accept": ACCEPT})
        _, secret = services.store.create_token("codex", "agent", days=1)
        bearer = {"Authorization": f"Bearer {secret}"}
        assert httpx2.get(f"{server.url}/?token={secret}", headers=bearer).status_code == 403
        server.stop()
        lines = server.text.splitlines()
    requests = [line for line in lines if " clinloop.http INFO 127.0.0.1 " in line]
    assert len(requests) == 3
    assert all(
        re.fullmatch(r"\S+ \S+ clinloop.http INFO 127.0.0.1 '[^']*' [A-Z]+ \S+ \d+ \d+ ms", line) for line in requests
    )
    served = "\n".join(line for line in lines if not line.startswith("Page"))
    for hidden in (key, secret, answer.cookies["clinloop"], begun.headers["mcp-session-id"], "of-somebody"):
        assert hidden not in served


def test_a_client_that_does_not_send_its_request_is_dropped(services: Services) -> None:
    with Server(services.settings.state) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as slow:
            slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-")
            begun = time.monotonic()
            assert slow.recv(100) == b""
            assert time.monotonic() - begun < connections.HEAD_S + 8
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as long:
            long.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: " + b"a" * 40_000)
            assert b" 400 " in long.recv(100)


def test_a_taken_port_is_named_and_interrupting_ends_the_server(services: Services, tmp_path: Path) -> None:
    with Server(services.settings.state) as server:
        with pytest.raises(AssertionError, match="choose another port"):
            Server(services.settings.state, log="taken.log", address=f"127.0.0.1:{server.port}")
        assert server.stop(signal.SIGINT) < 6
        assert server.process.returncode == 0


def test_a_server_on_ipv6_answers_to_its_address(services: Services) -> None:
    with Server(services.settings.state, address="[::1]:0") as server:
        assert httpx2.get(f"{server.url}/healthz").text == "ok\n"
        assert httpx2.get(f"{server.url}/healthz", headers={"Host": "evil"}).status_code == 421


def test_a_service_serves_on_its_socket_and_over_http_and_ends_both(services: Services, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from clinloop.services import Services; from clinloop.settings import load_settings; "
        "from clinloop.listen import serve_socket; from clinloop.web.serve import beside\n"
        "services = Services(load_settings(Path(sys.argv[1]), sandbox='none'), accept_no_isolation=True)\n"
        "with beside(services, '127.0.0.1:0'): serve_socket(services, Path(sys.argv[2]))"
    )
    path, log = tmp_path / "clinloop.sock", tmp_path / "both.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", code, str(services.settings.state), str(path)], stdout=file, stderr=file
        )
    try:
        deadline = time.monotonic() + 90
        while "startup complete" not in log.read_text(encoding="utf-8") or not path.exists():
            assert time.monotonic() < deadline and process.poll() is None, log.read_text(encoding="utf-8")
            time.sleep(0.1)
        url = re.findall(r"serving on (http://\S+)", log.read_text(encoding="utf-8"))[0]
        assert httpx2.get(f"{url}/healthz").text == "ok\n"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert time.monotonic() - begun < 8
        assert not path.exists()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


async def test_who_does_not_take_an_answer_is_dropped_without_a_fault_of_the_server(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = "import sys; from clinloop.web import limits; limits.SEND_S = 1.0; limits.STRANGER_BURST = 1e6; from clinloop.cli import main; main()"
    monkeypatch.setattr(serving, "COMMAND", [sys.executable, "-I", "-c", hasty, *COMMAND[4:]])
    with Server(services.settings.state) as server:
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", server.port))
            request = f"GET /static/htmx.min.js HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()
            deaf.sendall(request * 500)  # their answers, 24 MB, are more than all buffers hold
            gone = select.poll()
            gone.register(deaf, 0)  # errors and the end are always told
            assert gone.poll(20_000)
        assert httpx2.get(f"{server.url}/healthz").status_code == 200
        server.stop()
        assert "Traceback" not in server.text and "ERROR" not in server.text, server.text[-2000:]


async def test_the_last_use_of_a_token_is_written_and_survives_the_server(services: Services) -> None:
    token, secret = services.store.create_token("codex-7", "agent", days=1)
    with Server(services.settings.state) as server:
        async with with_token(secret) as http, agent_of(server, ERAS[0], http) as client:
            await client.list_tools()
        assert server.stop() < 5
    (found,) = [each for each in services.store.tokens() if each.id == token.id]
    assert found.last_used_at is not None and found.last_used_at > token.created_at
