"""Average precision and average recall of matched boxes under many weightings of the groups at once.

Average precision is COCO's: at each of 101 recalls the best precision at that recall or more; means are over the targets that have a box.
Its value equals that of pycocotools on physically repeated images. Boxes of equal score count in the order of case ids, then of the file;
those of one image that share target and score count with all their repeats at once, where COCO would go through the copies in turn.
Source: pycocotools 2.0, `COCOeval.accumulate`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clinloop.scoring.matching import IOUS, BoxCases, Ranked, Size
from clinloop.scoring.weighted import Floats, per_group, ratio

RECALLS = np.linspace(0.0, 1.0, 101)


def mean_precision(cases: BoxCases, counts: Floats, thresholds: Sequence[int]) -> Floats:
    """Return average precisions (len(thresholds), B) at some places of IOUS, each the mean over the targets with a box in the weighting."""
    return mean_over_targets([average_precision(ranked, counts, thresholds) for ranked in cases.targets])


def mean_precision_sized(cases: BoxCases, counts: Floats, size: Size) -> Floats:
    """Return the mean (B,) over IoU thresholds and targets of the average precisions in a range of areas."""
    of_target = [
        np.concatenate([average_precision(ranked, counts, [0]) for ranked in by_iou]) for by_iou in cases.sized(size)
    ]
    return mean_over_targets(of_target).mean(axis=0)


def average_recall(cases: BoxCases, counts: Floats) -> Floats:
    """Return the share (B,) of boxes of the truth that are found by any predicted box, mean over IoU thresholds and targets."""
    recalls: list[Floats] = []
    for ranked in cases.targets:
        found = per_group(ranked.is_true[:, ranked.hits].T, ranked.groups[ranked.hits], ranked.n_groups)  # (G, T)
        true = np.bincount(ranked.true_groups, minlength=ranked.n_groups).astype(np.float64)
        recalls.append(ratio(found.T @ counts, true @ counts))  # (T, B)
    return mean_over_targets(recalls).mean(axis=0)


def mean_over_targets(values: Sequence[Floats]) -> Floats:
    """Return the mean of equal arrays where they are defined; NaN where none is."""
    stacked = np.stack(values)
    defined = ~np.isnan(stacked)
    return ratio(np.where(defined, stacked, 0.0).sum(axis=0), defined.sum(axis=0).astype(np.float64))


def average_precision(ranked: Ranked, counts: Floats, thresholds: Sequence[int] = range(len(IOUS))) -> Floats:
    """Return average precisions (len(thresholds), B) of one target; NaN without a box in the truth.

    Recall rises at matched boxes only, and the best precision from there on is also reached at one; the others are only counted.
    """
    n_true = counts[ranked.true_groups].sum(axis=0)  # (B,)
    result = np.where(n_true > 0, 0.0, np.nan) * np.ones((len(thresholds), 1))
    hits = ranked.hits
    if not len(hits):
        return result
    shown = np.cumsum(ranked.stretches @ counts, axis=0)  # (H, B)
    for row, at in enumerate(thresholds):
        is_true = ranked.is_true[at, hits]
        if not is_true.any():
            continue
        found = np.cumsum(counts[ranked.groups[hits[is_true]]], axis=0)  # (H', B)
        precision = found / (shown[is_true] + np.spacing(1))
        precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        recall = np.ascontiguousarray(ratio(found, n_true).T)  # (B, H')
        best = np.concatenate(
            [precision, np.zeros((1, precision.shape[1]))]
        ).T  # (B, H' + 1): nothing beyond the last recall
        for column in np.flatnonzero(n_true > 0):
            reached = np.searchsorted(recall[column], RECALLS, side="left")
            result[row, column] = best[column][reached].mean()
    return result
