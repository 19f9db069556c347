"""Imagefolders as people upload them, and as they break."""

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


def read(root: Path, layout: str = "auto", **options: Any) -> LayoutResult:
    folder, chosen = Folder(root), LayoutOptions(**options)
    choice = choose_layout(folder, layout, chosen)
    assert choice.layout.name == "hf_imagefolder"
    return choice.layout.read(folder, chosen)


@pytest.fixture
def write(tmp_path: Path, picture) -> Callable[..., Path]:
    """Write images and a metadata.jsonl (or .csv, from texts) beside them."""

    def write_folder(
        rows: list[dict[str, Any]], *, home: str = "train", images: bool = True, csv: bool = False
    ) -> Path:
        folder = tmp_path / home
        for at, row in enumerate(rows):
            if images:
                path = folder / str(row.get("file_name") or row.get("image_file_name"))
                path.parent.mkdir(parents=True, exist_ok=True)
                picture(at).save(path)
        if csv:
            lines = [
                ",".join(rows[0]),
                *(",".join('"' + str(value).replace('"', '""') + '"' for value in row.values()) for row in rows),
            ]
            (folder / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
        else:
            (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return tmp_path

    return write_folder


def row(i: int, **more: Any) -> dict[str, Any]:
    return {"file_name": f"{i}.png", **more}


def test_labels_groups_and_attributes_come_from_the_metadata_and_splits_from_the_folders(write) -> None:
    write([row(i, label=i % 2, patient_id=f"P{i // 2}", age=40 + i, text="a free text " * 9) for i in range(4)])
    result = read(write([row(i, label=i % 2, patient_id="P9", age=50, text="b") for i in range(2)], home="test"))
    assert result.task_type == "classification" and result.classes == ["0", "1"]
    assert [(case.source, case.label, case.group, case.split) for case in result.cases][:3] == [
        ("test/0.png", "0", "P9", "test"), ("test/1.png", "1", "P9", "test"), ("train/0.png", "0", "P0", "train"),
    ]  # fmt: skip
    assert result.group_kind == "patient" and result.attributes == ["age"] and not result.excluded


def test_without_a_label_column_the_folders_are_the_classes(write) -> None:
    rows = [{"file_name": f"{name}/{i}.png", "view": "PA"} for name in ("benign", "malignant") for i in range(2)]
    result = read(write(rows, csv=True))
    assert result.classes == ["benign", "malignant"] and result.attributes == ["view"]
    assert any("folders of the images are the classes" in note for note in result.notes)


@pytest.mark.parametrize(
    "objects",
    [
        {"bbox": [[10, 5, 20, 10.5]], "categories": [1]},
        {"bbox": [[10, 5, 20, 10.5]], "category": [1], "id": [7], "area": [210]},
        [{"bbox": [10, 5, 20, 10.5], "category_id": 1}],
    ],
)
@pytest.mark.parametrize("csv", [False, True])
def test_objects_are_boxes_in_every_spelling(write, objects: Any, csv: bool) -> None:
    empty: Any = {"bbox": [], "categories": []}
    rows = [
        row(0, objects=json.dumps(objects) if csv else objects),
        row(1, objects=json.dumps(empty) if csv else empty),
    ]
    result = read(write(rows, csv=csv))
    assert (
        result.task_type == "detection"
        and result.targets == ["class 1"]
        and result.classes == ["no class 1", "class 1"]
    )
    assert [case.boxes for case in result.cases] == [(Box("class 1", 10, 5, 20, 10.5),), ()]


def test_rows_without_objects_are_unknown_and_rows_without_images_are_left_out(write, picture) -> None:
    one = {"bbox": [[1, 1, 5, 5]], "categories": ["fracture"]}
    root = write([row(0, objects=one), row(1, objects=None), row(2, objects=one)])
    (root / "train" / "2.png").unlink()
    picture(9).save(root / "train" / "9.png")
    result = read(root)
    assert [case.source for case in result.cases] == ["train/0.png"] and result.targets == ["fracture"]
    assert {(item.reason, item.examples, item.split) for item in result.excluded} == {
        ("a row without objects", ("train/metadata.jsonl, line 2",), "train"),
        ("a row without an image file", ("train/metadata.jsonl, line 3",), "train"),
        ("an image file without a row", ("train/9.png",), "train"),
    }


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ({"bbox": [[1, 1, 5, 5]], "categories": []}, "same length"),
        ({"bbox": [[1, 1, 5]], "categories": [1]}, "four numbers"),
        ({"bbox": [[1, 1, "5", 5]], "categories": [1]}, "four numbers"),
        ([{"bbox": [1, 1, 5, 5]}], "and a category"),
        ("{broken", "same length"),
        (7, "same length"),
    ],
)
def test_bad_objects_are_refused_and_named_to_the_custodian(write, objects: Any, message: str) -> None:
    with pytest.raises(BadInput, match=f"1 × .*{message}") as refusal:
        read(write([row(0, objects={"bbox": [[1, 1, 5, 5]], "categories": [1]}), row(1, objects=objects)]))
    assert refusal.value.__notes__[0].startswith("train/metadata.jsonl, line 2: ")


def test_broken_metadata_is_refused_with_its_line(write) -> None:
    root = write([row(0, label="a"), row(1, label="b")])
    metadata = root / "train" / "metadata.jsonl"
    metadata.write_text(metadata.read_text(encoding="utf-8") + "[1, 2]\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"metadata\.jsonl, line 3 is not a JSON object"):
        read(root)
    metadata.write_text('{"file": "0.png", "label": "a"}\n', encoding="utf-8")
    with pytest.raises(BadInput, match="no column file_name"):
        read(root)


def test_a_wrong_label_column_and_an_image_with_two_rows_are_refused(write) -> None:
    root = write([row(i, label="ab"[i % 2], grade=i % 2) for i in range(4)])
    assert read(root, label_column="grade").classes == ["0", "1"]
    with pytest.raises(BadInput, match=r"no column 'stage'.*grade"):
        read(root, layout="hf_imagefolder", label_column="stage")
    write([row(0, label="a"), row(0, label="b"), row(1, label="b")])
    with pytest.raises(BadInput, match="1 × an image with several rows"):
        read(root)


def test_a_table_of_another_name_is_left_to_the_manifest(write, tmp_path: Path) -> None:
    root = write([row(i, label="ab"[i % 2]) for i in range(4)], csv=True)
    (root / "train" / "metadata.csv").rename(root / "train" / "list.csv")
    assert choose_layout(Folder(root), "auto", LayoutOptions()).layout.name == "csv_manifest"
