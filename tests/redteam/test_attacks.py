"""Every attack of the registry, on every backend that it applies to, comes out as it should."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .case import Case
from .registry import CASES, RUN
from .stage import Stage

pytestmark = [pytest.mark.redteam, pytest.mark.sandbox]


@pytest.mark.parametrize(("place", "case"), RUN, ids=[f"{place}-{case.number}" for place, case in RUN])
def test_an_attack_comes_out_as_it_should(
    stages: Callable[[str], Stage], outcomes: Callable[[str, str, str], None], place: str, case: Case
) -> None:
    stage = stages(place)
    if case.probe:
        outcome = stage.probe(case, CASES)
    else:
        assert case.attack is not None
        outcome = case.attack(stage)
    assert outcome == case.expected, f"{case.title}: {outcome}"
    outcomes(case.number, place, outcome)
