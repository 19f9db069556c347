"""`clinloop task queue`: the line for GPUs and CPU slots."""

from __future__ import annotations

import time

from clinloop.line import line
from clinloop.store.queue import InLine
from clinloop.terminal import StateOption, out, services_of, table


def task_queue(state: StateOption = None) -> None:
    """Show who trains and who waits for GPUs or a CPU slot, in the order in which they are served."""
    found = line(services_of(state))
    if not found:
        out().print("Nobody trains and nobody waits.")
        return
    rows = table("task", "run", "of", "lane", "place", "since", "what")
    for row in found:
        place = "has its turn" if row.units else f"{row.place} in line"
        rows.add_row(row.task, row.holder, row.owner or "local user", row.lane, place, row.since[:19], _describe(row))
    out().print(rows)


def _describe(row: InLine) -> str:
    """Return what a holder has and until when, or what one that waits wants and why it is not there."""
    if not row.units:
        return f"wants {row.wanted}" + (f": {row.note}" if row.note else "")
    if row.deadline_unix is None:
        return ", ".join(row.units)
    left = max(0, round((row.deadline_unix - time.time()) / 60))
    return f"{', '.join(row.units)}; training ends within {left + 1} min"
