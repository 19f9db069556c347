"""VS Code: .vscode/mcp.json of a project; it asks for a token once and keeps it itself."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from clinloop.clients.jsonfile import dump, parse, within
from clinloop.clients.wanted import NAME, Edit, Wanted
from clinloop.errors import BadInput

INPUT = "clinloop-token"
"""Name of the question for the token."""


def edits(wanted: Wanted) -> list[Edit]:
    """Return what is to be changed.

    Raises:
        BadInput: for all projects, which VS Code's own command does, or with a token in the file.
    """
    if wanted.token.secret:
        raise BadInput("VS Code asks for the token and keeps it itself; give --token-env NAME instead of --token-file.")
    if wanted.scope == "user":
        shown = json.dumps({"name": NAME, **entry(wanted)})
        raise BadInput(f"For all projects, VS Code adds it itself: code --add-mcp '{shown}'.")
    return [Edit(wanted.project / ".vscode" / "mcp.json", partial(_with_server, wanted))]


def entry(wanted: Wanted) -> dict[str, Any]:
    """Return the server's entry."""
    if wanted.command:
        command, *arguments = wanted.command
        return {"type": "stdio", "command": command, "args": arguments}
    shown: dict[str, Any] = {"type": "http", "url": wanted.url}
    return shown | ({"headers": {"Authorization": f"Bearer ${{input:{INPUT}}}"}} if wanted.token.variable else {})


def _with_server(wanted: Wanted, text: str) -> str:
    value = parse(text)
    within(value, "servers")[NAME] = entry(wanted)
    if wanted.token.variable:
        inputs = value.setdefault("inputs", [])
        if not isinstance(inputs, list):
            raise BadInput("its 'inputs' is no list; correct it first")
        asked = {"type": "promptString", "id": INPUT, "description": "Token of clinloop", "password": True}
        if asked not in inputs:
            inputs.append(asked)
    return dump(value, text)
