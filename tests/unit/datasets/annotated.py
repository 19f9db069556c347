"""A layout of boxes and masks for tests: annotations.json beside the pictures, with every field of a case."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clinloop.datasets.case import Box, Case, Detection, LayoutOptions, LayoutResult, MaskFile, MaskRuns
from clinloop.datasets.layouts.folder import Folder


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
