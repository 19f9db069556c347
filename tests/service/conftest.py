"""A service that really runs as one user, and clients that run as another: clinloop installed where both can read it and only root can write."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mcp.client.stdio import StdioServerParameters

ROOT = Path(__file__).resolve().parents[2]
A, B, TEAM = 54_311, 54_312, 54_390
"""User of the service, user of the agent, and a group that owns a container engine's socket; numbers without names."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs to become another user."""
    if os.geteuid() == 0:
        return
    for item in items:
        if "tests/service" in str(item.path):
            item.add_marker(pytest.mark.skip(reason="becoming a second user needs root"))


@dataclass(frozen=True)
class Installed:
    """An installation outside of the checkout."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

    @property
    def clinloop(self) -> Path:
        return self.folder / "venv" / "bin" / "clinloop"


@pytest.fixture(scope="session")
def installed() -> Iterator[Installed]:
    """Install clinloop as an administrator would: owned by root, readable for everybody, with an interpreter that everybody may start."""
    uv = (ROOT / ".tools" / "uv-path").read_text(encoding="utf-8").strip()
    folder = Path(tempfile.mkdtemp(prefix="clinloop-service-"))
    folder.chmod(0o755)
    found = Installed(folder)
    command = [
        uv,
        "sync",
        "--quiet",
        "--frozen",
        "--no-dev",
        "--no-editable",
        "--reinstall-package",
        "clinloop",
        "--python",
        str(interpreter()),
    ]
    old = os.umask(0o022)
    try:
        subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"UV_PROJECT_ENVIRONMENT": str(folder / "venv")},
            check=True,
            timeout=300,
        )
        yield found
    finally:
        os.umask(old)
        shutil.rmtree(folder)


def interpreter() -> Path:
    """Return a Python that every user may start."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (Path(sys.base_prefix) / "bin" / name, Path("/usr/bin") / name, Path("/usr/local/bin") / name):
        if path.exists() and subprocess.run(["true"], check=False).returncode == 0 and is_startable(path):
            return path
    pytest.skip("no interpreter that other users may start")


def is_startable(path: Path) -> bool:
    try:
        return subprocess.run([path, "-c", ""], user=B, group=B, extra_groups=[], cwd="/", check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture(scope="session")
def environments(installed: Installed) -> Path:
    """The cache folder with the smallest environment of sandboxes, the service user's own."""
    code = (
        "import sys; from pathlib import Path; from clinloop.settings import load_settings; from clinloop.sandbox.backends import load_backend; "
        "load_backend('bubblewrap', load_settings(Path(sys.argv[1]), cache=Path(sys.argv[2]))).environment('minimal', report=print)"
    )
    cache = installed.folder / "cache"
    subprocess.run(
        [installed.python, "-I", "-c", code, str(installed.folder / "unused"), str(cache)], check=True, timeout=300
    )
    give(cache, A)
    return cache


def give(folder: Path, user: int) -> None:
    """Make a folder and everything in it a user's own, the folder closed to others."""
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, user, user, follow_symlinks=False)
    folder.chmod(0o700)


class Service:
    """A running service."""

    def __init__(self, installed: Installed, folder: Path, cache: Path) -> None:
        self.installed, self.folder, self.cache = installed, folder, cache
        self.state, self.socket = folder / "state", folder / "run" / "clinloop.sock"
        self.engine = folder / "engine.sock"
        self.log = folder / "log.txt"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str, user: int = A) -> None:
        """Start it and wait until it listens."""
        process = self._launch(*arguments, user=user)
        self.process = process
        wait(lambda: self._listens() or process.poll() is not None)
        assert process.poll() is None, self.log.read_text(encoding="utf-8")

    def start_another(self) -> str:
        """Start a second one, which ends at once, and return what it said."""
        process = self._launch(user=A)
        assert process.wait(timeout=60) == 1
        return self.log.read_text(encoding="utf-8")

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(str(self.socket)) == 0

    def _launch(self, *arguments: str, user: int) -> subprocess.Popen[bytes]:
        command = [
            self.installed.clinloop,
            "serve",
            "--socket",
            self.socket,
            "--state",
            self.state,
            "--open",
            *arguments,
        ]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [str(word) for word in command],
                env={"PATH": "/usr/bin:/bin", "HOME": str(self.state), "SECRET": "of-the-service"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=user,
                group=user,
                extra_groups=[],
                cwd="/",
            )

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def client(self, user: int = B, groups: tuple[int, ...] = ()) -> StdioServerParameters:
        """Return how a client of a user starts `clinloop connect`."""
        change = ["--reuid", str(user), "--regid", str(user)]
        change += ["--groups", ",".join(map(str, groups))] if groups else ["--clear-groups"]
        arguments = [*change, str(self.installed.clinloop), "connect", "--socket", str(self.socket)]
        return StdioServerParameters(command="setpriv", args=arguments)

    def as_user(self, code: str, *arguments: object, user: int = B) -> Any:
        """Run Python code as a user and return the JSON that it prints."""
        done = subprocess.run(
            [self.installed.python, "-I", "-c", code, *map(str, arguments)],
            user=user,
            group=user,
            extra_groups=[],
            cwd="/",
            env={},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def service(installed: Installed, environments: Path, ingested: Path) -> Iterator[Service]:
    """A service with the dataset `moles`, not started yet; its sandbox is bubblewrap."""
    folder = Path(tempfile.mkdtemp(prefix="clinloop-service-"))
    folder.chmod(0o755)
    made = Service(installed, folder, environments)
    shutil.copytree(ingested, made.state)
    settings = {
        "cache": str(environments),
        "sandbox": "bubblewrap",
        "engine": f"unix://{made.engine}",
        "limits": {"memory_bytes": 2 << 30, "out_bytes": 64 << 20, "cpus": 2},
    }
    (made.state / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    give(made.state, A)
    made.socket.parent.mkdir(mode=0o755)
    os.chown(made.socket.parent, A, A)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()
    shutil.rmtree(folder)


def wait(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
