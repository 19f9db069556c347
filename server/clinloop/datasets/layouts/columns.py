"""Columns of tables: which one names the image, the label or the group, which are fit to be attributes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from clinloop.datasets.layouts.folder import Table, clean_value, listed
from clinloop.errors import BadInput

IMAGE_NAMES = ("image", "image_path", "path", "filepath", "file_path", "file", "file_name", "filename", "filestem", "img", "image_id",
               "image_name", "isic_id", "id")  # fmt: skip
LABEL_NAMES = ("label", "class", "target", "diagnosis", "dx", "category", "finding", "benign_malignant", "grade", "y")
GROUP_NAMES = (
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
SPLIT_COLUMNS = ("split", "subset", "partition", "set")

_PRIVATE = re.compile(
    r"(^|[_ ])(id|ids|name|date|time|dob|birth\w*|mrn|accession|address|phone|email|uid|hash|path|file\w*|url|comments?|notes?|report|text)([_ ]|$)"
    r"|(id|uid|name|date|path|hash)$",
    re.IGNORECASE,
)
_MAX_VALUES = 40


class ImageFinder:
    """Finds the image that a cell means: a path, a file name, or a name without suffix."""

    def __init__(self, images: Sequence[str]) -> None:
        self._images = set(images)
        self._by_name: dict[str, str | None] = {}
        self._by_stem: dict[str, list[PurePosixPath]] = {}
        for source in images:
            path = PurePosixPath(source)
            for name in {path.name, path.stem}:
                self._by_name[name] = None if name in self._by_name else source  # None: not unique
            self._by_stem.setdefault(path.stem, []).append(path)
        self.used: set[str] = set()

    def exact(self, source: str) -> str | None:
        """Return a path if it is an image."""
        if source not in self._images:
            return None
        self.used.add(source)
        return source

    def named(self, name: str) -> list[str]:
        """Return the images with a file name, in whatever folder; none counts as used."""
        path = PurePosixPath(name)
        return [str(other) for other in self._by_stem.get(path.stem, ()) if other.name == path.name]

    def nearest(self, path: PurePosixPath, stem: str | None = None) -> str | None:
        """Return the image with the stem of a file, of several the one whose folders are most like its own; None if two are alike."""
        alike = [
            (_shared(other.parts[:-1], path.parts[:-1]), other) for other in self._by_stem.get(stem or path.stem, ())
        ]
        best = max((shared for shared, _ in alike), default=0)
        nearest = [other for shared, other in alike if shared == best]
        if len(nearest) != 1:
            return None
        self.used.add(str(nearest[0]))
        return str(nearest[0])

    def find(self, cell: str, table: str) -> str | None:
        """Return the source of a cell of a file `table`, None if there is no such image or several."""
        given = cell.replace("\\", "/").removeprefix("./").lstrip("/")
        beside = (PurePosixPath(table).parent / given).as_posix()
        source = next((name for name in (beside, given) if name in self._images), None)
        source = source or self._by_name.get(PurePosixPath(given).name)
        if source is not None:
            self.used.add(source)
        return source


def asked_attributes(table: Table, names: Sequence[str]) -> list[str]:
    """Return the header's spelling of the columns that the custodian names as attributes.

    Raises:
        BadInput: the table lacks one.
    """
    found = [table.first_of((name,)) for name in names]
    if missing := [name for name, title in zip(names, found, strict=True) if title is None]:
        raise BadInput(
            f"There are no columns {listed(missing)} for attributes; the table has {', '.join(table.header[:30])}."
        )
    return [title for title in found if title is not None]


def fit_attributes(table: Table, taken: Sequence[str | None], notes: list[str]) -> list[str]:
    """Return the columns that neither identify a person nor are free text, and note which are left out."""
    kept, left = list[str](), list[str]()
    for position, title in enumerate(table.header):
        if not title or title in taken or title.casefold() == "unnamed: 0":
            continue
        values = [value for row in table.rows if (value := clean_value(row[position]))]
        fit = bool(values) and not _PRIVATE.search(title) and _is_summarisable(values)
        (kept if fit else left).append(title)
    if left:
        notes.append(
            f"Columns left out because they are empty, free text or could identify somebody: {', '.join(left)}."
        )
    return kept


def as_number(text: str) -> float | None:
    """Return the finite number that a cell holds, None if it holds none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def group_kind(column: str | None) -> str:
    """Return what the groups of a column are: patient, lesion, …; "image" without a column."""
    if column is None:
        return "image"
    word = re.sub(r"_?id$", "", column.casefold())
    return "patient" if word in {"patient", "subject", "mrn"} else word or "group"


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many folders two paths share at their start and at their end."""
    shortest = min(len(one), len(other))
    start = next((i for i in range(shortest) if one[i] != other[i]), shortest)
    end = next((i for i in range(shortest - start) if one[-1 - i] != other[-1 - i]), shortest - start)
    return start + end


def _is_summarisable(values: list[str]) -> bool:
    distinct = set(values)
    if len(distinct) <= _MAX_VALUES:
        return all(len(value) <= 60 for value in distinct)
    numbers = [number for value in values if (number := as_number(value)) is not None]
    looks_like_an_identifier = len(distinct) > 0.9 * len(values) and all(number.is_integer() for number in numbers)
    return len(numbers) == len(values) and not looks_like_an_identifier
