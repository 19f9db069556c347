"""What a client's user can reach of a server: vault, store, keys, code, container engine, memory, and the rights of an administrator."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import site
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from clinloop.access import Access, Client, Computed, Tried, group_id
from clinloop.guarantee import Finding
from clinloop.resources import resource

ENGINE_SOCKETS = (
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
)
"""Whoever may talk to an engine of the system can read every file as root."""
ADMINISTRATORS = ("root", "sudo", "wheel", "admin", "docker", "lxd", "incus", "incus-admin", "libvirt", "disk")
"""Groups whose members can become root, or read the disks."""
_DEEP = 40
_GET_DUMPABLE, _SET_DUMPABLE = 3, 4


class Grounds(NamedTuple):
    """What belongs to the server and must be out of the client's reach."""

    state: Path
    cache: Path
    """Environments of the sandboxes."""
    originals: tuple[Path, ...] = ()
    """Folders with images that datasets were or will be made of."""
    engine_sockets: tuple[str, ...] = ENGINE_SOCKETS
    administrators: tuple[str, ...] = ADMINISTRATORS
    server_uid: int = -1
    server_pid: int = 0
    """A process of the server whose memory is tried; 0 = none is known."""
    is_thorough: bool = False
    """Look at every file of the installed packages, not only at those of clinloop."""


class _Places(NamedTuple):
    """The paths that are tried, found before a process becomes a user who may not list them."""

    vault: list[Path]
    store: list[Path]
    keys: list[Path]
    state: list[Path]
    code: list[Path]
    trees: list[tuple[Path, int]]
    """Folders of code, and how deep each is looked into."""


def hide_memory() -> None:
    """Close this process's memory, environment and descriptors to other processes of its user, and make no core file."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)


def shows_memory() -> bool:
    """Tell whether other processes of this user may read this process's memory."""
    return ctypes.CDLL(None).prctl(_GET_DUMPABLE, 0, 0, 0, 0) != 0


def compute(client: Client, grounds: Grounds) -> tuple[Finding, ...]:
    """Return what a client's user could reach, computed from owners and modes; a millisecond or two."""
    return tuple(_findings(Computed(client), grounds, _places(grounds)))


def attempt(client: Client, grounds: Grounds) -> tuple[Finding, ...]:
    """Return what a client's user reaches when a process of that user really tries; another user only as root.

    Raises:
        OSError: this process may not become that user.
    """
    places = _places(grounds)
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        status = 1
        try:
            os.close(read)
            if client.uid != os.geteuid():
                os.setgroups(sorted(client.groups))
                os.setresgid(client.gid, client.gid, client.gid)
                os.setresuid(client.uid, client.uid, client.uid)
            answer: object = [finding._asdict() for finding in _findings(Tried(client), grounds, places)]
            status = 0
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        with os.fdopen(write, "w", encoding="utf-8") as pipe:
            json.dump(answer, pipe)
        os._exit(status)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as pipe:
        answer = pipe.read()
    if os.waitpid(child, 0)[1]:
        raise OSError(0, f"The attempts as user {client.name} failed: {answer}")
    return tuple(Finding(**item) for item in json.loads(answer))


def code_places(*, is_thorough: bool = False) -> tuple[list[Path], list[tuple[Path, int]]]:
    """Return the single files and the folders (with how deep they matter) from which the server's code is loaded."""
    here = Path(__file__).parent
    own = [here, here.parent.parent / "tools" / "clinloop_tools", here.parent / "clinloop_tools"]
    own += [resource("task_templates"), resource("sandbox_images")]
    others = [*(Path(folder) for folder in site.getsitepackages()), Path(os.__file__).parent]
    trees = [*((tree, _DEEP) for tree in own), *((tree, _DEEP if is_thorough else 1) for tree in others)]
    files = [Path(sys.executable), Path(sys.prefix) / "pyvenv.cfg", Path(sys.prefix) / "bin"]
    return [path for path in files if path.exists()], [(tree, depth) for tree, depth in trees if tree.is_dir()]


def _places(grounds: Grounds) -> _Places:
    """Of each vault the folder and its files are tried, because a mode may stop only one of both."""
    state = grounds.state
    vault: list[Path] = []
    for folder in sorted(state.glob("datasets/*/vault")) or [state / "datasets"]:
        vault += [folder, folder / "cases.csv", folder / "secret.json", folder / "images"]
    files, trees = code_places(is_thorough=grounds.is_thorough)
    return _Places(
        vault=vault,
        store=sorted(state.glob("clinloop.sqlite*")) or [state / "clinloop.sqlite"],
        keys=[path for path in sorted(state.glob("*key*")) if path.is_file()] or [state / "key"],
        state=[state, state / "settings.json", state / "datasets", state / "tasks"],
        code=files,
        trees=trees,
    )


