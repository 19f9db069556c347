"""What a run got wrong on validation: each miss with its truth, what was said instead, and what to draw on the picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

from clinloop.scoring.service import Detections, Mask, Prediction, Scheme, TruthBox, TruthCase

IOU = 0.5
"""Overlap from which a predicted box counts as having found one of the truth, as in the metrics precision, recall and f1."""
POOR_DICE = 0.5
"""A mask with less overlap than this is shown as a miss."""

Rect = tuple[float, float, float, float]
"""x, y, width, height in pixels of the image; origin top left."""


class Miss(NamedTuple):
    """One case that was predicted wrongly."""

    badness: float
    """The larger, the earlier it is shown."""
    case_id: str
    true: str
    """The truth, in a few words."""
    said: str
    """What was predicted, in a few words."""
    true_boxes: tuple[Rect, ...] = ()
    said_boxes: tuple[Rect, ...] = ()
    true_mask: Mask | None = None
    said_mask: Mask | None = None


def find_misses(
    scheme: Scheme, truth: list[TruthCase], found: Mapping[str, Prediction], threshold: float
) -> list[Miss]:
    """Return the misses of a run, the worst first; `threshold` is the score from which a box counts."""
    match scheme.task_type:
        case "classification":
            misses = [_misclassified(scheme, case, cast("tuple[float, ...]", found[case.case_id])) for case in truth]
        case "detection":
            misses = [_missed_boxes(scheme, case, cast("Detections", found[case.case_id]), threshold) for case in truth]
        case "segmentation":
            misses = [_poor_mask(case, cast("Mask", found[case.case_id])) for case in truth]
    return sorted((miss for miss in misses if miss), key=lambda miss: (-miss.badness, miss.case_id))


def _misclassified(scheme: Scheme, case: TruthCase, row: tuple[float, ...]) -> Miss | None:
    said, true = max(range(len(row)), key=row.__getitem__), scheme.classes.index(case.label)
    if said == true:
        return None
    names = f"{case.label} ({row[true]:.2f})", f"taken for {scheme.classes[said]} ({row[said]:.2f})"
    return Miss(row[said] - row[true], case.case_id, *names)


def _missed_boxes(scheme: Scheme, case: TruthCase, found: Detections, threshold: float) -> Miss | None:
    shown = sorted((box for box in found if box.score >= threshold), key=lambda box: -box.score)
    missed, false = list(case.boxes or ()), list[float]()
    for box in shown:
        mate = max(
            (one for one in missed if one.target == box.target), key=lambda one: _iou(one, box[1:5]), default=None
        )
        if mate is not None and _iou(mate, box[1:5]) >= IOU:
            missed.remove(mate)
        else:
            false.append(box.score)
    if not missed and not false:
        return None
    names = ", ".join(dict.fromkeys(scheme.targets[box.target] for box in case.boxes or ())) or "nothing"
    said = f"missed {len(missed)}" if missed else ""
    said += (", " if missed and false else "") + (f"false {len(false)} (up to {max(false):.2f})" if false else "")
    return Miss(
        len(missed) + max(false, default=0.0),
        case.case_id,
        f"{names}: {len(case.boxes or ())} box(es)",
        said,
        tuple(box[1:5] for box in case.boxes or ()),
        tuple(box[1:5] for box in shown),
    )


def _poor_mask(case: TruthCase, found: Mask) -> Miss | None:
    from clinloop.scoring.rle import areas  # late: numpy

    shared, true, said = areas(case.mask or (), found.counts)
    dice = 1.0 if not true and not said else 2 * shared / (true + said)
    if dice >= POOR_DICE:
        return None
    total = max(1, case.width * case.height)
    true_mask = Mask(case.height, case.width, case.mask or ())
    texts = f"{true / total:.1%} of the picture", f"marked {said / total:.1%}, Dice {dice:.2f}"
    return Miss(1 - dice, case.case_id, *texts, true_mask=true_mask, said_mask=found)


def _iou(one: TruthBox, other: Rect) -> float:
    x, y, width, height = other
    across = min(one.x + one.width, x + width) - max(one.x, x)
    down = min(one.y + one.height, y + height) - max(one.y, y)
    shared = max(0.0, across) * max(0.0, down)
    union = one.width * one.height + width * height - shared
    return shared / union if union > 0 else 0.0
