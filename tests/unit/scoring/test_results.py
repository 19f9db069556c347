"""Rounding: what goes to an agent is no finer than the interval of a score, and nothing of it is lost to the server."""

from __future__ import annotations

import pytest

from clinloop.scoring.results import as_sent, error_bound, primary_as_sent, rounded, shown, step_for, step_of


@pytest.mark.parametrize(
    ("standard_error", "step"),
    [(0.0, 0.0001), (0.002, 0.001), (0.0021, 0.002), (0.02, 0.01), (0.03, 0.02), (0.09, 0.05), (0.3, 0.2), (5, 0.5)],
)
def test_the_step_is_at_least_half_a_standard_error_and_at_most_five_quarters(
    standard_error: float, step: float
) -> None:
    assert step_of(standard_error) == step
    if 0.0004 < standard_error < 1:
        assert 0.5 <= step / standard_error <= 1.25


@pytest.mark.parametrize(
    ("groups", "step"), [(30, 0.05), (100, 0.05), (400, 0.02), (1000, 0.01), (6191, 0.005), (0, 0.5)]
)
def test_without_an_interval_the_number_of_groups_gives_the_step(groups: int, step: float) -> None:
    assert step_for(None, None, groups) == step_of(error_bound(groups)) == step


def test_predictions_that_hardly_vary_are_not_told_finer() -> None:
    assert step_for(0.5, 0.5, 400) == step_for(0.5, 0.5001, 400) == 0.005
    assert step_for(0.5, float("nan"), 400) == step_for(None, None, 400)


def test_values_are_rounded_to_multiples_and_written_with_their_decimals() -> None:
    assert [rounded(value, 0.05) for value in (0.8249, 0.8251, None, float("nan"))] == [0.8, 0.85, None, None]
    assert [shown(0.82345, step) for step in (0.1, 0.05, 0.02, 0.01, 0.005, 0.0001)] == [
        "0.8", "0.80", "0.82", "0.82", "0.825", "0.8234",
    ]  # fmt: skip


def test_every_score_of_a_result_is_sent_rounded_and_counts_as_they_are() -> None:
    scores = {
        "primary_metric": "macro_auc",
        "primary": 0.823456,
        "metrics": {
            "macro_auc": {"value": 0.823456, "low": 0.78, "high": 0.86, "undefined": 0},
            "f1": {"value": 0.61234, "low": None, "high": None, "undefined": 2000},
        },
        "operating_points": {
            "MEL": {"rule": "youden", "class_name": "MEL", "threshold": 0.123456, "sensitivity": 0.815, "specificity": None}
        },
        "per_class": [{"class_name": "MEL", "n": 40, "groups": 25, "auc": 0.91234, "sensitivity": 0.81, "specificity": None}],
        "confusion": [[30, 10], [5, 355]],
        "n": 400,
        "groups": 400,
        "notes": ["few"],
    }  # fmt: skip
    sent = as_sent(scores)
    assert sent["metrics"] == {
        "macro_auc": {"value": 0.82, "low": 0.78, "high": 0.86, "undefined": 0},
        "f1": {"value": 0.62, "low": None, "high": None, "undefined": 2000},
    }
    assert sent["primary"] == primary_as_sent(scores) == 0.82
    assert sent["operating_points"]["MEL"] == {
        "rule": "youden", "class_name": "MEL", "threshold": 0.1235, "sensitivity": 0.82, "specificity": None
    }  # fmt: skip
    assert sent["per_class"] == [
        {"class_name": "MEL", "n": 40, "groups": 25, "auc": 0.9, "sensitivity": 0.8, "specificity": None}
    ]
    assert (sent["confusion"], sent["n"], sent["notes"]) == (scores["confusion"], 400, ["few"])
    assert scores["primary"] == 0.823456
