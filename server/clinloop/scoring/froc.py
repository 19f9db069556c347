"""Curves of boxes by score at IoU 0.5: free-response ROC (FROC) and precision-recall, and the FROC metrics under many weightings at once.

A mark is a predicted box. It is false when it has no match, also when it is a second mark on a box that is found already. A threshold
takes all marks of a score. The recall at a rate is the largest of any threshold with at most that many false marks per image: no
interpolation, where the LUNA16 challenge draws lines between thresholds.
Source: Bunch et al. 1977 (FROC); Setio et al. 2017 (LUNA16) for the seven rates.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from clinloop.scoring.matching import BoxCases, Ranked
from clinloop.scoring.weighted import Floats, Ints, per_group, ratio

RATES: Mapping[str, float] = MappingProxyType(
    {"1_8": 1 / 8, "1_4": 1 / 4, "1_2": 1 / 2, "1": 1.0, "2": 2.0, "4": 4.0, "8": 8.0}
)
"""False marks per image at which the recall is told, by what names them."""


class FrocCurve(NamedTuple):
    """One point for each different score, highest score first."""

    fp_per_image: Floats
    """(P,) rising."""
    recall: Floats
    """(P,) of all boxes of the truth, rising; NaN without one."""


class PrecisionRecallCurve(NamedTuple):
    """One point for each different score, highest score first."""

    recall: Floats
    """(P,) rising; NaN without a box in the truth."""
    precision: Floats
    """(P,) as it is, not interpolated."""


def froc_curve(cases: BoxCases, target: int | None = None) -> FrocCurve:
    """Return the FROC curve of a target, of None that of all targets' marks together, over all images."""
    ranked = _of_target(cases, target)
    last, found = _levels(ranked)
    true = np.full(len(last), float(len(ranked.true_groups)))
    return FrocCurve((last + 1 - found) / len(cases.groups), ratio(found.astype(np.float64), true))


def precision_recall_curve(cases: BoxCases, target: int | None = None) -> PrecisionRecallCurve:
    """Return the precision-recall curve of a target, of None that of all targets' marks together."""
    ranked = _of_target(cases, target)
    last, found = _levels(ranked)
    true = np.full(len(last), float(len(ranked.true_groups)))
    return PrecisionRecallCurve(ratio(found.astype(np.float64), true), found / (last + 1))


def recalls_at_rates(cases: BoxCases, counts: Floats) -> Floats:
    """Return the recall (7, B) of boxes at RATES under weightings `counts` (G, B); NaN without a box in the truth."""
    from scipy.sparse import csr_array  # late: scoring a classification need not wait for it

    ranked = cases.pooled
    n_true = counts[ranked.true_groups].sum(axis=0)  # (B,)
    result = np.where(n_true > 0, 0.0, np.nan) * np.ones((len(RATES), 1))
    hits = np.flatnonzero(ranked.is_true[0])
    if not len(hits):
        return result
    # Recall rises only at scores that a matched mark has: a level holds the marks from above it down to its score, the last included.
    levels = np.unique(-ranked.scores[hits])
    level = np.searchsorted(levels, -ranked.scores, side="left")
    is_false = ~ranked.is_true[0] & (level < len(levels))
    shape = (len(levels), ranked.n_groups)
    of_false = csr_array((np.ones(int(is_false.sum())), (level[is_false], ranked.groups[is_false])), shape=shape)
    of_hits = csr_array((np.ones(len(hits)), (level[hits], ranked.groups[hits])), shape=shape)
    false = np.cumsum(of_false @ counts, axis=0)  # (L, B)
    recall = np.concatenate([np.zeros((1, counts.shape[1])), np.cumsum(of_hits @ counts, axis=0)])  # (L + 1, B)
    images = per_group(np.ones((len(cases.groups), 1)), cases.groups, cases.n_groups)[:, 0] @ counts  # (B,)
    columns = np.arange(counts.shape[1])
    for row, rate in enumerate(RATES.values()):
        allowed = (false <= rate * images).sum(axis=0)  # levels: the false marks only become more
        result[row] = ratio(recall[allowed, columns], n_true)
    return result


def _of_target(cases: BoxCases, target: int | None) -> Ranked:
    return cases.pooled if target is None else cases.targets[target]


def _levels(ranked: Ranked) -> tuple[Ints, Ints]:
    """Return the place of the last mark of each score, and the matched marks up to there."""
    last = np.flatnonzero(np.append(ranked.scores[1:] != ranked.scores[:-1], True)[: len(ranked.scores)])
    return last, np.cumsum(ranked.is_true[0])[last]
