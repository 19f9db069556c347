"""What a client is to be told: how to reach the server, with which credential, and what not to touch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from clinloop.errors import BadInput

NAME = "clinloop"
"""Name of the server in every client; the tools' names begin with it."""
START_S = 30
"""Seconds that the server may take to start; it takes one."""
TOOL_S = 900
"""Seconds after which a call is given up; the longest wait of a tool is 600."""
QUIET_TOOLS = ("inspect_dataset", "init_task", "edit_workspace", "run_training", "read_validation")
"""What needs no question to the user; `finalize` opens the test set, so it is a matter of its own."""
Scope = Literal["project", "user"]


class Token(NamedTuple):
    """A credential: the name of a variable that holds it, or itself."""

    variable: str = ""
    secret: str = ""


class Wanted(NamedTuple):
    """What a client is to be told."""

    command: tuple[str, ...]
    """What starts the server on standard input and output; empty over HTTP."""
    url: str
    """Where it listens; empty for a command."""
    token: Token
    scope: Scope
    project: Path
    """Folder of the project."""
    state: Path
    """State folder on this machine, which a fence may close."""
    has_state: bool
    """Whether it is on this machine at all."""
    approves_finalize: bool
    """Whether `finalize` may be called without a question to the user."""


class Edit(NamedTuple):
    """A change of one configuration file."""

    path: Path
    add: Callable[[str], str]
    """Text of the file (empty when there is none) -> the same with what clinloop needs."""
    is_private: bool = False
    """Whether nobody else may read the file when it is new."""


def executable() -> str:
    """Return the absolute path of the clinloop command that runs now: clients start it from other folders and with other PATHs.

    Raises:
        BadInput: it lies in a cache, which may be emptied at any time.
    """
    path = Path(sys.executable).with_name("clinloop")
    if not path.is_file():
        raise BadInput("The clinloop command is not beside its Python; install it first: uv tool install clinloop.")
    if any(part.startswith(("archive-v", "environments-v")) for part in path.parts):
        raise BadInput(
            "This clinloop runs from uv's cache, which may be emptied; install it first: uv tool install clinloop."
        )
    return str(path)
