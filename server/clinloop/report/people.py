"""What people said and did while a task was worked on, read from its ledger and from nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final

from clinloop.report.chain import Check, details, outcome
from clinloop.report.data import LedgerRow, ReportData, Said

_DID: Final[dict[str, Callable[[LedgerRow], str]]] = {
    "contract": lambda row: "confirmed the contract",
    "finalize_approved": lambda row: "agreed to open the test set",
    "finalize_declined": lambda row: "did not want the test set opened",
    "chosen": lambda row: f"made {row.run} the incumbent",
    "paused": lambda row: "paused the task",
    "resumed_by_person": lambda row: "let the task go on",
    "stopped_by_person": lambda row: f"stopped {row.run}",
    "granted": lambda row: f"extended the budget by {row.amount} run{'s' * (row.amount > 1)}",
    "note": lambda row: "told the agent",
}


def people(task: Sequence[LedgerRow]) -> tuple[Said, ...]:
    """Return each act of a person in a task's rows, oldest first."""
    return tuple(
        Said(at=row.at, by=by, did=_DID[row.event](row), run=row.run, text=_text(row))
        for row in task
        if row.event in _DID and (by := _by(row))
    )


def check_people(data: ReportData, task: Sequence[LedgerRow]) -> Check:
    """Check that a report says what people did, and that a contract or an opening that needed the clinician has their yes."""
    in_ledger = people(task)
    problems = [] if data.people == in_ledger else ["the report does not say what the ledger holds of what people did"]
    contracts = details(task, "contract")
    for first, second in pairwise(contracts):
        if not second.get("confirmed_by") or second.get("replaces") != first.get("spec_sha256"):
            problems.append("a contract was replaced that no clinician confirmed")
    if data.spec.get("confirm_spec") == "required" and not any(item.get("confirmed_by") for item in contracts):
        problems.append("the contract had to be confirmed and was not")
    if data.spec.get("confirm_finalize") == "required":
        last = [row for row in task if row.event in ("finalize_approved", "finalize_declined", "evaluation_started")][
            -2:
        ]
        if [row.event for row in last] != ["finalize_approved", "evaluation_started"] or last[0].run != last[1].run:
            problems.append("the clinician had to agree to open the test set for this run and did not")
    return outcome("people", problems, f"{len(in_ledger)} acts of people, as in the ledger")


def _by(row: LedgerRow) -> str:
    """Return who did it; empty for entries that the server makes by itself."""
    if row.event == "granted" and not row.detail.get("extension"):
        return ""
    return str(row.detail.get("confirmed_by" if row.event == "contract" else "by") or "")


def _text(row: LedgerRow) -> str:
    if row.event == "contract":
        changed = row.detail.get("changed")
        return f"Changed: {', '.join(map(str, changed))}." if isinstance(changed, list) and changed else "Unchanged."
    return str(row.detail.get("text") or row.detail.get("why") or "")
