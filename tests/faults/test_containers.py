"""Runs whose sandbox outlives their supervisor: they are found again, not lost, and are still charged once."""

import json
import time

import pytest

from clinloop import runs

from .lab import Lab, train_code, until

pytestmark = [pytest.mark.sandbox, pytest.mark.docker]

PATIENT = """
cases = [case.case_id for case in session.val_cases()]
rows = [[1 / len(session.classes)] * len(session.classes)] * len(cases)
first = session.validate(cases, rows)
print("first", first.left, flush=True)
time.sleep(4)
second = session.validate(cases, rows)
print("second", second.left, second.problem, flush=True)
session.checkpoint.write_text("weights")
"""


def _wait_for_first_answer(lab: Lab, task: str, run: str) -> None:
    folder = lab.services.state.task(task).run(run)
    until(lambda: folder.read_validations() or None, 30)


def test_a_run_whose_supervisor_is_killed_goes_on_and_is_scored(docker_lab: Lab) -> None:
    lab = docker_lab
    task = lab.task(train_code(PATIENT))
    run = lab.start(task)
    lab.reach(run, "training")
    _wait_for_first_answer(lab, task, run.name)
    lab.kill_supervisor(task, run.name)

    run = lab.end(run)

    folder = lab.services.state.task(task).run(run.name)
    log = folder.log("train").read_text(encoding="utf-8")
    assert (run.status, run.end_reason) == ("succeeded", "completed"), (run, log)
    lines = [json.loads(line) for line in folder.validations.read_text(encoding="utf-8").splitlines()]
    assert [line["n"] for line in lines] == [1, 2] and all("score" in line for line in lines)
    assert "first" in log and "second" in log
    assert lab.events(task, run.name).count("resumed") == 1
    lab.check(task)


def test_a_run_that_ended_while_it_had_no_supervisor_is_harvested(docker_lab: Lab) -> None:
    lab = docker_lab
    task = lab.task(train_code("session.checkpoint.write_text('weights'); print('done', flush=True); time.sleep(1)"))
    run = lab.start(task)
    lab.reach(run, "training")
    lab.kill_supervisor(task, run.name)
    time.sleep(3)

    run = lab.end(run)

    assert (run.status, run.end_reason) == ("succeeded", "completed"), run
    lab.check(task)


def test_an_overdue_run_is_ended_by_the_next_server_and_its_checkpoint_is_scored(docker_lab: Lab) -> None:
    lab = docker_lab
    task = lab.task(train_code("session.checkpoint.write_text('weights'); time.sleep(600)"))
    run = lab.start(task)
    run = lab.reach(run, "training")
    time.sleep(1.5)
    lab.kill_supervisor(task, run.name)
    assert run.deadline_unix is not None
    time.sleep(max(0.0, run.deadline_unix + 6 - time.time()))
    assert lab.containers(task)

    run = lab.end(run)

    assert (run.status, run.end_reason) == ("succeeded", "deadline"), run
    lab.check(task)


def test_a_run_that_is_stopped_while_it_has_no_supervisor_ends_stopped(docker_lab: Lab) -> None:
    lab = docker_lab
    task = lab.task(train_code("time.sleep(600)"))
    run = lab.start(task)
    lab.reach(run, "training")
    lab.kill_supervisor(task, run.name)

    runs.stop(lab.services, task, run.name)
    run = lab.end(run)

    assert (run.status, run.end_reason) == ("stopped", "stopped"), run
    lab.check(task)
