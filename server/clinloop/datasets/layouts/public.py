"""What the layouts of public datasets have in common: fixed columns, one file an image, attributes to choose from."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import NamedTuple

from clinloop.datasets.case import LayoutOptions
from clinloop.datasets.layouts.folder import Folder, Table, listed
from clinloop.errors import BadInput

_MAX_NOTES = 200
_MAX_TABLES = 200
MAX_AGE = 120.0
"""Years; public headers hold ages such as 414, which are typing errors."""


class Found(NamedTuple):
    """Images by the name that tables know them by."""

    sources: dict[str, str]
    """Stem to path; of several files the one in the fewest folders."""
    n_copies: int
    """Files left aside because another one has their name."""


def by_stem(paths: Iterable[str], prefer: Callable[[str], int] = lambda path: 0) -> Found:
    """Return one path for each stem: the one that `prefer` ranks lowest, then the shallowest."""
    sources: dict[str, str] = {}
    n_copies = 0
    for path in sorted(paths, key=lambda path: (prefer(path), path.count("/"), path)):
        stem = PurePosixPath(path).stem
        n_copies += stem in sources
        sources.setdefault(stem, path)
    return Found(sources, n_copies)


def refuse_columns(layout: str, options: LayoutOptions, *, label: bool = True) -> None:
    """Refuse the options that name columns; with `label=False` the label column is the layout's to judge.

    Raises:
        BadInput: such an option is given.
    """
    if options.image_column or (label and options.label_column):
        what = "image and label column" if label else "image column"
        raise BadInput(f"The layout {layout} has fixed columns; leave out the {what}, or use the layout csv_manifest.")


def chosen_attributes(layout: str, options: LayoutOptions, known: Sequence[str], default: Sequence[str]) -> list[str]:
    """Return the attributes that were asked for, in the layout's spelling, else the default ones.

    Raises:
        BadInput: one is unknown.
    """
    if options.attributes is None:
        return list(default)
    spelling = {name.casefold(): name for name in known}
    if missing := [name for name in options.attributes if name.strip().casefold() not in spelling]:
        raise BadInput(f"The layout {layout} has no attributes {listed(missing)}; it has {', '.join(known) or 'none'}.")
    return [spelling[name.strip().casefold()] for name in options.attributes]


def group_choice(layout: str, options: LayoutOptions, kinds: Sequence[str]) -> str:
    """Return what groups are asked for: the first kind, another one that the layout knows, or "image" for none.

    Raises:
        BadInput: `group_by` is something else.
    """
    wanted = (options.group_by or kinds[0]).casefold().removesuffix("_id")
    if wanted in {"none", "image"}:
        return "image"
    if wanted not in kinds:
        raise BadInput(f"The layout {layout} cannot group by {options.group_by!r}; use {', '.join(kinds)} or none.")
    return wanted


def find_tables(folder: Folder, columns: Sequence[str], *, skip: str = "") -> list[str]:
    """Return the tables with these columns, those in the fewest folders first; names that match `skip` are left aside."""
    found: list[str] = []
    for name in sorted(folder.tables, key=lambda name: (name.count("/"), name))[:_MAX_TABLES]:
        if skip and re.search(skip, PurePosixPath(name).name, re.IGNORECASE):
            continue
        with suppress(BadInput):  # a table that cannot be read is not this layout's
            table = folder.table(name, max_rows=1)
            if all(table.column(title) is not None for title in columns):
                found.append(name)
    return found


def refuse_repeated_rows(names: Sequence[str], table: str) -> None:
    """Refuse a table with two rows of one image; which rows, the notes say: image names can hold a patient's number.

    Raises:
        BadInput: a name comes twice.
    """
    first: dict[str, int] = {}
    places = [
        (first[name], number) for number, name in enumerate(names, start=1) if first.setdefault(name, number) != number
    ]
    if places:
        error = BadInput(f"{table} lists {len(places)} image(s) more than once; keep one row each.")
        for one, other in places[:_MAX_NOTES]:
            error.add_note(f"{table}, data rows {one} and {other}: the same image")
        raise error


def column_values(table: Table, name: str) -> list[str]:
    """Return the cells of a column that is there."""
    position = table.column(name)
    assert position is not None, name
    return [row[position] for row in table.rows]


def years(age: str) -> str:
    """Return an age in years ("058Y" gives "58"), "" if it is none that a person reaches."""
    match = re.fullmatch(r"0*(\d+(?:\.\d+)?)[Yy]?", age.strip())
    return match[1] if match and float(match[1]) <= MAX_AGE else ""


def image_size(folder: Folder, source: str) -> tuple[int, int] | None:
    """Return (width, height) of an image file as stored, None if it cannot be opened (its decoder says why later)."""
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(folder.root / source) as image:
            return image.size
    except Exception:  # decoders raise anything on malformed input
        return None
