"""One stage per backend for all attacks, and the record of what came of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from clinloop import templates
from clinloop.sandbox import backends
from clinloop.services import Services
from clinloop.settings import Limits, load_settings

from ..faults.conftest import end_supervisors
from ..faults.lab import Lab
from .case import Case
from .registry import RUN
from .resources import STUBBORN
from .stage import Stage

LIMITS = Limits(
    memory_bytes=256 << 20,
    cpus=1,
    pids=64,
    out_bytes=64 << 20,
    tmp_bytes=512 << 20,
    shm_bytes=512 << 20,
    log_bytes=1 << 20,
    predict_seconds=20,
)
OUTCOMES = Path(__file__).with_name("outcomes.json")
_RENEW = "CLINLOOP_REDTEAM_RENEW"
"""Set by scripts/security_table.py --run: write what came out instead of comparing with it."""


@pytest.fixture(scope="session")
def stages(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ingested: Path
) -> Generator[Callable[[str], Stage]]:
    """Return the stage of a backend, which carries out the attacks that were chosen; skips where the backend cannot be used."""
    made: dict[str, Stage] = {}
    chosen = [item.callspec.params for item in request.session.items if "case" in getattr(item, "fixturenames", ())]
    chosen = [(each["place"], each["case"]) for each in chosen if isinstance(each.get("case"), Case)]
    states: list[Path] = []

    def stage(backend: str) -> Stage:
        name = "bubblewrap" if backend == "server" else backend
        if name not in made:
            state = Path(shutil.copytree(ingested, tmp_path_factory.mktemp(name) / "state"))
            settings = load_settings(state, sandbox=name, limits=LIMITS, runs_at_once=8)
            sandbox = backends.load_backend(name, settings)
            if not (probe := sandbox.probe()).usable:
                pytest.skip(f"{name} cannot be used here: {probe.problem} {probe.fix}")
            image = templates.find("linear", "classification").image
            if name == "docker" and sandbox.find_environment(image) is None:
                pytest.skip(f"the image is not built: clinloop images build {image}")
            states.append(state)
            made[name] = Stage(Lab(Services(settings)), name)
            made[name].begin("stubborn", STUBBORN)
            made[name].carry_out(
                [each for each in chosen if each[0] == name or (each[0], name) == ("server", "bubblewrap")]
            )
        return made[name]

    yield stage
    for each in made.values():
        each.close()
    for state in states:
        end_supervisors(state)


@pytest.fixture(scope="session")
def outcomes() -> Generator[Callable[[str, str, str], None]]:
    """Return what records an outcome, or, unless the table is being renewed, compares it with the committed one."""
    committed: dict[str, dict[str, str]] = json.loads(OUTCOMES.read_text(encoding="utf-8")) if OUTCOMES.exists() else {}

    def record(number: str, place: str, outcome: str) -> None:
        if _RENEW in os.environ:
            committed.setdefault(number, {})[place] = outcome
        else:
            known = committed.get(number, {}).get(place)
            assert outcome == known, (
                f"{outcome!r}, in the table {known!r}: run .venv/bin/python scripts/security_table.py --run"
            )

    yield record
    if _RENEW in os.environ:
        known = {(case.number, place) for place, case in RUN}
        committed = {
            number: {place: outcome for place, outcome in found.items() if (number, place) in known}
            for number, found in committed.items()
        }
        committed = {number: found for number, found in committed.items() if found}
        OUTCOMES.write_text(json.dumps(committed, indent=1, sort_keys=True) + "\n", encoding="utf-8")
