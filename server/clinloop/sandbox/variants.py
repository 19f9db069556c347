"""The custodian's variant of a sandbox image: its packages and a few more, locked anew and kept in the state folder."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from clinloop.errors import BadInput
from clinloop.files import write_atomic
from clinloop.paths import StateFolder
from clinloop.sandbox.recipes import ADDED, LOCK, Recipe, find_recipe, folders
from clinloop.sandbox.uv import run_uv
from clinloop.settings import Settings

_PIN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(\[[A-Za-z0-9,._-]+\])?==[A-Za-z0-9.+!_-]+")


def add_packages(name: str, pins: Sequence[str], settings: Settings, *, report: Callable[[str], None]) -> Recipe:
    """Lock an image with packages added, each NAME==VERSION; a package that was added before takes the new version.

    What was locked before keeps its version where the new packages allow it. Nothing happens when they are in it already.

    Raises:
        Unknown: there is no such image.
        BadInput: a pin is no NAME==VERSION.
        SandboxUnavailable: they cannot be had together, or not without a compiler; the text holds what uv says.
    """
    if bad := [pin for pin in pins if not _PIN.fullmatch(pin)]:
        raise BadInput(f"--with {bad[0]!r} is no NAME==VERSION, e.g. --with monai==1.5.0.")
    recipe = find_recipe(name, folders(settings))
    added = {_project(pin): pin for pin in (*recipe.added, *pins)}
    if recipe.added == tuple(added.values()):
        return recipe
    own = StateFolder(settings.state).images / name
    with tempfile.TemporaryDirectory() as scratch:
        wanted, lock = Path(scratch) / ADDED, Path(scratch) / LOCK
        wanted.write_text("\n".join(added.values()) + "\n", encoding="utf-8")
        shutil.copyfile(recipe.lock, lock)  # uv keeps the versions that it finds in its output
        run_uv(
            "pip",
            "compile",
            "--universal",
            "--generate-hashes",
            "--python-version=3.11",
            "--no-annotate",
            "--only-binary=:all:",
            f"--custom-compile-command=clinloop images build {name} --with …",
            *(f"--no-emit-package={package}" for package in recipe.left_out),
            f"--output-file={lock}",
            str(recipe.wanted),
            str(wanted),
            cwd=Path(scratch),
            report=report,
            failed=f"The packages of '{name}' cannot be had together with {', '.join(pins)}",
            hint="Check names and versions, the network and the package index.",
        )
        write_atomic(own / LOCK, lock.read_bytes(), mode=0o644)
    write_atomic(own / ADDED, "\n".join(added.values()) + "\n", mode=0o644)
    return find_recipe(name, folders(settings))


def _project(pin: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[=]", pin)[0]).lower()
