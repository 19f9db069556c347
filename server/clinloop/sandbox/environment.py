"""The Python environment of a sandbox image, built from its locked requirements and shared by all state folders."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path

from clinloop.files import remove_tree, write_atomic
from clinloop.sandbox.base import Environment, Mount
from clinloop.sandbox.recipes import Recipe
from clinloop.sandbox.uv import run_uv

_MARKER = "clinloop.json"
"""Written last: a folder without it is half a build."""


def ensure_environment(recipe: Recipe, cache: Path, *, report: Callable[[str], None]) -> Environment:
    """Return the environment of an image, installing it on first use; `report` receives a line whenever there is news.

    Any number of processes may call this at once: one builds, the others wait.

    Raises:
        SandboxUnavailable: the packages cannot be downloaded or installed; the text holds the reason.
    """
    found = find_environment(recipe, cache)
    if found:
        return found
    folder = _folder(recipe, cache)
    folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with alone(folder.with_suffix(".lock")):
        found = find_environment(recipe, cache)
        if found:
            return found
        remove_tree(folder)
        report(f"Installing the Python environment '{recipe.name}' (once; a download of some gigabytes).")
        try:
            _build(folder, recipe.lock, report)
        except BaseException:
            remove_tree(folder)
            raise
        packages = {
            str(item.metadata["Name"]).lower(): item.version
            for item in distributions(path=[str(_site_packages(folder))])
        }
        facts = {
            "digest": _digest(recipe.lock),
            "python": platform.python_version(),
            "base": os.path.realpath(sys.base_prefix),
            "packages": dict(sorted(packages.items())),
        }
        write_atomic(folder / _MARKER, json.dumps(facts, indent=1), mode=0o644)
        report(f"The Python environment '{recipe.name}' is ready: {len(packages)} packages.")
    built = find_environment(recipe, cache)
    assert built is not None
    return built


def find_environment(recipe: Recipe, cache: Path) -> Environment | None:
    """Return the environment of an image if it is built, else None."""
    folder = _folder(recipe, cache)
    try:
        facts = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    python, base = folder / "bin" / "python", Path(facts["base"])
    if not python.exists():  # the interpreter that it was built with is gone
        return None
    return Environment(
        name=recipe.name,
        digest=facts["digest"],
        python=str(python),
        python_version=facts["python"],
        mounts=(Mount(folder, str(folder)), *_base_mounts(base)),
        packages=facts["packages"],
        variables=recipe.variables,
    )


def bare_environment() -> Environment:
    """Return the Python that runs this, without packages: what checks of a backend need."""
    base = Path(os.path.realpath(sys.base_prefix))
    return Environment(name="bare", digest="", python=str(_interpreter(base)), mounts=_base_mounts(base), packages={})


def _interpreter(base: Path) -> Path:
    return base / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"


def _base_mounts(base: Path) -> tuple[Mount, ...]:
    return () if base.is_relative_to("/usr") else (Mount(base, str(base)),)


def _folder(recipe: Recipe, cache: Path) -> Path:
    """Return the folder of the environment, which images of the same lock share."""
    return cache / "environments" / f"{recipe.lock_owner}-{_digest(recipe.lock)[:12]}"


def _digest(lock: Path) -> str:
    facts = (sys.implementation.name, platform.python_version(), sys.platform, platform.machine())
    return hashlib.sha256(lock.read_bytes() + "\0".join(facts).encode()).hexdigest()


def _site_packages(folder: Path) -> Path:
    return folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _build(folder: Path, lock: Path, report: Callable[[str], None]) -> None:
    """Fill the folder in place, because a venv cannot be moved; bytecode is compiled, without which `import timm` alone takes seconds."""
    interpreter = _interpreter(Path(os.path.realpath(sys.base_prefix)))
    python = str(folder / "bin" / "python")
    for argv in (
        ("venv", "--no-project", "--no-config", "--python", str(interpreter), str(folder)),
        ("pip", "sync", "--require-hashes", "--compile-bytecode", "--python", python, str(lock)),
    ):
        run_uv(
            *argv,
            cwd=folder.parent,
            report=report,
            failed="The Python environment could not be installed",
            hint="Check the network or the package index and try again.",
        )


@contextmanager
def alone(path: Path) -> Generator[None]:
    """Hold the lock of a file: one process at a time builds what it stands for."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
