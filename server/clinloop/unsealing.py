"""The unsealing of a task: the clinician brings the key, the sealed test set is opened in memory, once, and both frozen models are scored.

It runs in the foreground under the state folder's user. Nothing of the test set and nothing of the key is written to a disk.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clinloop import context, evaluation, runs, supervisor
from clinloop.context import TaskContext
from clinloop.datasets import sealed, vault
from clinloop.datasets.dataset import Dataset
from clinloop.datasets.table import CaseRow, parse_cases
from clinloop.delivery import Frozen
from clinloop.errors import BadInput, BadPredictions, NotNow
from clinloop.failpoints import reach
from clinloop.memory import clear_room, guard_secrets, make_room
from clinloop.opening import Invalid
from clinloop.services import Services
from clinloop.store.rows import TaskRow
from clinloop.store.store import Store

if TYPE_CHECKING:
    from pyrage.x25519 import Identity


class _Opened(NamedTuple):
    """What the seal holds, found to be what was committed to."""

    facts: sealed.Facts
    test: list[CaseRow]


def unseal(services: Services, task_id: str, identities: Sequence[Identity], report: Callable[[str], None]) -> TaskRow:
    """Open the sealed test set of a task whose models are frozen, score them, and return the ended task.

    Raises:
        BadInput: the identity does not open the seal, or what is sealed is not what was committed to; nothing was recorded.
        NotNow: the task does not wait for it, another process is at it, or there is no place in memory.
    """
    guard_secrets()
    task = _waiting(services, task_id)
    with _alone(services, task_id):
        task = _waiting(services, task_id)
        dataset = Dataset.load(services.settings.state, task.dataset)
        here = context.assemble(services.store, task_id, services.launch_settings)
        try:
            frozen = evaluation.read_frozen(here, services.store)
        except Invalid as fault:
            if task.status == "unsealed":
                evaluation.end_invalid(services.store, here.folder, task_id, fault)
                return services.store.task(task_id)
            raise BadInput(
                f"Nothing was opened, because {fault} since it was frozen. Somebody has changed it."
            ) from fault
        report("checking that the key opens the seal and that the sealed images are those that were committed to")
        opened = _check(dataset, identities)
        evaluation.end_jobs(here)
        mount_point = here.folder.final / runs.ROOM
        place = make_room(mount_point)
        try:
            test = _write_images(dataset, opened, identities, place)
            report("predicting the test images with both models, and scoring them")
            _carry(services.store, here, frozen, test, place)
        finally:
            clear_room(mount_point)
    return services.store.task(task_id)


def _waiting(services: Services, task_id: str) -> TaskRow:
    task = services.store.task(task_id)
    if not services.seal(task.dataset).is_sealed:
        raise BadInput(
            f"The test set of task {task_id} is not sealed, so there is nothing to unseal; finalize scores it."
        )
    if task.status not in ("awaiting_unseal", "unsealed"):
        done = "it is opened once" if task.status in ("evaluated", "invalid") else "the agent calls finalize first"
        raise NotNow(f"Task {task_id} is {task.status} and does not wait for an unsealing: {done}.")
    owner = services.settings.state.stat().st_uid
    if owner != os.geteuid():
        raise NotNow(
            f"The state folder belongs to user {owner}; run this as that user, so that its server can read what is written."
        )
    return task


@contextmanager
def _alone(services: Services, task_id: str) -> Generator[None]:
    """Hold the lock of the task's evaluation, as its supervisor would; the kernel drops it however this process ends."""
    lock = supervisor.hold(services.state.task(task_id).final)
    if lock is None:
        raise NotNow(f"Another process is evaluating task {task_id}; wait for it.")
    try:
        yield
    finally:
        os.close(lock)


def _check(dataset: Dataset, identities: Sequence[Identity]) -> _Opened:
    """Open the whole seal in memory and compare it with the commitment, before anything is recorded."""
    facts = sealed.open_facts(dataset.folder, identities)
    table = parse_cases(facts.table, Path())
    digests = {
        name: hashlib.sha256(image).hexdigest() for name, image in sealed.open_images(dataset.folder, facts, identities)
    }
    test = [
        case._replace(
            image_sha256=digests.get(case.case_id, ""),
            mask_sha256=digests.get(sealed.mask_entry(case.case_id), "") if case.mask else "",
        )
        for case in table
    ]
    if not vault.holds(dataset.folder, test, facts.salt):
        raise BadInput(
            "What is sealed, or the stored training and validation images, are not what was committed to when the dataset was added. Nothing "
            "was opened or recorded; restore the dataset from a copy."
        )
    return _Opened(facts, table)


def _write_images(dataset: Dataset, opened: _Opened, identities: Sequence[Identity], place: Path) -> list[CaseRow]:
    """Write the test images and masks into the folder in memory and return the test cases with where they lie."""
    folder = place / "opened"
    folder.mkdir(mode=0o700)
    for name, image in sealed.open_images(dataset.folder, opened.facts, identities):
        (folder / name).write_bytes(image)
    return [
        case._replace(image=folder / case.case_id, mask=folder / sealed.mask_entry(case.case_id) if case.mask else None)
        for case in opened.test
    ]


def _carry(store: Store, here: TaskContext, frozen: Sequence[Frozen], test: Sequence[CaseRow], place: Path) -> None:
    """Record the opening, then take the evaluation to its end; a fault after it leaves the task to be unsealed again."""
    try:
        if here.task.status == "awaiting_unseal":
            seal = vault.seal_state(here.dataset.folder)
            store.unseal(here.task.id, {**evaluation.identify(frozen), "originals_readable": seal.originals_readable})
        else:
            evaluation.record_resumed(store, here.task.id)
        reach("unseal:opened")
        evaluation.conclude(here, store, frozen, test, place)
    except Exception as fault:
        if store.task(here.task.id).status != "unsealed":
            raise
        if not isinstance(fault, Invalid | BadPredictions):
            store.set_phase(here.task.id, f"waiting for the key again. Cause: {context.explain(fault)}")
            raise
        evaluation.end_invalid(store, here.folder, here.task.id, fault)
