"""Boxes and masks of stored cases in the files that show them: COCO JSON and cases.csv for sandboxes, the truth for scoring. Light."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from clinloop.datasets.table import CaseRow, csv_text

VIEW_COLUMNS: Final = ("case_id", "split", "group", "label", "supervision")
"""Columns in front of the attributes in the cases.csv that a run sees."""


def view_text(cases: Iterable[CaseRow], attributes: Sequence[str]) -> str:
    """Return the cases.csv that a run sees: of validation cases neither label nor supervision."""
    rows = (
        [
            case.case_id,
            case.split,
            case.group,
            *((case.label, case.supervision) if case.split == "train" else ("", "")),
            *(case.attributes.get(name, "") for name in attributes),
        ]
        for case in cases
    )
    return csv_text([*VIEW_COLUMNS, *attributes], rows)


def boxes_json(cases: Iterable[CaseRow], targets: Sequence[str]) -> str:
    """Return the boxes of the training cases that have them, as COCO JSON.

    `images[].id` is the case id; `annotations[].category_id` the target index + 1, `bbox` [x, y, width, height] in pixels of the stored
    image, origin top left. An image without annotation was looked at and shows nothing. Source of the format: cocodataset.org, "data format".
    """
    shown = [case for case in cases if case.split == "train" and case.boxes is not None]
    annotations: list[dict[str, object]] = []
    for case in shown:
        for box in case.boxes or ():
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": case.case_id,
                    "category_id": targets.index(box.target) + 1,
                    "bbox": [box.x, box.y, box.width, box.height],
                    "area": round(box.width * box.height, 2),
                    "iscrowd": 0,
                }
            )
    images = [
        {"id": case.case_id, "file_name": case.image.name, "width": case.width, "height": case.height} for case in shown
    ]
    categories = [{"id": at, "name": name} for at, name in enumerate(targets, start=1)]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


def boxes_cell(case: CaseRow, targets: Sequence[str]) -> str:
    """Return a case's boxes as the JSON list of [target index, x, y, width, height] that scoring reads; "" without boxes."""
    if case.boxes is None:
        return ""
    return json.dumps([[targets.index(box.target), *box[1:]] for box in case.boxes], separators=(",", ":"))


def mask_cell(mask: Path | None) -> str:
    """Return a stored mask as the run lengths that scoring reads, "" without a mask: column-major, beginning with zeros, as in COCO."""
    if mask is None:
        return ""
    import numpy as np
    from PIL import Image

    with Image.open(mask) as image:
        width, height = image.size
        extent = image.getbbox()
        if extent is None:
            return str(width * height)
        left, right = extent[0], extent[2]
        columns = np.asarray(image.crop((left, 0, right, height))).T.ravel() != 0  # few columns hold all there is
    edges = np.flatnonzero(columns[1:] != columns[:-1]) + 1
    lengths = np.diff(np.concatenate(([0], edges, [columns.size]))).tolist()
    lengths = [0, *lengths] if columns[0] else lengths  # the first run counts zeros
    lengths[0] += left * height
    beyond = (width - right) * height
    if beyond and len(lengths) % 2 == 0:
        lengths.append(beyond)
    else:
        lengths[-1] += beyond
    return " ".join(map(str, lengths))


def truth_text(cases: Sequence[CaseRow], targets: Sequence[str], attributes: Sequence[str] = ()) -> str:
    """Return the truth of some cases as scoring reads it: case_id,group,label, then size, boxes and masks where there are any, then attributes."""
    has_boxes = any(case.boxes is not None for case in cases)
    has_masks = any(case.mask is not None for case in cases)
    header = ["case_id", "group", "label"]
    header += ["width", "height"] if has_boxes or has_masks else []
    header += ["boxes"] if has_boxes else []
    header += ["mask"] if has_masks else []
    rows = (
        [
            case.case_id,
            case.group,
            case.label,
            *((str(case.width), str(case.height)) if has_boxes or has_masks else ()),
            *((boxes_cell(case, targets),) if has_boxes else ()),
            *((mask_cell(case.mask),) if has_masks else ()),
            *(case.attributes.get(name, "") for name in attributes),
        ]
        for case in cases
    )
    return csv_text([*header, *(f"attr:{name}" for name in attributes)], rows)
