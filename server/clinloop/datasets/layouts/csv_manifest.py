"""CSV manifest: a table with one row an image, a column that names the file and a column that holds the label."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import NamedTuple

from clinloop.datasets.case import Case, Detection, LayoutOptions, LayoutResult, Split
from clinloop.datasets.layouts.columns import (
    GROUP_NAMES,
    IMAGE_NAMES,
    LABEL_NAMES,
    SPLIT_COLUMNS,
    ImageFinder,
    as_number,
    asked_attributes,
    fit_attributes,
    group_kind,
)
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

__all__ = ["CsvManifest", "as_number"]

_MAX_CLASSES = 100


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
        resolver = ImageFinder(folder.images)
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
            group_kind=group_kind(columns.group),
            attributes=attributes,
            excluded=tally.result(),
            problems=problems,
            notes=notes,
        )


def _find(folder: Folder, options: LayoutOptions, *, max_rows: int | None) -> tuple[list[_Manifest], list[str]]:
    """Return the table of the dataset (several if they are named after splits) and why other tables are not it."""
    found: list[tuple[int, _Manifest]] = []
    reasons: list[str] = []
    resolver = ImageFinder(folder.images)
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
    image = _given(table, options.image_column) if options.image_column else table.first_of(IMAGE_NAMES)
    label = _given(table, options.label_column) if options.label_column else table.first_of(LABEL_NAMES)
    if image is None:
        return (
            f"has no column {options.image_column!r}" if options.image_column else "has no column named like an image"
        )
    if label is None:
        return f"has no column {options.label_column!r}" if options.label_column else "has no column named like a label"
    group = None
    if options.group_by is None:
        group = table.first_of(GROUP_NAMES)
    elif options.group_by != "none":
        group = _given(table, options.group_by)
        if group is None:
            return f"has no column {options.group_by!r} to group by (it has {', '.join(table.header[:30])})"
    return _Columns(image, label, group if group not in {image, label} else None, table.first_of(SPLIT_COLUMNS))


def _given(table: Table, name: str) -> str | None:
    return table.first_of((name,))


def _attributes(manifests: list[_Manifest], options: LayoutOptions, notes: list[str]) -> list[str]:
    """Return the columns that become attributes: those asked for, else those that neither identify a person nor are free text."""
    table = manifests[0].table
    if options.attributes is not None:
        return asked_attributes(table, options.attributes)
    return fit_attributes(table, manifests[0].columns, notes)


def _read_rows(manifest: _Manifest, resolver: ImageFinder, attributes: list[str], tally: ExcludedTally) -> list[Case]:
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
