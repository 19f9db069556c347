"""A state folder in which runs are broken on purpose: own code in the workspace, kills, and what must hold afterwards."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clinloop import context, evaluation, runs, signing, tasks
from clinloop.datasets.dataset import Dataset
from clinloop.report.verify import verify
from clinloop.sandbox import container
from clinloop.services import Services
from clinloop.spec import TaskSpec, freeze
from clinloop.store import ledger
from clinloop.store.rows import RunRow, TaskRow
from clinloop.store.store import Store
from clinloop.workspace import Workspace

TRAIN = """
import time
from clinloop_runtime import open_session
session = open_session()
{body}
"""
"""A train.py: plain Python, so that it starts at once."""

PREDICT = """
import argparse, os, sys, time
from pathlib import Path
from clinloop_runtime import open_session, predict_cases, write_predictions
parser = argparse.ArgumentParser()
for name in ("--images", "--checkpoint", "--out"):
    parser.add_argument(name, type=Path, required=True)
args = parser.parse_args()
classes = open_session().classes
cases = [case.case_id for case, _ in predict_cases(args.images)]
rows = [[1 / len(classes)] * len(classes) for _ in cases]
{body}
write_predictions(args.out, cases, classes, rows)
"""
"""A predict.py that gives every class the same probability unless its body does something else."""

GOOD_TRAIN = TRAIN.format(body="session.checkpoint.write_text('weights')")
GOOD_PREDICT = PREDICT.format(body="")
TERMINAL = ("evaluated", "invalid")


def train_code(body: str) -> str:
    """Return a train.py with this body; `session` is open."""
    return TRAIN.format(body=body)


def predict_code(body: str) -> str:
    """Return a predict.py with this body, which may change `cases` and `rows` before they are written to `args.out`."""
    return PREDICT.format(body=body)


class Lab:
    """One state folder with the dataset `moles`."""

    def __init__(self, services: Services) -> None:
        self.services = services

    @property
    def store(self) -> Store:
        return self.services.store

    def allow(self, **limits: int) -> None:
        """Change limits of the sandboxes that start from now on."""
        settings = self.services.settings
        changed = settings.model_copy(update={"limits": settings.limits.model_copy(update=limits)})
        self.services = Services(changed, self.services.accept_no_isolation)

    def task(
        self,
        train: str = GOOD_TRAIN,
        predict: str = GOOD_PREDICT,
        *,
        budget: str = "demo",
        acceptance: str = "paper",
        **other: Any,
    ) -> str:
        """Create a task whose initial workspace, and so its baseline, is this code."""
        dataset = Dataset.load(self.services.settings.state, "moles")
        spec = TaskSpec.model_validate(
            {"objective": "Tell three kinds of moles apart.", "budget": budget, "acceptance": acceptance, **other}
        )
        task, _ = self.store.create_task(
            task_id=f"moles-{secrets.token_hex(3)}",
            dataset="moles",
            request="Tell these three kinds of moles apart for me, please.",
            spec=freeze(spec, tasks.spec_facts(dataset)),
            template="linear",
            seed=0,
            settings=self.services.launch_settings,
            init_key=secrets.token_hex(8),
        )
        folder = self.services.state.task(task.id)
        context.prepare_task_data(dataset, task.spec, folder)
        template = folder.root / "template"
        template.mkdir()
        (template / "train.py").write_text(train, encoding="utf-8")
        (template / "predict.py").write_text(predict, encoding="utf-8")
        self.workspace(task.id).create_from("linear", {name: template / name for name in ("train.py", "predict.py")})
        self.store.open_task(task.id)
        return task.id

    def workspace(self, task_id: str) -> Workspace:
        folder = self.services.state.task(task_id)
        return Workspace(folder.workspace, folder.revisions)

    def edit(self, task_id: str, path: str, text: str) -> None:
        self.workspace(task_id).create(path, text, overwrite=True)

    # runs ----------------------------------------------------------------------------------------------------------

    def start(self, task_id: str, mode: str = "full", **arguments: Any) -> RunRow:
        hypothesis = "It is worth trying because nothing else was tried." if mode == "full" else ""
        return runs.start(self.services, task_id, mode=mode, hypothesis=hypothesis, **arguments).run  # type: ignore[arg-type]

    def smoke(self, task_id: str) -> RunRow:
        """Smoke-test the workspace to the end."""
        return self.end(self.start(task_id, "smoke"))

    def full(self, task_id: str) -> RunRow:
        """Do a full run to its end."""
        return self.end(self.start(task_id))

    def end(self, run: RunRow, *, poll: bool = True, within_s: float = 90) -> RunRow:
        """Wait for the end of a run; with `poll` as an agent does, whose polls recover what has died."""

        def ended() -> RunRow | None:
            if poll:
                runs.recover(self.services, run.task_id)
            now = self.store.run(run.task_id, run.name)
            return None if now.is_active else now

        return until(ended, within_s, every_s=0.1)

    def reach(self, run: RunRow, status: str, *, within_s: float = 30) -> RunRow:
        """Wait for a status of a run, without a poll that could recover it."""

        def reached() -> RunRow | None:
            now = self.store.run(run.task_id, run.name)
            assert now.is_active or now.status == status, now
            return now if now.status == status else None

        return until(reached, within_s, every_s=0.003)

    def finalize(self, task_id: str, run: str = "run0") -> None:
        evaluation.start(self.services, task_id, run)

    def evaluated(self, task_id: str, *, within_s: float = 120) -> TaskRow:
        """Wait for the end of an evaluation, polling as an agent does."""

        def ended() -> TaskRow | None:
            runs.recover(self.services, task_id)
            now = self.store.task(task_id)
            return now if now.status in (*TERMINAL, "open") else None

        return until(ended, within_s, every_s=0.2)

    # faults --------------------------------------------------------------------------------------------------------

    def supervisors(self, task_id: str, what: str) -> list[int]:
        """Return the pids of the supervisors of a run or of the evaluation."""
        words = ["clinloop.supervisor", str(self.services.settings.state), task_id, what]
        return [pid for pid, command in commands().items() if command[3:7] == words]

    def kill_supervisor(self, task_id: str, what: str) -> None:
        """Send SIGKILL to the supervisors; there must be one."""
        pids = self.supervisors(task_id, what)
        assert pids, f"{what} has no supervisor"
        kill(*pids)
        until(lambda: not self.supervisors(task_id, what), 10)

    def sandbox_processes(self, task_id: str) -> list[str]:
        """Return the command lines of all processes that belong to a sandbox of the task."""
        found: list[str] = []
        state = str(self.services.settings.state)
        for pid, command in commands().items():
            environment = _read(f"/proc/{pid}/environ").split(b"\0")
            if any(word.startswith(f"CLINLOOP_JOB={task_id}-".encode()) for word in environment) or (
                "/workspace" in command and state in " ".join(command)
            ):
                found.append(" ".join(command))
        return found

    def mounts(self, task_id: str) -> list[str]:
        """Return the mount points of a task below the state folder."""
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
        below = str(self.services.settings.state) + "/"
        points = [line.split()[1] for line in lines]
        return [point for point in points if point.startswith(below) and task_id in point]

    def containers(self, task_id: str) -> list[str]:
        """Return the names of all containers of a task, running or not."""
        if self.services.settings.sandbox != "docker":
            return []
        label = f"label={container.INSTANCE}={container.instance_of(self.services.settings.state)}"
        listed = subprocess.run(
            ["docker", "ps", "--all", "--format", "{{.Names}}", "--filter", label],
            capture_output=True,
            text=True,
            check=True,
        )
        return [name for name in listed.stdout.split() if task_id in name]

    # what must hold ------------------------------------------------------------------------------------------------

    def events(self, task_id: str, run: str | None = None) -> list[str]:
        """Return the events of a task's ledger, or those of one run."""
        return [row.event for row in self.store.ledger(f"task:{task_id}") if run is None or row.run == run]

    def check(self, task_id: str) -> None:
        """Check what must hold whenever nothing is under way, whatever was killed before."""
        chain = self.store.ledger(f"task:{task_id}")
        previous = chain[0].prev
        left: dict[str, int] = {}
        for row in chain:
            fields = row._asdict()
            signature, digest = fields.pop("signature"), fields.pop("hash")
            assert signing.is_signed(self.store.public_key, digest, signature), row
            assert row.prev == previous and digest == ledger.row_hash(**fields), row
            previous = digest
            if row.resource:
                left[row.resource] = left.get(row.resource, 0) + row.amount
                assert left[row.resource] >= 0, row
        for run in self.store.runs(task_id):
            assert not run.is_active, run
            events = self.events(task_id, run.name)
            assert events.count("reserved") == 1 and events.count("settled") == 1, (run, events)
            given_back = run.status == "stopped" and run.started_at is None
            assert events.count("refunded") == (given_back or (run.status == "lost" and events.count("refund_used"))), (
                run,
                events,
            )
        contracts = [row.detail for row in chain if row.event == "contract"]
        assert len(contracts) == 1 or (len(contracts) == 2 and contracts[1]["confirmed_by"]), contracts
        assert sum(row.event == "unsealing" for row in chain) <= 1
        resumed = sum(row.event == "evaluation_resumed" for row in chain)
        assert sum(row.event == "scored" for row in chain) <= 1 + resumed  # a sealed test set gets new names each time
        assert sum(row.event in TERMINAL for row in chain) == (self.store.task(task_id).status in TERMINAL)
        assert not [holder for holder in self.store.leased_gpus().values() if holder.startswith(f"{task_id}/")]
        assert self.sandbox_processes(task_id) == []
        assert self.containers(task_id) == []
        assert self.mounts(task_id) == []
        assert not list((self.services.settings.state / "sandboxes").glob(f"{task_id}-*"))
        with sqlite3.connect(self.services.settings.state / "clinloop.sqlite") as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
        task = self.store.task(task_id)
        assert task.status in (*TERMINAL, "open"), task
        if task.status == "evaluated":
            outcome = verify(self.services.state.task(task_id).report)
            assert outcome.ok, [check for check in outcome.checks if not check.ok]
            assert (self.services.state.task(task_id).report / "seal.json").exists()
        assert not list(self.services.state.task(task_id).final.glob("**/view")), "test images were left lying about"

    def charged(self, task_id: str, resource: str = "run") -> int:
        """Return how many units of a resource are used."""
        granted = next(
            row.amount
            for row in self.store.ledger(f"task:{task_id}")
            if row.event == "granted" and row.resource == resource
        )
        return granted - self.store.balance(task_id)[resource]


def until(condition: Callable[[], Any], within_s: float, *, every_s: float = 0.05) -> Any:
    """Return the first truthy value of a condition."""
    deadline = time.monotonic() + within_s
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"not reached in {within_s} s: {condition}"
        time.sleep(every_s)


def commands() -> dict[int, list[str]]:
    """Return the command line of every process, zombies left out."""
    found: dict[int, list[str]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (words := _read(f"/proc/{folder.name}/cmdline")):
            found[int(folder.name)] = words.decode(errors="replace").split("\0")
    return found


def kill(*pids: int) -> None:
    """Send SIGKILL to processes; those that are gone are fine."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
