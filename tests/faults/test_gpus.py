"""GPUs of runs: leased by UUID to one run at a time, in order of arrival, and free again whatever ended the run."""

from __future__ import annotations

import sys
import time

import pytest

from clinloop import runs
from clinloop.failpoints import UNCOMMITTED
from clinloop.sandbox.gpu_check import MISMATCH
from clinloop.services import Services
from clinloop.store.rows import RunRow

from ..gpu.driver import Driver, gpu, mig, uuid
from .killing import failpoints
from .lab import Lab, train_code, until

LONG = train_code("(session.out / 'begun').touch()\ntime.sleep(40)")
VISIBLE = "import os\nsession.checkpoint.write_text(os.environ['CUDA_VISIBLE_DEVICES'] + f\" {session.facts['gpus']}\")"


@pytest.fixture
def gpu_lab(lab: Lab, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab on a machine with the devices of the fake driver: two GPUs, at most two for one run."""
    driver.has(gpu(0), gpu(1))
    driver.load(monkeypatch)
    monkeypatch.setattr(sys, "executable", str(driver.python))
    settings = lab.services.settings.model_copy(update={"gpus_per_run_max": 2})
    lab.services = Services(settings, accept_no_isolation=True)
    return lab


def holders(lab: Lab) -> dict[str, str]:
    return lab.store.leased_units()


def stays_queued(lab: Lab, run: RunRow, seconds: float = 2.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if lab.store.run(run.task_id, run.name).status != "queued":
            return False
        time.sleep(0.05)
    return True


def test_a_run_gets_one_gpu_and_its_code_sees_that_one_alone(gpu_lab: Lab) -> None:
    task = gpu_lab.task(train_code(VISIBLE))

    run = gpu_lab.full(task)

    assert run.status == "succeeded", run
    assert gpu_lab.services.state.task(task).run(run.name).checkpoint.read_text() == f"{uuid(0)} 1"
    assert run.facts["gpus"] == [uuid(0)]
    assert holders(gpu_lab) == {}
    gpu_lab.check(task)


def test_two_runs_train_at_the_same_time_on_two_gpus_and_the_third_waits_its_turn(gpu_lab: Lab) -> None:
    tasks = [gpu_lab.task(LONG) for _ in range(3)]
    first, second = (gpu_lab.reach(gpu_lab.start(task), "training") for task in tasks[:2])
    third = gpu_lab.start(tasks[2])

    assert stays_queued(gpu_lab, third)
    assert holders(gpu_lab) == {uuid(0): f"{tasks[0]}/run0", uuid(1): f"{tasks[1]}/run0"}

    runs.stop(gpu_lab.services, tasks[0], first.name)
    gpu_lab.reach(third, "training")
    assert holders(gpu_lab) == {uuid(0): f"{tasks[2]}/run0", uuid(1): f"{tasks[1]}/run0"}
    for run in (second, third):
        runs.stop(gpu_lab.services, run.task_id, run.name)
    for run in (first, second, third):
        assert gpu_lab.end(run).status == "stopped"
        gpu_lab.check(run.task_id)
    assert holders(gpu_lab) == {}


def test_a_run_that_wants_both_gpus_is_not_overtaken_by_runs_that_want_one(gpu_lab: Lab) -> None:
    tasks = [gpu_lab.task(LONG) for _ in range(3)]
    holder = gpu_lab.reach(gpu_lab.start(tasks[0]), "training")
    both = gpu_lab.start(tasks[1], gpus=2)
    late = gpu_lab.start(tasks[2])

    assert stays_queued(gpu_lab, late)  # although one GPU is free
    runs.stop(gpu_lab.services, tasks[0], holder.name)
    gpu_lab.reach(both, "training")
    assert holders(gpu_lab) == dict.fromkeys([uuid(0), uuid(1)], f"{tasks[1]}/run0")
    assert stays_queued(gpu_lab, late)
    runs.stop(gpu_lab.services, tasks[1], both.name)
    gpu_lab.reach(late, "training")
    runs.stop(gpu_lab.services, tasks[2], late.name)
    for run in (holder, both, late):
        gpu_lab.end(run)
        gpu_lab.check(run.task_id)


def test_a_run_that_is_stopped_in_the_line_is_given_back_and_lets_the_next_one_pass(gpu_lab: Lab) -> None:
    tasks = [gpu_lab.task(LONG) for _ in range(3)]
    holder = gpu_lab.reach(gpu_lab.start(tasks[0]), "training")
    both = gpu_lab.start(tasks[1], gpus=2)
    late = gpu_lab.start(tasks[2])
    assert stays_queued(gpu_lab, both, 1.0)

    runs.stop(gpu_lab.services, tasks[1], both.name)
    ended = gpu_lab.end(both)

    assert (ended.status, ended.end_reason, ended.started_at) == ("stopped", "stopped_before_start", None)
    assert gpu_lab.events(tasks[1], both.name) == ["reserved", "settled", "refunded"]
    assert (gpu_lab.charged(tasks[1]), gpu_lab.store.balance(tasks[1])["refund"]) == (0, 3)
    gpu_lab.reach(late, "training")
    for run in (holder, late):
        runs.stop(gpu_lab.services, run.task_id, run.name)
        gpu_lab.end(run)
        gpu_lab.check(run.task_id)
    gpu_lab.check(tasks[1])


@pytest.mark.parametrize("how", ["crash", "deadline"])
def test_a_gpu_is_free_again_after_a_run_that_ended_badly(gpu_lab: Lab, how: str) -> None:
    gpu_lab.services = Services(
        gpu_lab.services.settings.model_copy(update={"gpus": (uuid(1),)}), accept_no_isolation=True
    )
    bad = gpu_lab.task(train_code("raise SystemExit(3)" if how == "crash" else "time.sleep(100)"))
    good = gpu_lab.task()

    first = gpu_lab.reach(gpu_lab.start(bad), "training")
    second = gpu_lab.start(good)

    assert (gpu_lab.end(first).status, gpu_lab.store.run(bad, "run0").end_reason) == ("failed", how)
    assert gpu_lab.end(second).status == "succeeded"
    assert holders(gpu_lab) == {}


def test_who_waits_settles_a_run_whose_supervisor_was_killed_and_then_has_its_gpus(gpu_lab: Lab) -> None:
    tasks = [gpu_lab.task(LONG) for _ in range(2)]
    first = gpu_lab.reach(gpu_lab.start(tasks[0], gpus=2), "training")
    second = gpu_lab.start(tasks[1])
    assert stays_queued(gpu_lab, second, 1.0)

    gpu_lab.kill_supervisor(tasks[0], first.name)

    until(lambda: gpu_lab.store.run(tasks[1], "run0").status == "training", 30)  # nobody polls: the waiting one looks
    assert gpu_lab.store.run(tasks[0], "run0").status == "lost"
    runs.stop(gpu_lab.services, tasks[1], "run0")
    gpu_lab.end(second)
    for task in tasks:
        gpu_lab.check(task)


@pytest.mark.parametrize("name", failpoints("queue:"))
def test_a_run_whose_supervisor_is_killed_as_it_gets_its_gpus_trains_on_them_and_gives_them_back(
    gpu_lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    task = gpu_lab.task(train_code(VISIBLE))
    with monkeypatch.context() as armed:
        armed.setenv("CLINLOOP_FAILPOINT", name)
        run = gpu_lab.start(task, gpus=2)
    log = gpu_lab.services.state.task(task).run(run.name).root / "supervisor.log"
    until(lambda: f"killed at failpoint {name}" in log.read_text(), 30)
    assert len(holders(gpu_lab)) == (0 if name.endswith(UNCOMMITTED) else 2)

    ended = gpu_lab.end(run)

    assert ended.status == "succeeded" and len(ended.facts["gpus"]) == 2, ended
    assert holders(gpu_lab) == {}
    gpu_lab.check(task)


def test_a_run_that_was_queued_when_its_supervisor_died_keeps_its_place(gpu_lab: Lab) -> None:
    tasks = [gpu_lab.task(LONG) for _ in range(3)]
    first = gpu_lab.reach(gpu_lab.start(tasks[0], gpus=2), "training")
    second, third = gpu_lab.start(tasks[1], gpus=2), gpu_lab.start(tasks[2])
    assert stays_queued(gpu_lab, second, 1.0)
    gpu_lab.kill_supervisor(tasks[1], second.name)

    runs.stop(gpu_lab.services, tasks[0], first.name)

    until(lambda: gpu_lab.store.run(tasks[1], "run0").status == "training", 30)
    assert gpu_lab.store.run(tasks[2], "run0").status == "queued"
    for run in (second, third):
        runs.stop(gpu_lab.services, run.task_id, run.name)
        gpu_lab.end(run)
        gpu_lab.check(run.task_id)


def test_a_gpu_on_which_others_compute_is_not_handed_out(gpu_lab: Lab, driver: Driver) -> None:
    driver.has(gpu(0, pids="4711"), gpu(1, pids="4712"))
    task = gpu_lab.task(train_code(VISIBLE))
    run = gpu_lab.start(task)
    assert stays_queued(gpu_lab, run)
    place = gpu_lab.store.place(task, "run0")
    assert place is not None
    assert (place.ahead, place.note) == (
        0,
        f"{uuid(0)} is in use by other processes; {uuid(1)} is in use by other processes",
    )

    driver.has(gpu(0, pids="4711"), gpu(1))

    assert gpu_lab.end(run).facts["gpus"] == [uuid(1)]


def test_a_gpu_that_fell_away_ends_the_run_as_lost_and_never_as_one_on_the_cpu(gpu_lab: Lab, driver: Driver) -> None:
    blocked = gpu_lab.task(LONG)
    gpu_lab.reach(gpu_lab.start(blocked, gpus=2), "training")
    task = gpu_lab.task(train_code(VISIBLE), budget="demo")
    run = gpu_lab.start(task, gpus=2)
    driver.has(gpu(0))

    ended = gpu_lab.end(run)

    assert (ended.status, ended.end_reason) == ("lost", "server_fault")
    assert "2 GPUs are needed and clinloop may use 1 here" in ended.message
    assert gpu_lab.charged(task) == 0
    runs.stop(gpu_lab.services, blocked, "run0")
    gpu_lab.end(gpu_lab.store.run(blocked, "run0"))


def test_a_sandbox_in_which_cuda_does_not_see_the_gpu_ends_the_run_as_lost_before_its_code_starts(
    gpu_lab: Lab, driver: Driver
) -> None:
    driver.has(gpu(0, name="NVIDIA Fake without CUDA"))
    task = gpu_lab.task(train_code("(session.out / 'begun').touch()\nsession.checkpoint.write_text('weights')"))

    ended = gpu_lab.full(task)

    assert (ended.status, ended.end_reason) == ("lost", "server_fault")
    assert f"leased are {uuid(0)}, but CUDA can use 0 devices" in ended.message
    assert not (gpu_lab.services.state.task(task).run(ended.name).out / "begun").exists()
    assert gpu_lab.charged(task) == 0
    gpu_lab.check(task)


def test_code_that_ends_like_a_failed_check_is_charged_as_a_crash(gpu_lab: Lab) -> None:
    task = gpu_lab.task(train_code(f"raise SystemExit({MISMATCH})"))

    ended = gpu_lab.full(task)

    assert (ended.status, ended.end_reason) == ("failed", "crash")
    assert gpu_lab.charged(task) == 1
    gpu_lab.check(task)


def test_of_a_split_gpu_a_run_gets_one_part(gpu_lab: Lab, driver: Driver) -> None:
    driver.has(gpu(0), mig(10, instance=1), mig(11, instance=2))
    task = gpu_lab.task(train_code(VISIBLE))

    assert gpu_lab.full(task).facts["gpus"] == [uuid(10, "MIG")]


def test_an_evaluation_waits_for_the_gpu_that_its_runs_had(gpu_lab: Lab) -> None:
    task, other = gpu_lab.task(train_code(VISIBLE)), gpu_lab.task(LONG)
    gpu_lab.full(task)
    blocker = gpu_lab.reach(gpu_lab.start(other, gpus=2), "training")

    gpu_lab.finalize(task)

    until(lambda: gpu_lab.store.task(task).phase == "waiting for 1 GPU, next in the line", 20)
    runs.stop(gpu_lab.services, other, blocker.name)
    assert gpu_lab.evaluated(task).status == "evaluated"
    assert holders(gpu_lab) == {}
    gpu_lab.end(blocker)
    gpu_lab.check(task)
