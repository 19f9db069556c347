"""The server-only table of stored cases, and where their images and masks lie."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from clinloop.datasets.case import Box, Split, Supervision

COLUMNS = (
    "case_id", "split", "group", "label", "supervision", "image", "image_sha256", "width", "height", "boxes", "mask", "mask_sha256",
)  # fmt: skip
"""Columns in front of the attributes in a server-only cases.csv."""


class CaseRow(NamedTuple):
    """One stored case with its label: never handed to an agent as it is."""

    case_id: str
    split: Split
    group: str
    """Opaque; equal within a group and its near-duplicates."""
    label: str
    attributes: Mapping[str, str]
    image: Path
    """The stored image, <case_id>.jpg or .png."""
    image_sha256: str
    supervision: Supervision = "image"
    """The strongest kind of truth that was kept."""
    width: int = 0
    """Pixels of the stored image."""
    height: int = 0
    boxes: tuple[Box, ...] | None = None
    """In pixels of the stored image; None = nobody drew boxes, or they were not kept; () = annotated, and nothing is there."""
    mask: Path | None = None
    """1-bit PNG of the stored image's size; an empty mask is a file too."""
    mask_sha256: str = ""


def image_folder(folder: Path, split: Split) -> Path:
    """Return where a dataset keeps the images of a split."""
    return folder / ("vault" if split == "test" else "view") / "images"


def mask_folder(folder: Path, split: Split) -> Path:
    """Return where a dataset keeps the masks of a split: only those of training cases lie where sandboxes see them."""
    return folder / "val_masks" if split == "val" else image_folder(folder, split).with_name("masks")


def read_cases(table: Path, folder: Path) -> list[CaseRow]:
    """Read a server-only cases.csv of the dataset in `folder`."""
    return parse_cases(table.read_text(encoding="utf-8"), folder)


def parse_cases(text: str, folder: Path) -> list[CaseRow]:
    """Return the cases of a server-only cases.csv."""
    rows = csv.reader(io.StringIO(text, newline=""))
    attributes = next(rows)[len(COLUMNS) :]
    return [parse_row(row, attributes, folder) for row in rows]


def parse_row(row: list[str], attributes: list[str], folder: Path) -> CaseRow:
    """Return the case of one row."""
    case_id, split, group, label, supervision, image, sha256, width, height, boxes, mask, mask_sha256, *values = row
    return CaseRow(
        case_id,
        split,  # pyright: ignore[reportArgumentType]  # written by us
        group,
        label,
        dict(zip(attributes, values, strict=True)),
        image_folder(folder, split) / image,  # pyright: ignore[reportArgumentType]
        sha256,
        supervision,  # pyright: ignore[reportArgumentType]
        int(width),
        int(height),
        tuple(Box(*box) for box in json.loads(boxes)) if boxes else None,
        mask_folder(folder, split) / mask if mask else None,  # pyright: ignore[reportArgumentType]
        mask_sha256,
    )


def csv_text(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a CSV with \\n line ends."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()
