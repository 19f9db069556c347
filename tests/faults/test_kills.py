"""SIGKILL of the supervisor, of the server and of both, at chosen and at random moments of a run."""

from __future__ import annotations

import random
import time

import pytest

from clinloop import runs, supervisor
from clinloop.errors import NotNow
from clinloop.services import Services

from .lab import Lab, predict_code, train_code, until

BACKENDS = ["lab", pytest.param("strict_lab", marks=pytest.mark.sandbox)]
"""The lab fixtures: plain processes, bubblewrap."""
LONG_TRAINING = train_code("(session.out / 'begun').touch()\ntime.sleep(20)\nsession.checkpoint.write_text('weights')")
SLOW_PREDICT = predict_code("time.sleep(1)")


def begun(lab: Lab, task: str, run: str) -> bool:
    return (lab.services.state.task(task).run(run).out / "begun").exists()


@pytest.mark.parametrize("backend", BACKENDS, ids=["plain", "bubblewrap"])
def test_a_run_whose_supervisor_is_killed_while_it_trains_is_lost_and_refunded(
    request: pytest.FixtureRequest, backend: str
) -> None:
    lab: Lab = request.getfixturevalue(backend)
    daemon = "import os\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n"
    task = lab.task(train_code(daemon) + LONG_TRAINING)
    run = lab.reach(lab.start(task), "training")
    until(lambda: begun(lab, task, run.name), 10)

    lab.kill_supervisor(task, run.name)
    lost = lab.end(run)

    assert (lost.status, lost.end_reason) == ("lost", "supervisor_died")
    assert "Start it again" in lost.message
    assert lab.charged(task) == 0
    assert lab.events(task, run.name) == ["reserved", "settled", "refund_used", "refunded"]
    lab.check(task)


def test_a_fourth_lost_run_is_charged(lab: Lab) -> None:
    task = lab.task(LONG_TRAINING)
    for _ in range(4):
        run = lab.reach(lab.start(task), "training")
        lab.kill_supervisor(task, run.name)
        assert lab.end(run).status == "lost"

    assert lab.charged(task) == 1
    assert lab.store.balance(task)["refund"] == 0
    lab.check(task)


@pytest.mark.parametrize("backend", BACKENDS, ids=["plain", "bubblewrap"])
@pytest.mark.parametrize("phase", ["queued", "predicting", "scoring"])
def test_a_run_whose_supervisor_is_killed_in_another_phase_is_carried_to_its_end(
    request: pytest.FixtureRequest, phase: str, backend: str
) -> None:
    lab: Lab = request.getfixturevalue(backend)
    task = lab.task(predict=SLOW_PREDICT)
    run = lab.start(task)
    if phase != "queued":
        lab.reach(run, phase)
        time.sleep(0.4 if phase == "predicting" else 0.05)  # in the middle of it

    lab.kill_supervisor(task, run.name)
    ended = lab.end(run)

    assert (ended.status, ended.decision, ended.score) == ("succeeded", "accepted", 0.5), ended
    assert lab.charged(task) == 1
    assert lab.events(task, run.name) == ["reserved", "settled"]
    lab.check(task)


def test_a_stop_that_was_asked_for_before_the_supervisor_died_still_ends_the_run(lab: Lab) -> None:
    task = lab.task(LONG_TRAINING)
    run = lab.reach(lab.start(task), "training")
    lab.store.request_stop(task, run.name)
    lab.kill_supervisor(task, run.name)

    assert lab.end(run).status in ("lost", "stopped")
    lab.check(task)


@pytest.mark.parametrize("backend", BACKENDS, ids=["plain", "bubblewrap"])
def test_supervisors_killed_at_random_moments_leave_every_run_with_one_end(
    request: pytest.FixtureRequest, backend: str
) -> None:
    lab: Lab = request.getfixturevalue(backend)
    moments = random.Random(len(backend))
    task = lab.task(
        train_code("time.sleep(0.3)\nsession.checkpoint.write_text('weights')"), predict_code("time.sleep(0.2)")
    )
    for number in range(7):
        run = lab.start(task)
        assert run.name == f"run{number}"
        for _ in range(moments.randint(1, 3)):
            time.sleep(moments.uniform(0.0, 1.2))
            if pids := lab.supervisors(task, run.name):
                lab.kill_supervisor(task, run.name)
                assert len(pids) <= 2  # a second one only looks whether the lock is free
            runs.recover(lab.services, task)
        assert lab.end(run).status in ("lost", "succeeded")
        lab.check(task)
    lost = [run for run in lab.store.runs(task) if run.status == "lost"]
    assert lab.charged(task) == 7 - min(3, len(lost))


def test_a_new_server_recovers_what_it_finds_at_its_start(lab: Lab) -> None:
    task = lab.task(predict=SLOW_PREDICT)
    run = lab.reach(lab.start(task), "predicting")
    lab.kill_supervisor(task, run.name)

    another = Services(lab.services.settings, lab.services.accept_no_isolation)
    assert runs.recover(another) == [f"{task}/{run.name}"]

    assert lab.end(run, poll=False).status == "succeeded"
    lab.check(task)


def test_a_supervisor_that_cannot_be_launched_is_launched_when_that_works_again(lab: Lab) -> None:
    task = lab.task()
    in_the_way = lab.services.state.task(task).run("run0").root / supervisor.LAUNCH_FILE
    in_the_way.mkdir(parents=True)

    with pytest.raises(NotNow, match="run0 is recorded, but its process could not be started"):
        lab.start(task)
    assert runs.recover(lab.services, task) == []  # no error: what can be read is read
    assert lab.store.run(task, "run0").status == "queued"
    in_the_way.rmdir()

    assert runs.recover(lab.services, task) == [f"{task}/run0"]
    assert lab.end(lab.store.run(task, "run0")).status == "succeeded"
    assert lab.charged(task) == 1
    lab.check(task)
