"""The backend that isolates nothing: a plain child process with limits, for tests and for who accepts it by flag."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from pathlib import Path

from clinloop.sandbox import linux, processes
from clinloop.sandbox.base import Job, Probe, basic_environment
from clinloop.sandbox.child import Child
from clinloop.sandbox.host import HostBackend
from clinloop.sandbox.logs import LogFile
from clinloop.sandbox.records import Record
from clinloop.sandbox.running import Running
from clinloop.sandbox.volumes import TIERS, Volume, check_empty

_TIERS = {
    "memory": "best effort: watcher of the processes' memory",
    "pids": "none",
    "cpu": "best effort: thread counts",
    "disk": TIERS["plain"],
    "uid": "none: the server's own",
    "network": "none: the server's own",
}
_TARGETS = {
    "CLINLOOP_DATA": "/data",
    "CLINLOOP_OUT": "/out",
    "CLINLOOP_SESSION": "/session",
    "CLINLOOP_WEIGHTS": "/weights",
    "CLINLOOP_INPUTS": "/inputs",
}
"""The variables by which the runtime inside finds its mounts where they are not at their usual place."""
_END_S = 10.0


class Unisolated(HostBackend):
    """Runs a job as a child of the caller. A folder of links stands in for the mounts, nothing is read-only, the network is there.

    Words and values of the job that begin with a mount target are rewritten to the link. The job's processes are found again, also by another
    process, by CLINLOOP_JOB in their environment; one that empties its environment and leaves the process tree escapes.
    """

    name = "none"
    isolates = False
    needs_built_image = False

    def probe(self) -> Probe:
        """Say what is enforced: nothing that agent code could not undo."""
        return Probe(True, "", "", _TIERS)

    def _start(self, job: Job) -> Running:
        folder = self._records.create(job.name)
        volumes = [
            Volume(str(mount.source), "", "plain", job.limits.out_bytes) for mount in job.mounts if mount.writable
        ]
        for volume in volumes:
            check_empty(Path(volume.source))
        record = Record(volumes=volumes, tiers=dict(_TIERS))
        self._records.save(job.name, record)
        (folder / "tmp").mkdir()
        root = folder / "root"
        root.mkdir()
        for mount in job.mounts:
            place = root / mount.target.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(mount.source.absolute())
        environment = {
            key: _rewritten(value, job, root) for key, value in basic_environment(job, home=str(folder / "tmp")).items()
        }
        environment |= {key: str(root / target[1:]) for key, target in _TARGETS.items() if (root / target[1:]).exists()}
        environment |= {"TMPDIR": str(folder / "tmp"), _tag(job.name).partition("=")[0]: job.name}
        output, output_write = os.pipe2(os.O_CLOEXEC)
        linux.enlarge_pipe(output, 1 << 20)
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", 'exec "$@"', "job", *(_rewritten(word, job, root) for word in job.argv)],
                cwd=_rewritten(job.workdir, job, root),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output_write,
                stderr=output_write,
                start_new_session=True,
                preexec_fn=lambda: _limit(job),  # noqa: PLW1509 - its steps are system calls only
            )
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(output_write)
        record.process = processes.identify(process.pid)
        self._records.save(job.name, record)
        return Running(
            Child(process, output, LogFile(job.log, job.limits.log_bytes)),
            record,
            code=lambda: process.returncode if process.returncode >= 0 else 128 - process.returncode,
            find=lambda: _members(job.name),
            memory_bytes=job.limits.memory_bytes,
            memory_group=None,
        )

    def _ended(self, ref: str, record: Record) -> None:
        """End what the job left behind."""
        processes.kill_all(lambda: _members(ref), within_s=_END_S)
        self._records.save_end(ref, record)

    def stop(self, ref: str) -> None:
        """End every process of the job that can be found; its writable folders are plain folders of regular files afterwards."""
        own = self._jobs.pop(ref, None)
        if own is not None:
            own.child.end()
        self._records.release(ref, end=lambda: processes.kill_all(lambda: _members(ref), within_s=_END_S))


def _tag(name: str) -> str:
    return f"CLINLOOP_JOB={name}"


def _members(name: str) -> list[int]:
    return processes.with_environment(_tag(name))


def _rewritten(word: str, job: Job, root: Path) -> str:
    """Return a word with a leading mount target replaced by its link; a mount at its own place needs none."""
    for mount in sorted(job.mounts, key=lambda mount: -len(mount.target)):
        if (word == mount.target or word.startswith(mount.target + "/")) and str(mount.source) != mount.target:
            return str(root / mount.target[1:]) + word[len(mount.target) :]
    return word


def _limit(job: Job) -> None:
    """Between fork and exec: limits that one process can have."""
    wanted = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: job.limits.out_bytes}
    for kind, value in wanted.items():
        hard = resource.getrlimit(kind)[1]
        capped = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (capped, capped))
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    linux.die_with_parent()
