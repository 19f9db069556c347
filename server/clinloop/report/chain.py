"""The ledger of a report: whether its rows seal each other, and which head a reader can hold on to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue, TypeAdapter, ValidationError

from clinloop.files import sha256_file
from clinloop.report.data import GENESIS, LedgerRow, ReportData
from clinloop.report.hashes import row_hash
from clinloop.signing import fingerprint, is_signed


class Check(NamedTuple):
    """One thing that was checked."""

    name: str
    ok: bool
    detail: str
    """What was found; for a failure, what differs."""


def outcome(name: str, problems: Sequence[str], success: str) -> Check:
    """Return the check: passed when there is no problem, else its first five problems."""
    shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
    return Check(name, not problems, shown or success)


def check_scopes(data: ReportData, known: int) -> Check:
    """Check that every row belongs to the dataset or the task of the report."""
    foreign = len(data.ledger) - known
    problems = [f"{foreign} row(s) belong to another dataset or task"] if foreign else []
    return outcome("ledger scopes", problems, f"{known} rows")


def check_chain(name: str, rows: Sequence[LedgerRow], first_prev: str) -> Check:
    """Check that the rows of one scope are whole and in order; `first_prev` is what the first must seal."""
    problems = _breaks(rows, first_prev) if rows else ["it has no row"]
    return outcome(name, problems, f"{len(rows)} rows, each sealing the one before")


def _breaks(rows: Sequence[LedgerRow], prev: str, *, first: int = 0) -> list[str]:
    """Return where rows do not follow one from the other."""
    problems: list[str] = []
    for position, row in enumerate(rows, start=first):
        if row.seq != position:
            problems.append(f"row {position} carries number {row.seq}")
        if row.prev != prev:
            problems.append(f"row {row.seq} ({row.event}) does not follow from the row before")
        if row.hash != row_hash(row):
            problems.append(f"row {row.seq} ({row.event}) was changed: its content does not give its hash")
        prev = row.hash
    return problems


def check_link(dataset: Sequence[LedgerRow], task: Sequence[LedgerRow]) -> Check:
    """Check that the task's chain starts at a row of the dataset's."""
    hashes = {row.hash for row in dataset} or {GENESIS}
    problems = (
        [] if task and task[0].prev in hashes else ["the task's ledger does not start at a row of the dataset's ledger"]
    )
    return outcome("ledger link", problems, "the task's ledger starts at the dataset's")


def check_head(data: ReportData, task: Sequence[LedgerRow]) -> Check:
    """Check that the stated head is the last row."""
    last = task[-1].hash if task else "none"
    problems = (
        []
        if last == data.ledger_head
        else [f"the last row is {last[:16]}…, the report states {data.ledger_head[:16]}…"]
    )
    return outcome("ledger head", problems, data.ledger_head)


def check_seal(data: ReportData, file: Path, task: Sequence[LedgerRow]) -> tuple[list[LedgerRow], Check]:
    """Read the rows that came after the report, and compare report.json with the digest that they hold."""
    seal = file.with_name("seal.json")
    if not seal.is_file():
        return [], Check("seal", True, "there is no seal.json, so later rows of the ledger are unknown here")
    try:
        rows = TypeAdapter(list[LedgerRow]).validate_json(seal.read_bytes())
    except ValidationError as error:
        return [], Check("seal", False, f"seal.json is no list of ledger rows ({error.error_count()} problems)")
    first = task[-1].seq + 1 if task else 0
    problems = _breaks(rows, data.ledger_head, first=first)
    if any(row.scope != f"task:{data.task_id}" for row in rows):
        problems.append("a row belongs to another task")
    if [row.event for row in rows].count("evaluated") != 1:
        problems.append("there must be exactly one evaluated event")
    if sha256_file(file) not in [row.detail.get("report_sha256") for row in rows]:
        problems.append("report.json was changed: its SHA-256 is not the one in the ledger")
    return rows, outcome("seal", problems, "report.json is the file whose SHA-256 is in the ledger")


def check_signatures(public_key: str, *chains: Sequence[LedgerRow], key: str | None = None) -> Check:
    """Check that one key signed every row and is named by the first of each chain; `key` is a fingerprint that was noted elsewhere."""
    found = fingerprint(public_key)
    problems = (
        [f"the rows are said to be signed by {found}, not by the key you noted"] if key not in (None, found) else []
    )
    for rows in chains:
        if rows and rows[0].seq == 0 and rows[0].detail.get("signer") != public_key:
            problems.append(f"row 0 ({rows[0].event}) names another key")
        problems += [
            f"row {row.seq} ({row.event}) is not signed by {found}"
            for row in rows
            if not is_signed(public_key, row.hash, row.signature)
        ]
    noted = "the key you noted" if key else "compare it with the one that you noted: --key"
    return outcome("signatures", problems, f"{sum(map(len, chains))} rows signed by {found} ({noted})")


def check_anchor(heads: Sequence[str], dataset: Sequence[LedgerRow], task: Sequence[LedgerRow]) -> Check:
    """Look for heads that the reader noted elsewhere."""
    problems: list[str] = []
    places: list[str] = []
    for head in heads:
        for name, rows in (("task", task), ("dataset", dataset)):
            if row := next((row for row in rows if row.hash == head), None):
                later = len(rows) - 1 - row.seq
                rest = f"; {later} later row(s) are not covered by it" if later else ""
                places.append(f"the head you noted is row {row.seq} ({row.event}) of the {name}'s ledger{rest}")
                break
        else:
            shown = f" {head[:16]}…" if len(heads) > 1 else ""
            problems.append(f"the head{shown} you noted is not in this ledger: rows were removed, or it was rewritten")
    return outcome("anchor", problems, "; ".join(places))


def details(task: Sequence[LedgerRow], event: str) -> list[Mapping[str, JsonValue]]:
    """Return the details of the rows of one event."""
    return [row.detail for row in task if row.event == event]
