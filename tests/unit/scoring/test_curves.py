"""Curves against scikit-learn, and where the operating point lies on them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve

from clinloop.scoring.curves import MOST_POINTS, threshold_curves


def drawn(n: int, *, ties: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    is_class = random.random(n) < 0.3
    scores = np.clip(random.normal(0.35 + 0.2 * is_class, 0.2), 0, 1)
    return is_class, np.round(scores, 1) if ties else scores


@pytest.mark.parametrize("n", [12, 150, 4000])
@pytest.mark.parametrize("ties", [False, True])
def test_each_point_is_one_of_scikit_learn_and_few_are_enough(n: int, ties: bool) -> None:
    is_class, scores = drawn(n, ties=ties)
    roc, precision_recall = threshold_curves("initial", "MEL", is_class, scores, 0.5)
    false_share, sensitivity, _ = roc_curve(is_class, scores, drop_intermediate=False)
    precision, recall, _ = precision_recall_curve(is_class, scores)
    for curve, expected in ((roc, (false_share, sensitivity)), (precision_recall, (recall, precision))):
        known = {(round(float(x), 9), round(float(y), 9)) for x, y in zip(*expected, strict=True)}
        assert {(round(x, 9), round(y, 9)) for x, y in zip(curve.x, curve.y, strict=True)} <= known
        assert len(curve.x) <= MOST_POINTS
    assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1]) == (0, 0, 1, 1)
    assert precision_recall.x[-1] == 1
    assert auc(roc.x, roc.y) == pytest.approx(roc_auc_score(is_class, scores), abs=1e-9 if n < MOST_POINTS else 3e-3)


def test_the_operating_point_lies_where_its_threshold_puts_it() -> None:
    is_class, scores = drawn(300, ties=False)
    roc, precision_recall = threshold_curves("refined", "MEL", is_class, scores, 0.5)
    flagged = scores >= 0.5
    assert roc.at == pytest.approx((flagged[~is_class].mean(), flagged[is_class].mean()))
    assert precision_recall.at == pytest.approx((flagged[is_class].mean(), is_class[flagged].mean()))
    assert [curve.at for curve in threshold_curves("refined", "MEL", is_class, scores, np.nan)] == [None, None]
    above_all = list(threshold_curves("refined", "MEL", is_class, scores, 1.5))
    assert [curve.at for curve in above_all] == [(0, 0), None], "precision of nothing is undefined"


def test_a_class_without_cases_on_both_sides_has_no_curve() -> None:
    for is_class in (np.zeros(5, bool), np.ones(5, bool)):
        assert list(threshold_curves("initial", "MEL", is_class, np.linspace(0, 1, 5), 0.5)) == []
