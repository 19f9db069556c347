"""Whether a user could read, change or connect to a path: asked of the kernel, or computed from owners, modes and access lists."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import stat
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from clinloop.errors import BadInput

_SO_PEERGROUPS = 59
_READ, _WRITE, _SEARCH = 4, 2, 1
_LINKS = 40
_ACL = "system.posix_acl_access"


class Client(NamedTuple):
    """The user that a client runs as."""

    uid: int
    gid: int
    groups: frozenset[int]
    """All groups, the primary one included: those it has, and those that it would get by a new login."""
    name: str
    pid: int = 0
    """Its process, as the kernel told at the connection; 0 = not known."""


class Step(NamedTuple):
    """One component on the way to a path, links followed."""

    path: str
    facts: os.stat_result
    is_last: bool
    folder: tuple[str, os.stat_result] | None
    """Where it is an entry; None for the root."""


def own_client() -> Client:
    """Return the user that this process runs as."""
    uid, gid = os.geteuid(), os.getegid()
    return Client(uid, gid, frozenset([gid, *os.getgroups()]) | login_groups(uid), _name(uid), os.getpid())


def named_client(name: str) -> Client:
    """Return a user by name or number, with the groups of a login.

    Raises:
        BadInput: there is no such user.
    """
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        if not name.isdecimal():
            raise BadInput(f"There is no user {name!r} on this machine.") from None
        return Client(int(name), int(name), frozenset([int(name)]), name)
    return Client(entry.pw_uid, entry.pw_gid, frozenset([entry.pw_gid]) | login_groups(entry.pw_uid), entry.pw_name)


UNKNOWN = Client(-1, -1, frozenset(), "unknown")
"""A client whose user nobody can name; no level rests on what it reaches."""


def user_client(uid: int) -> Client:
    """Return a user with the groups of a login and those of every process that it runs, for a client whose own process is not known."""
    try:
        entry = pwd.getpwuid(uid)
        gid, name = entry.pw_gid, entry.pw_name
    except KeyError:
        gid, name = uid, str(uid)
    return Client(uid, gid, frozenset([gid]) | login_groups(uid) | running_groups(uid), name)


def running_groups(uid: int) -> frozenset[int]:
    """Return the groups of all processes of a user, whichever way they got them."""
    found = set[int]()
    for process in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in process.read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError):  # it has ended
            continue
        if str(uid) in lines.get("Uid", "").split():
            found |= {int(number) for name in ("Gid", "Groups") for number in lines.get(name, "").split()}
    return frozenset(found)


def peer_client(connection: socket.socket) -> Client:
    """Return the user at the other end of a local socket, as the kernel knows it.

    Raises:
        OSError: the kernel does not say; more than 256 groups are one reason.
    """
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", credentials)
    packed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)  # the most that Python asks for
    groups = frozenset([gid, *struct.unpack(f"{len(packed) // 4}I", packed)])
    return Client(uid, gid, groups | login_groups(uid), _name(uid), pid)


def server_pid(socket_file: Path) -> int:
    """Return the process that listens on a local socket; 0 when there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        try:
            connection.connect(str(socket_file))
        except OSError:
            return 0
        return peer_client(connection).pid


