"""The line for the CPU when processes are killed: a slot is free again whatever ended its run, and who waits keeps the place."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from clinloop import runs
from clinloop.services import Services

from .lab import GOOD_TRAIN, Lab, train_code, until

LONG = train_code("time.sleep(40)")


@pytest.fixture
def narrow(lab: Lab) -> Lab:
    """A lab on a machine with one slot."""
    lab.services = Services(lab.services.settings.model_copy(update={"runs_at_once": 1}), accept_no_isolation=True)
    return lab


def test_who_waits_settles_a_run_whose_supervisor_was_killed_and_then_has_its_slot(narrow: Lab) -> None:
    tasks = [narrow.task(LONG), narrow.task(LONG)]
    first = narrow.reach(narrow.start(tasks[0]), "training")
    second = narrow.start(tasks[1])
    time.sleep(1)
    assert narrow.store.leased_units() == {"cpu:0": f"{tasks[0]}/{first.name}"}

    narrow.kill_supervisor(tasks[0], first.name)

    until(lambda: narrow.store.run(tasks[1], "run0").status == "training", 40)  # nobody polls: the waiting one looks
    assert narrow.store.run(tasks[0], "run0").status == "lost"
    assert narrow.store.leased_units() == {"cpu:0": f"{tasks[1]}/{second.name}"}
    runs.stop(narrow.services, tasks[1], "run0")
    narrow.end(second)
    for task in tasks:
        narrow.check(task)


def test_a_run_that_was_queued_when_its_supervisor_died_keeps_its_place_for_the_slot(narrow: Lab) -> None:
    tasks = [narrow.task(LONG), narrow.task(GOOD_TRAIN), narrow.task(GOOD_TRAIN)]
    first = narrow.reach(narrow.start(tasks[0]), "training")
    second, third = narrow.start(tasks[1]), narrow.start(tasks[2])
    until(lambda: narrow.supervisors(tasks[1], second.name), 10)
    narrow.kill_supervisor(tasks[1], second.name)

    runs.stop(narrow.services, tasks[0], first.name)

    ended = [narrow.end(run) for run in (first, third, second)]  # polls begin with the one that came last
    assert [run.status for run in ended] == ["stopped", "succeeded", "succeeded"]
    assert (ended[2].ended_at or "") <= (ended[1].started_at or "")
    for task in tasks:
        narrow.check(task)


def test_eight_tasks_that_start_at_once_train_one_at_a_time(narrow: Lab) -> None:
    tasks = [narrow.task(train_code("time.sleep(0.2)\nsession.checkpoint.write_text('weights')")) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        started = list(pool.map(narrow.start, tasks))

    ended = sorted((narrow.end(run, within_s=200) for run in started), key=lambda run: run.started_at or "")

    assert {run.status for run in ended} == {"succeeded"}
    assert all((one.ended_at or "") <= (after.started_at or "") for one, after in pairwise(ended))
    for task in tasks:
        narrow.check(task)
