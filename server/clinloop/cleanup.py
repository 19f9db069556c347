"""Clean-up: remove what ended tasks no longer need, never their evidence, each time with an entry in the ledger.

A clean-up moves what goes into TASK/.removed-<id>/ with a note of who wanted it, writes the ledger, and deletes the folder. Killed in between,
the next clean-up of the task writes the entry if the ledger has none with this id, and deletes the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from clinloop.datasets import dataset as datasets
from clinloop.datasets.dataset import Dataset
from clinloop.disk import Meter
from clinloop.errors import BadInput, LedgerBroken, NotNow
from clinloop.failpoints import reach
from clinloop.files import remove_tree, write_atomic
from clinloop.paths import TaskFolder
from clinloop.services import Services
from clinloop.store.rows import RunRow, TaskRow
from clinloop.store.tasks import ENDED

Scope = Literal["runs", "task"]
"""`runs`: outputs of runs that nothing refers to; `task`: all but ledger, report, evidence, models and code."""
SCOPES: tuple[Scope, ...] = ("runs", "task")
BULK = ("data",)
"""Folders of a task that go besides those of its runs; final/, model/, report/ and revisions.git stay, which export, annotate and verify read."""
OUTPUTS = ("code", "data", "out", "session")
"""Folders of a run that can go first: its checkpoint and other outputs, a copy of its code, its view of the data."""
_TRASH = ".removed-"
_NOTE = "note.json"
_NAMED = 40
"""Paths that a ledger entry names."""


class Item(NamedTuple):
    """One folder that goes."""

    path: str
    """Relative to the task's folder."""
    bytes: int


class Plan(NamedTuple):
    """What a clean-up of a task removes, or has removed."""

    task_id: str
    scope: Scope
    items: tuple[Item, ...]

    @property
    def bytes(self) -> int:
        """What is free afterwards."""
        return sum(item.bytes for item in self.items)


def plan(services: Services, task_id: str, scope: Scope) -> Plan:
    """Return what a clean-up would remove; nothing is changed.

    Raises:
        Forbidden: only a custodian removes files.
        Unknown: no such task.
        NotNow: the task has not ended.
        LedgerBroken: somebody else than the server has changed its ledger, so all that could be evidence stays.
    """
    services.principal.require("custodian", what="remove files")
    task = services.task(task_id)
    services.store.require_ended(task_id)
    folder, meter = services.state.task(task_id), Meter()
    left = [path for path in _leftovers(folder.root) if (path / _NOTE).exists()]
    doomed = [*left, *_doomed(services, task, folder, scope)]
    found = [(str(path.relative_to(folder.root)), path) for path in doomed]
    return Plan(task_id, scope, tuple(Item(name, meter.measure(path)) for name, path in found))


def plans(services: Services, scope: Scope = "runs") -> list[Plan]:
    """Return what can be removed of all ended tasks, those with most first; tasks whose ledger is broken are left out."""
    found: list[Plan] = []
    for task in services.tasks():
        if task.status in ENDED:
            with contextlib.suppress(NotNow, LedgerBroken):
                found.append(plan(services, task.id, scope))
    return sorted((item for item in found if item.items), key=lambda item: -item.bytes)


def clean(services: Services, task_id: str, scope: Scope) -> Plan:
    """Remove what `plan` says and return it; repeated, there is nothing left to remove.

    Raises:
        Forbidden, Unknown, LedgerBroken: as for plan.
        NotNow: the task has not ended, or is being cleaned up by another process.
    """
    plan(services, task_id, scope)  # refuses before anything is touched
    folder = services.state.task(task_id)
    with _alone(folder.root):
        for left in _leftovers(folder.root):
            _finish(services, task_id, left)
        task = services.task(task_id)
        doomed = _doomed(services, task, folder, scope)
        meter = Meter()
        found = Plan(
            task_id, scope, tuple(Item(str(path.relative_to(folder.root)), meter.measure(path)) for path in doomed)
        )
        if not doomed:
            return found
        trash = folder.root / f"{_TRASH}{secrets.token_hex(6)}"
        trash.mkdir(mode=0o700)
        note = {
            "by": services.principal.label,
            "scope": scope,
            "paths": [item.path for item in found.items],
        }
        write_atomic(trash / _NOTE, json.dumps(note))
        for number, path in enumerate(doomed):
            path.rename(trash / str(number))
        reach("clean:moved")
        _finish(services, task_id, trash)
        return found


