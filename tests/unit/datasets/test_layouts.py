"""Public layouts, with the traps that copies of them have."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from clinloop.datasets.case import LayoutOptions, LayoutResult
from clinloop.datasets.layouts import LAYOUTS, choose_layout
from clinloop.datasets.layouts.folder import Folder
from clinloop.errors import BadInput, Unknown


def read(root: Path, layout: str = "auto", **options: object) -> LayoutResult:
    folder, chosen_options = Folder(root), LayoutOptions(**options)
    return choose_layout(folder, layout, chosen_options).layout.read(folder, chosen_options)


def test_auto_picks_the_layout_and_says_what_else_it_considered(isic_root: Path) -> None:
    choice = choose_layout(Folder(isic_root), "auto", LayoutOptions())
    assert choice.layout.name == "isic2019"
    assert "class_folders" in choice.reason and "csv_manifest" in choice.reason


def test_auto_refuses_a_folder_that_fits_nothing_and_says_what_every_layout_needs(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refusal:
        choose_layout(Folder(tmp_path), "auto", LayoutOptions())
    assert all(layout.name in str(refusal.value) and layout.looks_for in str(refusal.value) for layout in LAYOUTS)
    assert str(tmp_path) not in str(refusal.value)


def test_an_unknown_layout_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(Unknown, match=", ".join(layout.name for layout in LAYOUTS)):
        choose_layout(Folder(tmp_path), "dicom", LayoutOptions())


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_layout_refuses_to_read_a_folder_that_is_not_its_own(layout: object, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        read(tmp_path, layout.name)


def test_isic_keeps_the_official_test_without_unk_and_maps_gender_to_sex(isic_root: Path) -> None:
    result = read(isic_root)
    assert result.classes == ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"]
    assert Counter(case.split for case in result.cases) == {"train": 8 * 13, "test": 8 * 3}
    assert {case.attributes["sex"] for case in result.cases if case.split == "train"} == {"male", "female", ""}
    assert [(item.count, item.split) for item in result.excluded] == [(3, "test")]
    assert result.group_kind == "lesion" and not result.problems
    assert {case.group for case in result.cases if case.split == "test"} == {None}
    assert sum(case.group is None for case in result.cases if case.split == "train") == 8 * 3


def test_isic_finds_images_in_doubled_folders(make_isic, tmp_path: Path) -> None:
    assert len(read(make_isic(tmp_path, doubled=True)).cases) == 8 * 13 + 8 * 3


def test_isic_reports_rows_without_image_images_without_row_and_duplicate_rows(
    make_isic, tmp_path: Path, picture
) -> None:
    root = make_isic(tmp_path)
    (root / "ISIC_2019_Training_Input" / "ISIC_0000001.jpg").unlink()
    picture(9).save(root / "ISIC_2019_Training_Input" / "ISIC_9999999.jpg")
    truth = root / "ISIC_2019_Training_GroundTruth.csv"
    lines = truth.read_text(encoding="utf-8").splitlines()
    truth.write_text("\n".join([*lines, lines[2]]) + "\n", encoding="utf-8")
    result = read(root)
    assert {(item.reason, item.count, item.examples) for item in result.excluded if item.split == "train"} == {
        ("a row of the ground truth without an image file", 1, ("ISIC_0000001",)),
        ("an image file without a row in the ground truth", 1, ("ISIC_9999999",)),
    }
    assert len(result.problems) == 1 and "more than once" in result.problems[0]


def test_isic_may_be_grouped_by_another_column_or_not_at_all(isic_root: Path) -> None:
    assert {case.group for case in read(isic_root, group_by="gender").cases if case.split == "train"} == {
        "male",
        "female",
        None,
    }
    assert {case.group for case in read(isic_root, group_by="none").cases} == {None}
    with pytest.raises(BadInput, match="lesion_id"):
        read(isic_root, group_by="patient_id")


def test_class_folders_take_the_label_from_the_folder_through_doubled_folders_and_past_hidden_files(
    make_class_folders, tmp_path: Path, picture
) -> None:
    root = make_class_folders(tmp_path / "moles" / "moles")
    for junk in ("__MACOSX/moles/benign", ".git/benign"):
        (tmp_path / junk).mkdir(parents=True)
        picture(1).save(tmp_path / junk / "x.png")
    picture(2).save(root / "benign" / "._benign-0.png")
    picture(3).save(root / "readme.png")
    result = read(tmp_path)
    assert result.classes == ["benign", "malignant"] and len(result.cases) == 16
    assert [(item.reason, item.count) for item in result.excluded] == [("an image that lies in no class folder", 1)]


def test_class_folders_below_train_val_and_test_keep_the_splits(make_class_folders, tmp_path: Path) -> None:
    for at, split in enumerate(("train", "val", "test")):
        make_class_folders(tmp_path / "xray" / split, n=4, seed=at)
    make_class_folders(tmp_path / "xray" / "xray" / "train", n=4, seed=9)
    result = read(tmp_path)
    assert Counter((case.label, case.split) for case in result.cases) == {
        (label, split): 4 for label in ("benign", "malignant") for split in ("train", "val", "test")
    }
    assert sum(item.count for item in result.excluded) == 8


def test_folders_of_images_and_masks_are_not_taken_for_classes(make_class_folders, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="do not look like classes"):
        read(make_class_folders(tmp_path, classes=("images", "masks")))


def test_class_folders_group_by_patient_in_the_name_by_folder_or_by_expression(
    make_class_folders, tmp_path: Path, picture
) -> None:
    by_name = tmp_path / "by_name"
    by_folder = tmp_path / "by_folder"
    for label in ("a", "b"):
        (by_name / label).mkdir(parents=True)
        for patient in range(3):
            (by_folder / label / f"p{patient}").mkdir(parents=True)
            for view in range(2):
                picture(0).save(by_name / label / f"patient{patient}_{label}{view}.png")
                picture(0).save(by_folder / label / f"p{patient}" / f"{view}.png")
    named, nested = read(by_name), read(by_folder)
    assert named.group_kind == "patient" and {case.group for case in named.cases} == {"0", "1", "2"}
    assert nested.group_kind == "folder" and len({case.group for case in nested.cases}) == 6
    assert {case.group for case in read(by_name, group_by=r"([ab])\d").cases} == {"a", "b"}
    assert read(make_class_folders(tmp_path / "plain")).group_kind == "image"
    for wrong in ("(", "no_group", "(zzz)"):
        with pytest.raises(BadInput, match="group_by"):
            read(by_name, group_by=wrong)


def test_classes_are_in_natural_order(make_class_folders, tmp_path: Path) -> None:
    assert read(make_class_folders(tmp_path, classes=("grade 10", "grade 9", "grade 1"))).classes == [
        "grade 1",
        "grade 9",
        "grade 10",
    ]


@pytest.fixture
def manifest(tmp_path: Path, picture, make_csv) -> Path:
    """HAM10000-like: names without suffix, images in two folders, a byte order mark, identifiers, a free text and a flag."""
    for i in range(12):
        folder = tmp_path / f"images_part_{1 + i % 2}"
        folder.mkdir(exist_ok=True)
        picture(i).save(folder / f"ISIC_{i}.jpg")
    rows = [
        [f"L{i // 2}", f"ISIC_{i}", "mel" if i < 6 else "nv", 40 + i, f"seen by Dr. {i}", f"2020-01-{i + 1}", i % 2]
        for i in range(12)
    ]
    make_csv(
        tmp_path / "meta.csv",
        ["lesion_id", "image_id", "dx", "age", "comment", "exam_date", "drain"],
        rows,
        "utf-8-sig",
    )
    return tmp_path


def test_a_manifest_is_recognised_by_typical_names_and_shows_no_private_columns(manifest: Path) -> None:
    result = read(manifest)
    assert choose_layout(Folder(manifest), "auto", LayoutOptions()).layout.name == "csv_manifest"
    assert (
        result.classes == ["mel", "nv"] and len(result.cases) == 12 and len({case.group for case in result.cases}) == 6
    )
    assert result.group_kind == "lesion" and result.attributes == ["age", "drain"]
    assert "comment" in result.notes[0] and "exam_date" in result.notes[0]


def test_columns_of_a_manifest_can_be_named(manifest: Path) -> None:
    result = read(manifest, label_column="drain", group_by="none", attributes=("AGE",))
    assert (
        result.classes == ["0", "1"]
        and result.attributes == ["age"]
        and {case.group for case in result.cases} == {None}
    )
    with pytest.raises(BadInput, match="no column 'wrong'"):
        read(manifest, label_column="wrong")
    with pytest.raises(BadInput, match="no columns wrong"):
        read(manifest, attributes=("wrong",))


def test_a_manifest_with_duplicate_rows_missing_images_and_missing_labels_says_so(manifest: Path, picture) -> None:
    table = manifest / "meta.csv"
    extra = "L9,ISIC_0,mel,1,,,0\nL9,ISIC_99,mel,1,,,0\nL9,ISIC_100,,1,,,0\n"
    table.write_text(table.read_text(encoding="utf-8") + extra, encoding="utf-8")
    picture(100).save(manifest / "images_part_1" / "ISIC_100.jpg")
    picture(101).save(manifest / "images_part_1" / "ISIC_101.jpg")
    result = read(manifest)
    assert len(result.problems) == 1 and "1 image(s) have more than one row" in result.problems[0]
    assert {(item.reason[:22], item.count) for item in result.excluded} == {
        ("a row without an image", 1),
        ("a row without a label", 1),
        ("an image file without ", 1),
    }


def test_manifests_named_after_splits_and_a_split_column_keep_the_splits(tmp_path: Path, picture, make_csv) -> None:
    (tmp_path / "img").mkdir()
    for i in range(8):
        picture(i).save(tmp_path / "img" / f"{i}.png")
    rows = [[f"img/{i}.png", "ab"[i % 2]] for i in range(8)]
    make_csv(tmp_path / "train.csv", ["path", "label"], rows[:6])
    make_csv(tmp_path / "test.csv", ["path", "label"], rows[6:])
    assert Counter(case.split for case in read(tmp_path).cases) == {"train": 6, "test": 2}
    (tmp_path / "test.csv").unlink()
    (tmp_path / "train.csv").unlink()
    make_csv(
        tmp_path / "all.csv",
        ["path", "label", "Split"],
        [[*row, "Valid" if i == 0 else "train"] for i, row in enumerate(rows)],
    )
    assert Counter(case.split for case in read(tmp_path).cases) == {"train": 7, "val": 1}


def test_links_and_paths_that_lead_out_of_the_folder_are_not_followed(tmp_path: Path, picture, make_csv) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    picture(1).save(outside / "secret.png")
    (root / "link.png").symlink_to(outside / "secret.png")
    (root / "folder").symlink_to(outside)
    for i in range(4):
        picture(i).save(root / f"{i}.png")
    rows = [[f"{i}.png", "ab"[i % 2]] for i in range(4)]
    make_csv(root / "all.csv", ["path", "label"], [*rows, ["../outside/secret.png", "a"], ["link.png", "b"]])
    folder = Folder(root)
    assert folder.links_out == 2 and len(folder.images) == 4
    assert len(read(root).cases) == 4
