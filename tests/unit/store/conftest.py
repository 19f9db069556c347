"""A store with tasks in it, many processes at once, and a second implementation of the ledger's hash."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clinloop.spec import TaskSpec
from clinloop.store.rows import RunRow, TaskRow
from clinloop.store.store import Store

HERE = Path(__file__).parent


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(state: Path) -> Store:
    return Store(state)


@pytest.fixture
def new_task(store: Store) -> Callable[..., TaskRow]:
    """Create and open a task; the presets: demo = 8 runs, 12 smokes, 4 error views; paper = 31, 60, 20."""

    def create(task_id: str = "t", *, budget: str = "demo", open_it: bool = True) -> TaskRow:
        spec = TaskSpec.model_validate({"objective": "Tell melanoma from nevus.", "budget": budget})
        store.create_task(
            task_id=task_id,
            dataset="skin",
            request="Tell melanoma from nevus.",
            spec=spec,
            template="classification",
            seed=0,
            settings={},
            init_key=f"key of {task_id}",
        )
        if open_it:
            store.open_task(task_id)
        return store.task(task_id)

    return create


@pytest.fixture
def reserve(store: Store) -> Callable[..., tuple[RunRow, bool]]:
    """Reserve a run; every call is another request for another tree unless it says otherwise."""
    calls = iter(range(1_000_000))

    def start(task_id: str = "t", **changes: Any) -> tuple[RunRow, bool]:
        n = next(calls)
        values: dict[str, Any] = {
            "mode": "full",
            "request_id": f"request {n}",
            "revision": "r1",
            "tree_sha256": f"tree {n}",
            "hypothesis": "a sharper image should help",
            "inputs": [],
        }
        return store.reserve_run(task_id=task_id, **(values | changes))

    return start


@pytest.fixture
def accepted_run(store: Store, reserve: Callable[..., tuple[RunRow, bool]]) -> Callable[..., str]:
    """Run a task's next run to its end with a decision and return its name."""

    def carry(task_id: str = "t", *, decision: str = "accepted") -> str:
        run, _ = reserve(task_id)
        store.settle_run(
            task_id, run.name, "succeeded", end_reason="completed", message="", score=0.8, decision=decision
        )
        return run.name

    return carry


@pytest.fixture
def crowd(state: Path) -> Callable[..., list[list[str]]]:
    """Do one action of crowd.py in 8 processes at once, `tries` times each; what every process saw, try by try."""

    def act(action: str, *, tries: int, processes: int = 8) -> list[list[str]]:
        command = [sys.executable, str(HERE / "crowd.py"), str(state), action, str(processes), str(tries)]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        seen = json.loads(done.stdout)
        assert [len(one) for one in seen] == [tries] * processes
        return seen

    return act


@pytest.fixture
def raw(state: Path, store: Store) -> Callable[[], sqlite3.Connection]:
    """Open the database as somebody would who does not go through the store."""
    del store  # it must exist first

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(state / "clinloop.sqlite", isolation_level=None)

    return connect


@pytest.fixture
def broken_entries(raw: Callable[[], sqlite3.Connection]) -> Callable[..., list[int]]:
    """Recompute a chain from the bare file and return the places that do not fit, with no code of the product."""

    def check(scope: str, *, first_prev: str = "0" * 64) -> list[int]:
        broken: list[int] = []
        prev = first_prev
        with raw() as connection:
            rows = connection.execute("SELECT * FROM ledger WHERE scope = ? ORDER BY seq", (scope,)).fetchall()
        for place, (*fields, digest, _signature) in enumerate(rows):
            fields[7] = json.loads(fields[7])
            if fields[1] != place or fields[8] != prev or _sha256(_canonical(fields)) != digest:
                broken.append(place)
            prev = digest
        return broken

    return check


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _canonical(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{_canonical(key)}:{_canonical(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_canonical(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
