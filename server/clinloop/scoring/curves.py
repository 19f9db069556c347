"""ROC, precision-recall and FROC curves, thinned so that a report can hold them, each with its operating point."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

from clinloop.scoring.analysis import Curve, Model
from clinloop.scoring.detection import BoxCases
from clinloop.scoring.froc import froc_curve, precision_recall_curve
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.weighted import Floats, Ints

Kind = Literal["roc", "precision_recall", "froc"]
MOST_POINTS = 200
"""More points than a figure of a few hundred pixels can show."""


def threshold_curves(
    model: Model, name: str, is_class: npt.NDArray[np.bool_], scores: Floats, threshold: float
) -> Iterator[Curve]:
    """Yield the ROC and the precision-recall curve of scores (N,); nothing without a case on either side.

    threshold: the operating point, NaN where there is none. Each point is that of a threshold at a score that occurs; precision where
    nothing reaches the threshold is undefined, so that the second curve starts at the highest score.
    """
    n_positive, n_negative = int(is_class.sum()), int((~is_class).sum())
    if not n_positive or not n_negative:
        return
    best_first = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[best_first]) != 0, True))  # a threshold takes all cases of a score
    found = np.cumsum(is_class[best_first])[last].astype(np.float64)
    flagged = last + 1.0
    sensitivity, false_share = found / n_positive, (flagged - found) / n_negative
    above = scores >= threshold  # none, where it is NaN
    hits, alarms = int((above & is_class).sum()), int((above & ~is_class).sum())
    at = None if np.isnan(threshold) else (alarms / n_negative, hits / n_positive)
    yield thinned(model, name, "roc", np.append(0.0, false_share), np.append(0.0, sensitivity), at)
    at = (hits / n_positive, hits / (hits + alarms)) if hits + alarms else None
    yield thinned(model, name, "precision_recall", sensitivity, found / flagged, at)


def box_curves(model: Model, cases: BoxCases, scheme: Scheme) -> Iterator[Curve]:
    """Yield FROC and precision-recall of each target's boxes at IoU 0.5, and the ROC of images by their best score."""
    for target, (name, ranked) in enumerate(zip(scheme.targets, cases.targets, strict=True)):
        froc, precision_recall = froc_curve(cases, target), precision_recall_curve(cases, target)
        if not len(ranked.scores) or not len(ranked.true_groups):
            continue
        shown = int((ranked.scores >= cases.threshold).sum())  # none, where it is NaN
        found, boxes = int(ranked.is_true[0, :shown].sum()), len(ranked.true_groups)
        at = None if np.isnan(cases.threshold) else ((shown - found) / len(cases.groups), found / boxes)
        x, y = np.append(0.0, froc.fp_per_image), np.append(0.0, froc.recall)
        yield thinned(model, name, "froc", x, y, at)
        at = (found / boxes, found / shown) if shown else None
        yield thinned(model, name, "precision_recall", precision_recall.recall, precision_recall.precision, at)
    for curve in threshold_curves(model, scheme.detected, cases.has_box, cases.best, cases.threshold):
        if curve.kind == "roc":
            yield curve


def thinned(model: Model, name: str, kind: Kind, x: Floats, y: Floats, at: tuple[float, float] | None) -> Curve:
    """Return a curve with at most MOST_POINTS of its points, the first and the last among them, evenly along its length."""
    keep = _evenly(x, y)
    return Curve(model=model, name=name, kind=kind, x=x[keep].tolist(), y=y[keep].tolist(), at=at)


def _evenly(x: Floats, y: Floats) -> Ints:
    if len(x) <= MOST_POINTS:
        return np.arange(len(x))
    widest = max(float(np.ptp(x)), 1e-12)  # false marks per image go beyond 1
    length = np.append(0.0, np.cumsum(np.abs(np.diff(x)) / widest + np.abs(np.diff(y))))
    return np.unique(np.searchsorted(length, np.linspace(0.0, length[-1], MOST_POINTS)))
