"""In CI a test that needs Docker never passes by being skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).resolve().parents[1] / "ci.py"
TESTS = """
import pytest
@pytest.mark.docker
def test_needs_docker():
    pytest.skip("no engine here")
def test_needs_something_else():
    pytest.skip("no GPU here")
"""


@pytest.mark.parametrize(("value", "status", "counts"), [("", 0, "2 skipped"), ("1", 1, "1 failed, 1 skipped")])
def test_a_docker_test_is_skipped_on_a_laptop_and_fails_in_ci(
    tmp_path: Path, value: str, status: int, counts: str
) -> None:
    (tmp_path / "conftest.py").write_text(PLUGIN.read_text())
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = docker\n")
    command = [sys.executable, "-m", "pytest", "-q", "-rfs", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {**os.environ, "CLINLOOP_CI": value}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert ended.returncode == status, ended.stdout
    assert counts in ended.stdout
    assert "no engine here" in ended.stdout
