"""The list of failpoints is complete: every change of state has one on each side."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import clinloop
from clinloop.failpoints import NAMES

PACKAGE = Path(clinloop.__file__).parent
CHANGES = ("UPDATE task SET status", "UPDATE run SET status", "INSERT INTO task ", "INSERT INTO run ")


def test_every_store_method_that_changes_the_state_of_a_task_or_run_has_a_failpoint_on_each_side() -> None:
    found: dict[str, bool] = {}
    for file in sorted((PACKAGE / "store").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and any(change in ast.unparse(node) for change in CHANGES):
                transactions = [call for call in ast.walk(node) if _calls(call, "transaction")]
                found[node.name] = all(isinstance(call, ast.Call) and call.args for call in transactions)
    assert {"create_task", "reserve_run", "advance_run", "settle_run", "unseal", "end_evaluation"} <= set(found)
    assert all(found.values()), found


def test_each_failpoint_that_the_code_names_is_in_the_list() -> None:
    named = [
        argument.value
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and (_calls(node, "reach") or _calls(node, "transaction"))
        for argument in node.args
        if isinstance(argument, ast.Constant)
    ]
    assert len(named) > 12 and set(named) <= NAMES  # that each in the list is reached, tests/faults shows


@pytest.mark.parametrize("value", ["run:trained", "run:settled,everybody", "run:settled,self,soon"])
def test_a_process_that_is_to_die_at_an_unknown_failpoint_does_not_start(tmp_path: Path, value: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "clinloop", "data", "list", "--state", str(tmp_path)],
        env=os.environ | {"CLINLOOP_FAILPOINT": value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode not in (0, -9)
    assert "There is no failpoint 'run:trained'" in ended.stderr or "must be NAME" in ended.stderr, ended.stderr


def _calls(node: ast.AST, name: str) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    return (called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")) == name
