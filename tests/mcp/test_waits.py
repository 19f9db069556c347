"""How long a call waits, when it returns early, and what it tells meanwhile: clients give up after very different times."""

from __future__ import annotations

import pytest
from mcp import Client
from mcp.types import Implementation

from clinloop.app import build
from clinloop.services import Services
from clinloop_tools.common import wait_cap

from .conftest import ERAS, Agent

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("client", "cap"),
    [
        ("claude-code", 600),
        ("codex-mcp-client", 240),
        ("gemini-cli-mcp-client-clinloop", 300),
        ("mcp", 4),
        ("mcp-use", 45),
        ("", 45),
    ],
)
def test_waits_are_capped_by_the_name_of_the_client(client: str, cap: float) -> None:
    assert wait_cap(client) == cap


@pytest.mark.parametrize("era", ERAS)
async def test_a_poll_waits_up_to_its_cap_and_returns_early_when_something_happens(
    services: Services, era: str
) -> None:
    own = Services(services.settings.model_copy(update={"wait_cap_s": 1.0}), accept_no_isolation=True)
    progress: list[float] = []

    async def told(done: float, total: float | None, message: str | None) -> None:
        progress.append(done)

    async with Client(build(own), mode=era, client_info=Implementation(name="claude-code", version="1")) as client:
        agent = Agent(client)
        task_id = await agent.begin()
        sleep = "import time\nwhile True:\n    time.sleep(0.1)\n"
        await agent.call(
            "edit_workspace", task_id=task_id, operation="create", path="train.py", text=sleep, overwrite=True
        )
        started = await agent.call("run_training", task_id=task_id, mode="smoke")
        run = started["run"]["run"]
        cursors = [""]
        for _ in range(200):  # until it trains, and nothing more will happen
            seen = await agent.call("read_validation", task_id=task_id, run=run, since=cursors[-1], wait=30)
            cursors.append(seen["cursor"])
            if seen["status"] == "training":
                break
        quick = await agent.call("read_validation", task_id=task_id, run=run, since="smoke1:queued:0@0", wait=30)
        assert quick["waited_s"] < 0.5  # it has changed since that cursor
        slow = await client.call_tool(
            "read_validation",
            {"task_id": task_id, "run": run, "since": quick["cursor"], "wait": 30},
            progress_callback=told,
        )
        assert slow.structured_content is not None
        waited = slow.structured_content["waited_s"]
        assert 0.9 < waited < 6  # nothing changed: the cap of the settings ends it
        cursors += [quick["cursor"], slow.structured_content["cursor"]]
        assert len(set(cursors)) == len(cursors)
        await agent.call("run_training", task_id=task_id, mode="stop", run=run)
        assert (await agent.wait(task_id, run))["status"] == "stopped"


@pytest.mark.parametrize("era", ERAS)
async def test_progress_is_told_while_a_call_waits(services: Services, era: str) -> None:
    told: list[tuple[float, str | None]] = []

    async def tell(done: float, total: float | None, message: str | None) -> None:
        told.append((done, message))

    async with Client(build(services), mode=era, client_info=Implementation(name="claude-code", version="1")) as client:
        agent = Agent(client)
        task_id = await agent.begin()
        sleep = "import time\ntime.sleep(60)\n"
        await agent.call(
            "edit_workspace", task_id=task_id, operation="create", path="train.py", text=sleep, overwrite=True
        )
        run = (await agent.call("run_training", task_id=task_id, mode="smoke"))["run"]["run"]
        await client.call_tool("read_validation", {"task_id": task_id, "run": run, "wait": 3}, progress_callback=tell)
        await agent.call("run_training", task_id=task_id, mode="stop", run=run)
        await agent.wait(task_id, run)
    assert told and all(run in (message or "") for _, message in told)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
