"""What a client sees before its first call: the six tools, their schemas and their words; a change of any is a change of this snapshot."""

from __future__ import annotations

import difflib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.types import Tool

from clinloop.app import INSTRUCTIONS, build
from clinloop.services import Services
from clinloop_tools import TOOLS

from .conftest import ERAS

pytestmark = pytest.mark.anyio

SNAPSHOT = Path(__file__).parent / "snapshots" / "tools.json"
ACCEPT = "CLINLOOP_ACCEPT=1 .venv/bin/pytest tests/mcp/test_schema.py"
NAMES = ["inspect_dataset", "init_task", "edit_workspace", "run_training", "read_validation", "finalize"]
# read-only, destructive, idempotent
HINTS = {
    "inspect_dataset": (True, False, True),
    "init_task": (False, False, True),
    "edit_workspace": (False, False, False),
    "run_training": (False, False, False),
    "read_validation": (True, False, True),
    "finalize": (False, True, True),
}


async def listed(services: Services, era: str) -> list[Tool]:
    async with Client(build(services), mode=era) as client:
        return (await client.list_tools()).tools


def wire(tools: list[Tool]) -> str:
    found = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools]
    return json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True) + "\n"  # the eras order keys differently


@pytest.mark.parametrize("era", ERAS)
async def test_the_tools_of_both_eras_are_those_of_the_snapshot(services: Services, era: str) -> None:
    found = wire(await listed(services, era))
    if os.environ.get("CLINLOOP_ACCEPT"):
        SNAPSHOT.parent.mkdir(exist_ok=True)
        SNAPSHOT.write_text(found, encoding="utf-8")
    known = SNAPSHOT.read_text(encoding="utf-8") if SNAPSHOT.exists() else ""
    diff = "\n".join(difflib.unified_diff(known.splitlines(), found.splitlines(), "snapshot", "now", lineterm="", n=1))
    assert found == known, f"the tools have changed:\n{diff}\nIf this is meant, accept it with: {ACCEPT}"


async def test_there_are_exactly_six_tools_in_the_order_of_the_loop(services: Services) -> None:
    first, second = await listed(services, ERAS[0]), await listed(services, ERAS[0])
    assert [tool.name for tool in first] == NAMES
    assert wire(first) == wire(second)
    assert all(re.fullmatch("[a-z_]+", name) for name in NAMES)


def test_instructions_are_short_enough_to_be_shown_by_every_client() -> None:
    assert 100 < len(INSTRUCTIONS) < 600
    assert all(name in INSTRUCTIONS for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
async def test_a_tool_has_all_hints_and_says_what_it_does(services: Services, name: str) -> None:
    tool = next(tool for tool in await listed(services, ERAS[0]) if tool.name == name)
    hints = tool.annotations
    assert hints is not None
    assert (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint) == HINTS[name]
    assert hints.open_world_hint is False
    assert tool.title and tool.title == hints.title
    assert tool.meta == {"anthropic/alwaysLoad": True}
    description = tool.description or ""
    assert 200 < len(description.encode()) < 2048
    # The first line is all that a search over deferred tools shows; the rest names what comes before or next.
    assert 40 < len(description.splitlines()[0]) < 180
    assert any(other in description for other in NAMES if other != name)


@pytest.mark.parametrize("name", NAMES)
async def test_arguments_are_flat_closed_and_say_their_defaults(services: Services, name: str) -> None:
    tool = next(tool for tool in await listed(services, ERAS[0]) if tool.name == name)
    schema = tool.input_schema
    assert schema["additionalProperties"] is False
    assert not {"anyOf", "oneOf", "allOf", "not", "$ref"} & schema.keys()
    required = schema.get("required", [])
    for argument, facts in schema["properties"].items():
        assert "oneOf" not in facts, argument
        assert facts.get("description"), argument
        if argument not in required:  # some clients strip `default` from schemas
            assert "default" in facts["description"].lower(), argument


async def test_every_field_of_the_spec_is_described_and_optional_ones_say_their_default(services: Services) -> None:
    tool = next(tool for tool in await listed(services, ERAS[0]) if tool.name == "init_task")
    definitions: dict[str, Any] = tool.input_schema["$defs"]
    for kind, definition in definitions.items():
        assert definition["additionalProperties"] is False, kind
        for field, facts in definition["properties"].items():
            assert facts.get("description"), f"{kind}.{field}"
            if field not in definition.get("required", []):
                assert "default" in facts["description"].lower(), f"{kind}.{field}"


async def test_replies_have_schemas_unless_a_view_is_a_picture(services: Services) -> None:
    tools = {tool.name: tool for tool in await listed(services, ERAS[0])}
    pictures = {"inspect_dataset", "read_validation"}
    for name, tool in tools.items():
        if name in pictures:  # a client may refuse a result without structured content when a schema is declared
            assert tool.output_schema is None
            continue
        assert tool.output_schema is not None
        assert {"status", "budget", "next_step", "ledger_head"} <= tool.output_schema["properties"].keys()


def test_the_registry_is_what_is_served() -> None:
    assert [tool.name for tool in TOOLS] == NAMES
