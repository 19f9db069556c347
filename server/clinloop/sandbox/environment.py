"""The Python environment of a sandbox image, built from its locked requirements and shared by all state folders."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path

from clinloop.errors import SandboxUnavailable, unknown
from clinloop.files import remove_tree, write_atomic
from clinloop.resources import resource
from clinloop.sandbox.base import Environment, Mount

_MARKER = "clinloop.json"
"""Written last: a folder without it is half a build."""
_NEWS = ("Using CPython", "Resolved", "Downloading", "Prepared", "Installed", "Bytecode")


def ensure_environment(
    image: str, cache: Path, *, report: Callable[[str], None], images: Path | None = None
) -> Environment:
    """Return the environment of an image, installing it on first use; `report` receives a line whenever there is news.

    Any number of processes may call this at once: one builds, the others wait. `images`: folder of images, by default ours.

    Raises:
        Unknown: there is no such image.
        SandboxUnavailable: the packages cannot be downloaded or installed; the text holds the reason.
    """
    found = find_environment(image, cache, images=images)
    if found:
        return found
    folder, lock = _place(image, cache, images)
    folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _alone(folder.with_suffix(".lock")):
        found = find_environment(image, cache, images=images)
        if found:
            return found
        remove_tree(folder)
        report(f"Installing the Python environment '{image}' (once; a download of some gigabytes).")
        try:
            _build(folder, lock, report)
        except BaseException:
            remove_tree(folder)
            raise
        packages = {
            str(item.metadata["Name"]).lower(): item.version
            for item in distributions(path=[str(_site_packages(folder))])
        }
        facts = {
            "digest": _digest(lock),
            "base": os.path.realpath(sys.base_prefix),
            "packages": dict(sorted(packages.items())),
        }
        write_atomic(folder / _MARKER, json.dumps(facts, indent=1), mode=0o644)
        report(f"The Python environment '{image}' is ready: {len(packages)} packages.")
    built = find_environment(image, cache, images=images)
    assert built is not None
    return built


def find_environment(image: str, cache: Path, *, images: Path | None = None) -> Environment | None:
    """Return the environment of an image if it is built, else None.

    Raises:
        Unknown: there is no such image.
    """
    folder, _ = _place(image, cache, images)
    try:
        facts = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    python, base = folder / "bin" / "python", Path(facts["base"])
    if not python.exists():  # the interpreter that it was built with is gone
        return None
    mounts = (Mount(folder, str(folder)), *_base_mounts(base))
    return Environment(
        name=image, digest=facts["digest"], python=str(python), mounts=mounts, packages=facts["packages"]
    )


def bare_environment() -> Environment:
    """Return the Python that runs this, without packages: what checks of a backend need."""
    base = Path(os.path.realpath(sys.base_prefix))
    return Environment(name="bare", digest="", python=str(_interpreter(base)), mounts=_base_mounts(base), packages={})


def _interpreter(base: Path) -> Path:
    return base / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"


def _base_mounts(base: Path) -> tuple[Mount, ...]:
    return () if base.is_relative_to("/usr") else (Mount(base, str(base)),)


def _place(image: str, cache: Path, images: Path | None) -> tuple[Path, Path]:
    """Return (folder of the environment, locked requirements of the image)."""
    images = images or resource("sandbox_images")
    known = sorted(path.parent.name for path in images.glob("*/requirements.lock"))
    if image not in known:
        raise unknown("sandbox image", image, known)
    lock = images / image / "requirements.lock"
    return cache / "environments" / f"{image}-{_digest(lock)[:12]}", lock


def _digest(lock: Path) -> str:
    facts = (sys.implementation.name, platform.python_version(), sys.platform, platform.machine())
    return hashlib.sha256(lock.read_bytes() + "\0".join(facts).encode()).hexdigest()


def _site_packages(folder: Path) -> Path:
    return folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _build(folder: Path, lock: Path, report: Callable[[str], None]) -> None:
    """Fill the folder in place, because a venv cannot be moved; bytecode is compiled, without which `import timm` alone takes seconds."""
    interpreter = _interpreter(Path(os.path.realpath(sys.base_prefix)))
    _uv(report, folder.parent, "venv", "--no-project", "--no-config", "--python", str(interpreter), str(folder))
    python = str(folder / "bin" / "python")
    _uv(report, folder.parent, "pip", "sync", "--require-hashes", "--compile-bytecode", "--python", python, str(lock))


def _uv(report: Callable[[str], None], cwd: Path, *argv: str) -> None:
    from uv import find_uv_bin

    # The environment is inherited: proxies, indexes and the cache of uv are the custodian's; cwd keeps a project's settings out.
    # The umask makes the files readable by the sandbox uid.
    with subprocess.Popen(
        [find_uv_bin(), *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        umask=0o022,
        cwd=cwd,
    ) as process:
        assert process.stderr is not None
        last = deque[str](maxlen=8)
        for line in process.stderr:
            if text := line.strip():
                last.append(text)
                if text.startswith(_NEWS):
                    report(text)
        if process.wait() != 0:
            raise SandboxUnavailable(
                f"The Python environment could not be installed (uv: {' '.join(last)[-400:]}). Check the network or the package index and try again."
            )


@contextmanager
def _alone(path: Path) -> Generator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
