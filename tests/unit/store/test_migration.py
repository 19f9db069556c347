"""A database of the first schema, with everything in it, becomes one of today without loss, whoever and how many open it at once."""

from __future__ import annotations

import json
import secrets
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import clinloop.store
from clinloop.signing import Signer
from clinloop.spec import TaskSpec, canonical
from clinloop.store import ledger
from clinloop.store.store import Store

SCHEMA = Path(clinloop.store.__file__).parent
OPEN = "import sys; from pathlib import Path; from clinloop.store.store import Store; print(len(Store(Path(sys.argv[1])).tasks()))"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A state folder as the first version left it: three tasks, runs, a claim with its lease, and chains."""
    state = tmp_path / "state"
    state.mkdir()
    signer = Signer(state)
    connection = sqlite3.connect(state / "clinloop.sqlite", isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript((SCHEMA / "schema.sql").read_text(encoding="utf-8"))
    connection.execute("CREATE TABLE migration (name TEXT PRIMARY KEY, applied_at TEXT NOT NULL) STRICT")
    connection.execute("INSERT INTO migration VALUES ('m001_schema', '2026-01-01T00:00:00.000+00:00')")
    spec = {"objective": "Tell melanoma from nevus.", "budget": "demo"}  # as old as fields that it lacks
    for number, (status, result) in enumerate(
        [("open", None), ("evaluating", None), ("evaluated", '{"outcome":"ok"}')]
    ):
        task = f"t{number}"
        connection.execute(
            "INSERT INTO task VALUES (?, 'skin', 'Tell melanoma from nevus.', ?, 'linear', 0, '{}', ?, ?, 'queued', ?, ?, 'then', ?)",
            (
                task,
                canonical(spec),
                f"key {task}",
                status,
                None if number == 0 else "run0",
                result,
                "later" if result else None,
            ),
        )
        _append(connection, signer, task, "contract", spec_sha256="0" * 64)
        _append(connection, signer, task, "granted", resource="run", amount=8)
        _append(connection, signer, task, "reserved", resource="run", amount=-1, run="run0")
        connection.execute(
            "INSERT INTO run (task_id, name, number, mode, request_id, revision, tree_sha256, hypothesis, inputs, gpus, status, created_at,"
            " ended_at, decision) VALUES (?, 'run0', 0, 'full', 'r', 'r1', 't', 'h', '[]', 1, ?, 'then', ?, ?)",
            (
                task,
                "queued" if number == 0 else "succeeded",
                None if number == 0 else "later",
                "none" if number == 0 else "accepted",
            ),
        )
    for task, holder in (("t0", "run0"), ("t1", "finalize")):
        connection.execute("INSERT INTO gpu_claim (task_id, holder, wanted) VALUES (?, ?, 1)", (task, holder))
        connection.execute("INSERT INTO gpu_lease VALUES (?, ?, ?, 'then', NULL)", (f"GPU-{task}", task, holder))
    connection.close()
    return state


def _append(connection: sqlite3.Connection, signer: Signer, task: str, event: str, **values: Any) -> None:
    fields: dict[str, Any] = {
        key: values.pop(key, default) for key, default in (("resource", None), ("amount", 0), ("run", None))
    }
    scope = f"task:{task}"
    last = connection.execute("SELECT seq, hash FROM ledger WHERE scope = ? ORDER BY seq DESC", (scope,)).fetchone()
    row: dict[str, Any] = {
        "scope": scope,
        "seq": last["seq"] + 1 if last else 0,
        "at": "then",
        "event": event,
        **fields,
        "detail": values,
        "prev": last["hash"] if last else "0" * 64,
    }
    digest = ledger.row_hash(**row)
    connection.execute(
        "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(canonical(value) if name == "detail" else value for name, value in row.items()),
            digest,
            signer.sign(digest),
        ),
    )


def content(state: Path, table: str, columns: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(state / "clinloop.sqlite")
    try:
        return connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()
    finally:
        connection.close()


TABLES = {
    "task": "id, dataset, request, spec, template, seed, settings, init_key, status, phase, final_run, result, created_at, ended_at",
    "run": "*",
    "ledger": "*",
}
LEASE = "task_id, holder, leased_at, released_at"


def test_several_processes_at_once_bring_an_old_database_up_to_date_without_loss(old: Path) -> None:
    before = {table: content(old, table, columns) for table, columns in TABLES.items() if table != "run"}
    runs = content(old, "run", "task_id, name, status, decision, gpus")
    claims = content(old, "gpu_claim", "task_id, holder, wanted")
    leases = content(old, "gpu_lease", f"uuid, {LEASE}")

    started = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, str(old)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    for process in started:
        printed, errors = process.communicate(timeout=60)
        assert (process.returncode, printed.strip()) == (0, "3"), errors

    assert {table: content(old, table, columns) for table, columns in TABLES.items() if table != "run"} == before
    assert content(old, "run", "task_id, name, status, decision, gpus") == runs
    assert content(old, "claim", "task_id, holder, wanted") == claims
    assert content(old, "lease", f"unit, {LEASE}") == leases
    names = [row[0] for row in content(old, "migration", "name, name")]
    assert names == sorted(set(names)) and "m002_people" in names
    store = Store(old)
    assert [task.owner for task in store.tasks()] == [""] * 3
    assert store.task("t2").result == {"outcome": "ok"}
    assert store.balance("t0")["run"] == 7
    incumbent = store.incumbent("t1")
    assert incumbent is not None and incumbent.name == "run0"


def test_a_migrated_database_has_every_trigger_and_refers_rightly(old: Path, tmp_path: Path) -> None:
    store = Store(old)
    Store(tmp_path / "new")
    kinds = "type, name, tbl_name"

    def objects(state: Path) -> list[tuple[Any, ...]]:
        return [row for row in content(state, "sqlite_master", kinds) if not row[1].startswith("sqlite_")]

    assert objects(old) == objects(tmp_path / "new")
    store.settle_run("t0", "run0", "failed", end_reason="crash", message="")  # its claim and lease end with it
    store.reopen_task("t1", "again")
    assert content(old, "claim", "task_id, holder") == []
    assert all(row[1] for row in content(old, "lease", "unit, released_at"))
    connection = sqlite3.connect(old / "clinloop.sqlite")
    try:
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.execute("PRAGMA foreign_keys = ON")
        for statement in (
            "UPDATE ledger SET amount = 100 WHERE amount = 8",
            "DELETE FROM ledger",
            "INSERT INTO note (task_id, number, kind, author, text, written_at) VALUES ('gone', 1, 'note', 'a', 't', 'now')",
            "UPDATE task SET status = 'nonsense'",
        ):
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(statement)
    finally:
        connection.close()


def test_a_migrated_task_can_be_confirmed_steered_and_read(old: Path) -> None:
    store = Store(old)
    store.settle_run("t0", "run0", "succeeded", end_reason="completed", message="", score=0.5, decision="accepted")
    store.add_note("t0", "Hello.", author="Dr. Weber (clinician)")
    store.set_paused("t0", True, by="Dr. Weber (clinician)", why="")
    assert store.task("t0").status == "paused"
    spec = TaskSpec.model_validate_json(canonical(store.task("t0").spec.model_dump(mode="json")))
    task, is_new = store.create_task(
        task_id=f"skin-{secrets.token_hex(3)}",
        dataset="skin",
        request="Tell melanoma from nevus.",
        spec=spec,
        template="linear",
        seed=0,
        settings={},
        init_key=json.dumps(1),
        confirms=True,
    )
    assert is_new and task.status == "awaiting_confirmation"
