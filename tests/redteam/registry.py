"""All cases of the red team, in the order of the table."""

from __future__ import annotations

from . import budget, channel, files, finalise, host, network, own, parsers, reads, resources
from .case import Case

SECTIONS: dict[str, list[Case]] = {
    "Reading what must not be read": reads.CASES,
    "Network and ways between processes": network.CASES,
    "Resources and deadlines": resources.CASES,
    "Budget and score": budget.CASES,
    "Files and edits": files.CASES,
    "Parsers": parsers.CASES,
    "Logs and the channel to the agent": channel.CASES,
    "The evaluation": finalise.CASES,
    "Host, users and records": host.CASES,
    "Our own": own.CASES,
}
CASES: list[Case] = [case for cases in SECTIONS.values() for case in cases]
RUN: list[tuple[str, Case]] = [
    (place, case)
    for place in ("bubblewrap", "docker", "server")
    for case in CASES
    if place in case.where and (case.probe or case.attack)
]
"""What is run: (backend or "server", case)."""
