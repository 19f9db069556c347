"""Servers that die at a failpoint, alone, with the supervisor that they launched, or instead of it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import IO

from clinloop.failpoints import FAILPOINTS, UNCOMMITTED

from .lab import Lab, kill, until

VICTIM = Path(__file__).with_name("victim.py")
WHO = ("self", "server", "both")
"""Who dies at a failpoint that a supervisor reaches."""
IN_SERVER = ("task:", "run:reserved", "run:launch", "finalize:started", "finalize:launch")
"""How the names of failpoints begin that servers reach."""


def failpoints(*kinds: str, without: Iterable[str] = ()) -> list[str]:
    """Return the names of the failpoints of these kinds in the order of the list, both sides of a transaction."""
    return [
        name
        for point in FAILPOINTS
        for name in ([point.name + UNCOMMITTED] if point.is_transaction else []) + [point.name]
        if point.name.startswith(kinds) and point.name not in without
    ]


class Victim:
    """One process that acts as a server until it dies at its failpoint, and the supervisor that it launches."""

    def __init__(self, lab: Lab, what: str, task: str, failpoint: str, stderr: IO[bytes]) -> None:
        self._lab, self._what, self.task, self._stderr = lab, what, task, stderr
        self.name, _, victim = failpoint.partition(",")
        self.victim = victim or "self"
        self.process = subprocess.Popen(
            [sys.executable, str(VICTIM), json.dumps(lab.services.launch_settings), what, task],
            env=os.environ | {"CLINLOOP_FAILPOINT": failpoint},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )

    def await_kill(self, within_s: float = 60) -> None:
        """Wait for the kill, and check that those died who were to die, there and nowhere else."""
        until(self._was_reached, within_s, every_s=0.01)
        in_server = self.name.startswith(IN_SERVER)
        if in_server or self.victim != "self":
            assert self.process.wait(timeout=10) == -9
        else:
            assert self.process.poll() is None, "the server died too"
        if not in_server and self.victim != "server":
            until(lambda: not self._supervisors(), 10, every_s=0.01)

    def _was_reached(self) -> bool:
        line = f"killed at failpoint {self.name}\n".encode()
        self._stderr.seek(0)
        written = self._stderr.read()
        assert b"Traceback" not in written, written.decode()
        log = self._folder() / "supervisor.log"
        return line in written or (log.exists() and line in log.read_bytes())

    def _folder(self) -> Path:
        folder = self._lab.services.state.task(self.task)
        return folder.final if self._is_finalize() else folder.run("run0").root

    def _supervisors(self) -> list[int]:
        return self._lab.supervisors(self.task, "finalize" if self._is_finalize() else "run0")

    def _is_finalize(self) -> bool:
        return self._lab.store.task(self.task).status not in ("preparing", "open") or self._what == "finalize"


@contextlib.contextmanager
def victims(lab: Lab, what: str, *deaths: tuple[str, str]) -> Generator[list[Victim]]:
    """Start a server for each (task, failpoint[,who]), all at once; those that live are ended at the end."""
    with contextlib.ExitStack() as stack:
        started: list[Victim] = []
        for task, failpoint in deaths:
            victim = Victim(lab, what, task, failpoint, stack.enter_context(tempfile.TemporaryFile()))
            stack.callback(victim.process.wait)
            stack.callback(kill, victim.process.pid)
            started.append(victim)
        yield started
