"""`clinloop service`: a system user of its own, closed folders, and a systemd unit, so that the agent's user reaches nothing of the server."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from clinloop.access import Client, Computed, group_id
from clinloop.connect import SOCKET
from clinloop.errors import BadInput
from clinloop.exposure import code_places

UNIT = Path("/etc/systemd/system/clinloop.service")
NO_LOGIN = "/usr/sbin/nologin"


class Plan(NamedTuple):
    """What a service is made of."""

    user: str
    state: Path
    cache: Path
    socket: Path = SOCKET
    group: str | None = None
    """Group that may use the socket; None and not open = root and the service only."""
    is_open: bool = False
    """Every user of the machine may use the socket."""
    uses_docker: bool = False
    """The service's user joins the group of the container engine; nobody else may be in it."""
    http: str | None = None
    """HOST:PORT at which it serves over HTTP besides."""


class Step(NamedTuple):
    """One change, which is described before it is made and not made twice."""

    text: str
    make: Callable[[], object]


def systemd_runs() -> bool:
    """Tell whether systemd is the first process here."""
    return Path("/run/systemd/system").is_dir()


def command() -> list[str]:
    """Return how the service is started: by this interpreter and this package."""
    return [sys.executable, "-I", "-m", "clinloop", "service", "run"]


def unit_text(plan: Plan) -> str:
    """Return the systemd unit.

    What hides parts of /proc or forbids namespaces is left out: bubblewrap mounts a /proc of its own in a user namespace, which the kernel refuses
    while the one outside is covered anywhere. KillMode=process: supervisors of runs live on when the service is restarted.
    """
    options = ["--user", plan.user, "--state", str(plan.state), "--socket", str(plan.socket)]
    options += ["--group", plan.group] if plan.group else []
    options += ["--open"] if plan.is_open else []
    options += ["--http", plan.http] if plan.http else []
    start = shlex.join([*command(), *options]).replace("%", "%%")
    runtime = plan.socket.parent.name if plan.socket.parent.parent == Path("/run") else ""
    groups = " ".join(_groups(plan))
    return "\n".join(
        line
        for line in (
            "[Unit]",
            "Description=clinloop, a training server for coding agents",
            "After=network.target docker.service",
            "",
            "[Service]",
            f"ExecStart={start}",
            f"User={plan.user}",
            f"SupplementaryGroups={groups}" if groups else None,
            f"Environment=CLINLOOP_CACHE={plan.cache}",
            f"RuntimeDirectory={runtime}" if runtime else None,
            "RuntimeDirectoryMode=0755" if runtime else None,
            "UMask=0077",
            "KillMode=process",
            "Restart=on-failure",
            "Delegate=yes",
            "NoNewPrivileges=yes",
            "CapabilityBoundingSet=",
            "ProtectSystem=strict",
            f"ReadWritePaths={plan.state} {plan.cache}",
            "ProtectHome=read-only",
            "PrivateTmp=yes",
            "ProtectKernelModules=yes",
            "RestrictRealtime=yes",
            "RestrictSUIDSGID=yes",
            "LockPersonality=yes",
            "",
            "[Install]",
            "WantedBy=multi-user.target",
            "",
        )
        if line is not None
    )


def install_steps(plan: Plan) -> Iterator[Step]:
    """Yield what is still to do; nothing that is there is made again."""
    if plan.group and group_id(plan.group) is None:
        yield Step(
            f"make the group {plan.group}, whose members may use the socket", _run("groupadd", "--system", plan.group)
        )
    if not _user_exists(plan.user):
        options = ("--system", "--user-group", "--no-create-home", "--home-dir", str(plan.state), "--shell", NO_LOGIN)
        yield Step(f"make the user {plan.user}, who cannot log in", _run("useradd", *options, plan.user))
    for group in _groups(plan):
        if not _is_member(plan.user, group):
            yield Step(
                f"put {plan.user} into the group {group}", _run("usermod", "--append", "--groups", group, plan.user)
            )
    for folder in (plan.state, plan.cache):
        if not _is_closed(folder, plan.user):
            yield Step(
                f"make the folder {folder}: 0700, owned by {plan.user}", lambda folder=folder: _close(folder, plan.user)
            )
    settings = plan.state / "settings.json"
    if not settings.exists():
        yield Step(f"write {settings}: the cache folder", lambda: _write_settings(settings, plan))
    if not UNIT.exists() or UNIT.read_text(encoding="utf-8") != unit_text(plan):
        if UNIT.parent.is_dir():
            yield Step(f"write {UNIT}", lambda: UNIT.write_text(unit_text(plan), encoding="utf-8"))
        if systemd_runs():
            yield Step("read the unit", _run("systemctl", "daemon-reload"))
            yield Step("start it now and at every start of the machine", _run("systemctl", "enable", "clinloop"))
            yield Step("start it", _run("systemctl", "restart", "clinloop"))


