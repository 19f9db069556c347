"""The scripted agent: it plays every step that is left, whatever interrupted it, and goes back when a run is rejected."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from mcp import Client
from rich.console import Console

from clinloop.agent import Agent, Plan, PlayFailed, Step, connected
from clinloop.app import build
from clinloop.demo_screen import Screen
from clinloop.services import Services

from ..mcp.conftest import ERAS, REQUEST, SPEC

pytestmark = [pytest.mark.anyio, pytest.mark.sandbox]

BETTER = Step(
    name="longer",
    hypothesis="The regression has not converged after sixty epochs, and more of them cost nothing.",
    edits=[{"operation": "replace", "path": "train.py", "old": "EPOCHS = 60", "new": "EPOCHS = 400"}],
)
SHARES = "rows.append(exponentials / exponentials.sum())"
BROKEN = Step(
    name="raw scores",
    hypothesis="Scores that are not squeezed into shares keep how sure the model is.",
    edits=[{"operation": "replace", "path": "predict.py", "old": SHARES, "new": "rows.append(exponentials)"}],
)
STILL_BROKEN = Step(
    name="raw scores, doubled",
    hypothesis="The smoke test showed that rows must sum to 1; twice as large, they still do not.",
    edits=[
        {"operation": "replace", "path": "predict.py", "old": "(exponentials)", "new": "(2 * exponentials)"},
    ],
    fixes=True,
)
WORSE = Step(
    name="one epoch",
    hypothesis="Less training overfits less, so a single epoch is worth one of the runs that are left.",
    edits=[{"operation": "replace", "path": "train.py", "old": "LEARNING_RATE = 0.5", "new": "LEARNING_RATE = 0.0"}],
)
PLAN = Plan(dataset="moles", request=REQUEST, spec=SPEC, steps=[BETTER, WORSE], template="linear")


class Interrupted(Exception):
    pass


class Interrupting(Agent):
    """An agent whose process dies before a call that is told by its tool and how often it was called."""

    def __init__(self, client: Client, screen: Screen, tool: str, at: int) -> None:
        super().__init__(client, screen)
        self._tool, self._left = tool, at

    async def _call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        self._left -= tool == self._tool
        if self._left < 0:
            raise Interrupted
        return await super()._call(tool, **arguments)


@pytest.fixture
async def client(services: Services) -> AsyncGenerator[Client]:
    async with Client(build(services), mode=ERAS[0]) as connection:
        yield connection


def screen() -> Screen:
    return Screen(Console(file=io.StringIO()))


async def test_a_plan_is_played_to_a_report_and_a_rejected_step_is_undone(client: Client, services: Services) -> None:
    outcome = await Agent(client, screen()).play(PLAN)

    runs = {run["run"]: run for run in outcome["runs"]}
    assert list(runs) == ["run0", "smoke1", "run1", "smoke2", "run2"]
    assert runs["run2"]["decision"] == "rejected"
    workspace = services.state.task(outcome["task_id"]).workspace / "train.py"
    assert "LEARNING_RATE = 0.5" in workspace.read_text(encoding="utf-8")
    assert outcome["final"][0]["name"] == "macro_auc"


@pytest.mark.parametrize(
    ("tool", "at"),
    [("read_validation", 2), ("edit_workspace", 2), ("finalize", 1)],
)
async def test_an_interrupted_plan_goes_on_where_it_was_and_runs_nothing_twice(
    client: Client, tool: str, at: int
) -> None:
    with pytest.raises(Interrupted):
        await Interrupting(client, screen(), tool, at).play(PLAN)

    outcome = await Agent(client, screen()).play(PLAN)

    full = [run for run in outcome["runs"] if run["run"].startswith("run")]
    assert [run["run"] for run in full] == ["run0", "run1", "run2"]
    assert [run["hypothesis"][:20] for run in full[1:]] == [BETTER.hypothesis[:20], WORSE.hypothesis[:20]]
    assert full[2]["decision"] == "rejected"


async def test_a_plan_that_is_done_is_not_done_again(client: Client) -> None:
    first = await Agent(client, screen()).play(PLAN)
    assert await Agent(client, screen()).play(PLAN) == first


async def test_a_fix_is_played_only_after_a_smoke_test_that_failed_and_what_stays_broken_is_undone(
    client: Client, services: Services
) -> None:
    plan = Plan(dataset="moles", request=REQUEST, spec=SPEC, steps=[BROKEN, STILL_BROKEN, BETTER], template="linear")
    outcome = await Agent(client, screen()).play(plan)

    runs = {run["run"]: run["status"] for run in outcome["runs"]}
    assert runs == {
        "run0": "succeeded",
        "smoke1": "failed",
        "smoke2": "failed",
        "smoke3": "succeeded",
        "run1": "succeeded",
    }
    workspace = services.state.task(outcome["task_id"]).workspace / "predict.py"
    assert SHARES in workspace.read_text(encoding="utf-8")


async def test_a_refusal_reaches_whoever_connected_as_one_sentence(services: Services) -> None:
    with pytest.raises(PlayFailed, match=r"init_task: .*none"):
        async with connected(services, screen(), "clinloop-test") as agent:
            await agent.play(Plan(dataset="none", request=REQUEST, spec=SPEC, steps=[], template="linear"))
