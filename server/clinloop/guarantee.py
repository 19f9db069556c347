"""The guarantee levels: what may be claimed about the test set, computed from what the client's user can reach."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

Code = Literal["L0", "L1", "L2", "L3"]
Connection = Literal["stdio", "socket", "http", "remote"]
"""How the client talks to the server; "http" is from this machine, "remote" over HTTP from another, where no local account can be tried."""


class Level(NamedTuple):
    """One guarantee level."""

    code: Code
    name: str
    meaning: str


LEVELS = (
    Level(
        "L0",
        "honour",
        "Code that is submitted to a sandbox cannot reach the test set, and edits of the ledger show against a head that was noted elsewhere; "
        "but the agent's own shell, outside the sandbox, could read the vault. Not hidden from it.",
    ),
    Level(
        "L1",
        "sealed",
        "The test set is encrypted and the clinician keeps the key; nothing on this machine can read it before the unsealing. Not claimed: "
        "that the code which scores it after the unsealing was out of the agent's reach.",
    ),
    Level(
        "L2",
        "separate user",
        "The server runs as a user of its own; the operating system keeps the agent's user out of vault, store, key and code.",
    ),
    Level("L3", "remote", "The server runs on another machine, and the agent has no shell there."),
)


class Finding(NamedTuple):
    """One thing that a client's user must not reach, and whether it does."""

    what: str
    is_reachable: bool
    how: str
    """What was found, in a sentence part without any path: agents read it."""
    fix: str
    """What the custodian does about it; empty when there is nothing to do."""
    where: str = ""
    """The path that was reached; for the custodian only."""


class Seal(NamedTuple):
    """What is known of a dataset's seal."""

    is_sealed: bool = False
    originals_readable: bool = True
    """The images that the dataset was made of can still be read on this machine."""


class Standing(NamedTuple):
    """The level of one connection, with why it is not higher and what that rests on."""

    level: Level
    reason: str
    """Why the level is not higher, without any path."""
    findings: tuple[Finding, ...]

    @property
    def text(self) -> str:
        """The level, its meaning and why it is not higher, for people and agents."""
        return f"{self.level.code} {self.level.name}: {self.level.meaning} {self.reason}".strip()

    def as_event(self, connection: Connection) -> dict[str, object]:
        """Return what the ledger records."""
        reached = [finding.what for finding in self.findings if finding.is_reachable]
        return {"level": self.level.code, "connection": connection, "reachable": reached, "reason": self.reason}


def named(code: str) -> Level:
    """Return the level of a code; L0 for one that is not known."""
    return next((level for level in LEVELS if level.code == code), LEVELS[0])


def lowest(codes: Iterable[str]) -> Level:
    """Return the lowest of the levels; L0 when there is none, because nothing was established then."""
    return min((named(code) for code in codes), key=lambda level: level.code, default=LEVELS[0])


def standing(connection: Connection, findings: Iterable[Finding], seal: Seal = Seal()) -> Standing:  # noqa: B008
    """Return the level of a connection; one thing that the client's user reaches is enough to lose L2 and L3.

    A sealed dataset keeps L1 whatever the client reaches, even as an administrator: the key to it is not on the machine.
    """
    found = tuple(findings)
    reached = list(dict.fromkeys(finding.what for finding in found if finding.is_reachable))
    both = " The test set is sealed besides." if seal.is_sealed else ""
    if connection == "remote" and not reached:
        return Standing(LEVELS[3], both.strip(), found)
    if connection in ("socket", "http") and not reached:
        return Standing(LEVELS[2], "Not L3: the agent has a shell on the same machine." + both, found)
    not_l2 = (
        "Not L2: the server runs under the user of its client."
        if connection == "stdio"
        else f"Not L2: the client's user reaches {', '.join(reached)}."
    )
    return _below_l2(not_l2, seal, found)


def not_established(connection: Connection, seal: Seal) -> Standing:
    """Return the level of a client of whom it is not known what it reaches."""
    return _below_l2(
        "Not L3: the custodian has not declared that agents on other machines have no account here (setting remote_agents)."
        if connection == "remote"
        else "Not L2: it is not known as which user of this machine the client runs.",
        seal,
        (),
    )


def _below_l2(why: str, seal: Seal, found: tuple[Finding, ...]) -> Standing:
    if seal.is_sealed and not seal.originals_readable:
        return Standing(LEVELS[1], why, found)
    not_l1 = (
        "Not L1: the images that the sealed dataset was made of can still be read here."
        if seal.is_sealed
        else "Not L1: the test set is not sealed."
    )
    return Standing(LEVELS[0], f"{not_l1} {why}", found)
