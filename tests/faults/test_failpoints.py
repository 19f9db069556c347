"""SIGKILL at every failpoint of a task and of a run, of supervisor, server or both; a fresh server goes on, and nothing is lost or done twice."""

from __future__ import annotations

import pytest

from clinloop.failpoints import NAMES, UNCOMMITTED
from clinloop.workspace import Workspace

from . import victim
from .killing import GOES_ON, PREDICT, TRAIN, dying, failpoints, fresh, one_after_the_other, victims
from .lab import Lab, until

INIT = failpoints("task:")
RUN = failpoints("run:", "queue:", "predict:")
LOSES = (f"run:predicting{UNCOMMITTED}", "run:training")
"""Where the death of the supervisor loses the run: its training has begun, its end is not recorded, and its sandbox is gone."""


def test_the_cases_below_are_all_failpoints() -> None:
    # test_unsealing.py, test_failpoints_of_finalize.py, test_clinician.py, test_cleanup.py
    others = ("unseal:", "finalize:", "clinician:", "clean:")
    assert sorted([*INIT, *RUN, *failpoints(*others)]) == sorted(NAMES)


def loses(lab: Lab) -> tuple[str, ...]:
    """Return the failpoints at which the death of the supervisor loses the run; a container that trains outlives it."""
    return LOSES[:1] if lab.services.settings.sandbox == "docker" else LOSES


@pytest.mark.parametrize("name", INIT)
def test_a_task_whose_server_is_killed_while_it_makes_it_is_made_by_the_same_call(lab: Lab, name: str) -> None:
    with victims(lab, "init", "run0", ("", name)) as (server,):
        assert server.process.wait(timeout=60) == -9

    task = victim.init(fresh(lab).services)

    assert victim.init(lab.services) == task
    assert [found.id for found in lab.store.tasks()] == [task]
    assert lab.store.task(task).status == "open"
    folder = lab.services.state.task(task)
    assert [revision.name for revision in Workspace(folder.workspace, folder.revisions).log()] == ["r1"]
    assert [event for event in lab.events(task) if event != "guarantee"] == ["contract"] + ["granted"] * 4
    lab.check(task)


@pytest.mark.parametrize("name", RUN)
def test_a_run_that_is_killed_at_a_failpoint_has_one_end_and_is_charged_once(lab: Lab, name: str) -> None:
    the_run_ends_once(lab, name)


@pytest.mark.sandbox
@pytest.mark.parametrize("name", ["run:training", f"run:training{UNCOMMITTED}", "predict:started"])
def test_a_run_in_bubblewrap_that_is_killed_at_a_failpoint_has_one_end_and_is_charged_once(
    strict_lab: Lab, name: str
) -> None:
    the_run_ends_once(strict_lab, name)


@pytest.mark.sandbox
@pytest.mark.docker
@pytest.mark.parametrize(
    "name",
    [f"run:training{UNCOMMITTED}", "run:training", f"run:predicting{UNCOMMITTED}", "predict:started", "run:scoring"],
)
def test_a_run_in_docker_that_is_killed_at_a_failpoint_has_one_end_and_is_charged_once(
    docker_lab: Lab, name: str
) -> None:
    the_run_ends_once(docker_lab, name)


def the_run_ends_once(lab: Lab, name: str) -> None:
    deaths = [(lab.task(TRAIN, PREDICT), death) for death in dying(name)]
    with victims(lab, "full", "run0", *deaths) as servers:
        for server in servers:
            server.await_kill()
        if name == f"run:reserved{UNCOMMITTED}":
            assert lab.store.runs(servers[0].task) == []  # nothing was charged: the agent starts it again
            assert lab.charged(servers[0].task) == 0
            lab.start(servers[0].task)
        another = fresh(lab)
        for task, death in deaths:
            run = another.end(another.store.run(task, "run0"))
            is_lost = name in loses(lab) and "server" not in death
            assert run.status == ("lost" if is_lost else "succeeded"), (death, run)
            assert is_lost or (run.decision, run.score) == ("accepted", 0.5), run
            assert lab.charged(task) == (0 if is_lost else 1), death
            until(lambda task=task: not lab.supervisors(task, "run0"), 10)
        for task, _ in deaths:
            lab.check(task)


@pytest.mark.parametrize(
    "backend",
    ["lab", pytest.param("docker_lab", marks=[pytest.mark.sandbox, pytest.mark.docker])],
    ids=["plain", "docker"],
)
def test_a_run_whose_server_and_supervisor_die_at_one_failpoint_after_the_other_ends_and_is_charged_once(
    request: pytest.FixtureRequest, backend: str
) -> None:
    lab: Lab = request.getfixturevalue(backend)
    task = lab.task(TRAIN, PREDICT)
    one_after_the_other(lab, "full", task, [name for name in RUN if name not in (*loses(lab), *GOES_ON)])

    assert lab.end(lab.store.run(task, "run0")).status == "succeeded"
    events = lab.events(task, "run0")
    assert [event for event in events if event != "resumed"] == ["reserved", "settled"]
    assert events.count("resumed") == (backend == "docker_lab")  # in a container it trained on without a supervisor
    assert lab.charged(task) == 1
    lab.check(task)
