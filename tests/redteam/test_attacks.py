"""Every attack of the registry, on every backend that it applies to, comes out as it should; the table says so."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from clinloop.services import Services
from clinloop.settings import load_settings

from ..faults.conftest import end_supervisors
from ..faults.lab import Lab
from .case import Case
from .conftest import LIMITS
from .registry import CASES, RUN
from .stage import SHM_KEY, Stage

ROOT = Path(__file__).resolve().parents[2]
ATTACKS = [
    pytest.param(place, case, id=f"{place}-{case.number}", marks=[pytest.mark.docker] if place == "docker" else [])
    for place, case in RUN
]


@pytest.mark.redteam
@pytest.mark.sandbox
@pytest.mark.parametrize(("place", "case"), ATTACKS)
def test_an_attack_comes_out_as_it_should(
    stages: Callable[[str], Stage], outcomes: Callable[[str, str, str], None], place: str, case: Case
) -> None:
    outcome = stages(place).outcome(place, case)
    assert outcome == case.expected, f"{case.title}: {outcome}"
    outcomes(case.number, place, outcome)


SAFE = ("A1", "A3", "A4", "A11", "A12", "A13", "B16", "B17", "B22", "B26", "B29", "G82", "X20")
"""Probes that change nothing where nothing isolates."""


@pytest.mark.redteam
def test_probes_find_what_they_look_for_where_nothing_isolates(state: Path) -> None:
    settings = load_settings(state, sandbox="none", limits=LIMITS)
    stage = Stage(Lab(Services(settings, accept_no_isolation=True)), "none")
    try:
        stage.carry_out([("none", case) for case in CASES if case.number in SAFE])
        outcomes = {case.number: stage.outcome("none", case) for case in CASES if case.number in SAFE}
    finally:
        stage.close()
        end_supervisors(state)
        for path in ("/tmp/left-behind", "/dev/shm/left-behind", "/dev/shm/neighbour"):
            Path(path).unlink(missing_ok=True)
        keys = [word for kind in ("-M", "-S", "-Q") for word in (kind, str(SHM_KEY))]
        subprocess.run(["ipcrm", *keys], check=False, capture_output=True)
    assert [number for number, outcome in outcomes.items() if not outcome.startswith("REACHED")] == [], outcomes


@pytest.mark.redteam
def test_cases_that_are_carried_out_elsewhere_name_tests_that_exist() -> None:
    missing = [name for case in CASES for name in case.tests if not _exists(name)]
    assert missing == []


def _exists(name: str) -> bool:
    file, _, function = name.partition("::")
    path = ROOT / file
    return path.exists() and function in {
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.redteam
def test_no_two_cases_have_one_number() -> None:
    numbers = [case.number for case in CASES]
    assert len(numbers) == len(set(numbers))
