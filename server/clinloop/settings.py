"""Settings: where state lives and how much a run may use. The only reader of the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clinloop.errors import BadInput

Backend = Literal["auto", "bubblewrap", "none"]


class Limits(BaseModel):
    """What one sandbox may use."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    memory_bytes: int = 8 << 30
    """Memory of all processes of the sandbox together, tmpfs included."""
    cpus: float = Field(default_factory=lambda: float(os.cpu_count() or 1))
    """CPU cores; also the number of threads that numeric libraries are told to use."""
    pids: int = 512
    """Processes and threads."""
    out_bytes: int = 2 << 30
    """Size of /out."""
    tmp_bytes: int = 1 << 30
    """Size of /tmp."""
    shm_bytes: int = 1 << 30
    """Size of /dev/shm, which DataLoader workers need."""
    log_bytes: int = 4 << 20
    """Bytes of standard output and error that are kept."""
    predict_seconds: int = 900
    """Wall-clock limit of one predict.py."""


class Settings(BaseModel):
    """All settings of a server; each can be given in STATE/settings.json, the state folder also as --state or CLINLOOP_STATE."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    state: Path
    """Folder of datasets, tasks and the store."""
    cache: Path
    """Folder of sandbox environments, shared by all state folders."""
    data_roots: tuple[Path, ...] = ()
    """Folders below which `inspect_dataset` may ingest a dataset on first use."""
    weights: Path | None = None
    """Folder of pretrained weights that sandboxes see at /weights."""
    sandbox: Backend = "auto"
    """Backend that runs the agent's code; `none` isolates nothing and must be accepted by flag."""
    image: str = "cpu"
    """Name of the sandbox image (a folder of sandbox_images/)."""
    wait_cap_s: float | None = None
    """Longest wait of one tool call in seconds; None = by client name."""
    limits: Limits = Limits()
    """What one sandbox may use."""


def load_settings(state: Path | None = None, **given: object) -> Settings:
    """Return the settings from arguments, else the environment, else STATE/settings.json, else defaults.

    Raises:
        BadInput: settings.json is no JSON object or has an unknown key; the text lists the known keys.
    """
    folder = state or Path(os.environ.get("CLINLOOP_STATE") or platformdirs.user_data_dir("clinloop"))
    cache = Path(os.environ.get("CLINLOOP_CACHE") or platformdirs.user_cache_dir("clinloop"))
    values: dict[str, object] = {"state": folder.expanduser().absolute(), "cache": cache.expanduser().absolute()}
    file = folder / "settings.json"
    try:
        stored = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        values |= stored
        return Settings.model_validate(values | {key: value for key, value in given.items() if value is not None})
    except (ValueError, ValidationError, TypeError) as error:
        known = ", ".join(sorted(Settings.model_fields))
        raise BadInput(f"settings.json cannot be used ({str(error)[:200]}); known keys: {known}.") from error
