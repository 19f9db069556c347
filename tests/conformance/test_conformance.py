"""The official conformance suite and the Inspector against real servers; needs `sh scripts/node.sh`, without which CI fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..faults.http_server import Server, faults

HERE = Path(__file__).parent
SUITE = "@modelcontextprotocol/conformance/dist/index.js"
INSPECTOR = "@modelcontextprotocol/inspector/clients/launcher/build/index.js"
REVISIONS = ("2025-11-25", "2026-07-28")
Node = Callable[..., "subprocess.CompletedProcess[str]"]


def summary(said: subprocess.CompletedProcess[str]) -> str:
    return (said.stdout + said.stderr)[-6000:]


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_product_fails_only_what_asks_for_fixtures(node: Node, bare: Server, tmp_path: Path, revision: str) -> None:
    baseline = HERE / f"bare-{revision}.yml"
    words = ["--requirements", revision, "--expected-failures", str(baseline), "-o", str(tmp_path)]
    said = node(SUITE, "server", "--url", f"{bare.url}/mcp", *words)
    assert said.returncode == 0, summary(said)
    assert faults(bare.log) == []


@pytest.mark.parametrize("revision", REVISIONS)
def test_with_the_fixtures_every_scored_scenario_passes(
    node: Node, fixture_server: Server, tmp_path: Path, revision: str
) -> None:
    said = node(SUITE, "server", "--url", f"{fixture_server.url}/mcp", "--requirements", revision, "-o", str(tmp_path))
    assert said.returncode == 0, summary(said)
    failed = {line.split()[1].rstrip(":") for line in said.stdout.splitlines() if line.startswith("✗")}
    unscored = {line.split()[1] for line in said.stdout.partition("Not scored")[2].splitlines() if "✗" in line}
    assert failed == unscored, summary(said)
    n_passed = sum(line.startswith("✓") for line in said.stdout.splitlines())
    assert n_passed >= {"2025-11-25": 30, "2026-07-28": 38}[revision], summary(said)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, ingested: Path) -> Iterator[tuple[Server, str]]:
    """A server with a token of an agent."""
    with Server(Path(shutil.copytree(ingested, tmp_path_factory.mktemp("guarded") / "state"))) as server:
        yield server, server.token(name="inspector")


@pytest.fixture(params=["stdio", "http legacy", "http modern"])
def reached(request: pytest.FixtureRequest, guarded: tuple[Server, str]) -> list[str]:
    """How the Inspector reaches the product: the words before those of the method."""
    server, token = guarded
    if request.param == "stdio":
        return [sys.executable, "-I", "-m", "clinloop", "serve", "--stdio", "--state", str(server.state)]
    transport, era = request.param.split()
    words = ["--server-url", f"{server.url}/mcp", "--transport", transport, "--protocol-era", era]
    return [*words, "--header", f"Authorization: Bearer {token}"]


def test_the_inspector_finds_no_fault_in_what_is_listed(node: Node, reached: list[str]) -> None:
    listed = dict[str, object]()
    for method in ("tools/list", "prompts/list", "resources/list", "resources/templates/list"):
        strict = ["--strict"] if method == "tools/list" else []
        said = node(INSPECTOR, "--cli", *reached, "--method", method, "--format", "json", "--quiet", *strict)
        assert said.returncode == 0, (method, summary(said))
        listed[method] = json.loads(said.stdout)
    assert "finalize" in json.dumps(listed["tools/list"])


def test_the_inspector_calls_a_tool_and_is_told_of_a_refusal(node: Node, reached: list[str]) -> None:
    call = ["--method", "tools/call", "--tool-name", "inspect_dataset", "--format", "json", "--quiet"]
    said = node(INSPECTOR, "--cli", *reached, *call, "--tool-args-json", '{"dataset": "moles"}')
    assert said.returncode == 0 and "melanoma" in said.stdout, summary(said)
    said = node(INSPECTOR, "--cli", *reached, *call, "--tool-args-json", '{"dataset": "nothing"}')
    assert said.returncode == 5 and "moles" in said.stdout, summary(said)
