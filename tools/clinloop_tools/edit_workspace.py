"""edit_workspace: look at and change the files of a task; every change is a revision."""

from __future__ import annotations

import fnmatch
from functools import partial
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult
from pydantic import Field

from clinloop import tasks
from clinloop.errors import BadInput
from clinloop.services import Services
from clinloop.untrusted import clean
from clinloop.workspace import Workspace
from clinloop_tools.common import NOT_GIVEN, in_thread, services_of, tool
from clinloop_tools.replies import Reply, shortened, spoken, task_facts, waiting_step

Operation = Literal[
    "list", "view", "search", "create", "replace", "insert", "patch", "delete", "diff", "log", "restore"
]

_NEEDS: dict[str, tuple[str, ...]] = {
    "view": ("path",),
    "search": ("text",),
    "create": ("path", "text"),
    "replace": ("path", "old", "new"),
    "insert": ("path", "text"),
    "patch": ("text",),
    "delete": ("path",),
    "restore": ("revision",),
}
"""Arguments that an operation cannot do without."""

LOGGED = 20
"""Revisions in one reply of operation "log"."""


class WorkspaceReply(Reply):
    """What an operation showed or did."""

    task_id: str
    """Task."""
    revision: str
    """Newest revision of the workspace."""
    summary: str = ""
    """One line on what was done."""
    diff: str = ""
    """Unified diff of a change, or of operation "diff"."""
    text: str = ""
    """Operation "view": the lines with their numbers."""
    note: str = ""
    """How to see more, or what to know."""
    items: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    """Operations "list" (files), "search" (matching lines) and "log" (revisions)."""


async def edit_workspace(
    task_id: Annotated[str, Field(description='Task, e.g. "isic-3f9a2c".')],
    operation: Annotated[
        Operation,
        Field(
            description='"list" [path = glob]; "view" path [first_line, last_line]; "search" text [path = glob]; "create" path text; '
            '"replace" path old new; "insert" path line text; "patch" text (unified diff); "delete" path; "diff" [since, revision, path]; '
            '"log" [revision]; "restore" revision [path].'
        ),
    ],
    ctx: Context[Services],
    path: Annotated[
        str, Field(description='File, relative, e.g. "train.py"; where a glob is allowed, e.g. "*.py". Default: none.')
    ] = "",
    text: Annotated[
        str, Field(description="Content, inserted lines, unified diff, or the plain text to search. Default: none.")
    ] = NOT_GIVEN,
    old: Annotated[
        str, Field(description="Exact text to replace; it must occur exactly once. Default: none.")
    ] = NOT_GIVEN,
    new: Annotated[str, Field(description="What replaces it. Default: none.")] = NOT_GIVEN,
    replace_all: Annotated[bool, Field(description='"replace": every occurrence. Default false.')] = False,
    overwrite: Annotated[bool, Field(description='"create": replace an existing file. Default false.')] = False,
    line: Annotated[int, Field(description='"insert": after this line; 0 = at the top. Default 0.', ge=0)] = 0,
    first_line: Annotated[int, Field(description='"view": first line. Default 1.', ge=1)] = 1,
    last_line: Annotated[int | None, Field(description='"view": last line. Default: as many as fit.')] = None,
    revision: Annotated[
        str, Field(description='"restore": from it; "diff" and "log": up to it. E.g. "r4". Default: the present state.')
    ] = "",
    since: Annotated[str, Field(description='"diff": from this revision. Default "r1", the initial workspace.')] = "r1",
) -> Annotated[CallToolResult, WorkspaceReply]:
    """Look at and change the files of a task. Every change is a revision that run_training can run and "restore" brings back.

    The workspace is train.py (trains until the deadline, asks the server for validation scores, leaves /out/checkpoint), predict.py
    (run afterwards by the server on images it has not seen) and notes. Read README.md and TECHNIQUES.md first. "replace" needs text that
    occurs exactly once and otherwise says where the matches or the nearest lines are; each reply shows the diff. The folder may also be
    edited with your own tools: that becomes a revision at the next call. Costs nothing; after an edit, smoke-test it.
    """
    state = services_of(ctx)
    given: dict[str, str | None] = {"path": path, "text": text, "old": old, "new": new, "revision": revision}
    may_be_empty = {"text", "new"}
    if missing := [
        name
        for name in _NEEDS.get(operation, ())
        if given[name] is None or (not given[name] and name not in may_be_empty)
    ]:
        raise BadInput(f"Operation '{operation}' needs {', '.join(_NEEDS[operation])}; missing: {', '.join(missing)}.")
    edit = partial(
        _carry_out,
        state,
        task_id,
        operation,
        path=path,
        text=text,
        old=old,
        new=new,
        replace_all=replace_all,
        overwrite=overwrite,
        line=line,
        lines=(first_line, last_line),
        revision=revision,
        since=since,
    )
    if operation == "view" and state.store.task(task_id).status != "preparing":
        return edit()  # one small file, read in less time than a thread takes to get its turn
    return await in_thread(ctx, edit)


