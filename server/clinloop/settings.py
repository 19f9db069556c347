"""Settings: where state lives and how much a run may use. The only reader of the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import platformdirs
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from clinloop.errors import BadInput

Backend = Literal["auto", "docker", "bubblewrap", "none"]
Folder = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
"""A path that means the same in a supervisor, whose working directory is another."""


class Limits(BaseModel):
    """What one sandbox may use."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    memory_bytes: int = Field(default=8 << 30, gt=0)
    """Memory of all processes of the sandbox together, tmpfs included."""
    cpus: float = Field(gt=0, default_factory=lambda: float(os.cpu_count() or 1))
    """CPU cores; also the number of threads that numeric libraries are told to use."""
    pids: int = Field(default=512, gt=0)
    """Processes and threads."""
    out_bytes: int = Field(default=2 << 30, gt=0)
    """Size of /out."""
    tmp_bytes: int = Field(default=1 << 30, gt=0)
    """Size of /tmp."""
    shm_bytes: int = Field(default=1 << 30, gt=0)
    """Size of /dev/shm, which DataLoader workers need."""
    log_bytes: int = Field(default=4 << 20, gt=0)
    """Bytes of standard output and error that are kept."""
    predict_seconds: int = Field(default=900, gt=0)
    """Wall-clock limit of one predict.py."""


class Settings(BaseModel):
    """All settings of a server; each but `state` can be given in STATE/settings.json, `state` as --state or CLINLOOP_STATE, `cache` as CLINLOOP_CACHE."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    state: Folder
    """Folder of datasets, tasks and the store."""
    cache: Folder
    """Folder of sandbox environments, shared by all state folders."""
    data_roots: tuple[Folder, ...] = ()
    """Folders below which `inspect_dataset` may ingest a dataset on first use."""
    weights: Folder | None = None
    """Folder of pretrained weights that sandboxes see at /weights."""
    sandbox: Backend = "auto"
    """Backend that runs the agent's code; `none` isolates nothing and must be accepted by flag."""
    engine: str = "unix:///var/run/docker.sock"
    """Address of the container engine on this machine: Docker's socket, or Podman's."""
    image: str | None = None
    """Sandbox image (a folder of sandbox_images/) for all tasks, instead of the one that a task's template names."""
    wait_cap_s: float | None = Field(default=None, ge=0)
    """Longest wait of one tool call in seconds; None = by client name."""
    gpus: tuple[str, ...] | None = None
    """UUIDs of the GPUs or MIG devices that clinloop may use (`nvidia-smi -L` lists them); None = all that the driver sees, [] = none."""
    gpus_per_run: int | None = Field(default=None, ge=0)
    """GPUs of a run that asks for no number; None = 1 where there is a GPU, else 0."""
    gpus_per_run_max: int | None = Field(default=None, ge=0)
    """Most GPUs that one run may ask for; None = `gpus_per_run`."""
    report_pictures: bool = True
    """Whether a report shows small pictures of validation cases that were gained and lost."""
    confirm_spec: Literal["no", "required"] = "no"
    """Whether every task waits until the clinician has confirmed its contract; "no" leaves it to the spec."""
    confirm_finalize: Literal["no", "required"] = "no"
    """Whether every task waits for the clinician's yes before its test set is opened; "no" leaves it to the spec."""
    tradeoffs: Literal["rule", "clinician"] = "rule"
    """Whether the clinician settles every trade-off between the primary metric and a guard; "rule" leaves it to the spec."""
    elicit: bool = False
    """Whether init_task puts open questions to the person at an agent's client, where that can show them; it never counts as a confirmation."""
    runs_at_once: int | None = Field(default=None, ge=1)
    """Full runs without GPUs that may train at once, and as many smoke tests; None = as many as have `limits.cpus` cores each, at least one."""
    page_url: str = ""
    """Address of the page as people reach it, e.g. "https://clinloop.hospital.example"; agents hand it on. Empty = where --http listens."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names under which the server is reached besides the address that it listens on, e.g. behind a proxy."""
    proxy_user: str = ""
    """User of the reverse proxy in front of --http; only its connections may say by X-Forwarded-For where a client comes from."""
    remote_agents: bool = False
    """The custodian declares that agents which connect from other machines have no account on this one; without it they get no L3."""
    limits: Limits = Limits()
    """What one sandbox may use."""


