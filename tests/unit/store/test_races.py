"""Many processes on one state folder: the budget holds, and what may happen once happens once."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest

from clinloop.spec import PRESETS
from clinloop.store.rows import RunRow, TaskRow
from clinloop.store.store import Store

Crowd = Callable[..., list[list[str]]]
NewTask = Callable[..., TaskRow]
Reserve = Callable[..., tuple[RunRow, bool]]
ROUNDS = 6


@pytest.mark.parametrize(
    ("action", "resource", "granted"),
    [
        ("spend_run", "run", PRESETS["paper"].runs),
        ("spend_error_view", "error_view", PRESETS["paper"].error_views),
    ],
)
def test_of_160_tries_by_8_processes_exactly_the_granted_number_succeeds(
    action: str, resource: str, granted: int, store: Store, new_task: NewTask, crowd: Crowd
) -> None:
    new_task(budget="paper")

    outcomes = Counter(outcome for process in crowd(action, tries=20) for outcome in process)

    assert outcomes.pop("BudgetExceeded") == 160 - granted
    assert sum(outcomes.values()) == granted
    balances = list(accumulate(row.amount for row in store.ledger("task:t") if row.resource == resource))
    assert balances == list(range(granted, -1, -1))
    assert store.balance("t")[resource] == 0


def test_each_unit_of_budget_is_spent_on_a_run_of_its_own(store: Store, new_task: NewTask, crowd: Crowd) -> None:
    new_task()

    names = [outcome for process in crowd("spend_run", tries=2) for outcome in process if outcome != "BudgetExceeded"]

    assert sorted(names) == [f"run{n}" for n in range(8)]
    assert [run.name for run in store.runs("t")] == [f"run{n}" for n in range(8)]


def test_starts_of_different_trees_at_once_leave_one_active_run_and_one_charge(
    store: Store, new_task: NewTask, crowd: Crowd
) -> None:
    for n in range(ROUNDS):
        new_task(f"t{n}")

    seen = crowd("start_other_tree", tries=ROUNDS)

    for n in range(ROUNDS):
        assert Counter(process[n] for process in seen) == {"run0 new": 1, "NotNow": 7}
        assert [(run.name, run.is_active) for run in store.runs(f"t{n}")] == [("run0", True)]
        assert store.balance(f"t{n}")["run"] == 7


@pytest.mark.parametrize("action", ["start_same_request", "start_same_tree"])
def test_the_same_start_at_once_is_one_run_that_is_charged_once(
    action: str, store: Store, new_task: NewTask, crowd: Crowd
) -> None:
    for n in range(ROUNDS):
        new_task(f"t{n}")

    seen = crowd(action, tries=ROUNDS)

    for n in range(ROUNDS):
        assert Counter(process[n] for process in seen) == {"run0 new": 1, "run0 old": 7}
        assert store.balance(f"t{n}")["run"] == 7


def test_of_8_settlers_one_settles_and_one_refund_is_paid(
    store: Store, new_task: NewTask, reserve: Reserve, crowd: Crowd
) -> None:
    for n in range(ROUNDS):
        new_task(f"t{n}")
        reserve(f"t{n}")

    seen = crowd("settle_lost", tries=ROUNDS)

    for n in range(ROUNDS):
        assert Counter(process[n] for process in seen) == {"True": 1, "False": 7}
        events = [row.event for row in store.ledger(f"task:t{n}")]
        assert events[events.index("reserved") :] == ["reserved", "settled", "refund_used", "refunded"]
        assert store.balance(f"t{n}") == {"run": 8, "smoke": 12, "error_view": 4, "refund": 2}


def test_the_same_contract_at_once_is_one_task_with_one_grant(store: Store, crowd: Crowd) -> None:
    seen = crowd("create_task", tries=ROUNDS)

    assert len(store.tasks()) == ROUNDS
    for n in range(ROUNDS):
        outcomes = Counter(process[n] for process in seen)
        winner = next(outcome.split()[0] for outcome in outcomes if outcome.endswith(" new"))
        assert outcomes == {f"{winner} new": 1, f"{winner} old": 7}
        assert store.balance(winner)["run"] == PRESETS["quick"].runs
        losers = [f"t{n}-{process}" for process in range(8) if f"t{n}-{process}" != winner]
        assert all(store.ledger(f"task:{loser}") == [] for loser in losers)


def test_of_8_callers_one_begins_the_evaluation(
    store: Store, new_task: NewTask, accepted_run: Callable[..., str], crowd: Crowd
) -> None:
    for n in range(ROUNDS):
        new_task(f"t{n}")
        accepted_run(f"t{n}")

    seen = crowd("begin_evaluation", tries=ROUNDS)

    for n in range(ROUNDS):
        assert Counter(process[n] for process in seen) == {"True": 1, "False": 7}
        assert [row.event for row in store.ledger(f"task:t{n}")].count("evaluation_started") == 1


def test_of_8_evaluators_one_unseals_the_test_set(
    store: Store, new_task: NewTask, accepted_run: Callable[..., str], crowd: Crowd
) -> None:
    for n in range(ROUNDS):
        new_task(f"t{n}")
        store.begin_evaluation(f"t{n}", accepted_run(f"t{n}"))

    seen = crowd("unseal", tries=ROUNDS)

    for n in range(ROUNDS):
        assert Counter(process[n] for process in seen) == {"unsealed": 1, "NotNow": 7}
        assert [row.event for row in store.ledger(f"task:t{n}")].count("unsealing") == 1


def test_one_chain_written_by_8_processes_is_whole(
    store: Store, crowd: Crowd, broken_entries: Callable[..., list[int]]
) -> None:
    seen = crowd("record", tries=10)

    rows = store.ledger("dataset:skin")
    assert sorted(row.hash for row in rows) == sorted(head for process in seen for head in process)
    assert broken_entries("dataset:skin") == []


def test_8_processes_open_a_new_store_at_once_and_migrate_it_once(state: Path, crowd: Crowd) -> None:
    rounds = 12

    seen = crowd("open_new_store", tries=rounds)

    assert {head for process in seen for head in process} == {"0" * 64}
    for n in range(rounds):
        connection = sqlite3.connect(state / f"new-{n}" / "clinloop.sqlite")
        assert connection.execute("SELECT name FROM migration").fetchall() == [
            ("m001_schema",),
            ("m002_people",),
            ("m003_queue",),
        ]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
