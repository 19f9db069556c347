"""SIGKILL of the supervisor, of the server and of both, at chosen and at random moments of a run."""

from __future__ import annotations

import pytest

from clinloop import runs, supervisor
from clinloop.errors import NotNow

from .lab import Lab, train_code, until

BACKENDS = ["lab", pytest.param("strict_lab", marks=pytest.mark.sandbox)]
"""The lab fixtures: plain processes, bubblewrap."""
LONG_TRAINING = train_code("(session.out / 'begun').touch()\ntime.sleep(20)\nsession.checkpoint.write_text('weights')")


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


def test_a_stop_that_was_asked_for_before_the_supervisor_died_still_ends_the_run(lab: Lab) -> None:
    task = lab.task(LONG_TRAINING)
    run = lab.reach(lab.start(task), "training")
    lab.store.request_stop(task, run.name)
    lab.kill_supervisor(task, run.name)

    assert lab.end(run).status in ("lost", "stopped")
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
