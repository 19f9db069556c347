"""SIGKILL at any moment, a full disk, an exception: the store is as before the transaction or as after it."""

from __future__ import annotations

import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from clinloop.store.database import Database
from clinloop.store.rows import RunRow, TaskRow
from clinloop.store.store import Store

DOOMED = Path(__file__).with_name("doomed.py")
NewTask = Callable[..., TaskRow]
Reserve = Callable[..., tuple[RunRow, bool]]


def test_a_process_killed_inside_a_transaction_leaves_nothing_of_it(
    store: Store, state: Path, new_task: NewTask, reserve: Reserve
) -> None:
    new_task()
    before = store.ledger("task:t")

    killed = subprocess.run([sys.executable, str(DOOMED), str(state), "inside"], timeout=60, check=False)

    assert killed.returncode == -signal.SIGKILL
    assert store.ledger("task:t") == before
    assert store.runs("t") == []
    assert reserve()[0].name == "run0"  # the write lock went with the process


def test_processes_killed_at_any_moment_leave_runs_and_ledger_in_step(
    state: Path, raw: Callable[[], sqlite3.Connection], broken_entries: Callable[..., list[int]]
) -> None:
    moments = random.Random(5)
    for _ in range(6):
        command = [sys.executable, str(DOOMED), str(state), "endless"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            time.sleep(moments.uniform(0.0, 0.15))  # the moment of the kill is what is tested
            process.kill()

    store = Store(state)
    charged_but_unsettled = 0
    for task in store.tasks():
        chain = store.ledger(f"task:{task.id}")
        assert broken_entries(f"task:{task.id}") == []
        assert [row.event for row in chain[:5]] == ["contract"] + ["granted"] * 4
        runs = store.runs(task.id)
        assert [run.name for run in runs] == [row.run for row in chain if row.event == "reserved"]
        ended = [run.name for run in runs if not run.is_active]
        assert ended == [row.run for row in chain if row.event == "settled"]
        refunds = [row.run for row in chain if row.event == "refunded"]
        assert refunds == [row.run for row in chain if row.event == "refund_used"] == ended[:3]
        assert store.balance(task.id)["run"] == 4 - len(runs) + len(refunds)
        charged_but_unsettled += len(runs) - len(ended)
    assert store.tasks() != []
    assert charged_but_unsettled == len(store.active_runs())
    with closing(raw()) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_an_exception_inside_a_transaction_rolls_it_back(state: Path, store: Store) -> None:
    with pytest.raises(KeyError), Database(state).transaction() as connection:
        connection.execute("INSERT INTO migration VALUES ('m999', 'now')")
        raise KeyError
    with Database(state).connect() as connection:
        assert [row["name"] for row in connection.execute("SELECT name FROM migration")] == [
            "m001_schema",
            "m002_people",
            "m003_queue",
        ]
    store.record("dataset:skin", "noted", {})


def test_a_full_disk_is_reported_as_such_and_leaves_the_store_whole(state: Path, store: Store) -> None:
    store.record("dataset:skin", "noted", {})
    before = store.ledger("dataset:skin")

    full = subprocess.run(
        [sys.executable, str(DOOMED), str(state), "full"], capture_output=True, text=True, timeout=60, check=True
    )

    assert re.fullmatch(
        r"NotNow The server's store cannot be used \((database or disk is full|disk I/O error)\).*\n", full.stdout
    )
    assert store.ledger("dataset:skin") == before
    store.record("dataset:skin", "noted", {})


def test_an_error_after_which_sqlite_has_rolled_back_keeps_its_name(state: Path, store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="gone"), Database(state).transaction() as connection:
        connection.execute("INSERT INTO migration VALUES ('m998', 'now')")
        connection.execute(
            "CREATE TEMP TRIGGER gone BEFORE INSERT ON migration BEGIN SELECT RAISE(ROLLBACK, 'gone'); END"
        )
        connection.execute("INSERT INTO migration VALUES ('m999', 'now')")
    with Database(state).connect() as connection:
        assert [row["name"] for row in connection.execute("SELECT name FROM migration")] == [
            "m001_schema",
            "m002_people",
            "m003_queue",
        ]


def test_opening_a_store_again_changes_nothing(state: Path, store: Store, new_task: NewTask) -> None:
    task = new_task()
    chain = store.ledger("task:t")
    again = Store(state)
    assert again.task("t") == task
    assert again.ledger("task:t") == chain


def test_the_state_folder_is_made_for_its_owner_alone(state: Path, store: Store) -> None:
    assert state.stat().st_mode & 0o777 == 0o700
