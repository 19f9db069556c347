"""What is claimed over HTTP, with a server and clients that really run as different users."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from clinloop.services import Services
from clinloop.settings import load_settings

from .conftest import A, B, Service, wait

CALL = """
import json, sys, urllib.error, urllib.request
url, tool, arguments, headers = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
era, prefix = "2026-07-28", "io.modelcontextprotocol/"
meta = {prefix + "protocolVersion": era, prefix + "clientInfo": {"name": "test", "version": "1"}, prefix + "clientCapabilities": {}}
body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments, "_meta": meta}}
headers |= {"Accept": "application/json, text/event-stream", "Content-Type": "application/json", "Mcp-Protocol-Version": era,
            "Mcp-Method": "tools/call", "Mcp-Name": tool}
request = urllib.request.Request(url + "/mcp", json.dumps(body).encode(), headers)
try:
    with urllib.request.urlopen(request, timeout=50) as answer:
        print(json.dumps(json.load(answer)["result"]))
except urllib.error.HTTPError as error:
    print(json.dumps({"status": error.code}))
"""
TASK: dict[str, Any] = {
    "dataset": "moles",
    "request": "Tell these three kinds of moles apart for me, please.",
    "spec": {"objective": "Tell three kinds of moles apart.", "budget": "demo", "acceptance": "paper"},
    "template": "linear",
}


@pytest.fixture
def url(service: Service) -> Iterator[str]:
    """Address of a server over HTTP of the service's user."""
    command = [service.installed.clinloop, "serve", "--http", "127.0.0.1:0", "--state", service.state]
    with (
        service.log.open("ab") as log,
        subprocess.Popen(
            [str(word) for word in command],
            env={"PATH": "/usr/bin:/bin", "HOME": str(service.state)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=A,
            group=A,
            extra_groups=[],
            cwd="/",
        ) as process,
    ):
        wait(lambda: "startup complete" in service.log.read_text(encoding="utf-8") or process.poll() is not None)
        found = re.search(r"serving on (\S+)", service.log.read_text(encoding="utf-8"))
        assert found, service.log.read_text(encoding="utf-8")
        yield found[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


def call(service: Service, url: str, tool: str, user: int = B, **given: Any) -> dict[str, Any]:
    import json

    headers, arguments = given.pop("headers", {}), json.dumps(given)
    return service.as_user(CALL, url, tool, arguments, json.dumps(headers), user=user)


def test_another_user_of_the_machine_works_at_level_2_over_http_and_owns_its_tasks(service: Service, url: str) -> None:
    made = call(service, url, "init_task", **TASK)["structuredContent"]
    assert made["guarantee"] == "L2"
    assert "Not L3: the agent has a shell on the same machine." in made["guarantee_meaning"]
    assert made["workspace"] == ""
    store = Services(load_settings(service.state)).store
    events = [row.detail for row in store.ledger(f"task:{made['task_id']}") if row.event == "guarantee"]
    assert [(event["level"], event["connection"]) for event in events] == [("L2", "http")]
    assert store.task(made["task_id"]).owner == f"user:{B}"
    third = call(service, url, "read_validation", user=B + 5, task_id=made["task_id"])
    assert third["isError"]
    assert "known: none yet" in third["content"][0]["text"]
    own = call(service, url, "init_task", user=A, **TASK)["structuredContent"]
    assert (own["guarantee"], store.task(own["task_id"]).owner) == ("L0", "")


def test_what_a_client_says_of_where_it_comes_from_lowers_its_level_only(service: Service, url: str) -> None:
    spoofed = {"X-Forwarded-For": "203.0.113.7"}
    assert call(service, url, "inspect_dataset", headers=spoofed) == {"status": 401}
    store = Services(load_settings(service.state)).store
    _, secret = store.create_token("codex", "agent", days=1)
    token = {"Authorization": f"Bearer {secret}"}
    assert call(service, url, "inspect_dataset") == {"status": 401}
    assert call(service, url, "inspect_dataset", headers=token)["structuredContent"]["guarantee"] == "L2"
    assert call(service, url, "inspect_dataset", headers=token | spoofed)["structuredContent"]["guarantee"] == "L0"
