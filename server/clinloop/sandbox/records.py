"""What a started job holds, on disk before it is acquired, so that any process can release it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from clinloop.errors import SandboxUnavailable
from clinloop.files import remove_tree, write_atomic
from clinloop.sandbox import cgroups, linux, processes
from clinloop.sandbox.base import Exit
from clinloop.sandbox.processes import Identity
from clinloop.sandbox.volumes import Volume

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")


@dataclass(kw_only=True)
class Record:
    """One job of one backend; its folder is named by the job."""

    backend: str = ""
    """Name of the backend that can end the job."""
    process: Identity | None = None
    groups: list[str] = field(default_factory=list[str])
    volumes: list[Volume] = field(default_factory=list[Volume])
    shown: list[str] = field(default_factory=list[str])
    """Read-only mounts that were made on the host for the job, for backends that cannot make them in the job's own namespace."""
    tiers: dict[str, str] = field(default_factory=dict[str, str])
    exit: Exit | None = None


class Records:
    """The folder of records of one state folder, one sub-folder a job; shared by any number of processes."""

    def __init__(self, root: Path, backend: str) -> None:
        self._root, self._backend = root, backend

    def folder(self, name: str) -> Path:
        """Return the folder of a job; raises ValueError for a name that is no plain file name."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a job name: {name!r}")
        return self._root / name

    def create(self, name: str) -> Path:
        """Make the empty folder of a new job."""
        folder = self.folder(name)
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        return folder

    def save(self, name: str, record: Record) -> None:
        """Write a record in place of the former one, atomically."""
        content = asdict(record) | {
            "backend": self._backend,
            "volumes": [volume._asdict() for volume in record.volumes],
        }
        write_atomic(self.folder(name) / "record.json", json.dumps(content))

    def save_end(self, name: str, record: Record) -> None:
        """Write how a job ended, for other processes that wait; nothing when one of them released it already."""
        with suppress(FileNotFoundError):
            self.save(name, record)

    def load(self, name: str) -> Record | None:
        """Return the record of a job; None when it was released; an empty one when its owner died before it held anything."""
        try:
            stored = json.loads((self.folder(name) / "record.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Record() if self.folder(name).is_dir() else None
        return Record(
            backend=stored["backend"],
            process=Identity(*stored["process"]) if stored["process"] else None,
            groups=stored["groups"],
            volumes=[Volume(**volume) for volume in stored["volumes"]],
            shown=stored["shown"],
            tiers=stored["tiers"],
            exit=Exit(*stored["exit"]) if stored["exit"] else None,
        )

    @contextmanager
    def _locked(self, name: str) -> Generator[bool]:
        """Hold the job's folder against other processes; False when it is gone."""
        try:
            fd = os.open(self.folder(name), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield False
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield self.folder(name).is_dir()
        finally:
            os.close(fd)

    def release(self, name: str, *, end: Callable[[], bool] = lambda: True) -> None:
        """End what a job still runs, settle its folders and forget it; nothing happens for a job that is gone.

        end: ends processes that the record does not know; returns whether all are gone.

        Raises:
            SandboxUnavailable: a process survives SIGKILL, or a folder cannot be settled now; the job stays known and can be released again.
        """
        with self._locked(name) as exists:
            record = self.load(name) if exists else None
            if record is None:
                return
            if record.backend not in ("", self._backend):
                raise SandboxUnavailable(
                    f"A sandbox is left from the backend '{record.backend}', which does not work here at the moment; it has to be ended first."
                )
            groups = [Path(folder) for folder in record.groups]
            if record.process:
                processes.kill(record.process)
            if not (cgroups.kill(groups) and end()):
                raise SandboxUnavailable("Processes of a sandbox survive SIGKILL; the machine needs its custodian.")
            cgroups.remove(groups)
            try:
                linux.detach(record.shown)
            except OSError as error:
                raise SandboxUnavailable("A mount of a sandbox cannot be removed yet.") from error
            for volume in record.volumes:
                try:
                    volume.settle()
                except (OSError, subprocess.SubprocessError) as error:
                    raise SandboxUnavailable(
                        f"What a sandbox wrote could not be collected yet ({type(error).__name__})."
                    ) from error
            remove_tree(self.folder(name))
