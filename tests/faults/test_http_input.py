"""Whatever is sent over HTTP, in whatever shape: an answer that says what was wrong, never a fault, a traceback or a path."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from .http_server import Server, faults, modern, modern_headers

LIMIT = 4 << 20
"""Bytes of a body that the server takes."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("input") / "state") as started:
        yield started
        assert faults(started.log) == []


def exchange(server: Server, sent: bytes) -> tuple[int, str]:
    """Send bytes and return the status and all of the answer."""
    with server.connection() as connection:
        with contextlib.suppress(OSError):  # it answers or hangs up before it has read all
            connection.sendall(sent.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        received = b""
        try:
            while part := connection.recv(65536):
                received += part
        except ConnectionError:
            pass
    text = received.decode(errors="replace")
    assert text.startswith("HTTP/"), "it hung up without a word"
    return int(text.split()[1]), text


def check(server: Server, status: int, text: str) -> None:
    """Check that an answer is a refusal that tells nothing of the server, and that it serves on."""
    assert 400 <= status < 500, text[:500]
    assert "Traceback" not in text and str(server.state) not in text, text[:2000]
    assert re.search(r'File "|/site-packages/|/server/clinloop', text) is None, text[:2000]
    assert server.answers()


def deep(n: int) -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":' + b'{"a":' * n + b"1" + b"}" * n + b"}"


BODIES = {
    "no JSON": b"this is no message",
    "half a message": b'{"jsonrpc": "2.0", "id": 1, "method": "tools/',
    "nothing": b"",
    "a number": b"7",
    "an empty list": b"[]",
    "a list of messages": json.dumps([modern("tools/list")] * 3).encode(),
    "no version": b'{"id": 1, "method": "tools/list"}',
    "another version": b'{"jsonrpc": "1.0", "id": 1, "method": "tools/list"}',
    "a number for a method": b'{"jsonrpc": "2.0", "id": 1, "method": 7}',
    "a list for params": b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": [1]}',
    "an id that is an object": b'{"jsonrpc": "2.0", "id": {}, "method": "tools/list"}',
    "no UTF-8": b'{"jsonrpc": "2.0", "id": 1, "method": "\xff\xfe"}',
    "half a surrogate": b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "\\ud800"}}',
    "a NUL": b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list\\u0000"}',
    "NaN": b'{"jsonrpc": "2.0", "id": NaN, "method": "tools/list"}',
    "a number without end": b'{"jsonrpc": "2.0", "id": ' + b"9" * 100_000 + b', "method": "tools/list"}',
    "deep": deep(10_000),
    "very deep": deep(400_000),
    "the same key twice": b'{"jsonrpc": "2.0", "jsonrpc": "1.0", "id": 1, "method": "tools/list"}',
}


@pytest.mark.parametrize("era", ["modern", "handshake"])
@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_message_is_refused(server: Server, name: str, era: str) -> None:
    version = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/list"} if era == "modern" else {}
    check(server, *exchange(server, server.request(BODIES[name], **version)))


