"""Predictions as files: probabilities as CSV, boxes as COCO results, masks as run lengths. Checked before they are written."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MAX_DETECTIONS = 100
"""Boxes that a prediction of one image may have, as in COCO; keep those with the highest scores."""
Detection = Sequence[float]
"""(target, x, y, width, height, score): a predicted box, as Box, and its score from 0 to 1."""


def write_predictions(
    path: Path, case_ids: Sequence[str], classes: Sequence[str], probabilities: Sequence[Sequence[float]]
) -> None:
    """Write class probabilities, (N, n_classes), as the CSV that the server scores; all or nothing.

    Raises:
        ValueError: the shape is wrong, a number is not finite or a row does not sum to 1.
    """
    write_whole(path, rows_text(classes, checked(case_ids, classes, probabilities)))


def write_detections(path: Path, case_ids: Sequence[str], detections: Sequence[Sequence[Detection]]) -> None:
    """Write the predicted boxes of each case as the JSON that the server scores (COCO results); all or nothing.

    Raises:
        ValueError: a case has more than MAX_DETECTIONS boxes, a number is not finite, a box has no size or a score is not in [0, 1].
    """
    write_whole(path, detections_text(case_ids, detections))


def write_masks(path: Path, case_ids: Sequence[str], masks: Sequence[np.ndarray[Any, Any]]) -> None:
    """Write the predicted mask of each case, bool (height, width) of the image file's size, as the JSON that the server scores.

    A mask is stored as run lengths down the columns, the first a run of zeros (COCO's uncompressed RLE).

    Raises:
        ValueError: a mask is not two-dimensional, or there is not one for each case.
    """
    write_whole(path, masks_text(case_ids, masks))


def checked(
    case_ids: Sequence[str], classes: Sequence[str], probabilities: Sequence[Sequence[float]]
) -> list[tuple[str, list[float]]]:
    """Return class probabilities (N, n_classes) by case; raises ValueError when they cannot be probabilities."""
    if len(case_ids) != len(probabilities):
        raise ValueError(f"{len(case_ids)} case ids but {len(probabilities)} rows of probabilities")
    rows: list[tuple[str, list[float]]] = []
    for case_id, row in zip(case_ids, probabilities, strict=True):
        numbers = [float(p) for p in row]
        if len(numbers) != len(classes):
            raise ValueError(
                f"case {case_id}: {len(numbers)} probabilities for the {len(classes)} classes {', '.join(classes)}"
            )
        if not all(math.isfinite(p) and 0 <= p <= 1 + 1e-6 for p in numbers):
            raise ValueError(f"case {case_id}: probabilities must be finite and in [0, 1], not {numbers}")
        if abs(sum(numbers) - 1) > 1e-3:
            raise ValueError(f"case {case_id}: probabilities sum to {sum(numbers):.4f}, not to 1")
        rows.append((case_id, [min(p, 1.0) for p in numbers]))
    return rows


def rows_text(classes: Sequence[str], rows: list[tuple[str, list[float]]]) -> str:
    """Return class probabilities as CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("case_id", *(f"p_{name}" for name in classes)))
    writer.writerows((case_id, *(f"{p:.6g}" for p in numbers)) for case_id, numbers in rows)
    return text.getvalue()


def detections_text(case_ids: Sequence[str], detections: Sequence[Sequence[Detection]]) -> str:
    """Return predicted boxes as COCO results; raises ValueError as `write_detections`."""
    if len(case_ids) != len(detections):
        raise ValueError(f"{len(case_ids)} case ids but boxes of {len(detections)} cases")
    found: list[dict[str, Any]] = []
    for case_id, boxes in zip(case_ids, detections, strict=True):
        if len(boxes) > MAX_DETECTIONS:
            raise ValueError(f"case {case_id}: {len(boxes)} boxes; keep the {MAX_DETECTIONS} with the highest scores")
        for box in boxes:
            target, x, y, width, height, score = (float(value) for value in box)
            if not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0 or not 0 <= score <= 1:
                raise ValueError(
                    f"case {case_id}: no box (target, x, y, width > 0, height > 0, score in [0, 1]): {box}"
                )
            found.append(
                {
                    "image_id": case_id,
                    "category_id": int(target) + 1,
                    "bbox": [round(value, 2) for value in (x, y, max(width, 0.01), max(height, 0.01))],
                    "score": float(f"{score:.6g}"),
                }
            )
    return json.dumps(found, separators=(",", ":"))


def masks_text(case_ids: Sequence[str], masks: Sequence[np.ndarray[Any, Any]]) -> str:
    """Return masks as run lengths; raises ValueError as `write_masks`."""
    import numpy as np

    if len(case_ids) != len(masks):
        raise ValueError(f"{len(case_ids)} case ids but {len(masks)} masks")
    found: list[dict[str, Any]] = []
    for case_id, mask in zip(case_ids, masks, strict=True):
        if np.ndim(mask) != 2:
            raise ValueError(f"case {case_id}: a mask is (height, width), this one has shape {np.shape(mask)}")
        flat = np.concatenate([[False], np.asarray(mask, dtype=bool).ravel(order="F")])
        edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]), [flat.size - 1]])
        found.append({"image_id": case_id, "size": list(np.shape(mask)), "counts": np.diff(edges).tolist()})
    return json.dumps(found, separators=(",", ":"))


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
