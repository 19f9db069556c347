"""What each sandbox image is made of: a folder that clinloop ships, with what the custodian has laid over it."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from clinloop.errors import unknown
from clinloop.paths import StateFolder
from clinloop.resources import resource
from clinloop.settings import Settings

_FACTS, LOCK, WANTED, ADDED = "image.toml", "requirements.lock", "requirements.in", "added.txt"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One sandbox image, before it is built."""

    name: str
    title: str
    """One line: what it is for."""
    notice: str
    """What its users must know of licences; empty = nothing."""
    parent: Recipe | None
    """The image that a container image starts from; None = a base image with Debian and Python."""
    variables: Mapping[str, str]
    """Environment variables of its jobs, in every backend; those of the parent included."""
    lock: Path
    """All packages with versions and hashes, those of the parents included."""
    lock_owner: str
    """The image whose lock it is: this one or one that it starts from."""
    wanted: Path
    """What the lock was made from."""
    left_out: tuple[str, ...]
    """Packages that others ask for and that are left out of the lock."""
    added: tuple[str, ...]
    """What the custodian has added, e.g. "monai==1.5.0"."""
    steps: Path
    """Dockerfile that installs the lock on a base image."""

    @property
    def dockerfile(self) -> str:
        """Text of the Dockerfile: the steps and the variables."""
        lines = [f"ENV {key}={json.dumps(value)}\n" for key, value in self.variables.items()]
        return self.steps.read_text(encoding="utf-8") + "".join(lines)

    @property
    def content(self) -> str:
        """SHA-256 of everything that decides what a container image holds, but for its base image."""
        parent = self.parent.content if self.parent else ""
        parts = [self.dockerfile.encode(), self.lock.read_bytes(), parent.encode()]
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()

    @property
    def main_packages(self) -> dict[str, str]:
        """Version by name of what was asked for by name, not of what came along."""
        lines = [*_lines(self.wanted), *self.added]
        names = {_name_of(line) for line in lines if not line.startswith("-")}
        if self.parent:
            names |= self.parent.main_packages.keys()
        return {name: version for name, version in locked(self.lock).items() if name in names}


def folders(settings: Settings) -> tuple[Path, ...]:
    """Return the folders of images in the order in which a file is looked for: the custodian's, then ours."""
    return StateFolder(settings.state).images, resource("sandbox_images")


def all_recipes(images: tuple[Path, ...]) -> list[Recipe]:
    """Return all images in order of name."""
    return [find_recipe(name, images) for name in _names(images)]


def find_recipe(name: str, images: tuple[Path, ...]) -> Recipe:
    """Return an image by name; each of its files is the one of the first folder that has it.

    Raises:
        Unknown: there is no such image.
    """
    names = _names(images)
    if name not in names:
        raise unknown("sandbox image", name, names)
    file = _file(images, name, _FACTS)
    assert file is not None
    found = file.stat()
    facts = _facts(file, found.st_mtime_ns, found.st_size)
    parent = find_recipe(facts["parent"], images) if "parent" in facts else None
    lock = _file(images, name, LOCK)
    if lock is None:
        if parent is None:
            raise unknown("sandbox image with a requirements.lock", name, [])
        lock, owner = parent.lock, parent.lock_owner
    else:
        owner = name
    added = _file(images, name, ADDED)
    is_inherited = parent is not None and (owner != name or added is not None)
    wanted = _file(images, name, WANTED) or (parent.wanted if parent and is_inherited else lock)
    return Recipe(
        name=name,
        title=facts["title"],
        notice=facts.get("notice", ""),
        parent=parent,
        variables={**(parent.variables if parent else {}), **facts.get("variables", {})},
        lock=lock,
        lock_owner=owner,
        wanted=wanted,
        left_out=tuple(facts.get("left_out", ())),
        added=tuple(_lines(added)) if added else (),
        steps=resource("sandbox_images") / "Dockerfile",
    )


@lru_cache(maxsize=64)
def _facts(file: Path, *_: int) -> dict[str, Any]:
    return tomllib.loads(file.read_text(encoding="utf-8"))


def locked(lock: Path) -> dict[str, str]:
    """Return version by name of what a lock pins, on whatever platform."""
    return dict(_pins(_lines(lock)))


@lru_cache(maxsize=64)
def _pins(lines: tuple[str, ...]) -> dict[str, str]:
    pins = [line.split()[0] for line in lines if "==" in line and not line.startswith("-")]
    return dict(pin.split("==", 1) for pin in pins)  # of several versions, the one for the newest Python


def _names(images: tuple[Path, ...]) -> list[str]:
    return sorted({file.parent.name for folder in images for file in folder.glob(f"*/{_FACTS}")})


def _file(images: tuple[Path, ...], name: str, file: str) -> Path | None:
    return next((path for folder in images if (path := folder / name / file).is_file()), None)


def _lines(file: Path) -> tuple[str, ...]:
    found = file.stat()
    return _read_lines(file, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=128)
def _read_lines(file: Path, *_: int) -> tuple[str, ...]:
    """Return the lines of a file as of a moment; every look at a dataset reads the locks of all images, thousands of lines."""
    stripped = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return tuple(line for line in stripped if line)


def _name_of(requirement: str) -> str:
    name = requirement
    for sign in "[<>=!~; @":
        name = name.partition(sign)[0]
    return name.strip().lower().replace("_", "-").replace(".", "-")