GOOD = json.dumps(modern("tools/list")).encode()
HEADERS: dict[str, dict[str, str]] = {
    "another content type": {"Content_Type": "text/plain"},
    "no content type": {"Content_Type": ""},
    "a form": {"Content_Type": "application/x-www-form-urlencoded"},
    "a form of parts": {"Content_Type": "multipart/form-data; boundary=x"},
    "nothing that it accepts": {"Accept": "text/plain"},
    "no host": {"Host": ""},
    "another host": {"Host": "evil.example"},
    "another origin": {"Origin": "http://evil.example"},
    "no origin": {"Origin": "null"},
    "another method in the header": {"Mcp_Method": "tools/call", "MCP_Protocol_Version": "2026-07-28"},
    "a version that never was": {"MCP_Protocol_Version": "1999-01-01"},
    "a session that never was": {"Mcp_Session_Id": "f" * 32, "MCP_Protocol_Version": "2025-11-25"},
    "a token that never was": {"Authorization": "Bearer clinloop_nobody"},
    "a scheme that never was": {"Authorization": "Basic dXNlcjpwYXNz"},
    "half a credential": {"Authorization": "Bearer"},
    "a length that is no number": {"Content_Length": "many"},
    "a negative length": {"Content_Length": "-1"},
    "a header without end": {"X_Long": "x" * 200_000},
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_do_not_fit_are_refused(server: Server, name: str) -> None:
    check(server, *exchange(server, server.request(GOOD, **HEADERS[name])))


@pytest.mark.parametrize(
    "name", ["Host", "Content-Length", "Authorization", "Mcp-Session-Id", "Origin", "Transfer-Encoding", "Cookie"]
)
def test_a_header_that_is_there_twice_and_differs_opens_nothing(server: Server, name: str) -> None:
    values = {
        "Host": ("evil.example", f"127.0.0.1:{server.port}"),
        "Content-Length": ("1", str(len(GOOD))),
        "Origin": ("http://evil.example", f"http://127.0.0.1:{server.port}"),
        "Transfer-Encoding": ("chunked", "identity"),
    }.get(name, ("one", "two"))
    request = server.request(GOOD, **({name.replace("-", "_"): ""} if name in ("Host", "Content-Length") else {}))
    both = "".join(f"{name}: {value}\r\n" for value in values).encode()
    status, text = exchange(server, request.replace(b"\r\n", b"\r\n" + both, 1))
    if name == "Cookie":  # means nothing to /mcp of a server without tokens
        assert status < 500
        return
    check(server, status, text)


def test_two_credentials_are_refused_even_if_one_is_right(tmp_path: Path) -> None:
    with Server(tmp_path / "state") as server:
        token = server.token(name="two")
        headers = [*modern_headers("tools/list").items(), ("Authorization", f"Bearer {token}")]
        answer = httpx2.post(f"{server.url}/mcp", json=modern("tools/list"), headers=headers)
        assert answer.status_code == 200
        for other in ("Bearer wrong", "Basic dXNlcjpwYXNz"):
            for order in (1, -1):
                both = [("Authorization", f"Bearer {token}"), ("Authorization", other)][::order]
                answer = httpx2.post(f"{server.url}/mcp", json=modern("tools/list"), headers=headers[:-1] + both)
                assert answer.status_code in (400, 401), (other, order, answer.text)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"])
@pytest.mark.parametrize("path", ["/mcp", "/", "/sign-in", "/healthz"])
def test_a_method_that_nothing_takes_is_refused(server: Server, method: str, path: str) -> None:
    status, text = exchange(server, server.request(b"", path=path, method=method))
    if status != 303:  # to the sign-in page
        check(server, status, text)


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/%00",
        "/static/\x01",
        "/" + "a" * 60_000,
        "//evil.example/",
        "/mcp/",
        "/mcp/../",
        "*",
        "http://evil.example/",
    ],
)
def test_a_path_that_leads_nowhere_is_refused(server: Server, path: str) -> None:
    status, text = exchange(server, server.request(b"", path=path, method="GET"))
    assert "def " not in text
    if status not in (303, 307):
        check(server, status, text)
    else:
        assert "evil.example" not in text


@pytest.mark.parametrize("path", ["/mcp", "/sign-in", "/sign-out"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_without_end_is_cut_off_and_takes_no_memory(server: Server, path: str, is_chunked: bool) -> None:
    before = server.memory()
    kind = "application/json" if path == "/mcp" else "application/x-www-form-urlencoded"
    size = {"Transfer_Encoding": "chunked", "Content_Length": ""} if is_chunked else {"Content_Length": str(1 << 34)}
    block = b"token=" + b"x" * (1 << 20)
    sent = 0
    with server.connection() as connection:
        connection.sendall(server.request(b"", path=path, Content_Type=kind, **size))
        try:
            for _ in range(256):
                connection.sendall(b"%x\r\n%s\r\n" % (len(block), block) if is_chunked else block)
                sent += len(block)
        except OSError:
            pass  # it hung up
    assert server.memory() - before < 48 << 20
    assert sent < 64 << 20, "it took more than a quarter of what there was"
    assert server.answers()


def test_a_body_just_below_the_limit_is_taken(server: Server) -> None:
    text = "x" * (LIMIT - 2000)
    message = modern("tools/call", name="edit_workspace", arguments={"task_id": "none", "operation": text})
    answer = httpx2.post(f"{server.url}/mcp", json=message, headers=modern_headers("tools/call", "edit_workspace"))
    assert answer.status_code == 200
    assert answer.json()["result"]["isError"]
    assert len(answer.content) < 10_000


def test_a_prompt_that_does_not_exist_is_an_error_of_the_client(server: Server) -> None:
    message = modern("prompts/get", name="nothing")
    answer = httpx2.post(f"{server.url}/mcp", json=message, headers=modern_headers("prompts/get", "nothing"))
    assert answer.json()["error"]["code"] == -32602, answer.text
    assert "nothing" in answer.json()["error"]["message"]
