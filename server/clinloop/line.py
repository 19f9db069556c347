"""The line for GPUs and CPU slots as people see it who look after the server."""

from __future__ import annotations

from clinloop.services import Services
from clinloop.store.queue import InLine


def line(services: Services) -> list[InLine]:
    """Return who has GPUs or CPU slots and who waits for some, lane by lane in the order in which they are served.

    Raises:
        Forbidden: the principal is neither clinician nor custodian; an agent sees its own place with read_validation.
    """
    services.principal.require("clinician", "custodian", what="see the whole line")
    return services.store.line()
