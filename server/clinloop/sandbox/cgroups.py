"""Control groups of a sandbox: memory, processes and CPU capped for all its processes together, on cgroup v2 or v1."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from clinloop.settings import Limits

Controller = Literal["memory", "pids", "cpu"]
CONTROLLERS: tuple[Controller, ...] = ("memory", "pids", "cpu")
SERVER = "clinloop-server"
"""Group into which servers and supervisors move where their own group is to hold the groups of jobs."""
_PERIOD_US = 100_000


class Place(NamedTuple):
    """Where groups of one controller can be made."""

    parent: Path
    version: Literal[1, 2]


def find_places(proc: Path = Path("/proc/self")) -> dict[Controller, Place]:
    """Return per controller the folder below which this process may make groups; a controller that it may not use is absent.

    On v2 that is our own group, else its parent, else (for root) the top: the first that holds no processes of its own, because what is
    made below one that does cannot take any. Where there is none and our own group is ours to write (a systemd unit with Delegate=yes, a
    container), its processes move into a group below it.
    """
    mounts = _mounts(proc)
    ours = dict[str, str]()
    for line in (proc / "cgroup").read_text(encoding="utf-8").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            ours[name] = path
    places = dict[Controller, Place]()
    if "" in ours and "" in mounts:
        top, root = mounts[""]
        own = top / _relative(ours[""], root)
        candidates = list(dict.fromkeys((own, own.parent if own != top else top, top)))
        parent = next((group for group in candidates if _takes_groups(group)), None)
        if parent is None and _vacate(own):
            parent = own
        if parent is not None:
            places |= {name: Place(parent, 2) for name in CONTROLLERS if _can_make_v2(parent, name)}
    for controller in CONTROLLERS:
        if controller not in places and controller in ours and controller in mounts:
            top, root = mounts[controller]
            own = top / _relative(ours[controller], root)
            if os.access(own, os.W_OK) and os.access(own / "cgroup.procs", os.W_OK):
                places[controller] = Place(own, 1)
    return places


def _mounts(proc: Path) -> dict[str, tuple[Path, str]]:
    """Return {controller: (mount point, the group that is mounted there)}; cgroup v2 has the name ""."""
    found = dict[str, tuple[Path, str]]()
    for line in (proc / "mountinfo").read_text(encoding="utf-8").splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        root, point = fields.split(" ")[3:5]
        if kind == "cgroup2":
            found.setdefault("", (Path(point), root))
        elif kind == "cgroup":
            for option in options.split(","):
                found.setdefault(option, (Path(point), root))
    return found


def _relative(path: str, root: str) -> str:
    return (path.removeprefix(root) if root != "/" else path).lstrip("/")


def _takes_groups(parent: Path) -> bool:
    """Tell whether processes may be put into groups made here, without writing anything.

    Source: the kernel's cgroup-v2.rst, "No Internal Process Constraint" and "Threads": enabling cpu or pids in a group that holds processes
    makes it a threaded domain, and joining a group below it fails with EOPNOTSUPP. The top has no cgroup.type and may hold processes.
    """
    if not (os.access(parent, os.W_OK) and os.access(parent / "cgroup.procs", os.W_OK)):
        return False
    try:
        kind = (parent / "cgroup.type").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return kind == "domain" and not _members([parent])


def _vacate(own: Path) -> bool:
    """Move the processes of our own group into one below it, so that others can be made beside that; False where that is not allowed."""
    if not (os.access(own, os.W_OK) and os.access(own / "cgroup.procs", os.W_OK)):
        return False
    below = own / SERVER
    with contextlib.suppress(OSError):
        below.mkdir(exist_ok=True)
        for pid in _members([own]):
            with contextlib.suppress(ProcessLookupError):
                (below / "cgroup.procs").write_text(str(pid), encoding="ascii")
    return _takes_groups(own)


def _can_make_v2(parent: Path, controller: Controller) -> bool:
    control = parent / "cgroup.subtree_control"
    try:
        if controller not in (parent / "cgroup.controllers").read_text(encoding="ascii").split():
            return False
        if controller not in control.read_text(encoding="ascii").split():
            control.write_text(f"+{controller}", encoding="ascii")  # EBUSY where the group holds processes itself
    except OSError:
        return False
    return True


def plan(name: str, places: dict[Controller, Place]) -> list[str]:
    """Return the folders that `create` will make for a job, so that they can be recorded first."""
    return list(dict.fromkeys(str(place.parent / f"clinloop-{name}") for place in places.values()))


def create(name: str, places: dict[Controller, Place], limits: Limits) -> dict[Controller, Path]:
    """Make the groups of a job and set its caps; a controller whose cap could not be set is absent from the result."""
    made = dict[Controller, Path]()
    for controller, place in places.items():
        folder = place.parent / f"clinloop-{name}"
        try:
            folder.mkdir(exist_ok=True)
            for file, value in _caps(controller, place.version, limits).items():
                optional = file in {
                    "memory.swap.max",
                    "memory.oom.group",
                    "memory.memsw.limit_in_bytes",
                    "memory.swappiness",
                }
                with contextlib.suppress(OSError) if optional else contextlib.nullcontext():
                    (folder / file).write_text(value, encoding="ascii")
        except OSError:
            continue
        made[controller] = folder
    return made


def _caps(controller: Controller, version: Literal[1, 2], limits: Limits) -> dict[str, str]:
    memory, pids, quota = str(limits.memory_bytes), str(limits.pids), str(max(1000, int(limits.cpus * _PERIOD_US)))
    match controller, version:
        case "memory", 2:
            # oom.group stays 0: a child that is killed for memory must not take a main process along that handles it
            return {"memory.max": memory, "memory.swap.max": "0"}
        case "memory", 1:
            return {"memory.limit_in_bytes": memory, "memory.memsw.limit_in_bytes": memory, "memory.swappiness": "0"}
        case "pids", _:
            return {"pids.max": pids}
        case "cpu", 2:
            return {"cpu.max": f"{quota} {_PERIOD_US}"}
        case "cpu", 1:
            return {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": quota}


def join(folders: Sequence[Path]) -> None:
    """Move this process into the groups; what it starts is born there."""
    for folder in folders:
        (folder / "cgroup.procs").write_text("0", encoding="ascii")


def count_oom_kills(memory: Path) -> int:
    """Return how many processes of the group were killed for memory."""
    for file in ("memory.events", "memory.oom_control"):
        with contextlib.suppress(OSError):
            for line in (memory / file).read_text(encoding="ascii").splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
    return 0


def memory_group_of(pid: int) -> Path | None:
    """Return the memory group of a process on this machine, or None where it cannot be seen."""
    with contextlib.suppress(OSError):
        mounts = _mounts(Path("/proc/self"))
        for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
            _, names, path = line.split(":", 2)
            if "memory" in names.split(",") and "memory" in mounts:
                top, root = mounts["memory"]
                return top / _relative(path, root)
            if not names and "memory" not in mounts and "" in mounts:
                top, root = mounts[""]
                return top / _relative(path, root)
    return None


def kill(folders: Sequence[Path], *, within_s: float = 5.0) -> bool:
    """Kill every process of the groups; return whether all are gone. Forking is forbidden first, so a fork bomb cannot outrun it."""
    for folder in folders:
        for file, value in {"pids.max": "0", "cgroup.kill": "1"}.items():
            if (folder / file).exists():
                with contextlib.suppress(OSError):
                    (folder / file).write_text(value, encoding="ascii")
    deadline = time.monotonic() + within_s
    while pids := _members(folders):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _members(folders: Sequence[Path]) -> set[int]:
    pids = set[int]()
    for folder in folders:
        with contextlib.suppress(OSError):
            pids |= {int(line) for line in (folder / "cgroup.procs").read_text(encoding="ascii").split()}
    return pids - {0}


def remove(folders: Sequence[Path], *, within_s: float = 2.0) -> None:
    """Delete the groups, which must be empty; a group that stays busy is left for the next call."""
    deadline = time.monotonic() + within_s
    for folder in folders:
        while folder.is_dir():
            try:
                folder.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.005)
