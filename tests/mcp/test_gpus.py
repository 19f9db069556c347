"""GPUs as an agent meets them: asked for by number, waited for in line, told with the reason."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator

import anyio
import pytest
from mcp import Client

from clinloop.app import build
from clinloop.services import Services

from ..gpu.driver import Driver, gpu, uuid
from .conftest import ERAS, Agent

pytestmark = pytest.mark.anyio


@pytest.fixture
async def agent(services: Services, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Agent]:
    """An agent on a machine with two GPUs, on one of which somebody computes."""
    driver.has(gpu(0, pids="4711"), gpu(1))
    driver.load(monkeypatch)
    monkeypatch.setattr(sys, "executable", str(driver.python))
    settings = services.settings.model_copy(update={"gpus_per_run_max": 2})
    async with Client(build(Services(settings, accept_no_isolation=True)), mode=ERAS[0]) as client:
        yield Agent(client)


async def test_a_waiting_run_says_what_for_and_goes_on_when_it_is_free(
    agent: Agent, driver: Driver, services: Services
) -> None:
    task = await agent.begin()
    await agent.call("run_training", task_id=task, gpus=2)
    with anyio.fail_after(60):  # until its supervisor has looked at the driver
        while not getattr(services.store.place(task, "run0"), "note", ""):
            await anyio.sleep(0.1)

    seen = await agent.call("read_validation", task_id=task, wait=0)

    assert (seen["status"], seen["waits_for"]) == (
        "queued",
        f"2 GPUs, next in the line: {uuid(0)} is in use by other processes",
    )
    assert seen["budget"]["runs_left"] == 7
    driver.has(gpu(0), gpu(1))
    changed = await agent.call("read_validation", task_id=task, since=seen["cursor"], wait=20)
    assert changed["waited_s"] < 15 and changed["waits_for"] == ""
    assert (await agent.wait(task, "run0"))["status"] == "succeeded"


async def test_a_run_that_is_stopped_in_the_line_costs_nothing_and_the_next_one_is_the_baseline(
    agent: Agent, driver: Driver
) -> None:
    task = await agent.begin()
    await agent.call("run_training", task_id=task, gpus=2)
    await agent.call("run_training", task_id=task, mode="stop", run="run0")
    stopped = await agent.wait(task, "run0")
    assert (stopped["status"], stopped["message"]) == (
        "stopped",
        "The run was stopped before it started, so it is given back.",
    )

    await agent.call("edit_workspace", task_id=task, operation="create", path="notes.txt", text="An edit.")
    again = await agent.call("run_training", task_id=task, gpus=0)

    assert again["run"]["revision"] == "r1"
    assert (await agent.wait(task, "run1"))["decision"] == "accepted"
    assert (await agent.call("read_validation", task_id=task))["budget"]["runs_left"] == 7


async def test_more_gpus_than_a_run_may_have_are_refused_with_what_is_valid(agent: Agent, driver: Driver) -> None:
    task = await agent.begin()
    text = await agent.refused("run_training", task_id=task, gpus=3)
    assert "gpus: 3 are too many; a run may have 2 (clinloop may use 2 GPUs on this machine" in text
    driver.has()
    text = await agent.refused("run_training", task_id=task, gpus=1)
    assert "gpus: 1 are too many; a run may have 0 (there is no GPU here" in text
    assert "Default: 0" in text
