"""edit_workspace: look at and change the files of a task; every change is a revision."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from clinloop.errors import BadInput
from clinloop.services import Services
from clinloop.workspace import EditResult, Workspace
from clinloop_tools.common import Reply, State, task_facts, tool

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


def edit_workspace(
    task_id: Annotated[str, Field(description='Task, e.g. "isic-3f9a2c".')],
    operation: Annotated[
        Operation,
        Field(
            description='"list"; "view" path [first_line, last_line]; "search" text [path = glob]; "create" path text; "replace" path old new; '
            '"insert" path line text; "patch" text (unified diff); "delete" path; "diff" [since, revision, path]; "log"; "restore" revision [path].'
        ),
    ],
    state: State,
    path: Annotated[str, Field(description='File, relative, e.g. "train.py". Default: none.')] = "",
    text: Annotated[
        str | None,
        Field(description="Content, inserted lines, unified diff, or the plain text to search. Default: none."),
    ] = None,
    old: Annotated[
        str | None, Field(description="Exact text to replace; it must occur exactly once. Default: none.")
    ] = None,
    new: Annotated[str | None, Field(description="What replaces it. Default: none.")] = None,
    replace_all: Annotated[bool, Field(description='"replace": every occurrence. Default false.')] = False,
    overwrite: Annotated[bool, Field(description='"create": replace an existing file. Default false.')] = False,
    line: Annotated[int, Field(description='"insert": after this line; 0 = at the top. Default 0.', ge=0)] = 0,
    first_line: Annotated[int, Field(description='"view": first line. Default 1.', ge=1)] = 1,
    last_line: Annotated[int | None, Field(description='"view": last line. Default: as many as fit.')] = None,
    revision: Annotated[str, Field(description='"restore": from it; "diff": up to it (default: now). E.g. "r4".')] = "",
    since: Annotated[str, Field(description='"diff": from this revision. Default "r1", the initial workspace.')] = "r1",
) -> WorkspaceReply:
    """Look at and change the files of a task. Every change is a revision that run_training can run and "restore" brings back.

    The workspace is train.py (trains until the deadline, asks the server for validation scores, leaves /out/checkpoint), predict.py
    (run afterwards by the server on images it has not seen) and notes. Read README.md and TECHNIQUES.md first. "replace" needs text that
    occurs exactly once and otherwise says where the matches or the nearest lines are; each reply shows the diff. The folder may also be
    edited with your own tools: that becomes a revision at the next call. Costs nothing; after an edit, smoke-test it.
    """
    state.store.task(task_id)
    given = {"path": path, "text": text, "old": old, "new": new, "revision": revision}
    if missing := [
        name
        for name in _NEEDS.get(operation, ())
        if given[name] in (None, "") and not (name in ("new", "text") and given[name] == "")
    ]:
        raise BadInput(f"operation '{operation}' needs {', '.join(_NEEDS[operation])}; missing: {', '.join(missing)}.")
    folder = state.state.task(task_id)
    workspace = Workspace(folder.workspace, folder.revisions)
    edit: EditResult | None = None
    shown: dict[str, Any] = {}
    match operation:
        case "list":
            listing = workspace.listing()
            shown = {"items": [item._asdict() for item in listing.files[:100]], "note": "; ".join(listing.skipped[:10])}
        case "view":
            view = workspace.view(path, first_line=first_line, last_line=last_line)
            shown = {
                "text": view.text,
                "note": view.note,
                "summary": f"{view.path}: lines {view.first_line} to {view.last_line} of {view.n_lines}",
            }
        case "search":
            found = workspace.search(text or "", glob=path or "*")
            shown = {"items": [match._asdict() for match in found.matches[:40]], "note": found.note}
        case "diff":
            diff = workspace.diff(since=since, until=revision, path=path)
            shown = {
                "diff": diff.text,
                "summary": f"{diff.since} to {diff.until}: {', '.join(diff.files_changed[:20]) or 'no difference'}",
            }
        case "log":
            shown = {
                "items": [
                    {"revision": item.name, "at": item.created_at, "kind": item.kind, "summary": item.summary[:160]}
                    for item in workspace.log()
                ]
            }
        case "create":
            edit = workspace.create(path, text or "", overwrite=overwrite)
        case "replace":
            edit = workspace.replace(path, old or "", new or "", replace_all=replace_all)
        case "insert":
            edit = workspace.insert(path, line, text or "")
        case "patch":
            edit = workspace.patch(text or "")
        case "delete":
            edit = workspace.delete(path)
        case "restore":
            edit = workspace.restore(revision, path=path)
    return _reply(state, task_id, workspace, edit, shown)


def _reply(
    services: Services, task_id: str, workspace: Workspace, edit: EditResult | None, shown: dict[str, Any]
) -> WorkspaceReply:
    facts = task_facts(services, task_id)
    if edit is not None:
        note = (
            f"Changes made outside edit_workspace were recorded first as {edit.outside_revision}."
            if edit.outside_revision
            else ""
        )
        shown = {"summary": edit.summary, "diff": edit.diff, "note": note}
        next_step = f"Smoke-test it: run_training(task_id='{task_id}', mode='smoke')."
    else:
        next_step = "Form a hypothesis, change the files, then smoke-test."
    newest = edit.revision if edit else workspace.log(limit=1)[0].name
    return WorkspaceReply(
        status=facts.task.status,
        next_step=next_step,
        ledger_head=facts.head,
        budget=facts.budget,
        task_id=task_id,
        revision=newest,
        **shown,
    )


TOOL = tool(edit_workspace, title="Edit the workspace", read_only=False, idempotent=False)
