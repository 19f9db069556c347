"""CSV manifest: a table with one row an image, a column that names the file and a column that holds the label."""

from __future__ import annotations

import math
import re
from pathlib import PurePosixPath
from typing import NamedTuple

from clinloop.datasets.case import Case, Detection, LayoutOptions, LayoutResult, Split
from clinloop.datasets.layouts.folder import (
    SPLIT_NAMES,
    ExcludedTally,
    Folder,
    Table,
    clean_class,
    clean_value,
    duplicates,
    listed,
    natural_key,
)
from clinloop.errors import BadInput

_IMAGE_NAMES = ("image", "image_path", "path", "filepath", "file_path", "file", "file_name", "filename", "filestem", "img", "image_id",
                "image_name", "isic_id", "id")  # fmt: skip
_LABEL_NAMES = ("label", "class", "target", "diagnosis", "dx", "category", "finding", "benign_malignant", "grade", "y")
_GROUP_NAMES = (
    "patient_id",
    "patient",
    "patientid",
    "subject_id",
    "subject",
    "lesion_id",
    "study_id",
    "study",
    "mrn",
    "eye_id",
    "group",
)
_SPLIT_COLUMNS = ("split", "subset", "partition", "set")
_PRIVATE = re.compile(
    r"(^|[_ ])(id|ids|name|date|time|dob|birth\w*|mrn|accession|address|phone|email|uid|hash|path|file\w*|url|comments?|notes?|report|text)([_ ]|$)"
    r"|(id|uid|name|date|path|hash)$",
    re.IGNORECASE,
)
_MAX_CLASSES = 100
_MAX_VALUES = 40


class _Columns(NamedTuple):
    image: str
    label: str
    group: str | None
    split: str | None


class _Manifest(NamedTuple):
    name: str
    table: Table
    columns: _Columns
    split: Split | None
    """Split that the file's own name states (train.csv)."""


class CsvManifest:
    """The layout `csv_manifest`."""

    name = "csv_manifest"
    looks_for = "a CSV with a column of image files (image, path, file_name, image_id, …) and a column of labels (label, class, diagnosis, dx, …)"

    def detect(self, folder: Folder, options: LayoutOptions) -> Detection:
        """Look for a table whose image column names files that exist and that has a label column."""
        try:
            manifests, reasons = _find(folder, options, max_rows=2000)
        except BadInput as refusal:
            return Detection(0.0, str(refusal).rstrip("."))
        if not manifests:
            return Detection(0.0, "; ".join(reasons[:3]) if reasons else "there is no CSV file")
        columns = manifests[0].columns
        names = listed([item.name for item in manifests])
        return Detection(0.8, f"{names} with images in column {columns.image!r} and labels in column {columns.label!r}")

    def read(self, folder: Folder, options: LayoutOptions) -> LayoutResult:
        """Return the cases; a split comes from a column (split, subset, …) or from tables named train.csv, val.csv, test.csv."""
        manifests, reasons = _find(folder, options, max_rows=None)
        if not manifests:
            raise BadInput(
                f"This is not the layout csv_manifest: {'; '.join(reasons[:3]) or 'there is no CSV file'}; it needs {self.looks_for}."
            )
        columns = manifests[0].columns
        resolver = _Resolver(folder)
        tally, problems, notes, cases = ExcludedTally(), list[str](), list[str](), list[Case]()
        attributes = _attributes(manifests, options, notes)
        for manifest in manifests:
            cases += _read_rows(manifest, resolver, attributes, tally)
        if twice := duplicates(case.source for case in cases):
            problems.append(f"{len(twice)} image(s) have more than one row ({listed(twice)}); keep one row an image.")
        for source in sorted(set(folder.images) - resolver.used):
            tally.add("an image file without a row", source)
        labels = sorted({case.label for case in cases}, key=natural_key)
        if len(labels) < 2:
            problems.append(f"Column {columns.label!r} has {len(labels)} class(es) ({listed(labels)}); two are needed.")
        if len(labels) > _MAX_CLASSES:
            problems.append(
                f"Column {columns.label!r} has {len(labels)} different values, more than {_MAX_CLASSES}; name the column of the classes."
            )
        return LayoutResult(
            cases=cases,
            classes=labels,
            group_kind=_group_kind(columns.group),
            attributes=attributes,
            excluded=tally.result(),
            problems=problems,
            notes=notes,
        )


class _Resolver:
    """Finds the image that a cell means: a path, a file name, or a name without suffix."""

    def __init__(self, folder: Folder) -> None:
        self._images = set(folder.images)
        self._by_name: dict[str, str | None] = {}
        for source in folder.images:
            path = PurePosixPath(source)
            for name in {path.name, path.stem}:
                self._by_name[name] = None if name in self._by_name else source  # None: not unique
        self.used: set[str] = set()

    def find(self, cell: str, table: str) -> str | None:
        """Return the source of a cell, None if there is no such image or several."""
        given = cell.replace("\\", "/").removeprefix("./").lstrip("/")
        beside = (PurePosixPath(table).parent / given).as_posix()
        source = next((name for name in (beside, given) if name in self._images), None)
        source = source or self._by_name.get(PurePosixPath(given).name)
        if source is not None:
            self.used.add(source)
        return source


