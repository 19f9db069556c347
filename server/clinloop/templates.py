"""Templates: what a workspace can start from, one folder of task_templates/ each."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from clinloop.errors import BadInput, unknown
from clinloop.resources import resource

Tier = Literal["lite", "standard"]
"""How much a workspace starts with: "standard" is the baseline alone, "lite" adds what is known to help. Source: AutoMedBench (arXiv 2606.01961)."""


class Template(NamedTuple):
    """What a workspace starts from."""

    name: str
    title: str
    task_types: tuple[str, ...]
    image: str
    """Sandbox image that its code needs."""
    files: tuple[str, ...]
    """Files that every workspace gets."""
    lite_files: tuple[str, ...]
    """Files that only the Lite tier adds; those that templates share lie beside the templates' folders."""
    folder: Path

    def sources(self, tier: Tier) -> dict[str, Path]:
        """Return the files of a workspace, by their path in it."""
        names = self.files if tier == "standard" else (*self.files, *self.lite_files)
        own = {name: self.folder / name for name in names}
        return {name: path if path.exists() else self.folder.parent / name for name, path in own.items()}


def all_templates() -> tuple[Template, ...]:
    """Return all templates in order of name."""
    return _read(resource("task_templates"))


@cache
def _read(root: Path) -> tuple[Template, ...]:
    """Read the templates of a folder; they come with clinloop, so once is enough."""
    found: list[Template] = []
    for file in sorted(root.glob("*/template.toml")):
        facts = tomllib.loads(file.read_text(encoding="utf-8"))
        found.append(
            Template(
                file.parent.name,
                facts["title"],
                tuple(facts["task_types"]),
                facts["image"],
                tuple(facts["files"]),
                tuple(facts.get("lite_files", ())),
                file.parent,
            )
        )
    return tuple(found)


def find(name: str, task_type: str) -> Template:
    """Return a template by name, or the first one for a task type when the name is empty.

    Raises:
        Unknown, BadInput: no such template, or it is for other tasks.
    """
    known = all_templates()
    if not name:
        return next(template for template in known if task_type in template.task_types)
    for template in known:
        if template.name == name:
            if task_type not in template.task_types:
                raise BadInput(
                    f"Template {name!r} is for {', '.join(template.task_types)}, the spec is for {task_type}."
                )
            return template
    raise unknown("template", name, [template.name for template in known])
