"""Predictions as values: what a case is predicted to be in each task type, how it is written, and how far two of them are apart.

This module imports no numpy: the server uses it on what the scoring process has parsed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, cast

from clinloop.scoring.metrics import Scheme, TaskType
from clinloop.scoring.truth import TruthBox

MAX_BYTES = 200 << 20
"""No predictions file is larger."""
MAX_DETECTIONS = 100
"""Boxes of one case that count: the usual maxDets of COCO. A file with more is refused."""
MAX_MASK_BYTES = 64 << 20
"""No file of masks is larger: run lengths take thirty times as much memory as text."""
MAX_RUNS = 50_000
"""Run lengths of one mask: a mask of more has the outline of noise."""
_ID_BYTES, _NUMBER_BYTES, _DETECTION_BYTES, _RUN_BYTES = 128, 40, 320, 10

TOLERANCES: Mapping[TaskType, float] = MappingProxyType(
    {"classification": 1e-3, "detection": 0.02, "segmentation": 0.02}
)
"""Largest `difference` that counts as the same prediction: batching alone changes the last bits, and with them a pixel or a faint box."""


class Detected(NamedTuple):
    """A predicted box, in pixels of the image file: origin top left."""

    target: int
    """Position in the targets of the scheme."""
    x: float
    y: float
    width: float
    height: float
    score: float
    """From 0 to 1."""


class Mask(NamedTuple):
    """A predicted mask of the size of its image file."""

    height: int
    width: int
    counts: tuple[int, ...]
    """Run lengths column by column, starting with the count of zeros; they sum to height x width."""


Probabilities = tuple[float, ...]
Detections = tuple[Detected, ...]
Prediction = Probabilities | Detections | Mask


def max_submission_bytes(scheme: Scheme, n_cases: int) -> int:
    """Return the size that a valid predictions file of so many cases cannot exceed, and no file may."""
    match scheme.task_type:
        case "classification":
            needed = (n_cases + 2) * line_cap(len(scheme.classes))
        case "detection":
            needed = 1024 + n_cases * MAX_DETECTIONS * _DETECTION_BYTES
        case "segmentation":
            needed = min(MAX_MASK_BYTES, 1024 + n_cases * (_DETECTION_BYTES + MAX_RUNS * _RUN_BYTES))
    return min(MAX_BYTES, needed)


def line_cap(n_classes: int) -> int:
    """Return the bytes that a line of a classification file may have."""
    return _ID_BYTES + _NUMBER_BYTES * n_classes + 2


def predictions_bytes(rows: Mapping[str, Prediction], scheme: Scheme) -> bytes:
    """Write predictions as a file; what `read_predictions` returned comes back exactly."""
    match scheme.task_type:
        case "classification":
            return probabilities_csv(cast("Mapping[str, Probabilities]", rows), scheme.classes)
        case "detection":
            found = [
                {
                    "image_id": case_id,
                    "category_id": box.target + 1,
                    "bbox": [box.x, box.y, box.width, box.height],
                    "score": box.score,
                }
                for case_id, boxes in cast("Mapping[str, Detections]", rows).items()
                for box in boxes
            ]
        case "segmentation":
            found = [
                {"image_id": case_id, "size": [mask.height, mask.width], "counts": list(mask.counts)}
                for case_id, mask in cast("Mapping[str, Mask]", rows).items()
            ]
    return (
        "[" + ",\n".join(json.dumps(item, separators=(",", ":"), allow_nan=False) for item in found) + "]\n"
    ).encode()


def probabilities_csv(rows: Mapping[str, Sequence[float]], classes: Sequence[str]) -> bytes:
    """Write probabilities as a classification file."""
    lines = [",".join(["case_id", *(f"p_{name}" for name in classes)])]
    lines += [",".join([case_id, *(repr(float(value)) for value in row)]) for case_id, row in rows.items()]
    return ("\n".join(lines) + "\n").encode()


def difference(scheme: Scheme, one: Prediction, other: Prediction) -> float:
    """Return how far two predictions of the same image are apart: 0 = the same, 1 = nothing in common.

    classification: the largest difference of a probability. detection: each box is matched to the nearest of its target in the other
    list; the largest of what its score differs by, of its score times 1 - IoU, or of its score where it has no match. segmentation: pixels
    that differ over pixels of the union, which counts for at least a thousandth of the image.
    """
    match scheme.task_type:
        case "classification":
            pairs = zip(cast("Probabilities", one), cast("Probabilities", other), strict=True)
            return max((abs(a - b) for a, b in pairs), default=0.0)
        case "detection":
            return max(_apart(cast("Detections", one), cast("Detections", other)), default=0.0)
        case "segmentation":
            return _masks_apart(cast("Mask", one), cast("Mask", other))


def _apart(one: Detections, other: Detections) -> list[float]:
    """Return how far each box is from its match, boxes without a match included."""
    left = sorted(other, key=lambda box: -box.score)
    found: list[float] = []
    for box in sorted(one, key=lambda box: -box.score):
        overlaps = [(shared_part(box, mate), -place) for place, mate in enumerate(left) if mate.target == box.target]
        overlap, place = max(overlaps, default=(0.0, 0))
        if overlap < 0.5:
            found.append(box.score)
            continue
        mate = left.pop(-place)
        found.append(max(abs(box.score - mate.score), max(box.score, mate.score) * (1 - overlap)))
    return found + [box.score for box in left]


def shared_part(one: Detected | TruthBox, other: Detected | TruthBox) -> float:
    """Return the intersection over union of two boxes; of boxes without area 1 where they are the same."""
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    shared = max(0.0, width) * max(0.0, height)
    union = one.width * one.height + other.width * other.height - shared
    return shared / union if union > 0 else float(one[1:5] == other[1:5])


def _masks_apart(one: Mask, other: Mask) -> float:
    if (one.height, one.width) != (other.height, other.width):
        return 1.0
    differing = union = 0
    runs, mates = iter(one.counts), iter(other.counts)
    left, right, in_one, in_other = next(runs, 0), next(mates, 0), False, False
    size = done = one.height * one.width
    while done > 0:
        while left == 0:
            left, in_one = next(runs, done), not in_one
        while right == 0:
            right, in_other = next(mates, done), not in_other
        step = min(left, right)
        differing += step * (in_one != in_other)
        union += step * (in_one or in_other)
        left, right, done = left - step, right - step, done - step
    return min(1.0, differing / max(union, size / 1000)) if size else 0.0
