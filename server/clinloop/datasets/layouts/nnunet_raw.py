"""nnU-Net raw data: dataset.json beside imagesTr/CASE_0000.png and labelsTr/CASE.png.

Source: MIC-DKFZ/nnUNet, documentation/dataset_format.md. Labels are whole numbers, 0 the background; `labels` maps names to numbers or lists of
them (version 1: numbers to names). imagesTs has no labels by the format; where a labelsTs lies beside it, it is the test set. Case names tell no
patients, and a split of cases is kept from splits_final.json only.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from clinloop.datasets.case import Case, Detection, LayoutOptions, LayoutResult, MaskFile, Split
from clinloop.datasets.layouts.documents import as_text, read_json
from clinloop.datasets.layouts.folder import ExcludedTally, Folder, listed
from clinloop.datasets.layouts.masked import MaskedImages, segmentation_result
from clinloop.errors import BadInput

_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")
_PARTS: tuple[tuple[str, str, Split | None], ...] = (("imagesTr", "labelsTr", None), ("imagesTs", "labelsTs", "test"))


class _Target(NamedTuple):
    name: str
    values: tuple[int, ...]


class NnunetRaw:
    """The layout `nnunet_raw`."""

    name = "nnunet_raw"
    looks_for = "dataset.json, imagesTr/CASE_0000.png and labelsTr/CASE.png (2D images)"

    def detect(self, folder: Folder, options: LayoutOptions) -> Detection:
        """Look for dataset.json beside imagesTr and labelsTr."""
        homes = _homes(folder)
        if not homes:
            return Detection(0.0, "there is no dataset.json beside imagesTr and labelsTr")
        if len(homes) > 1:
            return Detection(0.95, f"{len(homes)} datasets ({listed(homes)}) with dataset.json, imagesTr and labelsTr")
        if not any(name.startswith(_within(homes[0], "imagesTr")) for name in folder.images):
            return Detection(0.95, "dataset.json, but no 2D image in imagesTr")
        return Detection(0.95, "dataset.json beside imagesTr and labelsTr")

    def read(self, folder: Folder, options: LayoutOptions) -> LayoutResult:
        """Return the cases; of several labels `label_column` names the one that is the target, without it all of them together are.

        Raises:
            BadInput: as `Layout.read`; also for volumes, several channel files a case and several datasets.
        """
        homes = _homes(folder)
        if not homes:
            raise BadInput(f"This is not the layout nnunet_raw: it needs {self.looks_for}.")
        if len(homes) > 1:
            raise BadInput(f"The folder holds {len(homes)} nnU-Net datasets ({listed(homes)}); add the folder of one.")
        (home,) = homes
        content = read_json(folder, _within(home, "dataset.json").rstrip("/"))
        content = content if isinstance(content, dict) else {}
        ending = as_text(content.get("file_ending"))
        if not any(name.startswith(_within(home, "imagesTr")) for name in folder.images):
            raise BadInput(
                f"imagesTr holds no 2D images{f' (file_ending is {ending})' if ending else ''}; volumes are not supported, export slices as PNG."
            )
        notes: list[str] = []
        target = _target(content, options, notes)
        splits = _splits(folder, home)
        tally, cases = ExcludedTally(), list[Case]()
        for images, labels, split in _PARTS:
            _read_part(folder, _within(home, images), _within(home, labels), split, splits, target, cases, tally)
        return segmentation_result(
            folder,
            LayoutOptions(options.group_by, options.image_column, None, options.attributes),
            MaskedImages(cases, target.name, tally, notes),
        )


def _homes(folder: Folder) -> list[str]:
    """Return the folders that hold dataset.json, imagesTr and labelsTr."""
    parents = [
        PurePosixPath(name).parent.as_posix()
        for name in folder.files(".json")
        if PurePosixPath(name).name == "dataset.json"
    ]
    return [home for home in parents if all((folder.root / home / part).is_dir() for part in ("imagesTr", "labelsTr"))]


def _within(home: str, name: str) -> str:
    return f"{name}/" if home == "." else f"{home}/{name}/"


def _target(content: dict[str, Any], options: LayoutOptions, notes: list[str]) -> _Target:
    """Return the target and its values from `labels`."""
    labels = content.get("labels")
    named: dict[str, tuple[int, ...]] = {}
    for key, value in labels.items() if isinstance(labels, dict) else ():
        name, numbers = (as_text(value), [key]) if str(key).isdigit() and isinstance(value, str) else (str(key), value)
        numbers = numbers if isinstance(numbers, list) else [numbers]
        if name and all(as_text(number).isdigit() for number in numbers):
            named[name] = tuple(int(as_text(number)) for number in numbers)
    named = {
        name: values
        for name, values in named.items()
        if any(values) and name.casefold() not in {"background", "ignore"}
    }
    if not named:
        raise BadInput('dataset.json has no labels such as {"background": 0, "lesion": 1}; add them.')
    if options.label_column:
        found = next((name for name in named if name.casefold() == options.label_column.casefold()), None)
        if found is None:
            raise BadInput(f"dataset.json has no label {options.label_column!r}; it has {listed(list(named), 30)}.")
        return _Target(found, named[found])
    if len(named) == 1:
        return _Target(*next(iter(named.items())))
    notes.append(
        f"The labels {listed(list(named), 20)} count as one target; name one as the label column to have it alone."
    )
    return _Target("foreground", tuple(sorted({value for values in named.values() for value in values if value})))


def _read_part(
    folder: Folder, images: str, labels: str, split: Split | None, splits: dict[str, Split], target: _Target, cases: list[Case], tally: ExcludedTally
) -> None:  # fmt: skip
    masks = {PurePosixPath(name).stem: name for name in folder.images if name.startswith(labels)}
    channels: dict[str, list[str]] = {}
    for name in folder.images:
        if name.startswith(images):
            found = _CHANNEL.match(PurePosixPath(name).stem)
            if found is None:
                tally.add("an image whose name does not end in a channel such as _0000", name, split)
            else:
                channels.setdefault(found["case"], []).append(name)
    if several := [case for case, names in channels.items() if len(names) > 1]:
        raise BadInput(
            f"{len(several)} case(s) have several channel files; one image a case is supported: merge the channels into an RGB image or keep one."
        )
    for case, (image,) in channels.items():
        mask = masks.pop(case, None)
        if mask is None:
            tally.add("an image without a label file", image, split)
        else:
            cases.append(Case(image, "", None, split or splits.get(case), mask=MaskFile(mask, target.values)))
    for mask in masks.values():
        tally.add("a label file without an image", mask, split)


def _splits(folder: Folder, home: str) -> dict[str, Split]:
    """Return the first fold of splits_final.json, empty without that file."""
    name = next(
        (name for name in folder.files(".json") if name == _within(home, "splits_final.json").rstrip("/")), None
    )
    if name is None:
        return {}
    folds = read_json(folder, name)
    first = folds[0] if isinstance(folds, list) and folds and isinstance(folds[0], dict) else {}
    train, val = first.get("train"), first.get("val")
    if not isinstance(train, list) or not isinstance(val, list):
        raise BadInput(f'{name} is not a list of {{"train": [cases], "val": [cases]}}; correct or remove it.')
    found: dict[str, Split] = {as_text(case): "train" for case in train}
    for case in val:
        found[as_text(case)] = "val"
    return found