def _carry_out(
    state: Services,
    task_id: str,
    operation: Operation,
    *,
    path: str,
    text: str,
    old: str,
    new: str,
    replace_all: bool,
    overwrite: bool,
    line: int,
    lines: tuple[int, int | None],
    revision: str,
    since: str,
) -> CallToolResult:
    tasks.require_workspace(state, task_id)
    folder = state.state.task(task_id)
    workspace = Workspace(folder.workspace, folder.revisions)
    match operation:
        case "create":
            edit = workspace.create(path, text, overwrite=overwrite)
        case "replace":
            edit = workspace.replace(path, old, new, replace_all=replace_all)
        case "insert":
            edit = workspace.insert(path, line, text)
        case "patch":
            edit = workspace.patch(text)
        case "delete":
            edit = workspace.delete(path)
        case "restore":
            edit = workspace.restore(revision, path=path)
        case "view":
            shown = _view(workspace, path, *lines)
            return spoken(state, task_id, _reply(state, task_id, workspace.log(limit=1)[0].name, shown))
        case "list" | "search" | "diff" | "log":
            shown = _look(workspace, operation, path=path, text=text, revision=revision, since=since)
            return spoken(state, task_id, _reply(state, task_id, workspace.log(limit=1)[0].name, shown))
    note = (
        f"Changes made outside edit_workspace were recorded first as {edit.outside_revision}."
        if edit.outside_revision
        else ""
    )
    shown = {"summary": edit.summary, "diff": edit.diff, "note": note}
    return spoken(state, task_id, _reply(state, task_id, edit.revision, shown, is_edit=True))


def _view(workspace: Workspace, path: str, first_line: int, last_line: int | None) -> dict[str, Any]:
    view = workspace.view(path, first_line=first_line, last_line=last_line)
    hidden = "Control or invisible characters in it are not shown." if clean(view.text, cap=20_000) != view.text else ""
    return {
        "text": view.text,
        "note": " ".join(filter(None, (view.note, hidden))),
        "summary": f"{view.path}: lines {view.first_line} to {view.last_line} of {view.n_lines}",
    }


def _look(
    workspace: Workspace,
    operation: Literal["list", "search", "diff", "log"],
    *,
    path: str,
    text: str,
    revision: str,
    since: str,
) -> dict[str, Any]:
    match operation:
        case "list":
            listing = workspace.listing()
            files = [item for item in listing.files if fnmatch.fnmatchcase(item.path, path or "*")]
            more = [f"and {len(listing.skipped) - 10} more"] if len(listing.skipped) > 10 else []
            return {
                "items": [item._asdict() for item in files],
                "summary": f"{len(files)} of {len(listing.files)} files",
                "note": f"Not part of revisions: {'; '.join([*listing.skipped[:10], *more])}"
                if listing.skipped
                else "",
            }
        case "search":
            found = workspace.search(text, glob=path or "*")
            return {"items": [match._asdict() for match in found.matches], "note": found.note}
        case "diff":
            diff = workspace.diff(since=since, until=revision, path=path)
            changed = ", ".join(diff.files_changed[:20]) or "no difference"
            return {"diff": diff.text, "summary": f"{diff.since} to {diff.until}: {changed}"}
        case "log":
            newest = workspace.log(limit=1)[0]
            until = workspace.revision(revision) if revision else newest
            items = workspace.log(limit=newest.number)[newest.number - until.number :]
            return {
                "items": [
                    {
                        "revision": item.name,
                        "at": item.created_at,
                        "kind": item.kind,
                        "summary": shortened(item.summary, 160),
                    }
                    for item in items[:LOGGED]
                ],
                "note": f"Older ones: operation 'log' with revision='{items[LOGGED].name}'."
                if len(items) > LOGGED
                else "",
            }


def _reply(
    services: Services, task_id: str, revision: str, shown: dict[str, Any], *, is_edit: bool = False
) -> WorkspaceReply:
    facts = task_facts(services, task_id)
    if facts.task.status != "open":
        closed = f"The task is {facts.task.status}: nothing of the workspace can run any more."
        next_step = waiting_step(services, facts.task) or closed
    elif is_edit:
        next_step = f"Smoke-test it: run_training(task_id='{task_id}', mode='smoke')."
    else:
        next_step = "Form a hypothesis, change the files, then smoke-test."
    return WorkspaceReply(
        status=facts.task.status,
        next_step=next_step,
        guarantee=facts.standing.level.code,
        ledger_head=facts.head,
        budget=facts.budget,
        task_id=task_id,
        revision=revision,
        **shown,
    )


TOOL = tool(edit_workspace, title="Edit the workspace", read_only=False, idempotent=False)
