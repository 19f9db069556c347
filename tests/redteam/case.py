"""What a case of the red team is: an attack, what should come of it, and where it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .stage import Stage

SANDBOXES = ("bubblewrap", "docker")
"""Backends that isolate; a case that does not depend on the backend runs once, and its column is "server"."""
SERVER = ("server",)

Verb = Literal[
    "absent", "refused", "capped", "killed", "ignored", "stripped", "charged", "recorded", "isolated", "succeeds"
]
VERBS: dict[str, str] = {
    "absent": "what the attack looks for is not there",
    "refused": "the attempt fails, and nothing has changed",
    "capped": "it stops at a limit, and the server goes on",
    "killed": "the code is ended from outside",
    "ignored": "it can be done and changes nothing that counts",
    "stripped": "what acts or hides is removed, the rest is shown as untrusted text",
    "charged": "it costs what it should cost, once",
    "recorded": "it can be done, and the record says so",
    "isolated": "both sides work, and do not meet",
    "succeeds": "it works, which is stated below",
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attack. Exactly one of probe, attack, tests and reason says how it is carried out, or why not."""

    number: str
    """Section letter and number; X: our own."""
    title: str
    expected: Verb
    probe: str = ""
    """Body of a function that runs inside and returns the verb; the probes of all cases share one run."""
    phase: Literal["train", "predict"] = "train"
    """Which program a probe is part of."""
    witness: Callable[[Stage], str] | None = None
    """What the host saw of a probe; its verb counts when it is not empty."""
    attack: Callable[[Stage], str] | None = None
    """Carries out the attack with runs or calls of its own, and returns the verb."""
    tests: tuple[str, ...] = ()
    """Tests elsewhere that carry it out through the public surface."""
    reason: str = ""
    """Why it is not run."""
    where: tuple[str, ...] = SANDBOXES
    note: str = ""
    """One sentence for the table."""

    def __post_init__(self) -> None:
        ways = [bool(way) for way in (self.probe, self.attack, self.tests, self.reason)]
        if sum(ways) != 1 or self.expected not in VERBS or (self.expected == "succeeds" and not self.note):
            raise ValueError(self.number)
