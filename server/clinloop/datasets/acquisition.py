"""The table of how each picture came to be: facts of its source file and measurements of the picture; train and validation only, server only."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from clinloop.datasets.table import csv_text

FILE = "acquisition.csv"
SIZES = ("width", "height", "file size")
TEXTS = ("image mode", "file type", "metadata in the file")
PROBES = (
    "border brightness",
    "border unevenness",
    "black border",
    "dark corners",
    "bright corner marks",
    "brightness",
    "contrast",
    "sharpness",
    "red-green cast",
    "yellow-blue cast",
    "shape of the picture",
)
"""Measurements of a picture, in the order of their values; `probes` says how."""
COLUMNS = (*SIZES, *TEXTS, *PROBES)


def acquisition_text(rows: Iterable[tuple[str, Mapping[str, str]]]) -> str:
    """Return the table as CSV: case id, then a value for each of COLUMNS."""
    return csv_text(["case_id", *COLUMNS], ([case_id, *(facts[name] for name in COLUMNS)] for case_id, facts in rows))


def read_acquisition(dataset: Path) -> dict[str, dict[str, str]]:
    """Return the table by case id; empty for a dataset that was added before there was one."""
    try:
        text = (dataset / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    rows = csv.reader(io.StringIO(text, newline=""))
    names = next(rows)[1:]
    return {case_id: dict(zip(names, values, strict=True)) for case_id, *values in rows}
