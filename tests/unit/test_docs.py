"""Docs that are generated are current, links lead somewhere, and every promise names a test that exists."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "AGENTS.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)


@pytest.mark.parametrize("script", ["tool_table", "failpoint_table", "metric_table"])
def test_the_generated_tables_are_current(script: str) -> None:
    spec = importlib.util.spec_from_file_location(script, ROOT / "scripts" / f"{script}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    current = module.TARGET.read_text(encoding="utf-8") == module.render()
    assert current, f"run: .venv/bin/python scripts/{script}.py"


def test_the_table_of_attacks_is_what_the_attacks_wrote() -> None:
    spec = importlib.util.spec_from_file_location("security_table", ROOT / "scripts" / "security_table.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, text in module.render().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run .venv/bin/python scripts/security_table.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_of_a_page_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def guarantees() -> list[dict[str, object]]:
    return tomllib.loads((ROOT / "tests" / "guarantees.toml").read_text(encoding="utf-8"))["guarantee"]


def _tests_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("guarantee", guarantees(), ids=lambda guarantee: str(guarantee["id"]))
def test_every_promise_names_tests_that_exist(guarantee: dict[str, object]) -> None:
    assert guarantee["promise"]
    tests = guarantee["tests"]
    assert isinstance(tests, list) and tests
    for name in tests:
        file, _, function = str(name).partition("::")
        assert function in _tests_in(ROOT / file), name


def test_every_promise_has_an_id_of_its_own() -> None:
    ids = [guarantee["id"] for guarantee in guarantees()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    "tool", ["inspect_dataset", "init_task", "edit_workspace", "run_training", "read_validation", "finalize"]
)
def test_every_tool_has_a_promise(tool: str) -> None:
    assert any(guarantee["tool"] == tool for guarantee in guarantees())
