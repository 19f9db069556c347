"""`clinloop export`: the model of an evaluated task in a form that other systems take."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from clinloop.terminal import AcceptOption, SandboxOption, StateOption, out, services_of


class Format(StrEnum):
    """What a model can be exported as."""

    ONNX = "onnx"
    GRAND_CHALLENGE = "grand-challenge"


def export(
    task_id: str,
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="onnx: model.onnx, compared with the model before it is kept; grand-challenge: an algorithm container folder.",
        ),
    ],
    target: Annotated[Path, typer.Option("--out", help="Folder to write; must not exist or be empty.")],
    input_slug: Annotated[str, typer.Option(help="grand-challenge: slug of the input image.")] = "input-image",
    output_slug: Annotated[str, typer.Option(help="grand-challenge: slug of the output. Default: by task type.")] = "",
    state: StateOption = None,
    sandbox: SandboxOption = None,
    accept: AcceptOption = False,
) -> None:
    """Export the model of an evaluated task. For research use only."""
    services = services_of(state, sandbox, accept)
    if form is Format.GRAND_CHALLENGE:
        from clinloop.export import grand_challenge

        folder = grand_challenge(services, task_id, target, input_slug=input_slug, output_slug=output_slug)
        out().print(
            f"Wrote {folder}; its README.md names what to set on the platform.", highlight=False, soft_wrap=True
        )
        return
    from clinloop.export_onnx import export_onnx

    parity = export_onnx(services, task_id, target, report=lambda line: out(errors=True).print(line, highlight=False))
    out().print(f"Wrote {target / 'model.onnx'}. {parity.sentence}", highlight=False, soft_wrap=True)
