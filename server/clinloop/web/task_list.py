"""The first page: what waits for a person, what is running, what is done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from clinloop.report.text import number
from clinloop.services import Services
from clinloop.store.rows import TaskRow
from clinloop.web import live
from clinloop.web.pages import Page, environment, in_thread, render
from clinloop.web.signing_in import services_of
from clinloop.web.task_facts import TaskLook, look_at
from clinloop.web.task_page import SAID
from clinloop.web.words import Said, task_state

SHOWN = 30
"""Ended tasks on one page."""
_ENDED = ("evaluated", "invalid", "declined")
_WAITING = ("awaiting_confirmation", "awaiting_choice", "awaiting_unseal")
KINDS = {"": "All", "waiting": "Waiting for me", "running": "Under way", "done": "Done"}
_PARTS = ("summary", "waiting", "running", "done")


class Ended(NamedTuple):
    """An ended task in the list."""

    task: TaskRow
    state: Said
    result: str
    """Its primary metric on the test set before and after, in words."""


class Asked(NamedTuple):
    """Which tasks to list."""

    show: str = ""
    text: str = ""
    page: int = 1

    def link(self, **changes: str | int) -> str:
        """Return the address of the list with something changed."""
        values = {"show": self.show, "q": self.text, "page": self.page, **changes}
        given = {key: value for key, value in values.items() if value not in ("", 1)}
        return f"/?{urlencode(given)}" if given else "/"


class Listed(NamedTuple):
    """The list."""

    waiting: list[TaskLook]
    running: list[TaskLook]
    done: list[Ended]
    counts: dict[str, int]
    asked: Asked
    pages: int


async def tasks(request: Request) -> Response:
    """List the tasks."""
    asked = _asked(request)
    listed, parts = await in_thread(_seen, services_of(request), asked)
    seen = live.seen(parts)
    return render(request, "tasks/page.html.j2", listed=listed, parts=parts, asked=asked, kinds=KINDS, seen=seen)


async def watch(request: Request) -> Response:
    """Stream the parts of the list that change."""
    services, asked = services_of(request), _asked(request)
    watched: live.Live = request.app.state.live
    return watched.watch(request, ("tasks", *asked), partial(parts_of, services, asked))


def parts_of(services: Services, asked: Asked) -> live.Parts:
    """Return the parts of the list as HTML."""
    return _seen(services, asked)[1]


def collect(services: Services, asked: Asked) -> Listed:
    """Return the tasks that were asked for, newest first in each group."""
    found = [task for task in services.tasks() if _fits(task, asked.text)]
    groups = {
        "waiting": [task for task in found if task.status in _WAITING],
        "running": [task for task in found if task.status not in (*_WAITING, *_ENDED)],
        "done": [task for task in found if task.status in _ENDED],
    }
    counts = {"": len(found), **{name: len(group) for name, group in groups.items()}}
    shown = {name: group if asked.show in ("", name) else [] for name, group in groups.items()}
    pages = max(1, -(-len(shown["done"]) // SHOWN))
    at = min(asked.page, pages)
    return Listed(
        waiting=[look_at(services, task.id) for task in shown["waiting"]],
        running=sorted((look_at(services, task.id) for task in shown["running"]), key=lambda look: look.active is None),
        done=[_ended(task) for task in shown["done"][(at - 1) * SHOWN : at * SHOWN]],
        counts=counts,
        asked=asked._replace(page=at),
        pages=pages,
    )


def _seen(services: Services, asked: Asked) -> tuple[Listed, live.Parts]:
    listed = collect(services, asked)
    parts = {
        name: environment().get_template(f"tasks/{name}.html.j2").render(listed=listed, words=SAID).strip()
        for name in _PARTS
    }
    return listed, parts


def _asked(request: Request) -> Asked:
    given = request.query_params
    show, page = given.get("show", ""), given.get("page", "1")
    return Asked(show if show in KINDS else "", given.get("q", "").strip()[:200], _page(page))


def _page(text: str) -> int:
    return max(1, min(int(text), 10_000)) if text.isascii() and text.isdecimal() and len(text) < 6 else 1


def _fits(task: TaskRow, text: str) -> bool:
    words = text.casefold().split()
    where = f"{task.id} {task.request} {task.dataset} {task.owner}".casefold()
    return all(word in where for word in words)


def _ended(task: TaskRow) -> Ended:
    return Ended(
        task, task_state(task, None, None), _result(task.spec.primary_metric, (task.result or {}).get("metrics", []))
    )


def _result(primary: str, metrics: Sequence[dict[str, dict[str, float | None]]]) -> str:
    for metric in metrics:
        if json.dumps(metric.get("name")) == json.dumps(primary):
            before, after = metric["initial"]["value"], metric["refined"]["value"]
            return f"{number(before)} before, {number(after)} after"
    return ""


PAGES = [Page("/", tasks), Page("/tasks-live", watch)]
