"""COCO files as tools export them, and as they break."""

from __future__ import annotations

import json
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


@pytest.fixture
def write(tmp_path: Path, picture) -> Write:
    """Write images 0.png … and a JSON file; category ids are 7 (fracture) and 3 (metal)."""

    def write_coco(
        boxes: dict[int, list[tuple[int, list[float]]]],
        *,
        name: str = "annotations.json",
        home: str = "images",
        **changes: Any,
    ) -> Path:
        (tmp_path / home).mkdir(parents=True, exist_ok=True)
        for i in boxes:
            picture(i).save(tmp_path / home / f"{i}.png")
        content = {
            "info": {"description": "wrists"},
            "images": [{"id": 100 + i, "file_name": f"{i}.png", "width": 60, "height": 45, "patient_id": f"P{i // 2}", "view": "PA"} for i in boxes],
            "annotations": [
                {"id": n, "image_id": 100 + i, "category_id": category, "bbox": box, "iscrowd": 0}
                for n, (i, category, box) in enumerate((i, c, b) for i, items in boxes.items() for c, b in items)
            ],
            "categories": [{"id": 7, "name": "fracture"}, {"id": 3, "name": "metal"}],
        } | changes  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
        return tmp_path

    return write_coco


FRACTURE, METAL = (7, [10, 5, 20, 10.5]), (3, [0, 0, 4, 4])


def test_boxes_keep_pixels_and_images_without_annotation_are_negatives(write: Write) -> None:
    result = read(write({0: [FRACTURE], 1: [], 2: [FRACTURE, FRACTURE]}))
    assert result.task_type == "detection" and result.targets == ["fracture"]
    assert result.classes == ["no fracture", "fracture"]
    assert [(case.source, case.label, case.boxes) for case in result.cases] == [
        ("images/0.png", "fracture", (Box("fracture", 10.0, 5.0, 20.0, 10.5),)),
        ("images/1.png", "no fracture", ()),
        ("images/2.png", "fracture", (Box("fracture", 10.0, 5.0, 20.0, 10.5),) * 2),
    ]
    assert {case.supervision for case in result.cases} == {"box"}
    assert any("metal" in note for note in result.notes) and not result.problems


def test_several_targets_label_an_image_by_the_most_frequent_and_keep_the_order_of_ids(write: Write) -> None:
    result = read(write({0: [FRACTURE, METAL, METAL], 1: [], 2: [FRACTURE, METAL], 3: [FRACTURE]}))
    assert result.targets == ["metal", "fracture"]
    assert [case.label for case in result.cases] == ["metal", "background", "metal", "fracture"]
    assert result.classes == ["background", "metal", "fracture"]


def test_keys_of_images_give_groups_and_attributes(write: Write) -> None:
    root = write({0: [FRACTURE], 1: [], 2: [FRACTURE]})
    result = read(root)
    assert result.group_kind == "patient" and [case.group for case in result.cases] == ["P0", "P0", "P1"]
    assert result.attributes == ["view"] and {case.attributes["view"] for case in result.cases} == {"PA"}
    assert read(root, group_by="none").group_kind == "image"
    assert [case.group for case in read(root, group_by=r"^(\d)\.").cases] == ["0", "1", "2"]
    with pytest.raises(BadInput, match=r"no column 'ward'.*patient_id"):
        read(root, group_by="ward")


def test_a_table_beside_the_annotations_gives_groups_and_attributes_too(write: Write, make_csv) -> None:
    root = write({0: [FRACTURE], 1: []}, images=[{"id": 100, "file_name": "0.png"}, {"id": 101, "file_name": "1.png"}])
    make_csv(
        root / "patients.csv",
        ["image_id", "subject_id", "sex", "name"],
        [["0", "s1", "F", "A B"], ["1", "s1", "M", "C D"]],
    )
    result = read(root)
    assert [(case.group, dict(case.attributes)) for case in result.cases] == [
        ("s1", {"sex": "F"}),
        ("s1", {"sex": "M"}),
    ]
    assert result.group_kind == "patient" and any("name" in note for note in result.notes)


def test_one_file_a_split_keeps_the_splits_and_roboflow_copies_share_a_group(
    write: Write, tmp_path: Path, picture
) -> None:
    for split in ("train", "valid", "test"):
        (tmp_path / split).mkdir()
        names = [f"{split}7_png.rf.{'ab' * 8}{n}.jpg" for n in range(2)]
        for n, name in enumerate(names):
            picture(n).save(tmp_path / split / name)
        content = {
            "images": [{"id": n, "file_name": name} for n, name in enumerate(names)],
            "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [1, 1, 5, 5], "iscrowd": 0}],
            "categories": [
                {"id": 0, "name": "wrist-x", "supercategory": "none"},
                {"id": 1, "name": "fracture", "supercategory": "wrist-x"},
            ],
        }
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content), encoding="utf-8")
    result = read(tmp_path)
    assert [case.split for case in result.cases] == ["test"] * 2 + ["train"] * 2 + ["val"] * 2
    assert result.targets == ["fracture"] and result.group_kind == "original image"
    assert [case.group for case in result.cases] == ["test7", "test7", "train7", "train7", "valid7", "valid7"]