class Access(ABC):
    """What one user may do with paths; all answers err towards "yes": an owner could change the mode first."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._known = dict[str, tuple[bool, bool]]()

    @abstractmethod
    def _permits(self, path: str, facts: os.stat_result, wanted: int) -> bool:
        """Tell whether the user has these permission bits on what lies at a path, which is no link."""

    def permits(self, path: str, facts: os.stat_result, wanted: int) -> bool:
        """Tell whether the user has permission bits, or could give them to itself."""
        return self.client.uid in (0, facts.st_uid) or self._permits(path, facts, wanted)

    def reads(self, path: Path) -> bool:
        """Tell whether the user could read a file, or list a folder or pass through it."""
        arrives, can_replace, last = self._arrive(path)
        if last is None or not arrives:
            return can_replace
        wanted = (_READ, _SEARCH) if stat.S_ISDIR(last.facts.st_mode) else (_READ,)
        return can_replace or any(self.permits(last.path, last.facts, bit) for bit in wanted)

    def changes(self, path: Path) -> bool:
        """Tell whether the user could change a file or the entries of a folder, or put another in its place."""
        arrives, can_replace, last = self._arrive(path)
        if can_replace:
            return True
        if last is None or not arrives:
            return False
        wanted = _WRITE | _SEARCH if stat.S_ISDIR(last.facts.st_mode) else _WRITE
        return self.permits(last.path, last.facts, wanted)

    def changes_below(self, folder: Path, *, depth: int) -> Path | None:
        """Return something that the user could change in a folder, itself included, down to a depth; None when there is nothing."""
        if self.changes(folder):
            return folder
        arrives, _, last = self._arrive(folder)
        return self._below(last.path, last.facts, depth) if last is not None and arrives else None

    def _below(self, folder: str, facts: os.stat_result, depth: int) -> Path | None:
        """Look into a folder at which the user arrives and which it cannot change."""
        if not self.permits(folder, facts, _SEARCH):
            return None
        try:
            with os.scandir(folder) as scan:
                entries = list(scan)
        except OSError:
            return None
        for entry in entries:
            if entry.is_symlink():
                if self.changes(Path(entry.path)):
                    return Path(entry.path)
                continue
            inner = entry.stat(follow_symlinks=False)
            is_folder = stat.S_ISDIR(inner.st_mode)
            if self.permits(entry.path, inner, _WRITE | _SEARCH if is_folder else _WRITE):
                return Path(entry.path)
            if is_folder and depth > 1 and (found := self._below(entry.path, inner, depth - 1)):
                return found
        return None

    def connects(self, path: Path) -> bool:
        """Tell whether the user could connect to a socket."""
        arrives, _, last = self._arrive(path)
        return (
            last is not None
            and arrives
            and stat.S_ISSOCK(last.facts.st_mode)
            and self.permits(last.path, last.facts, _WRITE)
        )

    def _arrive(self, path: Path) -> tuple[bool, bool, Step | None]:
        """Walk to a path: (the user gets there, it could replace something on the way, what lies there)."""
        arrives, can_replace = True, False
        last: Step | None = None
        try:
            for step in _steps(path):
                last = step
                if step.folder is None:
                    continue
                facts = step.folder[1]
                passes, writes = self._folder(*step.folder)
                arrives = arrives and passes
                sticky = facts.st_mode & stat.S_ISVTX
                is_own = self.client.uid in (0, step.facts.st_uid, facts.st_uid)
                can_replace = can_replace or (arrives and writes and (not sticky or is_own))
        except (
            OSError
        ):  # missing, or hidden from this process: whoever may write where it would be may put something there
            if last is not None and stat.S_ISDIR(last.facts.st_mode):
                can_replace = can_replace or (arrives and all(self._folder(last.path, last.facts)))
            return arrives, can_replace, None
        return arrives, can_replace, last if last is not None and last.is_last else None

    def _folder(self, path: str, facts: os.stat_result) -> tuple[bool, bool]:
        """Tell whether the user may pass through a folder, and whether it may change its entries."""
        if path not in self._known:
            self._known[path] = (self.permits(path, facts, _SEARCH), self.permits(path, facts, _WRITE | _SEARCH))
        return self._known[path]


class Computed(Access):
    """Access computed from owners, modes and access lists: for a server that is not root and cannot become its client."""

    def _permits(self, path: str, facts: os.stat_result, wanted: int) -> bool:
        entries = _access_list(path)
        if entries is not None:
            return self._listed(entries, facts, wanted)
        shift = 3 if facts.st_gid in self.client.groups else 0
        return (facts.st_mode >> shift) & wanted == wanted

    def _listed(self, entries: list[tuple[int, int, int]], facts: os.stat_result, wanted: int) -> bool:
        """Evaluate a POSIX access list as acl(5) says; entries are (tag, permissions, id)."""
        masks = [permissions for tag, permissions, _ in entries if tag == 0x10]
        mask = masks[0] if masks else 7
        for tag, permissions, number in entries:
            if tag == 0x02 and number == self.client.uid:
                return permissions & mask & wanted == wanted
        grouped = [
            permissions & mask
            for tag, permissions, number in entries
            if (tag == 0x04 and facts.st_gid in self.client.groups) or (tag == 0x08 and number in self.client.groups)
        ]
        if grouped:
            return any(permissions & wanted == wanted for permissions in grouped)
        return any(tag == 0x20 and permissions & wanted == wanted for tag, permissions, _ in entries)


class Tried(Access):
    """Access as the kernel grants it to this process, which runs as the client's user: files are really opened.

    Only for a process of its own: closing a descriptor of the store would drop the locks that SQLite holds on it in this process.
    """

    def _permits(self, path: str, facts: os.stat_result, wanted: int) -> bool:
        return os.access(path, wanted, effective_ids=True)

    def reads(self, path: Path) -> bool:
        """Open a file or list a folder; what this user owns counts as open."""
        return _opens(path, os.O_RDONLY) or super().reads(path)

    def changes(self, path: Path) -> bool:
        """Open a file for writing without changing it; a folder is asked about."""
        return _opens(path, os.O_WRONLY) or super().changes(path)

    def connects(self, path: Path) -> bool:
        """Connect to a socket."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(5)
            try:
                connection.connect(str(path))
            except OSError:
                return False
        return True


def _opens(path: Path, flags: int) -> bool:
    try:
        os.close(os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return error.errno == errno.ETXTBSY  # a program that runs: permission was granted before that was found
    return True


def _steps(path: Path) -> Iterator[Step]:
    """Yield each component of an absolute path from the root on, links included and followed.

    Raises:
        OSError: a component is missing or hidden from this process.
    """
    folder, links = ("/", os.lstat("/")), 0
    pending = [part for part in reversed(path.parts) if part != "/"]
    yield Step(*folder, is_last=not pending, folder=None)
    while pending:
        part = pending.pop()
        if part == "..":
            above = os.path.dirname(folder[0])  # noqa: PTH120 - a text, asked for often
            folder = (above, os.lstat(above))
            continue
        step = os.path.join(folder[0], part)  # noqa: PTH118
        facts = os.lstat(step)
        is_link = stat.S_ISLNK(facts.st_mode)
        yield Step(step, facts, is_last=not pending and not is_link, folder=folder)
        if not is_link:
            folder = (step, facts)
            continue
        links += 1
        if links > _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = os.readlink(step)  # noqa: PTH115
        if target.startswith("/"):
            folder = ("/", os.lstat("/"))
        pending += [part for part in reversed(Path(target).parts) if part != "/"]


def _access_list(path: str) -> list[tuple[int, int, int]] | None:
    """Return the POSIX access list of a path as (tag, permissions, id); None when it has none but its mode."""
    try:
        packed = os.getxattr(path, _ACL, follow_symlinks=False)
    except OSError:
        return None
    return [struct.unpack_from("<HHI", packed, offset) for offset in range(4, len(packed), 8)]


def login_groups(uid: int) -> frozenset[int]:
    """Return the groups that a user has after a login."""
    try:
        entry = pwd.getpwuid(uid)
        return frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))
    except (KeyError, OSError):
        return frozenset()


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_id(name: str) -> int | None:
    """Return the number of a group; None when there is no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
