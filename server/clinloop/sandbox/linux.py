"""The Linux calls that Python has no name for: detached id-mapped mounts, a private mount namespace, a death signal."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # one number on every architecture
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_IDMAP = 1, 2, 4, 0x100000
_MS_NOSUID, _MS_NODEV, _MS_PRIVATE, _MS_REC = 2, 4, 1 << 18, 1 << 14
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_PR_SET_PDEATHSIG, _PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 1, 3, 4

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, call: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result


def open_source(path: Path) -> int:
    """Open a mount source without following a final link; return an O_PATH descriptor.

    Raises:
        OSError: it is missing, a link, or neither a folder nor a regular file.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        os.close(fd)
        raise OSError(errno.EINVAL, "a mount source must be a folder or a regular file, not a link or a device")
    return fd


def clone_mount(fd: int) -> int:
    """Return a detached copy of the mount below an open file or folder; it is attached nowhere until `attach`."""
    flags = ctypes.c_uint(_AT_EMPTY_PATH | _OPEN_TREE_CLONE | os.O_CLOEXEC)
    return _check(_libc.syscall(ctypes.c_long(_OPEN_TREE), fd, b"", flags), "open_tree")


def restrict_mount(tree: int, *, userns: int | None) -> None:
    """Make a detached mount read-only, nosuid and nodev and, with `userns`, show its files under that map's ids."""
    flags = _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV | (0 if userns is None else _ATTR_IDMAP)
    attributes = struct.pack("QQQQ", flags, 0, 0, userns or 0)
    size = ctypes.c_size_t(len(attributes))
    _check(
        _libc.syscall(ctypes.c_long(_MOUNT_SETATTR), tree, b"", ctypes.c_uint(_AT_EMPTY_PATH), attributes, size),
        "mount_setattr",
    )


def attach(tree: int, target: str) -> None:
    """Attach a detached mount at an existing path of this mount namespace."""
    flags = ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH)
    _check(_libc.syscall(ctypes.c_long(_MOVE_MOUNT), tree, b"", _AT_FDCWD, target.encode(), flags), "move_mount")


def detach(points: Iterable[str]) -> None:
    """Remove mounts of this mount namespace; those that are gone already are left out."""
    for point in points:
        while _is_mounted(point):
            _check(_libc.umount2(point.encode(), _MNT_DETACH | _UMOUNT_NOFOLLOW), "umount2")


def _is_mounted(point: str) -> bool:
    """Tell whether a path is a mount point; os.path.ismount does not see a bind mount of the same file system."""
    escaped = point.replace(" ", "\\040")
    with Path("/proc/self/mountinfo").open(encoding="utf-8") as lines:
        return any(line.split(" ", 5)[4] == escaped for line in lines)


def enter_private_mounts(scratch: str) -> None:
    """Move this process into its own mount namespace, which has an empty tmpfs at `scratch`."""
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    _check(_libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None), "mount")
    options = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV)
    _check(_libc.mount(b"tmpfs", scratch.encode(), b"tmpfs", options, b"mode=755,size=1m"), "mount")


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def end_first_on_a_full_host() -> None:
    """Let the kernel end this process before others when memory ends; for the child of a fork, a process with closed memory too."""
    closed = _libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 0
    if closed:  # else its /proc files belong to root
        _check(_libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl")
    Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    if closed:
        _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")


def id_map(owner: tuple[int, int], shown: int) -> int:
    """Return a descriptor of a user namespace that shows files of `owner` (uid, gid) as uid and gid `shown`; needs root."""
    ready_read, ready_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _check(_libc.unshare(_CLONE_NEWUSER), "unshare")
            os.write(ready_write, b"1")
            signal.pause()
        finally:
            os._exit(1)
    os.close(ready_write)
    try:
        if os.read(ready_read, 1) != b"1":
            raise OSError(errno.EPERM, "unshare: no user namespace")
        for kind, number in zip(("uid", "gid"), owner, strict=True):
            Path(f"/proc/{pid}/{kind}_map").write_text(f"{number} {shown} 1", encoding="ascii")
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready_read)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def enlarge_pipe(fd: int, size: int) -> None:
    """Give a pipe a larger buffer where the system allows it, so that a busy reader stalls the writer less."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size)
