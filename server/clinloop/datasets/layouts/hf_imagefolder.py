"""Hugging Face imagefolder: images beside a metadata.csv or metadata.jsonl with `file_name`, and labels, boxes or anything else beside it.

Source: https://huggingface.co/docs/datasets/image_dataset. Paths count from the folder of the metadata file; there may be one in each split.
`objects` holds boxes as {"bbox": [[x, y, width, height], …], "categories": […]} in pixels. Traps that datasets have: no label column because
the folders are the classes; `category`, `categories` or `label`; a list of objects in place of an object of lists; objects as JSON text in a CSV.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from clinloop.datasets.case import Box, Case, Detection, LayoutOptions, LayoutResult, Split
from clinloop.datasets.layouts.boxed import BoxedImages, detection_result
from clinloop.datasets.layouts.columns import LABEL_NAMES, SPLIT_COLUMNS, ImageFinder
from clinloop.datasets.layouts.documents import as_text, split_in_folders
from clinloop.datasets.layouts.faults import Faults, refuse_each
from clinloop.datasets.layouts.folder import (
    SPLIT_NAMES,
    ExcludedTally,
    Folder,
    clean_class,
    clean_value,
    duplicates,
    listed,
    natural_key,
)
from clinloop.datasets.layouts.sidecar import Rows, describe
from clinloop.errors import BadInput

_NAMES = ("metadata.csv", "metadata.jsonl")
_FILE_KEYS = ("file_name", "image_file_name")
_CATEGORIES = ("categories", "category", "labels", "label", "category_id", "name")
_MAX_CLASSES = 1000


class _Row(NamedTuple):
    place: str
    file: str
    values: dict[str, Any]
    """JSON values, or texts of a CSV."""


class HfImagefolder:
    """The layout `hf_imagefolder`."""

    name = "hf_imagefolder"
    looks_for = "metadata.csv or metadata.jsonl with a column file_name, and a column label (or class folders), or objects with boxes"

    def detect(self, folder: Folder, options: LayoutOptions) -> Detection:
        """Look for metadata files that name images and tell labels or boxes."""
        names = _metadata_files(folder)
        if not names:
            return Detection(0.0, "there is no metadata.csv or metadata.jsonl")
        try:
            rows = list(_rows(folder, names[0], limit=200))
        except BadInput as refusal:
            return Detection(0.9, str(refusal).rstrip("."))
        finder = ImageFinder(folder.images)
        hits = sum(_source(row, finder) is not None for row in rows)
        if not hits or hits * 2 < len(rows):
            return Detection(0.0, f"{hits} of the first {len(rows)} rows of {names[0]} name an image by file_name")
        if any("objects" in row.values for row in rows):
            return Detection(0.9, f"{listed(names)} with file_name and objects")
        label = _label_key(rows, options)
        if label is None and len({_class_folder(row, finder) for row in rows} - {""}) < 2:
            return Detection(
                0.0, f"{names[0]} has no column named like a label, and its images are not in folders of classes"
            )
        return Detection(
            0.9, f"{listed(names)} with file_name and {f'labels in {label!r}' if label else 'class folders'}"
        )

    def read(self, folder: Folder, options: LayoutOptions) -> LayoutResult:
        """Return the cases; columns of the metadata give labels (or the class folders do), groups, attributes and splits.

        A split comes from the folders above an image (train/, validation/, test/), else from a column `split`.
        """
        if (found := self.detect(folder, options)).score == 0:
            raise BadInput(f"This is not the layout hf_imagefolder: {found.reason}; it needs {self.looks_for}.")
        rows = [row for name in _metadata_files(folder) for row in _rows(folder, name)]
        finder, tally = ImageFinder(folder.images), ExcludedTally()
        sources = [_source(row, finder) for row in rows]
        placed = [(source, row) for source, row in zip(sources, rows, strict=True) if source is not None]
        for row in (row for source, row in zip(sources, rows, strict=True) if source is None):
            tally.add("a row without an image file", row.place, split_in_folders(row.place))
        for source in sorted(set(folder.images) - finder.used):
            tally.add("an image file without a row", source, split_in_folders(source))
        has_boxes = any("objects" in row.values for _, row in placed)
        return (_detection if has_boxes else _classification)(folder, options, placed, tally)


def _metadata_files(folder: Folder) -> list[str]:
    files = [*folder.files(".csv"), *folder.files(".jsonl")]
    return sorted(name for name in files if PurePosixPath(name).name.casefold() in _NAMES)


def _rows(folder: Folder, name: str, limit: int | None = None) -> Iterable[_Row]:
    """Yield the rows of a metadata file that have a file_name.

    Raises:
        BadInput: a line is not a JSON object, or no row has a file_name.
    """
    if name.endswith(".csv"):
        table = folder.table(name, max_rows=limit)
        found = [
            (f"{name}, row {i}", dict(zip(table.header, row, strict=True))) for i, row in enumerate(table.rows, start=1)
        ]
    else:
        lines = [(i, line) for i, line in enumerate(folder.text(name).splitlines(), start=1) if line.strip()]
        found = [(f"{name}, line {i}", _object(line, f"{name}, line {i}")) for i, line in lines[:limit]]
    keys = {key for _, values in found for key in _FILE_KEYS if key in values}
    if found and not keys:
        raise BadInput(f"{name} has no column file_name, as an imagefolder needs; add it.")
    for place, values in found:
        yield _Row(place, next((as_text(values[key]) for key in _FILE_KEYS if key in values), ""), values)


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadInput(f"{place} is not a JSON object; export it again.")
    return value


def _source(row: _Row, finder: ImageFinder) -> str | None:
    return finder.find(row.file, row.place.rpartition(", ")[0]) if row.file else None


def _label_key(rows: Iterable[_Row], options: LayoutOptions) -> str | None:
    """Return the column of the labels: the one asked for, else the first named like a label.

    Raises:
        BadInput: there is no column of the name asked for.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row.values))
    wanted = (options.label_column,) if options.label_column else LABEL_NAMES
    found = next((key for name in wanted for key in keys if key.casefold() == name.casefold()), None)
    if found is None and options.label_column:
        raise BadInput(f"The metadata has no column {options.label_column!r}; it has {listed(keys, 30)}.")
    return found


