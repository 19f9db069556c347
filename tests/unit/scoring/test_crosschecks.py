"""DeLong, McNemar and Holm against their definitions and scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from clinloop.scoring.crosschecks import delong, delong_variance, holm, mcnemar


def scores(seed: int, n: int = 150, *, ties: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth and two models that resemble each other; the second is better."""
    random = np.random.default_rng(seed)
    truth = random.random(n) < 0.3
    shared = random.normal(size=n)
    first, second = (skill * truth + shared + random.normal(size=n) for skill in (0.8, 1.6))
    return (truth, np.round(first), np.round(second)) if ties else (truth, first, second)


def all_pairs(truth: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, float, float, float]:
    """z, p, AUC of the first and its variance, from the comparison of every positive with every negative."""
    wins = [(s[truth][:, None] > s[~truth]) + 0.5 * (s[truth][:, None] == s[~truth]) for s in (first, second)]
    covariance = np.cov([w.mean(axis=1) for w in wins]) / truth.sum()
    covariance = covariance + np.cov([w.mean(axis=0) for w in wins]) / (~truth).sum()
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    z = (wins[1].mean() - wins[0].mean()) / math.sqrt(variance)
    return z, 2 * stats.norm.sf(abs(z)), wins[0].mean(), covariance[0, 0]


@pytest.mark.parametrize("ties", [False, True])
def test_delong_equals_the_comparison_of_all_pairs(ties: bool) -> None:
    for seed in range(10):
        truth, first, second = scores(seed, ties=ties)
        z, p, auc, variance = all_pairs(truth, first, second)
        assert delong(truth, first, second) == pytest.approx((z, p), rel=1e-9)
        assert delong_variance(truth, first) == pytest.approx((auc, variance), rel=1e-9)
        assert auc == pytest.approx(roc_auc_score(truth, first))


def test_delong_of_four_cases_is_what_is_computed_by_hand() -> None:
    truth, model = np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8])
    # Positives outrank 1/2 and 2/2 of the negatives, negatives are outranked by 2/2 and 1/2 of the positives: each variance is 1/8.
    assert delong_variance(truth, model) == (0.75, 0.125 / 2 + 0.125 / 2)


def test_delong_is_positive_where_the_second_model_is_better() -> None:
    truth, first, second = scores(3, 400)
    z, p = delong(truth, first, second)
    assert z > 0
    assert p < 0.05
    assert delong(truth, second, first) == pytest.approx((-z, p))


def test_delong_is_undefined_with_one_case_on_a_side_and_finds_nothing_between_equal_models() -> None:
    truth, first, second = scores(0)
    alone = np.arange(len(truth)) == 0
    for side in (alone, ~alone, np.zeros_like(alone), np.ones_like(alone)):
        assert np.isnan(delong(side, first, second)).all()
        assert np.isnan(delong_variance(side, first)).all()
    assert delong(truth, first, 3 * first + 1) == (0.0, 1.0)
    assert delong(truth, truth * 1.0, 1.0 - truth) == (-math.inf, 0.0)


def test_mcnemar_equals_the_exact_binomial_test() -> None:
    random = np.random.default_rng(0)
    for n in (0, 1, 5, 40, 3000):
        first, second = random.random(n) < 0.7, random.random(n) < 0.75
        fewer, p = mcnemar(first, second)
        only_first, discordant = int((first & ~second).sum()), int((first ^ second).sum())
        assert fewer == min(only_first, discordant - only_first)
        expected = stats.binomtest(only_first, discordant).pvalue if discordant else 1.0
        assert p == pytest.approx(expected, rel=1e-9)


def test_holm_equals_the_closed_test_of_bonferroni() -> None:
    random = np.random.default_rng(1)
    for _ in range(50):
        p = list(random.random(5) ** 3)
        sets = [s for size in range(1, 6) for s in itertools.combinations(range(5), size)]
        closed = [
            max(min(1.0, len(chosen) * min(p[i] for i in chosen)) for chosen in sets if place in chosen)
            for place in range(5)
        ]
        assert holm(p) == pytest.approx(closed)


def test_holm_leaves_out_what_has_no_p_value() -> None:
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx([0.03, None, 0.06, 0.06, 0.02])
    assert holm([None]) == [None]
    assert holm([]) == []
