"""Pages of the ledger of a task and of a dataset: what happened in plain words, whether the chain holds, and the head to note elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from clinloop.datasets.dataset import stored_name
from clinloop.errors import BadInput, unknown
from clinloop.report.chain import check_chain, check_signatures
from clinloop.report.data import LedgerRow as ReportRow
from clinloop.report.verify import Verification, verify_ledger
from clinloop.services import Services
from clinloop.store.ledger import GENESIS, LedgerRow
from clinloop.web.ledger_words import amount_text, sentence, who
from clinloop.web.pages import Page, in_thread, render
from clinloop.web.signing_in import services_of

ROWS = 200
"""Entries of one page."""


class Entry(NamedTuple):
    """One row as people read it."""

    row: LedgerRow
    text: str
    who: str
    left: str
    """Of its resource, after it, in words."""
    detail: str


def entries(rows: Sequence[LedgerRow]) -> list[Entry]:
    """Return the entries of a chain, oldest first, each with what was left after it."""
    left: dict[str, int] = {}
    found: list[Entry] = []
    for row in rows:
        if row.resource:
            left[row.resource] = left.get(row.resource, 0) + row.amount
        detail = json.dumps(row.detail, indent=1, ensure_ascii=False) if row.detail else ""
        found.append(
            Entry(
                row,
                sentence(row),
                who(row),
                amount_text(left[row.resource], row.resource) if row.resource else "",
                detail,
            )
        )
    return found


async def of_task(request: Request) -> Response:
    """Show the ledger of a task."""
    services = services_of(request)
    task = await in_thread(services.task, request.path_params["task_id"])
    rows = await in_thread(services.store.ledger, f"task:{task.id}")
    checked = await in_thread(check, services, f"dataset:{task.dataset}", f"task:{task.id}")
    balance = await in_thread(services.store.balance, task.id)
    return _page(request, rows, checked, name=task.id, of="task", back=f"/tasks/{task.id}", balance=balance)


async def of_dataset(request: Request) -> Response:
    """Show the ledger of a dataset; it outlives the dataset."""
    services, name = services_of(request), stored_name(request.path_params["name"])
    rows = await in_thread(_dataset_rows, services, name)
    checked = await in_thread(check, services, f"dataset:{name}", "")
    return _page(request, rows, checked, name=name, of="dataset", back=f"/datasets/{name}", balance={})


def _page(
    request: Request,
    rows: Sequence[LedgerRow],
    checked: Verification,
    *,
    name: str,
    of: str,
    back: str,
    balance: dict[str, int],
) -> Response:
    services, number = services_of(request), _number(request)
    pages = max(1, -(-len(rows) // ROWS))
    if number > pages:
        raise BadInput(f"There is no page {number}: the last one is {pages}.")
    newest_first = entries(rows)[::-1]
    return render(
        request,
        "ledger.html.j2",
        entries=newest_first[(number - 1) * ROWS : number * ROWS],
        checked=checked,
        head=rows[-1].hash if rows else "",
        key=services.store.key_fingerprint,
        name=name,
        of=of,
        back=back,
        balance=balance,
        n=len(rows),
        number=number,
        pages=pages,
    )


def check(services: Services, dataset_scope: str, task_scope: str) -> Verification:
    """Check a chain as `clinloop verify TASK` does; that of a dataset alone without a task scope."""
    store = services.store
    dataset, task = (
        [ReportRow(**row._asdict()) for row in store.ledger(scope)] if scope else []
        for scope in (dataset_scope, task_scope)
    )
    if task_scope:
        return verify_ledger(dataset, task, store.public_key)
    return Verification(
        (check_chain("ledger of the dataset", dataset, GENESIS), check_signatures(store.public_key, dataset, []))
    )


async def task_json(request: Request) -> Response:
    """Return the ledger of a task as a file, with that of its dataset, on which it is built."""
    services = services_of(request)
    task = await in_thread(services.task, request.path_params["task_id"])
    rows = [row for scope in (f"dataset:{task.dataset}", f"task:{task.id}") for row in services.store.ledger(scope)]
    return _file(services, task.id, rows)


async def dataset_json(request: Request) -> Response:
    """Return the ledger of a dataset as a file."""
    services, name = services_of(request), stored_name(request.path_params["name"])
    return _file(services, name, await in_thread(_dataset_rows, services, name))


def _dataset_rows(services: Services, name: str) -> list[LedgerRow]:
    if rows := services.store.ledger(f"dataset:{name}"):
        return rows
    raise unknown("dataset", name, [])


def _file(services: Services, name: str, rows: Sequence[LedgerRow]) -> Response:
    """Return rows with the key that signs them. ASCII only: no control character of an agent's sentence reaches a terminal."""
    content = {"public_key": services.store.public_key, "ledger": [row._asdict() for row in rows]}
    return Response(
        json.dumps(content, indent=1),
        media_type="application/json",
        headers={"Content-Disposition": f'attachment; filename="{name}-ledger.json"'},
    )


def _number(request: Request) -> int:
    text = request.query_params.get("page", "1")
    if not text.isascii() or not text.isdecimal() or len(text) > 6 or int(text) < 1:
        raise BadInput("page: give a number from 1.")
    return int(text)


PAGES = [
    Page("/tasks/{task_id}/ledger", of_task),
    Page("/tasks/{task_id}/ledger.json", task_json),
    Page("/datasets/{name}/ledger", of_dataset),
    Page("/datasets/{name}/ledger.json", dataset_json),
]
