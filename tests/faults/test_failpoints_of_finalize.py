"""SIGKILL at every failpoint of an evaluation, of supervisor, server or both; a fresh server goes on, and the test set is touched once or that shows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest

from clinloop import runs
from clinloop.failpoints import UNCOMMITTED
from clinloop.services import Services
from clinloop.settings import load_settings

from .conftest import SMALL, end_supervisors
from .killing import GOES_ON, PREDICT, TRAIN, WHO, dying, failpoints, fresh, one_after_the_other, victims
from .lab import Lab, predict_code, until

OTHER_ENDS = failpoints("finalize:reopened", "finalize:invalid")
FINALIZE = failpoints("finalize:", without=("finalize:reopened", "finalize:invalid", "finalize:awaiting_unseal"))
WHILE_OPEN = FINALIZE[FINALIZE.index("finalize:unsealing") : FINALIZE.index("finalize:evaluated")]
"""Where the death of the supervisor is a touch of the test set that the record must show."""
ONCE = ("evaluation_started", "unsealing", "scored", "evaluated")
"""Events that a task that was evaluated has once."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, ingested: Path) -> Path:
    """A state folder with three tasks whose baseline is accepted, to be copied."""
    state = Path(shutil.copytree(ingested, tmp_path_factory.mktemp("trained") / "state"))
    lab = Lab(Services(load_settings(state, sandbox="none", limits=SMALL, runs_at_once=8), accept_no_isolation=True))
    for _ in WHO:
        assert lab.full(lab.task(TRAIN, PREDICT)).status == "succeeded"
    end_supervisors(state)
    return state


@pytest.fixture
def trained_lab(trained: Path, tmp_path: Path) -> Generator[Lab]:
    """A lab with three tasks that can be finalized."""
    state = Path(shutil.copytree(trained, tmp_path / "state"))
    yield Lab(Services(load_settings(state, sandbox="none", limits=SMALL, runs_at_once=8), accept_no_isolation=True))
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
