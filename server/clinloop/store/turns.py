"""Whose turn it is: a fair share between the owners of tasks, and the order of arrival within one owner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple


class Waiting(NamedTuple):
    """One claim that waits in a lane."""

    place: int
    """Order of arrival."""
    owner: str
    """Whose task it is; clients without a token are one owner."""
    wanted: int
    """Units, all of them at once."""
    arrived: int
    """How many leases had ended when it came."""


def in_turn(waiting: Iterable[Waiting], held: Mapping[str, int], ended: Mapping[str, int]) -> list[Waiting]:
    """Return claims in the order in which they would be served if nobody came and nothing ended.

    held: units that each owner has now. ended: how many leases had ended when the newest ended one of each owner did.

    The next is always the oldest claim of the owner who holds the fewest units; of equals, of the one who has waited longest without
    being served: since its claim came, or since it gave back what it had. So each other owner is served once at most before an owner
    who holds nothing, whoever comes later, and a claim that has become the first stays the first.
    """
    by_age = sorted(waiting, key=lambda claim: (claim.owner, claim.place))
    queues = {owner: list(claims) for owner, claims in groupby(by_age, key=lambda claim: claim.owner)}
    held = {owner: held.get(owner, 0) for owner in queues}

    def rank(owner: str) -> tuple[int, int, int]:
        oldest = queues[owner][0]
        return held[owner], max(oldest.arrived, ended.get(owner, 0)), oldest.place

    line: list[Waiting] = []
    while queues:
        owner = min(queues, key=rank)
        line.append(queues[owner].pop(0))
        held[owner] += line[-1].wanted
        if not queues[owner]:
            del queues[owner]
    return line


def is_served(line: Sequence[Waiting], place: int, free: int) -> bool:
    """Tell whether a claim gets its units: all before it get theirs, too, so nobody is overtaken, not even by who wants less."""
    for claim in line:
        free -= claim.wanted
        if free < 0:
            return False
        if claim.place == place:
            return True
    return False
