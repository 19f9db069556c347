"""The line for CPU slots in the store: as many at once as there are slots, a fair share between owners, and what an older store brings along."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from clinloop.spec import TaskSpec
from clinloop.store import database
from clinloop.store.queue import Place
from clinloop.store.rows import RunRow
from clinloop.store.store import Store

Reserve = Callable[..., tuple[RunRow, bool]]
SLOTS = ("cpu:0", "cpu:1")


@pytest.fixture
def stand(store: Store, reserve: Reserve) -> Callable[[str, str], None]:
    """Queue a run of a new task that belongs to an owner."""

    def come(owner: str, task_id: str) -> None:
        store.create_task(
            task_id=task_id,
            dataset="skin",
            request="Tell melanoma from nevus.",
            spec=TaskSpec(objective="Tell melanoma from nevus."),
            template="classification",
            seed=0,
            settings={},
            init_key=f"key of {task_id}",
            owner=owner,
        )
        store.open_task(task_id)
        reserve(task_id)

    return come


def end(store: Store, task_id: str) -> None:
    store.settle_run(task_id, "run0", "failed", end_reason="crash", message="")


def waiting(store: Store) -> list[str]:
    return [row.task for row in store.line() if not row.units]


def test_as_many_runs_as_there_are_slots_hold_one_at_once(store: Store, stand: Callable[[str, str], None]) -> None:
    for number in range(3):
        stand("", f"t{number}")
    assert [store.lease_units(f"t{number}", "run0", SLOTS) for number in range(3)] == [("cpu:0",), ("cpu:1",), ()]
    assert store.place("t2", "run0") == Place("cpu", 1, (), 0, "")
    end(store, "t0")
    assert store.lease_units("t2", "run0", SLOTS) == ("cpu:0",)


def test_who_is_first_but_slow_to_come_keeps_nobody_from_another_free_slot(
    store: Store, stand: Callable[[str, str], None]
) -> None:
    for number in range(3):
        stand("", f"t{number}")
    assert store.lease_units("t2", "run0", SLOTS) == ()  # both are for those before it
    assert store.lease_units("t1", "run0", SLOTS) == ("cpu:0",)
    assert store.lease_units("t0", "run0", SLOTS) == ("cpu:1",)


def test_owners_take_turns_whoever_has_more_tasks(store: Store, stand: Callable[[str, str], None]) -> None:
    for number in range(3):
        stand("anna", f"a{number}")
    assert store.lease_units("a0", "run0", SLOTS[:1]) == ("cpu:0",)
    stand("bert", "b0")
    stand("bert", "b1")
    stand("", "local")
    assert waiting(store) == ["b0", "local", "a1", "b1", "a2"]
    order, last = list[str](), "a0"
    while left := waiting(store):
        end(store, last)
        last = next(task for task in sorted(left) if store.lease_units(task, "run0", SLOTS[:1]))
        order.append(last)
    assert order == ["b0", "local", "a1", "b1", "a2"]


def test_an_owner_who_gave_a_slot_back_stands_behind_who_has_waited_longer(
    store: Store, stand: Callable[[str, str], None]
) -> None:
    stand("anna", "a0")
    store.lease_units("a0", "run0", SLOTS[:1])
    stand("bert", "b0")
    end(store, "a0")
    stand("anna", "a1")
    stand("carla", "c0")

    assert waiting(store) == ["b0", "a1", "c0"]


def test_the_lanes_do_not_wait_for_each_other(
    store: Store, stand: Callable[[str, str], None], reserve: Reserve
) -> None:
    stand("", "full")
    for task_id, wants in (("smoke", {"mode": "smoke"}), ("gpu", {"gpus": 1})):
        stand("", task_id)
        end(store, task_id)
        reserve(task_id, **wants)
    assert {row.task: row.lane for row in store.line()} == {"gpu": "gpu", "full": "cpu", "smoke": "smoke"}
    assert {row.place for row in store.line()} == {1}


def test_a_store_with_gpus_leased_is_taken_over_with_its_line(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setattr(database, "_MIGRATIONS", database._MIGRATIONS[:1])  # pyright: ignore[reportPrivateUsage]
        database.Database(state)
    with sqlite3.connect(state / "clinloop.sqlite") as connection:
        for task_id in ("t0", "t1", "t2"):
            connection.execute(
                "INSERT INTO task (id, dataset, request, spec, template, seed, settings, init_key, status, created_at)"
                " VALUES (?, 'skin', 'r', ?, 'linear', 0, '{}', ?, 'open', 'then')",
                (task_id, TaskSpec(objective="Tell melanoma from nevus.").model_dump_json(), task_id),
            )
            connection.execute(
                "INSERT INTO run (task_id, name, number, mode, request_id, revision, tree_sha256, hypothesis, inputs, gpus, status, created_at)"
                " VALUES (?, 'run0', 0, 'full', 'r', 'r1', 't', 'h', '[]', 1, 'queued', 'then')",
                (task_id,),
            )
            connection.execute("INSERT INTO gpu_claim (task_id, holder, wanted) VALUES (?, 'run0', 1)", (task_id,))
        connection.execute("INSERT INTO gpu_lease VALUES ('GPU-a', 't0', 'run0', 'then', NULL)")
    connection.close()

    store = Store(state)

    assert [(row.task, row.lane, row.place, row.units) for row in store.line()] == [
        ("t0", "gpu", 0, ("GPU-a",)),
        ("t1", "gpu", 1, ()),
        ("t2", "gpu", 2, ()),
    ]
    assert store.lease_units("t1", "run0", ["GPU-a"]) == ()
    with store._database.transaction() as connection:  # pyright: ignore[reportPrivateUsage]
        connection.execute("UPDATE run SET ended_at = 'now', status = 'failed' WHERE task_id = 't0'")
    assert store.lease_units("t1", "run0", ["GPU-a"]) == ("GPU-a",)
