"""Tiers: how much a workspace starts with is the caller's choice, and it is recorded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clinloop.services import Services

from .conftest import REQUEST, SPEC, Agent

pytestmark = pytest.mark.anyio


async def _task(agent: Agent, **arguments: Any) -> tuple[dict[str, Any], set[str]]:
    """Return the reply of init_task and what lies in the workspace."""
    task = await agent.call(
        "init_task", dataset="moles", request=REQUEST, spec=SPEC, template="classification", **arguments
    )
    listed = await agent.call("edit_workspace", task_id=task["task_id"], operation="list")
    return task, {file["path"] for file in listed["items"]}


async def test_the_standard_tier_gives_the_baseline_and_the_lite_tier_what_helps_beside_it(agent: Agent) -> None:
    lite, lite_files = await _task(agent)
    standard, standard_files = await _task(agent, tier="standard")

    assert (lite["tier"], standard["tier"]) == ("lite", "standard")
    assert lite["task_id"] != standard["task_id"]
    assert standard_files == {"train.py", "predict.py", "model.py", "export.py", "README.md"} == set(standard["files"])
    assert lite_files == set(lite["files"])
    assert {"TECHNIQUES.md", "techniques/mixup.py"} <= lite_files - standard_files
    assert "TECHNIQUES.md" in lite["next_step"] and "techniques/" not in lite["next_step"]


async def test_the_tier_is_part_of_the_contract_in_the_ledger(agent: Agent, services: Services) -> None:
    for tier in ("lite", "standard"):
        task, _ = await _task(agent, tier=tier)
        again, _ = await _task(agent, tier=tier)
        assert again["task_id"] == task["task_id"]
        contract = next(row for row in services.store.ledger(f"task:{task['task_id']}") if row.event == "contract")
        detail = contract.detail if isinstance(contract.detail, dict) else json.loads(contract.detail)
        assert detail["tier"] == tier


async def test_a_tier_that_does_not_exist_is_refused_with_those_that_do(agent: Agent) -> None:
    text = await agent.refused("init_task", dataset="moles", request=REQUEST, spec=SPEC, tier="heavy")
    assert "lite" in text and "standard" in text
