"""What an ONNX file may differ by, and from what."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from clinloop.errors import NotNow
from clinloop.export_onnx import Comparison, judge

ROWS = [[0.25, 0.75], [0.5, 0.5]]


def found(**changes: Any) -> Comparison:
    facts = {"images": 2, "largest_difference": 1e-7, "input_shape": [4, 4, 3], "input_type": "uint8"}
    return Comparison.model_validate({**facts, "output_shape": [2], "rows": ROWS, **changes})


def test_the_largest_difference_of_both_comparisons_is_reported() -> None:
    parity = judge(found(), [[0.25, 0.75], [0.50004, 0.49996]], on_gpu=False)
    assert (parity.network, parity.predictions) == (1e-7, pytest.approx(4e-5))
    assert "2 validation images" in parity.sentence and "4e-05" in parity.sentence


def test_masks_are_compared_with_the_network_alone() -> None:
    parity = judge(found(rows=None, output_shape=[1, 4, 4]), None, on_gpu=False)
    assert parity.predictions is None
    assert "predictions" not in parity.sentence


@pytest.mark.parametrize(
    ("apart", "on_gpu", "is_kept"), [(2e-4, False, False), (2e-4, True, True), (0.03, True, False)]
)
def test_predictions_of_a_gpu_may_be_further_apart(apart: float, on_gpu: bool, is_kept: bool) -> None:
    known = [[0.25 + apart, 0.75 - apart], [0.5, 0.5]]
    if is_kept:
        assert judge(found(), known, on_gpu=on_gpu).predictions == pytest.approx(apart)
    else:
        with pytest.raises(NotNow, match=r"than predict\.py did"):
            judge(found(), known, on_gpu=on_gpu)


def test_a_file_that_answers_something_else_than_the_network_is_refused_even_where_predictions_agree() -> None:
    with pytest.raises(NotNow, match="something else than the network"):
        judge(found(largest_difference=2e-4), ROWS, on_gpu=True)


@pytest.mark.parametrize("rows", [None, ROWS[:1], [[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]]])
def test_answers_of_another_shape_than_predictions_are_refused(rows: list[list[float]] | None) -> None:
    with pytest.raises(NotNow, match="not one probability a class"):
        judge(found(rows=rows), ROWS, on_gpu=False)


@pytest.mark.parametrize(
    "changes", [{"largest_difference": float("nan")}, {"images": "2"}, {"more": 1}, {"rows": [["0"]]}]
)
def test_what_the_sandbox_wrote_is_read_strictly(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        found(**changes)
