"""Writes the files of a dataset: what goes into the view, what goes into the vault, and nothing that tells one from the other."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from clinloop.datasets.dataset import MTIME
from clinloop.datasets.pixels import CACHE_OFFSET
from clinloop.datasets.table import COLUMNS, CaseRow, csv_text
from clinloop.datasets.truth import boxes_json, truth_text, view_text


def make_folders(folder: Path, *, has_masks: bool) -> None:
    """Create view/ (readable by any user below a private folder) and vault/ (private), each with images/ and, if need be, masks/."""
    masks = (("view/masks", 0o755), ("vault/masks", 0o700), ("val_masks", 0o700)) if has_masks else ()
    for name, mode in (("view", 0o755), ("view/images", 0o755), ("vault", 0o700), ("vault/images", 0o700), *masks):
        (folder / name).mkdir()
        (folder / name).chmod(mode)


def create_cache(folder: Path, px: int) -> Path:
    """Create the empty file that image workers fill row by row."""
    path = folder / "view" / f"cache_{px}.npy"
    path.touch()
    return path


def finish_cache(path: Path, px: int, rows: Sequence[int], case_ids: Sequence[str]) -> None:
    """Keep some rows of a cache (ascending), in place, and put the header in front and the ids beside it."""
    size = px * px * 3
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for to, row in enumerate(rows):
            if to != row:  # rows only move down, onto blocks that are written already: no further disk space is needed
                os.pwrite(fd, os.pread(fd, size, CACHE_OFFSET + row * size), CACHE_OFFSET + to * size)
        os.ftruncate(fd, CACHE_OFFSET + len(rows) * size)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": (len(rows), px, px, 3)}
        )
        assert len(header.getvalue()) == CACHE_OFFSET
        os.pwrite(fd, header.getvalue(), 0)
    finally:
        os.close(fd)
    write_visible(path.with_suffix(".json"), json.dumps({"px": px, "case_ids": list(case_ids)}))
    _make_visible(path)


def place_file(file: Path, folder: Path) -> Path:
    """Move a stored image or mask into a folder and give it the constant time and the folder's permissions."""
    target = folder / file.name
    if target != file:
        file.rename(target)
    if folder.parent.name == "view":
        _make_visible(target)
    else:
        target.chmod(0o600)
        os.utime(target, (MTIME, MTIME))
    return target


def write_tables(
    folder: Path, cases: Sequence[CaseRow], attributes: Sequence[str], targets: Sequence[str], *, sealed: bool
) -> None:
    """Write every cases.csv and the validation truth; validation rows of the view have no label. A sealed test part is not written."""
    seen = [case for case in cases if case.split != "test"]
    write_visible(folder / "view" / "cases.csv", view_text(seen, attributes))
    if any(case.boxes is not None for case in seen):
        write_visible(folder / "view" / "boxes.json", boxes_json(seen, targets))
    write_private(folder / "cases.csv", cases_text(seen, attributes))
    if not sealed:
        test = [case for case in cases if case.split == "test"]
        write_private(folder / "vault" / "cases.csv", cases_text(test, attributes))
    truth = truth_text([case for case in seen if case.split == "val"], targets)
    write_private(folder / "val_truth.csv", truth)


def cases_text(cases: Sequence[CaseRow], attributes: Sequence[str]) -> str:
    """Return a server-only cases.csv."""
    rows = (
        [
            case.case_id,
            case.split,
            case.group,
            case.label,
            case.supervision,
            case.image.name,
            case.image_sha256,
            str(case.width),
            str(case.height),
            "" if case.boxes is None else json.dumps(case.boxes, ensure_ascii=False, separators=(",", ":")),
            case.mask.name if case.mask else "",
            case.mask_sha256,
            *case.attributes.values(),
        ]
        for case in cases
    )
    return csv_text([*COLUMNS, *attributes], rows)


def sources_text(sources: Iterable[tuple[str, str]]) -> str:
    """Return which file became which case, for the custodian only."""
    return csv_text(["case_id", "source"], sources)


def close_view(folder: Path) -> None:
    """Give the folders of the view the constant time, after the last file is in."""
    for path in (*(path for path in (folder / "view").iterdir() if path.is_dir()), folder / "view"):
        os.utime(path, (MTIME, MTIME))


def write_model(path: Path, model: BaseModel) -> None:
    """Write a server-only JSON file."""
    write_private(path, model.model_dump_json(indent=1) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a file that only the server's user reads."""
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)


def write_visible(path: Path, text: str) -> None:
    """Write a file that sandboxes read."""
    path.write_text(text, encoding="utf-8")
    _make_visible(path)


def _make_visible(path: Path) -> None:
    path.chmod(0o644)
    os.utime(path, (MTIME, MTIME))
