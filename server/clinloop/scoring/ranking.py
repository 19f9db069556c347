"""Metrics of how a class is ranked above the others, besides the AUC: average precision and points of the ROC curve."""

from __future__ import annotations

import numpy as np

from clinloop.scoring.weighted import Curve, Floats, Weighting, order, ratio


def average_precision(weighting: Weighting, index: int) -> Floats:
    """(B,) area under the precision-recall curve of a class, one-vs-rest; NaN without a case of it.

    Stepwise: the mean, over the cases of the class, of the precision at their score; equal scores are one threshold.

    Source: scikit-learn's `average_precision_score`.
    """
    curve = weighting.cases.curve(index)
    positives, ascending = weighting.counts[curve.positive_groups], weighting.ascending(curve)
    cumulated = np.zeros((len(positives) + 1, positives.shape[1]))
    np.cumsum(positives, axis=0, out=cumulated[1:])
    hits = cumulated[-1] - cumulated[curve.first_equal]
    flagged = hits + (ascending[-1] - ascending[curve.below])
    # A case that is not drawn may have nothing at or above its score; its weight is 0 then.
    precision = np.divide(hits, flagged, out=np.zeros_like(hits), where=flagged > 0)
    return ratio(np.einsum("ij,ij->j", positives, precision), cumulated[-1])


def sensitivity_at(specificity: float, weighting: Weighting, index: int) -> Floats:
    """(B,) largest sensitivity of any threshold with at least this specificity; NaN where a side is empty."""
    return _reached(specificity, weighting, weighting.cases.curve(index))


def specificity_at(sensitivity: float, weighting: Weighting, index: int) -> Floats:
    """(B,) largest specificity of any threshold with at least this sensitivity; NaN where a side is empty."""
    cases = weighting.cases
    is_class = cases.truth == index
    # The ROC curve read from its other end: sides and order are exchanged.
    mirrored = cases.once(
        ("mirrored", index), lambda: order(-cases.probabilities[:, index], cases.groups, ~is_class, is_class)
    )
    return _reached(sensitivity, weighting, mirrored)


def _reached(share: float, weighting: Weighting, curve: Curve) -> Floats:
    """(B,) weight of the positive cases that lie above at least this share of the negatives, of all positives."""
    positives, ascending = weighting.counts[curve.positive_groups], weighting.ascending(curve)
    total = ascending[-1]
    # A threshold at a positive case rejects the negatives below it; fewer positives are lost the lower it lies.
    reached = ascending[curve.below] >= share * total * (1 - 1e-12)
    found = ratio(np.einsum("ij,ij->j", positives, reached.astype(np.float64)), positives.sum(axis=0))
    return np.where(total > 0, found, np.nan)
