"""What is known of annotated images beside their annotation: groups and attributes, from a table or from the annotation file itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from clinloop.datasets.case import LayoutOptions
from clinloop.datasets.layouts.columns import (
    GROUP_NAMES,
    IMAGE_NAMES,
    ImageFinder,
    asked_attributes,
    fit_attributes,
    group_kind,
)
from clinloop.datasets.layouts.folder import Folder, Table, clean_value, listed
from clinloop.datasets.layouts.grouping import by_path
from clinloop.errors import BadInput

NO_GROUPS = "Nothing says which images belong together; siblings and near-duplicates are grouped."
_KEY_NAMES = (
    *IMAGE_NAMES,
    "imageid",
    "image index",
    "sopinstanceuid",
    "sop_instance_uid",
    "case",
    "case_id",
    "dicom_id",
)
_WIDE_KEY_NAMES = ("studyinstanceuid", "study_instance_uid", "study_id", "patientid", "patient_id", "patient")
_MAX_TABLES = 50

Rows = dict[str, dict[str, str]]
"""Image to column to value."""


class Joined(NamedTuple):
    """What a table tells of images."""

    name: str
    header: list[str]
    rows: Rows
    varying: set[str]
    """Columns that differ between the rows of one image; they are not in `rows`."""


@dataclass(frozen=True)
class Description:
    """Groups and attributes of images."""

    group_kind: str
    groups: dict[str, str | None]
    attributes: list[str]
    values: Rows
    notes: list[str] = field(default_factory=list[str])


def describe(
    folder: Folder,
    sources: Sequence[str],
    options: LayoutOptions,
    own: Rows | None = None,
    *,
    keys: Mapping[str, Sequence[str]] | None = None,
    group: str | None = None,
    use_tables: bool = True,
) -> Description:
    """Return group and attributes of every image.

    The columns are those of a table that names the images (if `use_tables`), and of `own`, what the annotation file says of each image. `group_by` is a column, a regular expression with one pair of parentheses on the file name, or "none"; without it a column
    called like a group, else `group`, a column of `own`, else what the file names tell. `keys` lead from further names (a DICOM UID) to images.

    Raises:
        BadInput: an option names a column that is not there.
    """
    notes: list[str] = []
    joined = join(folder, sources, options.image_column, keys or {}) if use_tables else None
    if use_tables and options.image_column and joined is None:
        raise BadInput(f"No table has a column {options.image_column!r} whose cells name the images; leave it out.")
    rows = {
        source: ((joined.rows.get(source, {}) if joined else {}) | (own or {}).get(source, {})) for source in sources
    }
    if joined and joined.varying:
        notes.append(
            f"Columns left out because they differ between rows of one image: {', '.join(sorted(joined.varying))}."
        )
    header = list(dict.fromkeys(title for row in rows.values() for title in row))
    table = Table(header, [[rows[source].get(title, "") for title in header] for source in sources])
    column = _group_column(table, options, group)
    if column is None:
        kind, found = by_path(sources, options.group_by)
        if kind == "image" and options.group_by is None:
            notes.append(NO_GROUPS)
    else:
        position = header.index(column)
        kind, found = group_kind(column), [clean_value(row[position]) or None for row in table.rows]
        notes.append(
            f"Images are grouped by {column!r}{f' of {joined.name}' if joined and column in joined.header else ''}."
        )
    if options.attributes is not None:
        attributes = asked_attributes(table, options.attributes)
    else:
        attributes = fit_attributes(table, [column], notes)
    positions = [(name, header.index(name)) for name in attributes]
    values = {
        source: {name: clean_value(row[at]) for name, at in positions}
        for source, row in zip(sources, table.rows, strict=True)
    }
    return Description(kind, dict(zip(sources, found, strict=True)), attributes, values, notes)


def _group_column(table: Table, options: LayoutOptions, default: str | None) -> str | None:
    """Return the column to group by, None for groups by file names or none at all."""
    if options.group_by is None:
        return table.first_of(GROUP_NAMES) or (table.first_of((default,)) if default else None)
    if options.group_by == "none" or "(" in options.group_by:
        return None
    column = table.first_of((options.group_by,))
    if column is None:
        known = f"the columns are {listed(table.header, 30)}" if table.header else "no table names the images"
        raise BadInput(
            f"There is no column {options.group_by!r} to group by ({known}); name a column, or a regular expression with one pair of "
            "parentheses on the file name, for example ^([0-9]+)_."
        )
    return column


def join(
    folder: Folder,
    sources: Sequence[str],
    image_column: str | None = None,
    keys: Mapping[str, Sequence[str]] | None = None,
) -> Joined | None:
    """Return what the table that names most of the images says of them; several tables with its header count as one.

    `keys` lead from further names (a DICOM UID, a patient) to images.
    """
    finder, keys = ImageFinder(sources), keys or {}
    found: list[tuple[tuple[int, int], str, Table, str]] = []
    for name in folder.tables[:_MAX_TABLES]:
        table = folder.table(name)
        names = (image_column,) if image_column else (*_KEY_NAMES, *(_WIDE_KEY_NAMES if keys else ()))
        for title in dict.fromkeys(spelt for key in names if (spelt := table.first_of((key,))) is not None):
            at = table.header.index(title)
            hits = [_images(row[at], name, finder, keys) for row in table.rows]
            covered = {source for images in hits for source in images}
            if covered and sum(bool(images) for images in hits) * 2 >= len(table.rows):
                # Of two columns that lead to the same images, the one that leads to fewer at once names them best.
                found.append(((len(covered), -sum(map(len, hits))), name, table, title))
    if not found:
        return None
    _, best, first, title = max(found, key=lambda item: item[0])
    rows: Rows = {}
    varying: set[str] = set()
    for _, name, table, key in found:
        if table.header == first.header and key == title:
            at = table.header.index(key)
            for row in table.rows:
                for source in _images(row[at], name, finder, keys):
                    varying |= _merge(rows.setdefault(source, {}), dict(zip(table.header, row, strict=True)), key)
    kept = {
        source: {column: cell for column, cell in row.items() if column not in varying} for source, row in rows.items()
    }
    return Joined(best, [column for column in first.header if column not in varying], kept, varying)


def _merge(into: dict[str, str], row: Mapping[str, str], key: str) -> set[str]:
    """Add a row of a table to what is known of an image and return the columns that say something else."""
    return {
        column for column, cell in row.items() if column and column != key and into.setdefault(column, cell) != cell
    }


def _images(cell: str, table: str, finder: ImageFinder, keys: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """Return the images of this dataset that a cell means."""
    if cell in keys:
        return keys[cell]
    source = finder.find(cell, table)
    return () if source is None else (source,)
