"""Acceptance: each mode, each reason code, and how often pure noise is taken for progress."""

from __future__ import annotations

import re

import numpy as np
import pytest

from clinloop.errors import BadInput
from clinloop.scoring.acceptance import Mode, decide
from clinloop.scoring.bootstrap import bootstrap, p_of_gain
from clinloop.scoring.evaluate import evaluate_once
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.results import Estimate, PairedMetric
from clinloop.scoring.weighted import Cases


def pair(
    old: float | None, new: float | None, *, p: float | None = 0.01, name: str = "macro_auc", direction: str = "higher"
) -> PairedMetric:
    difference = None if old is None or new is None else new - old
    return PairedMetric(
        name=name,
        direction="lower" if direction == "lower" else "higher",
        initial=Estimate(old),
        refined=Estimate(new),
        difference=Estimate(
            difference, None if difference is None else difference - 0.01, difference and difference + 0.02
        ),
        p=p,
        p_gain=p,
        n=100,
        groups=50,
        unit="lesion",
        resamples=1000,
        seed=0,
    )


@pytest.mark.parametrize("mode", ["paper", "guarded"])
def test_the_first_scored_run_is_the_baseline(mode: Mode) -> None:
    decision = decide(mode, None)
    assert (decision.accepted, decision.reason) == (True, "baseline")


@pytest.mark.parametrize(
    ("mode", "primary", "accepted", "reason"),
    [
        ("paper", pair(0.8, 0.8000001, p=0.49), True, "better"),
        ("paper", pair(0.8, 0.8), False, "not_better"),
        ("paper", pair(0.8, 0.79), False, "not_better"),
        ("guarded", pair(0.8, 0.85, p=0.10), True, "better"),
        ("guarded", pair(0.8, 0.85, p=0.11), False, "within_noise"),
        ("guarded", pair(0.8, 0.85, p=None), False, "within_noise"),
        ("guarded", pair(0.8, 0.75, p=0.01), False, "not_better"),
        ("guarded", pair(0.8, None), False, "undefined"),
        ("paper", pair(None, 0.7), True, "better"),
        ("paper", pair(0.2, 0.1, direction="lower", name="brier"), True, "better"),
        ("guarded", pair(0.2, 0.1, direction="lower", name="brier"), True, "better"),
        ("paper", pair(0.1, 0.2, direction="lower", name="brier"), False, "not_better"),
    ],
)
def test_each_mode_decides_with_its_reason(mode: Mode, primary: PairedMetric, accepted: bool, reason: str) -> None:
    decision = decide(mode, primary)
    assert (decision.accepted, decision.reason) == (accepted, reason)
    assert decision.text.startswith("Kept: " if accepted else "Rejected: ")


def test_the_gain_is_positive_for_a_smaller_brier_score_and_its_limits_turn_with_it() -> None:
    decision = decide("paper", pair(0.2, 0.1, direction="lower", name="brier"))
    assert decision.gain == pytest.approx(0.1)
    assert (decision.low, decision.high) == (pytest.approx(0.08), pytest.approx(0.11))


@pytest.mark.parametrize(
    ("guard", "reason"),
    [
        (pair(0.9, 0.88, name="auc_MEL"), "better"),
        (pair(0.9, 0.8799, name="auc_MEL"), "guard_worse:auc_MEL"),
        (pair(0.9, None, name="auc_MEL"), "guard_worse:auc_MEL"),
        (pair(None, 0.1, name="auc_MEL"), "better"),
        (pair(0.10, 0.13, name="brier", direction="lower"), "guard_worse:brier"),
        (pair(0.13, 0.10, name="brier", direction="lower"), "better"),
    ],
)
def test_a_guard_that_is_worse_than_its_margin_rejects_a_gain(guard: PairedMetric, reason: str) -> None:
    margins = {"auc_MEL": 0.02, "brier": 0.02}
    decision = decide("guarded", pair(0.8, 0.85), guards=[guard], margins=margins)
    assert decision.reason == reason
    assert decision.accepted == (reason == "better")
    assert decide("paper", pair(0.8, 0.85), guards=[guard], margins=margins).accepted


def test_the_text_shows_at_most_four_decimals_of_scores() -> None:
    text = decide("guarded", pair(0.123456789, 0.234567891, p=0.0123456)).text
    assert max(len(digits) for digits in re.findall(r"\.(\d+)", text)) == 4


def test_an_unknown_mode_lists_what_is_valid() -> None:
    with pytest.raises(BadInput, match="'guarded' and 'paper'"):
        decide("greedy", None)  # pyright: ignore[reportArgumentType]  # what an old record could hold


def test_pure_noise_is_rarely_accepted_in_guarded_mode_and_half_the_time_on_paper() -> None:
    random, accepted = np.random.default_rng(0), {"paper": 0, "guarded": 0}
    truth, simulations = np.arange(150) % 2, 200
    for seed in range(simulations):
        models: list[Cases] = []
        for _ in range(2):
            p = 1 / (1 + np.exp(-(truth + random.normal(size=150))))
            models.append(
                Cases(
                    truth=truth,
                    probabilities=np.stack([1 - p, p], axis=1),
                    groups=np.arange(150) // 2,
                    n_groups=75,
                    thresholds=np.full(2, np.nan),
                )
            )
        old, new = (float(evaluate_once(["macro_auc"], Scheme(("a", "b")), model)[0]) for model in models)
        drawn = bootstrap(["macro_auc"], Scheme(("a", "b")), models, resamples=200, seed=seed)[:, 0]
        compared = pair(old, new, p=p_of_gain(drawn[1] - drawn[0]))
        for mode in ("paper", "guarded"):
            accepted[mode] += decide(mode, compared).accepted
    assert 0.40 <= accepted["paper"] / simulations <= 0.60
    assert accepted["guarded"] / simulations <= 0.16  # alpha 0.10, standard error 0.02
