"""Everything that clinloop refuses, as text that an agent may read.

Refusal                 base: the request cannot be done; the text says why, what is valid and what to do next
├── BadInput            an argument, a spec, a path or a file is wrong
├── Forbidden           the role of who asks does not allow it
├── Unknown             a name that does not exist (dataset, task, run, revision, …)
├── NotNow              valid, but not in the present state (a run is active, the task is closed, …)
├── BudgetExceeded      the ledger has no unit left
├── BadPredictions      a predictions file breaks its contract
├── LedgerBroken        the ledger was changed by somebody else than the server
├── LeakFound           the data would leak test cases into training
└── SandboxUnavailable  no sandbox can run here; the text holds the fix

Any other exception is a bug: the MCP layer masks its text, the log keeps the traceback. Texts hold no host paths and no fact of a test set.
"""

from __future__ import annotations

from collections.abc import Iterable


class Refusal(Exception):
    """The request cannot be done; the message is written for the agent or the user."""


class BadInput(Refusal):
    """An argument, a spec, a path or a file is wrong."""


class Forbidden(Refusal):
    """The role of who asks does not allow it."""


class Unknown(Refusal):
    """A name that does not exist."""


class NotNow(Refusal):
    """The request is valid, but not in the present state."""


class BudgetExceeded(Refusal):
    """The ledger has no unit left for the request."""


class BadPredictions(Refusal):
    """A predictions file breaks its contract."""


class LedgerBroken(Refusal):
    """The ledger was changed by somebody else than the server."""


class LeakFound(Refusal):
    """The data would leak test cases into training."""


class SandboxUnavailable(Refusal):
    """No sandbox can run here."""


def unknown(kind: str, name: object, known: Iterable[object], hint: str = "") -> Unknown:
    """Build the refusal for a name that does not exist, listing at most 20 that do."""
    names = [str(item) for item in known]
    listed = (
        ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "") if names else "none yet"
    )
    return Unknown(f"Unknown {kind} {str(name)[:80]!r}; known: {listed}." + (f" {hint}" if hint else ""))
