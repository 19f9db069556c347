"""Choose among models of which none is best in everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from clinloop import clinician
from clinloop.errors import BadInput, NotNow
from clinloop.report.text import number
from clinloop.services import Services
from clinloop.web import words
from clinloop.web.drawings import without_styles
from clinloop.web.pages import Page, back, in_thread, render, texts_of
from clinloop.web.signing_in import services_of
from clinloop.web.task_facts import RunLook, TaskLook, look_at
from clinloop.web.task_forms import EMPTY, Filled
from clinloop.web.task_page import SAID

if TYPE_CHECKING:
    from clinloop.tradeoffs import Option, Tradeoffs


class Answer(NamedTuple):
    """A model that can be chosen."""

    run: RunLook
    option: Option
    values: list[tuple[str, str]]
    """Title and value of the primary metric and of every guard."""


class Asked(NamedTuple):
    """What there is to choose from."""

    look: TaskLook
    found: Tradeoffs
    picture: Markup | None
    answers: list[Answer]


async def choose(request: Request) -> Response:
    """Show the models, or take the choice."""
    services, task_id = services_of(request), request.path_params["task"]
    asked = await in_thread(_collect, services, task_id)
    filled, status = EMPTY, 200
    if request.method == "POST":
        given = await texts_of(request)
        errors = await in_thread(_act, services, asked, given.get("run", ""), given.get("why", ""))
        if not errors:
            return back(f"/tasks/{task_id}")
        filled, status = Filled(given, errors), 400
    return render(request, "task/choose.html.j2", status, asked=asked, look=asked.look, words=SAID, filled=filled)


def _act(services: Services, asked: Asked, run: str, why: str) -> dict[str, str]:
    """Take the choice; returns what was wrong by field, nothing when it was done."""
    if run not in [answer.run.row.name for answer in asked.answers]:
        return {"run": "Choose one of the models first."}
    try:
        clinician.choose_run(services, asked.look.task.id, run, why)
    except BadInput as error:
        return {"why": str(error)}
    return {}


def _collect(services: Services, task_id: str) -> Asked:
    """Return what there is to choose from.

    Raises:
        NotNow: no run has a score yet, or the task cannot be steered any more.
    """
    from clinloop.report.tradeoff_figure import tradeoff_svg
    from clinloop.tradeoffs import picture_of, tradeoffs_of  # late: it draws

    look = look_at(services, task_id)
    if look.task.status not in ("open", "paused", "awaiting_choice"):
        raise NotNow("A model is chosen before the final test; this task has no choice to make any more.")
    found = tradeoffs_of(services, task_id)
    runs = {run.row.name: run for run in look.runs}
    answers = [
        Answer(
            runs[option.run],
            option,
            [
                (words.metric(axis.metric, look.scheme), number(option.values[axis.metric].value))
                for axis in found.axes
                if axis.metric in option.values
            ],
        )
        for option in found.answers
        if option.run in runs
    ]
    if not answers:
        raise NotNow("No model has a value yet, so there is nothing to choose from.")
    drawn = picture_of(found)
    return Asked(look, found, without_styles(tradeoff_svg(drawn)) if drawn else None, answers)


PAGES = [Page("/tasks/{task}/choose", choose, ("clinician",), ("GET", "POST"))]
