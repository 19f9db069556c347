"""The line for GPUs and their leases: one holder a device, order of arrival, free with the end of the run."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable

import pytest

from clinloop.store.queue import FINALIZE, Place
from clinloop.store.rows import RunRow, TaskRow
from clinloop.store.store import Store

NewTask = Callable[..., TaskRow]
Reserve = Callable[..., tuple[RunRow, bool]]
BOTH = ("GPU-a", "GPU-b")


@pytest.fixture
def line(store: Store, new_task: NewTask, reserve: Reserve) -> Callable[..., None]:
    """Queue one run per task, t0 t1 …, that wants so many GPUs."""

    def make(*wanted: int) -> None:
        for n, number in enumerate(wanted):
            new_task(f"t{n}")
            reserve(f"t{n}", gpus=number)

    return make


def end(store: Store, task_id: str, status: str = "failed") -> None:
    store.settle_run(task_id, "run0", status, end_reason="crash", message="")  # pyright: ignore[reportArgumentType]


def test_8_processes_that_race_for_two_gpus_never_share_one(
    store: Store, new_task: NewTask, crowd: Callable[..., list[list[str]]]
) -> None:
    for process in range(8):
        new_task(f"t{process}")

    seen = crowd("use_a_gpu", tries=6)

    used = Counter(uuid for process in seen for uuid in process)
    assert set(used) == set(BOTH) and used.total() == 48
    assert store.leased_units() == {}


def test_the_database_itself_refuses_a_second_holder_of_a_gpu(
    store: Store, line: Callable[..., None], raw: Callable[[], sqlite3.Connection]
) -> None:
    line(1, 1)
    assert store.lease_units("t0", "run0", BOTH) == ("GPU-a",)
    with raw() as connection, pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        connection.execute("INSERT INTO lease VALUES ('GPU-a', 'gpu', 't1', 'run0', 'now', NULL)")
    connection.close()


def test_a_run_without_gpus_stands_in_another_line(store: Store, line: Callable[..., None]) -> None:
    line(0, 1)
    assert store.place("t0", "run0") == Place("cpu", 1, (), 0, "")
    assert store.place("t1", "run0") == Place("gpu", 1, (), 0, "")


def test_all_that_are_wanted_are_leased_at_once_or_none(store: Store, line: Callable[..., None]) -> None:
    line(2)
    assert store.lease_units("t0", "run0", ["GPU-a"]) == ()
    assert store.leased_units() == {}
    assert store.lease_units("t0", "run0", BOTH) == BOTH
    assert store.lease_units("t0", "run0", []) == BOTH  # asked again, as by the next supervisor


def test_the_line_moves_in_order_of_arrival_even_past_a_free_gpu(store: Store, line: Callable[..., None]) -> None:
    line(1, 2, 1, 1)
    assert store.lease_units("t0", "run0", BOTH) == ("GPU-a",)
    assert [store.place(f"t{n}", "run0").ahead for n in range(1, 4)] == [0, 1, 2]  # type: ignore[union-attr]
    assert store.lease_units("t2", "run0", BOTH) == ()  # although GPU-b is free: t1, which wants two, came first
    end(store, "t0")
    assert store.lease_units("t3", "run0", BOTH) == ()
    assert store.lease_units("t1", "run0", BOTH) == BOTH
    end(store, "t1")
    assert store.lease_units("t2", "run0", BOTH) == ("GPU-a",)
    assert store.lease_units("t3", "run0", BOTH) == ("GPU-b",)


@pytest.mark.parametrize("status", ["succeeded", "failed", "stopped", "lost"])
def test_with_the_end_of_a_run_its_gpus_and_its_place_are_free(
    status: str, store: Store, line: Callable[..., None]
) -> None:
    line(2, 2)
    store.lease_units("t0", "run0", BOTH)
    end(store, "t0", status)
    assert store.leased_units() == {}
    assert store.lease_units("t1", "run0", BOTH) == BOTH
    assert store.lease_units("t0", "run0", BOTH) == ()


def test_a_run_that_ends_while_it_waits_blocks_nobody(store: Store, line: Callable[..., None]) -> None:
    line(2, 1)
    end(store, "t0", "stopped")
    assert store.lease_units("t1", "run0", BOTH) == ("GPU-a",)


def test_gpus_of_an_evaluation_are_free_when_it_ends_or_is_given_back(
    store: Store, new_task: NewTask, accepted_run: Callable[..., str], line: Callable[..., None]
) -> None:
    line(1)
    for task_id in ("e1", "e2"):
        new_task(task_id)
        store.begin_evaluation(task_id, accepted_run(task_id))
        store.claim_units(task_id, FINALIZE, "gpu", 1)
        store.claim_units(task_id, FINALIZE, "gpu", 1)  # again, as after an interruption
    assert store.lease_units("t0", "run0", BOTH) and store.lease_units("e1", FINALIZE, BOTH) == ("GPU-b",)
    store.reopen_task("e1", "not reproducible")
    assert store.lease_units("e2", FINALIZE, BOTH) == ("GPU-b",)
    store.unseal("e2", {})
    assert "GPU-b" in store.leased_units()
    store.end_evaluation("e2", "evaluated", {}, {})
    assert store.leased_units() == {"GPU-a": "t0/run0"}