def _findings(access: Access, grounds: Grounds, places: _Places) -> Iterator[Finding]:
    user = _user(access.client, grounds)
    own = "Make the state folder 0700 and the server's own, below folders that only root changes."
    cache = "Give the server a cache folder of its own, 0700, below folders that only root changes."
    if user.is_reachable:
        own = cache = "As above."
    yield user
    yield _paths(access, "vault", places.vault, own, also_reads=True)
    yield _paths(access, "store", places.store, own, also_reads=True)
    yield _paths(access, "key", places.keys, own, also_reads=True)
    yield _paths(access, "state folder", places.state, own)
    yield _paths(access, "sandbox environments", [grounds.cache], cache)
    yield _package(access, places)
    yield _originals(access, grounds)
    yield _engine(access, grounds)
    yield _memory(access, grounds)
    yield _administrator(access, grounds)


def _user(client: Client, grounds: Grounds) -> Finding:
    if client.uid == 0:
        return Finding("root", True, "the client is root", "Let agents run as an ordinary user.")
    if client.uid == grounds.server_uid:
        return Finding(
            "same user",
            True,
            "client and server are one user",
            "Run the server as a user of its own: clinloop service install.",
        )
    return Finding("same user", False, "client and server are different users", "")


def _paths(access: Access, what: str, paths: Iterable[Path], fix: str, *, also_reads: bool = False) -> Finding:
    """Report the first path that the user could change or, where that matters, read."""
    for path in paths:
        if access.changes(path):
            return Finding(what, True, "can be changed", fix, str(path))
        if also_reads and access.reads(path):
            return Finding(what, True, "can be read", fix, str(path))
    return Finding(what, False, "cannot be read or changed" if also_reads else "cannot be changed", "")


def _package(access: Access, places: _Places) -> Finding:
    """Report what the user could change of the code that the server runs: its package, the others, and the interpreter."""
    found = next((path for path in places.code if access.changes(path)), None) or next(
        (found for tree, depth in places.trees if (found := access.changes_below(tree, depth=depth))), None
    )
    if found is None:
        return Finding("package", False, "cannot be changed", "")
    fix = "Install clinloop where only root writes (for example a virtual environment below /opt made by root)."
    return Finding("package", True, "the server's code can be changed", fix, str(found))


def _originals(access: Access, grounds: Grounds) -> Finding:
    fix = "Take the images that datasets are made of away from the agent's user: another mode, or another machine."
    for folder in grounds.originals:
        if access.reads(folder):
            return Finding("originals", True, "images that datasets are made of can be read", fix, str(folder))
    how = "cannot be read" if grounds.originals else "none are known here"
    return Finding("originals", False, how, "")


def _engine(access: Access, grounds: Grounds) -> Finding:
    fix = "Take the agent's user out of the group of the container engine's socket (often docker)."
    for name in grounds.engine_sockets:
        if access.connects(Path(name)):
            how = "the container engine can be used, and with it every file read as root"
            return Finding("container engine", True, how, fix, name)
    return Finding("container engine", False, "no socket of an engine can be used", "")


def _memory(access: Access, grounds: Grounds) -> Finding:
    fix = "Run the server as a user of its own: clinloop service install."
    if isinstance(access, Tried) and grounds.server_pid:
        for name in ("mem", "environ"):
            with suppress(OSError), Path(f"/proc/{grounds.server_pid}/{name}").open("rb") as file:
                file.fileno()
                return Finding("memory", True, f"the server's {name} can be opened", fix)
        return Finding("memory", False, "memory and environment of the server cannot be opened", "")
    is_same = access.client.uid == grounds.server_uid and shows_memory()
    if access.client.uid == 0 or is_same:
        return Finding("memory", True, "the server's memory can be read", fix)
    return Finding("memory", False, "the server's memory is closed to other processes", "")


@lru_cache(maxsize=4)
def _numbers(groups: tuple[str, ...], _minute: int) -> list[tuple[str, int | None]]:
    """Return the numbers of groups, asked for once a minute: each question reads /etc/group anew."""
    return [(name, group_id(name)) for name in groups]


def _administrator(access: Access, grounds: Grounds) -> Finding:
    fix = "Take the agent's user out of groups that give the rights of root, and give it no sudo without a password."
    for name, number in _numbers(grounds.administrators, int(time.monotonic() // 60)):
        if number in access.client.groups:
            return Finding("administrator", True, f"the user is in group {name}", fix)
    if isinstance(access, Tried) and shutil.which("sudo"):
        with suppress(OSError, subprocess.TimeoutExpired):
            tried = subprocess.run(["sudo", "-n", "true"], capture_output=True, timeout=10, check=False)
            if tried.returncode == 0:
                return Finding("administrator", True, "sudo asks for no password", fix)
    how = (
        "no such group, and no sudo without a password"
        if isinstance(access, Tried)
        else "no such group (what sudoers says of this user alone, only `clinloop doctor --as` sees)"
    )
    return Finding("administrator", False, how, "")
