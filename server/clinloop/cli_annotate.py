"""`clinloop data annotate …`: a finished model labels another dataset."""

from __future__ import annotations

from typing import Annotated

import typer

from clinloop.terminal import AcceptOption, SandboxOption, StateOption, out, phases, progress_bars, services_of


def annotate(
    dataset: Annotated[str, typer.Argument(help="Dataset that gets the attribute.")],
    model: Annotated[str, typer.Option(help="Task whose final model predicts it.")],
    column: Annotated[str, typer.Option(help="Name of the new attribute: letters, digits and _.")],
    state: StateOption = None,
    sandbox: SandboxOption = None,
    accept: AcceptOption = False,
) -> None:
    """Let a finished model predict every image of another dataset, test images included, and keep its probability as an attribute.

    Says how many images, look-alikes and patients of the dataset the model has seen before. Can be repeated after an interruption.
    """
    from clinloop import annotation

    services = services_of(state, sandbox, accept)
    with progress_bars() as progress:
        lines = annotation.annotate(services, dataset, model_task=model, column=column, progress=phases(progress))
    for line in lines:
        out().print(line, highlight=False, markup=False, soft_wrap=True)
