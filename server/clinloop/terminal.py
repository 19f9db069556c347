"""What all commands share: the terminal, progress, common options, and the services of a state folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinloop.access import login_groups
from clinloop.errors import unknown
from clinloop.services import Services
from clinloop.settings import Backend, load_settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.table import Table

StateOption = Annotated[
    Path | None, typer.Option("--state", help="State folder. Default: CLINLOOP_STATE, else the user's data folder.")
]
SandboxOption = Annotated[
    str | None,
    typer.Option(
        "--sandbox",
        help="auto (docker if the engine answers and has the image, else bubblewrap), docker, bubblewrap, or none (isolates nothing; needs --i-accept-no-isolation).",
    ),
]
AcceptOption = Annotated[
    bool,
    typer.Option(
        "--i-accept-no-isolation", help="Run the agent's code as a plain process that can read whatever you can read."
    ),
]


@cache
def out(*, errors: bool = False) -> Console:
    """Return the terminal; imported late, because `serve` has no use for it and must answer quickly."""
    from rich.console import Console

    return Console(stderr=errors, style="red" if errors else None)


def open_page(page: Path) -> bool:
    """Open a page in the user's browser; tell whether one could be started."""
    import webbrowser

    try:
        return webbrowser.open(page.as_uri())
    except webbrowser.Error:
        return False


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table; its first column, a name to copy, is never cut."""
    from rich.table import Table

    made = Table(*columns, title=title)
    made.columns[0].no_wrap = True
    return made


def services_of(
    state: Path | None,
    sandbox: str | None = None,
    accept: bool = False,
    roots: tuple[Path, ...] = (),
    *,
    keeps_root: bool = False,
) -> Services:
    """Return the services of a state folder as the common options describe it; root becomes the user who owns the folder.

    Files that root made in the folder of a service would be closed to the service.

    Raises:
        Unknown, BadInput: no such sandbox, or settings that cannot be used.
    """
    known = Backend.__args__
    if sandbox is not None and sandbox not in known:
        raise unknown("sandbox", sandbox, known)
    settings = load_settings(state, sandbox=sandbox, data_roots=roots or None)
    if not keeps_root:
        become_owner(settings.state)
    return Services(settings, accept_no_isolation=accept)


def become_owner(state: Path) -> None:
    """As root, become the user who owns a state folder; nothing happens to anybody else."""
    if os.geteuid() == 0 and state.exists() and (owner := state.stat()).st_uid:
        os.setgroups(sorted(login_groups(owner.st_uid)))
        os.setresgid(owner.st_gid, owner.st_gid, owner.st_gid)
        os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)


def progress_bars() -> Progress:
    """Return progress bars that vanish at the end; use them as a context manager."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=out(),
        transient=True,
    )


def phases(progress: Progress) -> Callable[[str, int, int], None]:
    """Return a callback (phase, done, total) that gives each phase a bar of its own."""
    bars: dict[str, TaskID] = {}

    def report_phase(phase: str, done: int, total: int) -> None:
        if phase not in bars:
            bars[phase] = progress.add_task(phase, total=total)
        progress.update(bars[phase], completed=done, total=total)

    return report_phase
