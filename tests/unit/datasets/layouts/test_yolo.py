"""YOLO folders as tools export them, and as they break."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clinloop.datasets.case import LayoutOptions, LayoutResult
from clinloop.datasets.layouts import choose_layout
from clinloop.datasets.layouts.folder import Folder
from clinloop.errors import BadInput

Write = Callable[..., Path]
BOX = "0 0.5 0.4 0.5 0.2\n"


def read(root: Path, layout: str = "auto", **options: Any) -> LayoutResult:
    folder, chosen = Folder(root), LayoutOptions(**options)
    return choose_layout(folder, layout, chosen).layout.read(folder, chosen)


@pytest.fixture
def write(tmp_path: Path, picture) -> Write:
    """Write 100 × 50 images and label files below `images` and `labels` (None = no file)."""

    def write_yolo(
        labels: dict[str, str | None],
        *,
        yaml: str | None = "names: [fracture]\n",
        images: str = "images",
        labels_in: str = "labels",
    ) -> Path:
        for at, (name, text) in enumerate(labels.items()):
            image, label = tmp_path / images / f"{name}.png", tmp_path / labels_in / f"{name}.txt"
            image.parent.mkdir(parents=True, exist_ok=True)
            picture(at, (100, 50)).save(image)
            if text is not None:
                label.parent.mkdir(parents=True, exist_ok=True)
                label.write_text(text, encoding="utf-8")
        if yaml is not None:
            (tmp_path / "data.yaml").write_text(yaml, encoding="utf-8")
        return tmp_path

    return write_yolo


def test_relative_boxes_become_pixels_and_outlines_the_box_around_them(write: Write) -> None:
    outline = "0 0.1 0.2 0.3 0.2 0.3 0.6 0.2 0.4\n"
    result = read(write({"1": BOX + BOX + outline, "2": ""}))
    assert (
        result.task_type == "detection"
        and result.classes == ["no fracture", "fracture"]
        and result.targets == ["fracture"]
    )
    one, two = result.cases
    assert [box.target for box in one.boxes or ()] == ["fracture", "fracture"]  # the repeated line counts once
    assert [tuple(round(value, 6) for value in box[1:]) for box in one.boxes or ()] == [
        (25, 15, 50, 10),
        (10, 10, 20, 20),
    ]
    assert (one.label, two.label, two.boxes) == ("fracture", "no fracture", ())
    assert any("Outlines" in note for note in result.notes)


def test_boxes_are_relative_to_the_image_as_it_is_shown(write: Write, tmp_path: Path) -> None:
    root = write({"1": BOX})
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90°: 50 wide, 100 high
    with Image.open(root / "images" / "1.png") as image:
        image.save(root / "images" / "1.png", exif=exif)
    assert [tuple(round(value, 6) for value in box[1:]) for box in read(root).cases[0].boxes or ()] == [
        (12.5, 30, 25, 20)
    ]


def test_an_empty_or_missing_label_file_is_background_but_a_folder_without_any_is_unknown(write: Write) -> None:
    result = read(write({"train/1": BOX, "train/2": "", "train/3": None, "test/4": None}))
    assert [(case.source, case.boxes is not None and len(case.boxes), case.split) for case in result.cases] == [
        ("images/train/1.png", 1, "train"), ("images/train/2.png", 0, "train"), ("images/train/3.png", 0, "train"),
    ]  # fmt: skip
    assert [(item.reason, item.count, item.split) for item in result.excluded] == [
        ("an image of a folder without label files", 1, "test")
    ]


def test_the_yaml_file_decides_the_splits_even_with_paths_of_another_machine(write: Write) -> None:
    yaml = "path: /home/somebody/wrists\ntrain: images/train\nval: [/data/x/wrists/images/val]\ntest: lists/test.txt\nnames: {0: fracture, 1: metal}\n"
    root = write({"train/1": BOX, "val/2": "1 .5 .5 .2 .2", "rest/3": BOX, "full/4": BOX, "full/1": BOX}, yaml=yaml)
    (root / "lists").mkdir()
    (root / "lists" / "test.txt").write_text("./images/rest/3.png\n", encoding="utf-8")
    result = read(root)
    assert [(case.source, case.split) for case in result.cases] == [
        ("images/train/1.png", "train"), ("images/val/2.png", "val"), ("images/rest/3.png", "test"),
    ]  # fmt: skip
    assert result.targets == ["fracture", "metal"] and result.classes == ["fracture", "metal"]
    assert [(item.reason, item.count) for item in result.excluded] == [("an image that data.yaml does not list", 2)]


def test_a_roboflow_export_is_read_through_its_paths_that_lead_out(tmp_path: Path, picture) -> None:
    for split in ("train", "valid"):
        for home in ("images", "labels"):
            (tmp_path / split / home).mkdir(parents=True)
        for n in range(2):
            name = f"{split}_jpg.rf.{'0f' * 16}{n}"
            picture(n).save(tmp_path / split / "images" / f"{name}.jpg")
            (tmp_path / split / "labels" / f"{name}.txt").write_text(BOX if n else "", encoding="utf-8")
    (tmp_path / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 1\nnames: ['polyp']\n",
        encoding="utf-8",
    )
    (tmp_path / "README.roboflow.txt").write_text("exported", encoding="utf-8")
    result = read(tmp_path)
    assert [(case.split, case.label, case.group) for case in result.cases] == [
        ("train", "no polyp", "train"), ("train", "polyp", "train"), ("val", "no polyp", "valid"), ("val", "polyp", "valid"),
    ]  # fmt: skip
    assert result.group_kind == "original image" and not result.excluded


def test_train_and_val_that_are_the_same_leave_the_split_to_us_and_other_overlap_is_refused(write: Write) -> None:
    yaml = "train: images/a\nval: images/a\nnames: [x]\n"
    assert {case.split for case in read(write({"a/1": BOX, "a/2": "", "b/3": ""}, yaml=yaml)).cases} == {"train"}
    with pytest.raises(BadInput, match="in two splits"):
        read(write({}, yaml="train: images\nval: images/a\nnames: [x]\n"))


def test_names_come_from_classes_txt_or_are_numbers(write: Write) -> None:
    root = write({"1": "2 .5 .5 .1 .1", "2": ""}, yaml=None)
    assert read(root).targets == ["class 2"]
    (root / "labels" / "classes.txt").write_text("dog\ncat\nmass\n", encoding="utf-8")
    assert read(root).targets == ["mass"]


def test_label_files_beside_images_are_found_and_patients_in_names_are_groups(write: Write) -> None:
    result = read(
        write({f"patient{p}_{v}": BOX if v else "" for p in (3, 12) for v in (0, 1)}, images="all", labels_in="all")
    )
    assert result.group_kind == "patient" and [case.group for case in result.cases] == ["12", "12", "3", "3"]


def test_labels_in_a_folder_of_another_tree_are_found_by_name(write: Write) -> None:
    """FracAtlas: images/Fractured, images/Non_fractured and Annotations/YOLO; a missing file says nothing here."""
    root = write({"Fractured/1": None, "Non_fractured/2": None, "Non_fractured/3": None})
    (root / "Annotations" / "YOLO").mkdir(parents=True)
    for name, text in {"1": BOX, "2": ""}.items():
        (root / "Annotations" / "YOLO" / f"{name}.txt").write_text(text, encoding="utf-8")
    result = read(root)
    assert [(case.source, case.label) for case in result.cases] == [
        ("images/Fractured/1.png", "fracture"), ("images/Non_fractured/2.png", "no fracture"),
    ]  # fmt: skip
    assert [(item.reason, item.count) for item in result.excluded] == [("an image of a folder without label files", 1)]


def test_an_unlabelled_image_does_not_take_the_labels_of_its_namesake_in_another_split(write: Write) -> None:
    result = read(write({"train/1": BOX, "train/2": BOX, "test/1": None}))
    assert [case.source for case in result.cases] == ["images/train/1.png", "images/train/2.png"]
    assert [(item.examples, item.split) for item in result.excluded] == [(("images/test/1.png",), "test")]


def test_a_label_file_without_an_image_and_an_unreadable_image_are_left_out(write: Write) -> None:
    root = write({"1": BOX, "2": "", "3": BOX})
    (root / "images" / "1.png").unlink()
    (root / "images" / "3.png").write_bytes(b"nothing")
    result = read(root)
    assert [case.source for case in result.cases] == ["images/2.png"]
    assert {(item.reason, item.examples) for item in result.excluded} == {
        ("a label file without an image", ("labels/1.txt",)), ("an image that cannot be read", ("images/3.png",)),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2", "neither 5 numbers nor an outline"),
        ("0 0.5 0.5 0.2 0.2 0.9", "neither 5 numbers nor an outline"),
        ("0 250 125 50 20", "outside 0 to 1"),
        ("0 nan 0.5 0.2 0.2", "outside 0 to 1"),
        ("1 0.5 0.5 0.2 0.2", "class has no name"),
        ("-1 0.5 0.5 0.2 0.2", "class has no name"),
        ("fracture 0.5 0.5 0.2 0.2", "not numbers"),
    ],
)
def test_bad_lines_are_refused_and_named_to_the_custodian(write: Write, line: str, message: str) -> None:
    with pytest.raises(BadInput, match=f"1 × .*{message}") as refusal:
        read(write({"1": BOX * 3, "2": f"{BOX}\n{line}\n"}))
    assert refusal.value.__notes__[0].startswith("labels/2.txt, line 3: ")


def test_yaml_files_that_are_broken_or_disagree_are_refused(write: Write) -> None:
    root = write({"1": BOX}, yaml="names: [a\ntrain: x")
    with pytest.raises(BadInput, match=r"data\.yaml is not YAML \(line 2\)"):
        read(root)
    write({}, yaml="names: [a]")
    (root / "other.yml").write_text("names: [b]", encoding="utf-8")
    with pytest.raises(BadInput, match="name the classes differently"):
        read(root)
    (root / "other.yml").write_text("lr0: 0.01\nnames: !!python/object/apply:os.system ['exit 1']", encoding="utf-8")
    with pytest.raises(BadInput, match=r"other\.yml is not YAML"):
        read(root)


def test_text_files_that_are_no_boxes_are_not_taken_for_yolo(write: Write) -> None:
    with pytest.raises(BadInput, match="hold no lines"):
        read(write({"1": "a report about the patient", "2": "another"}))
