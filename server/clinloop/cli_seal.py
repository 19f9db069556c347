"""`clinloop key …` and `clinloop unseal`: what the clinician does about a sealed test set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinloop.terminal import out

key_app = typer.Typer(no_args_is_help=True, help="Keys: new.", epilog="Example: clinloop key new ./clinician.key")


@key_app.callback()
def _keys() -> None:
    """Keys of a sealed test set."""


@key_app.command("new", epilog="Example: clinloop key new /media/stick/clinician.key")
def key_new(file: Annotated[Path, typer.Argument(help="New file for the identity; never overwritten.")]) -> None:
    """Make an age identity that opens sealed test sets, and print its recipient for `clinloop data add --seal`."""
    from clinloop.sealing import new_identity

    recipient = new_identity(file)
    out().print(recipient, highlight=False, soft_wrap=True)
    out(errors=True).print(
        f"The identity is in {file}. Keep it off the machine where agents work, and keep a copy: without it the test set is lost.",
        highlight=False,
        markup=False,
        soft_wrap=True,
        style="default",
    )
