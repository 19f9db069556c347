"""Places and settings that keep secrets off the disk: folders in memory, swap, core dumps."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

from clinloop.errors import NotNow
from clinloop.exposure import hide_memory
from clinloop.files import remove_tree

_SHARED = Path("/dev/shm")  # noqa: S108  # checked to be a tmpfs, and ours alone inside
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_MCL_CURRENT, _MCL_FUTURE = 1, 2


def is_in_memory(path: Path) -> bool:
    """Tell whether a path lies on a tmpfs, whose content has no place on a disk but in swap."""
    real, found = os.path.realpath(path), ("", "")
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        mount, _, system = line.partition(" - ")
        point = mount.split()[4].replace("\\040", " ")
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(found[0]):
            found = (point, system.split()[0])
    return found[1] == "tmpfs"


def swap_areas() -> list[str]:
    """Return the swap areas in use: memory may be written there."""
    try:
        lines = Path("/proc/swaps").read_text(encoding="utf-8").splitlines()[1:]
    except OSError:
        return []
    return [line.split()[0] for line in lines if line.strip()]


def guard_secrets() -> None:
    """Let this process leave no core dump, no other process of its user look into it, and, as far as it may, none of it be swapped."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not sys.platform.startswith("linux"):
        return
    hide_memory()
    if os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        ctypes.CDLL(None).mlockall(_MCL_CURRENT | _MCL_FUTURE)  # with a limit, later allocations would fail instead


def make_room(mount_point: Path) -> Path:
    """Return an empty private folder in memory: a tmpfs of its own at `mount_point` as root, else a folder in /dev/shm.

    Raises:
        NotNow: there is neither.
    """
    clear_room(mount_point)
    if os.geteuid() == 0:
        mount_point.mkdir(parents=True, exist_ok=True, mode=0o700)
        for more in (",noswap", ""):  # Linux 6.4 and later know it
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                _run("mount", "-t", "tmpfs", "-o", f"nosuid,nodev,noexec,mode=700{more}", "clinloop", str(mount_point))
                return mount_point
        mount_point.rmdir()
    folder = _shared_folder(mount_point)
    if not is_in_memory(_SHARED):
        raise NotNow(
            "There is no place in memory for the test images: /dev/shm is no tmpfs here, and none can be mounted. Nothing was opened. "
            "Run it where /dev/shm is a tmpfs, or as root with the right to mount."
        )
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise NotNow(f"No folder can be made in /dev/shm ({error.strerror}); nothing was opened.") from error
    return folder


def clear_room(mount_point: Path) -> None:
    """Remove what `make_room` made, also in a process that was killed since; nothing happens when there is nothing."""
    while os.path.ismount(mount_point):
        _run("umount", "--lazy", str(mount_point))
    with contextlib.suppress(OSError):
        mount_point.rmdir()
    folder = _shared_folder(mount_point)
    with contextlib.suppress(FileNotFoundError):
        found = folder.lstat()
        if found.st_uid == os.geteuid() and stat.S_ISDIR(found.st_mode):
            for inner in _mounts_below(folder):
                _run("umount", "--lazy", inner)
            remove_tree(folder)


def _shared_folder(mount_point: Path) -> Path:
    return _SHARED / f"clinloop-{os.geteuid()}-{hashlib.sha256(str(mount_point).encode()).hexdigest()[:16]}"


def _mounts_below(folder: Path) -> list[str]:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    return sorted((point for point in points if point.startswith(f"{folder}/")), reverse=True)


def _run(*argv: str) -> None:
    subprocess.run(
        argv, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, env={"PATH": _PATH, "LC_ALL": "C"}
    )
