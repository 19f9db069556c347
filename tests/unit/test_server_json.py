"""server.json is what the MCP registry accepts (rules of its schema 2025-12-11), and what it says can be run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import typer.main

from clinloop import __version__
from clinloop.cli import app

ROOT = Path(__file__).parents[2]
SERVER: dict[str, Any] = json.loads((ROOT / "server.json").read_text(encoding="utf-8"))
[PACKAGE] = SERVER["packages"]


def test_name_description_and_version_keep_the_rules_of_the_schema() -> None:
    assert SERVER["$schema"] == "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
    assert re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", SERVER["name"])
    assert 3 <= len(SERVER["name"]) <= 200
    assert 1 <= len(SERVER["description"]) <= 100
    assert 1 <= len(SERVER["title"]) <= 100
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", SERVER["version"]) and len(SERVER["version"]) <= 255


def test_the_versions_are_those_of_the_package() -> None:
    assert SERVER["version"] == PACKAGE["version"] == __version__


def test_the_package_and_its_arguments_keep_the_rules_of_the_schema() -> None:
    assert {"registryType", "identifier", "transport"} <= PACKAGE.keys()
    assert (PACKAGE["registryType"], PACKAGE["registryBaseUrl"]) == ("pypi", "https://pypi.org")
    assert PACKAGE["transport"] == {"type": "stdio"}  # any other type needs an address
    for argument in PACKAGE["packageArguments"]:
        assert argument["type"] in ("named", "positional")
        assert "name" in argument if argument["type"] == "named" else {"value", "valueHint"} & argument.keys()
        assert argument.get("format", "string") in ("string", "number", "boolean", "filepath")


def test_the_command_line_has_what_the_arguments_name() -> None:
    first, *rest = PACKAGE["packageArguments"]
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    options = {name for option in commands[first["value"]].params for name in option.opts}
    assert {argument["name"] for argument in rest} <= options
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'name = "{PACKAGE["identifier"]}"' in project
    assert (
        f"\n{PACKAGE['identifier']} = " in project.partition("[project.scripts]")[2]
    )  # uvx runs the script of that name


def test_the_readme_names_no_other_server() -> None:
    """The registry accepts a package of PyPI only if its README names the server."""
    named = re.findall(r"<!-- mcp-name: (\S+) -->", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert named in ([], [SERVER["name"]])
