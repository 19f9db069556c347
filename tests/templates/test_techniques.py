"""The technique modules of the Lite tier do what they promise, in the Python environment that workspaces have."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path

import pytest

from clinloop.resources import resource
from clinloop.sandbox.environment import ensure_environment
from clinloop.sandbox.recipes import find_recipe
from clinloop.settings import load_settings

CHECKS = Path(__file__).with_name("technique_checks.py")
NAMES = [
    node.name
    for node in ast.parse(CHECKS.read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef) and node.name != "main"
]
MODULES = sorted((resource("task_templates") / "techniques").glob("*.py"))


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    recipe = find_recipe("cpu", (resource("sandbox_images"),))
    python = ensure_environment(recipe, load_settings().cache, report=lambda line: None).python
    done = subprocess.run([python, str(CHECKS)], capture_output=True, text=True, check=True, timeout=300)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("check", NAMES)
def test_a_technique_does_what_it_promises(check: str, outcomes: dict[str, str]) -> None:
    assert outcomes[check] == ""


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_a_technique_says_what_it_is_names_its_source_and_needs_torch_or_numpy_only(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    text = ast.get_docstring(tree)
    assert text and len(text.splitlines()) == 1
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= {"copy", "math", "numpy", "torch", "torch.nn.functional"}
    public = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"]
    assert all(ast.get_docstring(node) for node in public)
    assert len(module.read_text(encoding="utf-8").splitlines()) < 100
    checked = CHECKS.read_text(encoding="utf-8")
    assert f"from techniques.{module.stem} import" in checked
