"""Tasks in the store: a frozen contract, and one evaluation that opens the test set once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clinloop.errors import NotNow, Unknown
from clinloop.spec import PRESETS, TaskSpec
from clinloop.store.rows import RunRow, TaskRow
from clinloop.store.store import Store

NewTask = Callable[..., TaskRow]
Reserve = Callable[..., tuple[RunRow, bool]]
AcceptedRun = Callable[..., str]


@pytest.fixture
def evaluating(store: Store, new_task: NewTask, accepted_run: AcceptedRun) -> Store:
    """A store whose task t is being evaluated."""
    new_task()
    assert store.begin_evaluation("t", accepted_run())
    return store


def events(store: Store) -> list[str]:
    return [row.event for row in store.ledger("task:t") if row.resource is None]


def test_a_task_is_read_back_whole_by_another_process_s_store(store: Store, state: Path) -> None:
    spec = TaskSpec(objective="Tell melanoma from nevus.", target_classes=("MEL", "NV"), assumptions=("é\n",))

    created, is_new = store.create_task(
        task_id="t",
        dataset="skin",
        request="Please: \N{SNOWMAN}",
        spec=spec,
        template="classification",
        seed=7,
        settings={"image": "cpu"},
        init_key="k",
    )

    assert is_new
    assert Store(state).task("t") == created
    assert (created.spec, created.request, created.seed) == (spec, "Please: \N{SNOWMAN}", 7)
    assert (created.settings, created.status, created.final_run, created.result) == (
        {"image": "cpu"},
        "preparing",
        None,
        None,
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_task_is_granted_what_its_preset_says(name: str, store: Store, new_task: NewTask) -> None:
    new_task(budget=name)
    preset = PRESETS[name]
    assert store.balance("t") == {
        "run": preset.runs,
        "smoke": preset.smokes,
        "error_view": preset.error_views,
        "refund": 3,
    }
    assert store.ledger("task:t")[0].detail["budget"] == {"preset": name, **preset._asdict()}


def test_an_equal_init_key_returns_the_task_there_is(store: Store, new_task: NewTask) -> None:
    first = new_task()
    chain = store.ledger("task:t")

    assert new_task() == first

    assert store.tasks() == [first]
    assert store.ledger("task:t") == chain


def test_tasks_are_listed_newest_first_and_an_unknown_one_lists_them(store: Store, new_task: NewTask) -> None:
    for task_id in ("b", "a", "c"):
        new_task(task_id)
    assert [task.id for task in store.tasks()] == ["c", "a", "b"]
    with pytest.raises(Unknown, match=r"'nothing'; known: c, a, b\. Call init_task"):
        store.task("nothing")


def test_an_evaluation_is_refused_while_a_run_is_active(store: Store, new_task: NewTask, reserve: Reserve) -> None:
    new_task()
    reserve()

    with pytest.raises(NotNow, match=r"run0 is active.*read_validation.*mode='stop'"):
        store.begin_evaluation("t", "run0")

    assert store.task("t").status == "open"
    assert "evaluation_started" not in events(store)


def test_no_run_starts_once_an_evaluation_has_begun(evaluating: Store, reserve: Reserve) -> None:
    with pytest.raises(NotNow, match="evaluating"):
        reserve()
    assert evaluating.balance("t")["run"] == 7


def test_an_evaluation_begins_once(evaluating: Store) -> None:
    assert not evaluating.begin_evaluation("t", "run0")
    assert events(evaluating).count("evaluation_started") == 1
    task = evaluating.task("t")
    assert (task.status, task.phase, task.final_run) == ("evaluating", "queued", "run0")


def test_a_task_reopens_with_the_reason_and_can_be_evaluated_again(evaluating: Store, reserve: Reserve) -> None:
    evaluating.reopen_task("t", "predict.py is not reproducible")

    task = evaluating.task("t")
    assert (task.status, task.phase, task.final_run) == ("open", "predict.py is not reproducible", None)
    assert evaluating.ledger("task:t")[-1].detail == {"reason": "predict.py is not reproducible"}
    run, is_new = reserve()
    assert is_new
    evaluating.settle_run("t", run.name, "failed", end_reason="crash", message="")
    assert evaluating.begin_evaluation("t", "run0")


def test_a_task_never_reopens_after_its_test_set_was_unsealed(evaluating: Store) -> None:
    evaluating.unseal("t", {})
    evaluating.reopen_task("t", "second thoughts")
    assert evaluating.task("t").status == "unsealed"
    assert events(evaluating)[-1] == "unsealing"


def test_a_test_set_is_unsealed_once(evaluating: Store) -> None:
    evaluating.unseal("t", {"initial": "ab"})
    with pytest.raises(NotNow, match="once"):
        evaluating.unseal("t", {"initial": "cd"})
    assert [row.detail for row in evaluating.ledger("task:t") if row.event == "unsealing"] == [{"initial": "ab"}]
    assert evaluating.task("t").status == "unsealed"


def test_a_test_set_stays_closed_unless_an_evaluation_is_under_way(store: Store, new_task: NewTask) -> None:
    new_task()
    with pytest.raises(NotNow, match="not being evaluated"):
        store.unseal("t", {})
    assert "unsealing" not in events(store)
    assert store.task("t").status == "open"


def test_a_phase_is_shown_only_while_an_evaluation_runs(
    store: Store, new_task: NewTask, accepted_run: AcceptedRun
) -> None:
    new_task()
    store.set_phase("t", "too early")
    assert store.task("t").phase == ""
    store.begin_evaluation("t", accepted_run())
    store.set_phase("t", "scoring")
    assert store.task("t").phase == "scoring"


@pytest.mark.parametrize("status", ["evaluated", "invalid"])
def test_an_evaluation_ends_once_with_its_result(status: str, evaluating: Store) -> None:
    evaluating.unseal("t", {})
    evaluating.end_evaluation("t", status, {"outcome": "ok"}, {"report_sha256": "ab"})  # pyright: ignore
    ended = evaluating.task("t")
    assert (ended.status, ended.phase, ended.result) == (status, "", {"outcome": "ok"})
    assert ended.ended_at is not None

    evaluating.end_evaluation("t", "evaluated", {"outcome": "better"}, {})
    evaluating.set_phase("t", "again")
    evaluating.reopen_task("t", "again")

    assert evaluating.task("t") == ended
    assert events(evaluating)[-2:] == ["unsealing", status]
    assert not evaluating.begin_evaluation("t", "run0")
