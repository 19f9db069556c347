"""SIIM-ACR Pneumothorax (Kaggle 2019): chest films as DICOM, or as PNG in later copies, with relative run lengths in a CSV.

Source: https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation. Traps: the header's " EncodedPixels"; " -1" and "-1"; runs
that are relative and go down the columns; several rows of an image, which mean their union; files without a row, which are
unknown and not healthy; a sample submission that looks like labels; PNG copies of another size than the masks.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

from clinloop.datasets.case import Case, Detection, LayoutOptions, LayoutResult, MaskFile, MaskRuns
from clinloop.datasets.dicom import read_header
from clinloop.datasets.layouts.boxed import Faults
from clinloop.datasets.layouts.folder import ExcludedTally, Folder, clean_value, listed
from clinloop.datasets.layouts.public import (
    by_stem,
    chosen_attributes,
    column_values,
    find_tables,
    group_choice,
    image_size,
    refuse_columns,
    years,
)
from clinloop.datasets.layouts.siim_runs import SIDE, Row, decode_runs, fit
from clinloop.errors import BadInput

CLASSES = ("no pneumothorax", "pneumothorax")
_ATTRIBUTES = {"sex": "PatientSex", "age": "PatientAge", "view": "ViewPosition"}
_ID = re.compile(r"[0-9]+(\.[0-9]+){5,}|ID_[0-9a-f]{6,}")
_MASK_FOLDER = re.compile(r"(.*[ _-])?masks?([ _-].*)?", re.IGNORECASE)
_NOT_TRUTH = r"submission"
_FLAG = "has_pneumo"


class SiimAcr:
    """The layout `siim_acr`."""

    name = "siim_acr"
    looks_for = "a CSV with the columns ImageId and EncodedPixels and the images (.dcm or .png) that it names, or the PNG images and masks of the copy that has has_pneumo"

    def detect(self, folder: Folder, options: LayoutOptions) -> Detection:
        """Look for a table of run lengths (or of has_pneumo) with SIIM's ids, and for one of its images."""
        name = _runs_table(folder) or next(iter(_flag_tables(folder)), None)
        if name is None:
            return Detection(0.0, "there is no CSV with the columns ImageId and EncodedPixels")
        table = folder.table(name, max_rows=200)
        ids = column_values(table, "ImageId")
        base = PurePosixPath(name).name
        if sum(_ID.fullmatch(_stem(cell)) is not None for cell in ids) * 2 <= len(ids):
            return Detection(0.0, f"the ImageId in {base} are not those of SIIM-ACR")
        if not folder.images:
            return Detection(0.0, f"there is a {base}, but no image")
        return Detection(1.0, f"found {base} with the ids of SIIM-ACR, and {len(folder.images)} images")

    def read(self, folder: Folder, options: LayoutOptions) -> LayoutResult:
        """Return the cases; groups are the PatientID of the DICOM headers ("none": every image its own)."""
        if (found := self.detect(folder, options)).score == 0:
            raise BadInput(f"This is not the layout siim_acr: {found.reason}.")
        refuse_columns(self.name, options)
        by_patient = group_choice(self.name, options, ["patient"]) == "patient"
        faults, notes, tally = Faults(), list[str](), ExcludedTally()
        films = _films(folder, notes)
        truth = _truth(folder, films, faults, notes)
        faults.refuse()
        known_attributes = list(_ATTRIBUTES) if films.headers else []
        attributes = chosen_attributes(self.name, options, known_attributes, known_attributes)
        groups = _groups(films.headers, notes) if by_patient else {}
        cases: list[Case] = []
        for name, source in sorted(films.sources.items()):
            if (known := truth.get(name)) is None:
                tally.add("an image without a row or mask: unknown, which is not negative", name)
                continue
            header = films.headers.get(name, {})
            values = {key: _value(key, header) for key in attributes}
            cases.append(Case(source, known.label, groups.get(name), None, values, mask=known.mask))
        for name in sorted(truth.keys() - films.sources.keys()):
            tally.add("a row without an image file", name)
        return LayoutResult(
            cases=cases,
            classes=[name for name in CLASSES if any(case.label == name for case in cases)],
            group_kind="patient" if groups else "image",
            attributes=attributes,
            excluded=tally.result(),
            problems=[],
            notes=notes,
            task_type="segmentation" if any(case.mask is not None for case in cases) else "classification",
            targets=[CLASSES[1]],
        )


@dataclass
class _Films:
    """Image files and mask files by the id that tables know them by."""

    sources: dict[str, str]
    masks: dict[str, str]
    headers: dict[str, dict[str, str]]
    """Of DICOM files that can be parsed."""


