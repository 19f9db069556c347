"""The ledger: what the database itself refuses, and what a recomputation finds."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from clinloop.errors import BudgetExceeded
from clinloop.store.ledger import GENESIS, row_hash
from clinloop.store.rows import TaskRow
from clinloop.store.store import Store

Connect = Callable[[], sqlite3.Connection]
NewTask = Callable[..., TaskRow]
COLUMNS = "scope, seq, at, event, resource, amount, run, detail, prev, hash, signature"

REWRITES = {
    "update": "UPDATE ledger SET amount = 99 WHERE event = 'granted' AND resource = 'run'",
    "update or replace": "UPDATE OR REPLACE ledger SET seq = 2 WHERE seq = 1",
    "update or ignore": "UPDATE OR IGNORE ledger SET amount = 99 WHERE seq = 1",
    "delete all": "DELETE FROM ledger",
    "delete the newest": "DELETE FROM ledger WHERE seq = (SELECT MAX(seq) FROM ledger)",
    "replace by key": f"INSERT OR REPLACE INTO ledger SELECT scope, seq, at, event, resource, 99, run, detail, prev, hash, signature FROM ledger WHERE seq = 1",  # noqa: F541
    "replace by rowid": f"INSERT OR REPLACE INTO ledger (rowid, {COLUMNS}) SELECT 2, scope, seq + 1, at, 'x', NULL, 0, run, detail, hash, 'y', signature FROM ledger"
    " ORDER BY seq DESC LIMIT 1",
    "upsert": f"INSERT INTO ledger SELECT * FROM ledger WHERE seq = 1 ON CONFLICT (scope, seq) DO UPDATE SET amount = 99",  # noqa: F541
}


def insert(connection: sqlite3.Connection, how: str = "INSERT", **changes: Any) -> None:
    """Insert the next entry of task t's chain as it should be, except for the changes."""
    seq, prev = connection.execute(
        "SELECT seq + 1, hash FROM ledger WHERE scope = 'task:t' ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    entry: dict[str, Any] = {
        "scope": "task:t",
        "seq": seq,
        "at": "2026-01-01T00:00:00.000+00:00",
        "event": "noted",
        "resource": None,
        "amount": 0,
        "run": None,
        "detail": "{}",
        "prev": prev,
        "hash": "f" * 64,
        "signature": "",
    }
    connection.execute(f"{how} INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", list((entry | changes).values()))


@pytest.mark.parametrize("statement", REWRITES.values(), ids=REWRITES.keys())
def test_an_entry_is_never_changed_or_removed_whoever_asks_the_database(
    statement: str, store: Store, new_task: NewTask, raw: Connect
) -> None:
    new_task()
    before = store.ledger("task:t")

    with closing(raw()) as connection, pytest.raises(sqlite3.Error):
        connection.execute(statement)

    assert store.ledger("task:t") == before


def test_the_database_takes_an_entry_that_continues_the_chain(store: Store, new_task: NewTask, raw: Connect) -> None:
    new_task()
    with closing(raw()) as connection:
        insert(connection)
    assert store.ledger("task:t")[-1].event == "noted"


@pytest.mark.parametrize(
    "how", ["INSERT", "INSERT OR REPLACE", "INSERT OR IGNORE", "INSERT OR FAIL", "INSERT OR ABORT"]
)
@pytest.mark.parametrize(
    ("changes", "because"),
    [
        ({"prev": "0" * 64}, "ledger chain broken"),
        ({"prev": ""}, "ledger chain broken"),
        ({"seq": 99}, "ledger chain broken"),
        ({"seq": 0, "prev": "0" * 64}, "ledger chain broken"),
        ({"seq": -1}, "ledger chain broken"),
        ({"scope": "task:other", "seq": 1}, "ledger chain broken"),
        ({"event": "reserved", "resource": "run", "amount": -9}, "budget exceeded"),
        ({"event": "error_view", "resource": "error_view", "amount": -5}, "budget exceeded"),
        ({"event": "unsealing"}, "test set already unsealed"),
    ],
)
def test_the_database_refuses_an_entry_that_breaks_a_rule(
    how: str, changes: dict[str, Any], because: str, store: Store, new_task: NewTask, raw: Connect
) -> None:
    new_task()
    store.begin_evaluation("t", "run0")
    store.unseal("t", {})
    before = store.ledger("task:t")

    with closing(raw()) as connection, pytest.raises(sqlite3.IntegrityError, match=because):
        insert(connection, how, **changes)

    assert store.ledger("task:t") == before


@pytest.mark.parametrize(
    "changes",
    [
        {"resource": "run"},
        {"amount": 5},
        {"resource": "gold", "amount": 1},
        {"amount": "much"},
        {"detail": None},
        {"hash": None},
    ],
)
def test_the_database_refuses_an_entry_that_is_malformed(
    changes: dict[str, Any], store: Store, new_task: NewTask, raw: Connect
) -> None:
    new_task()
    before = store.ledger("task:t")

    with closing(raw()) as connection, pytest.raises(sqlite3.IntegrityError):
        insert(connection, **changes)

    assert store.ledger("task:t") == before


