"""Cursor: mcp.json of a project or of the user, and a link that installs the same by a click."""

from __future__ import annotations

import base64
import json
from functools import partial
from typing import Any
from urllib.parse import urlencode

from clinloop.clients.jsonfile import dump, parse, within
from clinloop.clients.wanted import NAME, Edit, Wanted
from clinloop.settings import client_folders


def edits(wanted: Wanted) -> list[Edit]:
    """Return what is to be changed."""
    folder = wanted.project / ".cursor" if wanted.scope == "project" else client_folders().cursor
    return [Edit(folder / "mcp.json", partial(_with_server, wanted), is_private=wanted.scope == "user")]


def entry(wanted: Wanted) -> dict[str, Any]:
    """Return the server's entry."""
    if wanted.command:
        command, *arguments = wanted.command
        return {"command": command, "args": arguments}
    bearer = wanted.token.secret or (wanted.token.variable and f"${{env:{wanted.token.variable}}}")
    return {"url": wanted.url} | ({"headers": {"Authorization": f"Bearer {bearer}"}} if bearer else {})


def link(wanted: Wanted) -> str:
    """Return the link that installs the server in Cursor."""
    config = base64.b64encode(json.dumps(entry(wanted)).encode()).decode()
    return f"cursor://anysphere.cursor-deeplink/mcp/install?{urlencode({'name': NAME, 'config': config})}"


def _with_server(wanted: Wanted, text: str) -> str:
    value = parse(text)
    within(value, "mcpServers")[NAME] = entry(wanted)
    return dump(value, text)
