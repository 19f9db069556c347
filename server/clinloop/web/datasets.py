"""Pages of datasets: what an agent may learn of each, its pictures, its seal; and for the custodian what only the custodian reads."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, cast, get_args
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from clinloop import cleanup
from clinloop.datasets import vault
from clinloop.datasets.browsing import VisibleSplit, cases_of
from clinloop.datasets.dataset import Dataset
from clinloop.datasets.findings import SUSPICIOUS_AUC, Audit
from clinloop.datasets.pictures import thumbnail
from clinloop.datasets.sealed import seal_warnings
from clinloop.errors import BadInput, NotNow
from clinloop.services import Services
from clinloop.web.pages import Page, back, form_of, in_thread, render
from clinloop.web.signing_in import services_of

PICTURES = 48
"""Pictures of one page of the gallery."""
SIDE = 224
"""Pixels of a picture in the gallery."""
KEPT = {"Cache-Control": "private, max-age=86400"}
"""A picture does not change; the browser of who signed in may keep it for a day, nobody between may."""
SPLITS = {"train": "Training", "val": "Validation"}


class Finding(NamedTuple):
    """One sentence of the audit with what it means for whoever plans a task."""

    severity: str
    """warning, notice or fact."""
    text: str


def findings(audit: Audit) -> list[Finding]:
    """Return the audit's sentences, the worst first."""
    found = [_finding(line) for line in audit.lines()]
    return sorted(found, key=lambda finding: ("warning", "notice", "fact").index(finding.severity))


def _finding(line: str) -> Finding:
    if line.startswith("Warning: "):
        return Finding("warning", line.removeprefix("Warning: "))
    noticed = ("left out: ", "unreadable: ", "metadata in source files")
    is_noticed = line.startswith(noticed) or "sets have several labels" in line
    return Finding("notice" if is_noticed else "fact", line)


async def listing(request: Request) -> Response:
    """List the datasets."""
    services = services_of(request)
    return render(request, "datasets/list.html.j2", datasets=await in_thread(_listed, services))


def _listed(services: Services) -> list[dict[str, Any]]:
    state = services.settings.state
    tasks = [task.dataset for task in services.store.tasks()]
    found: list[dict[str, Any]] = []
    for name in Dataset.list_names(state):
        dataset = Dataset.load(state, name)
        found.append(
            {
                "record": dataset.record,
                "sums": {split: sum(counts.values()) for split, counts in dataset.counts.items()},
                "warnings": len(dataset.audit.warnings),
                "is_sealed": vault.seal_state(dataset.folder).is_sealed,
                "tasks": tasks.count(name),
            }
        )
    return found


async def page(request: Request) -> Response:
    """Show one dataset."""
    services = services_of(request)
    return render(request, "datasets/dataset.html.j2", **await in_thread(_facts, services, request.path_params["name"]))


def _facts(services: Services, name: str) -> dict[str, Any]:
    dataset = Dataset.load(services.settings.state, name)
    seal = vault.seal_state(dataset.folder)
    may_custodian = services.principal.may("custodian")
    return {
        "dataset": dataset,
        "audit": dataset.audit,
        "findings": findings(dataset.audit),
        "suspicious": SUSPICIOUS_AUC,
        "seal": seal,
        "seal_warnings": seal_warnings(dataset.folder) if may_custodian else [],
        "tasks": [task for task in services.tasks() if task.dataset == dataset.name],
        "head": services.store.head(f"dataset:{dataset.name}"),
        "splits": SPLITS,
    }


async def gallery(request: Request) -> Response:
    """Show a page of pictures of one split, never of the test part."""
    services, asked = services_of(request), request.query_params
    dataset = Dataset.load(services.settings.state, request.path_params["name"])
    split, label = asked.get("split", "train"), asked.get("label", "")
    number = asked.get("page", "1")
    if split not in get_args(VisibleSplit):
        raise BadInput("There are pictures of the splits train and val; the test part is never shown.")
    if label and label not in dataset.classes:
        raise BadInput(f"{label[:60]!r} is no class of {dataset.name}; its classes: {', '.join(dataset.classes[:20])}.")
    if not number.isascii() or not number.isdecimal() or len(number) > 6 or int(number) < 1:
        raise BadInput("page: give a number from 1.")
    shown = await in_thread(_shown, dataset, cast("VisibleSplit", split), label, int(number))
    return render(
        request,
        "datasets/gallery.html.j2",
        dataset=dataset,
        split=split,
        label=label,
        splits=SPLITS,
        side=SIDE,
        address=partial(_address, dataset.name, split=split, label=label),
        **shown,
    )


def _address(name: str, *, split: str, label: str, page: int = 1) -> str:
    """Return the address of a page of pictures."""
    given = {"split": split} | ({"label": label} if label else {}) | ({"page": page} if page > 1 else {})
    return f"/datasets/{name}/pictures?{urlencode(given)}"


def _shown(dataset: Dataset, split: VisibleSplit, label: str, number: int) -> dict[str, Any]:
    cases = cases_of(dataset)
    places = cases.select(split, label)
    pages = max(1, -(-len(places) // PICTURES))
    if number > pages:
        raise BadInput(f"There is no page {number}: the last one is {pages}.")
    shown = [cases.at(place) for place in places[(number - 1) * PICTURES : number * PICTURES]]
    return {"cases": shown, "n": len(places), "number": number, "pages": pages}


async def picture(request: Request) -> Response:
    """Return the picture of a training or validation case: small with boxes and masks, or as it is stored."""
    services = services_of(request)
    dataset = Dataset.load(services.settings.state, request.path_params["name"])
    case = (await in_thread(cases_of, dataset)).case(request.path_params["case_id"])
    if request.query_params.get("size") == "full":
        return FileResponse(case.image, headers=KEPT)
    small = await in_thread(thumbnail, case, SIDE, dataset.targets)
    return Response(small, media_type="image/jpeg", headers=KEPT)


async def custodian(request: Request) -> Response:
    """Show what only the custodian reads: counts of the test part, leaks, names of source files."""
    services = services_of(request)
    dataset = Dataset.load(services.settings.state, request.path_params["name"])
    try:
        audit, sealed = await in_thread(vault.custodian_audit, dataset.folder), ""
    except NotNow as refusal:
        audit, sealed = None, str(refusal)
    seal = await in_thread(vault.seal_state, dataset.folder)
    return render(request, "datasets/custodian.html.j2", dataset=dataset, audit=audit, sealed=sealed, seal=seal)


async def remove(request: Request) -> Response:
    """Remove a dataset whose name was typed in."""
    services, name = services_of(request), request.path_params["name"]
    if str((await form_of(request)).get("name", "")).strip() != name:
        raise BadInput(f"Nothing was removed: type the name of the dataset, {name}, to say that you mean it.")
    await in_thread(cleanup.remove_dataset, services, name)
    return back("/datasets")


PAGES = [
    Page("/datasets", listing),
    Page("/datasets/{name}", page),
    Page("/datasets/{name}/pictures", gallery),
    Page("/datasets/{name}/pictures/{case_id}", picture),
    Page("/datasets/{name}/custodian", custodian, ("custodian",)),
    Page("/datasets/{name}/remove", remove, ("custodian",), ("POST",)),
]
