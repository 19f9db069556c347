"""The log of a job: its first part live in a file, its last part kept in memory until the end."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path


class LogFile:
    """Writes output to a file of at most `cap` bytes and one line: three quarters as they come, the last quarter at `close`."""

    def __init__(self, path: Path, cap: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)
        self._head_left = cap - cap // 4
        self._tail_cap = cap // 4
        self._tail = deque[bytes]()
        self._tail_bytes = 0
        self._dropped = 0

    def write(self, data: bytes) -> None:
        """Take the next bytes of output."""
        if self._head_left:
            _write_all(self._fd, data[: self._head_left])
            data, self._head_left = data[self._head_left :], max(0, self._head_left - len(data))
        if not data:
            return
        self._tail.append(data)
        self._tail_bytes += len(data)
        while self._tail_bytes - len(self._tail[0]) >= self._tail_cap:
            first = self._tail.popleft()
            self._tail_bytes -= len(first)
            self._dropped += len(first)

    def close(self) -> None:
        """Write the kept tail and, where bytes are missing, how many; idempotent."""
        if self._fd < 0:
            return
        tail = b"".join(self._tail)
        over = max(0, len(tail) - self._tail_cap)
        dropped = self._dropped + over
        if dropped:
            _write_all(self._fd, f"\n… {dropped} bytes dropped …\n".encode())
        _write_all(self._fd, tail[over:])
        os.close(self._fd)
        self._fd = -1
        self._tail.clear()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
