"""The scripted edits of every trajectory: whatever the server decides, every edit finds its place and leaves Python behind."""

from __future__ import annotations

import ast
import itertools
import tomllib
from pathlib import Path

import pytest

from clinloop.agent import Step, proposals, read_trajectory
from clinloop.resources import resource
from clinloop.spec import PRESETS
from clinloop.standin import STANDINS
from clinloop.targets import TARGETS, TaskName

TEMPLATE = resource("task_templates") / "classification"
TRAJECTORIES = sorted((file.parents[1].name, file.stem) for file in TEMPLATE.parent.glob("*/trajectory/*.toml"))
each_trajectory = pytest.mark.parametrize(("template", "name"), TRAJECTORIES)


def workspace(template: str) -> dict[str, str]:
    folder = TEMPLATE.parent / template
    files = tomllib.loads((folder / "template.toml").read_text(encoding="utf-8"))["files"]
    return {name: (folder / name).read_text(encoding="utf-8") for name in files}


def edited(files: dict[str, str], step: Step) -> dict[str, str]:
    """Return the files after the edits of a step, as edit_workspace does them."""
    files = dict(files)
    for edit in step.edits:
        path = edit["path"]
        if edit["operation"] == "create":
            assert path not in files
            files[path] = edit["text"]
            continue
        assert edit["operation"] == "replace"
        count = files[path].count(edit["old"])
        assert count == 1 or (count > 1 and edit.get("replace_all")), (step.name, path, edit["old"], count)
        files[path] = files[path].replace(edit["old"], edit["new"])
    return files


@each_trajectory
def test_every_edit_fits_whatever_was_accepted_before(template: str, name: str) -> None:
    steps = proposals(read_trajectory(template, name))
    for accepted in itertools.product([True, False], repeat=len(steps)):
        files = workspace(template)
        for proposal, is_accepted in zip(steps, accepted, strict=True):
            proposed = files
            for step in proposal:
                proposed = edited(proposed, step)
                assert proposed != files
                for file, text in proposed.items():
                    if file.endswith(".py"):
                        ast.parse(text, file)
            files = proposed if is_accepted else files


@each_trajectory
def test_a_trajectory_has_at_least_three_steps_each_with_a_reason_of_its_own(template: str, name: str) -> None:
    steps = read_trajectory(template, name)
    assert len(proposals(steps)) >= 3
    assert all(len(step.hypothesis) > 60 for step in steps)
    beginnings = [{step.hypothesis[:80] for step in proposal} for proposal in proposals(steps)]
    assert not any(one & other for one, other in itertools.combinations(beginnings, 2))  # a list of runs shows no more


@each_trajectory
def test_a_trajectory_fits_the_smallest_budget(template: str, name: str) -> None:
    assert len(proposals(read_trajectory(template, name))) < PRESETS["demo"].runs


def test_no_two_trajectories_give_the_same_reason() -> None:
    reasons = [step.hypothesis for template, name in TRAJECTORIES for step in read_trajectory(template, name)]
    assert len(set(reasons)) == len(reasons)


def test_the_script_of_the_demo_holds_four_edits_and_one_fix() -> None:
    steps = read_trajectory("classification", "isic8")
    assert len(steps) >= 4
    assert [step.fixes for step in steps].count(True) == 1


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_that_has_its_template_has_its_trajectory(name: TaskName) -> None:
    target = TARGETS[name]
    if target.source.standin not in STANDINS or not (TEMPLATE.parent / target.template / "template.toml").is_file():
        pytest.skip("its parts are not here yet")
    assert (target.template, target.trajectory) in TRAJECTORIES


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
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in TEMPLATE.glob("*.py")) < 300
