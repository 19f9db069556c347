"""inspect_dataset: facts about train and validation, never about the test set."""

from __future__ import annotations

import json
import textwrap
import time
from typing import Annotated, Any, Literal

import anyio
from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

from clinloop import ingestion, templates
from clinloop.datasets.dataset import Dataset
from clinloop.errors import BadInput
from clinloop.sandbox.installed import installed
from clinloop.services import Services
from clinloop.settings import Settings
from clinloop_tools.common import services_of, tool, wait_seconds
from clinloop_tools.replies import ImageView, Reply, image_view, picture, structured

PAGE = 6_000
"""Characters of a page of lines."""
LINE = 1_500
"""Characters of a line."""
SUMMARY = 7_000
"""Characters of the facts of a summary."""
SHOWN = 10
"""Members that are shown of a list that is cut."""
INGEST_WAIT_S = 15.0
"""Seconds that one call waits for an ingest, if its client waits that long."""


class DatasetReply(Reply):
    """Facts about datasets."""

    datasets: list[str] = Field(default_factory=list[str])
    """Datasets that are ready."""
    folders: list[str] = Field(default_factory=list[str])
    """Folders below the data roots that can be inspected by name; the first inspection ingests them."""
    facts: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Facts of the view; all from train and validation cases only."""
    images: list[ImageView] = Field(default_factory=list[ImageView])
    """View "summary": what code can import, by sandbox image; a task's template decides which one it gets."""
    page: int = 1
    """This page."""
    pages: int = 1
    """Pages there are."""


View = Literal["summary", "audit", "attributes", "gallery", "packages"]


async def inspect_dataset(
    ctx: Context[Services],
    dataset: Annotated[
        str, Field(description='Name of a dataset or of a folder below a data root, e.g. "isic". Default: list them.')
    ] = "",
    view: Annotated[
        View,
        Field(
            description='"summary" (default): classes, counts, which cases have masks, boxes or labels only, groups, attributes, image sizes, '
            'warnings of the audit; "audit": everything it found; "attributes": each attribute against the label and how well it alone predicts '
            'it; "gallery": a picture of labelled examples with their boxes and masks; "packages": all that '
            "code can import (needs no dataset)."
        ),
    ] = "summary",
    page: Annotated[int, Field(description="Page of a long answer. Default 1.", ge=1)] = 1,
) -> CallToolResult:
    """Learn what a dataset holds before you plan: classes, counts, groups, duplicates, leaks, attributes that predict the label.

    Call it first, without arguments to see which datasets there are. A folder below a data root is ingested on first use, which
    takes a while: repeat the call while status is "ingesting". All facts are from training and validation cases; nothing about the
    test set and no patient identifier ever comes back. Read the audit: which cases have boxes or masks and which a label only decides how to
    train; shortcuts such as image size, source or an attribute that predict the label decide what a validation score is worth. Next: init_task.
    """
    state = services_of(ctx)
    if view == "packages":
        return structured(_packages(state, page))
    ready = Dataset.list_names(state.settings.state)
    if not dataset:
        return structured(_list(state, ready, page))
    if dataset not in ready and (progress := await _ingest(state, dataset, ctx)) is not None:
        next_step = f"Call inspect_dataset(dataset='{dataset}') again; it waits a little each time."
        return structured(
            DatasetReply(
                status="ingesting",
                guarantee=state.standing().level.code,
                next_step=next_step,
                facts={"progress": progress},
                ledger_head=state.store.head(f"dataset:{dataset}"),
            )
        )
    chosen = Dataset.load(state.settings.state, dataset)
    if view == "gallery":
        return picture(await anyio.to_thread.run_sync(chosen.contact_sheet), state.store.head(f"dataset:{chosen.name}"))
    facts, pages = _facts(chosen, view, page)
    return structured(
        DatasetReply(
            status="ok",
            next_step="Look at views 'audit' (everything, in pages), 'attributes' and 'gallery' too, then freeze the task with init_task."
            if view == "summary"
            else f"Page {page} of {pages}: the next is page {page + 1}."
            if page < pages
            else "Freeze the task with init_task when you know the data.",
            guarantee=state.standing(chosen.name).level.code,
            ledger_head=state.store.head(f"dataset:{chosen.name}"),
            datasets=[chosen.name],
            facts=facts,
            images=[image_view(name, state.settings) for name in _images(state.settings)] if view == "summary" else [],
            page=page,
            pages=pages,
        )
    )


