"""A folder that somebody wants to add: its images, tables and other files, found once, hidden files and links that lead out left aside."""

from __future__ import annotations

import csv
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from clinloop.datasets.case import Excluded, Split
from clinloop.errors import BadInput

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".dcm"})
SPLIT_NAMES: dict[str, Split] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "?"})
_TABLE_SUFFIXES = frozenset({".csv", ".tsv"})
_OTHER_SUFFIXES = frozenset({".json", ".jsonl", ".xml", ".txt", ".yaml", ".yml", ".npz"})
_SUFFIXES = IMAGE_SUFFIXES | _TABLE_SUFFIXES | _OTHER_SUFFIXES
_JUNK = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
_MAX_CELL = 1 << 20
_MAX_TEXT = 1 << 28


class Table(NamedTuple):
    """A CSV or TSV file: stripped header and stripped rows."""

    header: list[str]
    rows: list[list[str]]

    def column(self, name: str) -> int | None:
        """Return the position of a column, matched without regard to case, None if there is none."""
        wanted = name.strip().casefold()
        return next((i for i, title in enumerate(self.header) if title.casefold() == wanted), None)

    def first_of(self, names: Iterable[str]) -> str | None:
        """Return the header's spelling of the first name that is a column."""
        return next((self.header[i] for name in names if (i := self.column(name)) is not None), None)


class Folder:
    """Everything below a root that can matter, as sorted paths relative to it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def _files(self) -> tuple[list[str], int]:
        found: list[str] = []
        leading_out = 0
        real_root = self.root.resolve()
        for here, folders, names in os.walk(self.root, followlinks=False):
            leading_out += sum(Path(here, name).is_symlink() for name in folders)
            folders[:] = [name for name in folders if not is_hidden(name)]
            base = Path(here).relative_to(self.root).as_posix()
            for name in names:
                path = Path(here, name)
                if is_hidden(name) or path.suffix.lower() not in _SUFFIXES:
                    continue
                if path.is_symlink() and not path.resolve().is_relative_to(real_root):
                    leading_out += 1
                elif is_regular(path):
                    found.append(name if base == "." else f"{base}/{name}")
        return sorted(found), leading_out

    @property
    def links_out(self) -> int:
        """Number of links that lead out of the folder, or to folders; none is followed."""
        return self._files[1]

    @cached_property
    def _by_suffix(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self._files[0]:
            found.setdefault(PurePosixPath(name).suffix.lower(), []).append(name)
        return found

    @cached_property
    def images(self) -> list[str]:
        """Files with the suffix of an image, DICOM among them."""
        return self.files(*IMAGE_SUFFIXES)

    @cached_property
    def tables(self) -> list[str]:
        """CSV and TSV files."""
        return self.files(*_TABLE_SUFFIXES)

    def files(self, *suffixes: str) -> list[str]:
        """Return the files with one of these suffixes (in lower case, with the dot), sorted; also .json, .jsonl, .xml, .txt, .yaml, .yml, .npz."""
        unlisted = set(suffixes) - _SUFFIXES
        assert not unlisted, f"the folder does not list {unlisted}"
        return sorted(name for suffix in set(suffixes) for name in self._by_suffix.get(suffix, ()))

    def text(self, name: str, *, max_bytes: int = _MAX_TEXT) -> str:
        """Read a text file (JSON, XML, YAML, lists of names, …); a byte order mark and Latin-1 are tolerated.

        Raises:
            BadInput: it is longer than `max_bytes`, or holds NUL bytes.
        """
        path = self.root / name
        if path.stat().st_size > max_bytes:
            raise BadInput(
                f"{name} is larger than {max_bytes:,} bytes, too large for a file of its kind; leave it out."
            )
        raw = path.read_bytes()
        if b"\0" in raw:
            raise BadInput(f"{name} is not a text file (it holds NUL bytes); save it as UTF-8.")
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            return raw.decode("latin-1")

    def table(self, name: str, *, max_rows: int | None = None) -> Table:
        """Read a table; a byte order mark, spaces around cells and Latin-1 are tolerated.

        Raises:
            BadInput: it has no header, or a row with more cells than the header.
        """
        path = self.root / name
        try:
            return _parse(path, "utf-8-sig", max_rows)
        except UnicodeDecodeError:
            return _parse(path, "latin-1", max_rows)


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder name is one that archives and systems leave behind."""
    return name.startswith(".") or name in _JUNK


def is_regular(path: Path) -> bool:
    """Tell whether a path is a regular file (no FIFO, no device, no dangling link)."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def common_depth(paths: Sequence[tuple[str, ...]]) -> int:
    """Return how many leading folders all paths share; archives often unpack to a doubled folder."""
    if not paths:
        return 0
    low, high = min(paths), max(paths)
    depth = 0
    while depth < min(len(low), len(high)) - 1 and low[depth] == high[depth]:
        depth += 1
    return depth


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sort key under which "class 2" comes before "class 10"."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text.casefold()) if part
    ]


def clean_class(label: str) -> str:
    """Return a class name that can stand in a CSV header and a metric name: letters, digits, and ` _.+-`, at most 60."""
    return re.sub(r"[^\w .+-]+", "_", label.strip())[:60].strip()


def clean_value(value: str) -> str:
    """Return an attribute value, "" when it says that it is missing."""
    text = value.strip()
    return "" if text.casefold() in MISSING else text[:200]


class ExcludedTally:
    """Collects what is left out, by reason and split."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, Split | None], list[str]] = {}

    def add(self, reason: str, name: str, split: Split | None = None) -> None:
        """Count one row or file."""
        self._names.setdefault((reason, split), []).append(name)

    def result(self) -> list[Excluded]:
        """Return the counts, each with up to 20 names."""
        return [
            Excluded(reason, len(names), split, tuple(names[:20])) for (reason, split), names in self._names.items()
        ]


def listed(names: Sequence[str], limit: int = 5) -> str:
    """Return the first names and how many more there are."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def duplicates(names: Iterable[str]) -> list[str]:
    """Return the names that occur more than once, sorted."""
    seen: set[str] = set()
    twice: set[str] = set()
    for name in names:
        (twice if name in seen else seen).add(name)
    return sorted(twice)


def _parse(path: Path, encoding: str, max_rows: int | None) -> Table:
    csv.field_size_limit(_MAX_CELL)
    with path.open(encoding=encoding, newline="") as file:
        sample = file.read(1 << 16)
        first_line = sample.split("\n", 1)[0]
        delimiter = max("\t;,", key=first_line.count)
        file.seek(0)
        rows = _stripped_rows(csv.reader(file, delimiter=delimiter), path.name)
        header = next(rows, None)
        if header is None:
            raise BadInput(f"{path.name} is empty; give it a header line with column names.")
        body: list[list[str]] = []
        for row in rows:
            if len(row) > len(header):
                raise BadInput(
                    f"{path.name}: data row {len(body) + 1} has {len(row)} cells, the header has {len(header)}; quote cells that hold {delimiter!r}."
                )
            body.append(row + [""] * (len(header) - len(row)))
            if max_rows is not None and len(body) >= max_rows:
                break
    return Table(header, body)


def _stripped_rows(reader: Iterator[list[str]], name: str) -> Iterator[list[str]]:
    try:
        for row in reader:
            if cells := [cell.strip().lstrip("\ufeff") for cell in row]:
                while cells and not cells[-1] and len(cells) > 1:
                    cells.pop()  # spreadsheets leave trailing separators
                if any(cells):
                    yield cells
    except csv.Error as error:
        raise BadInput(f"{name} is not a table of comma-separated values ({error}).") from error
