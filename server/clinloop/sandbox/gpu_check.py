"""The check inside a sandbox that it has exactly the leased GPUs: put before the command, and repeated alone when it fails."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from clinloop.errors import SandboxUnavailable
from clinloop.sandbox.base import Job, Mount, Sandbox
from clinloop.untrusted import clean

MISMATCH = 87
"""Exit status of the check when the GPUs are not the leased ones; the same number stands in clinloop_runtime/gpus.py."""
_SCRIPT = "/runtime/clinloop_runtime/gpus.py"
_SECONDS = 60.0


def guard(job: Job, *, isolates: bool) -> Job:
    """Return the job with the check before its command, whose first word is a Python; CUDA shows a job without GPUs none."""
    if not job.gpus:
        return replace(job, environment=dict(job.environment) | {"CUDA_VISIBLE_DEVICES": ""})
    among = () if isolates else ("--among",)
    check = (job.argv[0], "-I", "-S", _SCRIPT, *among, "--expect", ",".join(job.gpus))
    environment = dict(job.environment) | {"CUDA_VISIBLE_DEVICES": ",".join(job.gpus)}
    return replace(job, argv=(*check, "--", *job.argv), environment=environment)


def confirm(sandbox: Sandbox, job: Job, *, mounts: Sequence[Mount]) -> None:
    """Repeat the check of a guarded job that ended with MISMATCH, without its code: submitted code can end with any status.

    `mounts`: what the Python and the check need. Uses the job's name, so the job must have been stopped.

    Raises:
        SandboxUnavailable: it is true, the GPUs are not there.
    """
    log = job.log.with_name("log-gpus.txt")
    alone = replace(
        job, argv=job.argv[: job.argv.index("--")], workdir="/", mounts=tuple(mounts), wall_seconds=_SECONDS, log=log
    )
    ref = sandbox.start(alone)
    try:
        exit = sandbox.wait(ref, _SECONDS)
    finally:
        sandbox.stop(ref)
    if exit is not None and exit.code == 0:
        return
    text = ""
    with suppress(OSError):
        text = log.read_text(encoding="utf-8", errors="replace").strip()
    reason = clean(text.splitlines()[-1] if text else "the check did not end", cap=500)
    raise SandboxUnavailable(
        f"The sandbox does not have the GPUs that were leased to it ({reason}). With Docker, install the NVIDIA Container Toolkit and "
        "restart the engine; Podman ignores requests for GPUs by this interface."
    )
