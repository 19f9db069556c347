"""Class folders: the label of an image is the name of its folder, optionally below train, val and test."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import NamedTuple

from clinloop.datasets.case import Case, Detection, LayoutOptions, LayoutResult, Split
from clinloop.datasets.layouts.folder import (
    SPLIT_NAMES,
    ExcludedTally,
    Folder,
    clean_class,
    common_depth,
    listed,
    natural_key,
)
from clinloop.datasets.layouts.grouping import by_expression, by_person
from clinloop.errors import BadInput

_NOT_CLASSES = re.compile(
    r"(images?|img|imgs|masks?|labels?|annotations?|inputs?|targets?|gt|ground_?truth|data)([_-]?(part)?[_-]?\d+)?|isic_2019_.*_input",
    re.IGNORECASE,
)
_MAX_CLASSES = 1000


class _Placed(NamedTuple):
    source: str
    split: Split | None
    label: str
    nested: str
    """Folder below the class folder, "" if none."""


class ClassFolders:
    """The layout `class_folders`."""

    name = "class_folders"
    looks_for = "at least two folders named after classes with images in them (optionally below train/, val/ and test/)"

    def detect(self, folder: Folder, options: LayoutOptions) -> Detection:
        """Look for two or more folders that hold images and have names like classes."""
        placed, _ = _place(folder)
        labels = sorted({item.label for item in placed}, key=natural_key)
        if len(labels) < 2:
            return Detection(0.0, "there are no two folders with images" if folder.images else "there is no image")
        if sum(_NOT_CLASSES.fullmatch(label) is not None for label in labels) * 2 >= len(labels):
            return Detection(0.0, f"folders named {listed(labels)} do not look like classes")
        has_splits = any(item.split for item in placed)
        where = "train/val/test folders" if has_splits else "the folder"
        return Detection(0.7 if has_splits else 0.6, f"{where} with {len(labels)} class folders ({listed(labels)})")

    def read(self, folder: Folder, options: LayoutOptions) -> LayoutResult:
        """Return the cases; `group_by` is a regular expression on the file name whose first group is the group, or "none".

        Without it the group is the patient number in the file name (`patient12_…`) where most names have one, else the folder
        below the class folder where every class has several, else the image.
        """
        if options.image_column or options.label_column or options.attributes:
            raise BadInput("The layout class_folders has no columns; leave them out, or use the layout csv_manifest.")
        placed, tally = _place(folder)
        labels = sorted({item.label for item in placed}, key=natural_key)
        if len(labels) < 2:
            raise BadInput(
                f"This is not the layout class_folders: it needs {self.looks_for}; found {len(labels)} such folder(s)."
            )
        problems: list[str] = []
        cleaned = {label: clean_class(label) for label in labels}
        if len(set(cleaned.values())) < len(labels) or not all(cleaned.values()):
            problems.append("Two class folders have names that differ only in punctuation; rename one.")
        if len(labels) > _MAX_CLASSES:
            problems.append(f"{len(labels)} class folders; at most {_MAX_CLASSES} classes are supported.")
        kind, groups = _groups(placed, options.group_by)
        cases = [
            Case(item.source, cleaned[item.label], group, item.split)
            for item, group in zip(placed, groups, strict=True)
        ]
        return LayoutResult(
            cases=cases,
            classes=[cleaned[label] for label in labels],
            group_kind=kind,
            attributes=[],
            excluded=tally.result(),
            problems=problems,
            notes=[]
            if kind != "image"
            else ["Nothing says which images belong together; siblings and near-duplicates are grouped."],
        )


def _place(folder: Folder) -> tuple[list[_Placed], ExcludedTally]:
    """Tell split, class and deeper folder of every image; doubled folders are passed through at every level."""
    tally = ExcludedTally()
    paths = [PurePosixPath(name).parts for name in folder.images]
    depth = common_depth(paths)
    paths = [parts[depth:] for parts in paths]
    has_splits = any(len(parts) > 1 and SPLIT_NAMES.get(parts[0].casefold()) == "train" for parts in paths)
    by_split: dict[Split | None, list[tuple[str, tuple[str, ...]]]] = {}
    for source, parts in zip(folder.images, paths, strict=True):
        split = SPLIT_NAMES.get(parts[0].casefold()) if has_splits and len(parts) > 1 else None
        if has_splits and split is None:
            tally.add("an image outside the train, val and test folders", source)
        else:
            by_split.setdefault(split, []).append((source, parts[1:] if split else parts))
    placed: list[_Placed] = []
    for split, items in by_split.items():
        depth = common_depth([parts for _, parts in items]) if len({parts[0] for _, parts in items}) == 1 else 0
        if split is not None and depth and not any(len(parts) - depth > 1 for _, parts in items):
            depth -= 1  # a split with one class only: its folder is the class, not a doubled one
        for source, whole in items:
            parts = whole[depth:]
            if len(parts) < 2:
                tally.add("an image that lies in no class folder", source, split)
            else:
                placed.append(_Placed(source, split, parts[0], "/".join(parts[1:-1])))
    return _without_doubled_class_folders(placed), tally


def _without_doubled_class_folders(placed: list[_Placed]) -> list[_Placed]:
    by_class: dict[tuple[Split | None, str], list[str]] = {}
    for item in placed:
        by_class.setdefault((item.split, item.label), []).append(item.nested)
    shared = {key: nested[0] if len(set(nested)) == 1 else None for key, nested in by_class.items()}
    return [item._replace(nested="") if shared[item.split, item.label] == item.nested else item for item in placed]


def _groups(placed: list[_Placed], group_by: str | None) -> tuple[str, list[str | None]]:
    """Return the kind of group and the raw group of each image."""
    names = [PurePosixPath(item.source).name for item in placed]
    if group_by == "none":
        return "image", [None] * len(placed)
    if group_by is not None:
        return "group", by_expression(names, group_by)
    if persons := by_person(names):
        return "patient", persons
    folders: dict[str, set[str]] = {}
    for item in placed:
        folders.setdefault(item.label, set()).add(item.nested)
    if all(len(nested) >= 3 for nested in folders.values()):
        return "folder", [f"{item.label}/{item.nested}" if item.nested else None for item in placed]
    return "image", [None] * len(placed)
