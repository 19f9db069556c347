"""Pages of tasks: all of them, and one."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from clinloop.web.pages import Page, in_thread, render
from clinloop.web.signing_in import services_of


async def tasks(request: Request) -> Response:
    """List the tasks."""
    services = services_of(request)
    return render(request, "tasks.html.j2", tasks=await in_thread(services.tasks))


PAGES = [Page("/", tasks)]
