"""What a ledger says of how a task was worked on: the charged runs, the code that passed smoke tests, the contract's lists."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import JsonValue

from clinloop.report.data import CanaryCheck, LedgerRow, OrderAudit, ReportData, RunSummary


class Facts(NamedTuple):
    """All that the rules read."""

    spec: Mapping[str, JsonValue]
    """The frozen contract."""
    warnings: Sequence[str]
    """Warnings of the data audit."""
    runs: Sequence[RunSummary]
    """Charged runs."""
    ledger: Sequence[LedgerRow]
    """The task's rows, oldest first."""
    canaries: Sequence[CanaryCheck] = ()
    order: Sequence[OrderAudit] = ()


def facts_of(data: ReportData) -> Facts:
    """Return what the rules read in a report."""
    task = [row for row in data.ledger if row.scope == f"task:{data.task_id}"]
    warnings = [item.text for item in data.dataset.audit if item.level == "warning"]
    return Facts(data.spec, warnings, data.runs, task, data.integrity.canaries, data.integrity.order)


class Charged(NamedTuple):
    """A full run that says something about its code: not lost by the server, not stopped before it started."""

    name: str
    seq: int
    """Of its `reserved` row."""
    reserved: Mapping[str, JsonValue]
    settled: Mapping[str, JsonValue]

    @property
    def is_scored(self) -> bool:
        """Whether it has a score on validation."""
        return self.settled.get("score") is not None


def charged(facts: Facts) -> list[Charged]:
    """Return the charged runs that have ended, in order."""
    settled = {row.run: row.detail for row in facts.ledger if row.event == "settled"}
    given_back = {row.run for row in facts.ledger if row.event == "refunded"}
    return [
        Charged(row.run, row.seq, row.detail, settled[row.run])
        for row in facts.ledger
        if row.event == "reserved" and row.run is not None and re.fullmatch(r"run\d{1,6}", row.run)
        if row.run in settled and row.run not in given_back and settled[row.run].get("status") != "lost"
    ]


def tested(facts: Facts) -> dict[str, int]:
    """Return the code that passed a smoke test: {digest of its tree: place in the ledger of the first end}."""
    trees = {row.run: str(row.detail.get("tree_sha256")) for row in facts.ledger if row.event == "reserved"}
    found: dict[str, int] = {}
    for row in facts.ledger:
        if row.event == "settled" and (row.run or "").startswith("smoke") and row.detail.get("status") == "succeeded":
            found.setdefault(trees.get(row.run, ""), row.seq)
    return found


def count(facts: Facts, event: str) -> int:
    """Return how often an event is in the ledger."""
    return sum(row.event == event for row in facts.ledger)


def listed(facts: Facts, key: str) -> list[JsonValue]:
    """Return a list of the contract; empty when it has none."""
    value = facts.spec.get(key)
    return value if isinstance(value, list) else list(value) if isinstance(value, tuple) else []
