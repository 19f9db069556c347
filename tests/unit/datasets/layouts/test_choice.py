"""Which layout is taken where several fit, and what is said where none does; general layouts ingested to the end."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinloop.datasets.case import LayoutOptions
from clinloop.datasets.dataset import Dataset
from clinloop.datasets.layouts import LAYOUTS, Choice, choose_layout
from clinloop.datasets.layouts.folder import Folder
from clinloop.errors import BadInput

N = 12
Writer = Callable[[Path], None]


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (7, 9, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((60, 45), Image.Resampling.BICUBIC)


def images(root: Path) -> None:
    (root / "images").mkdir(exist_ok=True)
    for i in range(N):
        picture(i).save(root / "images" / f"{i}.png")


def coco(root: Path) -> None:
    images(root)
    listed = [{"id": i, "file_name": f"{i}.png", "width": 60, "height": 45} for i in range(N)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [12, 9, 12, 9], "iscrowd": 0} for i in range(0, N, 2)]
    content = {"images": listed, "annotations": boxes, "categories": [{"id": 1, "name": "fracture"}]}
    (root / "annotations.json").write_text(json.dumps(content), encoding="utf-8")


def yolo(root: Path) -> None:
    images(root)
    (root / "labels").mkdir()
    for i in range(N):
        (root / "labels" / f"{i}.txt").write_text("" if i % 2 else "0 0.3 0.3 0.2 0.2\n", encoding="utf-8")
    (root / "data.yaml").write_text("names: [fracture]\ntrain: images\n", encoding="utf-8")


def pascal_voc(root: Path) -> None:
    images(root)
    (root / "Annotations").mkdir()
    box = "<object><name>fracture</name><bndbox><xmin>13</xmin><ymin>10</ymin><xmax>24</xmax><ymax>18</ymax></bndbox></object>"
    for i in range(N):
        (root / "Annotations" / f"{i}.xml").write_text(
            f"<annotation>{'' if i % 2 else box}</annotation>", encoding="utf-8"
        )


def hf_imagefolder(root: Path) -> None:
    images(root)
    rows = [
        {
            "file_name": f"{i}.png",
            "objects": {"bbox": [] if i % 2 else [[12, 9, 12, 9]], "categories": [] if i % 2 else ["fracture"]},
        }
        for i in range(N)
    ]
    (root / "images" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def mask_folder(root: Path) -> None:
    images(root)
    (root / "masks").mkdir()
    for i in range(N):
        pixels = np.zeros((45, 60), np.uint8)
        pixels[9:18, 12:24] = 0 if i % 2 else 255
        Image.fromarray(pixels).save(root / "masks" / f"{i}.png")


def nnunet_raw(root: Path) -> None:
    mask_folder(root)
    (root / "masks").rename(root / "labelsTr")
    (root / "images").rename(root / "imagesTr")
    for path in (root / "imagesTr").iterdir():
        path.rename(path.with_stem(f"{path.stem}_0000"))
    (root / "dataset.json").write_text('{"labels": {"background": 0, "fracture": 255}}', encoding="utf-8")


def class_folders(root: Path) -> None:
    for i in range(N):
        (root / "ab"[i % 2]).mkdir(exist_ok=True)
        picture(i).save(root / "ab"[i % 2] / f"{i}.png")


def csv_manifest(root: Path) -> None:
    images(root)
    (root / "list.csv").write_text(
        "image,label\n" + "".join(f"images/{i}.png,{'ab'[i % 2]}\n" for i in range(N)), encoding="utf-8"
    )


WRITERS = [coco, yolo, pascal_voc, hf_imagefolder, mask_folder, nnunet_raw, class_folders, csv_manifest]


def n_stored(dataset: Dataset) -> int:
    with (dataset.vault / "cases.csv").open(encoding="utf-8", newline="") as file:
        return len(dataset.cases()) + len(list(csv.DictReader(file)))


def choose(root: Path) -> Choice:
    return choose_layout(Folder(root), "auto", LayoutOptions())


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_general_layout_is_recognised(write: Writer, tmp_path: Path) -> None:
    write(tmp_path)
    assert choose(tmp_path).layout.name == write.__name__


@pytest.mark.parametrize("write", WRITERS[:4], ids=lambda write: write.__name__)
def test_boxes_of_every_format_are_stored_alike(write: Writer, tmp_path: Path, add) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data")
    dataset = add(tmp_path / "data")
    assert (dataset.task_type, dataset.targets) == ("detection", ["fracture"])
    assert {(case.label, case.supervision, tuple(tuple(box[1:]) for box in case.boxes or ())) for case in dataset.cases()} == {
        ("fracture", "box", ((12.0, 9.0, 12.0, 9.0),)), ("no fracture", "box", ()),
    }  # fmt: skip


@pytest.mark.parametrize("write", WRITERS[4:6], ids=lambda write: write.__name__)
def test_masks_of_every_format_are_stored_alike(write: Writer, tmp_path: Path, add) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data")
    dataset = add(tmp_path / "data")
    assert dataset.task_type == "segmentation" and len(dataset.targets) == 1
    for case in dataset.cases():
        assert case.mask is not None and case.supervision == "mask"
        with Image.open(case.mask) as mask:
            assert mask.getbbox() == (None if case.label.startswith("no ") else (12, 9, 24, 18))


def test_a_detection_set_without_negatives_and_with_a_rare_target_keeps_every_image(tmp_path: Path, add) -> None:
    (tmp_path / "data").mkdir()
    coco(tmp_path / "data")
    path = tmp_path / "data" / "annotations.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["annotations"] += [
        box | {"id": 100 + box["id"], "image_id": box["image_id"] + 1} for box in content["annotations"]
    ]
    path.write_text(json.dumps(content), encoding="utf-8")
    dataset = add(tmp_path / "data", "one")
    assert dataset.classes == ["no fracture", "fracture"] and n_stored(dataset) == N
    content["categories"].append({"id": 2, "name": "metal"})
    content["annotations"][0]["category_id"] = 2
    path.write_text(json.dumps(content), encoding="utf-8")
    dataset = add(tmp_path / "data", "two")
    assert dataset.targets == ["fracture", "metal"] and n_stored(dataset) == N


def test_two_box_formats_in_one_folder_are_refused_until_one_is_named(tmp_path: Path) -> None:
    yolo(tmp_path)
    pascal_voc(tmp_path)
    with pytest.raises(BadInput, match=r"fits 2 layouts alike: yolo .*; pascal_voc .*name the one to use"):
        choose(tmp_path)
    for name in ("yolo", "pascal_voc"):
        assert choose_layout(Folder(tmp_path), name, LayoutOptions()).layout.name == name


def test_boxes_win_over_masks_masks_over_a_table_and_the_reason_says_what_else_there_is(tmp_path: Path) -> None:
    mask_folder(tmp_path)
    csv_manifest(tmp_path)
    choice = choose(tmp_path)
    assert choice.layout.name == "mask_folder" and "also fits csv_manifest: list.csv with images" in choice.reason
    coco(tmp_path)
    choice = choose(tmp_path)
    assert choice.layout.name == "coco" and "also fits mask_folder: 12 images with masks" in choice.reason


def test_public_sets_come_before_general_layouts_and_isic_stays_isic_beside_anything(
    isic_root: Path, tmp_path: Path
) -> None:
    names = [layout.name for layout in LAYOUTS]
    assert names.index("coco") > max(names.index(name) for name in ("isic2019", "siim_acr", "neatx", "nih_chestxray14"))
    for path in isic_root.iterdir():
        (tmp_path / path.name).symlink_to(
            path
        )  # links that lead out are not followed: a folder with nothing of its own
    with pytest.raises(BadInput, match="fits no layout"):
        choose(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    for path in isic_root.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(isic_root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(path)
    yolo(tmp_path)
    pascal_voc(tmp_path)
    assert choose(tmp_path).layout.name == "isic2019"


def test_a_label_outside_the_image_is_refused_and_nothing_is_added(tmp_path: Path, add) -> None:
    (tmp_path / "data").mkdir()
    coco(tmp_path / "data")
    path = tmp_path / "data" / "annotations.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["annotations"][0]["bbox"] = [50, 9, 40, 9]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BadInput) as refusal:
        add(tmp_path / "data")
    assert "images/0.png" in " ".join(refusal.value.__notes__)
    assert not (tmp_path / "state" / "datasets" / "data").exists()


def test_a_mask_of_another_size_is_refused_and_nothing_is_added(tmp_path: Path, add) -> None:
    (tmp_path / "data").mkdir()
    mask_folder(tmp_path / "data")
    Image.new("L", (30, 20), 255).save(tmp_path / "data" / "masks" / "4.png")
    with pytest.raises(BadInput) as refusal:
        add(tmp_path / "data")
    assert "images/4.png" in " ".join(refusal.value.__notes__)
    assert not (tmp_path / "state" / "datasets" / "data").exists()
