"""The guarantee level: what may be claimed about the test set on this machine, and what not."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Level(NamedTuple):
    """One guarantee level."""

    code: Literal["L0", "L1", "L2", "L3"]
    name: str
    meaning: str


LEVELS = (
    Level(
        "L0",
        "honour",
        "The server, its files and the agent's own shell share one user. Code that is submitted to a sandbox cannot reach the test set, and "
        "edits of the ledger show against a head that was noted elsewhere; but the agent's shell could read the vault. Not hidden from it.",
    ),
    Level(
        "L1",
        "sealed",
        "The test set is encrypted and the clinician keeps the key; nothing on this machine can read it before the unsealing.",
    ),
    Level(
        "L2",
        "separate user",
        "The server runs as a user of its own; the operating system keeps the agent's user out of vault, store and code.",
    ),
    Level("L3", "remote", "The server runs on another machine, and the agent has no shell there."),
)


def level() -> Level:
    """Return the level of this server: L0 as long as clients start it under their own user."""
    return LEVELS[0]
