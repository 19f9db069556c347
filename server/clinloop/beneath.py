"""A folder held open, whose files are reached without ever leaving it, although untrusted code or an agent can write there.

Paths are never resolved and then opened: that loses against a rename in between. The kernel refuses every symbolic link, `..` and
mount on the way (openat2); where that call is missing, each component is opened with O_NOFOLLOW. What is opened must be a regular
file with a single link, read up to a cap.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import platform
import secrets
import stat
import sys
from collections.abc import Callable, Collection, Generator
from pathlib import Path
from typing import NamedTuple, Self

from clinloop.errors import BadInput
from clinloop.filenames import DEPTH, PATH_BYTES, check_path, name_problem, shown_name

_CHUNK = 1 << 20

_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Source: openat2(2), linux/openat2.h; the number is the same on both architectures.
_OPENAT2 = 437
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x01, 0x02, 0x04, 0x08

_REASONS = {
    errno.ELOOP: "is a symbolic link or passes through one",
    errno.EXDEV: "leaves the folder or crosses a mount",
    errno.ENOTDIR: "passes through something that is not a folder",
    errno.ENXIO: "is not a regular file",
    errno.EISDIR: "is a folder, not a file",
    errno.ENOENT: "does not exist",
    errno.EACCES: "may not be opened by the server",
    errno.EPERM: "may not be opened by the server",
    errno.ENAMETOOLONG: "is too long",
}


class Entry(NamedTuple):
    """A regular file below a root."""

    path: str
    """Relative, with forward slashes."""
    size: int
    """Bytes."""


class Entries(NamedTuple):
    """What lies below a root."""

    files: list[Entry]
    """Regular single-link files with usable names, sorted by path."""
    skipped: list[str]
    """`name: reason` of everything else, cleaned for display, sorted; never followed or opened."""
    is_complete: bool
    """False when the walk stopped at `max_entries`."""


class Beneath:
    """A folder held open, whose files are reached without ever leaving it; use it as a context manager.

    All paths are relative and pass `check_path`. Every method raises BadInput for a path that is not allowed, does not exist, or is
    anything but a regular file with one link.
    """

    def __init__(self, root: Path, *, same_mount: bool = True, walk: bool = False) -> None:
        """Open the root; `same_mount` refuses to cross mounts below it, `walk` forces the fallback without openat2.

        Raises:
            BadInput: the root is a symbolic link or no folder.
        """
        self._same_mount = same_mount
        self._openat2 = None if walk else _find_openat2()
        try:
            self._fd = os.open(root, FOLDER_FLAGS | os.O_NOFOLLOW)
        except (NotADirectoryError, FileNotFoundError) as error:
            raise BadInput("The folder was removed or replaced by something that is not a folder.") from error
        self._device = os.fstat(self._fd).st_dev

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self, rel: str, *, cap: int) -> bytes:
        """Return a file's content; a file of more than `cap` bytes is refused."""
        with self._reading(rel) as fd:
            content = _read_all(fd, cap + 1) if os.fstat(fd).st_size <= cap else None
        if content is None or len(content) > cap:
            raise BadInput(f"File {shown_name(rel)!r} is larger than {cap:,} bytes.")
        return content

    def read_tail(self, rel: str, *, cap: int) -> bytes:
        """Return the last `cap` bytes of a file."""
        with self._reading(rel) as fd:
            os.lseek(fd, max(0, os.fstat(fd).st_size - cap), os.SEEK_SET)
            return _read_all(fd, cap)

    def stat(self, rel: str) -> os.stat_result:
        """Return the facts of a file."""
        with self._reading(rel) as fd:
            return os.fstat(fd)

    def exists(self, rel: str) -> bool:
        """Return whether anything has this name, a file that `read` would refuse included; what is mounted there is not asked, it might never answer."""
        parts = check_path(rel).split("/")
        with _refusing(rel):
            try:
                os.close(self._open(parts, os.O_PATH | os.O_CLOEXEC))
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def write(self, rel: str, data: bytes) -> None:
        """Replace or create a file in one step, keeping its permissions; missing folders are made. Not synced to disk."""
        parts = check_path(rel).split("/")
        with _refusing(rel), closing(self._make_folders(parts[:-1])) as folder:
            mode = _facts_at(folder, parts[-1], rel)
            temporary = f".clinloop-{secrets.token_hex(6)}.tmp"
            fd = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=folder
            )
            try:
                with closing(fd):
                    if mode is not None:
                        os.fchmod(fd, stat.S_IMODE(mode.st_mode) & 0o777)
                    write_all(fd, data)
                os.rename(temporary, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise

    def delete(self, rel: str) -> None:
        """Delete a file and the folders that are empty without it."""
        parts = check_path(rel).split("/")
        with _refusing(rel):
            with closing(self._open(parts[:-1], FOLDER_FLAGS)) as folder:
                if _facts_at(folder, parts[-1], rel) is None:
                    raise FileNotFoundError(errno.ENOENT, "missing")
                os.unlink(parts[-1], dir_fd=folder)
            with contextlib.suppress(OSError):  # ends at the first folder that still holds something
                for depth in range(len(parts) - 1, 0, -1):
                    with closing(self._open(parts[: depth - 1], FOLDER_FLAGS)) as folder:
                        os.rmdir(parts[depth - 1], dir_fd=folder)

    def copy(self, rel: str, target: Path, *, cap: int) -> int:
        """Copy a file of at most `cap` bytes to a new file of ours (0600), making its folders (0700); return its bytes."""
        for folder in reversed(target.parents):
            if not folder.exists():
                folder.mkdir(mode=0o700)
        copied = 0
        with self._reading(rel) as fd:
            size = os.fstat(fd).st_size
            with closing(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)) as out:
                while copied <= cap and size <= cap and (chunk := os.read(fd, min(_CHUNK, cap + 1 - copied))):
                    write_all(out, chunk)
                    copied += len(chunk)
        if max(size, copied) > cap:
            target.unlink()
            raise BadInput(f"File {shown_name(rel)!r} is larger than {cap:,} bytes.")
        return copied

    def entries(self, *, max_entries: int = 10_000, ignore: Collection[str] = ()) -> Entries:
        """List everything below the root; folders and files with a name in `ignore` are not looked at."""
        files, skipped, seen = list[Entry](), list[str](), 0
        folders: list[list[str]] = [[]]
        while folders:
            parts = folders.pop()
            with contextlib.ExitStack() as stack:
                try:
                    fd = stack.enter_context(closing(self._open(parts, FOLDER_FLAGS)))
                    found = stack.enter_context(os.scandir(fd))
                except OSError as error:  # replaced, removed or made unreadable meanwhile
                    skipped.append(
                        f"{shown_name('/'.join(parts))}: {_REASONS.get(error.errno or 0, 'cannot be opened')}"
                    )
                    continue
                for item in found:
                    seen += 1
                    if seen > max_entries:
                        return Entries(sorted(files), sorted(skipped), is_complete=False)
                    path = "/".join([*parts, item.name])
                    reason = name_problem(item.name)
                    if item.name in ignore:
                        reason = "never looked at"
                    elif len(parts) >= DEPTH or len(os.fsencode(path)) > PATH_BYTES:
                        reason = "too deep or too long"
                    if reason is None:
                        try:
                            facts = item.stat(follow_symlinks=False)
                        except OSError:
                            continue
                        if stat.S_ISDIR(facts.st_mode):
                            folders.append([*parts, item.name])
                            continue
                        reason = _irregular(facts)
                        if reason is None:
                            files.append(Entry(path, facts.st_size))
                            continue
                    skipped.append(f"{shown_name(path)}: {reason}")
        return Entries(sorted(files), sorted(skipped), is_complete=True)

    @contextlib.contextmanager
    def _reading(self, rel: str) -> Generator[int]:
        parts = check_path(rel).split("/")
        with _refusing(rel), closing(self._open(parts, _READING)) as fd:
            if reason := _irregular(os.fstat(fd)):
                raise BadInput(f"{shown_name(rel)!r} is {reason}; only regular files with one link are read.")
            yield fd

    def _make_folders(self, parts: list[str]) -> int:
        for depth in range(1, len(parts) + 1):
            try:
                os.close(self._open(parts[:depth], FOLDER_FLAGS))
            except FileNotFoundError:
                with (
                    closing(self._open(parts[: depth - 1], FOLDER_FLAGS)) as parent,
                    contextlib.suppress(FileExistsError),
                ):
                    os.mkdir(parts[depth - 1], dir_fd=parent)
        return self._open(parts, FOLDER_FLAGS)

    def _open(self, parts: list[str], flags: int) -> int:
        """Open a path below the root, no link followed; raises OSError."""
        if not parts:
            return os.open(".", flags, dir_fd=self._fd)
        if self._openat2 is not None:
            resolve = _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS | (_NO_XDEV if self._same_mount else 0)
            return self._openat2(self._fd, "/".join(parts), flags | os.O_NOFOLLOW, resolve)
        fd = os.dup(self._fd)
        for index, part in enumerate(parts):
            is_last = index == len(parts) - 1
            with closing(fd):
                fd = os.open(part, (flags if is_last else FOLDER_FLAGS) | os.O_NOFOLLOW, dir_fd=fd)
            if self._same_mount and os.fstat(fd).st_dev != self._device:
                os.close(fd)
                raise OSError(errno.EXDEV, "another file system")
        return fd