def _find(folder: Folder, options: LayoutOptions, *, max_rows: int | None) -> tuple[list[_Manifest], list[str]]:
    """Return the table of the dataset (several if they are named after splits) and why other tables are not it."""
    found: list[tuple[int, _Manifest]] = []
    reasons: list[str] = []
    resolver = _Resolver(folder)
    for name in folder.tables[:50]:
        table = folder.table(name, max_rows=max_rows)
        columns = _columns(table, options)
        if isinstance(columns, str):
            reasons.append(f"{name} {columns}")
            continue
        image = table.column(columns.image)
        assert image is not None
        sample = table.rows[:2000]
        hits = sum(resolver.find(row[image], name) is not None for row in sample)
        if hits * 2 < len(sample) or not hits:
            reasons.append(
                f"{name}: {hits} of the first {len(sample)} cells of column {columns.image!r} name an image file"
            )
            continue
        words = re.split(r"[^a-z]+", PurePosixPath(name).stem.casefold())
        split: Split | None = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)
        found.append((hits, _Manifest(name, table, columns, split)))
    if not found:
        return [], reasons
    best = max(found, key=lambda item: (item[0], -item[1].name.count("/"), item[1].name))[1]
    alike = [item for _, item in found if item.split and item.columns == best.columns]
    if best.split and len({item.split for item in alike}) == len(alike):
        return alike, reasons
    return [best._replace(split=None)], reasons


def _columns(table: Table, options: LayoutOptions) -> _Columns | str:
    """Return the columns of a table, or what it lacks."""
    image = _given(table, options.image_column) if options.image_column else table.first_of(_IMAGE_NAMES)
    label = _given(table, options.label_column) if options.label_column else table.first_of(_LABEL_NAMES)
    if image is None:
        return (
            f"has no column {options.image_column!r}" if options.image_column else "has no column named like an image"
        )
    if label is None:
        return f"has no column {options.label_column!r}" if options.label_column else "has no column named like a label"
    group = None
    if options.group_by is None:
        group = table.first_of(_GROUP_NAMES)
    elif options.group_by != "none":
        group = _given(table, options.group_by)
        if group is None:
            return f"has no column {options.group_by!r} to group by (it has {', '.join(table.header[:30])})"
    return _Columns(image, label, group if group not in {image, label} else None, table.first_of(_SPLIT_COLUMNS))


def _given(table: Table, name: str) -> str | None:
    return table.first_of((name,))


def _attributes(manifests: list[_Manifest], options: LayoutOptions, notes: list[str]) -> list[str]:
    """Return the columns that become attributes: those asked for, else those that neither identify a person nor are free text."""
    table, columns = manifests[0].table, manifests[0].columns
    if options.attributes is not None:
        found = [_given(table, name) for name in options.attributes]
        if missing := [name for name, title in zip(options.attributes, found, strict=True) if title is None]:
            raise BadInput(
                f"There are no columns {listed(missing)} for attributes; the table has {', '.join(table.header[:30])}."
            )
        return [title for title in found if title is not None]
    kept, left = list[str](), list[str]()
    for position, title in enumerate(table.header):
        if not title or title in columns or title.casefold() == "unnamed: 0":
            continue
        values = [value for row in table.rows if (value := clean_value(row[position]))]
        fit = bool(values) and not _PRIVATE.search(title) and _is_summarisable(values)
        (kept if fit else left).append(title)
    if left:
        notes.append(
            f"Columns left out because they are empty, free text or could identify somebody: {', '.join(left)}."
        )
    return kept


def _is_summarisable(values: list[str]) -> bool:
    distinct = set(values)
    if len(distinct) <= _MAX_VALUES:
        return all(len(value) <= 60 for value in distinct)
    numbers = [number for value in values if (number := as_number(value)) is not None]
    looks_like_an_identifier = len(distinct) > 0.9 * len(values) and all(number.is_integer() for number in numbers)
    return len(numbers) == len(values) and not looks_like_an_identifier


def as_number(text: str) -> float | None:
    """Return the finite number that a cell holds, None if it holds none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _read_rows(manifest: _Manifest, resolver: _Resolver, attributes: list[str], tally: ExcludedTally) -> list[Case]:
    table, columns = manifest.table, manifest.columns
    image, label = table.column(columns.image), table.column(columns.label)
    group = table.column(columns.group) if columns.group else None
    split_column = table.column(columns.split) if columns.split else None
    positions = {name: i for name in attributes if (i := table.column(name)) is not None}
    assert image is not None and label is not None
    cases: list[Case] = []
    for row in table.rows:
        split = SPLIT_NAMES.get(row[split_column].casefold()) if split_column is not None else manifest.split
        source = resolver.find(row[image], manifest.name)
        name = clean_class(clean_value(row[label]))
        if source is None:
            tally.add("a row without an image file (or with a name that several files have)", row[image], split)
        elif not name:
            tally.add("a row without a label", row[image], split)
        elif split_column is not None and split is None:
            tally.add(f"a row whose {columns.split} is not train, val or test", row[image])
        else:
            values = {name: clean_value(row[i]) for name, i in positions.items()}
            cases.append(
                Case(source, name, clean_value(row[group]) or None if group is not None else None, split, values)
            )
    return cases


def _group_kind(column: str | None) -> str:
    if column is None:
        return "image"
    word = re.sub(r"_?id$", "", column.casefold())
    return "patient" if word in {"patient", "subject", "mrn"} else word or "group"
