"""A lab per test, without isolation or in bubblewrap; whatever a broken test leaves behind is ended."""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from clinloop.sandbox import backends
from clinloop.services import Services
from clinloop.settings import Limits, load_settings

from .lab import Lab, commands, kill

SMALL = Limits(
    memory_bytes=512 << 20,
    cpus=1,
    out_bytes=16 << 20,
    tmp_bytes=8 << 20,
    shm_bytes=8 << 20,
    log_bytes=1 << 20,
    predict_seconds=4,
)


@pytest.fixture
def lab(state: Path) -> Generator[Lab]:
    """Runs are plain processes; small limits, and 4 s for predict.py."""
    yield Lab(Services(load_settings(state, sandbox="none", limits=SMALL, runs_at_once=8), accept_no_isolation=True))
    end_supervisors(state)


@pytest.fixture
def strict_lab(state: Path) -> Generator[Lab]:
    """Runs are bubblewrap sandboxes with small limits."""
    settings = load_settings(state, sandbox="bubblewrap", limits=SMALL, runs_at_once=8)
    probe = backends.load_backend("bubblewrap", settings).probe()
    if not probe.usable:
        pytest.skip(f"bubblewrap cannot be used here: {probe.problem}")
    lab = Lab(Services(settings))
    yield lab
    end_supervisors(state)


@pytest.fixture
def docker_lab(state: Path) -> Generator[Lab]:
    """Runs are containers with small limits, of the smallest image; code sees the packages of that one."""
    settings = load_settings(state, sandbox="docker", image="minimal", limits=SMALL, runs_at_once=8)
    docker = backends.load_backend("docker", settings)
    probe = docker.probe()
    if not probe.usable:
        pytest.skip(f"Docker cannot be used here: {probe.problem}")
    if docker.find_environment("minimal") is None:
        pytest.skip("the image 'minimal' is not built; clinloop images build minimal")
    lab = Lab(Services(settings))
    yield lab
    end_supervisors(state)
    for task in lab.store.tasks():
        if left := lab.containers(task.id):
            subprocess.run(["docker", "rm", "--force", *left], check=True, capture_output=True)


def end_supervisors(state: Path) -> None:
    """End the supervisors of a state folder, which outlive everything by design."""
    kill(*(pid for pid, command in commands().items() if "clinloop.supervisor" in command and str(state) in command))
