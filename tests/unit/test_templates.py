"""Templates and tiers: what a workspace starts with."""

from __future__ import annotations

import ast
import tomllib

import pytest

from clinloop import templates
from clinloop.resources import resource

ALL = templates.all_templates()


@pytest.mark.parametrize("template", ALL, ids=lambda template: template.name)
def test_the_standard_tier_is_the_baseline_alone_and_lite_only_adds_to_it(template: templates.Template) -> None:
    standard, lite = template.sources("standard"), template.sources("lite")
    assert {"train.py", "predict.py", "README.md"} <= set(standard)
    assert "TECHNIQUES.md" not in standard
    assert not [name for name in standard if name.startswith("techniques/")]
    assert standard.items() <= lite.items()
    assert all(path.is_file() for path in lite.values())


@pytest.mark.parametrize("template", ALL, ids=lambda template: template.name)
def test_the_baseline_of_no_template_needs_what_only_the_lite_tier_has(template: templates.Template) -> None:
    for name, path in template.sources("standard").items():
        if name.endswith(".py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
            assert not [module for module in modules if module.startswith("techniques")], name


@pytest.mark.parametrize("template", ALL, ids=lambda template: template.name)
def test_a_template_lists_every_python_file_that_it_holds(template: templates.Template) -> None:
    facts = tomllib.loads((template.folder / "template.toml").read_text(encoding="utf-8"))
    held = {path.name for path in template.folder.glob("*.py")}
    assert held <= {*facts["files"], *facts.get("lite_files", [])}


def test_every_shared_technique_is_offered_by_a_template() -> None:
    shared = {f"techniques/{path.name}" for path in (resource("task_templates") / "techniques").glob("*.py")}
    assert shared
    assert shared <= {name for template in ALL for name in template.lite_files}
