"""Codex: [mcp_servers.clinloop] in config.toml, with all other content and comments kept."""

from __future__ import annotations

from functools import partial
from typing import Any

from clinloop.clients.wanted import NAME, START_S, TOOL_S, Edit, Wanted
from clinloop.errors import BadInput
from clinloop.settings import client_folders


def edits(wanted: Wanted) -> list[Edit]:
    """Return what is to be changed."""
    folder = wanted.project / ".codex" if wanted.scope == "project" else client_folders().codex
    return [Edit(folder / "config.toml", partial(_with_server, wanted), is_private=wanted.scope == "user")]


def _with_server(wanted: Wanted, text: str) -> str:
    import tomlkit  # late: only `clinloop install` needs it
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
    except TOMLKitError as error:
        raise BadInput(f"it is not valid TOML ({error}); correct it, or add what --print shows by hand") from error
    servers: Any = document.setdefault("mcp_servers", tomlkit.table(is_super_table=True))
    if not isinstance(servers, dict):
        raise BadInput("its 'mcp_servers' is no table; correct it first")
    present = servers.get(NAME)
    if present is not None and present.unwrap() == entry(wanted):
        return text
    servers[NAME] = _table(entry(wanted))
    return tomlkit.dumps(document)


def entry(wanted: Wanted) -> dict[str, Any]:
    """Return the server's table.

    `required`: else Codex gives the server one second to start and then goes on without its tools. `approval_mode`: where the approval
    policy is `never`, Codex refuses a tool that is destructive, as `finalize` is, unless it is approved here.
    """
    found: dict[str, Any] = {}
    if wanted.command:
        command, *arguments = wanted.command
        found |= {"command": command, "args": arguments}
    else:
        found["url"] = wanted.url
        if wanted.token.secret:
            found["http_headers"] = {"Authorization": f"Bearer {wanted.token.secret}"}
        elif wanted.token.variable:
            found["bearer_token_env_var"] = wanted.token.variable
    found |= {"required": True, "startup_timeout_sec": START_S, "tool_timeout_sec": TOOL_S}
    if wanted.approves_finalize:
        found["tools"] = {"finalize": {"approval_mode": "approve"}}
    return found


def _table(values: dict[str, Any], *, is_super: bool = False) -> Any:
    import tomlkit

    made = tomlkit.table(is_super_table=is_super)
    for key, value in values.items():
        if isinstance(value, dict) and key != "http_headers":
            made[key] = _table(value, is_super=all(isinstance(inner, dict) for inner in value.values()))
        else:
            made[key] = value
    return made
