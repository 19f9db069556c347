"""The ledger in plain words: one sentence per kind of event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from clinloop.disk import size_text
from clinloop.store.ledger import LedgerRow

_RESOURCES = {
    "run": ("run", "runs"),
    "smoke": ("trial run", "trial runs"),
    "error_view": ("view of validation errors", "views of validation errors"),
    "refund": ("refund for a fault of the server", "refunds for faults of the server"),
}
_ASKED = {
    "spec": "to confirm the contract",
    "finalize": "whether the test set may be opened",
    "tradeoff": "to choose among runs",
}

Words = Callable[[LedgerRow, dict[str, Any]], str]


def amount_text(amount: int, resource: str | None) -> str:
    """Return an amount of a resource in words: 3 runs."""
    one, several = _RESOURCES.get(resource or "", (resource or "unit", resource or "units"))
    return f"{amount} {one if amount == 1 else several}"


def _amount(row: LedgerRow) -> str:
    return amount_text(abs(row.amount), row.resource)


def _why(detail: dict[str, Any]) -> str:
    return f": “{detail['why']}”" if detail.get("why") else ""


def _settled(row: LedgerRow, detail: dict[str, Any]) -> str:
    score = detail.get("score")
    said = f"{row.run} ended: {detail.get('status')}"
    said += f", score {score:.4f}" if isinstance(score, int | float) else ""
    decision = detail.get("decision")
    return said + (f", {decision}" if decision in ("accepted", "rejected") else "") + "."


def _guarantee(_: LedgerRow, detail: dict[str, Any]) -> str:
    reached = detail.get("reachable") or []
    tail = f" Within reach: {', '.join(reached)}." if reached else ""
    return f"Worked on at guarantee level {detail.get('level')} ({detail.get('connection')}).{tail}"


def _contract(_: LedgerRow, detail: dict[str, Any]) -> str:
    again = " after the clinician confirmed it" if detail.get("by") else ""
    return (
        f"The contract was frozen{again}: dataset {detail.get('dataset')}, spec {str(detail.get('spec_sha256'))[:12]}…"
    )


def _granted(row: LedgerRow, detail: dict[str, Any]) -> str:
    return f"{_amount(row)} more granted{_why(detail)}." if detail.get("extension") else f"{_amount(row)} granted."


def _cleaned(_: LedgerRow, detail: dict[str, Any]) -> str:
    what = "outputs that nothing refers to" if detail.get("scope") == "runs" else "the bulk of the task"
    return (
        f"Clean-up: {what}, {size_text(int(detail.get('bytes', 0)))} in {detail.get('n_removed')} folders. "
        "Ledger, report, evidence and models stayed."
    )


def _ingested(_: LedgerRow, detail: dict[str, Any]) -> str:
    sealed = detail.get("sealed_to") or []
    tail = f" The test part is sealed to {len(sealed)} key(s)." if sealed else ""
    return f"The dataset was added and its split committed to ({str(detail.get('commitment'))[:12]}…), before any task.{tail}"


WORDS: Mapping[str, Words] = {
    "contract": _contract,
    "granted": _granted,
    "guarantee": _guarantee,
    "reserved": lambda row, _: f"{row.run} was started; it took {_amount(row)}.",
    "settled": _settled,
    "resumed": lambda row, _: f"{row.run} went on after its supervisor had died.",
    "refund_used": lambda row, _: f"A fault of the server ended {row.run}: one refund was used.",
    "refunded": lambda row, _: f"{_amount(row)} given back for {row.run}.",
    "stopped_by_person": lambda row, detail: f"{row.run} was stopped by a person{_why(detail)}.",
    "error_view": lambda _, detail: (
        f"The agent looked at {detail.get('cases')} validation errors of {detail.get('run')}."
    ),
    "asked": lambda _, detail: f"The task waits for a person {_ASKED.get(str(detail.get('kind')), '')}.",
    "declined": lambda _, detail: f"The contract was declined{_why(detail)}.",
    "finalize_approved": lambda _, detail: f"Opening the test set was approved{_why(detail)}.",
    "finalize_declined": lambda _, detail: f"Opening the test set was declined{_why(detail)}.",
    "chosen": lambda row, detail: f"{row.run} was chosen as the best so far{_why(detail)}.",
    "paused": lambda _, detail: f"The task was paused{_why(detail)}.",
    "resumed_by_person": lambda _, detail: f"The task goes on{_why(detail)}.",
    "note": lambda _, detail: f"A note to the agent: “{detail.get('text')}”",
    "evaluation_started": lambda row, _: f"The final evaluation of {row.run} was started; no run can start any more.",
    "rehearsal_failed": lambda _, detail: (
        f"The rehearsal failed before the test set was touched: {detail.get('reason')}"
    ),
    "frozen": lambda _, __: "Both models are frozen; the sealed test set waits for its key.",
    "unsealing": lambda _, __: "The test set was opened, once; both models were frozen before.",
    "evaluation_resumed": lambda _, __: "The evaluation went on after an interruption, with the frozen models.",
    "scored": lambda _, __: "The test predictions were scored; these are the digests of evidence and model.",
    "evaluated": lambda _, __: "The report was written; the task has ended.",
    "invalid": lambda _, __: "The final evaluation failed for good; the task has ended.",
    "cleaned": _cleaned,
    "ingested": _ingested,
    "annotated": lambda _, detail: f"A model of task {detail.get('task')} added the attribute {detail.get('column')}.",
    "removed": lambda _, __: "The dataset was removed with its hidden test part.",
}
"""Every event that is ever written; a test compares with the code."""


def sentence(row: LedgerRow) -> str:
    """Return what an entry says; an event of a later version is shown by its name."""
    found = WORDS.get(row.event)
    return found(row, row.detail) if found else row.event.replace("_", " ")


def who(row: LedgerRow) -> str:
    """Return who caused an entry: a person who is named in it, the agent, or the server."""
    if by := row.detail.get("by"):
        return str(by)
    if row.event in ("contract", "reserved", "error_view", "evaluation_started"):
        return "agent"
    return "custodian" if row.event in ("ingested", "annotated", "removed") else "server"
