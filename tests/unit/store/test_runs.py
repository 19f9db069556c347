"""Runs in the store: reserved once, stopped on request, settled once, refunded at most three times."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clinloop.errors import BudgetExceeded, NotNow, Unknown
from clinloop.store.database import utc_now
from clinloop.store.rows import RunRow, TaskRow
from clinloop.store.store import Store

NewTask = Callable[..., TaskRow]
Reserve = Callable[..., tuple[RunRow, bool]]


def end(store: Store, name: str, status: str = "failed", task_id: str = "t") -> bool:
    return store.settle_run(task_id, name, status, end_reason="crash", message="It crashed.")  # pyright: ignore[reportArgumentType]


def test_a_reserved_run_is_queued_charged_and_in_the_chain(store: Store, new_task: NewTask, reserve: Reserve) -> None:
    new_task()

    run, is_new = reserve(
        request_id="q", revision="r3", tree_sha256="ab", hypothesis="larger images show pigment", inputs=["run0"]
    )

    assert is_new
    assert (run.name, run.number, run.mode, run.status, run.is_active) == ("run0", 0, "full", "queued", True)
    assert (run.revision, run.tree_sha256, run.inputs) == ("r3", "ab", ["run0"])
    assert (run.score, run.scores, run.decision, run.stop_requested, run.facts) == (None, None, "none", False, {})
    assert store.run("t", "run0") == run
    assert store.active_runs() == [run]
    entry = store.ledger("task:t")[-1]
    assert (entry.event, entry.resource, entry.amount, entry.run) == ("reserved", "run", -1, "run0")
    assert entry.detail == {
        "revision": "r3",
        "tree_sha256": "ab",
        "hypothesis": "larger images show pigment",
        "inputs": ["run0"],
    }


def test_full_runs_count_from_0_and_smoke_tests_from_1(store: Store, new_task: NewTask, reserve: Reserve) -> None:
    new_task()
    for mode in ("smoke", "full", "smoke", "full"):
        end(store, reserve(mode=mode)[0].name)

    assert [run.name for run in store.runs("t")] == ["smoke1", "run0", "smoke2", "run1"]
    assert store.balance("t") == {"run": 6, "smoke": 10, "error_view": 4, "refund": 3}


def test_a_request_id_is_answered_with_its_run_for_ever(store: Store, new_task: NewTask, reserve: Reserve) -> None:
    new_task()
    first, _ = reserve(request_id="q")
    assert reserve(request_id="q") == (first, False)
    end(store, "run0")

    again, is_new = reserve(request_id="q", tree_sha256="another")

    assert (again.name, again.status, is_new) == ("run0", "failed", False)
    assert store.balance("t")["run"] == 7


def test_the_same_request_id_in_two_tasks_is_two_runs(store: Store, new_task: NewTask, reserve: Reserve) -> None:
    new_task("a"), new_task("b")
    assert [reserve(task_id, request_id="q")[1] for task_id in ("a", "b")] == [True, True]


def test_the_same_tree_while_it_runs_is_the_same_run_uncharged(
    store: Store, new_task: NewTask, reserve: Reserve
) -> None:
    new_task()
    first, _ = reserve(tree_sha256="ab")

    assert reserve(tree_sha256="ab") == (first, False)

    assert store.balance("t")["run"] == 7
    end(store, "run0")
    assert reserve(tree_sha256="ab")[0].name == "run1"


@pytest.mark.parametrize("other", [{"tree_sha256": "cd"}, {"mode": "smoke"}, {"inputs": ["run0"]}])
def test_another_start_while_a_run_is_active_is_refused_with_what_to_do(
    other: dict[str, object], store: Store, new_task: NewTask, reserve: Reserve
) -> None:
    new_task()
    end(store, reserve()[0].name, "succeeded")
    reserve(tree_sha256="ab")

    with pytest.raises(NotNow, match=r"run1 .* queued.*read_validation.*run_training\(mode='stop', run='run1'\)"):
        reserve(**({"tree_sha256": "ab"} | other))

    assert store.balance("t")["run"] == 6
    assert store.balance("t")["smoke"] == 12


@pytest.mark.parametrize(("mode", "granted"), [("full", 8), ("smoke", 12)])
def test_a_start_after_the_last_unit_is_refused_before_anything_is_written(
    mode: str, granted: int, store: Store, new_task: NewTask, reserve: Reserve
) -> None:
    new_task()
    for _ in range(granted):
        end(store, reserve(mode=mode)[0].name)
    before = store.ledger("task:t")

    with pytest.raises(BudgetExceeded):
        reserve(mode=mode)

    assert store.ledger("task:t") == before
    assert len(store.runs("t")) == granted


def test_a_start_for_an_unknown_task_lists_the_known(new_task: NewTask, reserve: Reserve) -> None:
    new_task("known")
    with pytest.raises(Unknown, match="known: known"):
        reserve("nothing")


def test_a_start_before_the_task_is_open_is_refused(new_task: NewTask, reserve: Reserve) -> None:
    new_task(open_it=False)
    with pytest.raises(NotNow, match="preparing"):
        reserve()


def test_an_unknown_run_lists_the_known(store: Store, new_task: NewTask, reserve: Reserve) -> None:
    new_task()
    reserve()
    with pytest.raises(Unknown, match="known: run0"):
        store.run("t", "run7")


def test_a_run_advances_through_its_states_with_what_is_learned(
    store: Store, state: Path, new_task: NewTask, reserve: Reserve
) -> None:
    new_task()
    reserve()

    store.advance_run("t", "run0", "training", started_at="2026-01-01", deadline_unix=12.5, sandbox_ref="box")
    store.advance_run("t", "run0", "predicting", facts=json.dumps({"train_seconds": 3}))

    run = Store(state).run("t", "run0")
    assert (run.status, run.started_at, run.deadline_unix) == ("predicting", "2026-01-01", 12.5)
    assert (run.sandbox_ref, run.facts) == ("box", {"train_seconds": 3})


@pytest.mark.parametrize(("status", "columns"), [("succeeded", {}), ("training", {"score": 1.0}), ("queud", {})])
def test_a_run_cannot_advance_to_an_end_or_set_its_score(
    status: str, columns: dict[str, float], store: Store, new_task: NewTask, reserve: Reserve
) -> None:
    new_task()
    run, _ = reserve()
    with pytest.raises(ValueError, match="cannot set"):
        store.advance_run("t", "run0", status, **columns)
    assert store.run("t", "run0") == run


def test_a_stop_is_seen_by_every_process_and_charges_stay(
    store: Store, state: Path, new_task: NewTask, reserve: Reserve
) -> None:
    new_task()
    reserve()

    assert store.request_stop("t", "run0").stop_requested

    run = Store(state).run("t", "run0")
    assert (run.stop_requested, run.status, run.is_active) == (True, "queued", True)
    assert store.balance("t")["run"] == 7


def test_nothing_moves_a_run_that_has_ended(store: Store, new_task: NewTask, reserve: Reserve) -> None:
    new_task()
    reserve()
    assert end(store, "run0")
    ended, chain = store.run("t", "run0"), store.ledger("task:t")

    store.request_stop("t", "run0")
    store.advance_run("t", "run0", "training", facts='{"late":1}')
    assert not store.settle_run("t", "run0", "succeeded", end_reason="completed", message="", score=1.0)

    assert store.run("t", "run0") == ended
    assert store.ledger("task:t") == chain


def test_a_settled_run_holds_its_scores_and_the_chain_its_decision(
    store: Store, new_task: NewTask, reserve: Reserve
) -> None:
    new_task()
    reserve()

    assert store.settle_run(
        "t",
        "run0",
        "succeeded",
        end_reason="deadline",
        message="The baseline is accepted.",
        score=0.8125,
        scores={"metrics": {"macro_auc": 0.8125}},
        decision="accepted",
        reason="baseline",
        reason_text="The first run.",
        detail={"seconds": 24.0},
    )

    run = store.run("t", "run0")
    assert (run.status, run.is_active, run.score) == ("succeeded", False, 0.8125)
    assert run.scores == {"metrics": {"macro_auc": 0.8125}}
    assert (run.decision, run.reason, run.reason_text) == ("accepted", "baseline", "The first run.")
    assert run.ended_at is not None
    entry = store.ledger("task:t")[-1]
    assert (entry.event, entry.run) == ("settled", "run0")
    assert entry.detail == {
        "status": "succeeded",
        "end_reason": "deadline",
        "score": 0.8125,
        "decision": "accepted",
        "reason": "baseline",
        "seconds": 24.0,
    }
    assert store.balance("t")["run"] == 7


def test_a_score_that_is_no_number_settles_nothing(store: Store, new_task: NewTask, reserve: Reserve) -> None:
    new_task()
    run, _ = reserve()
    with pytest.raises(ValueError, match="JSON"):
        store.settle_run("t", "run0", "succeeded", end_reason="completed", message="", score=float("nan"))
    assert store.run("t", "run0") == run
    assert store.ledger("task:t")[-1].event == "reserved"


@pytest.mark.parametrize("status", ["failed", "stopped", "succeeded"])
def test_only_a_fault_of_the_server_is_refunded(status: str, store: Store, new_task: NewTask, reserve: Reserve) -> None:
    new_task()
    reserve()
    store.advance_run("t", "run0", "training", started_at=utc_now())
    end(store, "run0", status)
    assert store.balance("t") == {"run": 7, "smoke": 12, "error_view": 4, "refund": 3}


def test_a_run_that_was_stopped_before_it_started_is_given_back_and_uses_up_no_refund(
    store: Store, new_task: NewTask, reserve: Reserve
) -> None:
    new_task()
    for _ in range(5):
        end(store, reserve()[0].name, "stopped")
    assert store.balance("t") == {"run": 8, "smoke": 12, "error_view": 4, "refund": 3}
    assert [run.counts for run in store.runs("t")] == [False] * 5


def test_a_lost_run_is_refunded_three_times_and_then_never_again(
    store: Store, new_task: NewTask, reserve: Reserve
) -> None:
    new_task()
    left: list[int] = []
    for _ in range(5):
        end(store, reserve()[0].name, "lost")
        left.append(store.balance("t")["run"])

    assert left == [8, 8, 8, 7, 6]
    assert store.balance("t")["refund"] == 0
    assert [row.event for row in store.ledger("task:t")].count("refunded") == 3


def test_a_lost_smoke_test_gives_a_smoke_test_back(store: Store, new_task: NewTask, reserve: Reserve) -> None:
    new_task()
    end(store, reserve(mode="smoke")[0].name, "lost")
    assert store.balance("t") == {"run": 8, "smoke": 12, "error_view": 4, "refund": 2}


def test_the_baseline_is_the_first_accepted_run_and_the_incumbent_the_last(
    store: Store, new_task: NewTask, accepted_run: Callable[..., str], reserve: Reserve
) -> None:
    new_task()
    assert (store.baseline("t"), store.incumbent("t")) == (None, None)
    end(store, reserve()[0].name)
    accepted_run()
    accepted_run(decision="rejected")
    accepted_run()
    accepted_run(decision="rejected")

    assert [run.name for run in (store.baseline("t"), store.incumbent("t")) if run] == ["run1", "run3"]


def test_runs_keep_their_order_when_the_clock_is_set_back(
    store: Store, new_task: NewTask, accepted_run: Callable[..., str], raw: Callable[..., object]
) -> None:
    new_task()
    accepted_run(), accepted_run()
    connection = raw()
    connection.execute("UPDATE run SET created_at = '1999-01-01T00:00:00.000+00:00' WHERE name = 'run1'")  # pyright: ignore
    connection.close()  # pyright: ignore

    assert [run.name for run in store.runs("t")] == ["run0", "run1"]
    incumbent = store.incumbent("t")
    assert incumbent is not None and incumbent.name == "run1"


def test_the_active_runs_of_all_tasks_are_found(store: Store, new_task: NewTask, reserve: Reserve) -> None:
    for task_id in ("a", "b", "c"):
        new_task(task_id)
        reserve(task_id)
    end(store, "run0", task_id="b")
    assert [(run.task_id, run.name) for run in store.active_runs()] == [("a", "run0"), ("c", "run0")]


def test_a_start_that_has_a_name_of_its_own_never_joins_another_run(new_task: NewTask, reserve: Reserve) -> None:
    new_task()
    first, _ = reserve(request_id="mine", tree_sha256="ab")
    assert reserve(request_id="nameless", tree_sha256="ab")[0] == first
    with pytest.raises(NotNow, match="run0"):
        reserve(request_id="yours", tree_sha256="ab", joins=False)
    assert reserve(request_id="mine", tree_sha256="ab", joins=False) == (first, False)