def _list(services: Services, ready: list[str], page: int) -> DatasetReply:
    folders = ingestion.folders(services)
    names = pages_of([f"d{name}" for name in ready] + [f"f{name}" for name in folders])
    shown = _page(names, page)
    if not ready and not folders:
        next_step = "There is no dataset yet; the custodian adds one with `clinloop data add PATH --name NAME`."
    elif page < len(names):
        next_step = (
            f"Call inspect_dataset(dataset=...) with one of these names, or inspect_dataset(page={page + 1}) for more."
        )
    else:
        next_step = "Call inspect_dataset(dataset=...) with one of these names."
    return DatasetReply(
        status="ok",
        guarantee=services.standing().level.code,
        next_step=next_step,
        datasets=[name[1:] for name in shown if name[0] == "d"],
        folders=[name[1:] for name in shown if name[0] == "f"],
        page=page,
        pages=len(names),
    )


def _images(settings: Settings) -> list[str]:
    """Return the sandbox images that a task can get."""
    return [settings.image] if settings.image else sorted({template.image for template in templates.all_templates()})


def _packages(services: Services, page: int) -> DatasetReply:
    lines: list[str] = []
    for name in _images(services.settings):
        found = installed(name, services.settings)
        python = f"Python {found.python}" if found.python else "not built yet, so only the main packages are known"
        lines.append(f"image {name}: {found.title}; {python}{f'; {found.notice}' if found.notice else ''}")
        lines += [f"{name}: {package} {version}" for package, version in (found.packages or found.main).items()]
    pages = pages_of(lines)
    return DatasetReply(
        status="ok",
        next_step="Nothing can be installed from inside a sandbox; the custodian adds packages with `clinloop images build IMAGE --with "
        f"PACKAGE==VERSION`.{f' This is page {page} of {len(pages)}.' if len(pages) > 1 else ''}",
        guarantee=services.standing().level.code,
        facts={"packages": _page(pages, page)},
        page=page,
        pages=len(pages),
    )


async def _ingest(services: Services, dataset: str, ctx: Context[Services]) -> dict[str, Any] | None:
    """Wait a little for the ingest of a folder, telling its progress; None when the dataset is ready."""
    deadline, beat = time.monotonic() + wait_seconds(ctx, INGEST_WAIT_S), 0
    while True:
        left = deadline - time.monotonic()
        progress = await anyio.to_thread.run_sync(ingestion.ingest_on_first_use, services, dataset, min(2.0, left))
        if progress is None or time.monotonic() >= deadline:
            return progress
        beat += 1
        await ctx.report_progress(beat, None, f"{progress['phase']}: {progress['done']} of {progress['total']}")


def _facts(dataset: Dataset, view: str, page: int) -> tuple[dict[str, Any], int]:
    match view:
        case "audit":
            lines = dataset.audit_lines()
        case "attributes":
            lines = dataset.attribute_lines()
        case _:
            return shortened(dataset.summary()), 1
    pages = pages_of(lines)
    return {view: _page(pages, page)}, len(pages)


def shortened(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts that fit into a page: the longest ones of many classes, attributes or warnings are cut, and say where the rest is."""
    facts = dict(facts)
    where = {"counts": "audit", "classes": "audit", "truth": "audit", "warnings": "audit", "attributes": "attributes"}
    while len(json.dumps(facts, ensure_ascii=False)) > SUMMARY:
        sizes = {
            name: len(json.dumps(facts[name], ensure_ascii=False))
            for name in where
            if name in facts and not isinstance(facts[name], str)
        }
        if not sizes:
            break
        name = max(sizes, key=sizes.__getitem__)
        value = facts[name]
        if isinstance(value, list) and len(value) > SHOWN + 1:
            facts[name] = [*value[:SHOWN], f"and {len(value) - SHOWN} more: view '{where[name]}'"]
        else:
            facts[name] = f"too long for a summary: view '{where[name]}'"
    return facts


def pages_of(lines: list[str]) -> list[list[str]]:
    """Divide lines into pages of at most PAGE characters, lines of more than LINE into several; there is always a first page."""
    pages: list[list[str]] = [[]]
    used = 0
    for line in (part for whole in lines for part in textwrap.wrap(whole, LINE)):
        if pages[-1] and used + len(line) > PAGE:
            pages.append([])
            used = 0
        pages[-1].append(line)
        used += len(line) + 4
    return pages


def _page(pages: list[list[str]], page: int) -> list[str]:
    if page > len(pages):
        raise BadInput(f"There is no page {page}: the last one is {len(pages)}.")
    return pages[page - 1]


TOOL = tool(inspect_dataset, title="Inspect a dataset", read_only=True, idempotent=True)
