"""COCO: one JSON file (or one a split) with images, categories and boxes.

Source: https://cocodataset.org/#format-data. `bbox` is [x, y, width, height] in pixels, origin top left. Traps that files have: category
ids that are not 1…n, categories that nothing uses (Roboflow's id 0), images without annotation (negatives), crowd regions, boxes that are
missing beside polygons, the same images in several files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from clinloop.datasets.case import Box, Case, Detection, LayoutOptions, LayoutResult, Split
from clinloop.datasets.layouts.boxed import BoxedImages, box_around, detection_result
from clinloop.datasets.layouts.columns import ImageFinder
from clinloop.datasets.layouts.documents import as_text, holds_keys, read_json, split_in_folders, split_in_name
from clinloop.datasets.layouts.faults import Faults
from clinloop.datasets.layouts.folder import ExcludedTally, Folder, listed
from clinloop.errors import BadInput

_KEYS = ("images", "annotations", "categories")
_OF_FORMAT = frozenset({"id", "file_name", "license", "flickr_url", "coco_url", "date_captured", "width", "height"})


class _File(NamedTuple):
    name: str
    split: Split | None
    content: dict[str, Any]


class Coco:
    """The layout `coco`."""

    name = "coco"
    looks_for = "a JSON file with the keys images, annotations and categories, and boxes as [x, y, width, height]"

    def detect(self, folder: Folder, options: LayoutOptions) -> Detection:
        """Look for JSON files with the three keys of the format."""
        names = _candidates(folder)
        if not names:
            return Detection(0.0, "there is no JSON file with images, annotations and categories")
        if not folder.images:
            return Detection(0.0, f"there is {listed(names)}, but no image")
        return Detection(0.9, f"{listed(names)} with images, annotations and categories")

    def read(self, folder: Folder, options: LayoutOptions) -> LayoutResult:
        """Return the cases; further keys of `images` and a table that names the images give groups and attributes.

        A split comes from the name of the JSON file, else of a folder above it or above the image.
        """
        if (found := self.detect(folder, options)).score == 0:
            raise BadInput(f"This is not the layout coco: {found.reason}; it needs {self.looks_for}.")
        files = _choose([_File(name, split_in_name(name), _content(folder, name)) for name in _candidates(folder)])
        faults, finder = Faults(), ImageFinder(folder.images)
        images = BoxedImages([], _targets(files), ExcludedTally(), [], {})
        for file in files:
            _read_file(file, finder, images, faults)
        faults.refuse()
        for source in sorted(set(folder.images) - finder.used):
            images.tally.add("an image file that no annotation file lists", source)
        if any(
            "segmentation" in item for file in files for item in file.content["annotations"] if item.get("segmentation")
        ):
            images.notes.append("Outlines (segmentation) are not used, only boxes.")
        return detection_result(folder, options, images)


def _candidates(folder: Folder) -> list[str]:
    return [name for name in folder.files(".json") if holds_keys(folder, name, _KEYS)]


def _content(folder: Folder, name: str) -> dict[str, Any]:
    content = read_json(folder, name)
    for key in _KEYS:
        items = content.get(key) if isinstance(content, dict) else None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise BadInput(f"{name} has no list of objects under {key!r}, as COCO needs; export it again.")
    return content


def _choose(files: list[_File]) -> list[_File]:
    """Return the files of the dataset: those with annotations, and of these the ones named after splits if there are any."""
    annotated = [file for file in files if file.content["annotations"]]
    return [file for file in annotated if file.split] or annotated


def _targets(files: list[_File]) -> list[str]:
    """Return the names of the categories in the order of their ids."""
    pairs = [(item.get("id"), as_text(item.get("name"))) for file in files for item in file.content["categories"]]
    ordered = sorted(pairs, key=lambda pair: pair[0] if isinstance(pair[0], int) else 0)
    return list(dict.fromkeys(name for _, name in ordered))


def _read_file(file: _File, finder: ImageFinder, images: BoxedImages, faults: Faults) -> None:
    categories = {_id(item, "id"): as_text(item.get("name")) for item in file.content["categories"]}
    by_image: dict[object, list[dict[str, Any]]] = {}
    for number, item in enumerate(file.content["annotations"], start=1):
        by_image.setdefault(_id(item, "image_id"), []).append({**item, "": f"{file.name}, annotation {number}"})
    for number, item in enumerate(file.content["images"], start=1):
        name, key = as_text(item.get("file_name")), _id(item, "id")
        if not name or key is None:
            faults.add("an image without file_name or id", f"{file.name}, image {number}")
            continue
        annotations = by_image.pop(key, [])
        source = _find(finder, name, file)
        if source is None:
            images.tally.add("a listed image without an image file", name, file.split)
            continue
        boxes = [_box(annotation, categories, faults) for annotation in annotations if not annotation.get("iscrowd")]
        if annotations and not boxes:
            images.tally.add("an image that has crowd regions only", name, file.split)
            continue
        if len(boxes) < len(annotations) and not any("Crowd" in note for note in images.notes):
            images.notes.append("Crowd regions (iscrowd) are left out: they are no single boxes.")
        images.cases.append(
            Case(
                source,
                "",
                None,
                file.split or split_in_folders(source),
                boxes=tuple(box for box in boxes if box is not None),
            )
        )
        assert images.own is not None
        images.own[source] = {
            key: as_text(value)
            for key, value in item.items()
            if key not in _OF_FORMAT and not isinstance(value, dict | list)
        }
    for annotations in by_image.values():
        for annotation in annotations:
            faults.add("an annotation of an image that is not in the list of images", annotation[""])


def _id(item: Mapping[str, Any], key: str) -> int | str | None:
    """Return an id, None for what cannot be one."""
    value = item.get(key)
    return value if isinstance(value, int | str) else None


def _find(finder: ImageFinder, name: str, file: _File) -> str | None:
    """Return the image of a file_name: beside the JSON file, in images/ beside it, in a folder of its split, or anywhere if it is unique."""
    folder = PurePosixPath(file.name).parent
    if beside := finder.exact((folder / "images" / name).as_posix()) or finder.exact((folder / name).as_posix()):
        return beside
    of_split = [source for source in finder.named(name) if file.split and split_in_folders(source) == file.split]
    return finder.exact(of_split[0]) if len(of_split) == 1 else finder.find(name, file.name)


def _box(annotation: Mapping[str, Any], categories: Mapping[int | str | None, str], faults: Faults) -> Box | None:
    category = _id(annotation, "category_id")
    target = "" if category is None else categories.get(category, "")
    if not target:
        faults.add("an annotation of a category that is not in the list of categories", annotation[""])
        return None
    box = annotation.get("bbox")
    if not box and isinstance(outline := annotation.get("segmentation"), list) and outline:
        points = [
            pair
            for polygon in outline
            if isinstance(polygon, list)
            for pair in zip(polygon[::2], polygon[1::2], strict=False)
        ]
        if points and all(_are_numbers(pair) for pair in points):
            return box_around([(float(x), float(y)) for x, y in points], target)
    if not isinstance(box, list) or len(box) != 4 or not _are_numbers(box):
        faults.add("an annotation whose bbox is not four numbers [x, y, width, height]", annotation[""])
        return None
    return Box(target, *(float(value) for value in box))


def _are_numbers(values: object) -> bool:
    return isinstance(values, list | tuple) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values
    )
