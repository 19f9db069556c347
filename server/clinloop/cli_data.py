"""`clinloop data …`: add, list, show and remove datasets. The custodian's view: it shows counts of the test part too."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinloop.errors import BadInput
from clinloop.services import Services
from clinloop.store.questions import UNFINISHED
from clinloop.terminal import StateOption, out, phases, progress_bars, services_of, table

if TYPE_CHECKING:
    from clinloop.datasets.dataset import Dataset

LAYOUT_HELP = (
    "auto, or one of isic2019, grazpedwri, siim_acr, neatx, nih_chestxray14, coco, yolo, pascal_voc, hf_imagefolder, medmnist_npz, nnunet_raw, "
    "mask_folder, dicom_tree, class_folders, csv_manifest."
)
"""Written out, because importing the layouts would slow every command."""

data_app = typer.Typer(
    no_args_is_help=True,
    help="Datasets: add, list, show, remove.",
    epilog="Example: clinloop data add ./isic2019 --name isic",
)


@data_app.command("add", epilog="Example: clinloop data add ./isic2019 --name isic --layout isic2019")
def data_add(
    path: Annotated[Path, typer.Argument(help="Folder as it was unpacked.", exists=True, file_okay=False)],
    name: Annotated[str, typer.Option(help="Name of the dataset for agents: letters, digits, - and _.")],
    layout: Annotated[str, typer.Option(help=LAYOUT_HELP)] = "auto",
    group_by: Annotated[
        str | None, typer.Option(help="csv_manifest: column that says which images belong together (patient, lesion).")
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="csv_manifest: column of image paths.")] = None,
    label_column: Annotated[str | None, typer.Option(help="csv_manifest: column of labels.")] = None,
    test: Annotated[str, typer.Option(help='"official", or the share of groups to hide, e.g. 0.2.')] = "",
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    cache_px: Annotated[
        list[int] | None, typer.Option(help="Side of a decoded cache, repeatable. Default 64 and 224.")
    ] = None,
    keep_boxes: Annotated[
        float,
        typer.Option(
            help="Share of the training cases that keep their boxes or masks, e.g. 0.05; the others keep their image label only."
        ),
    ] = 1.0,
    on_leak: Annotated[
        str,
        typer.Option(
            help="When test cases also stand in training: refuse, drop (from training), or a reason to accept."
        ),
    ] = "refuse",
    seal: Annotated[
        list[str] | None,
        typer.Option(
            help="age recipient (age1…) of the clinician: the test part is encrypted to it and only opened by clinloop unseal. Repeatable."
        ),
    ] = None,
    state: StateOption = None,
) -> None:
    """Read a folder, audit it, split it by group and hide its test part. Can be repeated after an interruption."""
    from clinloop import ingestion

    services = services_of(state)
    given = {"image_column": image_column, "label_column": label_column, "group_by": group_by}
    columns = {key: value for key, value in given.items() if value is not None}
    with progress_bars() as progress:
        dataset = ingestion.add(
            services,
            path,
            name,
            layout=layout,
            columns=columns,
            test=test,
            seed=seed,
            cache_px=tuple(cache_px or (64, 224)),
            keep_boxes=keep_boxes,
            on_leak=on_leak,
            seal=tuple(seal or ()),
            progress=phases(progress),
        )
    out().print(f"Dataset {dataset.name} is ready. {dataset.record.layout_reason}", highlight=False, soft_wrap=True)
    _print_dataset(services, dataset.name)
    from clinloop.datasets.sealed import seal_warnings

    for line in seal_warnings(dataset.folder):
        out().print(line, highlight=False, markup=False, soft_wrap=True)


@data_app.command("list", epilog="Example: clinloop data list")
def data_list(state: StateOption = None) -> None:
    """List the datasets."""
    from clinloop.datasets.dataset import Dataset

    services = services_of(state)
    rows = table("name", "layout", "classes", "train", "val", "test")
    for name in Dataset.list_names(services.settings.state):
        dataset = Dataset.load(services.settings.state, name)
        sums = [str(sum(counts.values())) for counts in _counts(dataset).values()]
        sums += ["sealed"] * (3 - len(sums))
        rows.add_row(name, dataset.record.layout, str(len(dataset.classes)), *sums)
    out().print(rows)


@data_app.command("show", epilog="Example: clinloop data show isic")
def data_show(name: str, state: StateOption = None) -> None:
    """Show what is known about a dataset, its audit included (custodian's view: counts of the test part too)."""
    _print_dataset(services_of(state), name)


@data_app.command("remove", epilog="Example: clinloop data remove isic --yes")
def data_remove(
    name: str,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    state: StateOption = None,
) -> None:
    """Remove a dataset; tasks that used it keep their reports but can run no more."""
    from clinloop.datasets.dataset import Dataset, remove

    services = services_of(state)
    Dataset.load(services.settings.state, name)
    users = [
        task.id
        for task in services.store.tasks()
        if task.dataset == name and task.status in (*UNFINISHED, "evaluating", "awaiting_unseal", "unsealed")
    ]
    if users:
        raise BadInput(f"Dataset {name} is used by open tasks ({', '.join(users[:5])}); finalize them first.")
    if not yes:
        typer.confirm(f"Remove dataset {name} and its hidden test part?", abort=True)
    remove(services.settings.state, name)
    services.store.record(f"dataset:{name}", "removed", {})
    out().print(f"Removed {name}.", highlight=False)


def _counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Return cases by split and class, test included unless it is sealed: for the custodian's eyes only."""
    from clinloop.datasets import vault

    if vault.seal_state(dataset.folder).is_sealed:
        return {"train": dataset.counts["train"], "val": dataset.counts["val"]}
    test = Counter(case.label for case in vault.open_test(dataset.folder))
    return {"train": dataset.counts["train"], "val": dataset.counts["val"], "test": dict(test)}


def _print_dataset(services: Services, name: str) -> None:
    from clinloop.datasets.dataset import Dataset
    from clinloop.datasets.findings import without_counts
    from clinloop.datasets.vault import custodian_audit, seal_state

    dataset = Dataset.load(services.settings.state, name)
    counts, seal = _counts(dataset), seal_state(dataset.folder)
    rows = table("class", *counts, title=f"{name}: {dataset.record.layout}, grouped by {dataset.group_kind}")
    for label in dataset.classes:
        rows.add_row(label, *(str(own.get(label, 0)) for own in counts.values()))
    out().print(rows)
    if seal.is_sealed:
        out().print(f"The test part is sealed to {', '.join(seal.recipients)}.", highlight=False, soft_wrap=True)
    hidden = [] if seal.is_sealed else custodian_audit(dataset.folder).notes
    for line in [
        *dataset.audit_lines(),
        *(f"all splits, for you only: {note}" for note in hidden if note != without_counts(note)),
    ]:
        out().print(f"- {line}", highlight=False, markup=False, soft_wrap=True)
