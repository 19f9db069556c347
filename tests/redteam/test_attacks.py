"""Every attack of the registry, on every backend that it applies to, comes out as it should; the table says so."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from .case import Case
from .registry import CASES, RUN
from .stage import Stage

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
