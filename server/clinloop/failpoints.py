"""Failpoints: the named moments at which a test lets a process die by SIGKILL, one at least on each side of every change of state."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import NamedTuple

from clinloop.errors import BadInput
from clinloop.settings import Kill, armed_kill

UNCOMMITTED = ":uncommitted"
"""A transaction named NAME has two failpoints: NAME:uncommitted, with everything written but the commit, and NAME, right after it."""


class Failpoint(NamedTuple):
    """One moment, and what becomes of a process that dies then."""

    name: str
    reached: str
    """What has just happened."""
    next: str
    """What the next server does."""
    is_transaction: bool = False


FAILPOINTS = [
    Failpoint(
        "task:created", "contract and budget are in the ledger", "the same init_task prepares the same task", True
    ),
    Failpoint("task:prepared", "workspace and data are written", "the same init_task opens the same task"),
    Failpoint("task:opened", "the task is ready for runs", "the same init_task returns it", True),
    Failpoint(
        "clinician:confirmed",
        "the confirmed contract is in the ledger",
        "prepares the task with the next call about it",
        True,
    ),
    Failpoint("clinician:declined", "the contract is declined", "nothing: the task has ended", True),
    Failpoint("clinician:asked", "the task waits for the clinician", "goes on waiting", True),
    Failpoint(
        "clinician:approved",
        "the yes is recorded, the task is closed for runs",
        "launches the supervisor of its evaluation",
        True,
    ),
    Failpoint("clinician:refused", "the no is recorded, the task is open", "nothing: the agent goes on", True),
    Failpoint("clinician:chosen", "the chosen run is the incumbent", "nothing: the agent goes on", True),
    Failpoint("clinician:paused", "the task is paused", "nothing: no run can start", True),
    Failpoint("clinician:resumed", "the task goes on", "nothing: the agent goes on", True),
    Failpoint(
        "clinician:stopped", "a run is asked to stop in a person's name", "nothing: its supervisor ends it", True
    ),
    Failpoint("clinician:extended", "further runs are granted", "nothing: the agent can use them", True),
    Failpoint("clinician:note", "a note is in the ledger", "hands it over with the next reply", True),
    Failpoint("run:reserved", "one unit is taken, the run is queued", "launches its supervisor", True),
    Failpoint("run:launching", "the launch file of the supervisor is written", "launches it"),
    Failpoint("run:launched", "the supervisor is a process of its own", "nothing: the run goes on"),
    Failpoint(
        "run:carried",
        "the supervisor holds the run",
        "launches another supervisor, which begins at the recorded status",
    ),
    Failpoint(
        "queue:leased",
        "a run has its slot or GPUs, an evaluation its GPUs",
        "goes on with the same, nobody else gets them",
        True,
    ),
    Failpoint(
        "run:training",
        "train.py runs in its sandbox",
        "goes on with a container; other sandboxes die with their supervisor, such a run is `lost` and refunded",
        True,
    ),
    Failpoint(
        "run:predicting", "training has ended, its /out is kept", "predicts with the checkpoint that is there", True
    ),
    Failpoint(
        "predict:started", "predict.py runs in its sandbox", "ends that sandbox and predicts again in a fresh one"
    ),
    Failpoint("run:scoring", "the predictions are there", "scores them", True),
    Failpoint("run:settled", "the run has its end, the ledger its entry", "nothing: the run has ended", True),
    Failpoint("finalize:started", "the task is closed for runs", "launches the supervisor of its evaluation", True),
    Failpoint("finalize:launching", "the launch file of the supervisor is written", "launches it"),
    Failpoint("finalize:launched", "the supervisor is a process of its own", "nothing: the evaluation goes on"),
    Failpoint("finalize:carried", "the supervisor holds the evaluation", "launches another one"),
    Failpoint("finalize:frozen", "both models are copied and hashed", "freezes again; the test set is sealed"),
    Failpoint(
        "finalize:reopened", "the rehearsal failed, the task is open again", "nothing: the test set is sealed", True
    ),
    Failpoint(
        "finalize:awaiting_unseal",
        "a sealed test set: the frozen models are recorded",
        "nothing: the task waits for the key",
        True,
    ),
    Failpoint(
        "unseal:opened",
        "a sealed test set lies in memory",
        "records the interruption with the next `clinloop unseal`, once",
    ),
    Failpoint(
        "finalize:unsealing",
        "the ledger says that the test set is opened",
        "records the interruption and goes on with the frozen copies",
        True,
    ),
    Failpoint(
        "finalize:opened",
        "the test images lie under random names",
        "removes them and writes them again under the same names",
    ),
    Failpoint(
        "finalize:predicted",
        "one model has predicted one view of the test images",
        "keeps that and predicts the others, once",
    ),
    Failpoint("finalize:scored", "the test predictions are scored", "scores the same predictions again"),
    Failpoint(
        "finalize:recorded",
        "the scores are in the ledger",
        "scores again; the ledger gets another entry only if the names are new, as of a sealed test set",
    ),
    Failpoint("finalize:report_written", "model and report are in place", "writes them again"),
    Failpoint("finalize:evaluated", "the task has its result", "seals the report", True),
    Failpoint("finalize:invalid", "the evaluation has failed for good", "nothing: the task has ended", True),
    Failpoint("finalize:sealed", "the report is sealed", "nothing: the task has ended"),
    Failpoint(
        "clean:moved", "what a clean-up removes is out of its place", "the next clean-up records it and deletes it"
    ),
    Failpoint("clean:recorded", "the ledger says what was removed", "the next clean-up deletes it"),
]
NAMES = frozenset(
    name for point in FAILPOINTS for name in (point.name, *([point.name + UNCOMMITTED] if point.is_transaction else []))
)


def reach(name: str) -> None:
    """Die here if this process was started to do so; otherwise nothing."""
    if _armed is not None:
        _reach(name, _armed)


def _armed_by_settings() -> Kill | None:
    kill = armed_kill()
    if kill is not None and kill.name not in (*NAMES, "*"):
        raise BadInput(f"There is no failpoint {kill.name[:60]!r}; known: *, {', '.join(sorted(NAMES))}.")
    return kill


_armed = _armed_by_settings()
_reached = 0


def _reach(name: str, kill: Kill) -> None:
    global _reached  # noqa: PLW0603 - one count for each process that is about to die
    if name not in NAMES:
        raise ValueError(f"no failpoint {name}")
    if kill.name not in (name, "*"):
        return
    _reached += 1
    if _reached != kill.nth:
        return
    os.write(2, f"killed at failpoint {name}\n".encode())  # for the test that asks where
    if kill.victim in ("server", "both") and kill.server_pid:
        with suppress(ProcessLookupError):  # it has died before
            os.kill(kill.server_pid, signal.SIGKILL)
    if kill.victim != "server" or not kill.server_pid:
        os.kill(os.getpid(), signal.SIGKILL)
