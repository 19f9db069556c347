"""The training and validation cases of a dataset for people who leaf through them; a case is parsed when it is shown."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from clinloop.datasets.dataset import Dataset
from clinloop.datasets.table import COLUMNS, CaseRow, parse_row
from clinloop.errors import unknown

VisibleSplit = Literal["train", "val"]
_CASE_ID, _SPLIT, _LABEL = (COLUMNS.index(name) for name in ("case_id", "split", "label"))


class Cases:
    """The rows of a server-only cases.csv, which holds no test case."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with (folder / "cases.csv").open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            self._attributes = next(rows)[len(COLUMNS) :]
            self._rows = list(rows)
        self._places = {row[_CASE_ID]: place for place, row in enumerate(self._rows)}

    def select(self, split: VisibleSplit, label: str = "") -> Sequence[int]:
        """Return the places of the cases of a split, in the shuffled order of the table; of one class if a label is given."""
        return [
            place
            for place, row in enumerate(self._rows)
            if row[_SPLIT] == split and (not label or row[_LABEL] == label)
        ]

    def at(self, place: int) -> CaseRow:
        """Return the case at a place."""
        return parse_row(self._rows[place], self._attributes, self._folder)

    def case(self, case_id: str) -> CaseRow:
        """Return a case.

        Raises:
            Unknown: no case of training or validation has this id.
        """
        if (place := self._places.get(case_id)) is None:
            raise unknown("picture", case_id, [])
        return self.at(place)


def cases_of(dataset: Dataset) -> Cases:
    """Return the cases of a dataset; those of the last few datasets are kept until their table changes."""
    facts = (dataset.folder / "cases.csv").stat()
    return _read(dataset.folder, facts.st_ino, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=4)
def _read(folder: Path, *_: int) -> Cases:
    return Cases(folder)
