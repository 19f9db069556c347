"""Metrics of decisions: of the decided class of each case, and of a class at its operating point."""

from __future__ import annotations

import numpy as np

from clinloop.scoring.weighted import Floats, Weighting, ratio

Share = tuple[Floats, Floats]
"""A number of cases (B,) and of how many (B,)."""


def f1(weighting: Weighting, index: int) -> Floats:
    """(B,) F1 of a decided class."""
    right, cases, decisions = weighting.decisions
    return ratio(2 * right[index], cases[index] + decisions[index])


def recall(weighting: Weighting, index: int) -> Floats:
    """(B,) share of the cases of a class that were decided right."""
    right, cases, _ = weighting.decisions
    return ratio(right[index], cases[index])


def accuracy(weighting: Weighting) -> Floats:
    """(B,) share of the cases that were decided right."""
    right, cases, _ = weighting.decisions
    return ratio(right.sum(axis=0), cases.sum(axis=0))


def mcc(weighting: Weighting) -> Floats:
    """(B,) Matthews correlation of decided and true classes; NaN (scikit-learn: 0) where either does not vary. Source: Gorodkin 2004."""
    right, cases, decisions = weighting.decisions
    n = weighting.n
    together = right.sum(axis=0) * n - (cases * decisions).sum(axis=0)
    varies = (n * n - np.square(cases).sum(axis=0)) * (n * n - np.square(decisions).sum(axis=0))
    return ratio(together, np.sqrt(varies))


def found_of_cases(weighting: Weighting, index: int) -> Share:
    """Return what sensitivity is made of: cases of a class at or above its operating point, cases of the class."""
    hits, misses, _, _ = _fourfold(weighting, index)
    return hits, hits + misses


def rejected_of_others(weighting: Weighting, index: int) -> Share:
    """Return what specificity is made of: other cases below the operating point, other cases."""
    _, _, false_alarms, rejected = _fourfold(weighting, index)
    return rejected, rejected + false_alarms


def found_of_flagged(weighting: Weighting, index: int) -> Share:
    """Return what the positive predictive value is made of: cases of the class at or above its operating point, all at or above it."""
    hits, _, false_alarms, _ = _fourfold(weighting, index)
    return hits, hits + false_alarms


def rejected_of_unflagged(weighting: Weighting, index: int) -> Share:
    """Return what the negative predictive value is made of: other cases below the operating point, all below it."""
    _, misses, _, rejected = _fourfold(weighting, index)
    return rejected, rejected + misses


def mcc_of_class(weighting: Weighting, index: int) -> Floats:
    """(B,) Matthews correlation of being of a class and lying at or above its operating point; NaN where either does not vary."""
    hits, misses, false_alarms, rejected = _fourfold(weighting, index)
    varies = (hits + misses) * (false_alarms + rejected) * (hits + false_alarms) * (misses + rejected)
    return ratio(hits * rejected - false_alarms * misses, np.sqrt(varies))


def _fourfold(weighting: Weighting, index: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Return hits, misses, false alarms and rightly rejected cases (B,); all 0 without an operating point, so that nothing is defined."""
    if np.isnan(weighting.cases.thresholds[index]):
        none = np.zeros(weighting.counts.shape[1])
        return none, none, none, none
    hits, cases, rejected, others = weighting.flags[:, index]
    return hits, cases - hits, others - rejected, rejected
