"""The disk of the state folder is full while a server serves from it, and clocks jump: what cannot be done is refused, then all goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.requests import HTTPConnection

from clinloop.services import Services
from clinloop.store import database, tokens
from clinloop.web import signing_in
from clinloop.web.signing_in import COOKIE, SignIn

from .http_server import Server, call, faults, modern, modern_headers
from .lab import Lab
from .test_full_disk import Disk
from .test_full_disk import disk as disk
from .test_full_disk import small_lab as small_lab

pytestmark = pytest.mark.anyio


@pytest.fixture
def small_server(small_lab: Lab, tmp_path: Path) -> Iterator[Server]:
    """A server whose state lies on the small disk, with its log elsewhere."""
    server = Server(small_lab.services.settings.state)
    server.log_folder = tmp_path
    with server:
        yield server


def post(server: Server, tool: str, token: str, **arguments: Any) -> httpx2.Response:
    message = modern("tools/call", name=tool, arguments=arguments)
    headers = modern_headers("tools/call", tool, token)
    return httpx2.post(f"{server.url}/mcp", json=message, headers=headers, timeout=60)


async def test_a_server_on_a_full_disk_refuses_in_words_and_goes_on_when_there_is_room(
    small_lab: Lab, small_server: Server, disk: Disk
) -> None:
    server, task, token = small_server, small_lab.task(), small_server.token(name="codex")
    with small_lab.store._database.transaction() as connection:  # pyright: ignore[reportPrivateUsage]
        connection.execute("UPDATE task SET owner = 'codex' WHERE id = ?", (task,))
    assert post(server, "edit_workspace", token, task_id=task, operation="view", path="train.py").status_code == 200
    disk.fill()
    edit = {"task_id": task, "operation": "create", "path": "new.py", "text": "# " + "x" * 50_000}
    for tool, arguments in (
        ("edit_workspace", edit),
        ("run_training", {"task_id": task}),
        ("read_validation", {"task_id": task, "wait": 0}),
    ):
        answer = post(server, tool, token, **arguments)
        assert answer.status_code in (200, 401, 503), answer.text
        assert str(server.state) not in answer.text and "Traceback" not in answer.text
        if answer.status_code == 200 and tool != "read_validation":
            result = json.loads(answer.text)["result"]
            assert result["isError"] and "disk" in result["content"][0]["text"], result
    assert server.answers()
    ready = httpx2.get(f"{server.url}/readyz", timeout=30)
    assert ready.status_code in (200, 503)
    disk.free()

    async with server.client(token=token) as client:
        assert (await call(client, "edit_workspace", **edit))["revision"]
        await call(client, "run_training", task_id=task)
    for run in small_lab.store.runs(task):
        assert small_lab.end(run).status == "succeeded"
    assert small_lab.charged(task) == len(small_lab.store.runs(task))
    small_lab.check(task)
    assert [line for line in faults(server.log) if "locked" in line] == []


class Clock:
    """The clock of the wall, which jumps; the monotonic one goes on."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Generator[Clock]:
    made = Clock()

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + made.ahead

    class Time:
        monotonic = staticmethod(time.monotonic)

        @staticmethod
        def time() -> float:
            return time.time() + made.ahead.total_seconds()

    monkeypatch.setattr(database, "datetime", Jumping)
    monkeypatch.setattr(tokens, "datetime", Jumping)
    monkeypatch.setattr(signing_in, "time", Time)
    yield made


def request(**headers: str) -> HTTPConnection:
    fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return HTTPConnection({"type": "http", "headers": fields, "path": "/", "query_string": b""})


def test_tokens_and_cookies_end_by_the_clock_of_the_wall_and_a_jump_back_does_not_revive_what_was_revoked(
    services: Services, clock: Clock
) -> None:
    store, sign_in = services.store, SignIn(services)
    row, secret = store.create_token("Dr. Who", "clinician", days=1)
    cookie = sign_in.session(secret)
    assert cookie

    def is_let_in() -> tuple[bool, bool]:
        bearer = sign_in.caller(request(Authorization=f"Bearer {secret}"))
        person = sign_in.caller(request(Cookie=f"{COOKIE}={cookie}"))
        return bearer is not None, person is not None

    assert is_let_in() == (True, True)
    clock.ahead = timedelta(hours=13)
    assert is_let_in() == (True, False), "a cookie lasts twelve hours"
    clock.ahead = timedelta(days=1, seconds=5)
    assert is_let_in() == (False, False)
    clock.ahead = timedelta(days=-400)
    assert is_let_in() == (True, True), "a clock that was set back lets in what is valid by it"
    store.revoke_token(row.id)
    assert is_let_in() == (False, False)
    clock.ahead = timedelta(days=-4000)
    assert is_let_in() == (False, False)
    clock.ahead = timedelta()
    assert is_let_in() == (False, False)
