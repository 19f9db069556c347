"""What a container of one job is made of: command, mounts, caps and the lock-down, as arguments of the engine's API."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinloop.sandbox.base import Job, Mount, basic_environment
from clinloop.sandbox.profile import build_profile
from clinloop.sandbox.sources import SANDBOX_UID

if TYPE_CHECKING:
    from docker import APIClient

INSTANCE, JOB, DEADLINE = "org.clinloop.instance", "org.clinloop.job", "org.clinloop.deadline"
"""Labels: the state folder that a container belongs to, its job, and the Unix time after which anybody may remove it."""
CLOCK = "org.clinloop.clock"
"""Label: the same by the clock of this boot, which stands still while the machine sleeps: "BOOT SECONDS"."""
OVERDUE_S = 120
"""So long after a job's own deadline its container is removed by whoever starts the next one."""
_COMMAND = 'exec 2>&1; exec "$@"'
"""Runs inside, in sh: output and errors share one pipe, so that the log keeps their order."""
_OPEN_FILES = 16_384
"""An engine without CAP_SYS_RESOURCE cannot give more than it has; 20,000 was seen."""


def instance_of(state: Path) -> str:
    """Return the name that containers of a state folder carry; it tells nothing of the path."""
    return hashlib.sha256(str(state).encode()).hexdigest()[:12]


def name_of(state: Path, job: str) -> str:
    """Return the name of a job's container, unique on the engine."""
    return f"clinloop-{instance_of(state)}-{job}"


def user_of(is_root: bool) -> str:
    """Return uid:gid of a job: never root, and the server's own where files could not be shown to another."""
    return f"{SANDBOX_UID}:{SANDBOX_UID}" if is_root else f"{os.getuid()}:{os.getgid()}"


def create(client: APIClient, job: Job, *, state: Path, is_root: bool, mounts: Sequence[Mount], scratch: Path) -> str:
    """Create the container of a job and return its id; `mounts` are the job's with the sources that the engine shall bind.

    scratch: a folder of the job's record, for what the engine wants as a file.

    Raises:
        docker.errors.APIError: the engine refuses.
    """
    environment = [
        f"{key}={value}"
        for key, value in basic_environment(job, home="/tmp").items()  # noqa: S108 - the sandbox's own
    ]
    container = client.create_container(
        job.image,
        # env -i: what the image sets, and what the engine adds, stays out of the job.
        command=["/bin/sh", "-c", _COMMAND, "job", "/usr/bin/env", "-i", *environment, *job.argv],
        entrypoint=[],
        # For the engine, not for the job: where NVIDIA's runtime is the default, an image may ask for all GPUs by this variable.
        environment={} if job.gpus else {"NVIDIA_VISIBLE_DEVICES": "void"},
        name=name_of(state, job.name),
        hostname="sandbox",
        user=user_of(is_root),
        working_dir=job.workdir,
        labels={
            INSTANCE: instance_of(state),
            JOB: job.name,
            DEADLINE: str(int(time.time() + job.wall_seconds) + OVERDUE_S),
            CLOCK: f"{_boot()} {int(time.monotonic() + job.wall_seconds) + OVERDUE_S}",
        },
        host_config=_host_config(client, job, mounts, _profile(client, job, scratch)),
    )
    return str(container["Id"])


def is_overdue(labels: Mapping[str, str]) -> bool:
    """Tell whether nobody can be waiting for a container any more.

    By both clocks: when a lid was closed or the time set, Unix time jumps past the deadlines of runs whose supervisors still count seconds.
    """
    boot, _, until = labels.get(CLOCK, "").partition(" ")
    is_past = time.time() > float(labels.get(DEADLINE, "inf"))
    return is_past and (boot != _boot() or time.monotonic() > float(until))


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _profile(client: APIClient, job: Job, scratch: Path) -> str:
    """Return the system-call filter as the engine takes it: Docker wants the text, Podman the name of a file."""
    text = build_profile(platform.machine(), lists_interfaces=len(job.gpus) > 1)
    components: list[dict[str, Any]] = client.version().get("Components") or []
    if not any("podman" in str(each.get("Name")).lower() for each in components):
        return text
    file = scratch / "profile.json"
    file.write_text(text, encoding="ascii")
    return str(file)


def _host_config(client: APIClient, job: Job, mounts: Sequence[Mount], profile: str) -> dict[str, Any]:
    from docker.types import DeviceRequest, LogConfig, Ulimit
    from docker.types import Mount as Bind

    limits = job.limits
    largest = max(limits.out_bytes, limits.tmp_bytes, limits.shm_bytes)
    return client.create_host_config(
        network_mode="none",
        extra_hosts={"sandbox": "127.0.0.1"},  # its own name, by which processes of one job meet
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges", f"seccomp={profile}"],
        init=True,
        ipc_mode="private",
        auto_remove=False,
        pids_limit=limits.pids,
        mem_limit=limits.memory_bytes,
        memswap_limit=limits.memory_bytes,
        nano_cpus=int(min(limits.cpus, os.cpu_count() or 1) * 1e9),
        shm_size=limits.shm_bytes,
        oom_score_adj=500,
        tmpfs={"/tmp": f"rw,nosuid,nodev,exec,size={limits.tmp_bytes},mode=1777"},  # noqa: S108
        ulimits=[
            Ulimit(name="core", soft=0, hard=0),
            Ulimit(name="nofile", soft=_OPEN_FILES, hard=_OPEN_FILES),
            Ulimit(name="fsize", soft=largest, hard=largest),
        ],
        log_config=LogConfig(
            type="json-file", config={"max-size": str(max(limits.log_bytes, 1 << 20)), "max-file": "2"}
        ),
        mounts=[Bind(mount.target, str(mount.source), "bind", read_only=not mount.writable) for mount in mounts],
        device_requests=[DeviceRequest(device_ids=list(job.gpus), capabilities=[["gpu", "compute", "utility"]])]
        if job.gpus
        else None,
    )
