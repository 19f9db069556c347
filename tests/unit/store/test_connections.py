"""Connections that a busy server keeps open between operations."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clinloop.store.store import Store


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "state")
    store.keep_connections(4)
    yield store
    store.close()


def n_open(store: Store) -> int:
    file = str(store._database._file)  # pyright: ignore[reportPrivateUsage]
    found = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
    return sum(path.is_symlink() and str(path.readlink()) == file for path in found)


def test_many_threads_share_few_kept_connections_and_lose_nothing(kept: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: kept.record("server", "tried", {"n": number}), range(200)))
    entries = [row.detail["n"] for row in kept.ledger("server") if row.event == "tried"]
    assert sorted(entries) == list(range(200))
    assert 1 <= len(kept._database._idle) <= 4  # pyright: ignore[reportPrivateUsage]
    kept.close()
    assert n_open(kept) == 0
    assert len(kept.ledger("server")) == 200
    assert n_open(kept) == 0


def test_an_operation_that_fails_does_not_leave_its_transaction_to_the_next(kept: Store) -> None:
    kept.record("server", "before", {})
    with pytest.raises(RuntimeError, match="in the middle"), kept._database.transaction() as connection:  # pyright: ignore[reportPrivateUsage]
        connection.execute("DELETE FROM ledger WHERE scope = 'nobody'")
        raise RuntimeError("in the middle")
    kept.record("server", "after", {})
    assert [row.event for row in kept.ledger("server")] == ["before", "after"]


def test_a_store_that_was_put_in_place_of_another_is_read_from_then_on(kept: Store, tmp_path: Path) -> None:
    kept.record("server", "old", {})
    other = Store(tmp_path / "other")
    other.record("server", "new", {})
    for name in ("clinloop.sqlite-wal", "clinloop.sqlite-shm"):
        (tmp_path / "state" / name).unlink(missing_ok=True)
    shutil.move(tmp_path / "other" / "clinloop.sqlite", tmp_path / "state" / "clinloop.sqlite")
    assert [row.event for row in kept.ledger("server")] == ["new"]


def test_a_forked_process_opens_connections_of_its_own(kept: Store) -> None:
    kept.record("server", "parent", {})
    inherited = {id(connection) for connection in kept._database._idle}  # pyright: ignore[reportPrivateUsage]
    assert inherited
    pid = os.fork()
    if pid == 0:
        kept.record("server", "child", {})
        used = {id(connection) for connection in kept._database._idle}  # pyright: ignore[reportPrivateUsage]
        os._exit(0 if used.isdisjoint(inherited) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    kept.record("server", "parent", {})
    assert [row.event for row in kept.ledger("server")] == ["parent", "child", "parent"]
