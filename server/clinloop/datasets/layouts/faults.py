"""Faults of annotations collected into one refusal; which file and row they are in is said to the custodian only, for names of files may name people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from clinloop.errors import BadInput

_MAX_NOTES = 200


class Faults:
    """Collects rows that cannot be read, so that one refusal tells of all."""

    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()
        self._lines: list[str] = []

    def add(self, kind: str, place: str) -> None:
        """Count one fault; the place (a file and a row) is for the custodian only."""
        self._kinds[kind] += 1
        self._lines.append(f"{place}: {kind}")

    def refuse(self) -> None:
        """Refuse the folder if there was a fault.

        Raises:
            BadInput: with the places as notes.
        """
        if not self._kinds:
            return
        found = "; ".join(f"{count} × {kind}" for kind, count in self._kinds.most_common())
        error = BadInput(f"The annotations cannot be read: {found}. Nothing was added; correct them and add it again.")
        for line in self._lines[:_MAX_NOTES]:
            error.add_note(line)
        raise error


def refuse_each(places: Iterable[str], kind: str) -> None:
    """Refuse the folder if there is a place with a fault of one kind.

    Raises:
        BadInput: with the places as notes.
    """
    faults = Faults()
    for place in places:
        faults.add(kind, place)
    faults.refuse()
