"""Mask folders and nnU-Net folders as publishers lay them out, and as they break."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from clinloop.datasets.case import LayoutOptions, LayoutResult, MaskFile, MaskRuns
from clinloop.datasets.layouts import choose_layout
from clinloop.datasets.layouts.folder import Folder
from clinloop.errors import BadInput


def read(root: Path, layout: str = "auto", **options: Any) -> LayoutResult:
    folder, chosen = Folder(root), LayoutOptions(**options)
    return choose_layout(folder, layout, chosen).layout.read(folder, chosen)


def mask(value: int = 255, *, box: tuple[int, int, int, int] = (10, 10, 30, 25)) -> Image.Image:
    """A mask of 60 × 45 with a rectangle (left, top, right, bottom) of a value."""
    pixels = np.zeros((45, 60), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = value
    return Image.fromarray(pixels)


def save(image: Image.Image, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def parallel(tmp_path: Path, picture) -> Path:
    """images/ and masks/ with the same names; mask 2 is empty."""
    for i in range(4):
        save(picture(i), tmp_path / "images" / f"{i}.jpg")
        save(mask(0 if i == 2 else 255), tmp_path / "masks" / f"{i}.png")
    return tmp_path


def test_parallel_folders_give_masks_and_an_empty_mask_is_a_negative(parallel: Path) -> None:
    result = read(parallel)
    assert (
        result.task_type == "segmentation"
        and result.targets == ["target"]
        and result.classes == ["no target", "target"]
    )
    assert [(case.source, case.label, case.mask) for case in result.cases][1:3] == [
        ("images/1.jpg", "target", MaskFile("masks/1.png")), ("images/2.jpg", "no target", MaskFile("masks/2.png")),
    ]  # fmt: skip
    assert {case.supervision for case in result.cases} == {"mask"} and not result.problems


def test_isic_names_its_masks_with_an_ending_in_folders_of_their_own(tmp_path: Path, picture) -> None:
    for part in ("Training", "Validation"):
        for i in range(3):
            save(picture(i), tmp_path / f"ISIC2018_Task1-2_{part}_Input" / f"ISIC_{part}{i}.jpg")
            save(mask(), tmp_path / f"ISIC2018_Task1_{part}_GroundTruth" / f"ISIC_{part}{i}_segmentation.png")
    result = read(tmp_path)
    assert {(case.source.rpartition("/")[2], case.split) for case in result.cases} >= {
        ("ISIC_Training0.jpg", "train"),
        ("ISIC_Validation2.jpg", "val"),
    }
    assert len(result.cases) == 6 and result.targets == ["target"] and not result.excluded


def test_several_masks_of_one_image_beside_it_are_one_and_class_folders_are_an_attribute(
    tmp_path: Path, picture
) -> None:
    """BUSI: benign/, malignant/ and normal/ with `benign (1).png`, `benign (1)_mask.png`, `benign (1)_mask_1.png`."""
    for at, name in enumerate(("benign", "malignant", "normal")):
        for i in range(3):
            save(picture(10 * at + i), tmp_path / name / f"{name} ({i}).png")
            save(mask(0 if name == "normal" else 255), tmp_path / name / f"{name} ({i})_mask.png")
    save(mask(255, box=(40, 0, 41, 2)), tmp_path / "benign" / "benign (0)_mask_1.png")
    result = read(tmp_path)
    assert len(result.cases) == 9 and result.attributes == ["folder"]
    assert {(case.attributes["folder"], case.label) for case in result.cases} == {
        ("benign", "target"), ("malignant", "target"), ("normal", "no target"),
    }  # fmt: skip
    runs = next(case.mask for case in result.cases if case.source == "benign/benign (0).png")
    assert isinstance(runs, MaskRuns)
    assert runs.spans == (*((45 * x + 10, 15) for x in range(10, 30)), (45 * 40, 2))


@pytest.mark.parametrize(
    "top", ["Lung Segmentation", "Dataset_BUSI_with_GT", "Infection Segmentation Data/Train/COVID-19"]
)
def test_a_dataset_named_after_its_masks_is_told_from_its_folder_of_masks(tmp_path: Path, picture, top: str) -> None:
    for i in range(4):
        save(picture(i), tmp_path / top / "CXR_png" / f"CHNCXR_{i}_left.png")
        save(mask(), tmp_path / top / "masks" / f"CHNCXR_{i}_left_mask.png")
    result = read(tmp_path)
    assert [case.source for case in result.cases] == [f"{top}/CXR_png/CHNCXR_{i}_left.png" for i in range(4)]
    assert not result.excluded and result.targets == ["target"]


def test_two_parts_named_after_their_masks_keep_their_images(tmp_path: Path, picture) -> None:
    for part in ("Infection Segmentation Data", "Lung Segmentation Data"):
        for split in ("Train", "Test"):
            for i in range(2):
                name = f"{part[0]}{split}{i}.png"
                save(picture(i), tmp_path / part / split / "images" / name)
                save(mask(), tmp_path / part / split / "lung masks" / name)
    result = read(tmp_path)
    assert len(result.cases) == 8 and {case.split for case in result.cases} == {"train", "test"}
    assert result.targets == ["lung"] and not result.excluded


def test_a_word_for_the_target_in_the_name_of_the_masks_is_used(tmp_path: Path, picture) -> None:
    for i in range(3):
        save(picture(i), tmp_path / "PH2" / f"IMD{i}" / f"IMD{i}_Dermoscopic_Image" / f"IMD{i}.bmp")
        save(mask(), tmp_path / "PH2" / f"IMD{i}" / f"IMD{i}_lesion" / f"IMD{i}_lesion.bmp")
    assert read(tmp_path).targets == ["lesion"]


def test_masks_of_two_kinds_are_refused_until_one_is_chosen(tmp_path: Path, picture) -> None:
    """DRIVE: `mask` is the field of view, `1st_manual` the vessels."""
    for i in range(21, 25):
        save(picture(i), tmp_path / "training" / "images" / f"{i}_training.tif")
        save(mask(), tmp_path / "training" / "mask" / f"{i}_training_mask.gif")
        save(mask(255, box=(0, 0, 5, 5)), tmp_path / "training" / "1st_manual" / f"{i}_manual1.gif")
    with pytest.raises(BadInput, match=r"several kinds \(1st_manual, mask\)"):
        read(tmp_path)
    result = read(tmp_path, label_column="1st_manual")
    assert [case.mask for case in result.cases][:1] == [MaskFile("training/1st_manual/21_manual1.gif")]
    assert {case.split for case in result.cases} == {"train"} and not result.excluded
    with pytest.raises(BadInput, match="no masks of the kind 'vessels'"):
        read(tmp_path, label_column="vessels")


def test_jpeg_masks_ring_and_soft_masks_have_shades_and_neither_makes_an_empty_mask_full(
    tmp_path: Path, picture
) -> None:
    for i in range(4):
        save(picture(i), tmp_path / "images" / f"{i}.png")
        ringing = mask(255 if i else 12)
        save(ringing, tmp_path / "masks" / f"{i}.jpg", quality=40)
    assert [case.label for case in read(tmp_path).cases] == ["no target", "target", "target", "target"]
    for i in range(4):
        (tmp_path / "masks" / f"{i}.jpg").unlink()
        soft = mask(255 if i else 100).filter(ImageFilter.GaussianBlur(1.5))
        save(soft, tmp_path / "masks" / f"{i}.png")
    result = read(tmp_path, "mask_folder")
    assert [case.label for case in result.cases] == ["no target", "target", "target", "target"]
    assert result.cases[1].mask == MaskFile("masks/1.png", tuple(range(128, 256)))
    assert any("shades of gray" in note for note in result.notes)


def test_masks_of_several_values_and_masks_that_cover_everything_are_noted(parallel: Path) -> None:
    save(mask(7), parallel / "masks" / "0.png")
    assert any("values 0, 7, 255" in note for note in read(parallel).notes)
    for i in range(4):
        save(mask(255, box=(0, 0, 60, 44)), parallel / "masks" / f"{i}.png")
    assert any("invert" in note for note in read(parallel).notes)


def test_images_without_mask_are_unknown_and_masks_without_image_are_left_out(parallel: Path, picture) -> None:
    (parallel / "masks" / "3.png").unlink()
    (parallel / "images" / "0.jpg").unlink()
    result = read(parallel)
    assert [case.source for case in result.cases] == ["images/1.jpg", "images/2.jpg"]
    assert {(item.reason, item.examples) for item in result.excluded} == {
        ("a mask without an image", ("masks/0.png",)), ("an image without a mask", ("images/3.jpg",)),
    }  # fmt: skip


def test_a_mask_that_cannot_be_read_is_refused_and_named_to_the_custodian(parallel: Path) -> None:
    (parallel / "masks" / "1.png").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="1 × a mask that cannot be read") as refusal:
        read(parallel)
    assert refusal.value.__notes__ == ["masks/1.png: a mask that cannot be read"]
    for name in ("0.png", "2.png", "3.png"):
        save(mask(0), parallel / "masks" / name)
    save(mask(0), parallel / "masks" / "1.png")
    assert "All masks are empty" in read(parallel).problems[0]


def test_pictures_in_folders_called_like_masks_are_not_masks(make_class_folders, tmp_path: Path) -> None:
    root = make_class_folders(tmp_path, classes=("with_mask", "without_mask"))
    for name in ("with_mask", "without_mask"):
        for path in (root / name).iterdir():
            path.rename(path.with_name(path.name.rpartition("-")[2]))
    choice = choose_layout(Folder(root), "auto", LayoutOptions())
    assert choice.layout.name == "class_folders" and "does not fit" in choice.reason


def test_a_table_gives_groups_to_masked_images(parallel: Path, make_csv) -> None:
    make_csv(
        parallel / "meta.csv", ["image", "lesion_id", "sex"], [[str(i), f"L{i // 2}", "MF"[i % 2]] for i in range(4)]
    )
    result = read(parallel)
    assert result.group_kind == "lesion" and [case.group for case in result.cases] == ["L0", "L0", "L1", "L1"]
    assert result.attributes == ["sex"]


@pytest.fixture
def nnunet(tmp_path: Path, picture) -> Path:
    """Two labels, a test part with labels, and a split of cases."""
    home = tmp_path / "Dataset005_Chest"
    for i in range(6):
        part = "Tr" if i < 4 else "Ts"
        save(picture(i), home / f"images{part}" / f"case_{i}_0000.png")
        save(mask(1 + i % 2), home / f"labels{part}" / f"case_{i}.png")
    content = {
        "channel_names": {"0": "x-ray"},
        "labels": {"background": 0, "lung": 1, "nodule": 2},
        "numTraining": 4,
        "file_ending": ".png",
    }
    (home / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    folds = [{"train": ["case_0", "case_1"], "val": ["case_2", "case_3"]}]
    (home / "splits_final.json").write_text(json.dumps(folds), encoding="utf-8")
    return tmp_path


def test_nnunet_labels_are_one_target_or_the_one_that_is_named(nnunet: Path) -> None:
    result = read(nnunet)
    assert [case.split for case in result.cases] == ["train", "train", "val", "val", "test", "test"]
    assert result.targets == ["foreground"] and {
        case.mask.values for case in result.cases if isinstance(case.mask, MaskFile)
    } == {(1, 2)}
    assert any("lung, nodule" in note for note in result.notes)
    named = read(nnunet, label_column="Nodule")
    assert named.classes == ["no nodule", "nodule"]
    assert [case.label for case in named.cases] == ["no nodule", "nodule"] * 3
    assert named.cases[1].mask == MaskFile("Dataset005_Chest/labelsTr/case_1.png", (2,))
    with pytest.raises(BadInput, match="no label 'heart'; it has lung, nodule"):
        read(nnunet, label_column="heart")


def test_nnunet_of_version_1_and_regions_are_understood(nnunet: Path) -> None:
    description = nnunet / "Dataset005_Chest" / "dataset.json"
    description.write_text('{"labels": {"0": "background", "1": "lung"}}', encoding="utf-8")
    assert read(nnunet).targets == ["lung"]
    description.write_text('{"labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}}', encoding="utf-8")
    assert {case.label for case in read(nnunet, label_column="whole").cases} == {"whole"}


def test_nnunet_without_labels_without_masks_and_with_channels_or_volumes(nnunet: Path, picture) -> None:
    home = nnunet / "Dataset005_Chest"
    (home / "labelsTr" / "case_0.png").unlink()
    assert [(item.reason, item.count) for item in read(nnunet).excluded] == [("an image without a label file", 1)]
    save(picture(9), home / "imagesTr" / "case_1_0001.png")
    with pytest.raises(BadInput, match=r"1 case\(s\) have several channel files"):
        read(nnunet)
    (home / "dataset.json").write_text('{"labels": {"background": 0}, "file_ending": ".nii.gz"}', encoding="utf-8")
    with pytest.raises(BadInput, match="no labels such as"):
        read(nnunet)
    for path in (home / "imagesTr").iterdir():
        path.rename(path.with_suffix(".nii.gz"))
    with pytest.raises(BadInput, match=r"file_ending is \.nii\.gz.*volumes are not supported"):
        read(nnunet)


def test_several_nnunet_datasets_are_refused(nnunet: Path) -> None:
    for part in ("imagesTr", "labelsTr"):
        (nnunet / "Dataset006_Skin" / part).mkdir(parents=True)
    (nnunet / "Dataset006_Skin" / "dataset.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BadInput, match=r"2 nnU-Net datasets \(Dataset005_Chest, Dataset006_Skin\)"):
        read(nnunet)
