"""Detection metrics under many weightings of the groups at once: boxes are matched once, a weighting only adds up what was matched."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from clinloop.scoring.average_precision import (
    average_precision,
    average_recall,
    mean_precision,
    mean_precision_sized,
)
from clinloop.scoring.froc import RATES, recalls_at_rates
from clinloop.scoring.matching import AREAS, IOUS, BoxCases, match
from clinloop.scoring.weighted import Floats, Weighting, ratio

__all__ = ["BoxCases", "evaluator", "match", "max_f1_threshold"]

_AT_IOU = {"ap50": 0, "ap75": 5}
"""Places in IOUS."""


def max_f1_threshold(cases: BoxCases) -> float:
    """Return the highest threshold of the largest F1 of boxes at IoU 0.5; NaN without a box in the truth."""
    ranked = cases.pooled
    n_true, scores = len(ranked.true_groups), ranked.scores
    if not n_true:
        return float("nan")
    if not len(scores):
        return 1.0
    found = np.cumsum(ranked.is_true[0])
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # a threshold takes all boxes of a score
    f1 = 2 * found[last] / (last + 1 + n_true)
    return float(scores[last[np.flatnonzero(f1 >= f1.max() - 1e-12)[0]]])


def evaluator(cases: BoxCases, counts: Floats) -> Callable[[str, int], Floats]:
    """Return what computes a metric (B,) under weightings `counts` (G, B); NaN where undefined.

    It takes the name in METRICS and the position of the target, which only families look at.
    """
    precisions: dict[int, Floats] = {}
    recalls: list[Floats] = []

    def precision_at(wanted: list[int]) -> list[Floats]:
        missing = [at for at in wanted if at not in precisions]
        if missing:
            precisions.update(zip(missing, mean_precision(cases, counts, missing), strict=True))
        return [precisions[at] for at in wanted]

    def at_rates() -> Floats:
        if not recalls:
            recalls.append(recalls_at_rates(cases, counts))
        return recalls[0]

    def value(name: str, target: int) -> Floats:
        match name:
            case "ap50" | "ap75":
                return precision_at([_AT_IOU[name]])[0]
            case "ap50_95":
                return np.mean(precision_at(list(range(len(IOUS)))), axis=0)
            case "ap50_<target>":
                return average_precision(cases.targets[target], counts, [0])[0]
            case "ap50_95_small" | "ap50_95_medium" | "ap50_95_large":
                return mean_precision_sized(cases, counts, next(size for size in AREAS if name.endswith(size)))
            case "ar100":
                return average_recall(cases, counts)
            case "froc":
                return at_rates().mean(axis=0)
            case "image_auc":
                return Weighting(cases.images, counts).auc(1)
            case "precision" | "recall" | "f1":
                return _at_threshold(cases, counts, name)
            case _:
                return at_rates()[list(RATES).index(name.removeprefix("froc_"))]

    return value


def _at_threshold(cases: BoxCases, counts: Floats, name: str) -> Floats:
    if np.isnan(cases.threshold):
        return np.full(counts.shape[1], np.nan)
    true, shown, found = cases.box_sums.T @ counts
    if name == "f1":
        return ratio(2 * found, true + shown)
    return ratio(found, shown if name == "precision" else true)
