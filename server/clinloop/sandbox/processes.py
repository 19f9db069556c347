"""Processes of a job as the kernel lists them: identity that survives a reused pid, descendants, memory, the end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")


class Identity(NamedTuple):
    """One process, told apart from a later one with the same pid."""

    pid: int
    started: int
    """Start time in clock ticks since boot."""
    boot: str
    """The kernel's boot id."""


def identify(pid: int) -> Identity | None:
    """Return the identity of a process, or None when there is none (a zombie counts as none)."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in {"Z", "X"} else Identity(pid, int(fields[19]), boot)


def kill(process: Identity) -> None:
    """Send SIGKILL if the process is still the one that was identified."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if identify(process.pid) == process:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
    finally:
        os.close(fd)


def kill_all(find: Callable[[], Iterable[int]], *, within_s: float) -> bool:
    """Kill whatever `find` returns until it returns nothing; return whether that was reached. All are stopped before one is killed."""
    deadline = time.monotonic() + within_s
    while pids := list(find()):
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def descendants(pid: int) -> list[int]:
    """Return the process and everything below it, zombies left out."""
    children, live = dict[int, list[int]](), set[int]()
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(folder.name))
                if fields[0] not in {"Z", "X"}:
                    live.add(int(folder.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return [number for number in found if number in live]


def with_environment(line: str) -> list[int]:
    """Return the live processes whose initial environment holds `line` ("NAME=value"), without this one."""
    wanted, found = line.encode(), list[int]()
    for folder in _PROC.iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


def memory_bytes(pids: Iterable[int]) -> int:
    """Return the memory that the processes hold together, shared pages counted once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in (_PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii").splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
                    break
    return total