def test_an_overdraft_in_the_middle_of_many_entries_leaves_none_of_them(
    store: Store, new_task: NewTask, raw: Connect
) -> None:
    new_task()
    before = store.ledger("task:t")

    with closing(raw()) as connection:
        connection.execute("BEGIN IMMEDIATE")
        insert(connection, resource="run", amount=-8, event="reserved")
        with pytest.raises(sqlite3.IntegrityError, match="budget exceeded"):
            insert(connection, resource="run", amount=-1, event="reserved")
        connection.execute("ROLLBACK")

    assert store.ledger("task:t") == before


def test_views_of_errors_end_with_the_last_one_granted(store: Store, new_task: NewTask) -> None:
    new_task()
    for n in range(4):
        store.spend_error_view("t", {"cases": [n]})

    with pytest.raises(BudgetExceeded):
        store.spend_error_view("t", {})

    assert store.balance("t") == {"run": 8, "smoke": 12, "error_view": 0, "refund": 3}


def test_a_chain_recomputes_with_another_implementation(
    store: Store, new_task: NewTask, broken_entries: Callable[..., list[int]]
) -> None:
    store.record(
        "dataset:skin", "committed", {"z": [1, -0.5, 1e-7, None, True], "a": {"é": "naïve \u2028 \U0001f600", "": ""}}
    )
    dataset_head = store.record("dataset:skin", "noted", {}, run=None)
    new_task()
    task_head = store.record("task:t", "noted", {"text": 'quote " backslash \\ newline \n null \x00'}, run="run0")

    assert broken_entries("dataset:skin") == []
    assert broken_entries("task:t", first_prev=dataset_head) == []
    assert store.head("dataset:skin") == dataset_head
    assert store.head("task:t") == store.ledger("task:t")[-1].hash == task_head


def test_a_task_s_chain_begins_at_the_head_of_its_dataset(store: Store, new_task: NewTask) -> None:
    head = store.record("dataset:skin", "committed", {"splits_sha256": "ab"})
    spec = new_task().spec
    store.record("dataset:skin", "noted", {})

    contract, *grants = store.ledger("task:t")

    assert contract.prev == head
    assert contract.detail["dataset_head"] == head
    assert contract.detail["spec_sha256"] == spec.sha256()
    assert {row.resource: row.amount for row in grants} == {"run": 8, "smoke": 12, "error_view": 4, "refund": 3}


def test_a_scope_without_entries_has_the_genesis_as_its_head(store: Store) -> None:
    assert store.head("dataset:nothing") == GENESIS == "0" * 64
    assert store.ledger("dataset:nothing") == []


@pytest.mark.parametrize(
    "edit",
    [
        "at = '2020-01-01T00:00:00.000+00:00'",
        "event = 'granted!'",
        "resource = 'run'",
        "amount = 99",
        "run = 'run9'",
        "detail = '{\"more\":1}'",
        f"prev = '{'1' * 64}'",
        f"hash = '{'1' * 64}'",
        "scope = 'task:other'",
        "seq = seq + 100",
    ],
)
def test_an_edit_by_somebody_who_drops_the_triggers_is_found_by_recomputing(
    edit: str, store: Store, new_task: NewTask, raw: Connect, broken_entries: Callable[..., list[int]]
) -> None:
    new_task()
    assert broken_entries("task:t") == []
    with closing(raw()) as connection:
        for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        assert connection.execute(f"UPDATE ledger SET {edit} WHERE scope = 'task:t' AND seq = 2").rowcount == 1

    assert broken_entries("task:t") != []
    product_agrees = all(
        row_hash(**{name: value for name, value in row._asdict().items() if name not in ("hash", "signature")})
        == row.hash
        for row in store.ledger("task:t")
    )
    links_agree = all(
        (row.seq, row.prev) == (place, prev.hash)
        for place, (prev, row) in enumerate(zip(store.ledger("task:t"), store.ledger("task:t")[1:], strict=False), 1)
    )
    assert not (product_agrees and links_agree)


def test_a_tail_that_is_cut_off_shows_against_a_head_noted_elsewhere(
    store: Store, new_task: NewTask, raw: Connect, broken_entries: Callable[..., list[int]]
) -> None:
    new_task()
    noted = store.record("task:t", "unwelcome", {})
    with closing(raw()) as connection:
        connection.execute("DROP TRIGGER ledger_no_delete")
        connection.execute("DELETE FROM ledger WHERE event = 'unwelcome'")

    assert broken_entries("task:t") == []
    assert noted not in {row.hash for row in store.ledger("task:t")}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_a_detail_that_is_no_json_is_refused_and_nothing_is_written(value: object, store: Store) -> None:
    with pytest.raises((ValueError, TypeError)):
        store.record("dataset:skin", "noted", {"value": value})
    assert store.ledger("dataset:skin") == []
