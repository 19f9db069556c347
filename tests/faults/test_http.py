"""Clients, tokens and servers over HTTP go away in the middle of what they do: runs go on, budgets are exact, nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from .http_server import ERAS, LEGACY, MODERN, Server, call, faults, modern, modern_headers
from .lab import Lab, predict_code, train_code, until
from .wire import Reply, WireClient

pytestmark = pytest.mark.anyio
TRAIN = train_code("(session.out / 'begun').touch()\ntime.sleep(3)\nsession.checkpoint.write_text('weights')")
LONG = train_code("(session.out / 'begun').touch()\ntime.sleep(15)\nsession.checkpoint.write_text('weights')")
QUICK = train_code("time.sleep(0.3)\nsession.checkpoint.write_text('weights')")
HYPOTHESIS = "It is worth trying because nothing else was tried."


@pytest.fixture
def server(lab: Lab) -> Iterator[Server]:
    with Server(lab.services.settings.state) as started:
        yield started
        assert faults(started.log) == []


def owned(lab: Lab, name: str, **code: Any) -> str:
    """Create a task of an agent who has a token."""
    task = lab.task(**code)
    with lab.store._database.transaction() as connection:  # pyright: ignore[reportPrivateUsage]
        connection.execute("UPDATE task SET owner = ? WHERE id = ?", (name, task))
    return task


def is_over(lab: Lab, server: Server, task: str) -> None:
    """Check that the run ended as if nothing had happened, and was charged once."""
    run = lab.store.run(task, "run0")
    assert lab.end(run, poll=False).status == "succeeded"
    assert lab.charged(task) == 1
    lab.check(task)
    assert server.answers()


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_that_hangs_up_in_a_wait_changes_nothing_and_leaves_nothing(
    lab: Lab, server: Server, era: str
) -> None:
    task = lab.task(LONG)
    async with server.client(era) as client:
        await call(client, "run_training", task_id=task)
        await anyio.to_thread.run_sync(lab.reach, lab.store.run(task, "run0"), "training")
    until(lambda: server.n_sockets() == 0, 10)
    before, threads = server.n_descriptors(), _n_threads(server)

    for _ in range(12):
        with anyio.move_on_after(0.4):
            async with server.client(era) as client:
                await client.call_tool("read_validation", {"task_id": task, "wait": 60})
                pytest.fail("the wait was over before its client had gone")

    await anyio.to_thread.run_sync(is_over, lab, server, task)
    until(lambda: server.n_sockets() == 0, 20)
    until(lambda: server.n_descriptors() <= before + 2, 10)  # connections to the store
    assert _n_threads(server) <= threads + 12


async def test_an_abrupt_reset_of_many_connections_in_a_wait_leaves_nothing(lab: Lab, server: Server) -> None:
    task = lab.task(TRAIN)
    async with server.client() as client:
        await call(client, "run_training", task_id=task)
        await anyio.to_thread.run_sync(lab.reach, lab.store.run(task, "run0"), "training")
    message = modern("tools/call", name="read_validation", arguments={"task_id": task, "wait": 60})
    headers = modern_headers("tools/call", "read_validation")
    request = server.request(json.dumps(message).encode(), **{k.replace("-", "_"): v for k, v in headers.items()})
    waiting = [server.connection() for _ in range(40)]
    for connection in waiting:
        connection.sendall(request)
    assert server.answers()
    for connection in waiting:
        connection.close()
    until(lambda: server.n_sockets() == 0, 20)
    await anyio.to_thread.run_sync(is_over, lab, server, task)


def _n_threads(server: Server) -> int:
    return len(list(Path(f"/proc/{server.pid}/task").iterdir()))


@pytest.mark.parametrize("era", ERAS)
async def test_a_token_that_is_revoked_in_a_wait_opens_nothing_more_and_its_run_goes_on(
    lab: Lab, server: Server, era: str
) -> None:
    token = server.token(name="codex")
    task = owned(lab, "codex", train=TRAIN)
    async with server.client(era, token) as client:
        await call(client, "run_training", task_id=task)

        async def revoke() -> None:
            await anyio.to_thread.run_sync(lab.reach, lab.store.run(task, "run0"), "training")
            await anyio.to_thread.run_sync(server.revoke, "codex")

        async with anyio.create_task_group() as group:
            group.start_soon(revoke)
            with anyio.fail_after(40):  # cut or answered, but not for ever
                try:
                    await client.call_tool("read_validation", {"task_id": task, "wait": 20})
                except Exception as cut:
                    assert "Traceback" not in str(cut)
    status = httpx2.post(
        f"{server.url}/mcp", json=modern("tools/list"), headers=modern_headers("tools/list", token=token)
    ).status_code
    assert status == 401
    await anyio.to_thread.run_sync(is_over, lab, server, task)
    async with server.client(
        era, server.token(name="codex")
    ) as client:  # a new token of the same agent finds all again
        assert (await call(client, "read_validation", task_id=task, run="run0", wait=0))["run"]["status"] == "succeeded"


@pytest.mark.parametrize("era", ERAS)
async def test_a_server_that_is_told_to_stop_in_a_wait_stops_and_the_run_is_found_again(
    lab: Lab, server: Server, era: str
) -> None:
    task = lab.task(TRAIN)
    async with anyio.create_task_group() as group:

        async def wait() -> None:
            try:
                async with server.client(era) as client:
                    await call(client, "run_training", task_id=task)
                    await client.call_tool("read_validation", {"task_id": task, "wait": 60})
            except Exception as cut:
                assert "Traceback" not in str(cut)

        group.start_soon(wait)
        until_run = lambda: any(run.status == "training" for run in lab.store.runs(task))  # noqa: E731
        await anyio.to_thread.run_sync(until, until_run, 30)
        await anyio.sleep(0.3)
        code = await anyio.to_thread.run_sync(server.stop, 15)
        assert code in (0, -15), server.log
        group.cancel_scope.cancel()
    assert faults(server.log) == []
    server.start()
    async with server.client(era) as client:
        seen = await call(client, "read_validation", task_id=task, run="run0", wait=30)
        while seen["run"]["status"] != "succeeded":
            seen = await call(client, "read_validation", task_id=task, run="run0", wait=30)
    await anyio.to_thread.run_sync(is_over, lab, server, task)


async def test_a_server_that_is_killed_in_a_run_loses_nothing(lab: Lab, server: Server) -> None:
    task = lab.task(TRAIN)
    async with server.client() as client:
        await call(client, "run_training", task_id=task)
        await anyio.to_thread.run_sync(lab.reach, lab.store.run(task, "run0"), "training")
        server.kill()
    server.start()
    await anyio.to_thread.run_sync(is_over, lab, server, task)


# several servers ------------------------------------------------------------------------------------------------------


class HttpClient:
    """Calls tools over HTTP in the stateless era, as WireClient does over pipes; a server that is gone gives no answer."""

    def __init__(self, server: Server, token: str) -> None:
        self._server, self._token = server, token
        self._connection = httpx2.Client(timeout=60)
        self.n_deaths = 0

    def call(self, tool: str, **arguments: Any) -> Reply:
        message = modern("tools/call", name=tool, arguments=arguments)
        headers = modern_headers("tools/call", tool, self._token)
        try:
            answer = self._connection.post(f"{self._server.url}/mcp", json=message, headers=headers)
        except httpx2.TransportError:
            self.n_deaths += 1
            return Reply(None)
        assert answer.status_code == 200, answer.text
        text = answer.text
        if "event-stream" in answer.headers["content-type"]:
            text = next(line[5:] for line in text.splitlines() if line.startswith("data:") and '"result"' in line)
        result = json.loads(text)["result"]
        if result.get("isError"):
            return Reply(None, result["content"][0]["text"])
        return Reply(result["structuredContent"])

    def close(self) -> None:
        self._connection.close()


class Told:
    """What the clients were told."""

    def __init__(self) -> None:
        self.runs = defaultdict[tuple[str, str], set[str]](set)
        self.new = list[tuple[str, str]]()
        self.inserted = defaultdict[str, set[str]](set)
        self.refusals = list[str]()
        self.n_deaths = 0


def work(client: WireClient | HttpClient, tasks: list[str], number: int, told: Told) -> None:
    """Edit, smoke-test and train, in tasks that all share and in one of its own."""
    for turn in range(2):
        for task in tasks:
            line = f"# {number}-{turn}"
            edit = {"operation": "insert", "path": "notes.py", "line": 0, "text": line}
            if client.call("edit_workspace", task_id=task, **edit).result:
                told.inserted[task].add(line)
            for mode in ("full", "smoke"):
                request = f"{mode}-{turn}"
                words = {"mode": mode, "hypothesis": HYPOTHESIS, "request_id": request}
                reply = client.call("run_training", task_id=task, **words)
                told.refusals += [reply.refusal] * bool(reply.refusal)
                if started := reply.result:
                    told.runs[task, request].add(started["run"]["run"])
                    told.new += [(task, started["run"]["run"])] * started["is_new"]
            client.call("read_validation", task_id=task, wait=1)
    told.n_deaths += client.n_deaths
    client.close()


async def test_two_http_and_three_stdio_servers_share_one_state_folder_and_the_budget_is_exact(
    lab: Lab, server: Server
) -> None:
    state, told = lab.services.settings.state, Told()
    tokens = [server.token(name=f"agent {number}") for number in range(2)]
    shared = [lab.task(QUICK, predict_code("time.sleep(0.1)"))]
    own = [owned(lab, f"agent {number}", train=QUICK) for number in range(2)]
    for task in (*shared, *own):
        lab.edit(task, "notes.py", "# the end\n")

    with Server(state) as other, ThreadPoolExecutor(8) as pool:
        over = threading.Event()

        def kill_now_and_then() -> None:
            while not over.wait(3):
                server.kill()
                server.start()

        killer = threading.Thread(target=kill_now_and_then)
        killer.start()
        try:
            made = [pool.submit(work, WireClient(state), shared + own, number, told) for number in range(3)]
            for number, token in enumerate(tokens):
                made += [
                    pool.submit(work, HttpClient(at, token), [own[number]], 10 + place, told)
                    for place, at in enumerate((server, other))
                ]
            for done in made:
                done.result()
        finally:
            over.set()
            killer.join()
        assert faults(other.log) == []
        assert other.answers() and server.answers()

    for task in (*shared, *own):
        for run in lab.store.runs(task):
            lab.end(run)
        lines = (lab.services.state.task(task).workspace / "notes.py").read_text(encoding="utf-8").splitlines()
        assert len(lines) == len(set(lines)), lines
        assert told.inserted[task] <= set(lines), "an edit that was reported is lost"
        known = lab.store.runs(task)
        assert len({run.request_id for run in known}) == len(known)
        assert [run for run in known if run.status == "lost"] == []
        assert lab.charged(task) + lab.charged(task, "smoke") == len(known)
        lab.check(task)
    assert all(len(names) == 1 for names in told.runs.values()), told.runs
    assert len(told.new) == len(set(told.new)), "one start was told to two clients as theirs"
    assert told.n_deaths > 0, "nobody was killed"
    assert [text for text in told.refusals if "fault of the server" in text or "locked" in text] == []


# those who do not read or write -----------------------------------------------------------------------------------------


async def test_a_client_that_never_reads_takes_bounded_memory_and_holds_up_nobody(lab: Lab, server: Server) -> None:
    task = lab.task()
    lab.edit(task, "big.py", "# " + "x" * 60 + "\n" + "# line\n" * 800)
    message = modern(
        "tools/call", name="edit_workspace", arguments={"task_id": task, "operation": "view", "path": "big.py"}
    )
    headers = modern_headers("tools/call", "edit_workspace")
    request = server.request(json.dumps(message).encode(), **{k.replace("-", "_"): v for k, v in headers.items()})
    before = server.memory()
    deaf = [server.connection() for _ in range(10)]
    try:
        for connection in deaf:
            connection.setblocking(False)
        for _ in range(300):
            for connection in deaf:
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    connection.send(request * 4)
        await anyio.sleep(3)
        assert server.answers()
        async with server.client() as client:
            assert (await call(client, "read_validation", task_id=task, wait=0))["status"] == "open"
        assert server.memory() - before < 120 << 20
    finally:
        for connection in deaf:
            connection.close()
    until(lambda: server.n_sockets() == 0, 60)


async def test_streams_of_the_handshake_era_that_nobody_reads_are_dropped_with_their_clients(
    lab: Lab, server: Server
) -> None:
    before = server.n_descriptors()
    async with server.client(LEGACY) as client:
        assert len((await client.list_tools()).tools) == 6
    for _ in range(20):
        with server.connection() as connection:
            hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
            body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}).encode()
            connection.sendall(server.request(body))
            head = connection.recv(65536).decode().lower()
            session = head.partition("mcp-session-id: ")[2].partition("\r\n")[0]
            assert session, head
            connection.sendall(server.request(b"", method="GET", Mcp_Session_Id=session, Content_Length=""))
    until(lambda: server.n_sockets() == 0, 20)
    assert server.n_descriptors() <= before + 4
    assert server.answers()


async def test_clients_that_send_a_byte_now_and_then_hold_up_nobody(server: Server) -> None:
    slow = [server.connection() for _ in range(150)]
    try:
        for connection in slow:
            connection.sendall(b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1")
        for byte in (b":", b"8", b"0"):
            for connection in slow:
                with contextlib.suppress(ConnectionError):  # cut off, which is as good
                    connection.sendall(byte)
            assert server.answers()
        async with server.client(MODERN) as client:
            assert len((await client.list_tools()).tools) == 6
    finally:
        for connection in slow:
            connection.close()
    until(lambda: server.n_sockets() == 0, 20)
