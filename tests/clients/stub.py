"""A model that follows a script, behind the loopback stand-ins of the two APIs that Claude Code and Codex talk to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Script = Generator[tuple[str, dict[str, Any]], str, str]
"""Yields (tool, arguments), is sent what the model was shown as the result, returns the last words."""


class Model:
    """Plays a script: one tool call per turn."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._started = False
        self._lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        """Bodies of the turns in which tools were offered."""
        self.others: list[str] = []
        """Other requests."""
        self.shown: list[str] = []
        """What the model was shown as the result of each call."""
        self.fault: BaseException | None = None

    def turn(self, body: dict[str, Any], result: str | None) -> tuple[str, dict[str, Any]] | str:
        """Return the next call, or the last words."""
        with self._lock:
            self.requests.append(body)
            try:
                if not self._started:
                    self._started = True
                    return next(self._script)
                assert result is not None, f"the client sent no result: {json.dumps(body['messages'])[:3000]}"
                self.shown.append(result)
                return self._script.send(result)
            except StopIteration as end:
                return str(end.value)
            except AssertionError as error:
                self.fault = error
                return f"The script failed: {error}"


def _messages(model: Model, body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Answer a request of the Messages API."""
    offered = {tool["name"] for tool in body.get("tools", [])}
    answer: Any = "ok"
    if not any(name.startswith("mcp__clinloop__") for name in offered):
        model.others.append(f"messages without our tools: {sorted(offered)[:40]}")
        if "ToolSearch" in offered and len(model.others) < 30:  # on a busy machine the server is not connected yet
            time.sleep(2)
            answer = ("ToolSearch", {"query": "select:mcp__clinloop__inspect_dataset", "max_results": 1})
    else:
        result = _last_result(body["messages"])
        answer = model.turn(body, result)
    number = len(model.requests) + len(model.others)
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    yield "message_start", {"message": message}
    if isinstance(answer, str):
        yield "content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}
        yield "content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": answer}}
    else:
        name = f"mcp__clinloop__{answer[0]}" if answer[0].islower() else answer[0]  # its own: Read, Bash, …
        call = {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": {}}
        yield "content_block_start", {"index": 0, "content_block": call}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(answer[1])}
        yield "content_block_delta", {"index": 0, "delta": delta}
    yield "content_block_stop", {"index": 0}
    reason = "end_turn" if isinstance(answer, str) else "tool_use"
    yield "message_delta", {"delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}
    yield "message_stop", {}


def _last_result(messages: list[dict[str, Any]]) -> str | None:
    """Return what the newest result of a tool shows; reminders of the client may stand after it."""
    for message in reversed(messages):
        for block in reversed(message["content"] if isinstance(message["content"], list) else []):
            if block.get("type") == "tool_result":
                content = block.get("content", "")
                return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    return None


def _responses(model: Model, body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Answer a request of the Responses API."""
    last = body["input"][-1]
    output = last.get("output") if last.get("type") == "function_call_output" else None
    if isinstance(output, list):
        output = "".join(part.get("text", "") for part in output)
    answer = model.turn(body, output)
    number = len(model.requests)
    response = {"id": f"resp_{number}"}
    yield "response.created", {"response": response}
    if isinstance(answer, str):
        item: dict[str, Any] = {
            "type": "message",
            "role": "assistant",
            "id": f"msg_{number}",
            "content": [{"type": "output_text", "text": answer}],
        }
    else:
        own = {tool.get("name") for tool in body.get("tools", []) if tool.get("type") == "function"}
        item = {
            "type": "function_call",
            "call_id": f"call_{number}",
            **({} if answer[0] in own else {"namespace": "mcp__clinloop"}),
            "name": answer[0],
            "arguments": json.dumps(answer[1]),
        }
    yield "response.output_item.done", {"item": item}
    usage = {
        "input_tokens": 1,
        "input_tokens_details": None,
        "output_tokens": 1,
        "output_tokens_details": None,
        "total_tokens": 2,
    }
    yield "response.completed", {"response": {**response, "usage": usage}}


_APIS: dict[str, Callable[[Model, dict[str, Any]], Iterator[tuple[str, dict[str, Any]]]]] = {
    "/v1/messages": _messages,
    "/v1/responses": _responses,
}


@contextmanager
def served(model: Model) -> Generator[str]:
    """Serve a model on loopback and give its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            api = _APIS.get(self.path.partition("?")[0])
            if api is None:
                model.others.append(f"POST {self.path}")
                self._send(404, "application/json", b"{}")
                return
            events = api(model, json.loads(body))
            text = "".join(f"event: {kind}\ndata: {json.dumps({'type': kind, **value})}\n\n" for kind, value in events)
            self._send(200, "text/event-stream", text.encode())

        def do_GET(self) -> None:
            model.others.append(f"GET {self.path}")
            self._send(404, "application/json", b"{}")

        do_HEAD = do_GET

        def _send(self, status: int, kind: str, data: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
