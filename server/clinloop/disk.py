"""How much of the disk datasets, tasks, the store and sandbox environments take; hard links are counted once."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from clinloop.services import Services
from clinloop.store.rows import TaskRow

_BLOCK = 512
"""Unit of st_blocks, whatever the file system (POSIX)."""
_PARTS: Mapping[str, str] = {
    "runs": "runs",
    "data": "data",
    "final": "evidence",
    "report": "evidence",
    "model": "model",
    "revisions.git": "code",
    "workspace": "code",
}
"""Folder of a task to what a person calls it; the rest is "other"."""
PARTS: tuple[str, ...] = ("runs", "data", "model", "evidence", "code", "other")
"""What a task's bytes are shown as."""


class DatasetUse(NamedTuple):
    """What a dataset takes, its test part included."""

    name: str
    bytes: int


class TaskUse(NamedTuple):
    """What a task takes."""

    id: str
    parts: Mapping[str, int]
    """Bytes by PARTS."""

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(self.parts.values())


class DiskUse(NamedTuple):
    """What the state folder and the cache take."""

    datasets: tuple[DatasetUse, ...]
    tasks: tuple[TaskUse, ...]
    store: int
    """The database with its log."""
    cache: int
    """Environments of bubblewrap, packages and weights that were fetched."""
    other: int
    """The rest of the state folder."""
    free: int
    """Left on the disk of the state folder."""

    @property
    def bytes(self) -> int:
        """All of it, without what is free."""
        return (
            sum(item.bytes for item in self.datasets)
            + sum(item.bytes for item in self.tasks)
            + self.store
            + self.cache
            + self.other
        )


class Meter:
    """Adds up what files take on the disk; a file with several names is counted at the first one that it is asked about."""

    def __init__(self) -> None:
        self._seen = set[tuple[int, int]]()

    def measure(self, path: Path) -> int:
        """Return the bytes that a file or folder takes; links are not followed, other file systems not entered, missing paths are empty."""
        try:
            facts = path.lstat()
        except FileNotFoundError:
            return 0
        total = self._own(facts)
        if stat.S_ISDIR(facts.st_mode):
            total += sum(self._own(found) for found in _below(str(path), facts.st_dev))
        return total

    def _own(self, facts: os.stat_result) -> int:
        if facts.st_nlink > 1 and not stat.S_ISDIR(facts.st_mode):
            key = (facts.st_dev, facts.st_ino)
            if key in self._seen:
                return 0
            self._seen.add(key)
        return facts.st_blocks * _BLOCK


def _below(folder: str, device: int) -> Iterator[os.stat_result]:
    """Yield the facts of everything below a folder; what vanishes meanwhile, or cannot be read, is left out."""
    folders = [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as scan:
                entries = list(scan)
        except OSError:
            continue
        for entry in entries:
            try:
                facts = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if facts.st_dev != device:
                continue
            yield facts
            if stat.S_ISDIR(facts.st_mode):
                folders.append(entry.path)


def measure(services: Services) -> DiskUse:
    """Return what everything takes; reads no file, but looks at each."""
    state, meter = services.settings.state, Meter()
    datasets = tuple(DatasetUse(folder.name, meter.measure(folder)) for folder in _folders(state / "datasets"))
    tasks = tuple(task_use(services, task, meter) for task in services.store.tasks())
    store = sum(meter.measure(file) for file in sorted(state.glob("clinloop.sqlite*")))
    known = sum(item.bytes for item in datasets) + sum(item.bytes for item in tasks) + store
    everything = Meter().measure(state)
    cache = services.settings.cache
    is_inside = cache.resolve().is_relative_to(state.resolve())
    cached = Meter().measure(cache)
    return DiskUse(
        datasets=datasets,
        tasks=tasks,
        store=store,
        cache=cached,
        other=max(0, everything - known - (cached if is_inside else 0)),
        free=shutil.disk_usage(state).free,
    )


def task_use(services: Services, task: TaskRow, meter: Meter | None = None) -> TaskUse:
    """Return what one task takes."""
    meter = meter or Meter()
    parts: dict[str, int] = dict.fromkeys(PARTS, 0)
    folder = services.state.task(task.id).root
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        parts[_PARTS.get(path.name, "other")] += meter.measure(path)
    return TaskUse(task.id, parts)


def size_text(size: int) -> str:
    """Return a number of bytes for people: 1.2 GB, 340 MB, 12 kB."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    if size >= 1e6:
        return f"{size / 1e6:.0f} MB"
    return f"{-(-size // 1000)} kB"


def _folders(root: Path) -> list[Path]:
    """Return the folders in a folder that are no leftovers."""
    found = sorted(root.iterdir()) if root.is_dir() else []
    return [path for path in found if path.is_dir() and not path.name.startswith(".")]
