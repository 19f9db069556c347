"""What a supervisor works with: the task, its data, a sandbox and its Python environment, assembled from the state folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clinloop import templates
from clinloop.datasets.dataset import CaseRow, Dataset, csv_text
from clinloop.datasets.pictures import prepare_predict_view
from clinloop.errors import Refusal
from clinloop.files import remove_tree
from clinloop.paths import RunFolder, StateFolder, TaskFolder
from clinloop.sandbox import backends
from clinloop.sandbox.base import Environment, Sandbox
from clinloop.scoring.metrics import Scheme
from clinloop.settings import Settings
from clinloop.spec import PRESETS, Preset
from clinloop.store.rows import RunRow, TaskRow
from clinloop.store.store import Store
from clinloop.workspace import Workspace

SMOKE_TRAIN_PER_CLASS = 6
SMOKE_VAL_PER_CLASS = 3


@dataclass(frozen=True)
class TaskContext:
    """Everything that the runs of one task share."""

    settings: Settings
    task: TaskRow
    folder: TaskFolder
    dataset: Dataset
    sandbox: Sandbox
    sandbox_reason: str
    """Why it is this backend."""
    environment: Environment
    accept_no_isolation: bool = False
    """As in Services."""
    gpus: tuple[str, ...] = ()
    """UUIDs of the GPUs that are leased to what is carried."""

    @property
    def preset(self) -> Preset:
        """The budget preset of the task."""
        return PRESETS[self.task.spec.budget]

    @property
    def classes(self) -> list[str]:
        """Classes in the order of prediction columns."""
        return list(self.task.spec.target_classes)

    @property
    def scheme(self) -> Scheme:
        """What predictions and metric names of the task mean."""
        return Scheme(classes=self.task.spec.target_classes)

    @property
    def metrics(self) -> list[str]:
        """All metrics that are computed for every run: reported ones and guards."""
        guards = [guard.metric for guard in self.task.spec.guards]
        return list(dict.fromkeys((*self.task.spec.reported_metrics, *guards)))


class Cases(NamedTuple):
    """The cases that one run sees."""

    table: Path
    """cases.csv with train labels and unlabelled validation rows."""
    truth: Path
    """case_id,group,label of the validation cases; server only."""
    view: Path
    """Folder with images/ and cases.csv of the validation cases alone, for predict.py."""


def assemble(store: Store, task_id: str, launch_settings: dict[str, Any], *, backend: str = "") -> TaskContext:
    """Return the context of a task; builds the Python environment of the sandbox when it is missing.

    backend: the one that a run was begun with, whatever would be chosen now.
    """
    settings = Settings.model_validate(launch_settings["settings"])
    task = store.task(task_id)
    image = image_of(settings, task)
    choice = (
        backends.Choice(backends.load_backend(backend, settings), "the run was begun with it")
        if backend
        else backends.choose(settings, image=image, accept_no_isolation=bool(launch_settings["accept_no_isolation"]))
    )
    environment = choice.sandbox.environment(image, report=lambda _: None)
    return TaskContext(
        settings=settings,
        task=task,
        folder=StateFolder(settings.state).task(task_id),
        dataset=Dataset.load(settings.state, task.dataset),
        sandbox=choice.sandbox,
        sandbox_reason=choice.reason,
        environment=environment,
        accept_no_isolation=bool(launch_settings["accept_no_isolation"]),
    )


def image_of(settings: Settings, task: TaskRow) -> str:
    """Return the sandbox image of a task's runs: the custodian's for all, else the template's."""
    return settings.image or templates.find(task.template, task.spec.task_type).image


def explain(fault: Exception) -> str:
    """Return what an agent may read of an exception that ended a run or an evaluation: no path, no text of a library."""
    if isinstance(fault, Refusal):
        return str(fault)
    reason = fault.strerror if isinstance(fault, OSError) and fault.strerror else type(fault).__name__
    return f"A fault of the server ({reason}); its log says more."


def prepare_task_data(dataset: Dataset, classes: Sequence[str], folder: TaskFolder) -> Cases:
    """Write what the task's runs see of the dataset: only its classes, validation without labels; repeatable."""
    chosen = [case for case in dataset.cases() if case.label in classes]
    return _write_cases(dataset, chosen, folder.data)


def cases_of(context: TaskContext, run: RunRow, folder: RunFolder) -> Cases:
    """Return the cases of a run: the task's, or a few of each class for a smoke test."""
    data = context.folder.data
    if run.mode == "full":
        return Cases(data / "cases.csv", data / "val_truth.csv", data / "view")
    chosen: list[CaseRow] = []
    taken: dict[tuple[str, str], int] = {}
    limits = {"train": SMOKE_TRAIN_PER_CLASS, "val": SMOKE_VAL_PER_CLASS}
    for case in context.dataset.cases():
        key = (case.split, case.label)
        if case.label in context.classes and taken.get(key, 0) < limits[case.split]:
            taken[key] = taken.get(key, 0) + 1
            chosen.append(case)
    return _write_cases(context.dataset, chosen, folder.root / "data")


def export_code(context: TaskContext, run: RunRow, folder: RunFolder) -> None:
    """Put the run's revision where its sandboxes see it; nothing happens when it is there."""
    if not folder.code.exists():
        Workspace(context.folder.workspace, context.folder.revisions).export(run.revision, folder.code)


def _write_cases(dataset: Dataset, cases: Iterable[CaseRow], target: Path) -> Cases:
    """Write cases.csv, val_truth.csv and view/ into a new folder that replaces the target at the end."""
    result = Cases(target / "cases.csv", target / "val_truth.csv", target / "view")
    if target.exists():
        return result
    building = target.with_name(f".{target.name}-building")
    remove_tree(building)
    building.mkdir(parents=True, mode=0o755)
    chosen = list(cases)
    val = [case for case in chosen if case.split == "val"]
    attributes = list(dataset.attributes)
    rows = [
        [
            case.case_id,
            case.split,
            case.group,
            case.label if case.split == "train" else "",
            *(case.attributes.get(name, "") for name in attributes),
        ]
        for case in chosen
    ]
    table, truth = building / "cases.csv", building / "val_truth.csv"
    table.write_text(csv_text(["case_id", "split", "group", "label", *attributes], rows), encoding="utf-8")
    truth.write_text(
        csv_text(["case_id", "group", "label"], [[case.case_id, case.group, case.label] for case in val]),
        encoding="utf-8",
    )
    prepare_predict_view(val, building / "view")
    building.chmod(0o755)
    table.chmod(0o644)
    truth.chmod(0o600)
    building.rename(target)
    return result
