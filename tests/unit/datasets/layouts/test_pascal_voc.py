"""Pascal VOC annotations as tools write them, and as they break."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clinloop.datasets.case import Box, LayoutOptions, LayoutResult
from clinloop.datasets.layouts import choose_layout
from clinloop.datasets.layouts.folder import Folder
from clinloop.errors import BadInput

Write = Callable[..., Path]


def read(root: Path, layout: str = "auto", **options: Any) -> LayoutResult:
    folder, chosen = Folder(root), LayoutOptions(**options)
    return choose_layout(folder, layout, chosen).layout.read(folder, chosen)


def bndbox(x1: object, y1: object, x2: object, y2: object, name: str = "fracture") -> str:
    edges = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    return f"<object><name>{name}</name><difficult>0</difficult><bndbox>{edges}</bndbox></object>"


def annotation(objects: str, *, size: tuple[int, int] = (60, 45), filename: str = "x.jpg") -> str:
    shape = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f'<?xml version="1.0"?>\n<annotation><filename>{filename}</filename>{shape}{objects}</annotation>'


@pytest.fixture
def write(tmp_path: Path, picture) -> Write:
    """Write a VOC devkit with images of 60 × 45."""

    def write_voc(annotations: dict[str, str], *, home: str = "VOC2012") -> Path:
        for folder in ("JPEGImages", "Annotations"):
            (tmp_path / home / folder).mkdir(parents=True, exist_ok=True)
        for at, (name, text) in enumerate(annotations.items()):
            picture(at).save(tmp_path / home / "JPEGImages" / f"{name}.jpg")
            (tmp_path / home / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")
        return tmp_path

    return write_voc


def test_pixels_that_count_from_one_become_boxes_that_count_from_zero(write: Write) -> None:
    result = read(write({"a": annotation(bndbox(1, 1, 60, 45)), "b": annotation("")}))
    assert result.task_type == "detection" and result.classes == ["no fracture", "fracture"]
    assert [(case.source, case.boxes) for case in result.cases] == [
        ("VOC2012/JPEGImages/a.jpg", (Box("fracture", 0, 0, 60, 45),)), ("VOC2012/JPEGImages/b.jpg", ()),
    ]  # fmt: skip
    assert any("from 1" in note for note in result.notes)


def test_files_with_a_coordinate_zero_count_from_zero(write: Write) -> None:
    result = read(write({"a": annotation(bndbox(0, 3, 10, 20)), "b": annotation(bndbox(5.5, 5, 15.5, 15, "metal"))}))
    assert [case.boxes for case in result.cases] == [(Box("fracture", 0, 3, 10, 17),), (Box("metal", 5.5, 5, 10, 10),)]
    assert any("from 0" in note for note in result.notes)


def test_splits_come_from_the_lists_of_the_devkit(write: Write) -> None:
    root = write({name: annotation(bndbox(1, 1, 9, 9)) for name in "abcd"})
    lists = root / "VOC2012" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name, text in {
        "train": "a\n",
        "trainval": "a\nb\n",
        "val": "b\n",
        "test": "c\n",
        "fracture_train": "d 1\n",
    }.items():
        (lists / f"{name}.txt").write_text(text, encoding="utf-8")
    result = read(root)
    assert [case.split for case in result.cases] == ["train", "val", "test"]
    assert [(item.reason, item.count) for item in result.excluded] == [
        ("an image that no list in ImageSets/Main names", 1)
    ]
    (lists / "test.txt").write_text("a\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"1 × an image .* in two splits"):
        read(root)


def test_a_wrong_size_is_noted_and_an_outline_becomes_the_box_around_it(write: Write) -> None:
    outline = "<object><name>fracture</name><polygon><x1>11</x1><y1>5</y1><x2>30</x2><y2>9</y2><x3>20</x3><y3>24</y3></polygon></object>"
    result = read(write({"a": annotation(outline, size=(600, 450)), "b": annotation("", size=(0, 0))}))
    assert result.cases[0].boxes == (Box("fracture", 10, 4, 20, 20),)
    assert any(note.startswith("1 annotation(s) state another size") for note in result.notes)


def test_images_without_annotation_are_unknown_and_annotations_without_image_are_left_out(
    write: Write, picture
) -> None:
    root = write({"a": annotation(bndbox(1, 1, 9, 9)), "b": annotation("")})
    picture(5).save(root / "VOC2012" / "JPEGImages" / "c.jpg")
    (root / "VOC2012" / "JPEGImages" / "b.jpg").unlink()
    result = read(root)
    assert [case.source for case in result.cases] == ["VOC2012/JPEGImages/a.jpg"]
    assert {(item.reason, item.examples) for item in result.excluded} == {
        ("an annotation without an image file", ("VOC2012/Annotations/b.xml",)),
        ("an image without an annotation file", ("VOC2012/JPEGImages/c.jpg",)),
    }


def test_annotations_find_the_image_of_their_own_tree_or_by_filename(write: Write, tmp_path: Path) -> None:
    write({"a": annotation(bndbox(1, 1, 9, 9))}, home="train")
    write({"a": annotation("")}, home="test")
    (tmp_path / "test" / "JPEGImages" / "a.jpg").rename(tmp_path / "test" / "JPEGImages" / "scan 1.jpg")
    (tmp_path / "test" / "Annotations" / "a.xml").rename(tmp_path / "test" / "Annotations" / "00.xml")
    (tmp_path / "test" / "Annotations" / "00.xml").write_text(annotation("", filename="scan 1.jpg"), encoding="utf-8")
    assert [(case.source, case.split, case.label) for case in read(tmp_path).cases] == [
        ("test/JPEGImages/scan 1.jpg", "test", "no fracture"), ("train/JPEGImages/a.jpg", "train", "fracture"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (bndbox(1, 1, "", 9), "has not the numbers"),
        (bndbox(1, 1, "wide", 9), "has not the numbers"),
        (bndbox(9, 1, 1, 9), "ends before it starts"),
        (bndbox(1, 1, 9, 9, ""), "without a name"),
        ("<object><name>fracture</name></object>", "has not the numbers"),
    ],
)
def test_bad_objects_are_refused_and_named_to_the_custodian(write: Write, objects: str, message: str) -> None:
    with pytest.raises(BadInput, match=f"1 × .*{message}") as refusal:
        read(write({"a": annotation(bndbox(1, 1, 9, 9)), "b": annotation(bndbox(1, 1, 9, 9) + objects)}))
    assert refusal.value.__notes__[0].startswith("VOC2012/Annotations/b.xml, object 2: ")


def test_xml_that_is_broken_or_defines_entities_is_refused(write: Write) -> None:
    with pytest.raises(BadInput, match=r"not XML \(line 2\)") as refusal:
        read(write({"a": annotation(bndbox(1, 1, 9, 9))[:-4]}))
    assert refusal.value.__notes__ == ["VOC2012/Annotations/a.xml"]
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + "<annotation>&b;</annotation>"
    with pytest.raises(BadInput, match="document type"):
        read(write({"a": bomb}))


def test_other_xml_files_are_not_taken_for_annotations(write: Write) -> None:
    with pytest.raises(BadInput, match="are no annotations"):
        read(write({"a": "<report/>"}))
