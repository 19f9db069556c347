"""A layout of boxes and masks for tests: annotations.json beside the pictures, with every field of a case."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clinloop.datasets.case import Box, Case, Detection, LayoutOptions, LayoutResult, MaskFile, MaskRuns
from clinloop.datasets.layouts.folder import Folder

from .conftest import Picture

WIDTH, HEIGHT = 60, 45


class Annotated:
    """Reads a list of {source, label, group, split, boxes, mask_file, mask_values, mask_runs, attributes}."""

    name = "annotated"
    looks_for = "annotations.json"

    def detect(self, folder: Folder, options: LayoutOptions) -> Detection:
        found = (folder.root / "annotations.json").exists()
        return Detection(1.0 if found else 0.0, "annotations.json" if found else "no annotations.json")

    def read(self, folder: Folder, options: LayoutOptions) -> LayoutResult:
        given = json.loads((folder.root / "annotations.json").read_text(encoding="utf-8"))
        return LayoutResult(
            cases=[_case(row) for row in given["cases"]],
            classes=given["classes"],
            group_kind=given["group_kind"],
            attributes=given.get("attributes", []),
            excluded=[],
            problems=[],
            notes=[],
            task_type=given["task_type"],
            targets=given["targets"],
        )


def _case(row: Mapping[str, Any]) -> Case:
    mask: MaskFile | MaskRuns | None = None
    if "mask_file" in row:
        mask = MaskFile(row["mask_file"], tuple(row.get("mask_values", ())))
    if "mask_runs" in row:
        mask = MaskRuns(tuple((start, length) for start, length in row["mask_runs"]))
    return Case(
        row["source"],
        row["label"],
        group=row.get("group"),
        split=row.get("split"),
        attributes=row.get("attributes", {}),
        boxes=tuple(Box(*box) for box in row["boxes"]) if row.get("boxes") is not None else None,
        mask=mask,
    )


def write(
    root: Path,
    cases: Sequence[Mapping[str, Any]],
    *,
    task_type: str,
    targets: Sequence[str] = ("fracture",),
    classes: Sequence[str] = ("no fracture", "fracture"),
    group_kind: str = "patient",
    attributes: Sequence[str] = (),
) -> Path:
    """Write annotations.json into a folder that has the pictures."""
    content = {
        "cases": cases,
        "classes": classes,
        "group_kind": group_kind,
        "task_type": task_type,
        "targets": targets,
        "attributes": attributes,
    }
    (root / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def write_wrists(root: Path, picture: Picture, n: int = 40, **changes: Any) -> Path:
    """Write n pictures of n/2 patients: the odd ones have a box that tells their number, the even ones none."""
    root.mkdir()
    cases: list[dict[str, Any]] = []
    for i in range(n):
        picture(i, (WIDTH, HEIGHT)).save(root / f"w{i}.png")
        boxes = [["fracture", i % 20, 5, 10, 20]] if i % 2 else []
        case = {"source": f"w{i}.png", "label": "fracture" if i % 2 else "no fracture", "boxes": boxes}
        cases.append(case | {"group": f"patient {i // 2}"} | changes)
    return write(root, cases, task_type="detection")


def write_chests(root: Path, picture: Picture, n: int = 40, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """Write n pictures: the odd ones with a mask and a box of their own, the even ones with an empty mask; half of the masks as runs."""
    root.mkdir()
    cases: list[dict[str, Any]] = []
    for i in range(n):
        picture(500 + i, size).save(root / f"c{i}.png")
        mask = np.zeros(size[::-1], dtype=np.uint8)
        if i % 2:
            mask[10:20, i : i + 15] = 255
        case: dict[str, Any] = {"source": f"c{i}.png", "label": "pneumothorax" if i % 2 else "no pneumothorax"}
        if i % 4 < 2:
            Image.fromarray(mask).save(root / f"c{i}_mask.png")
            case["mask_file"] = f"c{i}_mask.png"
        else:
            flat = np.flatnonzero(mask.T.ravel())
            case["mask_runs"] = [[int(start), 1] for start in flat]
        case["boxes"] = [["pneumothorax", i + 0.25, 10, 15, 10]] if i % 2 else []
        cases.append(case)
    return write(
        root,
        cases,
        task_type="segmentation",
        targets=["pneumothorax"],
        classes=["no pneumothorax", "pneumothorax"],
        group_kind="image",
    )
