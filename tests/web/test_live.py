"""Live pages: watchers share one poll, get what has changed and no more, and end when they should."""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest

from clinloop import clinician
from clinloop.services import Services
from clinloop.web.app import build
from clinloop.web.live import Live
from clinloop.web.signing_in import COOKIE

from .browser.stage import Server, Stage, until
from .conftest import HOST


class Watcher:
    """A browser that reads a stream."""

    def __init__(self) -> None:
        self.text = ""
        self.is_slow = False
        self._gone = anyio.Event()
        self._asked = False

    def leave(self) -> None:
        self._gone.set()

    async def receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if self.is_slow:
            await anyio.sleep_forever()
        self.text += message.get("body", b"").decode()

    @property
    def events(self) -> list[str]:
        return re.findall(r"^event: (\S+)$", self.text, re.MULTILINE)


@asynccontextmanager
async def watching(app: Any, cookie: str, path: str, count: int) -> AsyncGenerator[list[Watcher]]:
    """Let many watch a page until the block ends."""
    watchers = [Watcher() for _ in range(count)]
    path, _, query = path.partition("?")
    scope: dict[str, Any] = {
        "type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": path, "raw_path": path.encode(),
        "query_string": query.encode(), "root_path": "", "client": ("127.0.0.1", 50_000), "server": ("127.0.0.1", 8765),
        "headers": [(b"host", HOST.encode()), (b"cookie", f"{COOKIE}={cookie}".encode())],
    }  # fmt: skip
    async with anyio.create_task_group() as group:
        for watcher in watchers:
            group.start_soon(app, dict(scope), watcher.receive, watcher.send)
        yield watchers
        for watcher in watchers:
            watcher.leave()
        with anyio.move_on_after(5):
            while app.state.live.polls:
                await anyio.sleep(0.02)
        group.cancel_scope.cancel()


async def reached(condition: Any, within_s: float = 60) -> None:
    with anyio.fail_after(within_s):
        while not condition():
            await anyio.sleep(0.02)


@pytest.fixture
def stage(services: Services) -> Stage:
    return Stage(services)


@pytest.fixture
def app(services: Services) -> Any:
    return build(services, [HOST])


def cookie_of(services: Services, app: Any) -> tuple[str, str]:
    """Return the cookie of a clinician who signed in, and the id of the token."""
    row, secret = services.store.create_token("Dr. Weber", "clinician", days=1)
    cookie = app.state.sign_in.session(secret)
    assert cookie
    return cookie, row.id


@pytest.mark.anyio
async def test_a_hundred_watchers_of_a_task_share_one_poll_and_all_get_the_change(
    stage: Stage, services: Services, app: Any
) -> None:
    task = stage.task()
    cookie, _ = cookie_of(services, app)
    async with watching(app, cookie, f"/tasks/{task}/live", 100) as watchers:
        await reached(lambda: all("budget" in watcher.events for watcher in watchers))
        live: Live = app.state.live
        assert live.polls == 1
        await anyio.to_thread.run_sync(lambda: clinician.extend_budget(stage.doctor, task, 3, "It was close."))
        await reached(lambda: all("11 of 11" in watcher.text for watcher in watchers))
    assert app.state.live.polls == 0


@pytest.mark.anyio
async def test_a_page_that_is_up_to_date_gets_only_what_changes(stage: Stage, services: Services, app: Any) -> None:
    task = stage.task()
    cookie, _ = cookie_of(services, app)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=f"http://{HOST}") as client:
        page = (await client.get(f"/tasks/{task}", headers={"cookie": f"{COOKIE}={cookie}"})).text
    address = re.search(r'sse-connect="([^"]*)"', page)
    assert address
    async with watching(app, cookie, address.group(1), 1) as (watcher,):
        await reached(lambda: "retry" in watcher.text)
        await anyio.sleep(1.5)
        assert watcher.events == []
        await anyio.to_thread.run_sync(lambda: clinician.write_note(stage.doctor, task, "Look at dark ones."))
        await reached(lambda: "Look at dark ones." in watcher.text)
        assert sorted(watcher.events) == ["notes", "trust"]  # the note, and the new head of the ledger


@pytest.mark.anyio
async def test_who_reads_slowly_holds_up_nobody_else(stage: Stage, services: Services, app: Any) -> None:
    task = stage.task()
    cookie, _ = cookie_of(services, app)
    async with watching(app, cookie, f"/tasks/{task}/live", 3) as watchers:
        await reached(lambda: all("budget" in watcher.events for watcher in watchers))
        watchers[0].is_slow = True
        for number in range(3):
            await anyio.to_thread.run_sync(lambda: clinician.extend_budget(stage.doctor, task, 1, "More."))
            said = f"{9 + number} of {9 + number}"
            await reached(lambda said=said: all(said in watcher.text for watcher in watchers[1:]))
        assert "9 of 9" not in watchers[0].text


def test_a_stream_ends_when_its_token_is_revoked_and_when_the_server_stops(
    stage: Stage, services: Services, tmp_path: Any
) -> None:
    task = stage.task()
    tokens = [services.store.create_token(name, "clinician", days=1) for name in ("Dr. Weber", "Dr. Roth")]
    server = Server(services.settings.state, tmp_path / "log.txt")
    try:
        streams: list[Any] = []
        with httpx2.Client(base_url=server.address, timeout=30) as client:
            for _, secret in tokens:
                request = client.build_request(
                    "GET", f"/tasks/{task}/live", headers={"Authorization": f"Bearer {secret}"}
                )
                streams.append(client.send(request, stream=True))
            parts = [stream.iter_text() for stream in streams]
            assert all("retry" in next(part) for part in parts)
            services.store.revoke_token(tokens[0][0].id)
            _drain(parts[0])
            assert until(lambda: "event: budget" in next(parts[1]) or True, 10)
            server.process.terminate()
            _drain(parts[1])
            for stream in streams:
                stream.close()
    finally:
        assert server.stop() in (0, -signal.SIGTERM)


def _drain(parts: Any) -> None:
    """Read a stream to its end, which the client's own time limit would turn into an error."""
    try:
        for _ in parts:
            pass
    except httpx2.RemoteProtocolError:  # cut off, as a server does that ends
        pass
