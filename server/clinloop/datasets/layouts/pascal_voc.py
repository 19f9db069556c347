"""Pascal VOC: one XML file an image with an `object` for every box.

Source: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf. `bndbox` counts pixels from 1 and includes both ends, so x = xmin - 1 and
width = xmax - xmin + 1; files with a coordinate 0 count from 0 (labelImg and other tools write them). Traps that datasets have: a `size`
that is 0 or of another image, `filename` that is not the file's name, outlines without bndbox.
"""

from __future__ import annotations

import math
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from clinloop.datasets.case import Box, Case, Detection, LayoutOptions, LayoutResult, Split
from clinloop.datasets.layouts.boxed import BoxedImages, box_around, detection_result
from clinloop.datasets.layouts.columns import ImageFinder
from clinloop.datasets.layouts.documents import read_xml, split_in_folders
from clinloop.datasets.layouts.faults import Faults, refuse_each
from clinloop.datasets.layouts.folder import ExcludedTally, Folder, natural_key
from clinloop.datasets.layouts.sizes import shown_size
from clinloop.errors import BadInput

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_LISTS: dict[str, Split] = {"train": "train", "val": "val", "test": "test"}


class PascalVoc:
    """The layout `pascal_voc`."""

    name = "pascal_voc"
    looks_for = "XML files with <annotation> and <object><bndbox> in them, one an image"

    def detect(self, folder: Folder, options: LayoutOptions) -> Detection:
        """Look for XML files that are annotations of images."""
        names = folder.files(".xml")
        if not names:
            return Detection(0.0, "there is no XML file")
        sample = names[:: max(1, len(names) // 20)]
        if sum(_is_annotation(folder, name) for name in sample) * 2 < len(sample):
            return Detection(0.0, "the XML files are no annotations")
        if not folder.images:
            return Detection(0.0, "there are XML files of annotations, but no image")
        return Detection(0.9, f"{len(names)} XML files of annotations")

    def read(self, folder: Folder, options: LayoutOptions) -> LayoutResult:
        """Return the cases; splits come from ImageSets/Main/{train,val,test}.txt, else from folders called train, val and test.

        A table that names the images gives groups and attributes, else the file names give groups.
        """
        if (found := self.detect(folder, options)).score == 0:
            raise BadInput(f"This is not the layout pascal_voc: {found.reason}; it needs {self.looks_for}.")
        faults, tally, notes = Faults(), ExcludedTally(), list[str]()
        stems, marked = {PurePosixPath(name).stem for name in folder.images}, list[_Marked]()
        for name in folder.files(".xml"):
            if _is_annotation(folder, name):
                marked.append(_parse(read_xml(folder, name), name, faults))
            elif (
                PurePosixPath(name).stem in stems
            ):  # a damaged file must not turn its image into one that nobody annotated
                faults.add("an XML file of an image that holds no annotation", name)
        faults.refuse()
        shift = 0.0 if any(min(edge.x1, edge.y1) < 1 for item in marked for edge in item.edges) else 1.0
        notes.append(
            "Boxes count pixels from 1, as the format says."
            if shift
            else "Boxes count pixels from 0: some have a coordinate 0."
        )
        finder, lists, cases, wrong_sizes = ImageFinder(folder.images), _lists(folder), list[Case](), 0
        for item in marked:
            source = _find(item, finder)
            split = lists.get(PurePosixPath(item.name).stem) if lists else split_in_folders(source or item.name)
            if source is None:
                tally.add("an annotation without an image file", item.name, split)
            elif lists and split is None:
                tally.add("an image that no list in ImageSets/Main names", item.name)
            else:
                wrong_sizes += item.size is not None and item.size != shown_size(folder.root / source)
                boxes = tuple(Box(edge.target, edge.x1 - shift, edge.y1 - shift, edge.x2 - edge.x1 + shift, edge.y2 - edge.y1 + shift)
                              for edge in item.edges)  # fmt: skip
                cases.append(Case(source, "", None, split, boxes=boxes))
        for source in sorted(set(folder.images) - finder.used):
            tally.add("an image without an annotation file", source)
        if wrong_sizes:
            notes.append(
                f"{wrong_sizes} annotation(s) state another size than their image has; boxes are taken as pixels of the image."
            )
        targets = sorted({edge.target for item in marked for edge in item.edges}, key=natural_key)
        return detection_result(folder, options, BoxedImages(cases, targets, tally, notes))


class _Edges(NamedTuple):
    """A box as written: both corners belong to it."""

    target: str
    x1: float
    y1: float
    x2: float
    y2: float


class _Marked(NamedTuple):
    name: str
    filename: str
    size: tuple[int, int] | None
    """(width, height) as written, None if it is missing or 0."""
    edges: list[_Edges]


def _is_annotation(folder: Folder, name: str) -> bool:
    with (folder.root / name).open("rb") as file:
        return b"<annotation" in file.read(4096)


def _parse(root: Element, name: str, faults: Faults) -> _Marked:
    edges: list[_Edges] = []
    for number, item in enumerate(root.iterfind("object"), start=1):
        place, target = f"{name}, object {number}", (item.findtext("name") or "").strip()
        corners = [_number(item.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
        if item.find("bndbox") is None and (points := _outline(item)):
            around = box_around(points, target)
            corners = [around.x, around.y, around.x + around.width, around.y + around.height]
        if not target:
            faults.add("an object without a name", place)
        elif any(corner is None for corner in corners):
            faults.add("an object whose bndbox has not the numbers xmin, ymin, xmax, ymax", place)
        else:
            x1, y1, x2, y2 = (corner for corner in corners if corner is not None)
            if x2 < x1 or y2 < y1:
                faults.add("an object whose bndbox ends before it starts", place)
            else:
                edges.append(_Edges(target, x1, y1, x2, y2))
    width, height = (_number(root.findtext(f"size/{key}")) for key in ("width", "height"))
    return _Marked(
        name, (root.findtext("filename") or "").strip(), (int(width), int(height)) if width and height else None, edges
    )


def _outline(item: Element) -> list[tuple[float, float]]:
    """Return the points of a polygon, as `<pt><x/><y/></pt>` or `<x1/><y1/><x2/><y2/>…`."""
    polygon = item.find("polygon")
    if polygon is None:
        return []
    pairs = [(_number(point.findtext("x")), _number(point.findtext("y"))) for point in polygon.iterfind("pt")]
    pairs = pairs or [
        (_number(polygon.findtext(f"x{i}")), _number(polygon.findtext(f"y{i}")))
        for i in range(1, len(polygon) // 2 + 1)
    ]
    return [(x, y) for x, y in pairs if x is not None and y is not None]


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _find(item: _Marked, finder: ImageFinder) -> str | None:
    """Return the image of an annotation: by the name of the XML file (in JPEGImages/ or images/ of the same tree first), else by `filename`."""
    path = PurePosixPath(item.name)
    return finder.nearest(path) or (finder.find(item.filename, item.name) if item.filename else None)


def _lists(folder: Folder) -> dict[str, Split]:
    """Return the split of every stem that ImageSets/Main lists; trainval counts as train where train is not listed."""
    found: dict[str, Split] = {}
    either: list[str] = []
    for name in folder.files(".txt"):
        path = PurePosixPath(name)
        if path.parts[-3:-1] != ("ImageSets", "Main") or path.stem not in {*_LISTS, "trainval"}:
            continue
        stems = [words[0] for line in folder.text(name).splitlines() if (words := line.split())]
        if (split := _LISTS.get(path.stem)) is None:
            either += stems
            continue
        refuse_each(
            [stem for stem in stems if found.get(stem, split) != split],
            "an image that ImageSets/Main lists in two splits",
        )
        found.update(dict.fromkeys(stems, split))
    for stem in either:
        found.setdefault(stem, "train")
    return found
