"""The server answers its first request within a second: nothing heavy is imported, and nothing is printed, before it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = [
    "numpy",
    "scipy",
    "sklearn",
    "matplotlib",
    "PIL",
    "imagehash",
    "torch",
    "torchvision",
    "timm",
    "docker",
    "dulwich",
    "pandas",
    "polars",
    "jinja2",
    "uvicorn",
    "rich",
    "typer",
]
BUILD = """
import asyncio, json, sys
from pathlib import Path
from clinloop.app import build
from clinloop.services import Services
from clinloop.settings import load_settings
server = build(Services(load_settings(Path(sys.argv[1]))))
names = [tool.name for tool in asyncio.run(server.list_tools())]
sys.stderr.write(json.dumps({"tools": names, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""
EMPTY = """
import json, sys
from mcp.server import MCPServer
MCPServer("empty")
sys.stderr.write(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


def test_building_the_server_and_listing_its_tools_imports_nothing_heavy_and_prints_nothing(tmp_path: Path) -> None:
    done = run(BUILD, str(tmp_path))
    found = json.loads(done.stderr)  # and nothing else
    assert done.stdout == ""
    assert len(found["tools"]) == 6
    # An empty server of the protocol's package loads rich for its log and uvicorn for HTTP; nothing else may come with it.
    empty = json.loads(run(EMPTY).stderr)
    assert [name for name in HEAVY if name in found["modules"] and name not in empty] == []
    assert {name for name in HEAVY if name in empty} <= {"rich", "uvicorn"}


def test_building_the_server_creates_no_file(tmp_path: Path) -> None:
    run(BUILD, str(tmp_path / "state"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "module", ["clinloop", "clinloop.cli", "clinloop.app", "clinloop.supervisor", "clinloop_tools"]
)
def test_importing_a_module_prints_nothing_and_leaves_the_environment_alone(module: str) -> None:
    code = f"import os; before = dict(os.environ); import {module}; assert dict(os.environ) == before"
    done = run(code)
    assert (done.stdout, done.stderr) == ("", "")
