"""What a check works with: small jobs of one backend, and their result as a value."""

from __future__ import annotations

import secrets
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from clinloop.sandbox.base import Exit, Job, Mount, Sandbox
from clinloop.settings import Limits

SMALL = Limits(
    memory_bytes=256 << 20,
    cpus=1,
    pids=64,
    out_bytes=32 << 20,
    tmp_bytes=16 << 20,
    shm_bytes=16 << 20,
    log_bytes=64 << 10,
)
PATIENCE_S = 30.0


class Failed(AssertionError):
    """A backend does not keep what the suite asks for."""


class Ended(NamedTuple):
    """A job after `stop`."""

    exit: Exit
    log: str
    out: Path
    seconds: float
    """From start to exit."""


def expect(condition: object, message: str) -> None:
    """Fail the check unless the condition holds."""
    if not condition:
        raise Failed(message)


class Bench:
    """Runs Python snippets as jobs of a backend, below a folder of the check's own."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox, self.folder = sandbox, folder

    def job(
        self,
        code: str = "",
        *,
        argv: tuple[str, ...] = (),
        limits: Limits = SMALL,
        mounts: tuple[Mount, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Job:
        """Return a job with an empty /out; it runs `code` in Python unless `argv` is given."""
        python = self.sandbox.bare()
        home = self.folder / secrets.token_hex(4)
        (home / "out").mkdir(mode=0o700, parents=True)
        out = Mount(home / "out", "/out", writable=True)
        return Job(
            name=f"check-{secrets.token_hex(6)}",
            argv=argv or (python.python, "-I", "-S", "-u", "-c", code),
            workdir="/out",
            mounts=(*python.mounts, *mounts, out),
            limits=limits,
            wall_seconds=PATIENCE_S,
            log=home / "log",
            environment=environment or {},
            image=python.image,
        )

    def finish(self, job: Job, began: float) -> Ended:
        """Wait for a started job, stop it and return what is left of it."""
        try:
            ended = self.sandbox.wait(job.name, PATIENCE_S)
        finally:
            seconds = time.monotonic() - began
            self.sandbox.stop(job.name)
        if ended is None:
            raise Failed(f"the job did not end within {PATIENCE_S:.0f} s")
        return Ended(ended, job.log.read_text(encoding="utf-8", errors="replace"), job.mounts[-1].source, seconds)

    def run(self, code: str = "", **given: object) -> Ended:
        """Run a job to its end; arguments as for `job`."""
        job = self.job(code, **given)  # type: ignore[arg-type]
        began = time.monotonic()
        self.sandbox.start(job)
        return self.finish(job, began)

    @contextmanager
    def running(self, job: Job) -> Generator[Job]:
        """Keep a job running for a `with` block."""
        self.sandbox.start(job)
        try:
            yield job
        finally:
            self.sandbox.stop(job.name)

    def wait_for_log(self, job: Job, text: str) -> None:
        """Return once a running job has printed a text."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in job.log.read_text(encoding="utf-8", errors="replace"):
            expect(time.monotonic() < deadline, f"the job did not print {text!r}")
            expect(
                self.sandbox.wait(job.name, 0.05) is None,
                f"the job ended before it printed {text!r}: {job.log.read_text()[-500:]}",
            )


def find_processes(word: str) -> list[int]:
    """Return the processes of this machine with a word in their command line."""
    found = list[int]()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if word.encode() in words:
                found.append(int(folder.name))
    return found


def is_gone(word: str, *, within_s: float) -> bool:
    """Return whether no process with the word is left, or none soon."""
    deadline = time.monotonic() + within_s
    while find_processes(word):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
