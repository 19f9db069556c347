"""inspect_dataset: facts about train and validation, never about the test set."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import anyio
from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

from clinloop import ingestion
from clinloop.datasets.dataset import Dataset
from clinloop.services import Services
from clinloop_tools.common import Reply, State, picture, structured, tool, wait_seconds

PAGE = 40
"""Lines of a paged list."""


class DatasetReply(Reply):
    """Facts about datasets."""

    datasets: list[str] = Field(default_factory=list[str])
    """Datasets that are ready."""
    folders: list[str] = Field(default_factory=list[str])
    """Folders below the data roots that can be inspected by name; the first inspection ingests them."""
    facts: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Facts of the view; all from train and validation cases only."""
    page: int = 1
    """This page."""
    pages: int = 1
    """Pages there are."""


View = Literal["summary", "audit", "attributes", "gallery"]


async def inspect_dataset(
    state: State,
    ctx: Context[Services],
    dataset: Annotated[
        str, Field(description='Name of a dataset or of a folder below a data root, e.g. "isic". Default: list them.')
    ] = "",
    view: Annotated[
        View,
        Field(
            description='"summary" (default): classes, counts, groups, attributes, image sizes, highlights of the audit; "audit": everything it '
            'found; "attributes": each attribute against the label; "gallery": a picture of labelled examples.'
        ),
    ] = "summary",
    page: Annotated[int, Field(description="Page of a long answer. Default 1.", ge=1)] = 1,
) -> CallToolResult:
    """Learn what a dataset holds before you plan: classes, counts, groups, duplicates, leaks, attributes that predict the label.

    Call it first, without arguments to see which datasets there are. A folder below a data root is ingested on first use, which
    takes a while: repeat the call while status is "ingesting". All facts are from training and validation cases; nothing about the
    test set and no patient identifier ever comes back. Read the audit: shortcuts such as image size or source that predict the label
    decide what a validation score is worth. Next: init_task.
    """
    ready = Dataset.list_names(state.settings.state)
    if not dataset:
        folders = ingestion.folders(state)
        next_step = (
            "Call inspect_dataset(dataset=...) with one of these names."
            if ready or folders
            else ("There is no dataset yet; the custodian adds one with `clinloop data add PATH --name NAME`.")
        )
        return structured(DatasetReply(status="ok", next_step=next_step, datasets=ready[:100], folders=folders[:100]))
    if dataset not in ready:
        progress = await anyio.to_thread.run_sync(ingestion.ingest_on_first_use, state, dataset, wait_seconds(ctx, 15))
        if progress is not None:
            next_step = f"Call inspect_dataset(dataset='{dataset}') again; it waits a little each time."
            return structured(DatasetReply(status="ingesting", next_step=next_step, facts={"progress": progress}))
    chosen = Dataset.load(state.settings.state, dataset)
    if view == "gallery":
        return picture(await anyio.to_thread.run_sync(chosen.contact_sheet))
    facts, pages = _facts(chosen, view, page)
    return structured(
        DatasetReply(
            status="ok",
            next_step="Look at view 'audit' and 'gallery' too, then freeze the task with init_task.",
            ledger_head=state.store.head(f"dataset:{dataset}"),
            datasets=[dataset],
            facts=facts,
            page=page,
            pages=pages,
        )
    )


def _facts(dataset: Dataset, view: str, page: int) -> tuple[dict[str, Any], int]:
    match view:
        case "audit":
            lines = dataset.audit_lines()
        case "attributes":
            lines = dataset.attribute_lines()
        case _:
            return dataset.summary(), 1
    pages = max(1, -(-len(lines) // PAGE))
    return {view: lines[(page - 1) * PAGE : page * PAGE]}, pages


TOOL = tool(inspect_dataset, title="Inspect a dataset", read_only=True, idempotent=True)
