"""SIGKILL at every failpoint, of the supervisor, of the server and of both; a fresh server goes on, and nothing is lost or done twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest

from clinloop import runs
from clinloop.failpoints import NAMES, UNCOMMITTED
from clinloop.services import Services
from clinloop.settings import load_settings
from clinloop.workspace import Workspace

from . import victim
from .conftest import SMALL, end_supervisors
from .killing import IN_SERVER, WHO, failpoints, victims
from .lab import Lab, predict_code, train_code, until

DAEMON = "import os\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n"
TRAIN = train_code(DAEMON + "time.sleep(0.3)\nsession.checkpoint.write_text('weights')")
PREDICT = predict_code(DAEMON + "time.sleep(0.1)")
INIT = failpoints("task:")
RUN = failpoints("run:", "predict:")
FINALIZE = failpoints("finalize:", without=("finalize:reopened", "finalize:invalid"))
OTHER_ENDS = failpoints("finalize:reopened", "finalize:invalid")
LOSES = (f"run:predicting{UNCOMMITTED}", "run:training")
"""Where the death of the supervisor loses the run: its training has begun, its end is not recorded, and its sandbox is gone."""
WHILE_OPEN = FINALIZE[FINALIZE.index("finalize:unsealing") : FINALIZE.index("finalize:evaluated")]
"""Where the death of the supervisor is a touch of the test set that the record must show."""
ONCE = ("evaluation_started", "unsealing", "scored", "evaluated")
"""Events that a task that was evaluated has once."""
GOES_ON = ("run:launched", "finalize:launched")
"""Where a supervisor lives already whom nobody kills."""


def test_the_cases_below_are_all_failpoints() -> None:
    assert sorted([*INIT, *RUN, *FINALIZE, *OTHER_ENDS, *failpoints("gpu:")]) == sorted(
        NAMES
    )  # "gpu:" is in test_gpus.py


def fresh(lab: Lab) -> Lab:
    """Return the lab as another server sees it, which has recovered what it found at its start."""
    another = Lab(Services(lab.services.settings, lab.services.accept_no_isolation))
    runs.recover(another.services)
    return another


def loses(lab: Lab) -> tuple[str, ...]:
    """Return the failpoints at which the death of the supervisor loses the run; a container that trains outlives it."""
    return LOSES[:1] if lab.services.settings.sandbox == "docker" else LOSES


def dying(name: str, nth: int = 1) -> list[str]:
    """Return the failpoint with each of those who may die there, when it is reached for the nth time."""
    return [name] if name.startswith(IN_SERVER) else [f"{name},{who},{nth}" for who in WHO]


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
    assert lab.events(task) == ["contract"] + ["granted"] * 4
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, ingested: Path) -> Path:
    """A state folder with three tasks whose baseline is accepted, to be copied."""
    state = Path(shutil.copytree(ingested, tmp_path_factory.mktemp("trained") / "state"))
    lab = Lab(Services(load_settings(state, sandbox="none", limits=SMALL), accept_no_isolation=True))
    for _ in WHO:
        assert lab.full(lab.task(TRAIN, PREDICT)).status == "succeeded"
    end_supervisors(state)
    return state


@pytest.fixture
def trained_lab(trained: Path, tmp_path: Path) -> Generator[Lab]:
    """A lab with three tasks that can be finalized."""
    state = Path(shutil.copytree(trained, tmp_path / "state"))
    yield Lab(Services(load_settings(state, sandbox="none", limits=SMALL), accept_no_isolation=True))
    end_supervisors(state)


@pytest.mark.parametrize("name", FINALIZE)
def test_an_evaluation_that_is_killed_at_a_failpoint_touches_the_test_set_once_and_ends(
    trained_lab: Lab, name: str
) -> None:
    the_evaluation_ends_once(trained_lab, name)


@pytest.mark.parametrize("nth", [1, 4], ids=["rehearsing", "predicting"])
@pytest.mark.parametrize(
    "backend",
    [
        "trained_lab",
        pytest.param("strict_lab", marks=pytest.mark.sandbox),
        pytest.param("docker_lab", marks=[pytest.mark.sandbox, pytest.mark.docker]),
    ],
    ids=["plain", "bubblewrap", "docker"],
)
def test_an_evaluation_that_is_killed_while_a_model_predicts_touches_the_test_set_once_and_ends(
    request: pytest.FixtureRequest, backend: str, nth: int
) -> None:
    lab: Lab = request.getfixturevalue(backend)
    if not lab.store.tasks():
        for run in [lab.start(lab.task(TRAIN, PREDICT)) for _ in WHO]:
            lab.end(run)
    the_evaluation_ends_once(lab, "predict:started", nth)


def the_evaluation_ends_once(lab: Lab, name: str, nth: int = 1) -> None:
    tasks = [task.id for task in lab.store.tasks()]
    deaths = list(zip(tasks, dying(name, nth), strict=False))
    with victims(lab, "finalize", "finalize", *deaths) as servers:
        for server in servers:
            server.await_kill()
        if name == f"finalize:started{UNCOMMITTED}":
            assert lab.store.task(tasks[0]).status == "open"
            lab.finalize(tasks[0])
        another = fresh(lab)
        for task, death in deaths:
            assert another.evaluated(task).status == "evaluated", death
            until(
                lambda task=task: not runs.recover(another.services, task) and not lab.supervisors(task, "finalize"),
                30,
            )
        for task, death in deaths:
            events = lab.events(task)
            assert [events.count(event) for event in ONCE] == [1] * len(ONCE)
            is_touched_again = "server" not in death and (name in WHILE_OPEN or nth > 2)
            assert events.count("evaluation_resumed") == is_touched_again, (death, events)
            report = json.loads((lab.services.state.task(task).report / "report.json").read_text(encoding="utf-8"))
            assert ("resumed" in report["integrity"]["touched"]) is is_touched_again
            assert lab.charged(task) == 1
            lab.check(task)


@pytest.mark.parametrize("name", OTHER_ENDS)
def test_an_evaluation_that_fails_and_is_killed_as_it_says_so_says_so_once(lab: Lab, name: str) -> None:
    n_val = len(list((lab.services.state.task(lab.task()).data / "view" / "images").iterdir()))
    fails = (
        "len(cases) > " + str(n_val)
        if name.startswith("finalize:invalid")
        else "'runs' not in str(args.checkpoint.resolve())"
    )
    deaths = [
        (lab.task(TRAIN, predict_code(f"if {fails}: raise ValueError('not with me')")), death) for death in dying(name)
    ]
    for task, _ in deaths:
        assert lab.full(task).status == "succeeded"
    end, event = ("invalid", "invalid") if name.startswith("finalize:invalid") else ("open", "rehearsal_failed")
    with victims(lab, "finalize", "finalize", *deaths) as servers:
        for server in servers:
            server.await_kill()
        another = fresh(lab)
        for task, death in deaths:
            assert another.evaluated(task).status == end, death
            until(lambda task=task: not lab.supervisors(task, "finalize"), 30)
            assert lab.events(task).count(event) == 1
            assert lab.events(task).count("unsealing") == (end == "invalid")
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


def test_an_evaluation_whose_server_and_supervisor_die_at_one_failpoint_after_the_other_ends_once(
    trained_lab: Lab,
) -> None:
    lab, task = trained_lab, trained_lab.store.tasks()[0].id
    one_after_the_other(lab, "finalize", task, [name for name in FINALIZE if name not in ("finalize:opened", *GOES_ON)])

    assert lab.evaluated(task).status == "evaluated"
    until(lambda: not runs.recover(lab.services, task) and not lab.supervisors(task, "finalize"), 30)
    events = lab.events(task)
    assert [events.count(event) for event in ONCE] == [1] * len(ONCE)
    assert events.count("evaluation_resumed") == len(WHILE_OPEN) - 1  # every touch is in the record
    lab.check(task)


def one_after_the_other(lab: Lab, what: str, task: str, names: list[str]) -> None:
    """Let a server and its supervisor die at each failpoint in turn, each time with a fresh server that goes on."""
    for name in names:
        is_recorded = lab.store.runs(task) if what == "full" else lab.store.task(task).status != "open"
        carried = "finalize" if what == "finalize" else "run0"
        with victims(lab, "recover" if is_recorded else what, carried, (task, f"{name},both")) as (server,):
            server.await_kill()
