"""The custodian's page of all tasks, of what takes the disk, and of clean-up."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from clinloop import cleanup
from clinloop.cleanup import SCOPES, Scope
from clinloop.disk import DiskUse, TaskUse, measure, size_text
from clinloop.errors import BadInput, NotNow
from clinloop.services import Services
from clinloop.store.tasks import ENDED
from clinloop.web import words
from clinloop.web.measured import shared
from clinloop.web.pages import Page, back, form_of, in_thread, render
from clinloop.web.signing_in import services_of

_LINES = 200
"""Folders of one plan that are listed."""


async def housekeeping(request: Request) -> Response:
    """Show all tasks and what takes the disk; POST measures again."""
    services = services_of(request)
    measurement = shared(request.app.state, "disk", lambda: measure(services))
    measured = await in_thread(lambda: measurement.read(again=request.method == "POST"))
    if request.method == "POST":
        return back("/housekeeping")
    return render(
        request,
        "housekeeping/page.html.j2",
        measured=measured,
        use=measured.value,
        tasks=await in_thread(_tasks, services, measured.value),
        size=size_text,
    )


def _tasks(services: Services, use: DiskUse | None) -> list[dict[str, Any]]:
    """Return all tasks, newest first, each with its runs and what it takes."""
    taken: dict[str, TaskUse] = {item.id: item for item in use.tasks} if use else {}
    store, found = services.store, list[dict[str, Any]]()
    for task in services.tasks():
        runs, asked = store.runs(task.id), store.open_question(task.id)
        active = next((run for run in runs if run.is_active), None)
        found.append(
            {
                "task": task,
                "said": words.task_state(task, asked.kind if asked else None, active),
                "is_ended": task.status in ENDED,
                "runs": sum(run.mode == "full" for run in runs),
                "active": active,
                "use": taken.get(task.id),
            }
        )
    return found


async def plan(request: Request) -> Response:
    """Show what a clean-up would remove: of one task, or of all ended ones."""
    services, asked = services_of(request), request.query_params
    scope, task = _scope(asked.get("scope", "runs")), asked.get("task", "")
    plans = await in_thread(_plans, services, scope, [task] if task else [])
    return render(
        request,
        "housekeeping/plan.html.j2",
        plans=plans,
        scope=scope,
        task=task,
        bytes=sum(item.bytes for item in plans),
        most=_LINES,
        size=size_text,
    )


def _plans(services: Services, scope: Scope, tasks: list[str]) -> list[cleanup.Plan]:
    if not tasks:
        return cleanup.plans(services, scope)
    return [item for task in tasks if (item := cleanup.plan(services, task, scope)).items]


async def clean(request: Request) -> Response:
    """Remove what was shown; what was not shown, because a task has ended since then, stays."""
    services, form = services_of(request), await form_of(request)
    scope, tasks = _scope(str(form.get("scope", ""))), [str(task) for task in form.getlist("task")]
    if form.get("agreed") != "yes":
        raise BadInput("Nothing was removed: tick the box that says that it cannot be brought back.")
    done, refused = await in_thread(_clean, services, scope, tasks)
    shared(request.app.state, "disk", lambda: measure(services)).forget()
    return render(
        request,
        "housekeeping/cleaned.html.j2",
        409 if refused and not done else 200,
        done=done,
        refused=refused,
        bytes=sum(item.bytes for item in done),
        size=size_text,
    )


def _clean(services: Services, scope: Scope, tasks: list[str]) -> tuple[list[cleanup.Plan], list[str]]:
    done, refused = list[cleanup.Plan](), list[str]()
    for task in tasks:
        try:
            done.append(cleanup.clean(services, task, scope))
        except NotNow as refusal:
            refused.append(str(refusal))
    return done, refused


def _scope(text: str) -> Scope:
    if text not in SCOPES:
        raise BadInput(f"scope: one of {', '.join(SCOPES)}.")
    return text


PAGES = [
    Page("/housekeeping", housekeeping, ("custodian",), ("GET", "POST")),
    Page("/housekeeping/plan", plan, ("custodian",)),
    Page("/housekeeping/clean", clean, ("custodian",), ("POST",)),
]
