"""Eight servers on one state folder, each with its client, do everything at once while some of them and some supervisors are killed."""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from clinloop import runs

from . import victim
from .lab import TERMINAL, Lab, commands, kill, predict_code, train_code, until
from .wire import WireClient

CLIENTS = 8
TURNS = 2
TRAIN = train_code("time.sleep(0.3)\nsession.checkpoint.write_text('weights')")
PREDICT = predict_code("time.sleep(0.1)")
HYPOTHESIS = "It is worth trying because nothing else was tried."


class Told:
    """What the clients were told."""

    def __init__(self) -> None:
        self.tasks = set[str]()
        self.runs = defaultdict[str, set[str]](set)
        """Request id -> names of the run that it got."""
        self.new = list[str]()
        """Names of the runs that were said to be new."""
        self.inserted = set[str]()
        """Lines that were said to be in the shared file."""
        self.refusals = list[str]()
        self.n_deaths = 0


def work(state: Path, task: str, number: int, told: Told) -> None:
    """Do everything that an agent does."""
    client = WireClient(state)

    def call(tool: str, **arguments: Any) -> dict[str, Any]:
        reply = client.call(tool, **arguments)
        told.refusals += [reply.refusal] * bool(reply.refusal)
        return reply.result or {}

    spec = {"objective": "Tell three kinds of moles apart.", "budget": "demo"}
    for turn in range(TURNS):
        if made := call("init_task", dataset="moles", request=victim.REQUEST, spec=spec):
            told.tasks.add(made["task_id"])
        line = f"# {number}-{turn}"
        if call("edit_workspace", task_id=task, operation="insert", path="notes.py", line=0, text=line):
            told.inserted.add(line)
        for mode in ("full", "smoke") if number % 2 else ("smoke", "full"):
            request = f"{mode}-{turn}"
            if started := call("run_training", task_id=task, mode=mode, hypothesis=HYPOTHESIS, request_id=request):
                told.runs[request].add(started["run"]["run"])
                told.new += [started["run"]["run"]] * started["is_new"]
            call("read_validation", task_id=task, wait=1)
    told.n_deaths += client.n_deaths
    client.close()


def finish(state: Path, task: str, run: str, told: Told) -> str:
    """Ask for the evaluation until it has ended."""
    client = WireClient(state)
    while (reply := client.call("finalize", task_id=task, run=run, wait=1)).result is None or reply.result[
        "status"
    ] not in TERMINAL:
        told.refusals += [reply.refusal] * bool(reply.refusal)
    told.n_deaths += client.n_deaths
    client.close()
    return reply.result["result"]["report"] if "report" in reply.result["result"] else str(reply.result["result"])


class Killer:
    """Kills a server every now and then, and also a supervisor of a run where it may."""

    def __init__(self, lab: Lab, task: str, *, supervisors: bool) -> None:
        self._lab, self._task, self._supervisors = lab, task, supervisors
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._kill)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _kill(self) -> None:
        moments, state = random.Random(8), str(self._lab.services.settings.state)
        while not self._is_over.wait(moments.uniform(1.0, 4.0)):
            found = [pid for pid, command in commands().items() if "serve" in command and state in command]
            if self._supervisors:
                active = [run.name for run in self._lab.store.active_runs()]
                found += [pid for run in active for pid in self._lab.supervisors(self._task, run)]
            if found:
                kill(moments.choice(found))


def test_eight_servers_at_once_lose_no_edit_charge_each_start_once_and_evaluate_once(lab: Lab) -> None:
    state, task, told = lab.services.settings.state, lab.task(TRAIN, PREDICT), Told()
    lab.edit(task, "notes.py", "# the end\n")

    with ThreadPoolExecutor(CLIENTS) as pool, Killer(lab, task, supervisors=True):
        for done in [pool.submit(work, state, task, number, told) for number in range(CLIENTS)]:
            done.result()
    for run in lab.store.runs(task):
        lab.end(run)

    lines = (lab.services.state.task(task).workspace / "notes.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(set(lines))
    assert told.inserted <= set(lines), "an edit that was reported is lost"
    assert len(told.tasks) == 1
    assert all(len(names) == 1 for names in told.runs.values()), told.runs
    assert len(told.new) == len(set(told.new)), "one start was told to two clients as theirs"
    known = lab.store.runs(task)
    requests = [run.request_id for run in known]
    assert len(requests) == len(set(requests))
    lost = [run for run in known if run.status == "lost"]
    assert lab.charged(task) + lab.charged(task, "smoke") == len(known) - min(3, len(lost))
    lab.check(task)

    while lab.store.incumbent(task) is None:
        lab.full(task)
    incumbent = lab.store.incumbent(task)
    assert incumbent is not None
    with ThreadPoolExecutor(CLIENTS) as pool, Killer(lab, task, supervisors=False):
        ends = [pool.submit(finish, state, task, incumbent.name, told) for _ in range(CLIENTS)]
        assert len({end.result() for end in ends}) == 1
    until(lambda: not runs.recover(lab.services, task) and not lab.supervisors(task, "finalize"), 30)
    events = lab.events(task)
    assert [events.count(event) for event in ("evaluation_started", "unsealing", "scored", "evaluated")] == [1] * 4
    assert "evaluation_resumed" not in events
    lab.check(task)
    assert told.n_deaths > 0, "nobody was killed"
    assert [text for text in told.refusals if "fault of the server" in text or "locked" in text] == []
    assert "database is locked" not in (state / "stderr.txt").read_text(encoding="utf-8")
