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

from clinloop import runs
from clinloop.failpoints import FAILPOINTS, UNCOMMITTED
from clinloop.services import Services

from .lab import Lab, kill, predict_code, train_code, until

VICTIM = Path(__file__).with_name("victim.py")
WHO = ("self", "server", "both")
"""Who dies at a failpoint that a supervisor reaches."""
IN_SERVER = ("task:", "run:reserved", "run:launch", "finalize:started", "finalize:launch")
"""How the names of failpoints begin that servers reach."""
GOES_ON = ("run:launched", "finalize:launched")
"""Where a supervisor lives already whom nobody kills."""
_DAEMON = "import os\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n"
TRAIN = train_code(_DAEMON + "time.sleep(0.3)\nsession.checkpoint.write_text('weights')")
PREDICT = predict_code(_DAEMON + "time.sleep(0.1)")
"""Code that leaves a process behind and takes long enough to be killed."""


def failpoints(*kinds: str, without: Iterable[str] = ()) -> list[str]:
    """Return the names of the failpoints of these kinds in the order of the list, both sides of a transaction."""
    return [
        name
        for point in FAILPOINTS
        for name in ([point.name + UNCOMMITTED] if point.is_transaction else []) + [point.name]
        if point.name.startswith(kinds) and point.name not in without
    ]


def dying(name: str, nth: int = 1) -> list[str]:
    """Return the failpoint with each of those who may die there, when it is reached for the nth time."""
    return [name] if name.startswith(IN_SERVER) else [f"{name},{who},{nth}" for who in WHO]


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


def fresh(lab: Lab) -> Lab:
    """Return the lab as another server sees it, which has recovered what it found at its start."""
    another = Lab(Services(lab.services.settings, lab.services.accept_no_isolation))
    runs.recover(another.services)
    return another


def one_after_the_other(lab: Lab, what: str, task: str, names: list[str]) -> None:
    """Let a server and its supervisor die at each failpoint in turn, each time with a fresh server that goes on."""
    for name in names:
        is_recorded = lab.store.runs(task) if what == "full" else lab.store.task(task).status != "open"
        carried = "finalize" if what == "finalize" else "run0"
        with victims(lab, "recover" if is_recorded else what, carried, (task, f"{name},both")) as (server,):
            server.await_kill()
