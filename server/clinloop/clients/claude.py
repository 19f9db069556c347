"""Claude Code: the server in .mcp.json or ~/.claude.json, permissions and a fence around the state folder in its settings."""

from __future__ import annotations

from functools import partial
from typing import Any

from clinloop.clients.jsonfile import dump, include, parse, within
from clinloop.clients.wanted import NAME, QUIET_TOOLS, TOOL_S, Edit, Wanted
from clinloop.settings import client_folders

FENCED = (
    "datasets/**",
    "key",
    "clinloop.sqlite*",
    "tasks/*/data/**",
    "tasks/*/final/**",
    "tasks/*/runs/**",
    "tasks/*/revisions.git/**",
)
"""Below the state folder; workspaces, reports and models stay open, because agents may read and edit there."""


def edits(wanted: Wanted) -> list[Edit]:
    """Return what is to be changed."""
    if wanted.scope == "project":
        servers, settings = wanted.project / ".mcp.json", wanted.project / ".claude" / "settings.local.json"
    else:
        here = client_folders()
        servers, settings = here.claude_servers, here.claude / "settings.json"
    return [
        Edit(servers, partial(_with_server, wanted), is_private=wanted.scope == "user"),
        Edit(settings, partial(_with_permissions, wanted)),
    ]


def _with_server(wanted: Wanted, text: str) -> str:
    value = parse(text)
    within(value, "mcpServers")[NAME] = entry(wanted)
    return dump(value, text)


def entry(wanted: Wanted) -> dict[str, Any]:
    """Return the server's entry: `timeout` is in milliseconds, `alwaysLoad` shows the tools without a search."""
    common = {"timeout": TOOL_S * 1000, "alwaysLoad": True}
    if wanted.command:
        command, *arguments = wanted.command
        return {"type": "stdio", "command": command, "args": arguments, **common}
    shown = {"type": "http", "url": wanted.url}
    if bearer := wanted.token.secret or (wanted.token.variable and f"${{{wanted.token.variable}}}"):
        return {**shown, "headers": {"Authorization": f"Bearer {bearer}"}, **common}
    return {**shown, **common}


def _with_permissions(wanted: Wanted, text: str) -> str:
    value = parse(text)
    if wanted.scope == "project":  # this file is of one user, who has just asked for the server of .mcp.json
        include(value, "enabledMcpjsonServers", [NAME])
    permissions = within(value, "permissions")
    include(permissions, "allow", [f"mcp__{NAME}__{tool}" for tool in QUIET_TOOLS])
    include(permissions, "allow" if wanted.approves_finalize else "ask", [f"mcp__{NAME}__finalize"])
    if wanted.has_state:
        include(permissions, "deny", fence(wanted))
    return dump(value, text)


def fence(wanted: Wanted) -> list[str]:
    """Return rules that keep Claude Code's own tools off the data; a shell has other ways, so they guarantee nothing."""
    state = wanted.state.as_posix().lstrip("/")
    rules = [f"{tool}(//{state}/{path})" for path in FENCED for tool in ("Read", "Edit")]
    return [*rules, *(f"Bash(*/{state}/{path}*)" for path in ("datasets", "key", "clinloop.sqlite"))]
