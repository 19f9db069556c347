"""The line for the CPU as two agents meet it: a fair share, a place that is told, time that does not run, and who may see all of it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from datetime import datetime
from itertools import pairwise

import pytest
from mcp import Client

from clinloop.app import build
from clinloop.errors import Forbidden
from clinloop.line import line
from clinloop.principal import LOCAL_AGENT, Principal
from clinloop.services import Services
from clinloop.spec import PRESETS

from .conftest import ERAS, Agent

pytestmark = pytest.mark.anyio
SLOT = "cpu:0"


class Machine:
    """A machine with one slot for runs on the CPU, which is taken by a task of its own until it is given back."""

    def __init__(self, services: Services, agents: dict[str, Agent]) -> None:
        self.services, self.store, self.agents = services, services.store, agents
        self._task = ""

    async def begin(self, agent: str, number: int) -> str:
        """Start a task of an agent."""
        return await self.agents[agent].begin(objective=f"Tell three kinds of moles apart, in way {number}.")

    async def take_slot(self) -> None:
        self._task = await self.begin("", 0)
        self.store.claim_units(self._task, "run9", "cpu", 1)
        assert self.store.lease_units(self._task, "run9", [SLOT]) == (SLOT,)

    def give_slot_back(self) -> None:
        self.store.release_units(self._task, "run9")


@pytest.fixture
async def machine(services: Services) -> AsyncGenerator[Machine]:
    """A local agent (""), and two that have tokens."""
    shared = Services(services.settings.model_copy(update={"runs_at_once": 1}), accept_no_isolation=True)
    async with AsyncExitStack() as stack:
        agents: dict[str, Agent] = {}
        for name in ("", "anna", "bert"):
            principal = Principal(name, LOCAL_AGENT.roles)
            client = Client(build(shared.for_principal(principal)), mode=ERAS[0])
            agents[name] = Agent(await stack.enter_async_context(client))
        yield Machine(shared, agents)


async def test_an_agent_that_comes_after_three_runs_of_another_is_served_second(machine: Machine) -> None:
    await machine.take_slot()
    tasks = [await machine.begin("anna", number) for number in (1, 2, 3)]
    for task in tasks:
        await machine.agents["anna"].call("run_training", task_id=task)
    tasks.append(await machine.begin("bert", 1))
    await machine.agents["bert"].call("run_training", task_id=tasks[3])
    owners = ["anna"] * 3 + ["bert"]
    told = [
        await machine.agents[owner].call("read_validation", task_id=task, wait=0)
        for owner, task in zip(owners, tasks, strict=True)
    ]

    assert [seen["waits_for"] for seen in told] == [
        "CPU slot, next in the line",
        "CPU slot, 2 before it in the line",
        "CPU slot, 3 before it in the line",
        "CPU slot, 1 before it in the line",
    ]
    shown = line(machine.services.for_principal(Principal("Dr. Weber", frozenset(["clinician"]))))
    assert [(row.task, row.holder, row.owner, row.place, row.units) for row in shown[1:]] == [
        (task, "run0", owner, place, ())
        for task, owner, place in zip(
            [tasks[0], tasks[3], tasks[1], tasks[2]], ["anna", "bert", "anna", "anna"], [1, 2, 3, 4], strict=True
        )
    ]
    assert (shown[0].lane, shown[0].holder, shown[0].owner, shown[0].place, shown[0].units) == (
        "cpu",
        "run9",
        "",
        0,
        (SLOT,),
    )
    machine.give_slot_back()
    for owner, task in zip(owners, tasks, strict=True):
        assert (await machine.agents[owner].wait(task, "run0"))["status"] == "succeeded"
    ran = sorted((machine.store.run(task, "run0") for task in tasks), key=lambda run: run.started_at or "")
    assert [run.task_id for run in ran] == [tasks[0], tasks[3], tasks[1], tasks[2]]
    assert all((one.ended_at or "") <= (after.started_at or "") for one, after in pairwise(ran))
    assert line(machine.services) == []


async def test_time_in_the_line_for_the_cpu_is_not_charged_and_stopping_there_gives_the_run_back(
    machine: Machine,
) -> None:
    await machine.take_slot()
    waiting, stopped = await machine.begin("anna", 1), await machine.begin("bert", 1)
    for name, task in (("anna", waiting), ("bert", stopped)):
        await machine.agents[name].call("run_training", task_id=task)
    seen = await machine.agents["bert"].call("read_validation", task_id=stopped, wait=2)
    assert (seen["status"], seen["waits_for"]) == ("queued", "CPU slot, 1 before it in the line")
    await machine.agents["bert"].call("run_training", task_id=stopped, mode="stop", run="run0")
    ended = await machine.agents["bert"].wait(stopped, "run0")
    assert ended["message"] == "The run was stopped before it started, so it is given back."
    assert (await machine.agents["bert"].call("read_validation", task_id=stopped))["budget"]["runs_left"] == 8

    released = time.time()
    machine.give_slot_back()
    assert (await machine.agents["anna"].wait(waiting, "run0"))["status"] == "succeeded"

    run = machine.store.run(waiting, "run0")
    assert run.deadline_unix is not None and run.started_at is not None
    assert datetime.fromisoformat(run.started_at).timestamp() > released
    assert run.deadline_unix >= released + PRESETS["demo"].train_seconds


async def test_a_smoke_test_does_not_wait_behind_a_run(machine: Machine) -> None:
    await machine.take_slot()
    task = await machine.begin("anna", 1)

    assert (await machine.agents["anna"].run(task, mode="smoke"))["status"] == "succeeded"

    assert [row.holder for row in line(machine.services)] == ["run9"]


async def test_an_agent_sees_its_own_place_alone(machine: Machine) -> None:
    with pytest.raises(Forbidden, match="Only a clinician or a custodian may see the whole line"):
        line(machine.services.for_principal(Principal("anna", frozenset(["agent"]))))
