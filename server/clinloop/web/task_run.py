"""The page of one run: values, classes, curve, errors on validation, changes, log."""

from __future__ import annotations

from typing import Any, NamedTuple

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from clinloop.errors import NotNow, Refusal
from clinloop.report.text import number
from clinloop.scoring import metrics
from clinloop.services import Services
from clinloop.store.rows import TaskRow
from clinloop.web import curves, words
from clinloop.web.pages import Page, in_thread, render
from clinloop.web.signing_in import services_of
from clinloop.web.task_facts import RunLook, look_at_run, read_log
from clinloop.web.task_page import SAID
from clinloop.workspace import Workspace

Changes = list[tuple[str, str]]
"""Lines of a diff, each with its kind: plus, minus, place, file or nothing."""


class Value(NamedTuple):
    """One value on validation with its 95 % interval."""

    title: str
    value: str
    interval: str


class RunPage(NamedTuple):
    """What the page of a run shows."""

    task: TaskRow
    run: RunLook
    values: list[Value]
    per_class: list[dict[str, Any]]
    confusion: list[list[int]]
    curve: Markup | None
    points: list[tuple[float, float]]
    logs: dict[str, str]
    changes: Changes
    has_misses: bool


async def show(request: Request) -> Response:
    """Show a run."""
    found: RunPage = await in_thread(_collect, services_of(request), *_named(request))
    return render(request, "task/run.html.j2", found=found, words=SAID, number=number)


async def changes(request: Request) -> Response:
    """Show what a run changed, for the list of runs."""
    services, (task_id, name) = services_of(request), _named(request)
    run = await in_thread(look_at_run, services, task_id, name)
    lines = await in_thread(_changes, services, task_id, run)
    return render(request, "task/changes.html.j2", changes=lines, run=run)


async def misses(request: Request) -> Response:
    """Return a picture of the surest errors of a run on validation; for people, so it costs the agent nothing."""
    services, (task_id, name) = services_of(request), _named(request)
    data = await in_thread(_picture, services, task_id, name)
    return Response(data, media_type="image/png")


def _named(request: Request) -> tuple[str, str]:
    return request.path_params["task"], request.path_params["run"]


def _collect(services: Services, task_id: str, name: str) -> RunPage:
    run, task = look_at_run(services, task_id, name), services.task(task_id)
    scheme, scores = metrics.scheme_of(task.spec), run.row.scores or {}
    points = [
        (point["seconds"], point["score"])
        for point in services.state.task(task_id).run(name).read_validations()
        if "score" in point
    ]
    title = words.metric(task.spec.primary_metric, scheme)
    logs = {phase: read_log(services, run.row, phase, cap=20_000) for phase in ("train", "predict")}
    return RunPage(
        task=task,
        run=run,
        values=[_value(key, estimate, scheme) for key, estimate in scores.get("metrics", {}).items()],
        per_class=scores.get("per_class", []),
        confusion=scores.get("confusion", []),
        curve=curves.inside(points, title, points[-1][0]) if len(points) > 1 else None,
        points=points,
        logs={phase: text for phase, text in logs.items() if text},
        changes=_changes(services, task_id, run),
        has_misses=run.row.mode == "full" and run.row.status == "succeeded",
    )


def _value(name: str, estimate: dict[str, Any], scheme: metrics.Scheme) -> Value:
    low, high = estimate["low"], estimate["high"]
    interval = "–" if low is None or high is None else f"{number(low)} to {number(high)}"
    return Value(words.metric(name, scheme), number(estimate["value"]), interval)


def _changes(services: Services, task_id: str, run: RunLook) -> Changes:
    """Return what changed against the code of the model that was kept before; empty when nothing did."""
    folder = services.state.task(task_id)
    try:
        diff = Workspace(folder.workspace, folder.revisions).diff(since=run.since, until=run.row.revision)
    except Refusal:  # the workspace was removed, or is being written for long
        return []
    return [(_kind(line), line) for line in diff.text.splitlines()]


def _kind(line: str) -> str:
    if line.startswith(("+++", "---")):
        return "file"
    return {"+": "plus", "-": "minus", "@": "place"}.get(line[:1], "")


def _picture(services: Services, task_id: str, name: str) -> bytes:
    from clinloop_tools import pictures  # late: it loads numpy

    run = look_at_run(services, task_id, name)
    if not (run.row.mode == "full" and run.row.status == "succeeded"):
        raise NotNow("Only a finished training run has errors to show.")
    return pictures.sheet(*pictures.misses_shown(services, task_id, run.row))


PAGES = [
    Page("/tasks/{task}/runs/{run}", show),
    Page("/tasks/{task}/runs/{run}/changes", changes),
    Page("/tasks/{task}/runs/{run}/misses.png", misses),
]