def uninstall_steps(plan: Plan, *, purge: bool) -> Iterator[Step]:
    """Yield what undoes an installation; only `purge` removes datasets, tasks, reports and the user."""
    if systemd_runs() and UNIT.exists():
        yield Step("stop the service", _run("systemctl", "disable", "--now", "clinloop"))
    if UNIT.exists():
        yield Step(f"remove {UNIT}", UNIT.unlink)
        if systemd_runs():
            yield Step("forget the unit", _run("systemctl", "daemon-reload"))
    if not purge:
        return
    for folder in (plan.state, plan.cache):
        if folder.exists():
            yield Step(f"remove {folder} with everything in it", lambda folder=folder: shutil.rmtree(folder))
    if _user_exists(plan.user):
        yield Step(f"remove the user {plan.user}", _run("userdel", plan.user))


def code_problems(user: str) -> list[str]:
    """Return why this installation does not do for a service: its user cannot start it, or somebody else than root could change it."""
    problems: list[str] = []
    entry = pwd.getpwnam(user) if _user_exists(user) else None
    number = entry.pw_uid if entry else 65_534
    reader = Computed(Client(number, number, frozenset([entry.pw_gid if entry else number]), user))
    files, trees = code_places()
    if hidden := next((path for path in (*files, *(tree for tree, _ in trees)) if not reader.reads(path)), None):
        problems.append(f"{user} cannot read {hidden}.")
    anyone = Computed(Client(65_534, 65_534, frozenset([65_534]), "nobody"))
    writable = next((path for path in files if anyone.changes(path)), None) or next(
        (found for tree, depth in trees if (found := anyone.changes_below(tree, depth=depth))), None
    )
    if writable:
        problems.append(f"Every user can change {writable}.")
    owners = {name: path for path in (*files, *(tree for tree, _ in trees)) if (name := _foreign_owner(path))}
    problems += [f"The user {name} can change {path}." for name, path in sorted(owners.items())]
    return problems


def become(user: str) -> None:
    """Give up root for good and become the service's user.

    Raises:
        BadInput: there is no such user.
    """
    if not _user_exists(user):
        raise BadInput(f"There is no user {user!r}: run clinloop service install first, or name another with --user.")
    entry = pwd.getpwnam(user)
    os.initgroups(user, entry.pw_gid)
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    os.chdir("/")


def make_runtime_folder(socket: Path, user: str) -> None:
    """As root, make the folder of the socket: the service's own, for others to pass through."""
    if not _user_exists(user):
        return
    entry = pwd.getpwnam(user)
    if not socket.parent.exists():
        socket.parent.mkdir(mode=0o755)
        socket.parent.chmod(0o755)
        os.chown(socket.parent, entry.pw_uid, entry.pw_gid)


def _groups(plan: Plan) -> list[str]:
    return [*([plan.group] if plan.group else []), *(["docker"] if plan.uses_docker else [])]


def _run(*arguments: str) -> Callable[[], object]:
    def run() -> None:
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            raise BadInput(f"{shlex.join(arguments)} failed: {(done.stderr or done.stdout).strip()}")

    return run


def _user_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _is_member(user: str, group: str) -> bool:
    try:
        entry = grp.getgrnam(group)
    except KeyError:
        return False
    return user in entry.gr_mem


def _is_closed(folder: Path, user: str) -> bool:
    if not folder.is_dir() or not _user_exists(user):
        return False
    facts = folder.stat()
    return stat.S_IMODE(facts.st_mode) == 0o700 and facts.st_uid == pwd.getpwnam(user).pw_uid


def _close(folder: Path, user: str) -> None:
    entry = pwd.getpwnam(user)
    if folder.is_symlink():
        raise BadInput(f"{folder} is a link; name the folder itself.")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    folder.chmod(0o700)


def _write_settings(file: Path, plan: Plan) -> None:
    entry = pwd.getpwnam(plan.user)
    file.write_text(json.dumps({"cache": str(plan.cache)}, indent=1) + "\n", encoding="utf-8")
    file.chmod(0o600)
    os.chown(file, entry.pw_uid, entry.pw_gid)


def _foreign_owner(path: Path) -> str | None:
    """Return a user other than root who owns a path or a folder above it."""
    for place in (path, *path.parents, path.resolve(), *path.resolve().parents):
        with suppress(OSError):
            if owner := place.stat().st_uid:
                try:
                    return pwd.getpwuid(owner).pw_name
                except KeyError:
                    return str(owner)
    return None