@dataclass(frozen=True)
class _Known:
    label: str
    mask: MaskRuns | MaskFile | None


def _films(folder: Folder, notes: list[str]) -> _Films:
    """Find the images, DICOM before PNG, and the masks; the names of the PNG copy are turned back into ids."""
    masks = [path for path in folder.images if _is_mask(path)]
    images = by_stem(
        (path for path in folder.images if not _is_mask(path)), lambda path: not path.lower().endswith(".dcm")
    )
    if images.n_copies:
        notes.append(
            f"{images.n_copies} image file(s) with the name of another one were left aside (DICOM before PNG)."
        )
    ids = _renamed(folder)
    found_masks = {
        re.sub(r"[_-]mask$", "", stem, flags=re.IGNORECASE): path for stem, path in by_stem(masks).sources.items()
    }
    sources = {ids.get(stem, stem): path for stem, path in images.sources.items()}
    return _Films(
        sources,
        {ids.get(stem, stem): path for stem, path in found_masks.items()},
        _headers(folder, sources),
    )


def _truth(folder: Folder, films: _Films, faults: Faults, notes: list[str]) -> dict[str, _Known]:
    """Return what is known of each id: from the run lengths, else from the mask files, else from has_pneumo."""
    runs = _runs_table(folder)
    if runs is not None:
        if films.masks:
            notes.append(f"Masks come from {PurePosixPath(runs).name}; mask files beside it are not used.")
        return _from_runs(folder, runs, films, faults, notes)
    flags = _flags(folder, faults)
    if not films.masks:
        notes.append("There are no masks; labels come from the column has_pneumo.")
        return {name: _Known(CLASSES[flag], None) for name, flag in flags.items()}
    notes.append("The tree of this copy is assumed: images and masks with the same names, the masks in a folder called after them.")  # fmt: skip
    marked = _marked(folder, films.masks)
    if disagree := sum(flags.get(name, flag) != flag for name, flag in marked.items()):
        notes.append(f"In {disagree} image(s) the mask and the column has_pneumo disagree; the mask counts.")
    if unmasked := len(flags.keys() - marked.keys()):
        notes.append(f"{unmasked} image(s) have the column has_pneumo but no mask: their image label is kept.")
    known = {name: _Known(CLASSES[flag], None) for name, flag in flags.items()}
    return known | {name: _Known(CLASSES[flag], MaskFile(films.masks[name])) for name, flag in marked.items()}


def _from_runs(folder: Folder, table_name: str, films: _Films, faults: Faults, notes: list[str]) -> dict[str, _Known]:
    """Return label and mask of each id of a table of run lengths; rows without a value say nothing."""
    table = folder.table(table_name)
    base = PurePosixPath(table_name).name
    rows: dict[str, list[Row]] = {}
    cells = zip(column_values(table, "ImageId"), column_values(table, "EncodedPixels"), strict=True)
    for number, (cell, runs) in enumerate(cells, start=1):
        spans = decode_runs(runs) if clean_value(runs) else []
        if spans is None:
            faults.add("run lengths that are not pairs of whole numbers (offset, length)", f"{base}, data row {number}")
        elif clean_value(runs):
            rows.setdefault(_stem(cell), []).append(Row(number, spans))
    for found in rows.values():
        if len({bool(row.spans) for row in found}) > 1:
            faults.add("an image that is both marked and -1", f"{base}, data row {found[0].number}")
    sizes = {name: _size(folder, films, name) for name, found in rows.items() if any(row.spans for row in found)}
    fitted = fit(rows, sizes)
    for number in fitted.outside.values():
        faults.add("run lengths that end outside their image", f"{base}, data row {number}")
    others = [PurePosixPath(name).name for name in _runs_tables(folder) if name != table_name]
    if others:
        notes.append(f"Masks come from {base}; {listed(others)} is not used.")
    if several := sum(len(found) - 1 for found in rows.values()):
        notes.append(
            f"{several} row(s) add to the mask of an image that has another row: its mask is the union of its rows."
        )
    if fitted.n_reduced:
        notes.append(
            f"{fitted.n_reduced} mask(s) of {SIDE} × {SIDE} were reduced to the size of their images (nearest pixel)."
        )
    return {name: _Known(CLASSES[bool(spans)], MaskRuns(spans)) for name, spans in fitted.spans.items()}


