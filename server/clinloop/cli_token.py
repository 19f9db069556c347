"""`clinloop token …`: what agents, clinicians and custodians show over HTTP."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from clinloop.terminal import StateOption, out, services_of, table

token_app = typer.Typer(
    no_args_is_help=True,
    help="Tokens for HTTP: create, list, revoke.",
    epilog="Example: clinloop token create --role agent --name codex-1",
)


class RoleName(StrEnum):
    """A role, as an option."""

    agent = "agent"
    clinician = "clinician"
    custodian = "custodian"


@token_app.command("create", epilog="Example: clinloop token create --role clinician --name 'Dr. Weber' --days 30")
def create(
    role: Annotated[RoleName, typer.Option(help="What it may do.")],
    name: Annotated[str, typer.Option(help="Of the person or agent; further tokens of one name are the same one.")],
    days: Annotated[float, typer.Option(help="Days until it expires.", min=0.001, max=3650)] = 90,
    state: StateOption = None,
) -> None:
    """Make a token and print it; it is shown once, only its hash is kept."""
    row, secret = services_of(state).store.create_token(name, role.value, days=days)
    out().print(secret, highlight=False, soft_wrap=True)
    out(errors=True).print(
        f"Token {row.id} of {role.value} {name!r}, valid until {row.expires_at[:16]} UTC; it is not shown again.",
        highlight=False,
        markup=False,
    )


@token_app.command("list", epilog="Example: clinloop token list")
def list_tokens(state: StateOption = None) -> None:
    """List the tokens, newest first."""
    rows = table("token", "role", "name", "state", "expires", "last used")
    for token in services_of(state).store.tokens():
        rows.add_row(
            token.id, token.role, token.name, token.state, token.expires_at[:16], (token.last_used_at or "never")[:16]
        )
    out().print(rows)


@token_app.command("revoke", epilog="Example: clinloop token revoke 3f9a2c1b")
def revoke(token_id: str, state: StateOption = None) -> None:
    """End a token at once."""
    row = services_of(state).store.revoke_token(token_id)
    out().print(f"Token {row.id} of {row.role} {row.name!r} is revoked.", highlight=False, markup=False)
