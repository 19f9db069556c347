"""The trial job by which a backend finds out whether it works on this machine: mounts, caps and lock-down, once, for real."""

from __future__ import annotations

import secrets
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from clinloop.errors import SandboxUnavailable
from clinloop.files import remove_tree
from clinloop.sandbox.base import Exit, Job, Mount, Sandbox
from clinloop.settings import Limits

_PROBE_S = 60.0
"""A trial that is older was killed."""
_LIMITS = Limits(
    memory_bytes=256 << 20, cpus=1, pids=32, out_bytes=4 << 20, tmp_bytes=1 << 20, shm_bytes=1 << 20, log_bytes=4096
)
_STEPS = {
    3: ("grep -q trial /in/file", "a mounted file cannot be read inside"),
    4: ("! touch /in/file 2>&-", "a read-only mount can be written"),
    5: ("echo 1 >/out/file", "the writable folder cannot be written"),
    6: ("grep -q '^NoNewPrivs:.1' /proc/self/status", "set-uid programs would work inside"),
    8: ("grep -q '^Seccomp:.2' /proc/self/status", "there is no system-call filter inside"),
    9: ("grep -q '^CapEff:.0*$' /proc/self/status", "capabilities are left inside"),
    10: ("test $(wc -l </proc/net/route) -le 1", "there is a network route inside"),
}
"""Exit status to (what is tried, what it means when it fails)."""
_PASSED = 7


def try_out(sandbox: Sandbox, probes: Path, *, image: str = "") -> tuple[str, Mapping[str, str]]:
    """Run the trial below the folder `probes`; return (what went wrong or "", how each resource is enforced)."""
    with _scratch(sandbox, probes) as folder:
        for name in ("in", "out"):
            (folder / name).mkdir(mode=0o700)
        (folder / "in" / "file").write_text("trial", encoding="ascii")
        (folder / "in" / "file").chmod(0o600)
        steps = "; ".join(f"{{ {step}; }} || exit {code}" for code, (step, _) in _STEPS.items())
        job = Job(
            name=folder.name,
            argv=("/bin/sh", "-c", f"{steps}; exit {_PASSED}"),
            workdir="/",
            mounts=(Mount(folder / "in", "/in"), Mount(folder / "out", "/out", writable=True)),
            limits=_LIMITS,
            wall_seconds=_PROBE_S / 3,
            log=folder / "log",
            image=image,
        )
        try:
            sandbox.start(job)
            try:
                ended, tiers = sandbox.wait(job.name, job.wall_seconds), sandbox.tiers(job.name)
            finally:
                sandbox.stop(job.name)
        except SandboxUnavailable as refusal:
            return " ".join([str(refusal), *_last_line(job.log)]), {}
        if ended is None or ended != Exit(_PASSED):
            meaning = _STEPS[ended.code][1] if ended and ended.code in _STEPS else f"it ended with {ended}"
            return " ".join([f"A trial sandbox failed: {meaning}.", *_last_line(job.log)]), {}
        if not (folder / "out" / "file").is_file():
            return "A trial sandbox failed: what it wrote did not come back.", {}
        return "", tiers


def _last_line(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] if log.exists() else []


@contextmanager
def _scratch(sandbox: Sandbox, probes: Path) -> Generator[Path]:
    """Yield a folder for one trial; what a process left that was killed in its trial is cleared."""
    probes.mkdir(parents=True, exist_ok=True, mode=0o700)
    for stale in probes.iterdir():
        if stale.is_dir() and time.time() - stale.stat(follow_symlinks=False).st_mtime > _PROBE_S:
            sandbox.stop(stale.name)
            remove_tree(stale)
    folder = probes / f"probe-{secrets.token_hex(6)}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        remove_tree(folder)
