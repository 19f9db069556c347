"""A job's first process as its starter sees it: output drained into the log, limits watched, the end noticed at once."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable

from clinloop.sandbox.logs import LogFile

_CHUNK = 1 << 18
_DRAIN_S = 1.0
"""After the process ended, output that is still in the pipe is read for at most this long."""


class Child:
    """One started process. Not safe for threads: one caller starts, follows and ends it."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: int, log: LogFile) -> None:
        self.process = process
        self._pipe, self._log = pipe, log
        self._pidfd = os.pidfd_open(process.pid)
        os.set_blocking(pipe, False)

    def follow(self, timeout_s: float, *, check: Callable[[], None], every_s: float) -> bool:
        """Drain output for at most timeout_s seconds, calling `check` every `every_s`; return at once, and True, when the process ended."""
        deadline, next_check = time.monotonic() + timeout_s, 0.0
        while self.process.poll() is None:
            if (now := time.monotonic()) >= next_check:
                check()
                next_check = now + every_s
            if now >= deadline:
                return False
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            if self._pipe >= 0:
                poll.register(self._pipe, select.POLLIN)
            poll.poll(max(0.0, min(deadline, next_check) - now) * 1000)
            self._drain()
        self.close()
        return True

    def _drain(self) -> None:
        if self._pipe < 0:
            return
        try:
            data = os.read(self._pipe, _CHUNK)
        except BlockingIOError:
            return
        if data:
            self._log.write(data)
            return
        os.close(self._pipe)
        self._pipe = -1

    def end(self) -> None:
        """Kill the process, wait for it and close everything; idempotent."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.close()

    def close(self) -> None:
        """Take what output is left and finish the log; the process must have ended. Idempotent."""
        deadline = time.monotonic() + _DRAIN_S
        while self._pipe >= 0 and time.monotonic() < deadline:
            if not select.select([self._pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                break
            self._drain()
        for fd in (self._pipe, self._pidfd):
            if fd >= 0:
                os.close(fd)
        self._pipe = self._pidfd = -1
        self._log.close()