def _irregular(facts: os.stat_result) -> str | None:
    """Say why something is not a regular file with one link, or None."""
    mode = facts.st_mode
    if stat.S_ISREG(mode):
        return "a hard link" if facts.st_nlink > 1 else None
    for is_kind, word in (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if is_kind(mode):
            return word
    return "a device"


def _facts_at(folder: int, name: str, rel: str) -> os.stat_result | None:
    """Return the facts of a regular file in an open folder, None if nothing has the name."""
    try:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if reason := _irregular(facts):
        raise BadInput(f"{shown_name(rel)!r} is {reason}; only regular files with one link are written or deleted.")
    return facts


@contextlib.contextmanager
def _refusing(rel: str) -> Generator[None]:
    """Turn the errors that a path can cause into BadInput; any other (disk full, I/O) rises as it is."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        raise BadInput(f"Path {shown_name(rel)!r} {_REASONS[error.errno]}.") from error


@contextlib.contextmanager
def closing(fd: int) -> Generator[int]:
    """Close a descriptor at the end of a block."""
    try:
        yield fd
    finally:
        os.close(fd)


def _read_all(fd: int, cap: int) -> bytes:
    chunks, left = list[bytes](), cap
    while left > 0 and (chunk := os.read(fd, min(_CHUNK, left))):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def write_all(fd: int, data: bytes) -> None:
    """Write all bytes to a descriptor, however many calls it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@functools.cache
def _find_openat2() -> Callable[[int, str, int, int], int] | None:
    """Return openat2(dir_fd, path, flags, resolve), or None where the kernel or a container's filter lacks it."""
    if sys.platform != "linux" or platform.machine() not in {"x86_64", "aarch64"}:
        return None
    import ctypes

    class OpenHow(ctypes.Structure):
        _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long

    def openat2(dir_fd: int, path: str, flags: int, resolve: int) -> int:
        how = OpenHow(flags, 0, resolve)
        for _ in range(10):
            arguments = (
                ctypes.c_long(dir_fd),
                os.fsencode(path),
                ctypes.byref(how),
                ctypes.c_size_t(ctypes.sizeof(how)),
            )
            fd = syscall(ctypes.c_long(_OPENAT2), *arguments)
            if fd >= 0:
                return int(fd)
            if ctypes.get_errno() not in {errno.EAGAIN, errno.EINTR}:
                break
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))

    at_working_directory = -100
    try:
        os.close(openat2(at_working_directory, ".", FOLDER_FLAGS, _BENEATH))
    except OSError as error:
        if error.errno in {errno.ENOSYS, errno.EPERM}:
            return None
        raise
    return openat2
