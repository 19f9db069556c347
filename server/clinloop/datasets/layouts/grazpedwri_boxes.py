"""The boxes of GRAZPEDWRI-DX in whichever of its three formats is there: YOLO, else Pascal VOC, else Supervisely.

Source: folder_structure.zip of https://doi.org/10.6084/m9.figshare.14825193. YOLO lines are `id x_centre y_centre width height` relative
to the image; VOC and Supervisely hold corners in pixels. Supervisely's `axis` is a line, not a box.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import Any

from clinloop.datasets.case import Box
from clinloop.datasets.layouts.boxed import Faults
from clinloop.datasets.layouts.documents import read_json, read_xml, read_yaml
from clinloop.datasets.layouts.folder import Folder
from clinloop.datasets.layouts.public import by_stem

TARGETS = (
    "boneanomaly",
    "bonelesion",
    "foreignbody",
    "fracture",
    "metal",
    "periostealreaction",
    "pronatorsign",
    "softtissue",
    "text",
)
"""In the order of their YOLO ids: fracture is 3."""
_SLACK_PX = 1.0
"""How far a box may end outside its image by rounding; what is more is refused."""
_FORMATS = {"YOLO": ".txt", "Pascal VOC": ".xml", "Supervisely": ".json"}

Size = tuple[int, int]


class Annotations:
    """Finds and reads the annotation file of an image."""

    def __init__(self, folder: Folder, stems: Collection[str], faults: Faults) -> None:
        self._folder, self._faults = folder, faults
        self._files = {kind: _files(folder, suffix, stems) for kind, suffix in _FORMATS.items()}
        self._names: dict[PurePosixPath, dict[int, str]] = {}
        self.used: Counter[str] = Counter()
        """How many images had which format."""
        self.seen: Counter[str] = Counter()
        """Boxes by target, of all targets."""

    @property
    def exist(self) -> bool:
        """Tell whether any image has an annotation file."""
        return any(self._files.values())

    def of(self, stem: str, size: Size) -> tuple[Box, ...] | None:
        """Return the boxes of an image of (width, height) in its pixels; () = annotated, and nothing there; None = no annotation file.

        Boxes that cannot be read, or lie outside the image, are faults.
        """
        for kind, files in self._files.items():
            if (name := files.get(stem)) is not None:
                self.used[kind] += 1
                read = {"YOLO": self._yolo, "Pascal VOC": self._voc, "Supervisely": self._supervisely}[kind]
                boxes = tuple(dict.fromkeys(read(name, size)))
                self.seen.update(box.target for box in boxes)
                return boxes
        return None

    def _yolo(self, name: str, size: Size) -> list[Box]:
        names = self._names_for(name)
        boxes: list[Box] = []
        for number, line in enumerate(self._folder.text(name).splitlines(), start=1):
            if not (cells := line.split()):
                continue
            values = [_number(cell) for cell in cells]
            place = f"{name}, line {number}"
            numbers = [value for value in values if value is not None]
            if len(values) != 5 or len(numbers) != 5:
                self._faults.add("a line that is not 5 numbers (id, x, y, width, height)", place)
            elif numbers[0] not in names:
                self._faults.add("a line with an id that has no name", place)
            else:
                x, y, w, h = (value * side for value, side in zip(numbers[1:], size * 2, strict=True))
                boxes += self._fitting(
                    names[int(numbers[0])], (x - w / 2, y - h / 2, x + w / 2, y + h / 2), size, place
                )
        return boxes

    def _voc(self, name: str, size: Size) -> list[Box]:
        boxes: list[Box] = []
        for number, item in enumerate(read_xml(self._folder, name).iterfind("object"), start=1):
            corners = [_number(item.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
            boxes += self._fitting((item.findtext("name") or "").strip(), corners, size, f"{name}, object {number}")
        return boxes

    def _supervisely(self, name: str, size: Size) -> list[Box]:
        content: Any = read_json(self._folder, name)
        objects = content.get("objects") if isinstance(content, dict) else None
        boxes: list[Box] = []
        for number, item in enumerate(objects if isinstance(objects, list) else [], start=1):
            if (
                not isinstance(item, dict)
                or item.get("geometryType", "rectangle") != "rectangle"
                or item.get("classTitle") == "axis"
            ):
                continue
            corners = _corners(item.get("points"))
            boxes += self._fitting(str(item.get("classTitle", "")), corners, size, f"{name}, object {number}")
        return boxes

    def _fitting(self, target: str, corners: Sequence[float | None], size: Size, place: str) -> list[Box]:
        """Return the box between two corners, cut to the image where rounding went beyond it; nothing, and a fault, if it is none."""
        known = [value for value in corners if value is not None]
        if not target:
            self._faults.add("an object without a name", place)
        elif len(known) != 4:
            self._faults.add("an object without two corners", place)
        elif known[2] <= known[0] or known[3] <= known[1]:
            self._faults.add("a box of no size", place)
        elif min(known[:2]) < -_SLACK_PX or known[2] > size[0] + _SLACK_PX or known[3] > size[1] + _SLACK_PX:
            self._faults.add("a box outside its image", place)
        else:
            x1, y1 = (max(0.0, value) for value in known[:2])
            x2, y2 = (min(float(side), value) for value, side in zip(known[2:], size, strict=True))
            if x2 > x1 and y2 > y1:
                return [Box(target, x1, y1, x2 - x1, y2 - y1)]
            self._faults.add("a box of no size", place)
        return []

    def _names_for(self, name: str) -> dict[int, str]:
        """Return the targets by id as the nearest YAML file above a label file names them, else the published ones."""
        home = PurePosixPath(name).parent
        if home not in self._names:
            self._names[home] = next(
                (
                    names
                    for above in (home, *home.parents)
                    for yaml in self._folder.files(".yaml", ".yml")
                    if PurePosixPath(yaml).parent == above
                    and (names := _names(read_yaml(self._folder, yaml).get("names")))
                ),
                dict(enumerate(TARGETS)),
            )
        return self._names[home]


def _files(folder: Folder, suffix: str, stems: Collection[str]) -> dict[str, str]:
    """Return the annotation file of each image: the publisher's before copies elsewhere."""
    names = by_stem(folder.files(suffix), lambda path: "folder_structure" not in path).sources
    found = {stem.removesuffix(".png"): name for stem, name in names.items()}
    return {stem: name for stem, name in found.items() if stem in stems}


def _names(value: object) -> dict[int, str]:
    if isinstance(value, list):
        return {at: str(name).strip() for at, name in enumerate(value)}
    if isinstance(value, dict):
        return {int(key): str(name).strip() for key, name in value.items() if str(key).isdigit()}
    return {}


def _corners(points: Any) -> list[float]:
    """Return (left, top, right, bottom) of Supervisely's two points, which come in any order; [] if they are none."""
    exterior: Any = points.get("exterior") if isinstance(points, dict) else None
    if (
        not isinstance(exterior, list)
        or len(exterior) != 2
        or not all(isinstance(point, list) and len(point) == 2 for point in exterior)
    ):
        return []
    xs, ys = ([_number(str(point[axis])) for point in exterior] for axis in (0, 1))
    known_xs, known_ys = [x for x in xs if x is not None], [y for y in ys if y is not None]
    return [min(known_xs), min(known_ys), max(known_xs), max(known_ys)] if len(known_xs) == len(known_ys) == 2 else []


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
