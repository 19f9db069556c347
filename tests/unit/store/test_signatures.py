"""Who writes into the ledger without the server's key gets nothing for it, and `clinloop verify` says what was done."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from clinloop.errors import LedgerBroken
from clinloop.report.data import LedgerRow
from clinloop.report.verify import verify_ledger
from clinloop.signing import KEY_FILE, Signer, fingerprint
from clinloop.store.ledger import row_hash
from clinloop.store.rows import RunRow, TaskRow
from clinloop.store.store import Store

Connect = Callable[[], sqlite3.Connection]
NewTask = Callable[..., TaskRow]
Reserve = Callable[..., tuple[RunRow, bool]]
SCOPE = "task:t"


class Forger:
    """Somebody with the database, the code and, if asked, the key; no trigger stops them."""

    def __init__(self, connection: sqlite3.Connection, signer: Signer) -> None:
        self.connection, self.signer = connection, signer
        for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")

    def entries(self) -> list[dict[str, Any]]:
        self.connection.row_factory = sqlite3.Row
        return [
            dict(row) for row in self.connection.execute("SELECT * FROM ledger WHERE scope = ? ORDER BY seq", (SCOPE,))
        ]

    def write(self, entries: list[dict[str, Any]]) -> None:
        """Put a chain in place that is whole in itself, every entry signed."""
        self.connection.execute("DELETE FROM ledger WHERE scope = ?", (SCOPE,))
        prev = entries[0]["prev"]
        for seq, entry in enumerate(entries):
            fields = {**entry, "seq": seq, "prev": prev}
            content = {name: fields[name] for name in fields if name not in ("hash", "signature")}
            prev = row_hash(**{**content, "detail": json.loads(entry["detail"])})
            self.connection.execute(
                "INSERT INTO ledger VALUES (:scope, :seq, :at, :event, :resource, :amount, :run, :detail, :prev, :hash, :signature)",
                {**fields, "hash": prev, "signature": self.signer.sign(prev)},
            )


@pytest.fixture
def problems(store: Store) -> Callable[..., dict[str, str]]:
    """What `clinloop verify TASK` finds wrong."""

    def find(**noted: Any) -> dict[str, str]:
        dataset, task = (
            [LedgerRow(**row._asdict()) for row in store.ledger(scope)] for scope in ("dataset:skin", SCOPE)
        )
        checks = verify_ledger(dataset, task, store.public_key, **noted).checks
        return {check.name: check.detail for check in checks if not check.ok}

    return find


def test_every_entry_is_signed_and_the_first_of_a_chain_names_the_key(
    store: Store, new_task: NewTask, problems: Callable[..., dict[str, str]]
) -> None:
    store.record("dataset:skin", "committed", {"splits_sha256": "ab"})
    new_task()
    assert problems(heads=[store.head(SCOPE), store.head("dataset:skin")], key=store.key_fingerprint) == {}
    for scope in ("dataset:skin", SCOPE):
        assert store.ledger(scope)[0].detail["signer"] == store.public_key
    assert store.key_fingerprint == fingerprint(store.public_key)


def test_the_key_is_for_the_servers_user_alone_and_all_processes_that_start_at_once_use_one(
    tmp_path: Path,
) -> None:
    code = "import sys; from pathlib import Path; from clinloop.signing import Signer; print(Signer(Path(sys.argv[1])).public_key)"
    folder = tmp_path / "new"
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True, encoding="utf-8")
        for _ in range(6)
    ]
    assert len({process.communicate(timeout=60)[0] for process in started}) == 1
    assert stat.S_IMODE((folder / KEY_FILE).stat().st_mode) == 0o600
    assert [file.name for file in folder.iterdir()] == [KEY_FILE]


FORGERIES: dict[str, Callable[[Forger], object]] = {
    "an edited entry": lambda forger: forger.connection.execute(
        "UPDATE ledger SET run = 'run9' WHERE scope = ? AND seq = 5", (SCOPE,)
    ),
    "an edited balance": lambda forger: forger.connection.execute(
        "UPDATE ledger SET amount = 99 WHERE scope = ? AND resource = 'run' AND event = 'granted'", (SCOPE,)
    ),
    "runs granted without the key": lambda forger: forger.write(
        [*forger.entries(), {**forger.entries()[1], "event": "granted", "resource": "run", "amount": 50}]
    ),
    "a run refunded without the key": lambda forger: forger.write(
        [*forger.entries(), {**forger.entries()[1], "event": "refunded", "resource": "run", "amount": 1, "run": "run0"}]
    ),
    "an entry cut out of the middle": lambda forger: forger.connection.execute(
        "DELETE FROM ledger WHERE scope = ? AND seq = 5", (SCOPE,)
    ),
    "a signature moved to another entry": lambda forger: forger.connection.execute(
        "UPDATE ledger SET signature = (SELECT signature FROM ledger WHERE scope = ? AND seq = 4) WHERE scope = ? AND seq = 5",
        (SCOPE, SCOPE),
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_whoever_forges_an_entry_without_the_key_gets_no_run_no_evaluation_and_no_view(
    name: str,
    tmp_path: Path,
    store: Store,
    state: Path,
    new_task: NewTask,
    reserve: Reserve,
    accepted_run: Callable[..., str],
    raw: Connect,
    problems: Callable[..., dict[str, str]],
) -> None:
    new_task()
    run = accepted_run()
    with closing(raw()) as connection:
        FORGERIES[name](Forger(connection, Signer(tmp_path / "another")))
    before = store.ledger(SCOPE)

    for server in (store, Store(state)):  # one that has seen the chain before, and a new one
        with pytest.raises(LedgerBroken, match="clinloop verify"):
            reserve()
        with pytest.raises(LedgerBroken):
            server.begin_evaluation("t", run)
        with pytest.raises(LedgerBroken):
            server.spend_error_view("t", {})
    assert store.ledger(SCOPE) == before
    assert store.task("t").status == "open"
    assert set(problems()) & {"ledger of the task", "signatures"}


def test_the_test_set_stays_closed_when_the_ledger_is_changed_between_freeze_and_unsealing(
    tmp_path: Path, store: Store, new_task: NewTask, accepted_run: Callable[..., str], raw: Connect
) -> None:
    new_task()
    store.begin_evaluation("t", accepted_run())
    with closing(raw()) as connection:
        FORGERIES["an edited balance"](Forger(connection, Signer(tmp_path / "another")))

    with pytest.raises(LedgerBroken):
        store.unseal("t", {})

    assert store.task("t").status == "evaluating"


def test_a_tail_cut_off_is_found_with_a_head_that_was_noted(
    store: Store, new_task: NewTask, accepted_run: Callable[..., str], raw: Connect, problems: Callable[..., Any]
) -> None:
    new_task()
    accepted_run()
    noted = store.head(SCOPE)
    with closing(raw()) as connection:
        Forger(connection, Signer(Path())).connection.execute(
            "DELETE FROM ledger WHERE scope = ? AND seq > 4", (SCOPE,)
        )

    assert problems() == {}  # what is left is genuine
    assert "rows were removed" in problems(heads=[noted])["anchor"]


def test_a_full_rewrite_with_the_servers_own_key_is_found_with_a_head_that_was_noted(
    store: Store,
    state: Path,
    new_task: NewTask,
    accepted_run: Callable[..., str],
    raw: Connect,
    problems: Callable[..., Any],
) -> None:
    new_task()
    accepted_run()
    noted = store.head(SCOPE)
    with closing(raw()) as connection:
        forger = Forger(connection, Signer(state))
        forger.write([entry for entry in forger.entries() if entry["event"] not in ("reserved", "settled")])

    assert problems(key=store.key_fingerprint) == {}  # the key says who, not what
    assert set(problems(heads=[noted])) == {"anchor"}


def test_a_rewrite_after_the_key_was_replaced_is_found_with_the_fingerprint_that_was_noted(
    store: Store, state: Path, new_task: NewTask, raw: Connect, problems: Callable[..., Any]
) -> None:
    new_task()
    noted = store.key_fingerprint
    (state / KEY_FILE).unlink()
    with closing(raw()) as connection:
        forger = Forger(connection, Signer(state))
        first, *rest = forger.entries()
        detail = json.dumps({**json.loads(first["detail"]), "signer": forger.signer.public_key})
        forger.write([{**first, "detail": detail}, *rest])
    rows = [LedgerRow(**row._asdict()) for row in store.ledger(SCOPE)]

    assert verify_ledger([], rows, Signer(state).public_key).ok
    found = verify_ledger([], rows, Signer(state).public_key, key=noted)
    assert [check.name for check in found.checks if not check.ok] == ["signatures"]
