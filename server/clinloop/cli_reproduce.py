"""`clinloop reproduce …`: the paper's tasks, played by the scripted agent, beside the paper's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinloop.errors import unknown
from clinloop.terminal import AcceptOption, SandboxOption, out


def reproduce(
    tasks: Annotated[
        list[str], typer.Argument(help="isic8, mel-nv, wrist, wrist-5pct, drain, pneumothorax: one or several, or all.")
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder of the public data set as it was unpacked, instead of a drawn stand-in; NAME=PATH where the tasks need several. Repeatable."
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Budget: paper, quick or demo. Default: demo on stand-ins, quick where --data is given."),
    ] = None,
    target: Annotated[
        Path, typer.Option(help="Folder for data, state, tables and figures; a second call goes on in it.")
    ] = Path("reproduce"),
    images: Annotated[
        int | None, typer.Option(help="Training images of each stand-in. Default: what fits the task.", min=200)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of stand-ins, splits and tasks.")] = 0,
    sandbox: SandboxOption = None,
    accept: AcceptOption = False,
) -> None:
    """Play tasks of the paper to their end and write tables and figures beside its numbers; an interrupted call can be repeated."""
    from clinloop import reproduce as work

    chosen = work.parse_tasks(tasks)
    folders = work.parse_data(data or [], chosen)
    name = preset or ("quick" if folders else "demo")
    if name not in work.PRESET_NAMES:
        raise unknown("preset", name, work.PRESET_NAMES)
    request = work.Request(chosen, target.expanduser().absolute(), name, folders, images, seed)
    work.play(request, sandbox=sandbox, accept=accept, console=out())
    out().print(f"Tables and figures: {request.folder}", highlight=False, soft_wrap=True)
