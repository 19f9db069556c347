"""DICOM tree: .dcm files in whatever folders, labels from a table that names them or from class folders, groups from the headers.

A table names images by SOPInstanceUID, file name, study or patient. Groups are patients; where PatientID is missing or the same everywhere,
studies, and then nobody can tell whether two studies show one patient (grouping RSNA's films by study leaked patients). Header fields that
describe the picture or the patient's sex and age become attributes; no other field is kept.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from clinloop.datasets import dicom
from clinloop.datasets.case import Case, Detection, LayoutOptions, LayoutResult, Split
from clinloop.datasets.layouts.class_folders import ClassFolders
from clinloop.datasets.layouts.columns import LABEL_NAMES, SPLIT_COLUMNS
from clinloop.datasets.layouts.documents import split_in_folders
from clinloop.datasets.layouts.folder import (
    SPLIT_NAMES,
    ExcludedTally,
    Folder,
    clean_class,
    clean_value,
    natural_key,
)
from clinloop.datasets.layouts.sidecar import Joined, Rows, describe, join
from clinloop.errors import BadInput

_ATTRIBUTES = ("PatientSex", "PatientAge", "Modality", "BodyPartExamined", "ViewPosition", "Laterality", "ImageLaterality", "Manufacturer",
               "PhotometricInterpretation", "BitsStored")  # fmt: skip
_KEYS = ("SOPInstanceUID", "StudyInstanceUID", "PatientID")
_SAMPLE = 200
_MAX_CLASSES = 100
_UNLABELLED = 0.82
"""Score of DICOM files without labels: above the layouts that would take their folders for classes, so that the refusal says what is missing."""
_NOT_CLASS = re.compile(
    r"(patient|subject|sub|pat|person|study|series|case|exam|id|mrn|p|s)?[-_ ]*[\d.]+|.*(train|test|val|valid|dicom|dcm|image)s?([^a-z].*)?",
    re.IGNORECASE,
)

_Headers = Mapping[str, Mapping[str, str]]
"""Image to field to value."""


class _Labelled(NamedTuple):
    labels: dict[str, str]
    splits: dict[str, Split | None]
    rows: Rows
    note: str


class DicomTree:
    """The layout `dicom_tree`."""

    name = "dicom_tree"
    looks_for = "DICOM files (.dcm) and a table with a column of their SOPInstanceUIDs, names, studies or patients and a column of labels, or class folders"

    def detect(self, folder: Folder, options: LayoutOptions) -> Detection:
        """Look for DICOM files with a table or class folders, reading some headers only."""
        files = folder.files(".dcm")
        if len(files) * 2 <= len(folder.images) or not files:
            return Detection(0.0, "there are no DICOM files" if not files else "most images are not DICOM files")
        headers = _headers(folder, files[:: max(1, len(files) // _SAMPLE)], ExcludedTally())
        if joined := join(folder, list(headers), options.image_column, _keys(headers)):
            if label := _label_column(joined, options):
                return Detection(0.85, f"{len(files)} DICOM files with labels in column {label!r} of {joined.name}")
            wanted = repr(options.label_column) if options.label_column else "named like a label"
            return Detection(_UNLABELLED, f"{joined.name} names the DICOM files, but has no column {wanted}")
        if _has_class_folders(folder):
            return Detection(0.85, f"{len(files)} DICOM files in class folders")
        return Detection(
            _UNLABELLED, f"there are {len(files)} DICOM files, but no table names them and they are in no class folders"
        )

    def read(self, folder: Folder, options: LayoutOptions) -> LayoutResult:
        """Return the cases; a column of the table that is called like a split, else folders called train, val and test, give splits.

        `group_by` may name a column of the table or StudyInstanceUID.
        """
        tally = ExcludedTally()
        headers = _headers(folder, folder.files(".dcm"), tally)
        joined = join(folder, list(headers), options.image_column, _keys(headers))
        label = _label_column(joined, options) if joined else None
        if joined and label:
            known = _from_table(joined, label)
        elif headers and not options.label_column and _has_class_folders(folder):
            known = _from_folders(folder)
        else:
            raise BadInput(
                f"This is not the layout dicom_tree: {self.detect(folder, options).reason}; it needs {self.looks_for}."
            )
        notes = [known.note]
        sources = [source for source in headers if known.labels.get(source)]
        for source in (source for source in headers if not known.labels.get(source)):
            tally.add("a DICOM file without a label", source, split_in_folders(source))
        for source in sorted(set(folder.images) - set(folder.files(".dcm"))):
            tally.add("an image that is not a DICOM file", source)
        own = _own(headers, known.rows, sources, options, notes)
        group_by = None if (options.group_by or "").casefold() == "studyinstanceuid" else options.group_by
        described = describe(
            folder,
            sources,
            LayoutOptions(group_by, None, None, options.attributes),
            own,
            group="StudyID",
            use_tables=False,
        )
        classes = sorted({known.labels[source] for source in sources}, key=natural_key)
        problems = [] if 2 <= len(classes) <= _MAX_CLASSES else [f"The labels have {len(classes)} value(s); 2 to {_MAX_CLASSES} are valid. Name the column of the labels."]  # fmt: skip
        return LayoutResult(
            cases=[
                Case(
                    source,
                    known.labels[source],
                    described.groups[source],
                    known.splits.get(source),
                    described.values[source],
                )
                for source in sources
            ],
            classes=classes,
            group_kind=described.group_kind,
            attributes=described.attributes,
            excluded=tally.result(),
            problems=problems,
            notes=[*notes, *described.notes],
        )


def _headers(folder: Folder, files: Sequence[str], tally: ExcludedTally) -> dict[str, dict[str, str]]:
    """Return the header of every file that can be read and has pixels."""
    found: dict[str, dict[str, str]] = {}
    for name in files:
        try:
            header = dicom.read_header(folder.root / name)
        except BadInput:
            tally.add("a DICOM file that cannot be read", name, split_in_folders(name))
            continue
        if header["Rows"]:
            found[name] = header
        else:
            tally.add("a DICOM file without pixels", name, split_in_folders(name))
    return found


def _keys(headers: _Headers) -> dict[str, list[str]]:
    """Return the images that a UID or a patient's id means."""
    found: dict[str, list[str]] = {}
    for field in _KEYS:
        of_field: dict[str, list[str]] = {}
        for source, header in headers.items():
            if value := header[field]:
                of_field.setdefault(value, []).append(source)
        found = of_field | found
    return found


