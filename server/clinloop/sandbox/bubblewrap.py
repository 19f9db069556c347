"""The bubblewrap backend: namespaces, a system-call filter, a uid of its own and hard caps, without a daemon."""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from clinloop.errors import SandboxUnavailable
from clinloop.sandbox import cgroups, gpus, linux, processes, seccomp
from clinloop.sandbox.base import Job, Probe
from clinloop.sandbox.child import Child
from clinloop.sandbox.host import HostBackend
from clinloop.sandbox.launch import Launch
from clinloop.sandbox.logs import LogFile
from clinloop.sandbox.records import Record
from clinloop.sandbox.running import KILLED, Running
from clinloop.sandbox.sources import SANDBOX_UID
from clinloop.sandbox.trial import try_out
from clinloop.sandbox.volumes import TIERS, Volume, check_empty, choose_volume
from clinloop.settings import Settings

_BWRAP_PATH = "/usr/bin:/usr/local/bin:/bin"
_PIPE_BYTES = 1 << 20
_BEST_EFFORT = {
    "memory": "best effort: watcher of the processes' memory",
    "pids": "best effort: RLIMIT_NPROC",
    "cpu": "best effort: thread counts",
}
_FIX = (
    "Needs bubblewrap >= 0.8 and user namespaces (Ubuntu 24.04: kernel.apparmor_restrict_unprivileged_userns=0 or a "
    "profile for bwrap); in a container, root needs --privileged."
)


class Bubblewrap(HostBackend):
    """Runs jobs with bubblewrap >= 0.8. `start` needs a thread that outlives the job: the kernel ends the job with that thread."""

    name = "bubblewrap"
    isolates = True
    needs_built_image = False

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._settings = settings
        self._probes = settings.state / "probes"
        self._own_folders = (settings.state, settings.cache)
        self._probe: Probe | None = None
        self._is_root = os.geteuid() == 0

    def probe(self) -> Probe:
        """Run one real sandbox and say what is enforced how; the result is kept."""
        if self._probe is None:
            problem, fix = _find_obstacle()
            tiers: Mapping[str, str] = {}
            if not problem:
                problem, tiers = try_out(self, self._probes)
                fix = _FIX if problem else ""
            self._probe = Probe(not problem, problem, fix, tiers)
        return self._probe

    def _start(self, job: Job) -> Running:
        devices = gpus.device_files(self._settings, job.gpus) if job.gpus else ()
        bwrap = shutil.which("bwrap", path=_BWRAP_PATH)
        if bwrap is None:
            raise SandboxUnavailable("bubblewrap is not installed: apt-get install bubblewrap.")
        folder = self._records.create(job.name)
        places = cgroups.find_places()
        token = f"{job.name}-{secrets.token_hex(4)}"
        volumes = [
            Volume(str(mount.source), str(folder / f"{index}.img"), "loop", job.limits.out_bytes)
            if self._is_root
            else Volume(str(mount.source), "", "plain", job.limits.out_bytes)
            for index, mount in enumerate(job.mounts)
            if mount.writable
        ]
        for volume in volumes:
            check_empty(Path(volume.source))
        record = Record(groups=cgroups.plan(token, places), volumes=volumes)
        self._records.save(job.name, record)  # before anything is acquired
        groups = cgroups.create(token, places, job.limits)
        if self._is_root:
            record.volumes = [choose_volume(Path(v.source), Path(v.image), v.cap_bytes, SANDBOX_UID) for v in volumes]
        record.tiers = {
            **{
                name: f"cgroup v{places[name].version}" if name in groups else _BEST_EFFORT[name]
                for name in cgroups.CONTROLLERS
            },
            "disk": ", ".join(sorted({TIERS[volume.kind] for volume in record.volumes})) or "nothing writable",
            "uid": f"own uid {SANDBOX_UID}" if self._is_root else "the server's uid in a user namespace",
            "network": "none: own network namespace, system-call filter",
        }
        status = os.open(folder / "status", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        output, output_write = os.pipe2(os.O_CLOEXEC)
        linux.enlarge_pipe(output, _PIPE_BYTES)
        try:
            with Launch(job, is_root=self._is_root, own_folders=self._own_folders, devices=devices) as launch:
                process = launch.popen(bwrap, output=output_write, status=status, groups=list(groups.values()))
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(output_write)
            os.close(status)
        child = Child(process, output, LogFile(job.log, job.limits.log_bytes))
        record.process = processes.identify(process.pid)
        self._records.save(job.name, record)
        return Running(
            child,
            record,
            code=lambda: _exit_code(process, folder / "status"),
            find=lambda: processes.descendants(process.pid),
            memory_bytes=job.limits.memory_bytes,
            memory_group=groups.get("memory"),
        )

    def _ended(self, ref: str, record: Record) -> None:
        self._records.save_end(ref, record)

    def stop(self, ref: str) -> None:
        """End every process of the job and release what it held; its writable folders are plain folders of ours afterwards."""
        own = self._jobs.pop(ref, None)
        if own is not None:
            own.child.end()
        self._records.release(ref)


def _find_obstacle() -> tuple[str, str]:
    """Return why bubblewrap cannot work here and what to do about it, or two empty texts."""
    if sys.platform != "linux":
        return "bubblewrap needs Linux.", "Use a Linux virtual machine."
    if platform.machine() not in seccomp.ARCHITECTURES:
        return (
            f"There is no system-call filter for {platform.machine()}.",
            f"Use one of {', '.join(seccomp.ARCHITECTURES)}.",
        )
    if not shutil.which("bwrap", path=_BWRAP_PATH):
        return "bubblewrap is not installed.", "Install it: apt-get install bubblewrap (or dnf install bubblewrap)."
    return "", ""


def _exit_code(process: subprocess.Popen[bytes], status: Path) -> int:
    """Read the exit status from bwrap's status file; 137 when bwrap itself was killed, also by another process that cleaned up.

    Raises:
        SandboxUnavailable: bwrap gave up before it started the command.
    """
    if process.returncode < 0:
        return KILLED
    for line in status.read_text(encoding="ascii").splitlines():
        if "exit-code" in (document := json.loads(line)):
            return int(document["exit-code"])
    raise SandboxUnavailable("bubblewrap could not set the sandbox up; the log of the job says why.")
