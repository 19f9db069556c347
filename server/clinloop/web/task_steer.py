"""Steer a task: a note to its agent, pause and go on, more runs, and stop a run."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from clinloop import clinician
from clinloop.errors import BadInput, Refusal
from clinloop.services import Services
from clinloop.web.pages import Page, back, form_of, in_thread, render, texts_of
from clinloop.web.signing_in import services_of
from clinloop.web.task_facts import look_at, look_at_run
from clinloop.web.task_forms import EMPTY, Filled
from clinloop.web.task_page import SAID

_FIELDS = {"note": "text", "pause": "pause_why", "resume": "pause_why", "extend": "extend_why"}
"""The field that an error of an act belongs to."""


async def steer(request: Request) -> Response:
    """Show the forms, or do what one of them says."""
    services, task_id = services_of(request), request.path_params["task"]
    filled, status = EMPTY, 200
    if request.method == "POST":
        given = await texts_of(request)
        errors = await in_thread(_act, services, task_id, given)
        if not errors:
            return back(f"/tasks/{task_id}")
        filled, status = Filled(given, errors), 400
    look = await in_thread(look_at, services, task_id)
    level = await in_thread(clinician.level_note, services, task_id)
    return render(request, "task/steer.html.j2", status, look=look, words=SAID, filled=filled, level=level)


def _act(services: Services, task_id: str, given: Mapping[str, str]) -> dict[str, str]:
    """Do one act; returns what was wrong by field, nothing when it was done."""
    act = given.get("act", "")
    try:
        match act:
            case "note":
                clinician.write_note(services, task_id, given.get("text", ""))
            case "pause" | "resume":
                clinician.set_paused(services, task_id, act == "pause", given.get("pause_why", ""))
            case "extend":
                number = given.get("number", "").strip()
                if not (number.isascii() and number.isdecimal() and len(number) < 6):
                    return {"number": f"Give a whole number from 1 to {clinician.RUNS_MOST}."}
                if not 1 <= int(number) <= clinician.RUNS_MOST:
                    return {"number": f"Give a number from 1 to {clinician.RUNS_MOST}."}
                clinician.extend_budget(services, task_id, int(number), given.get("extend_why", ""))
            case _:
                raise BadInput("Choose what to do on this page.")
    except BadInput as error:
        return {_FIELDS.get(act, ""): str(error)}
    except Refusal as error:
        return {"": str(error)}
    return {}


async def stop(request: Request) -> Response:
    """Ask whether a run is really to be stopped, or stop it."""
    services, task_id, name = services_of(request), request.path_params["task"], request.path_params["run"]
    if request.method == "POST":
        why = str((await form_of(request)).get("why", ""))
        await in_thread(lambda: clinician.stop_run(services, task_id, name, why))
        return back(f"/tasks/{task_id}")
    run = await in_thread(look_at_run, services, task_id, name)
    return render(request, "task/stop.html.j2", task=services.task(task_id), run=run, words=SAID)


PAGES = [
    Page("/tasks/{task}/steer", steer, methods=("GET", "POST")),
    Page("/tasks/{task}/runs/{run}/stop", stop, methods=("GET", "POST")),
]
