"""Pages of the ledger: every event in words, the balance, the check of the chain, the download."""

from __future__ import annotations

import ast
import json
import sqlite3
from pathlib import Path

import pytest

import clinloop
from clinloop import clinician
from clinloop.principal import Principal
from clinloop.store.ledger import LedgerRow
from clinloop.web.ledger_words import WORDS, sentence

from .conftest import Web

BY_STATE = {"paused", "resumed_by_person", "finalize_approved", "finalize_declined", "evaluated", "invalid"}
"""Events whose name the code computes from a state."""


def test_every_event_that_the_code_writes_has_words_and_no_words_are_left_over() -> None:
    package = Path(clinloop.__file__).parent
    written: set[str] = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                place = {"record": 1, "append": 2}.get(node.func.attr, 99)
                if len(node.args) > place:
                    found = [part for part in ast.walk(node.args[place]) if isinstance(part, ast.Constant)]
                    written |= {part.value for part in found if isinstance(part.value, str)}
    assert written | BY_STATE == set(WORDS)


@pytest.mark.parametrize("event", sorted(WORDS))
def test_words_are_a_sentence_also_for_an_entry_without_details(event: str) -> None:
    row = LedgerRow("task:t", 3, "2026-01-01T00:00:00.000+00:00", event, "run", -1, "run2", {}, "", "", "")
    assert sentence(row).strip() and "{" not in sentence(row)


def test_the_page_shows_what_happened_who_did_it_and_what_is_left(web: Web) -> None:
    task = web.codex.begin()
    weber = web.services.for_principal(Principal("Dr. Weber", frozenset(["clinician"])))
    clinician.write_note(weber, task, "Please look at small lesions.")
    page = web.clinician.get(f"/tasks/{task}/ledger").text
    assert "The contract was frozen" in page and "Verified" in page
    assert "Please look at small lesions." in page and "Dr. Weber" in page
    assert web.services.store.head(f"task:{task}") in page and web.services.store.key_fingerprint in page
    left = web.services.store.balance(task)
    assert f'<dt>Runs</dt><dd class="number">{left["run"]}</dd>' in page


def test_a_changed_entry_is_named(web: Web) -> None:
    task = web.codex.begin()
    with sqlite3.connect(web.services.settings.state / "clinloop.sqlite") as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE ledger SET amount = 99 WHERE scope = ? AND seq = 1", (f"task:{task}",))
    connection.close()
    page = web.clinician.get(f"/tasks/{task}/ledger").text
    assert "Does not verify" in page and "row 1 (granted) was changed" in page


def test_the_download_holds_both_chains_and_the_key(web: Web) -> None:
    task = web.codex.begin()
    answer = web.clinician.get(f"/tasks/{task}/ledger.json")
    assert answer.headers["content-disposition"] == f'attachment; filename="{task}-ledger.json"'
    given = json.loads(answer.text)
    store = web.services.store
    assert given["public_key"] == store.public_key
    assert [row["hash"] for row in given["ledger"]] == [
        row.hash for scope in ("dataset:moles", f"task:{task}") for row in store.ledger(scope)
    ]
    assert json.loads(web.clinician.get("/datasets/moles/ledger.json").text)["ledger"][0]["event"] == "ingested"


def test_text_of_agents_is_shown_as_text(web: Web) -> None:
    task = web.codex.begin()
    web.services.store.record(f"task:{task}", "rehearsal_failed", {"reason": "<script>alert(1)</script>\u202e"})
    page = web.clinician.get(f"/tasks/{task}/ledger").text
    assert "<script>alert" not in page and "\u202e" not in page and "&lt;script&gt;alert(1)" in page


def test_long_ledgers_come_in_pages_newest_first(web: Web) -> None:
    task = web.codex.begin()
    for number in range(210):
        web.services.store.record(f"task:{task}", "rehearsal_failed", {"reason": f"try {number}."})
    first, second = (web.clinician.get(f"/tasks/{task}/ledger?page={page}").text for page in (1, 2))
    assert "try 209." in first and "The contract was frozen" not in first and "The contract was frozen" in second
    assert web.clinician.get(f"/tasks/{task}/ledger?page=3").status_code == 400
