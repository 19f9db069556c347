"""The server over HTTP in this process: one started application, and visitors with the tokens of an agent, a clinician and a custodian."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from mcp_types import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, PROTOCOL_VERSION_META_KEY
from starlette.applications import Starlette
from starlette.testclient import TestClient

from clinloop.principal import Role
from clinloop.services import Services
from clinloop.web.app import build
from clinloop.web.signing_in import COOKIE

HOST = "127.0.0.1:8765"
"""Under which name the application is reached; nothing listens there."""
ERA = "2026-07-28"
ACCEPT = "application/json, text/event-stream"
SPEC = {"objective": "Tell three kinds of moles apart.", "budget": "demo", "acceptance": "paper"}
REQUEST = "Tell these three kinds of moles apart for me, please."
PEOPLE: dict[str, Role] = {
    "codex": "agent",
    "claude": "agent",
    "Dr. Weber": "clinician",
    "IT": "custodian",
}
"""Who has a token, and of which role."""


class Visitor:
    """Somebody who uses the server: an agent with its token, or a person who signed in."""

    def __init__(self, client: TestClient, *, token: str = "", cookie: str = "") -> None:
        self._client, self.token, self.cookie = client, token, cookie

    @property
    def headers(self) -> dict[str, str]:
        """What shows who this is."""
        shown = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return shown | ({"Cookie": f"{COOKIE}={self.cookie}"} if self.cookie else {})

    def request(self, method: str, path: str, **given: Any) -> httpx2.Response:
        """Send a request as it is; redirects are not followed."""
        headers = self.headers | given.pop("headers", {})
        answer = self._client.request(method, path, headers=headers, follow_redirects=False, **given)
        self._client.cookies.clear()  # each visitor has its own
        return answer

    def get(self, path: str, **given: Any) -> httpx2.Response:
        """Open a page."""
        return self.request("GET", path, **given)

    def post(self, path: str, **fields: str) -> httpx2.Response:
        """Send a form of a page, with what shows that it is of this session."""
        return self.request("POST", path, data={"csrf": self.csrf} | fields)

    @property
    def csrf(self) -> str:
        """What this session's forms carry."""
        sign_in = self._client.app.state.sign_in  # type: ignore[attr-defined]
        return sign_in.csrf(self.cookie) if self.cookie else ""

    def rpc(self, method: str, params: dict[str, Any], **headers: str) -> httpx2.Response:
        """Send one MCP request of the stateless era."""
        meta = {
            PROTOCOL_VERSION_META_KEY: ERA,
            CLIENT_INFO_META_KEY: {"name": "test", "version": "1"},
            CLIENT_CAPABILITIES_META_KEY: {},
        }
        sent = {"Accept": ACCEPT, "Mcp-Protocol-Version": ERA, "Mcp-Method": method}
        sent |= {"Mcp-Name": params["name"]} if "name" in params else {}
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params | {"_meta": meta}}
        return self.request("POST", "/mcp", json=body, headers=sent | headers)

    def raw(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool and return its result, an error or not."""
        answer = self.rpc("tools/call", {"name": tool, "arguments": arguments})
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return json.loads(answer.text)["result"]

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Return the structured content of a call that must succeed."""
        result = self.raw(tool, **arguments)
        assert not result.get("isError"), result["content"]
        return result["structuredContent"]

    def refused(self, tool: str, **arguments: Any) -> str:
        """Return the text of a call that must be refused."""
        result = self.raw(tool, **arguments)
        assert result.get("isError"), result["structuredContent"]
        return result["content"][0]["text"]

    def begin(self, **spec: Any) -> str:
        """Start a task with the linear template and return its id."""
        task = self.call("init_task", dataset="moles", request=REQUEST, spec=SPEC | spec, template="linear")
        return task["task_id"]


class Web:
    """A started application."""

    def __init__(self, app: Starlette, client: TestClient, services: Services, tokens: dict[str, str]) -> None:
        self.app, self.client, self.services, self.tokens = app, client, services, tokens

    def agent(self, name: str) -> Visitor:
        """Return an agent with its token."""
        return Visitor(self.client, token=self.tokens[name])

    def nobody(self) -> Visitor:
        """Return a visitor who shows nothing."""
        return Visitor(self.client)

    def person(self, name: str) -> Visitor:
        """Sign a person in and return it."""
        answer = self.nobody().post("/sign-in", token=self.tokens[name])
        assert answer.status_code == 303, answer.text
        return Visitor(self.client, cookie=answer.cookies[COOKIE])

    @property
    def codex(self) -> Visitor:
        return self.agent("codex")

    @property
    def claude(self) -> Visitor:
        return self.agent("claude")

    @property
    def clinician(self) -> Visitor:
        return self.person("Dr. Weber")

    @property
    def custodian(self) -> Visitor:
        return self.person("IT")


@pytest.fixture
def started(services: Services) -> Iterator[Web]:
    """A started application without any token."""
    app = build(services, [HOST])
    with TestClient(app, base_url=f"http://{HOST}", client=("127.0.0.1", 50_000)) as client:
        yield Web(app, client, services, {})


@pytest.fixture
def web(started: Web) -> Web:
    """A started application with the tokens of PEOPLE."""
    for name, role in PEOPLE.items():
        _, started.tokens[name] = started.services.store.create_token(name, role, days=1)
    return started
