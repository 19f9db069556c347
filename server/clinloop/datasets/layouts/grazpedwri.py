"""GRAZPEDWRI-DX: wrist radiographs of children, 16-bit PNG, with boxes around fractures and dataset.csv about every image.

Source: https://doi.org/10.6084/m9.figshare.14825193, described in Sci Data 9:222. Traps: a byte order mark; blank flags, which mean 0; an
AO code without a visible fracture and the reverse; YOLO id 3; empty label files, which mean background; several views and studies of a
patient; timehash without its leading zeros; `aug_` copies; images both in images_part1…4 and in folder_structure.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import NamedTuple

from clinloop.datasets.case import Box, Case, Detection, LayoutOptions, LayoutResult
from clinloop.datasets.layouts.boxed import Faults
from clinloop.datasets.layouts.folder import ExcludedTally, Folder, Table, clean_value
from clinloop.datasets.layouts.grazpedwri_boxes import TARGETS, Annotations
from clinloop.datasets.layouts.public import (
    by_stem,
    chosen_attributes,
    column_values,
    find_tables,
    group_choice,
    image_size,
    refuse_columns,
    refuse_repeated_rows,
    years,
)
from clinloop.errors import BadInput

DEFAULT_TARGET = "fracture"
_KEY, _VISIBLE, _CODE = "filestem", "fracture_visible", "ao_classification"
_STEM = re.compile(r"\d{4}_\d{10}_\d{2}_WRI-[LR]\d_[MFO]\d{3}")
_FLAGS = ("initial_exam", "cast", "metal", "osteopenia", "diagnosis_uncertain")
_ATTRIBUTES = {
    "sex": "gender", "age": "age", "laterality": "laterality", "projection": "projection", **{flag: flag for flag in _FLAGS},
    "device": "device_manufacturer", "pixel_spacing": "pixel_spacing",
}  # fmt: skip
"""Attribute to column. The AO code is none: it is the diagnosis."""
_PROJECTIONS = {"1": "frontal", "2": "lateral", "3": "other"}


class Grazpedwri:
    """The layout `grazpedwri`."""

    name = "grazpedwri"
    looks_for = "dataset.csv (columns filestem, patient_id and fracture_visible), its PNG images and folder_structure/ with the boxes"

    def detect(self, folder: Folder, options: LayoutOptions) -> Detection:
        """Look for dataset.csv and one of its images."""
        name = _table_name(folder)
        if name is None:
            return Detection(0.0, "there is no CSV with the columns filestem, patient_id and fracture_visible")
        base = PurePosixPath(name).name
        if not folder.images:
            return Detection(0.0, f"there is a {base}, but no image")
        return Detection(1.0, f"found {base} with filestem and fracture_visible, and {len(folder.images)} images")

    def read(self, folder: Folder, options: LayoutOptions) -> LayoutResult:
        """Return the cases; `label_column` may name another target than fracture, `group_by` "study" or "none" instead of the patient.

        The image-level label says whether the target has a box; an image without annotation file keeps that of fracture_visible.
        """
        if (found := self.detect(folder, options)).score == 0:
            raise BadInput(f"This is not the layout grazpedwri: {found.reason}.")
        refuse_columns(self.name, options, label=False)
        group = group_choice(self.name, options, ["patient", "study"])
        target = _target(options.label_column)
        name = _table_name(folder)
        assert name is not None
        table, faults, tally, notes = folder.table(name), Faults(), ExcludedTally(), list[str]()
        base = PurePosixPath(name).name
        known = [key for key, column in _ATTRIBUTES.items() if table.column(column) is not None]
        attributes = chosen_attributes(self.name, options, known, [key for key in known if key != target])
        rows = _rows(table, base, attributes, faults, notes)
        images = by_stem(folder.images, lambda path: "folder_structure" in path)
        annotations = Annotations(folder, rows.keys(), faults)
        cases: list[Case] = []
        differences = _Differences()
        for stem, source in sorted(images.sources.items()):
            if (row := rows.get(stem)) is None:
                tally.add(_why_unknown(stem, rows), stem)
                continue
            size = image_size(folder, source)  # None: its decoder says later why it cannot be read
            drawn = annotations.of(stem, size) if size else None
            boxes = None if drawn is None else tuple(box for box in drawn if box.target == target)
            if (is_there := _label(boxes, row, target)) is None:
                tally.add(f"an image without annotation file: whether it shows {target} is not known", stem)
                continue
            if target == DEFAULT_TARGET:
                differences.count(boxes, row)
            raw = {"patient": row.patient, "study": row.study}.get(group)
            cases.append(Case(source, f"{'' if is_there else 'no '}{target}", raw, None, row.values, boxes=boxes))
        faults.refuse()
        for stem in sorted(rows.keys() - images.sources.keys()):
            tally.add("a row without an image file", stem)
        n_boxed = sum(case.boxes is not None for case in cases)
        if images.n_copies:
            notes.append(
                f"{images.n_copies} image file(s) with the name of another one were left aside (a copy in folder_structure)."
            )
        return LayoutResult(
            cases=cases,
            classes=[f"no {target}", target],
            group_kind=group,
            attributes=attributes,
            excluded=tally.result(),
            problems=[],
            notes=[*notes, *_box_notes(annotations, target, n_boxed, len(cases)), *differences.notes()],
            task_type="detection" if n_boxed else "classification",
            targets=[target],
        )


class _Row(NamedTuple):
    """What dataset.csv says of an image."""

    patient: str | None
    study: str | None
    is_visible: bool
    has_code: bool
    values: dict[str, str]


class _Differences:
    """Counts where boxes, the column fracture_visible and the AO code tell different things."""

    def __init__(self) -> None:
        self.boxes_only = self.flag_only = self.code_only = self.code_missing = 0

    def count(self, boxes: tuple[Box, ...] | None, row: _Row) -> None:
        """Count one image."""
        is_there = bool(boxes) if boxes is not None else row.is_visible
        self.boxes_only += boxes is not None and bool(boxes) and not row.is_visible
        self.flag_only += boxes is not None and not boxes and row.is_visible
        self.code_only += row.has_code and not is_there
        self.code_missing += is_there and not row.has_code

    def notes(self) -> list[str]:
        """Return what differs, in words."""
        notes: list[str] = []
        if self.boxes_only or self.flag_only:
            notes.append(
                f"Boxes and fracture_visible disagree in {self.boxes_only + self.flag_only} image(s): {self.boxes_only} with boxes only, "
                f"{self.flag_only} with the flag only; the boxes count."
            )
        if self.code_only or self.code_missing:
            notes.append(
                f"The AO code is not used: {self.code_only} image(s) have one and show no fracture, {self.code_missing} show one and have none."
            )
        return notes


def _table_name(folder: Folder) -> str | None:
    return next(iter(find_tables(folder, (_KEY, "patient_id", _VISIBLE))), None)


def _target(wanted: str | None) -> str:
    """Return the target that is the label.

    Raises:
        BadInput: there is no such target.
    """
    target = (wanted or DEFAULT_TARGET).strip().casefold()
    if target == _VISIBLE:
        return DEFAULT_TARGET
    if target not in TARGETS:
        raise BadInput(
            f"The layout grazpedwri has no target {wanted!r}; name one of {', '.join(TARGETS)} as the label column."
        )
    return target


def _rows(table: Table, base: str, attributes: list[str], faults: Faults, notes: list[str]) -> dict[str, _Row]:
    """Return the rows by filestem.

    Raises:
        BadInput: a filestem has two rows.
    """
    stems = [cell.removesuffix(".png") for cell in column_values(table, _KEY)]
    refuse_repeated_rows(stems, base)
    position = {title: i for title in (*_ATTRIBUTES.values(), "patient_id", "study_number", _VISIBLE, _CODE)
                if (i := table.column(title)) is not None}  # fmt: skip
    rows: dict[str, _Row] = {}
    other_patient = 0
    for number, (stem, cells) in enumerate(zip(stems, table.rows, strict=True), start=1):
        cell = {title: clean_value(cells[i]) for title, i in position.items()}
        patient, study, place = (
            cell["patient_id"].removesuffix(".0") or None,
            cell.get("study_number", ""),
            f"{base}, data row {number}",
        )
        other_patient += patient is not None and _STEM.fullmatch(stem) is not None and stem[:4] != patient.zfill(4)
        values = {key: _value(key, cell[_ATTRIBUTES[key]], place, faults) for key in attributes}
        is_visible = _flag(cell[_VISIBLE], place, faults) == "1"
        rows[stem] = _Row(
            patient, f"{patient}/{study}" if patient and study else patient, is_visible, bool(cell.get(_CODE)), values
        )
    if other_patient:
        notes.append(
            f"{other_patient} image(s) carry another patient number in their name than in {base}; the table counts."
        )
    return rows


def _value(key: str, cell: str, place: str, faults: Faults) -> str:
    if key in _FLAGS:
        return _flag(cell, place, faults)
    if key == "projection":
        return _PROJECTIONS.get(cell.removesuffix(".0"), cell)
    return years(cell) if key == "age" else cell


def _flag(cell: str, place: str, faults: Faults) -> str:
    """Return "1" or "0"; blank means 0."""
    text = cell.removesuffix(".0")
    if text not in {"", "0", "1"}:
        faults.add("a flag other than 1, 0 and blank", place)
    return "1" if text == "1" else "0"


def _label(boxes: tuple[Box, ...] | None, row: _Row, target: str) -> bool | None:
    """Tell whether the image shows the target, None if nothing says so."""
    if boxes is not None:
        return bool(boxes)
    return row.is_visible if target == DEFAULT_TARGET else None


def _why_unknown(stem: str, rows: dict[str, _Row]) -> str:
    original = _STEM.search(stem)
    if original is not None and original[0] != stem and original[0] in rows:
        return "an augmented copy of an image"
    return "an image without a row in dataset.csv"


def _box_notes(annotations: Annotations, target: str, n_boxed: int, n_cases: int) -> list[str]:
    """Return what was taken from which annotation files."""
    if not annotations.exist:
        return ["There are no annotation files: labels come from fracture_visible, and there are no boxes."]
    formats = ", ".join(f"{kind} for {count:,} image(s)" for kind, count in annotations.used.items())
    notes = [f"Boxes are those of {target}, from the annotation files ({formats}); an empty file means background."]
    if others := [name for name in annotations.seen if name != target]:
        notes.append(f"Boxes of other targets are left out: {', '.join(sorted(others))}.")
    if n_boxed < n_cases:
        notes.append(
            f"{n_cases - n_boxed:,} image(s) have no annotation file and keep their image label from fracture_visible alone."
        )
    return notes
