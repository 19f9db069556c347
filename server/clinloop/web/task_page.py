"""The page of one task, and its live parts."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from clinloop.services import Services
from clinloop.web import live, words
from clinloop.web.pages import Page, environment, in_thread, render
from clinloop.web.signing_in import services_of
from clinloop.web.task_facts import TaskLook, look_at

PARTS = ("news", "now", "curve", "running", "left", "log", "history", "budget", "watch", "notes", "trust")
"""Parts that change while somebody looks; each has a template in templates/task. None says who looks, so all watchers get the same."""


async def show(request: Request) -> Response:
    """Show a task."""
    look, parts = await in_thread(_seen, services_of(request), request.path_params["task"])
    return render(request, "task/page.html.j2", look=look, parts=parts, words=SAID, seen=live.seen(parts))


async def watch(request: Request) -> Response:
    """Stream the parts of a task that change."""
    services, task_id = services_of(request), request.path_params["task"]
    await in_thread(services.task, task_id)
    watched: live.Live = request.app.state.live
    return watched.watch(request, ("task", task_id), partial(parts_of, services, task_id))


def parts_of(services: Services, task_id: str) -> live.Parts:
    """Return the parts of a task's page as HTML."""
    return _parts(look_at(services, task_id))


def _seen(services: Services, task_id: str) -> tuple[TaskLook, live.Parts]:
    look = look_at(services, task_id)
    return look, _parts(look)


def _parts(look: TaskLook) -> dict[str, str]:
    return {
        name: environment().get_template(f"task/{name}.html.j2").render(look=look, words=SAID).strip() for name in PARTS
    }


SAID = {
    **{
        name: getattr(words, name)
        for name in ("at", "short", "duration", "kind", "rule", "metric", "share", "budget", "run_name")
    },
    "risks": words.RISKS,
    "acceptance": words.ACCEPTANCE,
}
"""What templates find as `words`."""

PAGES = [Page("/tasks/{task}", show), Page("/tasks/{task}/live", watch)]
