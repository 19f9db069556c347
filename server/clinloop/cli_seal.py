"""`clinloop key …` and `clinloop unseal`: what the clinician does about a sealed test set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinloop.errors import BadInput
from clinloop.sealing import IDENTITY_CAP, read_identities
from clinloop.terminal import AcceptOption, SandboxOption, StateOption, out, services_of

if TYPE_CHECKING:
    from pyrage.x25519 import Identity

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


def unseal(
    task_id: str,
    identity: Annotated[str, typer.Option(help="age identity that opens the seal: a file, or - for standard input.")],
    state: StateOption = None,
    sandbox: SandboxOption = None,
    accept: AcceptOption = False,
) -> None:
    """Open a task's sealed test set in memory, once, score both frozen models on it, and write the report."""
    from clinloop import unsealing
    from clinloop.datasets.sealed import seal_warnings

    services = services_of(state, sandbox, accept)
    keys = read_identity(identity)
    for line in seal_warnings(services.settings.state / "datasets" / services.store.task(task_id).dataset):
        out(errors=True).print(line, highlight=False, markup=False, soft_wrap=True, style="yellow")
    if identity != "-":
        line = "The key was read from a file: when you are done, take it off the machine where agents work."
        out(errors=True).print(line, highlight=False, soft_wrap=True, style="yellow")
    with out().status("") as shown:
        task = unsealing.unseal(services, task_id, keys, shown.update)
    if task.status != "evaluated":
        raise BadInput(
            f"Task {task_id} is {task.status}; the cause is in {services.state.task(task_id).final / 'failure.txt'}."
        )
    report = services.state.task(task_id).report
    out().print(f"Task {task_id} is evaluated. Report: {report / 'report.html'}", highlight=False, soft_wrap=True)
    out().print(
        f"Check it with your key: clinloop verify {report} --identity {identity}", highlight=False, soft_wrap=True
    )


def read_identity(where: str) -> list[Identity]:
    """Return the keys of a file, or of standard input for "-".

    Raises:
        BadInput: there is none.
    """
    if where == "-":
        return read_identities(sys.stdin.read(IDENTITY_CAP))
    try:
        with Path(where).open(encoding="utf-8") as file:
            return read_identities(file.read(IDENTITY_CAP))
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or "it is no text"
        raise BadInput(f"The identity cannot be read ({reason}); give its file, or - for standard input.") from error
