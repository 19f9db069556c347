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
    """One process that acts as a server until it dies at its failpoint, and the supervisor of `carried` that it launches."""

    def __init__(self, lab: Lab, what: str, task: str, carried: str, failpoint: str) -> None:
        self._lab, self.task, self._carried = lab, task, carried
        self.name, self._who = [*failpoint.split(","), "self"][:2]
        folder = lab.services.state.task(task)
        self._log = (folder.final if carried == "finalize" else folder.run(carried).root) / "supervisor.log"
        self._log_begin = len(self._supervisor_log())
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self.process = subprocess.Popen(
            [sys.executable, str(VICTIM), json.dumps(lab.services.launch_settings), what, task],
            env=os.environ | ({"CLINLOOP_FAILPOINT": failpoint} if failpoint else {}),
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *_: object) -> None:
        kill(self.process.pid)
        self.process.wait()
        self._output.close()

    def killed_at(self) -> str:
        """Return the failpoint at which somebody was killed; "" before that."""
        for line in [*self._printed().splitlines(), *self._supervisor_log()[self._log_begin :].splitlines()]:
            if line.startswith(b"killed at failpoint "):
                return line.decode().rpartition(" ")[2]
        return ""

    def is_done(self) -> bool:
        """Tell whether the server has done its one thing, or has died."""
        return b"done\n" in self._printed() or self.process.poll() is not None

    def supervisors(self) -> list[int]:
        return self._lab.supervisors(self.task, self._carried)

    def await_kill(self, within_s: float = 60) -> None:
        """Wait for the kill, and check that those died who were to die, there and nowhere else."""
        assert until(self.killed_at, within_s, every_s=0.01) == self.name
        in_server = self.name.startswith(IN_SERVER)
        if in_server or self._who != "self":
            assert self.process.wait(timeout=10) == -9
        else:
            assert self.process.poll() is None, "the server died too"
        if not in_server and self._who != "server":
            until(lambda: not self.supervisors(), 10, every_s=0.01)

    def _printed(self) -> bytes:
        self._output.seek(0)
        text = self._output.read()
        assert b"Traceback" not in text, text.decode()
        return text

    def _supervisor_log(self) -> bytes:
        return self._log.read_bytes() if self._log.exists() else b""


@contextlib.contextmanager
def victims(lab: Lab, what: str, carried: str, *deaths: tuple[str, str]) -> Generator[list[Victim]]:
    """Start a server for each (task, failpoint[,who]), all at once; those that live are ended at the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Victim(lab, what, task, carried, failpoint)) for task, failpoint in deaths]
