"""The scripted edits of the demo: whatever the server decides, every edit finds its place and leaves Python behind."""

from __future__ import annotations

import ast
import itertools
import tomllib
from pathlib import Path
from typing import Any

import pytest

from clinloop.resources import resource

TEMPLATE = resource("task_templates") / "classification"
STEPS: list[dict[str, Any]] = tomllib.loads((TEMPLATE / "trajectory/trajectory.toml").read_text(encoding="utf-8"))[
    "step"
]


def workspace() -> dict[str, str]:
    files = tomllib.loads((TEMPLATE / "template.toml").read_text(encoding="utf-8"))["files"]
    return {name: (TEMPLATE / name).read_text(encoding="utf-8") for name in files}


def edited(files: dict[str, str], step: dict[str, Any]) -> dict[str, str]:
    """Return the files after the edits of a step, as edit_workspace does them."""
    files = dict(files)
    for edit in step["edits"]:
        path = edit["path"]
        if edit["operation"] == "create":
            assert path not in files
            files[path] = edit["text"]
            continue
        assert edit["operation"] == "replace"
        count = files[path].count(edit["old"])
        assert count == 1 or (count > 1 and edit.get("replace_all")), (step["name"], path, edit["old"], count)
        files[path] = files[path].replace(edit["old"], edit["new"])
    return files


def proposals() -> list[list[dict[str, Any]]]:
    """Return the steps as the agent proposes them: a step with the fix that follows it is one proposal."""
    grouped: list[list[dict[str, Any]]] = []
    for step in STEPS:
        if step.get("fixes"):
            grouped[-1].append(step)
        else:
            grouped.append([step])
    return grouped


@pytest.mark.parametrize("accepted", list(itertools.product([True, False], repeat=len(proposals()))))
def test_every_edit_fits_whatever_was_accepted_before(accepted: tuple[bool, ...]) -> None:
    files = workspace()
    for proposal, is_accepted in zip(proposals(), accepted, strict=True):
        proposed = files
        for step in proposal:
            proposed = edited(proposed, step)
            assert proposed != files
            for name, text in proposed.items():
                if name.endswith(".py"):
                    ast.parse(text, name)
        files = proposed if is_accepted else files


def test_the_script_holds_four_edits_with_a_reason_each_and_one_fix() -> None:
    assert len(STEPS) >= 4
    assert all(len(step["hypothesis"]) > 60 for step in STEPS)
    assert [bool(step.get("fixes")) for step in STEPS].count(True) == 1


def test_the_script_knows_nothing_of_the_result() -> None:
    assert {key for step in STEPS for key in step} <= {"name", "hypothesis", "edits", "fixes"}


@pytest.mark.parametrize(
    "template", sorted(path.parent for path in TEMPLATE.parent.glob("*/template.toml")), ids=lambda p: p.name
)
def test_a_template_names_itself_and_ships_every_file_that_it_lists(template: Path) -> None:
    facts = tomllib.loads((template / "template.toml").read_text(encoding="utf-8"))
    assert facts["name"] == template.name
    assert {"train.py", "predict.py", "README.md"} <= set(facts["files"])
    assert all((template / name).is_file() for name in facts["files"])
    assert (resource("sandbox_images") / facts["image"] / "requirements.lock").is_file()


def test_training_code_is_flat_with_its_constants_on_top() -> None:
    tree = ast.parse((TEMPLATE / "train.py").read_text(encoding="utf-8"))
    assert not [node for node in tree.body if isinstance(node, ast.ClassDef)]
    constants = [
        node.lineno for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).isupper()
    ]
    code = [
        node.lineno for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom | ast.Expr | ast.Assign)
    ]
    assert max(constants) < min(code)
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in TEMPLATE.glob("*.py")) < 260
