"""Which model counted when, as the ledger of a task tells it: runs that the rule accepted, and runs that the clinician chose instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

Role = Literal["incumbent", "rival", "front", "other"]


class Row(Protocol):
    """A row of a ledger, in the store or in a report."""

    @property
    def seq(self) -> int: ...
    @property
    def at(self) -> str: ...
    @property
    def event(self) -> str: ...
    @property
    def run(self) -> str | None: ...
    @property
    def detail(self) -> Mapping[str, Any]: ...


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Choice(_Value):
    """A run that the clinician made the incumbent, whatever the rule said."""

    run: str
    """Name of the run."""
    at: str
    """UTC ISO-8601."""
    by: str
    """Who chose."""
    why: str = ""
    """Their reason."""
    instead_of: str | None = None
    """The incumbent until then."""
    words: str = ""
    """What the choice gave and took, in plain words, from numbers of the validation cases."""


class Measure(_Value):
    """A value with its 95 % interval; None where none is known."""

    value: float
    low: float | None = None
    high: float | None = None


class Point(_Value):
    """A run in the picture of a trade-off."""

    run: str
    x: Measure
    y: Measure
    role: Role
    """rival: as sensible an answer as the incumbent; front: no run beats it; other: one does."""
    is_baseline: bool = False
    words: str = ""
    """What it gives and takes."""


class Scale(_Value):
    """What an axis of the picture shows."""

    label: str
    is_higher_better: bool = True
    limit: float | None = None
    """Where the margin of a guard ends; None: nowhere."""


class TradeoffPicture(_Value):
    """The runs of a task, the primary metric against the guard that matters; values on validation, rounded as the agent saw them."""

    x: Scale
    y: Scale
    points: tuple[Point, ...]
    """The incumbent, its rivals, other runs that none beats, then the rest."""


class Course(NamedTuple):
    """The incumbents of a task over time."""

    before: dict[str, str | None]
    """By run, the incumbent that the rule compared it with."""
    after: dict[str, str | None]
    """By run, the incumbent once it was decided."""
    last: str | None
    choices: tuple[Choice, ...]

    @property
    def chosen(self) -> frozenset[str]:
        """The runs that the clinician chose at some time."""
        return frozenset(choice.run for choice in self.choices)


def course_of(rows: Sequence[Row]) -> Course:
    """Follow the incumbent through the rows of a task's ledger; a run that was accepted replaces a choice only if it began after it."""
    incumbent: str | None = None
    chosen_at = -1
    begun, before, after = dict[str, int](), dict[str, str | None](), dict[str, str | None]()
    choices: list[Choice] = []
    for row in rows:
        if row.run is None:
            continue
        if row.event == "reserved":
            begun[row.run] = row.seq
        elif row.event == "settled":
            before[row.run] = incumbent
            if row.detail.get("decision") == "accepted" and begun.get(row.run, row.seq) > chosen_at:
                incumbent = row.run
            after[row.run] = incumbent
        elif row.event == "chosen":
            incumbent, chosen_at = row.run, row.seq
            choices.append(_choice(row, row.run))
    return Course(before, after, incumbent, tuple(choices))


def _choice(row: Row, run: str) -> Choice:
    instead = row.detail.get("instead_of")
    return Choice(
        run=run,
        at=row.at,
        by=str(row.detail.get("by", "")),
        why=str(row.detail.get("why", "")),
        instead_of=None if instead is None else str(instead),
        words=str(row.detail.get("words", "")),
    )
