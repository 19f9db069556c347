"""The seam between clinloop and whatever executes the agent's code: one protocol, a job, an exit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from clinloop.settings import Limits


class Mount(NamedTuple):
    """One host file or folder that the job sees."""

    source: Path
    target: str
    """Absolute path inside, e.g. "/data"."""
    writable: bool = False


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The Python of a sandbox image with its packages, as jobs of one backend find it."""

    name: str
    digest: str
    """SHA-256 of what it was made from (locked requirements, Python, platform) or of the container image."""
    python: str
    """Absolute path of the interpreter inside."""
    mounts: tuple[Mount, ...]
    """What a job needs to see to use it, where it is not part of an image."""
    packages: dict[str, str]
    """Version by package name."""
    image: str = ""
    """Reference of the container image, for backends that start from one."""
    python_version: str = ""
    """Of the interpreter, e.g. "3.11.2"."""
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    """Environment variables that jobs of this image get."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One process tree to execute: no network, nothing but its mounts."""

    name: str
    """Unique over the instance, e.g. "derm-7f3a-run3-train"."""
    argv: tuple[str, ...]
    """Command; argv[0] is an absolute path inside or found on PATH. Its folder leads PATH."""
    workdir: str
    """Path inside at which the command starts."""
    mounts: tuple[Mount, ...]
    """Targets do not lie in one another. A writable source is an empty folder; after `stop` it is a plain folder of regular files."""
    limits: Limits
    wall_seconds: float
    """After this the job is overdue; the caller enforces it with `stop`, a backend may enforce it as well."""
    log: Path
    """Host file that receives standard output and error, capped at limits.log_bytes."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """Complete environment beside PATH, HOME, PWD and thread counts."""
    gpus: tuple[str, ...] = ()
    """UUIDs of leased GPUs."""
    image: str = ""
    """`Environment.image`; only backends that start from container images look at it."""


class Exit(NamedTuple):
    """How a job ended."""

    code: int
    """Exit status; 128 + n when signal n ended it."""
    oom_killed: bool = False
    """A process of the job was killed for memory (from counters, never inferred from 137)."""
    disk_full: bool = False
    """The job filled its /out."""


class Probe(NamedTuple):
    """What a backend can do on this machine."""

    usable: bool
    problem: str
    """Why it cannot be used; empty when usable."""
    fix: str
    """One line that the custodian can act on; empty when usable."""
    tiers: Mapping[str, str]
    """Per resource (memory, pids, cpu, disk, uid, network) how it is enforced, e.g. {"memory": "cgroup v1"}."""


class Sandbox(Protocol):
    """Executes jobs. Every method may raise SandboxUnavailable and nothing else; a failing command is an Exit, not an error."""

    name: str
    isolates: bool
    """False: the job can reach whatever this user can reach."""
    needs_built_image: bool
    """True: an image that the custodian has not built cannot be used; False: it is made on first use."""

    def probe(self) -> Probe:
        """Try the real thing once and say what is enforced how."""
        ...

    def environment(self, image: str, *, report: Callable[[str], None]) -> Environment:
        """Return the Python of a sandbox image, made on first use where that needs no custodian; `report` receives news.

        Raises also Unknown: there is no such image.
        """
        ...

    def find_environment(self, image: str) -> Environment | None:
        """Return the Python of a sandbox image if it is there; raises also Unknown."""
        ...

    def bare(self) -> Environment:
        """Return a Python that needs no package: what checks of a backend run in."""
        ...

    def start(self, job: Job) -> str:
        """Start a job and return its reference, which is its name: good for `stop` in any process, even if this call was cut off."""
        ...

    def adopt(self, job: Job) -> bool:
        """Take over a job of a dead caller, running or ended, so that `wait` drains its output; False when it died with its caller."""
        ...

    def tiers(self, ref: str) -> Mapping[str, str]:
        """Return, for a started job, how each resource of Probe.tiers is enforced."""
        ...

    def wait(self, ref: str, timeout_s: float) -> Exit | None:
        """Drain the job's output for at most timeout_s seconds; None while it runs."""
        ...

    def stop(self, ref: str) -> None:
        """End every process of the job and release what it held; idempotent, also for a ref of a dead caller."""
        ...


def basic_environment(job: Job, *, home: str) -> dict[str, str]:
    """Return the whole environment of a job: PATH, HOME and thread counts, then what the job gives."""
    threads = str(max(1, int(job.limits.cpus)))
    folders = ["/usr/local/bin", "/usr/bin", "/bin"]
    if job.argv[0].startswith("/"):
        folders.insert(0, str(Path(job.argv[0]).parent))
    counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    # Threads that spin while they wait for one that the machine is not running: one busy neighbour on two cores made a training step
    # of timm's test_resnet take 2.0 s instead of 0.12 s.
    waiting = {"OMP_WAIT_POLICY": "PASSIVE"}
    basics = {"PATH": ":".join(dict.fromkeys(folders)), "HOME": home, **dict.fromkeys(counts, threads), **waiting}
    return basics | dict(job.environment)