def remove_dataset(services: Services, name: str) -> None:
    """Remove a dataset with its hidden test part; reports of tasks that used it stay.

    Raises:
        Forbidden: only a custodian removes files.
        Unknown: no such dataset.
        BadInput: a task on it has not ended.
    """
    services.principal.require("custodian", what="remove a dataset")
    dataset = refuse_used(services, name)
    datasets.remove(services.settings.state, dataset.name)
    services.store.record(f"dataset:{dataset.name}", "removed", {"by": services.principal.label})


def refuse_used(services: Services, name: str) -> Dataset:
    """Return a dataset that no task needs any more.

    Raises:
        Unknown: no such dataset.
        BadInput: a task on it has not ended.
    """
    dataset = Dataset.load(services.settings.state, name)
    users = [task.id for task in services.store.tasks() if task.dataset == dataset.name and task.status not in ENDED]
    if users:
        raise BadInput(
            f"Dataset {name} is used by tasks that have not ended ({', '.join(users[:5])}); finalize or decline them first."
        )
    return dataset


def require_kept(services: Services, run: RunRow, needed: Sequence[Path]) -> None:
    """Refuse to read files of a run that a clean-up has removed.

    Raises:
        NotNow: they were removed; the text says when and what is still there.
    """
    if all(path.exists() for path in needed):
        return
    cleaned = [row for row in services.store.ledger(f"task:{run.task_id}") if row.event == "cleaned"]
    if cleaned:
        raise NotNow(
            f"These files of {run.name} were removed on {cleaned[-1].at[:10]} by the custodian's clean-up of ended tasks. "
            "Its scores and decision are still there (views 'scores' and 'runs'), and so are the report and all revisions of the code."
        )


def _kept_runs(services: Services, task: TaskRow) -> set[str]:
    """Return the runs whose predictions, logs and curves stay: baseline, incumbent and the one that was frozen."""
    found = (services.store.baseline(task.id), services.store.incumbent(task.id))
    return {run.name for run in found if run is not None} | ({task.final_run} if task.final_run else set())


def _doomed(services: Services, task: TaskRow, folder: TaskFolder, scope: Scope) -> list[Path]:
    """Return the folders that go, in a fixed order; none of them is a link."""
    kept = _kept_runs(services, task)
    runs = [(name, folder.run(name).root) for name in _names(folder.root / "runs")]
    if scope == "runs":
        return [path for name, root in runs if name not in kept for path in _present(root, OUTPUTS)]
    of_runs = [path for name, root in runs for path in (_present(root, OUTPUTS) if name in kept else [root])]
    return [*of_runs, *_present(folder.root, BULK)]


def _names(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted."""
    try:
        with os.scandir(folder) as found:
            return sorted(entry.name for entry in found if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def _present(root: Path, names: Sequence[str]) -> list[Path]:
    return [root / name for name in _names(root) if name in names]


def _leftovers(folder: Path) -> list[Path]:
    """Return what clean-ups that were interrupted have left."""
    return [folder / name for name in _names(folder) if name.startswith(_TRASH)]


def _finish(services: Services, task_id: str, trash: Path) -> None:
    """Record what lies in a folder of removed things, once, and delete it."""
    token = trash.name.removeprefix(_TRASH)
    note = _note(trash)
    if note is not None and not any(_is_of(row.detail, token) for row in _cleanups(services, task_id)):
        moved = [trash / name for name in _names(trash)]
        if moved:
            paths = [note["paths"][int(path.name)] for path in moved]
            meter = Meter()
            detail = {
                "id": token,
                "by": note["by"],
                "scope": note["scope"],
                "bytes": sum(meter.measure(path) for path in moved),
                "removed": paths[:_NAMED],
                "n_removed": len(paths),
            }
            services.store.record(f"task:{task_id}", "cleaned", detail)
            reach("clean:recorded")
    for path in (trash / name for name in _names(trash)):
        remove_tree(path)
    remove_tree(trash)


def _note(trash: Path) -> dict[str, Any] | None:
    """Return the note in a folder of removed things; None where the process died before it wrote one, and so before it moved anything."""
    try:
        return json.loads((trash / _NOTE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def _cleanups(services: Services, task_id: str) -> Iterator[Any]:
    return (row for row in services.store.ledger(f"task:{task_id}") if row.event == "cleaned")


def _is_of(detail: dict[str, Any], token: str) -> bool:
    return detail.get("id") == token


@contextlib.contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Hold the only right to clean up a task; the kernel drops it when the process ends.

    Raises:
        NotNow: another process holds it.
    """
    if not folder.is_dir():
        yield  # nothing was ever written, or somebody removed it by hand
        return
    with (folder / "clean.lock").open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotNow(f"Task {folder.name} is being cleaned up by another process; try again in a moment.") from None
        yield
