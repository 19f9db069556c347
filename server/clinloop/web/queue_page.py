"""The queue: who trains now, and who waits for a GPU or a slot."""

from __future__ import annotations

from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from clinloop.services import Services
from clinloop.web import words
from clinloop.web.pages import Page, in_thread, render
from clinloop.web.signing_in import services_of
from clinloop.web.task_page import SAID

LANES = {"gpu": "Training on graphics cards", "cpu": "Training on processors", "smoke": "Short trials"}


class Place(NamedTuple):
    """One run or final test in the queue."""

    task_id: str
    request: str
    what: str
    run: str
    """Empty for a final test, which has no page of its own."""
    owner: str
    place: int
    """0: it has what it needs."""
    since: str
    wanted: int
    note: str


async def queue(request: Request) -> Response:
    """Show the queue."""
    lanes = await in_thread(_lanes, services_of(request))
    return render(request, "queue.html.j2", lanes=lanes, words=SAID)


def _lanes(services: Services) -> dict[str, list[Place]]:
    """Return the places by lane, those that have what they need first."""
    from clinloop.line import line

    requests = {task.id: task.request for task in services.tasks()}
    found: dict[str, list[Place]] = {title: [] for title in LANES.values()}
    for entry in line(services):
        is_final = entry.holder == "finalize"
        what = "Final test" if is_final else _run_name(entry.holder)
        found[LANES[entry.lane]].append(
            Place(
                task_id=entry.task,
                request=requests.get(entry.task, entry.task),
                what=what,
                run="" if is_final else entry.holder,
                owner=entry.owner,
                place=entry.place,
                since=words.at(entry.leased_at or entry.since),
                wanted=entry.wanted,
                note=entry.note,
            )
        )
    return {title: sorted(places, key=lambda place: place.place) for title, places in found.items()}


def _run_name(holder: str) -> str:
    name = holder.removeprefix("run").removeprefix("smoke")
    return f"Trial {name}" if holder.startswith("smoke") else f"Run {name}"


PAGES = [Page("/queue", queue)]