def _flags(folder: Folder, faults: Faults) -> dict[str, bool]:
    """Return has_pneumo of each id; {} without such a table."""
    flags: dict[str, bool] = {}
    for name in _flag_tables(folder):
        table = folder.table(name)
        for number, (cell, flag) in enumerate(
            zip(column_values(table, "ImageId"), column_values(table, _FLAG), strict=True), start=1
        ):
            place = f"{PurePosixPath(name).name}, data row {number}"
            if (value := {"0": False, "1": True}.get(clean_value(flag).removesuffix(".0"))) is None:
                if clean_value(flag):
                    faults.add(f"a value of {_FLAG} that is neither 0 nor 1", place)
            elif flags.setdefault(_stem(cell), value) != value:
                faults.add(f"an image with both values of {_FLAG}", place)
    return flags


def _renamed(folder: Folder) -> dict[str, str]:
    """Return file stem to id for the copy that renamed its files (`new_filename`)."""
    renamed: dict[str, str] = {}
    for name in _flag_tables(folder):
        table = folder.table(name)
        if table.column("new_filename") is not None:
            stems = (PurePosixPath(cell).stem for cell in column_values(table, "new_filename"))
            renamed |= dict(zip(stems, map(_stem, column_values(table, "ImageId")), strict=True))
    return renamed


def _marked(folder: Folder, masks: dict[str, str]) -> dict[str, bool]:
    """Tell of each mask file whether it marks a pixel; one that cannot be read counts as marked, and is refused where it is decoded."""
    from PIL import Image

    def is_marked(path: str) -> bool:
        try:
            with Image.open(folder.root / path) as image:
                return image.getbbox() is not None
        except Exception:  # decoders raise anything on malformed input
            return True

    with ThreadPoolExecutor() as pool:  # decoding happens outside the interpreter's lock
        return dict(zip(masks, pool.map(is_marked, masks.values()), strict=True))


def _headers(folder: Folder, sources: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return header fields of the DICOM files by id; a file that cannot be parsed has none, and its decoder says why later."""
    headers: dict[str, dict[str, str]] = {}
    for name, source in sources.items():
        if source.lower().endswith(".dcm"):
            with suppress(BadInput):
                headers[name] = read_header(folder.root / source)
    return headers


def _groups(headers: dict[str, dict[str, str]], notes: list[str]) -> dict[str, str]:
    """Return the patient of each id; {} where the headers do not tell patients apart."""
    patients = {name: header["PatientID"] for name, header in headers.items() if header["PatientID"]}
    n_patients = len(set(patients.values()))
    if n_patients < 2:
        notes.append(
            ("All headers carry the same PatientID" if patients else "There is no PatientID")
            + ": which films are of one person is not known, only near-duplicates are kept together."
        )
        return {}
    notes.append(
        f"Groups are the PatientID of the DICOM headers ({n_patients:,} in {len(patients):,} films). That it stays the same across the films of a person "
        "cannot be verified: they are NIH ChestX-ray14 films under new names."
    )
    return patients


def _value(attribute: str, header: dict[str, str]) -> str:
    value = clean_value(header.get(_ATTRIBUTES[attribute], ""))
    return years(value) if attribute == "age" else value


def _size(folder: Folder, films: _Films, name: str) -> tuple[int, int] | None:
    """Return (width, height) of a film, None if it is not there or cannot be opened."""
    source, header = films.sources.get(name), films.headers.get(name)
    if header is not None:
        return (int(header["Columns"] or 0), int(header["Rows"] or 0)) if header["Columns"].isdigit() else None
    return image_size(folder, source) if source and not source.lower().endswith(".dcm") else None


def _runs_table(folder: Folder) -> str | None:
    """Return the table of run lengths: of several the largest, as the second stage repeats the first."""
    return max(_runs_tables(folder), key=lambda name: (folder.root / name).stat().st_size, default=None)


def _runs_tables(folder: Folder) -> list[str]:
    return find_tables(folder, ("ImageId", "EncodedPixels"), skip=_NOT_TRUTH)


def _flag_tables(folder: Folder) -> list[str]:
    return find_tables(folder, ("ImageId", _FLAG), skip=_NOT_TRUTH)


def _is_mask(path: str) -> bool:
    parts = PurePosixPath(path)
    return any(_MASK_FOLDER.fullmatch(part) for part in parts.parts[:-1]) or parts.stem.lower().endswith(
        ("_mask", "-mask")
    )


def _stem(cell: str) -> str:
    """Return the id that a cell means: it may carry a suffix, and the ids themselves hold dots."""
    return re.sub(r"\.(dcm|png|jpe?g)$", "", cell.strip(), flags=re.IGNORECASE)
