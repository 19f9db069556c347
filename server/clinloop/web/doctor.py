"""The custodian's page of what is installed, enforced, and may be claimed: what `clinloop doctor` finds."""

from __future__ import annotations

from typing import NamedTuple, get_args

from starlette.requests import Request
from starlette.responses import Response

from clinloop import doctor, exposure, guarantee
from clinloop.access import own_client
from clinloop.guarantee import Connection, Standing
from clinloop.services import Services
from clinloop.web.measured import shared
from clinloop.web.pages import Page, back, in_thread, render
from clinloop.web.signing_in import services_of


class Found(NamedTuple):
    """What the page shows."""

    examination: doctor.Examination
    levels: tuple[tuple[str, Standing], ...]
    """What may be claimed of a client of the server's own user, by how it is served."""


def look(services: Services) -> Found:
    """Examine everything once."""
    client = own_client()
    findings = exposure.compute(client, services.grounds())
    ways = [way for way in get_args(Connection) if way != "remote"]  # there nothing can be tried from here
    levels = tuple((doctor.HOW[way], guarantee.standing(way, findings)) for way in ways)
    return Found(doctor.find(services, doctor.Tried(client, "stdio", findings)), levels)


async def page(request: Request) -> Response:
    """Show what was found last; POST looks again."""
    services = services_of(request)
    measurement = shared(request.app.state, "doctor", lambda: look(services))
    measured = await in_thread(lambda: measurement.read(again=request.method == "POST"))
    if request.method == "POST":
        return back("/doctor")
    return render(
        request,
        "doctor.html.j2",
        measured=measured,
        found=measured.value,
        address=str(request.base_url).rstrip("/"),
        page_url=services.settings.page_url,
    )


PAGES = [Page("/doctor", page, ("custodian",), ("GET", "POST"))]
