"""Cases that several tests of scoring share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clinloop.scoring import service

from .drawn import SCHEME, TruthRows, drawn_truth


@pytest.fixture(scope="module")
def truth() -> TruthRows:
    return drawn_truth()


@pytest.fixture
def score(truth: TruthRows) -> Callable[..., service.ScoreResult]:
    def call(predictions: Path | bytes, **options: object) -> service.ScoreResult:
        settings: dict[str, object] = {"metrics": ["macro_auc"], "intervals": False, "scheme": SCHEME, **options}
        return service.score_predictions(predictions, truth, primary="macro_auc", **settings)  # pyright: ignore[reportArgumentType]

    return call
