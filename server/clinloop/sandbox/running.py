"""A job that this process started: its output is drained, its limits are watched where no kernel does, its end is judged."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clinloop.errors import SandboxUnavailable
from clinloop.sandbox import cgroups, processes
from clinloop.sandbox.base import Exit
from clinloop.sandbox.child import Child
from clinloop.sandbox.records import Record, Records

_EVERY_S = 0.25
KILLED = 128 + signal.SIGKILL


class Running:
    """One job between `start` and `stop`.

    memory_group: the v1 or v2 memory group, or None: then `find` lists the job's processes and their memory is compared with `memory_bytes`.
    code: returns the exit status once the child has ended.
    """

    def __init__(
        self,
        child: Child,
        record: Record,
        *,
        code: Callable[[], int],
        find: Callable[[], Sequence[int]],
        memory_bytes: int,
        memory_group: Path | None,
    ) -> None:
        self.child, self.record = child, record
        self._code, self._find = code, find
        self._memory_bytes, self._memory_group = memory_bytes, memory_group
        self._is_out_of_memory = self._is_disk_full = False

    def follow(self, timeout_s: float, *, ended: Callable[[Record], None]) -> Exit | None:
        """Drain for at most timeout_s seconds; return the exit as soon as there is one, after `ended` was called with it once.

        Raises:
            SandboxUnavailable: the sandbox ended before the job's command began.
        """
        if self.record.exit is None and self.child.follow(timeout_s, check=self._check, every_s=_EVERY_S):
            self._check_disk()
            killed = self._memory_group is not None and cgroups.count_oom_kills(self._memory_group) > 0
            self.record.exit = Exit(self._code(), killed or self._is_out_of_memory, self._is_disk_full)
            ended(self.record)
        return self.record.exit

    def _check(self) -> None:
        self._check_disk()
        if self._memory_group is None and processes.memory_bytes(self._find()) > self._memory_bytes:
            self._is_out_of_memory = True
        if self._is_out_of_memory or (
            self._is_disk_full and any(volume.kind == "plain" for volume in self.record.volumes)
        ):
            processes.kill_all(self._find, within_s=1)

    def _check_disk(self) -> None:
        self._is_disk_full = self._is_disk_full or any(volume.is_full() for volume in self.record.volumes)


@contextmanager
def undone_on_failure(stop: Callable[[], None]) -> Generator[None]:
    """Undo a start that fails half-way.

    Raises:
        SandboxUnavailable: for what the system refused.
    """
    try:
        yield
    except BaseException as error:
        stop()
        if isinstance(error, OSError | subprocess.SubprocessError):
            reason = error.strerror if isinstance(error, OSError) else type(error).__name__
            raise SandboxUnavailable(f"The sandbox could not be set up: {reason}.") from error
        raise


def wait_for_stranger(records: Records, ref: str, timeout_s: float) -> Exit | None:
    """Wait for a job of another process: it ends with that process, then as 137 unless that process saw it end."""
    deadline = time.monotonic() + timeout_s
    while True:
        record = records.load(ref)
        if record is None:
            return Exit(KILLED)
        if record.exit or record.process is None or processes.identify(record.process.pid) != record.process:
            return record.exit or Exit(KILLED)
        if (left := deadline - time.monotonic()) <= 0:
            return None
        time.sleep(min(0.1, left))
