"""Fixtures of all tests: small drawn images, a state folder, and services that run code without isolation (only the tests do that)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinloop import ingestion
from clinloop.services import Services
from clinloop.settings import Limits, load_settings

from .ci import pytest_runtest_makereport as pytest_runtest_makereport
from .gpu.driver import Driver

CLASSES = {"nevus": (150, 100, 80), "melanoma": (120, 80, 75), "keratosis": (140, 120, 90)}
"""Mean colours, close enough that a linear model errs."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=24, help="kills of tests/faults/test_soak.py (default 24; 200 take minutes)"
    )
    parser.addoption(
        "--fuzz",
        type=int,
        default=0,
        help="requests drawn per route and tool, anew each time (default: few, always the same)",
    )
    parser.addoption("--seed", type=int, default=0, help="seed of the random kills")


@pytest.fixture(scope="session")
def docker_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Reference of a base image on the engine; where there is no engine or no base, the test is skipped, in CI it fails."""
    from clinloop.sandbox import images

    base, engine = "clinloop/base:bookworm", load_settings(tmp_path_factory.mktemp("engine"))
    try:
        with images.connect(engine) as client:
            found = client.images(base)
    except images.NoEngine as refusal:
        pytest.skip(str(refusal))
    if not found:
        pytest.skip(f"the engine has no {base}: run scripts/docker_base.sh as root")
    return base


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def draw_class_folders(root: Path, *, per_class: int = 60, seed: int = 0) -> Path:
    """Write noisy 24 x 24 PNGs whose mean colour hints at their class."""
    generator = np.random.default_rng(seed)
    for name, colour in CLASSES.items():
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            mean = np.array(colour) + generator.normal(0, 14, 3)
            pixels = np.clip(mean + generator.normal(0, 40, (24, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{name}-{index:03d}.png")
    return root


def own_parents(path: Path) -> list[Path]:
    """Return a temporary folder and those above it that pytest closed to other users."""
    found: list[Path] = []
    for folder in (path, *path.parents):
        if folder.stat().st_mode & 0o1000 or len(folder.parts) < 3:  # /tmp, or close to the root
            break
        found.append(folder)
    return found


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three classes with 60 images each."""
    return draw_class_folders(tmp_path_factory.mktemp("images") / "moles")


@pytest.fixture(scope="session")
def ingested(tmp_path_factory: pytest.TempPathFactory, class_folders: Path) -> Path:
    """A state folder with the dataset `moles`, to be copied."""
    state = tmp_path_factory.mktemp("ingested") / "state"
    ingestion.add(Services(load_settings(state)), class_folders, "moles", cache_px=(16,))
    return state


@pytest.fixture
def state(tmp_path: Path, ingested: Path) -> Path:
    """A state folder of this test's own, with the dataset `moles`."""
    return Path(shutil.copytree(ingested, tmp_path / "state"))


@pytest.fixture
def services(state: Path) -> Services:
    """Services that run code as plain processes: for tests of everything but isolation."""
    limits = Limits(memory_bytes=2 << 30, out_bytes=64 << 20, predict_seconds=60)
    return Services(load_settings(state, sandbox="none", limits=limits, runs_at_once=8), accept_no_isolation=True)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    """A fake NVIDIA driver."""
    if shutil.which("cc") is None:
        pytest.skip("the fake NVIDIA driver needs a C compiler: apt-get install gcc libc6-dev")
    return Driver(tmp_path_factory.mktemp("driver"))
