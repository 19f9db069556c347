"""How often the 95 % interval of the average precision holds the true value, in simulated data whose true value is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from clinloop.scoring.average_precision import RECALLS
from clinloop.scoring.bootstrap import bootstrap, interval
from clinloop.scoring.evaluate import evaluate_once
from clinloop.scoring.matching import BoxCases, Ranked

from .test_detection import ONE

BOXES, FOUND, FALSE = 0.9, 0.805, 2.0
"""Per image: boxes in the truth; the share of them that is found, which is none of the 101 recalls; false marks."""
RIGHT, WRONG = beta(4, 2), beta(1.2, 4)
"""Scores of marks that have a match and of those that have none."""


def true_value() -> float:
    """Return the average precision of an endless number of images."""
    reached = RECALLS[(RECALLS > 0) & (RECALLS < FOUND)]
    precision = BOXES * reached / (BOXES * reached + FALSE * WRONG.sf(RIGHT.isf(reached / FOUND)))
    assert (np.diff(precision) < 0).all()  # so each is the best at its recall or more
    return float((1 + precision.sum()) / len(RECALLS))  # 1: the limit at recall 0


def simulate(random: np.random.Generator, n_groups: int) -> BoxCases:
    """Return patients of one to three images; how well a patient's boxes are found varies between patients."""
    groups = np.repeat(np.arange(n_groups), random.integers(1, 4, n_groups))
    chance = random.beta(5 * FOUND, 5 * (1 - FOUND), n_groups)  # its mean is FOUND
    true_groups = np.repeat(groups, random.poisson(BOXES, len(groups)))
    hit_groups = true_groups[random.random(len(true_groups)) < chance[true_groups]]
    false_groups = np.repeat(groups, random.poisson(FALSE, len(groups)))
    scores = np.concatenate([random.beta(*RIGHT.args, len(hit_groups)), random.beta(*WRONG.args, len(false_groups))])
    best_first = np.argsort(-scores)
    ranked = Ranked(
        scores=scores[best_first],
        groups=np.concatenate([hit_groups, false_groups])[best_first],
        is_true=(np.arange(len(scores)) < len(hit_groups))[None, best_first],
        true_groups=true_groups,
        n_groups=n_groups,
    )
    return BoxCases(
        targets=(ranked,),
        pairs=(),
        has_box=np.isin(np.arange(len(groups)), true_groups),
        best=np.zeros(len(groups)),
        groups=groups,
        n_groups=n_groups,
        threshold=np.nan,
    )


def coverage(n_groups: int, *, rounds: int, resamples: int, seed: int) -> float:
    """Return the share of rounds whose interval holds the true value."""
    random, value = np.random.default_rng(seed), true_value()
    held = 0
    for number in range(rounds):
        drawn = bootstrap(["ap50"], ONE, [simulate(random, n_groups)], resamples=resamples, seed=number)[0, 0]
        limits = interval(drawn)
        held += limits is not None and limits.low <= value <= limits.high
    return held / rounds


def test_the_value_of_very_many_images_is_the_true_one() -> None:
    cases = simulate(np.random.default_rng(0), 200_000)
    assert evaluate_once(["ap50"], ONE, cases)[0] == pytest.approx(true_value(), abs=0.002)


@pytest.mark.slow
def test_intervals_of_the_average_precision_hold_the_true_value_about_95_times_in_100() -> None:
    assert 0.93 <= coverage(300, rounds=800, resamples=400, seed=0) <= 0.97
