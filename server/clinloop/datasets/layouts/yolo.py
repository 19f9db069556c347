"""YOLO: one text file of relative boxes an image, in labels/ beside images/, and a YAML file with the names of the classes.

Source: https://docs.ultralytics.com/datasets/detect. A line is `class x_centre y_centre width height`, or `class x1 y1 x2 y2 x3 y3 …` for an
outline (the box around it counts), all relative to the image as a viewer shows it. Traps that datasets have: an empty or missing text file
is background, but a folder without any is unlabelled; paths in the YAML file that were right elsewhere; `full/` beside `train/`; label files
without image; classes.txt in place of the YAML file.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from clinloop.datasets.case import Box, Case, Detection, LayoutOptions, LayoutResult
from clinloop.datasets.layouts.boxed import BoxedImages, box_around, detection_result
from clinloop.datasets.layouts.faults import Faults
from clinloop.datasets.layouts.folder import ExcludedTally, Folder
from clinloop.datasets.layouts.sizes import shown_size
from clinloop.datasets.layouts.yolo_yaml import YoloYaml, find_yaml
from clinloop.errors import BadInput

_LINE = re.compile(r"\s*\d+(\.0*)?(\s+[-+.\deE]+){4,}\s*")
_NOT_LABELS = re.compile(r"classes|labels|names|obj|notes?|(read[_ ]?me|licen[sc]e|requirements).*|(autosplit_)?(train|val|valid|test|trainval)(\d{4})?", re.IGNORECASE)  # fmt: skip
_SLACK = 0.01
"""How far a relative coordinate may lie beyond 0 and 1: rounding."""


class Yolo:
    """The layout `yolo`."""

    name = "yolo"
    looks_for = "images/ and labels/ with one text file of `class x y width height` (relative) an image, and a YAML file with names"

    def detect(self, folder: Folder, options: LayoutOptions) -> Detection:
        """Look for label files that belong to images and read as lines of numbers."""
        labels = _Labels(folder)
        paired = [name for source in folder.images if (name := labels.of(source))]
        if not paired:
            return Detection(0.0, "there is no text file of boxes that belongs to an image")
        filled = [name for name in paired if (folder.root / name).stat().st_size]  # an empty file is background
        sample = [folder.text(name).splitlines() for name in filled[:: max(1, len(filled) // 20)]]
        lines = [line for text in sample for line in text if line.strip()]
        if not lines or sum(_LINE.fullmatch(line) is not None for line in lines) * 2 < len(lines):
            return Detection(0.0, "the text files of the images' names hold no lines `class x y width height`")
        try:
            names = find_yaml(folder)
        except BadInput as refusal:
            return Detection(
                0.9, f"{len(paired)} label files of boxes that belong to images, but {refusal}".rstrip(".")
            )
        source = names.file if names else "no YAML file with names"
        return Detection(0.9, f"{len(paired)} label files of boxes that belong to images, and {source}")

    def read(self, folder: Folder, options: LayoutOptions) -> LayoutResult:
        """Return the cases; splits come from the YAML file, else from folders called train, val and test.

        A table that names the images gives groups and attributes, else the file names give groups.
        """
        if (found := self.detect(folder, options)).score == 0:
            raise BadInput(f"This is not the layout yolo: {found.reason}; it needs {self.looks_for}.")
        labels, yaml, notes = _Labels(folder), find_yaml(folder), list[str]()
        names = (yaml.names if yaml else None) or _names_in_text(folder)
        tally, faults, cases = ExcludedTally(), Faults(), list[Case]()
        used: set[str] = set()
        seen: set[int] = set()
        any_outline = False
        for source, split in (yaml or YoloYaml("", {}, {})).splits(folder, tally, notes):
            name = labels.of(source)
            if name is None and not labels.cover(source):
                tally.add("an image of a folder without label files", source, split)
                continue
            used.add(name or "")
            objects = _parse(folder.text(name), name, names, faults) if name else []
            size = shown_size(folder.root / source)
            if size is None:
                tally.add("an image that cannot be read", source, split)
                continue
            seen.update(item.number for item in objects)
            any_outline |= any(len(item.values) > 4 for item in objects)
            cases.append(Case(source, "", None, split, boxes=_boxes(objects, names, size)))
        faults.refuse()
        for name in sorted(labels.names - used - labels.of_any(folder.images)):
            tally.add("a label file without an image", name)
        if any_outline:
            notes.append("Outlines count as the boxes around them.")
        if not names:
            notes.append("No file names the classes; they are called by their number.")
        targets = [_called(number, names) for number in sorted(names or seen)]
        return detection_result(folder, options, BoxedImages(cases, targets, tally, notes))


class _Object(NamedTuple):
    number: int
    values: tuple[float, ...]
    """Relative: (x_centre, y_centre, width, height) or (x1, y1, x2, y2, x3, y3, …)."""


class _Labels:
    """Which text file belongs to which image."""

    def __init__(self, folder: Folder) -> None:
        names = {name for name in folder.files(".txt") if not _NOT_LABELS.fullmatch(PurePosixPath(name).stem)}
        beside = {str(PurePosixPath(source).with_suffix(".txt")) for source in folder.images}
        self.names = {name for name in names if name in beside or _is_in_labels(name)}
        self._folders = {PurePosixPath(name).parent for name in self.names}
        # A label file that lies where the format puts none may be that of the only image of its name.
        placed = {name for source in folder.images if (name := self._beside(source))}
        stems = Counter(PurePosixPath(name).stem for name in [*folder.images, *(self.names - placed)])
        self._apart = {stem: name for name in self.names - placed if stems[stem := PurePosixPath(name).stem] == 2}

    def of(self, source: str) -> str | None:
        """Return the label file of an image: where the format puts it, else the only one of its name in a folder of labels."""
        return self._beside(source) or self._apart.get(PurePosixPath(source).stem)

    def _beside(self, source: str) -> str | None:
        return next((str(path) for path in _label_paths(source) if str(path) in self.names), None)

    def of_any(self, sources: Sequence[str]) -> set[str]:
        """Return the label files that belong to some images."""
        return {name for source in sources if (name := self.of(source))}

    def cover(self, source: str) -> bool:
        """Tell whether other images of its folder have label files, so that a missing one means background."""
        return any(path.parent in self._folders for path in _label_paths(source))


def _label_paths(source: str) -> list[PurePosixPath]:
    """Return where the label file of an image may lie: images/ → labels/ at the last place, ../labels/, or beside the image."""
    path = PurePosixPath(source).with_suffix(".txt")
    found: list[PurePosixPath] = []
    places = [i for i, part in enumerate(path.parts[:-1]) if part.casefold() in {"images", "image", "imgs"}]
    for place in reversed(places):
        found += [
            PurePosixPath(*path.parts[:place], name, *path.parts[place + 1 :]) for name in ("labels", "Labels", "label")
        ]
    return [
        *found,
        path.parent.parent / "labels" / path.parent.name / path.name,
        path.parent.parent / "labels" / path.name,
        path,
    ]


def _is_in_labels(name: str) -> bool:
    return any(re.match(r"labels?\b|yolo", part.casefold()) for part in PurePosixPath(name).parts[:-1])


def _parse(text: str, name: str, names: dict[int, str] | None, faults: Faults) -> list[_Object]:
    objects: list[_Object] = []
    for number, line in enumerate(text.splitlines(), start=1):
        cells = line.split()
        if not cells:
            continue
        place = f"{name}, line {number}"
        try:
            values = tuple(float(cell) for cell in cells)
        except ValueError:
            faults.add("a line that is not numbers", place)
            continue
        kind, rest = values[0], values[1:]
        if len(rest) != 4 and (len(rest) < 6 or len(rest) % 2):
            faults.add("a line that has neither 5 numbers nor an outline of at least 3 points", place)
        elif not kind.is_integer() or (names and int(kind) not in names) or kind < 0:
            faults.add("a line whose class has no name", place)
        elif not all(math.isfinite(value) and -_SLACK <= value <= 1 + _SLACK for value in rest):
            faults.add("a line with a coordinate outside 0 to 1 (boxes are relative to the image)", place)
        else:
            objects.append(_Object(int(kind), rest))
    return list(dict.fromkeys(objects))  # exporters repeat lines


def _boxes(objects: Sequence[_Object], names: dict[int, str] | None, size: tuple[int, int]) -> tuple[Box, ...]:
    width, height = size
    boxes: list[Box] = []
    for number, values in objects:
        target = _called(number, names)
        if len(values) == 4:
            x, y, w, h = values
            boxes.append(Box(target, (x - w / 2) * width, (y - h / 2) * height, w * width, h * height))
        else:
            points = [(x * width, y * height) for x, y in zip(values[::2], values[1::2], strict=True)]
            boxes.append(box_around(points, target))
    return tuple(boxes)


def _called(number: int, names: dict[int, str] | None) -> str:
    return (names or {}).get(number, f"class {number}")


def _names_in_text(folder: Folder) -> dict[int, str] | None:
    """Return the names in a classes.txt, one a line."""
    found = [
        name for name in folder.files(".txt") if PurePosixPath(name).name.casefold() in {"classes.txt", "obj.names.txt"}
    ]
    for name in sorted(found, key=lambda name: (name.count("/"), name)):
        if lines := [line.strip() for line in folder.text(name).splitlines() if line.strip()]:
            return dict(enumerate(lines))
    return None