def load_settings(state: Path | None = None, **given: object) -> Settings:
    """Return the settings from arguments, else the environment, else STATE/settings.json, else defaults; None means not given.

    Raises:
        BadInput: settings.json is no JSON object, or a setting has an unknown name or a wrong value; the text lists the known names.
    """
    folder = state or Path(os.environ.get("CLINLOOP_STATE") or platformdirs.user_data_dir("clinloop"))
    folder = folder.expanduser().absolute()
    values = _stored(folder / "settings.json")
    if cache := os.environ.get("CLINLOOP_CACHE"):
        values["cache"] = cache
    values |= {name: value for name, value in given.items() if value is not None}
    if "cache" not in values:  # asked for last: the system user of a service may have no home
        values["cache"] = platformdirs.user_cache_dir("clinloop")
    try:
        return Settings.model_validate({**values, "state": folder})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors()[:10])
        known = ", ".join(sorted([*Settings.model_fields, *(f"limits.{name}" for name in Limits.model_fields)]))
        raise BadInput(f"The settings cannot be used ({problems}); known settings: {known}.") from error


def _stored(file: Path) -> dict[str, object]:
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadInput(
            f"settings.json cannot be read ({error}); it must hold one JSON object, or be absent."
        ) from error
    if not isinstance(stored, dict):
        raise BadInput("settings.json holds no JSON object; write {} or remove it.")
    if "state" in stored:
        raise BadInput(
            "settings.json sets `state`, but it lies in the state folder; remove it and give --state or CLINLOOP_STATE."
        )
    return stored


def download_environment() -> dict[str, str]:
    """Return the variables that a package download needs (home, proxies, certificates, uv's own): all that a supervisor inherits."""
    names = (
        "HOME",
        "XDG_CACHE_HOME",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
    )
    return {key: value for key, value in os.environ.items() if key.upper() in names or key.startswith("UV_")}


class Kill(NamedTuple):
    """Where a process is to die, for tests: CLINLOOP_FAILPOINT=NAME[,VICTIM[,NTH[,PID]]]."""

    name: str
    """A failpoint, or "*" for any."""
    victim: str = "self"
    """Who dies: "self" (who reaches it), "server" (who launched the supervisor that reaches it) or "both"."""
    nth: int = 1
    """At which time that the process reaches it."""
    server_pid: int = 0
    """The server, in a supervisor that it launched."""


def armed_kill() -> Kill | None:
    """Return the failpoint at which this process is to die; None outside tests.

    Raises:
        BadInput: CLINLOOP_FAILPOINT is not of that form.
    """
    text = os.environ.get("CLINLOOP_FAILPOINT")
    if not text:
        return None
    name, victim, nth, pid = [*text.split(","), *"   "][:4]
    victim, nth, pid = victim.strip() or "self", nth.strip() or "1", pid.strip() or "0"
    if victim not in ("self", "server", "both") or not nth.isdecimal() or not pid.isdecimal():
        raise BadInput("CLINLOOP_FAILPOINT must be NAME[,self|server|both[,NTH]].")
    return Kill(name, victim, int(nth), int(pid))


def failpoint_environment() -> dict[str, str]:
    """Return what a supervisor that this process launches must know to die at the same failpoint; nothing outside tests."""
    kill = armed_kill()
    if kill is None:
        return {}
    return {"CLINLOOP_FAILPOINT": f"{kill.name},{kill.victim},{kill.nth},{os.getpid()}"}
