"""The client or the server goes away in the middle of a run: the run goes on and the next server finds it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clinloop import runs
from clinloop.services import Services

from .lab import Lab, commands, kill, predict_code, train_code, until

CLIENT = Path(__file__).with_name("client.py")
TRAIN = train_code("(session.out / 'begun').touch()\ntime.sleep(2)\nsession.checkpoint.write_text('weights')")


@contextmanager
def client(lab: Lab, end: str, tool: str, **arguments: Any) -> Generator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Start a client in a session of its own; yields it with the reply to its one call."""
    command = [sys.executable, str(CLIENT), str(lab.services.settings.state), end, tool, json.dumps(arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            kill(*descendants(process.pid))


def descendants(pid: int) -> list[int]:
    """Return a process and all below it by parentage, whatever sessions they are in."""
    parents: dict[int, int] = {}
    for number in commands():
        try:
            fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        parents[number] = int(fields[1])
    found = [pid]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    return found


def servers(lab: Lab) -> list[int]:
    """Return the pids of the stdio servers on this state folder."""
    state = str(lab.services.settings.state)
    return [pid for pid, command in commands().items() if "serve" in command and state in command and "-I" in command]


def finds_nothing_to_recover_and_the_run_ends(lab: Lab, task: str) -> None:
    """Check that a new server has nothing to do for a run, which ends by itself, charged once."""
    another = Services(lab.services.settings, lab.services.accept_no_isolation)
    assert runs.recover(another) == []
    run = another.store.run(task, "run0")
    assert run.is_active
    assert lab.end(run, poll=False).status == "succeeded"
    assert lab.charged(task) == 1
    lab.check(task)


def test_a_run_goes_on_when_its_client_is_killed_with_its_group_and_all_descendants(lab: Lab) -> None:
    task = lab.task(TRAIN)
    with client(lab, "stay", "run_training", task_id=task) as (process, reply):
        assert reply["run"]["run"] == "run0"
        lab.reach(lab.store.run(task, "run0"), "training")
        assert servers(lab)

        victims = descendants(process.pid)
        os.killpg(process.pid, signal.SIGKILL)
        kill(*victims)
        until(lambda: not servers(lab), 10)

    finds_nothing_to_recover_and_the_run_ends(lab, task)


def test_a_run_goes_on_when_its_server_is_killed(lab: Lab) -> None:
    task = lab.task(TRAIN)
    with client(lab, "stay", "run_training", task_id=task):
        lab.reach(lab.store.run(task, "run0"), "training")
        kill(*servers(lab))
        until(lambda: not servers(lab), 10)

        finds_nothing_to_recover_and_the_run_ends(lab, task)


def test_a_run_goes_on_when_its_client_closes_cleanly(lab: Lab) -> None:
    task = lab.task(TRAIN)
    begun = time.monotonic()
    with client(lab, "close", "run_training", task_id=task) as (process, _):
        assert process.wait(timeout=10) == 0
    assert time.monotonic() - begun < 10
    until(lambda: not servers(lab), 10)

    lab.reach(lab.store.run(task, "run0"), "training")
    finds_nothing_to_recover_and_the_run_ends(lab, task)


@pytest.mark.parametrize(("phase", "end"), [("training", "lost"), ("predicting", "succeeded")])
def test_a_run_whose_server_and_supervisor_are_killed_is_settled_by_the_next_server(
    lab: Lab, phase: str, end: str
) -> None:
    task = lab.task(TRAIN, predict_code("time.sleep(1)"))
    with client(lab, "stay", "run_training", task_id=task) as (process, _):
        lab.reach(lab.store.run(task, "run0"), phase)
        lab.kill_supervisor(task, "run0")
        kill(*descendants(process.pid))
        until(lambda: not servers(lab), 10)
    time.sleep(0.5)
    assert lab.store.run(task, "run0").is_active  # nobody is left who could end it

    with client(lab, "close", "read_validation", task_id=task, wait=30) as (_, reply):
        assert reply["status"] == end, reply

    assert lab.charged(task) == (0 if end == "lost" else 1)
    lab.check(task)


def test_an_evaluation_goes_on_when_its_client_is_killed_with_all_descendants(lab: Lab) -> None:
    task = lab.task(TRAIN, predict_code("time.sleep(0.3)"))
    lab.full(task)
    with client(lab, "stay", "finalize", task_id=task, run="run0", wait=0) as (process, reply):
        assert reply["status"] == "evaluating", reply
        victims = descendants(process.pid)
        os.killpg(process.pid, signal.SIGKILL)
        kill(*victims)
        until(lambda: not servers(lab), 10)

    until(lambda: lab.store.task(task).status == "evaluated", 60)
    until(lambda: not lab.supervisors(task, "finalize"), 10)
    lab.check(task)
