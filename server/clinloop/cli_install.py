"""`clinloop install CLIENT`: tell an MCP client how to reach the server, and undo that."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from clinloop.clients import CLIENTS, changing, cursor
from clinloop.clients.wanted import Token, Wanted, executable
from clinloop.errors import BadInput
from clinloop.settings import client_folders, load_settings
from clinloop.terminal import AcceptOption, SandboxOption, StateOption, out

_FENCE = (
    "The deny rules keep Claude Code's own tools off the data. They are a fence and no guarantee: a program that it starts can still read what "
    "its user can read. What is guaranteed, `clinloop doctor` says."
)

_TRUST = "Start `claude` in this folder once and trust it: before that, Claude Code ignores what a project configures, `claude -p` without a word."


class Client(StrEnum):
    """A client, as an argument."""

    claude = "claude"
    codex = "codex"
    vscode = "vscode"
    cursor = "cursor"


class ScopeName(StrEnum):
    """Where the configuration is to hold, as an option."""

    project = "project"
    user = "user"


class Finalize(StrEnum):
    """Whether the client asks before `finalize`, as an option."""

    approve = "approve"
    ask = "ask"


def install(
    client: Annotated[Client, typer.Argument(help="claude, codex, vscode or cursor.")],
    http: Annotated[
        str | None,
        typer.Option(help="Address of a server over HTTP, e.g. https://clinloop.hospital.example/mcp.", metavar="URL"),
    ] = None,
    service: Annotated[
        bool, typer.Option("--service", help="Reach the service on this machine (clinloop connect).")
    ] = False,
    token_env: Annotated[
        str | None,
        typer.Option(help="Variable that holds the token; the file names it, and holds no secret.", metavar="NAME"),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the token, which is copied into the user's configuration, never a project's."),
    ] = None,
    scope: Annotated[
        ScopeName | None,
        typer.Option(
            help="project: this folder; user: everywhere. Default: user for codex and with --token-file, else project."
        ),
    ] = None,
    finalize: Annotated[
        Finalize, typer.Option(help="Whether the agent may call finalize without a question to you (claude, codex).")
    ] = Finalize.approve,
    shows: Annotated[bool, typer.Option("--print", help="Print the configuration and change nothing.")] = False,
    undoes: Annotated[bool, typer.Option("--undo", help="Remove what an earlier install added.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Change the files without asking.")] = False,
    state: StateOption = None,
    data_root: Annotated[
        list[Path] | None,
        typer.Option("--data-root", help="Folder below which inspect_dataset may ingest. Repeatable."),
    ] = None,
    sandbox: SandboxOption = None,
    accept: AcceptOption = False,
) -> None:
    """Configure an MCP client for clinloop: show what changes, ask, write, and keep what was there for --undo."""
    chosen = scope.value if scope else "user" if client is Client.codex or token_file else "project"
    token = _token(token_env, token_file, chosen)
    settings = load_settings(state)
    if http is None:
        options = _serve_options(settings.state, data_root or [], sandbox, accept)
        command = (executable(), "connect") if service else (executable(), "serve", "--stdio", *options)
    else:
        command = ()
    wanted = Wanted(
        command=command,
        url=_address(http, token) if http else "",
        token=token,
        scope=chosen,
        project=Path.cwd(),
        state=settings.state,
        has_state=http is None or settings.state.is_dir(),
        approves_finalize=finalize is Finalize.approve,
    )
    edits = CLIENTS[client.value](wanted)
    if shows:
        for edit in edits:
            _say(f"# {edit.path}\n{edit.add('').replace(token.secret, '…') if token.secret else edit.add('')}")
    elif undoes:
        records = client_folders().records
        found = [change for edit in edits if (change := changing.prepare_undo(edit.path, records))]
        if not found:
            raise BadInput(
                f"Nothing of clinloop is recorded for {client.value} in scope {chosen}; try --scope or another folder."
            )
        _confirm(found, token.secret, yes)
        for change in found:
            changing.undo(change, records)
        _say("Undone.")
        return
    else:
        _write([changing.prepare(edit) for edit in edits], token.secret, yes)
    _say(_what_follows(client, wanted))


def _write(changes: list[changing.Change], secret: str, yes: bool) -> None:
    needed = [change for change in changes if change.is_needed]
    if not needed:
        _say("Everything is as it should be; nothing was changed.")
        return
    _confirm(needed, secret, yes)
    records = client_folders().records
    for change in needed:
        changing.apply(change, records)
        _say(f"Wrote {change.path}")


def _confirm(changes: list[changing.Change], secret: str, yes: bool) -> None:
    for change in changes:
        _say(changing.diff(change, secret))
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise BadInput("Nothing was changed: there is no terminal to ask at; repeat it with --yes to make this change.")
    if not typer.confirm("Make this change?"):
        raise BadInput("Nothing was changed.")


def _token(variable: str | None, file: Path | None, scope: str) -> Token:
    if variable and file:
        raise BadInput("Give --token-env or --token-file, not both.")
    if variable and not variable.isidentifier():
        raise BadInput(f"--token-env {variable} is no name of a variable; the token itself belongs into that variable.")
    if file is None:
        return Token(variable or "")
    if scope == "project":
        raise BadInput(
            "A project's files get committed, so no token goes into them: give --token-env NAME, or --scope user."
        )
    secret = file.expanduser().read_text(encoding="utf-8").strip()
    if not secret or not secret.isascii() or len(secret.split()) != 1:
        raise BadInput(f"{file} does not hold one token; write into it what `clinloop token create` printed.")
    return Token(secret=secret)


def _address(url: str, token: Token) -> str:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise BadInput(f"--http {url} is no address of a server; give e.g. https://clinloop.hospital.example/mcp.")
    if parts.scheme == "http" and not local and token != Token():
        raise BadInput(
            "A token must not travel in the clear: give an https address; docs/http.md shows how to put TLS in front."
        )
    return parts._replace(path=parts.path if parts.path.strip("/") else "/mcp").geturl()


def _serve_options(state: Path, roots: list[Path], sandbox: str | None, accept: bool) -> list[str]:
    """Return the options with which the client starts the server: some clients hand on no environment, so all is said."""
    options = ["--state", str(state)]
    for root in roots:
        path = root.expanduser().absolute()
        if not path.is_dir():
            raise BadInput(f"--data-root: {path} is no folder.")
        options += ["--data-root", str(path)]
    if sandbox is not None:
        options += ["--sandbox", sandbox]
    return [*options, "--i-accept-no-isolation"] if accept else options


def _what_follows(client: Client, wanted: Wanted) -> str:
    lines: list[str] = []
    if client is Client.claude:
        lines += [_FENCE] if wanted.has_state else []
        lines += [_TRUST] if wanted.scope == "project" else []
    if client is Client.cursor and not wanted.token.secret:
        lines.append(f"Or by a click: {cursor.link(wanted)}")
    if wanted.url and wanted.token == Token():
        lines.append(
            "No token is configured: this works only while the server has no token of an agent (clinloop token create --role agent)."
        )
    if wanted.token.variable and client is not Client.vscode:
        lines.append(
            f"Set {wanted.token.variable} to the token before you start the client; the file only names the variable."
        )
    return "\n".join(lines)


def _say(text: Any) -> None:
    if text:
        out().print(text, markup=False, highlight=False, soft_wrap=True)