def _label_column(joined: Joined, options: LayoutOptions) -> str | None:
    wanted = (options.label_column,) if options.label_column else LABEL_NAMES
    return next(
        (
            title
            for name in wanted
            for title in [*joined.header, *joined.varying]
            if title.casefold() == name.casefold()
        ),
        None,
    )


def _has_class_folders(folder: Folder) -> bool:
    if ClassFolders().detect(folder, LayoutOptions()).score == 0:
        return False
    classes = ClassFolders().read(folder, LayoutOptions()).classes
    return len(classes) * 2 <= min(2 * _MAX_CLASSES, len(folder.images)) and not any(
        _NOT_CLASS.fullmatch(name) for name in classes
    )


def _from_table(joined: Joined, label: str) -> _Labelled:
    if label in joined.varying:
        raise BadInput(f"Rows of {joined.name} for one image differ in {label!r}; keep one label an image.")
    split = next((title for name in SPLIT_COLUMNS for title in joined.header if title.casefold() == name), None)
    return _Labelled(
        {source: clean_class(clean_value(row[label])) for source, row in joined.rows.items()},
        {
            source: SPLIT_NAMES.get(row[split].casefold()) if split else split_in_folders(source)
            for source, row in joined.rows.items()
        },
        {
            source: {column: cell for column, cell in row.items() if column not in {label, split}}
            for source, row in joined.rows.items()
        },
        f"Labels are those of column {label!r} of {joined.name}.",
    )


def _from_folders(folder: Folder) -> _Labelled:
    cases = ClassFolders().read(folder, LayoutOptions(group_by="none")).cases
    return _Labelled(
        {case.source: case.label for case in cases},
        {case.source: case.split for case in cases},
        {},
        "Labels are the names of the class folders.",
    )


def _own(headers: _Headers, rows: Rows, sources: Sequence[str], options: LayoutOptions, notes: list[str]) -> Rows:
    """Return what table and header say of every image, with its patient or study under a name that groups."""
    own: Rows = {source: dict(rows.get(source, {})) for source in sources}
    patients = Counter(headers[source]["PatientID"] for source in sources)
    studies = {headers[source]["StudyInstanceUID"] for source in sources}
    is_patient = patients[""] * 2 < len(sources) and (len(patients) > 1 or len(studies) <= 1)
    by_study = (options.group_by or "").casefold() == "studyinstanceuid" or (
        options.group_by is None and not is_patient
    )
    for source in sources:
        own[source] |= {name: headers[source][name] for name in _ATTRIBUTES if name not in own[source]}
        own[source]["StudyID" if by_study else "PatientID"] = headers[source][
            "StudyInstanceUID" if by_study else "PatientID"
        ]
    if by_study and not options.group_by:
        notes.append(
            "PatientID is missing or the same in all files, so a group is a study at most; whether studies share patients cannot be verified."
        )
    return own