def _class_folder(row: _Row, finder: ImageFinder) -> str:
    source = _source(row, finder)
    parent = PurePosixPath(source or "").parent.name
    return "" if parent.casefold() in SPLIT_NAMES else parent


def _split(source: str, row: _Row) -> Split | None:
    column = next((key for name in SPLIT_COLUMNS for key in row.values if key.casefold() == name), None)
    return split_in_folders(source) or (SPLIT_NAMES.get(as_text(row.values[column]).casefold()) if column else None)


def _own(placed: Iterable[tuple[str, _Row]], left: set[str | None]) -> Rows:
    """Return the further columns of every image."""
    left |= {*_FILE_KEYS, "objects", *(name for name in SPLIT_COLUMNS)}
    return {
        source: {
            key: as_text(value)
            for key, value in row.values.items()
            if key not in left and not isinstance(value, list | dict)
        }
        for source, row in placed
    }


def _classification(
    folder: Folder, options: LayoutOptions, placed: list[tuple[str, _Row]], tally: ExcludedTally
) -> LayoutResult:
    key = _label_key([row for _, row in placed], options)
    cases: list[Case] = []
    for source, row in placed:
        raw = as_text(row.values.get(key)) if key else PurePosixPath(source).parent.name
        if label := clean_class(clean_value(raw)):
            cases.append(Case(source, label, None, _split(source, row)))
        else:
            tally.add("a row without a label", row.place, split_in_folders(source))
    problems: list[str] = []
    refuse_each(duplicates(case.source for case in cases), "an image with several rows (keep one)")
    classes = sorted({case.label for case in cases}, key=natural_key)
    if not 2 <= len(classes) <= _MAX_CLASSES:
        problems.append(
            f"The metadata tells {len(classes)} class(es); 2 to {_MAX_CLASSES} are valid. Name the column of the labels."
        )
    known = describe(folder, [case.source for case in cases], options, _own(placed, {key}), use_tables=False)
    return LayoutResult(
        cases=[
            Case(case.source, case.label, known.groups[case.source], case.split, known.values[case.source])
            for case in cases
        ],
        classes=classes,
        group_kind=known.group_kind,
        attributes=known.attributes,
        excluded=tally.result(),
        problems=problems,
        notes=known.notes
        if key
        else ["The metadata has no labels; the folders of the images are the classes.", *known.notes],
    )


def _detection(
    folder: Folder, options: LayoutOptions, placed: list[tuple[str, _Row]], tally: ExcludedTally
) -> LayoutResult:
    faults, cases = Faults(), list[Case]()
    for source, row in placed:
        boxes = _boxes(row, faults)
        if boxes is None:
            tally.add("a row without objects", row.place, split_in_folders(source))
        else:
            cases.append(Case(source, "", None, _split(source, row), boxes=tuple(boxes)))
    faults.refuse()
    targets = sorted({box.target for case in cases for box in case.boxes or ()}, key=natural_key)
    notes = ["Boxes are taken as [x, y, width, height] in pixels."]
    if all(target.startswith("class ") for target in targets):
        notes.append("The metadata has numbers for the classes; they are called by their number.")
    return detection_result(
        folder, options, BoxedImages(cases, targets, tally, notes, _own(placed, set()), use_tables=False)
    )


def _boxes(row: _Row, faults: Faults) -> list[Box] | None:
    """Return the boxes of a row; None where it says nothing."""
    objects = row.values.get("objects")
    if isinstance(objects, str):
        if not objects.strip():
            return None
        try:
            objects = json.loads(objects)
        except (ValueError, RecursionError):
            objects = 0
    if objects is None:
        return None
    pairs = _pairs(objects)
    if pairs is None:
        faults.add("objects without a list of bbox and one of categories of the same length", row.place)
        return []
    boxes: list[Box] = []
    for box, category in pairs:
        numbers = (
            isinstance(box, list)
            and len(box) == 4
            and all(
                isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in box
            )
        )
        target = f"class {category}" if isinstance(category, int) else as_text(category)
        if not numbers or not target:
            faults.add("an object that is not four numbers [x, y, width, height] and a category", row.place)
        else:
            boxes.append(Box(target, *(float(value) for value in box)))
    return boxes


def _pairs(objects: object) -> list[tuple[Any, Any]] | None:
    """Return (bbox, category) of an object of lists or of a list of objects."""
    if isinstance(objects, list):
        if not all(isinstance(item, dict) for item in objects):
            return None
        return [(item.get("bbox"), next((item[key] for key in _CATEGORIES if key in item), None)) for item in objects]
    if not isinstance(objects, dict):
        return None
    boxes = objects.get("bbox", objects.get("bboxes"))
    categories = next((objects[key] for key in _CATEGORIES if isinstance(objects.get(key), list)), None)
    if not isinstance(boxes, list) or not isinstance(categories, list) or len(boxes) != len(categories):
        return None
    return list(zip(boxes, categories, strict=True))
