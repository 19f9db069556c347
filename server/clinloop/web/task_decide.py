"""Say yes or no to the final test of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from clinloop import clinician
from clinloop.errors import BadInput
from clinloop.report.text import number
from clinloop.services import Services
from clinloop.web import words
from clinloop.web.pages import Page, back, in_thread, render, texts_of
from clinloop.web.signing_in import services_of
from clinloop.web.task_facts import look_at, look_at_run, value_of
from clinloop.web.task_forms import EMPTY, Filled, waiting_for
from clinloop.web.task_page import SAID


class Compared(NamedTuple):
    """One value of the start model and of the model that is to be tested."""

    title: str
    start: str
    now: str


async def approve(request: Request) -> Response:
    """Show what is to be tested, or take the answer."""
    services, task_id = services_of(request), request.path_params["task"]
    _, asked = await in_thread(waiting_for, services, task_id, "finalize")
    filled, status = EMPTY, 200
    if request.method == "POST":
        given = await texts_of(request)
        errors = await in_thread(_act, services, task_id, given)
        if not errors:
            return back(f"/tasks/{task_id}")
        filled, status = Filled(given, errors), 400
    look = await in_thread(look_at, services, task_id)
    run = await in_thread(look_at_run, services, task_id, str(asked.asked["run"]))
    names = dict.fromkeys(
        (
            look.task.spec.primary_metric,
            *(guard.metric for guard in look.task.spec.guards),
            *look.task.spec.reported_metrics,
        )
    )
    compared = [
        Compared(
            words.metric(name, look.scheme), number(value_of(look.baseline, name)), number(value_of(run.row, name))
        )
        for name in names
    ]
    return render(
        request, "task/approve.html.j2", status, look=look, run=run, compared=compared, words=SAID, filled=filled
    )


def _act(services: Services, task_id: str, given: Mapping[str, str]) -> dict[str, str]:
    """Take the answer; returns what was wrong by field, nothing when it was done."""
    is_yes = given.get("act") == "approve"
    if is_yes and given.get("understood") != "yes":
        return {"understood": "Tick the box first: the test set is opened once."}
    field = "yes_why" if is_yes else "why"
    try:
        clinician.answer_finalize(services, task_id, approved=is_yes, why=given.get(field, ""))
    except BadInput as error:
        return {field: str(error)}
    return {}


PAGES = [Page("/tasks/{task}/approve", approve, ("clinician",), ("GET", "POST"))]
