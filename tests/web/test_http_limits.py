"""What is too large, too much, too often or too slow is refused, and nobody else notices."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinloop.web import limits
from clinloop.web.limits import Buckets, Room

from .conftest import Visitor, Web
from .test_http_access import open_session

DOCS = Path(__file__).parents[2] / "docs" / "http.md"


def test_a_body_may_have_so_many_bytes(web: Web) -> None:
    large = b"x" * (limits.FORM_BODY_BYTES + 1)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert web.nobody().request("POST", "/sign-in", content=large, headers=form).status_code == 413
    assert web.nobody().request("POST", "/sign-in", content=(part for part in [large]), headers=form).status_code == 413
    message = b'{"a": "' + b"x" * limits.MCP_BODY_BYTES + b'"}'
    assert web.codex.request("POST", "/mcp", content=message).status_code == 413
    assert web.codex.rpc(
        "tools/call", {"name": "none", "arguments": {"a": "x" * (limits.FORM_BODY_BYTES * 2)}}
    ).is_success


@pytest.mark.parametrize("length", ["-1", "x", "9" * 40, "1e3"])
def test_a_length_that_is_none_is_refused(web: Web, length: str) -> None:
    answer = web.nobody().request("POST", "/sign-in", content=b"a=b", headers={"Content-Length": length})
    assert answer.status_code == 413


def test_heads_and_addresses_are_bounded(web: Web) -> None:
    many = {f"X-{number}": "a" for number in range(limits.HEADERS_MOST)}
    assert web.nobody().get("/healthz", headers=many).status_code == 431
    assert web.nobody().get("/healthz", headers={"X-Long": "a" * limits.HEAD_BYTES}).status_code == 431
    assert web.nobody().get("/healthz?" + "a" * limits.URL_BYTES).status_code == 414
    assert web.nobody().get("/healthz").status_code == 200


def test_one_who_asks_too_often_waits_and_others_do_not(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(limits.time, "monotonic", lambda: clock[0])
    rate = int(web.services.settings.requests_per_s)
    found = [web.codex.rpc("ping", {}).status_code for _ in range(2 * rate + 1)]
    assert found[-1] == 429 and 429 not in found[:-1]
    assert web.codex.rpc("ping", {}).headers["retry-after"] == "1"
    assert web.claude.rpc("ping", {}).status_code != 429
    clock[0] += 1.0
    assert web.codex.rpc("ping", {}).status_code != 429


def test_strangers_are_counted_by_address(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.time, "monotonic", lambda: 100.0)
    wrong = Visitor(web.client, token="no")
    found = {wrong.rpc("ping", {}).status_code for _ in range(int(limits.STRANGER_BURST))}
    assert found == {401}
    assert wrong.rpc("ping", {}).status_code == 429
    assert web.nobody().get("/healthz").status_code == 429
    assert web.codex.rpc("ping", {}).status_code != 429


def test_a_bucket_fills_again_and_forgets_those_used_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(limits.time, "monotonic", lambda: clock[0])
    buckets = Buckets(2.0, 3.0, keys=2)
    assert [buckets.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    clock[0] += 0.5
    assert [buckets.take("a") for _ in range(2)] == [0.0, 0.5]
    clock[0] += 60
    assert [buckets.take("a") for _ in range(4)].count(0.0) == 3
    buckets.take("b")
    buckets.take("c")
    assert buckets.take("a") == 0.0  # forgotten, so it is full again


def test_room_is_kept_for_people() -> None:
    room, held = Room(), []
    for number in range(limits.AT_ONCE_AGENTS):
        held.append(room.one(f"agent{number % 4}", is_agent=True))
        held[-1].__enter__()
    assert room.is_full("another", is_agent=True)
    assert not room.is_full("Dr. Weber", is_agent=False)
    for one in held[::2]:
        one.__exit__(None, None, None)
    assert not room.is_full("another", is_agent=True)
    each = [room.one("greedy", is_agent=True) for _ in range(limits.AT_ONCE_EACH)]
    for one in each:
        one.__enter__()
    assert room.is_full("greedy", is_agent=True)


def test_a_principal_opens_so_many_sessions(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clinloop.web.watch.SESSIONS_EACH", 2)
    first = open_session(web.codex)
    open_session(web.codex)
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    opening = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
    assert web.codex.request("POST", "/mcp", json=opening).status_code == 429
    open_session(web.claude)
    assert web.codex.request("DELETE", "/mcp", headers={"Mcp-Session-Id": first}).status_code == 200
    open_session(web.codex)


async def _nothing() -> dict[str, Any]:
    await anyio.sleep(60)
    return {}


@pytest.mark.anyio
async def test_a_body_that_does_not_arrive_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_S", 0.1)
    answer = await limits.read_body({"type": "http", "headers": []}, _nothing, 100)
    assert getattr(answer, "status_code", 0) == 408


def test_the_documented_limits_are_those_of_the_code() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| ([\d. ]+)", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    assert len(table) >= 14
    for name, value in table.items():
        assert float(value.replace(" ", "")) == float(getattr(limits, name)), name
