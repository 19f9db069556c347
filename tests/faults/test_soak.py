"""Random kills, many of them: three tasks in one state folder live from baseline to report while servers and supervisors die.

`pytest tests/faults/test_soak.py --kills 200 --seed 7` for a long one.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter

import pytest

from clinloop import runs
from clinloop.store.rows import RunRow

from .killing import WHO, Victim, failpoints
from .lab import TERMINAL, Lab, kill, predict_code, train_code, until

TASKS = 3
FULL_RUNS = 2
TRAIN = train_code(
    "import os\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\ntime.sleep(0.2)\nsession.checkpoint.write_text('weights')"
)
PREDICT = predict_code("time.sleep(0.1)")
IN_RUN = failpoints("run:", "predict:")
IN_EVALUATION = failpoints(
    "finalize:", "predict:", without=("finalize:reopened", "finalize:invalid", "finalize:awaiting_unseal")
)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("backend", "share"),
    [("lab", 1.0), pytest.param("strict_lab", 0.25, marks=pytest.mark.sandbox)],
    ids=["plain", "bubblewrap"],
)
def test_nothing_is_lost_or_done_twice_whatever_is_killed_at_whatever_moment(
    request: pytest.FixtureRequest, backend: str, share: float
) -> None:
    lab: Lab = request.getfixturevalue(backend)
    kills = round(share * int(request.config.getoption("--kills")))
    moments = random.Random(int(request.config.getoption("--seed")))
    killed: Counter[str] = Counter()
    living: list[str] = []
    while killed.total() < kills or living:
        may_die = killed.total() < kills
        while may_die and len(living) < TASKS:
            living.append(lab.task(TRAIN, PREDICT))
        with contextlib.ExitStack() as stack:
            todo = [owed(lab, task) for task in living]
            deaths = [death(moments, carried) if may_die else "" for *_, carried in todo]
            servers = [
                stack.enter_context(Victim(lab, *step, "" if where == "anywhere" else where))
                for step, where in zip(todo, deaths, strict=True)
            ]
            for server, where in zip(servers, deaths, strict=True):
                killed.update(kill_anywhere(server, moments) if where == "anywhere" else await_end(server))
        for task in [task for task in living if lab.store.task(task).status in TERMINAL]:
            until(lambda task=task: not runs.recover(lab.services, task) and not lab.supervisors(task, "finalize"), 30)
            has_held(lab, task)
            living.remove(task)
            print(f"{killed.total()} kills", flush=True)
    print(dict(killed))


def death(moments: random.Random, carried: str) -> str:
    """Return where the next server or its supervisor is to die: at some failpoint, at the nth of all, or at any moment."""
    who = moments.choice(WHO)
    names = IN_EVALUATION if carried == "finalize" else IN_RUN
    return moments.choice(["anywhere", f"*,{who},{moments.randint(1, 15)}", f"{moments.choice(names)},{who}"])


def owed(lab: Lab, task: str) -> tuple[str, str, str]:
    """Return (what a server does next for a task, the task, the run or evaluation that is carried then)."""
    known = lab.store.runs(task)
    if lab.store.task(task).status != "open":
        return "recover", task, "finalize"
    if active := [run.name for run in known if run.is_active]:
        return "recover", task, active[0]
    if sum(run.status == "succeeded" for run in known) < FULL_RUNS and lab.store.balance(task)["run"]:
        return "full", task, f"run{len(known)}"
    return "finalize", task, "finalize"


def kill_anywhere(server: Victim, moments: random.Random) -> list[str]:
    """Kill a server, its supervisor or both at a random moment."""
    who = moments.choice(WHO)
    time.sleep(moments.uniform(0, 1.5))
    pids = [server.process.pid] if who != "self" else []
    pids += server.supervisors() if who != "server" else []
    kill(*pids)
    return ["any moment"] if pids else []


def await_end(server: Victim) -> list[str]:
    """Wait until a server or its supervisor is killed, or nothing is left to do for them."""

    def ended() -> str:
        return server.killed_at() or ("nothing" if server.is_done() and not server.supervisors() else "")

    name = until(ended, 60, every_s=0.05)
    return [] if name == "nothing" else [name]


def has_held(lab: Lab, task: str) -> None:
    """Check a task whose end has come."""
    lab.check(task)
    full: list[RunRow] = lab.store.runs(task)
    lost = [run for run in full if run.status == "lost"]
    assert all(run.end_reason == "supervisor_died" for run in lost), lost
    assert all(run.status in ("succeeded", "lost") for run in full), full
    assert lab.charged(task) == len(full) - min(3, len(lost))
    events = lab.events(task)
    assert events.count("evaluation_started") == events.count("unsealing") == 1, events
    if lab.store.task(task).status == "invalid":
        assert "interrupted twice" in (lab.services.state.task(task).final / "failure.txt").read_text()
