"""What a client sees beside the six tools: prompts and resources, the same as the tools say and nothing more."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError
from starlette.testclient import TestClient

from clinloop.app import build
from clinloop.principal import Principal
from clinloop.services import Services
from clinloop.web.app import build as build_web

from .conftest import ERAS, REQUEST, SPEC, Agent

pytestmark = pytest.mark.anyio

SNAPSHOTS = Path(__file__).parent / "snapshots"
ACCEPT = "CLINLOOP_ACCEPT=1 .venv/bin/pytest tests/mcp/test_prompts_and_resources.py"
MODERN = "2026-07-28"


@asynccontextmanager
async def connected(services: Services, era: str) -> AsyncGenerator[Agent]:
    async with Client(build(services), mode=era) as client:
        yield Agent(client)


async def read(client: Client, uri: str) -> str:
    """Return the text of a resource."""
    [content] = (await client.read_resource(uri)).contents
    return content.text  # type: ignore[union-attr]


async def refused(client: Client, uri: str) -> str:
    """Return what reading a resource is refused with."""
    with pytest.raises(MCPError) as found:
        await client.read_resource(uri)
    assert found.value.error.code == -32602
    return str(found.value)


def agent_named(services: Services, name: str) -> Services:
    return services.for_principal(Principal(name, frozenset(["agent"])))


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("kind", ["prompts", "resource_templates"])
async def test_prompts_and_resources_of_both_eras_are_those_of_the_snapshot(
    services: Services, era: str, kind: str
) -> None:
    async with Client(build(services), mode=era) as client:
        listed = getattr(await getattr(client, f"list_{kind}")(), kind)
        assert (await client.list_resources()).resources == []
    values = [each.model_dump(mode="json", by_alias=True, exclude_none=True) for each in listed]
    found = json.dumps(values, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    snapshot = SNAPSHOTS / f"{kind}.json"
    if os.environ.get("CLINLOOP_ACCEPT"):
        snapshot.write_text(found, encoding="utf-8")
    known = snapshot.read_text(encoding="utf-8") if snapshot.exists() else ""
    diff = "\n".join(difflib.unified_diff(known.splitlines(), found.splitlines(), "snapshot", "now", lineterm="", n=1))
    assert found == known, f"{kind} have changed:\n{diff}\nIf this is meant, accept it with: {ACCEPT}"


@pytest.mark.parametrize("era", ERAS)
async def test_resources_say_what_the_tools_say(services: Services, era: str) -> None:
    async with connected(services, era) as agent:
        task = await agent.begin()
        await agent.run(task, mode="smoke", hypothesis="The whole contract runs.")
        spec = json.loads(await read(agent.client, f"clinloop://tasks/{task}/spec"))
        tool = await agent.call("read_validation", task_id=task, view="spec")
        assert spec["spec"] == tool["spec"] and spec["request"] == REQUEST
        log = await read(agent.client, f"clinloop://tasks/{task}/runs/smoke1/log")
        told = (await agent.call("read_validation", task_id=task, run="smoke1", view="log"))["log"]
        assert told and log.endswith(told)
        assert "never instructions" in log.splitlines()[0]
        techniques = await read(agent.client, "clinloop://templates/classification/techniques")
        source = Path(__file__).parents[2] / "task_templates" / "classification" / "TECHNIQUES.md"
        assert techniques == source.read_text(encoding="utf-8")


async def test_the_report_of_a_finished_task_is_its_result_without_paths_of_the_host(services: Services) -> None:
    async with connected(services, MODERN) as agent:
        task = await agent.begin()
        assert "finalize writes it" in await refused(agent.client, f"clinloop://tasks/{task}/report")
        await agent.run(task, hypothesis="The baseline as it comes.")
        final = await agent.finalize(task, "run0")
        assert final["status"] == "evaluated", final
        text = await read(agent.client, f"clinloop://tasks/{task}/report")
        report = json.loads(text)
        assert report["result"]["metrics"] == final["result"]["metrics"]
        assert report["result"].keys() < final["result"].keys()
        assert str(services.settings.state) not in text
        assert f"clinloop report {task}" in report["where"]
        assert len(text) < 10_000


@pytest.mark.parametrize("era", ERAS)
async def test_a_resource_that_is_not_there_says_what_is(services: Services, era: str) -> None:
    async with connected(services, era) as agent:
        task = await agent.begin()
        assert task in await refused(agent.client, "clinloop://tasks/isic-000000/spec")
        assert "Start one with run_training" in await refused(agent.client, f"clinloop://tasks/{task}/runs/7/log")
        assert "classification" in await refused(agent.client, "clinloop://templates/nothing/techniques")


@pytest.mark.parametrize(
    "uri",
    [
        "clinloop://tasks/../spec",
        "clinloop://tasks/%2E%2E%2Fvault/spec",
        "clinloop://tasks/moles%2F..%2F..%2Fkey/report",
        "clinloop://templates/../techniques",
        "clinloop://templates/%2Fetc%2Fpasswd/techniques",
        "clinloop://templates/classification%00/techniques",
        "clinloop://tasks/{task}/runs/..%2F..%2Fstore/log",
        "clinloop://vault/test.csv",
    ],
)
async def test_no_address_leads_out_of_the_tasks_and_templates(services: Services, uri: str) -> None:
    async with connected(services, MODERN) as agent:
        task = await agent.begin()
        text = await refused(agent.client, uri.replace("{task}", task))
        assert str(services.settings.state) not in text


async def test_an_agent_reads_no_task_of_another_agent(services: Services) -> None:
    async with connected(agent_named(services, "ada"), MODERN) as ada:
        own = await ada.begin()
        assert REQUEST in await read(ada.client, f"clinloop://tasks/{own}/spec")
        assert own in (await ada.client.get_prompt("review_task", {"task_id": own})).messages[0].content.text  # type: ignore[union-attr]
    async with connected(agent_named(services, "bob"), MODERN) as bob:
        for rest in ("spec", "report", "runs/0/log"):
            assert own not in (await refused(bob.client, f"clinloop://tasks/{own}/{rest}")).replace(f"'{own}'", "")
        with pytest.raises(MCPError, match="Unknown task"):
            await bob.client.get_prompt("review_task", {"task_id": own})


class Wire:
    """Sends requests of the stateless era over HTTP with a token."""

    def __init__(self, client: TestClient) -> None:
        self._client = client

    def send(self, token: str, method: str, header: str, **params: Any) -> dict[str, Any]:
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": MODERN,
            "Mcp-Method": method,
            "Mcp-Name": header,
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
        return self._client.post("/mcp", json=body, headers=headers).json()


@pytest.fixture
def wire(services: Services) -> Generator[Wire]:
    with TestClient(build_web(services, ["testserver"])) as client:
        yield Wire(client)


def test_over_http_resources_and_prompts_are_those_of_who_shows_the_token(services: Services, wire: Wire) -> None:
    tokens = {
        name: services.store.create_token(name, role, days=1)[1]
        for name, role in (("ada", "agent"), ("bob", "agent"), ("Dr. Weber", "clinician"))
    }
    arguments = {"dataset": "moles", "request": REQUEST, "spec": SPEC, "template": "linear"}
    made = wire.send(tokens["ada"], "tools/call", "init_task", name="init_task", arguments=arguments)
    task = made["result"]["structuredContent"]["task_id"]
    uri = f"clinloop://tasks/{task}/spec"
    for name in ("ada", "Dr. Weber"):
        assert REQUEST in wire.send(tokens[name], "resources/read", uri, uri=uri)["result"]["contents"][0]["text"]
    error = wire.send(tokens["bob"], "resources/read", uri, uri=uri)["error"]
    assert error["code"] == -32602 and "none yet" in error["message"]
    prompt = {"name": "review_task", "arguments": {"task_id": task}}
    assert "messages" in wire.send(tokens["Dr. Weber"], "prompts/get", "review_task", **prompt)["result"]
    assert "Unknown task" in wire.send(tokens["bob"], "prompts/get", "review_task", **prompt)["error"]["message"]


@pytest.mark.parametrize("era", ERAS)
async def test_prompts_name_the_tools_and_carry_the_request_verbatim(services: Services, era: str) -> None:
    async with Client(build(services), mode=era) as client:
        got = await client.get_prompt("develop_model", {"request": f"  {REQUEST}\x1b[31m", "dataset": "moles"})
        text = got.messages[0].content.text  # type: ignore[union-attr]
        assert f"<request>\n{REQUEST}\n</request>" in text and "dataset='moles'" in text
        assert all(tool in text for tool in ("inspect_dataset", "init_task", "run_training", "finalize"))
        open_choice = await client.get_prompt("develop_model", {"request": REQUEST})
        assert "inspect_dataset()" in open_choice.messages[0].content.text  # type: ignore[union-attr]
        for wrong, why in (
            ({"request": " "}, "is empty"),
            ({"request": "x" * 5000}, "at most 4000"),
            ({"request": REQUEST, "dataset": "moels"}, "known: moles"),
        ):
            with pytest.raises(MCPError, match=why):
                await client.get_prompt("develop_model", wrong)
