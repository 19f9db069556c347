"""ISIC 2019: three CSVs beside two folders of dermoscopic JPEGs, eight classes, grouped by lesion.

Source: https://challenge.isic-archive.com/data/#2019. Traps that copies of it have: doubled folders, extra or renamed columns
(`gender`), UNK in the official test only, lesions without id, `_downsampled` siblings, no lesion_id for the test.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from clinloop.datasets.case import Case, Detection, LayoutOptions, LayoutResult, Split
from clinloop.datasets.layouts.folder import ExcludedTally, Folder, Table, clean_value, duplicates, listed
from clinloop.errors import BadInput

_CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
_UNKNOWN_CLASS = "UNK"
_ATTRIBUTES = {
    "age_approx": ("age_approx", "age"),
    "anatom_site_general": ("anatom_site_general",),
    "sex": ("sex", "gender"),
}
_PARTS: dict[Split, str] = {"train": "ISIC_2019_Training", "test": "ISIC_2019_Test"}


class Isic2019:
    """The layout `isic2019`."""

    name = "isic2019"
    looks_for = "ISIC_2019_Training_GroundTruth.csv and ISIC_2019_Training_Input/"

    def detect(self, folder: Folder, options: LayoutOptions) -> Detection:
        """Look for the training ground truth and its images."""
        if _find_table(folder, "train", "GroundTruth") is None:
            return Detection(0.0, "there is no ISIC_2019_Training_GroundTruth.csv")
        if not _images(folder, "train"):
            return Detection(
                0.0, "there is an ISIC_2019_Training_GroundTruth.csv, but no image in ISIC_2019_Training_Input/"
            )
        return Detection(1.0, "found ISIC_2019_Training_GroundTruth.csv and images in ISIC_2019_Training_Input/")

    def read(self, folder: Folder, options: LayoutOptions) -> LayoutResult:
        """Return the cases; `group_by` may name another metadata column than lesion_id, other options are not used."""
        if (found := self.detect(folder, options)).score == 0:
            raise BadInput(f"This is not the layout isic2019: {found.reason}.")
        if options.image_column or options.label_column:
            raise BadInput(
                "The layout isic2019 has fixed columns; leave out the image and label column, or use the layout csv_manifest."
            )
        tally, problems, cases = ExcludedTally(), list[str](), list[Case]()
        for split in _PARTS:
            cases += _read_part(folder, split, options, tally, problems)
        present = {case.label for case in cases if case.split == "train"}
        return LayoutResult(
            cases=cases,
            classes=[name for name in _CLASSES if name in present or any(case.label == name for case in cases)],
            group_kind={None: "lesion", "none": "image"}.get(options.group_by, options.group_by or "lesion"),
            attributes=list(_ATTRIBUTES),
            excluded=tally.result(),
            problems=problems,
            notes=["The class UNK has no training image by design of the challenge; it is left out."],
        )


def _read_part(
    folder: Folder, split: Split, options: LayoutOptions, tally: ExcludedTally, problems: list[str]
) -> list[Case]:
    truth_name = _find_table(folder, split, "GroundTruth")
    if truth_name is None:
        return []
    truth = folder.table(truth_name)
    columns = {name: i for name in (*_CLASSES, _UNKNOWN_CLASS) if (i := truth.column(name)) is not None}
    key = truth.column("image")
    if key is None or not columns.keys() & set(_CLASSES):
        raise BadInput(f"{PurePosixPath(truth_name).name} needs a column `image` and columns {', '.join(_CLASSES)}.")
    metadata = _metadata(folder, split, options, problems)
    images = _images(folder, split)
    names = [row[key] for row in truth.rows]
    if twice := duplicates(names):
        problems.append(
            f"{PurePosixPath(truth_name).name} lists {len(twice)} image(s) more than once ({listed(twice)}); keep one row each."
        )
    cases: list[Case] = []
    for row in truth.rows:
        name = row[key].removesuffix(".jpg")
        marked = [label for label, i in columns.items() if _is_one(row[i])]
        if name not in images:
            tally.add("a row of the ground truth without an image file", name, split)
        elif len(marked) > 1:
            tally.add("a row of the ground truth with several classes", name, split)
        elif not marked or marked[0] == _UNKNOWN_CLASS:
            tally.add("class UNK, which no training image has", name, split)
        else:
            group, attributes = metadata.get(name, (None, dict.fromkeys(_ATTRIBUTES, "")))
            cases.append(Case(images[name], marked[0], group, split, attributes))
    for name in sorted(images.keys() - {name.removesuffix(".jpg") for name in names}):
        tally.add("an image file without a row in the ground truth", name, split)
    return cases


def _metadata(
    folder: Folder, split: Split, options: LayoutOptions, problems: list[str]
) -> dict[str, tuple[str | None, dict[str, str]]]:
    """Return group and attributes by image name; empty where there is no metadata table."""
    name = _find_table(folder, split, "Metadata")
    if name is None:
        return {}
    table = folder.table(name)
    key = table.column("image")
    if key is None:
        raise BadInput(f"{PurePosixPath(name).name} needs a column `image`.")
    if twice := duplicates(row[key] for row in table.rows):
        problems.append(
            f"{PurePosixPath(name).name} lists {len(twice)} image(s) more than once ({listed(twice)}); keep one row each."
        )
    group = _group_column(table, split, options)
    columns = {attribute: table.first_of(names) for attribute, names in _ATTRIBUTES.items()}
    positions = {attribute: table.column(title) for attribute, title in columns.items() if title is not None}
    result: dict[str, tuple[str | None, dict[str, str]]] = {}
    for row in table.rows:
        values = {
            attribute: clean_value(row[i]) if (i := positions.get(attribute)) is not None else ""
            for attribute in _ATTRIBUTES
        }
        raw_group = clean_value(row[group]) if group is not None else ""
        result[row[key].removesuffix(".jpg")] = (raw_group or None, values)
    return result


def _group_column(table: Table, split: Split, options: LayoutOptions) -> int | None:
    if options.group_by == "none":
        return None
    position = table.column(options.group_by or "lesion_id")
    if position is None and options.group_by is not None and split == "train":
        raise BadInput(
            f"The training metadata has no column {options.group_by!r} to group by; it has {', '.join(table.header)}."
        )
    return position


def _find_table(folder: Folder, split: Split, kind: str) -> str | None:
    wanted = f"{_PARTS[split]}_{kind}.csv".casefold()
    found = [name for name in folder.tables if PurePosixPath(name).name.casefold() == wanted]
    return min(found, key=lambda name: (name.count("/"), name), default=None)


def _images(folder: Folder, split: Split) -> dict[str, str]:
    """Return image name (without suffix) to path; a doubled folder counts once."""
    wanted = f"{_PARTS[split]}_Input".casefold()
    found: dict[str, str] = {}
    for name in sorted(folder.images, key=lambda name: name.count("/")):
        path = PurePosixPath(name)
        if any(part.casefold() == wanted for part in path.parts[:-1]):
            found.setdefault(path.stem, name)
    return found


def _is_one(cell: str) -> bool:
    try:
        return float(cell) >= 0.5
    except ValueError:
        return False