def test_images_and_annotations_of_coco_itself_find_each_other(write: Write) -> None:
    for split in ("train", "val"):
        root = write({0: [FRACTURE], 1: []}, name=f"annotations/instances_{split}2017.json", home=f"{split}2017")
    (root / "annotations" / "captions_val2017.json").write_text(
        '{"images": [], "annotations": [{"caption": "x"}]}', encoding="utf-8"
    )
    assert [(case.source, case.split) for case in read(root).cases] == [
        ("train2017/0.png", "train"), ("train2017/1.png", "train"), ("val2017/0.png", "val"), ("val2017/1.png", "val"),
    ]  # fmt: skip


def test_crowd_regions_and_outlines_are_not_taken_for_boxes(write: Write) -> None:
    crowd = {
        "id": 9,
        "image_id": 101,
        "category_id": 7,
        "iscrowd": 1,
        "bbox": [0, 0, 60, 45],
        "segmentation": {"size": [45, 60], "counts": [2700]},
    }
    outline = {"id": 10, "image_id": 100, "category_id": 7, "segmentation": [[10, 5, 30, 5, 30, 15.5]]}
    root = write({0: [], 1: [], 2: []}, annotations=[crowd, outline])
    result = read(root)
    assert [(case.source, case.boxes) for case in result.cases] == [
        ("images/0.png", (Box("fracture", 10.0, 5.0, 20.0, 10.5),)), ("images/2.png", ()),
    ]  # fmt: skip
    assert [(item.reason, item.count) for item in result.excluded] == [("an image that has crowd regions only", 1)]
    assert any("segmentation" in note for note in result.notes)


def test_what_is_listed_but_absent_and_present_but_unlisted_is_left_out(write: Write, picture) -> None:
    root = write({0: [FRACTURE], 1: [], 2: []})
    (root / "images" / "1.png").unlink()
    picture(9).save(root / "images" / "9.png")
    result = read(root)
    assert [case.source for case in result.cases] == ["images/0.png", "images/2.png"]
    assert {(item.reason, item.examples) for item in result.excluded} == {
        ("a listed image without an image file", ("1.png",)),
        ("an image file that no annotation file lists", ("images/9.png",)),
    }


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"image_id": 100, "category_id": 7, "bbox": [1, 2, 3]}, "four numbers"),
        ({"image_id": 100, "category_id": 7, "bbox": [1, 2, "3", 4]}, "four numbers"),
        ({"image_id": 100, "category_id": 7, "bbox": [1, 2, float("nan"), 4]}, "four numbers"),
        ({"image_id": 100, "category_id": 7}, "four numbers"),
        ({"image_id": 100, "category_id": 1, "bbox": [1, 2, 3, 4]}, "category that is not in the list"),
        ({"image_id": 555, "category_id": 7, "bbox": [1, 2, 3, 4]}, "image that is not in the list"),
    ],
)  # fmt: skip
def test_bad_annotations_are_refused_together_and_named_to_the_custodian(
    write: Write, annotation: dict[str, Any], message: str
) -> None:
    good = {"image_id": 100, "category_id": 7, "bbox": [1, 2, 3, 4]}
    with pytest.raises(BadInput, match=f"2 × .*{message}") as refusal:
        read(write({0: [], 1: []}, annotations=[good, annotation, annotation]))
    assert [note.split(":")[0] for note in refusal.value.__notes__] == [
        "annotations.json, annotation 2",
        "annotations.json, annotation 3",
    ]


def test_broken_files_are_refused_with_their_name(write: Write) -> None:
    root = write({0: [FRACTURE]})
    text = (root / "annotations.json").read_text(encoding="utf-8")
    (root / "annotations.json").write_text(text[:-9], encoding="utf-8")
    with pytest.raises(BadInput, match=r"annotations\.json is not JSON \(line 1"):
        read(root)
    (root / "annotations.json").write_text('{"images": {}, "annotations": [], "categories": []}', encoding="utf-8")
    with pytest.raises(BadInput, match=r"annotations\.json has no list of objects under 'images'"):
        read(root)


def test_an_image_in_two_annotation_files_and_a_folder_without_a_box_are_refused(write: Write) -> None:
    write({0: [FRACTURE], 1: []}, name="one.json")
    with pytest.raises(BadInput, match="2 × an image that is annotated in more than one place") as refusal:
        read(write({0: [FRACTURE], 1: []}, name="two.json"))
    assert refusal.value.__notes__[0].startswith("images/0.png: ")
    (Path(str(write({0: []}, name="one.json"))) / "two.json").unlink()
    assert "No image" in " ".join(read(write({0: [], 1: []}, name="one.json"), "coco").problems)


def test_options_that_have_no_meaning_here_are_refused(write: Write) -> None:
    with pytest.raises(BadInput, match="label column"):
        read(write({0: [FRACTURE]}), label_column="fracture")
    with pytest.raises(BadInput, match=r"image column|'pic'"):
        read(write({0: [FRACTURE]}), image_column="pic")
