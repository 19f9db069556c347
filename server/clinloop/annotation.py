"""A finished model labels another dataset: its probability becomes an attribute, with its source and a check of overlap.

Order, so that a call can be repeated after an interruption: predict in batches, kept in the vault -> overlap -> tables -> audit ->
dataset.json, which makes the attribute exist -> ledger.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clinloop import context, evaluation, execution
from clinloop.context import TaskContext
from clinloop.datasets import assemble, vault
from clinloop.datasets.attributes import add_attribute
from clinloop.datasets.dataset import Annotation, CaseRow, Dataset, lock_name
from clinloop.datasets.overlap import Overlap, find_overlap
from clinloop.datasets.pictures import prepare_predict_view
from clinloop.delivery import Frozen
from clinloop.errors import BadInput, NotNow
from clinloop.files import remove_tree, write_atomic
from clinloop.opening import Invalid
from clinloop.paths import PREDICTIONS
from clinloop.scoring import service
from clinloop.services import Services
from clinloop.store.questions import UNFINISHED
from clinloop.store.rows import TaskRow

BATCH = 2000
"""Images that one sandbox predicts. Test images are never in one with others: what a model says of a training image, which agents can
read, could otherwise tell of a test image."""
_COLUMN = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TAKEN = ("case_id", "split", "group", "label", "supervision", "image", "width", "height", "boxes", "mask")
_UNFINISHED = (*UNFINISHED, "evaluating", "awaiting_unseal", "unsealed")

Progress = Callable[[str, int, int], None]


class _Model(NamedTuple):
    """The model that labels."""

    here: TaskContext
    frozen: Frozen
    positive: str
    """Class whose probability is kept."""

    @property
    def source(self) -> str:
        """What the model is called in audit and ledger."""
        return f"{self.frozen.run} of task {self.here.task.id} (checkpoint {self.frozen.checkpoint_sha256[:12]})"


def annotate(
    services: Services,
    dataset_name: str,
    *,
    model_task: str,
    column: str,
    progress: Progress = lambda what, done, total: None,
) -> list[str]:
    """Add `column` to a dataset: the probability that the final model of a task gives to its positive class; return what to know of it.

    Raises:
        Unknown, BadInput: no such dataset or task, a name that cannot be a column, a model that does not decide between two classes.
        NotNow: the model is not final, open tasks use the dataset, its test part is sealed, or the model failed on the images.
    """
    dataset = Dataset.load(services.settings.state, dataset_name)
    with lock_name(services.settings.state, dataset.folder.name):
        dataset = Dataset.load(services.settings.state, dataset_name)
        _check(services, dataset, column)
        model = _final_model(services, model_task)
        cases = [*dataset.cases(), *vault.open_test(dataset.folder)]
        values = _predict(model, dataset, cases, column, progress)
        seen = [case for case in model.here.dataset.cases() if case.label in model.here.classes]
        overlap = find_overlap(
            model.here.dataset, seen, dataset, cases, lambda done, total: progress("comparing images", done, total)
        )
        return _store(services, dataset, cases, values, model, column, overlap)


def _check(services: Services, dataset: Dataset, column: str) -> None:
    if not _COLUMN.fullmatch(column) or column in _TAKEN:
        raise BadInput(
            f"--column {column[:40]!r} cannot name an attribute: use 1 to 32 small letters, digits and _, starting with a letter, and none of "
            f"{', '.join(_TAKEN)}; for example drain."
        )
    if column in dataset.attributes:
        raise BadInput(f"Dataset {dataset.name} has an attribute {column} already; choose another name for the column.")
    if vault.seal_state(dataset.folder).is_sealed:
        raise NotNow(
            f"The test part of {dataset.name} is sealed, so its images cannot be labelled; add the dataset without --seal, label it, and keep it closed "
            "by the rights of its folder."
        )
    users = [task.id for task in services.store.tasks() if task.dataset == dataset.name and task.status in _UNFINISHED]
    if users:
        raise NotNow(
            f"Open tasks use dataset {dataset.name} ({', '.join(users[:5])}), and a new attribute would change what their runs see; finalize them first."
        )


def _final_model(services: Services, task_id: str) -> _Model:
    """Return the frozen refined model of an evaluated task, found to be what was frozen."""
    task = services.store.task(task_id)
    if task.status != "evaluated":
        raise NotNow(
            f"Task {task_id} is {task.status} and has no final model; the agent calls finalize, then it has one."
        )
    if task.spec.task_type != "classification":
        raise BadInput(
            f"Task {task_id} is for {task.spec.task_type}; only a classifier gives each image one probability."
        )
    here = context.assemble(services.store, task_id, services.launch_settings)
    try:
        frozen = next(model for model in evaluation.read_frozen(here, services.store) if model.model == "refined")
    except Invalid as fault:
        raise NotNow(f"The model of task {task_id} cannot be used, because {fault}.") from fault
    return _Model(here, frozen, _positive(task))


def _positive(task: TaskRow) -> str:
    """Return the class whose probability is kept: the declared one, else the only emphasised one, else the second of two."""
    spec, classes = task.spec, task.spec.target_classes
    if spec.positive_class:
        return spec.positive_class
    emphasised = [item.class_name for item in spec.emphasised_classes]
    if len(emphasised) == 1:
        return emphasised[0]
    if len(classes) == 2:
        return classes[1]
    raise BadInput(
        f"Task {task.id} tells {len(classes)} classes apart and names none of them as the one that matters, so no probability can be chosen; use a model "
        "of two classes, or one whose contract emphasises one class."
    )


# predict ---------------------------------------------------------------------------------------------------------


def _predict(
    model: _Model, dataset: Dataset, cases: Sequence[CaseRow], column: str, progress: Progress
) -> dict[str, float]:
    """Return the probability of every case; batches that an interrupted call has finished are read, not predicted again."""
    place = dataset.vault / f"annotating-{column}"
    plan_file, identity = (
        place / "plan.json",
        f"{model.frozen.tree_sha256} {model.frozen.checkpoint_sha256} {model.positive}",
    )
    plan: dict[str, Any] = json.loads(plan_file.read_text(encoding="utf-8")) if plan_file.is_file() else {}
    if plan.get("model") != identity:
        remove_tree(place)
        place.mkdir(mode=0o700)
        order = sorted(cases, key=lambda _: secrets.randbits(64))
        names = {secrets.token_hex(6): case.case_id for case in order}
        plan = {"model": identity, "names": names, "batches": _batches(names, cases)}
        write_atomic(plan_file, json.dumps(plan))
    names: dict[str, str] = plan["names"]
    by_id = {case.case_id: case for case in cases}
    values: dict[str, float] = {}
    for number, batch in enumerate(plan["batches"]):
        progress("predicting", len(values), len(names))
        kept = place / f"batch-{number}.json"
        if not kept.is_file():
            view = {names[name]: name for name in batch}
            found = _predict_batch(model, [by_id[case_id] for case_id in view], view, place)
            write_atomic(kept, json.dumps(found))
        found: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
        values |= {names[name]: value for name, value in found.items()}
    progress("predicting", len(names), len(names))
    return values


def _batches(names: dict[str, str], cases: Sequence[CaseRow]) -> list[list[str]]:
    """Return the names batch by batch, those of test images in batches of their own at the end."""
    hidden = {case.case_id for case in cases if case.split == "test"}
    parts = ([name for name in names if (names[name] in hidden) == is_hidden] for is_hidden in (False, True))
    return [part[start : start + BATCH] for part in parts for start in range(0, len(part), BATCH)]


def _predict_batch(model: _Model, cases: Sequence[CaseRow], names: dict[str, str], place: Path) -> dict[str, float]:
    """Run predict.py on some images in a fresh sandbox and return the probability by name; nothing else that it wrote stays."""
    view, work = place / "view", place / "work"
    remove_tree(view)
    remove_tree(work)
    work.mkdir(mode=0o700)
    try:
        prepare_predict_view(cases, view, new_ids=names)
        ending = execution.predict(
            model.here,
            name=f"{model.here.task.id}-annotate",
            code=model.frozen.folder / "code",
            checkpoint=model.frozen.folder / "checkpoint",
            view=view,
            out=work / "out",
            session=work / "session",
            log=work / "log.txt",
        )
        if ending.reason != "completed":
            refusal = NotNow(f"The model of task {model.here.task.id} failed on these images: {ending.message}")
            if (work / "log.txt").is_file():
                refusal.add_note((work / "log.txt").read_text(encoding="utf-8", errors="replace")[-1000:])
            raise refusal
        rows = service.read_probabilities(
            work / "out" / PREDICTIONS, scheme=model.here.scheme, expected=list(names.values())
        )
    finally:
        remove_tree(view)
        remove_tree(work)
    at = model.here.classes.index(model.positive)
    return {name: row[at] for name, row in rows.items()}


# store -----------------------------------------------------------------------------------------------------------


def _store(
    services: Services,
    dataset: Dataset,
    cases: Sequence[CaseRow],
    values: dict[str, float],
    model: _Model,
    column: str,
    overlap: Overlap,
) -> list[str]:
    """Write the column into every table, the audit, the record and the ledger; the record is last but the ledger."""
    shown = {case_id: f"{value:.4f}" for case_id, value in values.items()}
    visible = [case.case_id for case in cases if case.split != "test"]
    about = Annotation(
        column=column,
        task=model.here.task.id,
        run=model.frozen.run,
        class_name=model.positive,
        checkpoint_sha256=model.frozen.checkpoint_sha256,
        overlap=overlap.within(visible).sentence(len(visible), f"the model of {model.here.task.id}"),
        is_clean=overlap.within(visible).is_clean,
    )
    add_attribute(dataset, cases, column, shown, about)
    test = [case.case_id for case in cases if case.split == "test"]
    custodian = overlap.within(test).sentence(len(test), f"the model of {model.here.task.id}")
    assemble.write_private(dataset.vault / f"annotation-{column}.txt", custodian + "\n")
    detail = {
        **about.model_dump(mode="json"),
        "code_sha256": model.frozen.tree_sha256,
        "values_sha256": _digest(shown),
    }
    services.store.record(f"dataset:{dataset.name}", "annotated", detail)
    remove_tree(dataset.vault / f"annotating-{column}")
    positive = sum(values[case_id] >= 0.5 for case_id in visible)
    return [
        f"{dataset.name}.{column} is the probability of {model.positive!r} by {model.source}, not a label.",
        f"It is .5 or more in {positive} of {len(visible)} training and validation images"
        + ("" if 0 < positive < len(visible) else "; that tells them apart nowhere, so the model is of no use here")
        + ".",
        f"Overlap, train and validation: {about.overlap}.",
        f"Overlap, test (for the custodian only): {custodian}.",
    ]


def _digest(values: dict[str, str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(sorted(values.items()))
    return hashlib.sha256(text.getvalue().encode()).hexdigest()
