"""Fixing an operating point: one threshold per class, chosen on validation by a rule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clinloop.scoring.metrics import OperatingPoint, parse_rule


def fix_operating_point(
    rule: str, class_name: str, is_class: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]
) -> OperatingPoint | None:
    """Choose the threshold of a class on validation cases; None without a case on either side.

    Candidates are the distinct scores and one above them all. `max_f1` takes the largest F1, `youden` the largest sensitivity + specificity
    and `cost=R` the smallest R x misses + false alarms among these cases (of equals the highest threshold); `sensitivity>=X` takes the
    highest threshold that reaches X, `specificity>=X` the lowest that does.

    Raises:
        BadInput: no such rule.
    """
    kind, target = parse_rule(rule)
    positives, negatives = np.sort(scores[is_class]), np.sort(scores[~is_class])
    if not len(positives) or not len(negatives):
        return None
    distinct = np.unique(scores)
    candidates = np.append(distinct, np.nextafter(distinct[-1], np.inf))
    sensitivity = 1.0 - np.searchsorted(positives, candidates, side="left") / len(positives)  # falls with the threshold
    specificity = np.searchsorted(negatives, candidates, side="left") / len(negatives)  # rises with the threshold
    match kind:
        case "max_f1":
            found = sensitivity * len(positives)
            f1 = 2 * found / (found + (1 - specificity) * len(negatives) + len(positives))
            chosen = np.flatnonzero(f1 >= f1.max() - 1e-12)[-1]
        case "youden":
            gain = sensitivity + specificity
            chosen = np.flatnonzero(gain >= gain.max() - 1e-12)[-1]
        case "cost":
            cost = target * (1 - sensitivity) * len(positives) + (1 - specificity) * len(negatives)
            chosen = np.flatnonzero(cost <= cost.min() + 1e-9 * max(1.0, target))[-1]
        case "sensitivity":
            chosen = np.flatnonzero(sensitivity >= target - 1e-12)[-1]
        case "specificity":
            chosen = np.flatnonzero(specificity >= target - 1e-12)[0]
    return OperatingPoint(
        rule, class_name, float(candidates[chosen]), float(sensitivity[chosen]), float(specificity[chosen])
    )


def fix_operating_points(
    rule: str, classes: Sequence[str], truth: npt.NDArray[np.intp], probabilities: npt.NDArray[np.float64]
) -> dict[str, OperatingPoint]:
    """Fix the operating point of every class that has cases on both sides."""
    points = [
        fix_operating_point(rule, name, truth == index, probabilities[:, index]) for index, name in enumerate(classes)
    ]
    return {point.class_name: point for point in points if point is not None}
