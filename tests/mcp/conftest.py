"""A client of the server, in memory and in both protocol eras, and the steps that most tests begin with."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from mcp import Client
from mcp.types import CallToolResult

from clinloop.app import build
from clinloop.services import Services

ERAS = ["2026-07-28", "legacy"]
SPEC = {"objective": "Tell three kinds of moles apart.", "budget": "demo", "acceptance": "paper"}
REQUEST = "Tell these three kinds of moles apart for me, please."


class Agent:
    """Calls tools and hands back their structured content."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def raw(self, tool: str, **arguments: Any) -> CallToolResult:
        return await self.client.call_tool(tool, arguments)

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Return the structured content of a call that must succeed."""
        result = await self.raw(tool, **arguments)
        assert not result.is_error, result.content
        assert result.structured_content is not None
        return result.structured_content

    async def refused(self, tool: str, **arguments: Any) -> str:
        """Return the text of a call that must be refused."""
        result = await self.raw(tool, **arguments)
        assert result.is_error, result.structured_content
        return result.content[0].text  # type: ignore[union-attr]

    async def begin(self, **spec: Any) -> str:
        """Start a task with the linear template and return its id."""
        task = await self.call("init_task", dataset="moles", request=REQUEST, spec=SPEC | spec, template="linear")
        return task["task_id"]

    async def run(self, task_id: str, **arguments: Any) -> dict[str, Any]:
        """Start a run, wait for its end, and return it."""
        started = await self.call("run_training", task_id=task_id, **arguments)
        return await self.wait(task_id, started["run"]["run"])

    async def wait(self, task_id: str, run: str) -> dict[str, Any]:
        """Wait for the end of a run and return it."""
        cursor = ""
        for _ in range(60):
            seen = await self.call("read_validation", task_id=task_id, run=run, since=cursor, wait=10)
            cursor = seen["cursor"]
            if seen["run"]["status"] not in ("queued", "training", "predicting", "scoring"):
                return seen["run"]
        raise AssertionError(f"{run} did not end: {seen}")

    async def finalize(self, task_id: str, run: str) -> dict[str, Any]:
        """Finalize, wait for the end, and return the reply."""
        for _ in range(60):
            final = await self.call("finalize", task_id=task_id, run=run, wait=10)
            if final["status"] not in ("evaluating", "unsealed"):
                return final
        raise AssertionError(final)


@pytest.fixture
async def agent(services: Services) -> AsyncGenerator[Agent]:
    """An agent in the stateless era, for tests that are not about the protocol."""
    async with Client(build(services), mode=ERAS[0]) as client:
        yield Agent(client)
