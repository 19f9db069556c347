"""What a supervisor works with: the task, its data, a sandbox and its Python environment, assembled from the state folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clinloop import templates
from clinloop.datasets.case import Box
from clinloop.datasets.dataset import CaseRow, Dataset
from clinloop.datasets.pictures import prepare_predict_view
from clinloop.datasets.truth import boxes_json, truth_text, view_text
from clinloop.errors import Refusal
from clinloop.files import remove_tree
from clinloop.paths import RunFolder, StateFolder, TaskFolder
from clinloop.sandbox import backends
from clinloop.sandbox.base import Environment, Sandbox
from clinloop.scoring.metrics import Scheme, scheme_of
from clinloop.settings import Settings
from clinloop.spec import PRESETS, Preset, TaskSpec
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
        return scheme_of(self.task.spec)

    @property
    def val_cases(self) -> list[CaseRow]:
        """The validation cases that are scored."""
        return [case for case in self.dataset.cases("val") if is_of_task(case, self.task.spec)]

    @property
    def metrics(self) -> list[str]:
        """All metrics that are computed for every run: reported ones and guards."""
        guards = [guard.metric for guard in self.task.spec.guards]
        return list(dict.fromkeys((*self.task.spec.reported_metrics, *guards)))


class Cases(NamedTuple):
    """The cases that one run sees."""

    folder: Path

    @property
    def table(self) -> Path:
        """cases.csv with train labels and unlabelled validation rows."""
        return self.folder / "cases.csv"

    @property
    def boxes(self) -> Path:
        """boxes.json with the boxes of training cases; missing where the dataset has none."""
        return self.folder / "boxes.json"

    @property
    def truth(self) -> Path:
        """The truth of the validation cases; server only."""
        return self.folder / "val_truth.csv"

    @property
    def view(self) -> Path:
        """Folder with images/ and cases.csv of the validation cases alone, for predict.py."""
        return self.folder / "view"


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


def is_of_task(case: CaseRow, spec: TaskSpec) -> bool:
    """Tell whether a case belongs to a task: a training case by its class, any other only if it can be scored."""
    if case.label not in spec.target_classes:
        return False
    match spec.task_type:
        case "detection":
            return case.split == "train" or case.boxes is not None
        case "segmentation":
            return case.split == "train" or case.mask is not None
        case _:
            return True


def truth_of(spec: TaskSpec, cases: Sequence[CaseRow]) -> str:
    """Return the truth of some cases as scoring reads it: what the kind of task needs, and all attributes, which the confound audit looks at."""
    needed = [
        case._replace(
            boxes=_boxes(case, spec) if spec.task_type == "detection" else None,
            mask=case.mask if spec.task_type == "segmentation" else None,
        )
        for case in cases
    ]
    declared = [item.attribute for item in spec.confounders]
    others = [name for name in (cases[0].attributes if cases else ()) if name not in declared]
    return truth_text(needed, spec.targets, [*declared, *others])


def explain(fault: Exception) -> str:
    """Return what an agent may read of an exception that ended a run or an evaluation: no path, no text of a library."""
    if isinstance(fault, Refusal):
        return str(fault)
    reason = fault.strerror if isinstance(fault, OSError) and fault.strerror else type(fault).__name__
    return f"A fault of the server ({reason}); its log says more."


def prepare_task_data(dataset: Dataset, spec: TaskSpec, folder: TaskFolder) -> Cases:
    """Write what the task's runs see of the dataset: only its classes, validation without labels; repeatable."""
    chosen = [case for case in dataset.cases() if is_of_task(case, spec)]
    return _write_cases(dataset, spec, chosen, folder.data)


def cases_of(context: TaskContext, run: RunRow, folder: RunFolder) -> Cases:
    """Return the cases of a run: the task's, or a few of each class and kind of truth for a smoke test."""
    if run.mode == "full":
        return Cases(context.folder.data)
    chosen: list[CaseRow] = []
    taken: dict[tuple[str, ...], int] = {}
    limits = {"train": SMOKE_TRAIN_PER_CLASS, "val": SMOKE_VAL_PER_CLASS}
    for case in context.dataset.cases():
        key = (case.split, case.label, case.supervision)
        if is_of_task(case, context.task.spec) and taken.get(key, 0) < limits[case.split]:
            taken[key] = taken.get(key, 0) + 1
            chosen.append(case)
    return _write_cases(context.dataset, context.task.spec, chosen, folder.root / "data")


def export_code(context: TaskContext, run: RunRow, folder: RunFolder) -> None:
    """Put the run's revision where its sandboxes see it; nothing happens when it is there."""
    if not folder.code.exists():
        Workspace(context.folder.workspace, context.folder.revisions).export(run.revision, folder.code)


def _write_cases(dataset: Dataset, spec: TaskSpec, chosen: Sequence[CaseRow], target: Path) -> Cases:
    """Write cases.csv, boxes.json, val_truth.csv and view/ into a new folder that replaces the target at the end."""
    if target.exists():
        return Cases(target)
    building = Cases(target.with_name(f".{target.name}-building"))
    remove_tree(building.folder)
    building.folder.mkdir(parents=True, mode=0o755)
    val = [case for case in chosen if case.split == "val"]
    building.table.write_text(view_text(chosen, dataset.attributes), encoding="utf-8")
    building.table.chmod(0o644)
    if dataset.targets:
        targets = spec.targets if spec.task_type == "detection" else dataset.targets
        boxes = boxes_json([case._replace(boxes=_boxes(case, spec)) for case in chosen], targets)
        building.boxes.write_text(boxes, encoding="utf-8")
        building.boxes.chmod(0o644)
    building.truth.write_text(truth_of(spec, val), encoding="utf-8")
    building.truth.chmod(0o600)
    prepare_predict_view(val, building.view)
    building.folder.chmod(0o755)
    building.folder.rename(target)
    return Cases(target)


def _boxes(case: CaseRow, spec: TaskSpec) -> tuple[Box, ...] | None:
    """Return the boxes that a task is about: in a detection those of its own targets, elsewhere every box that there is."""
    if spec.task_type != "detection" or case.boxes is None:
        return case.boxes
    return tuple(box for box in case.boxes if box.target in spec.targets)
