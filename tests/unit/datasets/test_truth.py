"""Boxes and masks from the folder to where runs, scoring and the custodian find them."""

from __future__ import annotations

import csv
import json
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clinloop import context
from clinloop.datasets import layouts, vault
from clinloop.datasets.case import Box
from clinloop.datasets.dataset import MTIME, CaseRow, Dataset
from clinloop.datasets.truth import mask_cell
from clinloop.errors import BadInput
from clinloop.paths import StateFolder
from clinloop.scoring.truth import read_truth
from clinloop.spec import TaskSpec

from . import annotated
from .annotated import HEIGHT, WIDTH, write_chests, write_wrists
from .conftest import Add, Picture


@pytest.fixture(autouse=True)
def layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "LAYOUTS", [annotated.Annotated(), *layouts.LAYOUTS])


@pytest.fixture
def wrists(tmp_path: Path, picture: Picture) -> Path:
    """Forty pictures of twenty patients: half with a box that tells its number, half without."""
    return write_wrists(tmp_path / "wrists", picture)


@pytest.fixture
def chests(tmp_path: Path, picture: Picture) -> Path:
    """Forty pictures, half with a mask of their own, every other one as runs, half with an empty mask."""
    return write_chests(tmp_path / "chests", picture)


def sources(dataset: Dataset) -> dict[str, int]:
    """The number in the name of each case's file."""
    with (dataset.vault / "sources.csv").open(encoding="utf-8", newline="") as file:
        return {row["case_id"]: int(Path(row["source"]).stem[1:]) for row in csv.DictReader(file)}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def everything(dataset: Dataset) -> list[CaseRow]:
    return [*dataset.cases(), *vault.open_test(dataset.folder)]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_every_case_keeps_its_boxes_and_a_case_without_any_says_that_nothing_is_there(add: Add, wrists: Path) -> None:
    dataset = add(wrists)
    number = sources(dataset)
    assert (dataset.task_type, dataset.targets) == ("detection", ["fracture"])
    assert len(everything(dataset)) == 40
    for case in everything(dataset):
        i = number[case.case_id]
        assert case.boxes == ((Box("fracture", i % 20, 5, 10, 20),) if i % 2 else ())
        assert (case.supervision, case.width, case.height, case.mask) == ("box", WIDTH, HEIGHT, None)


def test_a_run_sees_the_boxes_of_training_cases_as_coco_and_of_no_other_case(add: Add, wrists: Path) -> None:
    dataset = add(wrists)
    train = {case.case_id: case for case in dataset.cases("train")}
    shown = json.loads((dataset.view / "boxes.json").read_text(encoding="utf-8"))
    assert [image["id"] for image in shown["images"]] == list(train)
    assert all(image["file_name"] == train[image["id"]].image.name for image in shown["images"])
    assert shown["categories"] == [{"id": 1, "name": "fracture"}]
    assert {(item["image_id"], *item["bbox"]) for item in shown["annotations"]} == {
        (case.case_id, *box[1:]) for case in train.values() for box in case.boxes or ()
    }
    table = rows(dataset.view / "cases.csv")
    assert {(row["split"], row["supervision"], row["label"] != "") for row in table} == {
        ("train", "box", True),
        ("val", "", False),
    }
    hidden = [case.case_id for case in everything(dataset) if case.split != "train"]
    assert not [case_id for case_id in hidden if case_id in json.dumps(shown)]


def test_validation_boxes_are_in_the_truth_that_scoring_reads(add: Add, wrists: Path) -> None:
    dataset = add(wrists)
    truth = {row["case_id"]: row for row in rows(dataset.val_truth)}
    val = dataset.cases("val")
    assert truth.keys() == {case.case_id for case in val}
    for case in val:
        row = truth[case.case_id]
        assert (row["label"], row["width"], row["height"]) == (case.label, str(WIDTH), str(HEIGHT))
        assert json.loads(row["boxes"]) == [[0, *box[1:]] for box in case.boxes or ()]


def test_masks_of_files_and_of_runs_are_stored_as_bits_where_their_split_may_see_them(add: Add, chests: Path) -> None:
    dataset = add(chests)
    number = sources(dataset)
    for case in everything(dataset):
        i = number[case.case_id]
        expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
        if i % 2:
            expected[10:20, i : i + 15] = True
        assert case.mask is not None and case.supervision == "mask"
        stored = pixels(case.mask)
        assert stored.dtype == bool and np.array_equal(stored, expected)
        home = {"train": dataset.view / "masks", "val": dataset.folder / "val_masks", "test": dataset.vault / "masks"}
        assert case.mask == home[case.split] / f"{case.case_id}.png"
        assert stat.S_IMODE(case.mask.stat().st_mode) == (0o644 if case.split == "train" else 0o600)
    in_view = {path.stem for path in (dataset.view / "masks").iterdir()}
    assert in_view == {case.case_id for case in dataset.cases("train")}
    assert {path.stat().st_mtime for path in [dataset.view, *dataset.view.rglob("*")]} == {MTIME}


def test_validation_masks_are_run_lengths_down_the_columns(add: Add, chests: Path) -> None:
    dataset = add(chests)
    truth = {row["case_id"]: row["mask"] for row in rows(dataset.val_truth)}
    for case in dataset.cases("val"):
        counts = [int(count) for count in truth[case.case_id].split()]
        flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        assert case.mask is not None and np.array_equal(flat.reshape(WIDTH, HEIGHT).T, pixels(case.mask))


def test_run_lengths_begin_with_the_count_of_zeros_and_give_the_mask_back(tmp_path: Path) -> None:
    def cell(mask: np.ndarray) -> str:
        Image.fromarray(mask).save(tmp_path / "mask.png")
        return mask_cell(tmp_path / "mask.png")

    mask = np.zeros((2, 3), dtype=bool)
    assert cell(mask) == "6" and mask_cell(None) == ""
    mask[0, 0] = mask[1, 2] = True
    assert cell(mask) == "0 1 4 1"
    draw = np.random.default_rng(0)
    for _ in range(300):
        height, width = (int(side) for side in draw.integers(1, 7, 2))
        mask = draw.random((height, width)) < draw.random()
        counts = [int(count) for count in cell(mask).split()]
        assert sum(counts) == mask.size and all(counts[1:])  # only the first run may be empty
        assert np.array_equal(np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T, mask)


def one(root: Path, add: Add, **options: object) -> CaseRow:
    """Return the case of w1.png after it was changed on disk."""
    dataset = add(root, **options)
    number = sources(dataset)
    return next(case for case in everything(dataset) if number[case.case_id] == 1)


def change(root: Path, source: str, **fields: Any) -> Path:
    """Change a case in annotations.json."""
    file = root / "annotations.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    next(case for case in content["cases"] if case["source"] == source).update(fields)
    file.write_text(json.dumps(content), encoding="utf-8")
    return root


def test_boxes_shrink_with_an_image_that_is_reduced(add: Add, wrists: Path, picture: Picture) -> None:
    picture(99, (400, 200)).save(wrists / "w1.png")
    change(wrists, "w1.png", boxes=[["fracture", 40, 20, 100, 60]])
    case = one(wrists, add, max_px=100)
    assert (case.width, case.height, case.boxes) == (100, 50, (Box("fracture", 10, 5, 25, 15),))


def test_a_mask_shrinks_with_its_image_and_a_speck_does_not_vanish(
    add: Add, chests: Path, picture: Picture, tmp_path: Path
) -> None:
    picture(99, (400, 200)).save(chests / "c1.png")
    mask = np.zeros((200, 400), dtype=np.uint8)
    mask[40:120, 80:200] = 1
    Image.fromarray(mask).save(chests / "c1_mask.png")
    picture(98, (400, 200)).save(chests / "c5.png")
    speck = np.zeros((200, 400), dtype=np.uint8)
    speck[101, 203] = 1
    Image.fromarray(speck).save(chests / "c5_mask.png")
    dataset = add(chests, max_px=100)
    number = sources(dataset)
    masks = {number[case.case_id]: pixels(case.mask) for case in everything(dataset) if case.mask}
    expected = np.zeros((50, 100), dtype=bool)
    expected[10:30, 20:50] = True
    assert np.array_equal(masks[1], expected)
    assert masks[5].sum() == 1 and masks[5][25, 50]


def test_boxes_and_masks_lie_on_what_a_turned_photograph_shows(add: Add, tmp_path: Path, picture: Picture) -> None:
    """The target is a white block: after every EXIF orientation the box and the mask cover exactly it."""
    root = write_chests(tmp_path / "in", picture)
    for orientation in range(2, 9):
        exif, i = Image.Exif(), 4 * orientation + 1
        exif[0x0112] = orientation
        photo = np.zeros((30, 40, 3), dtype=np.uint8)
        photo[4:12, 6 : 10 + 2 * orientation] = 255
        upright = np.asarray(_upright(Image.fromarray(photo), orientation))
        ys, xs = np.nonzero(upright[..., 0])
        box = ["pneumothorax", int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
        drawn_on = photo if orientation in (5, 8) else upright  # the pixels in the file, or what is seen
        for name in (f"c{i}", f"c{i - 1}"):
            Image.fromarray(photo).save(root / f"{name}.png", exif=exif)
            Image.fromarray(drawn_on[..., 0]).save(root / f"{name}_mask.png")
        change(root, f"c{i}.png", boxes=[box])
    dataset = add(root)
    number = sources(dataset)
    turned = [case for case in everything(dataset) if number[case.case_id] >= 8 and number[case.case_id] % 4 < 2]
    assert len(turned) == 14 + 2
    for case in turned:
        i = number[case.case_id]
        if i in (36, 37):
            continue
        assert case.mask is not None
        block = pixels(case.image)[..., 0] > 127
        assert np.array_equal(pixels(case.mask), block)
        if i % 2:
            assert case.boxes is not None
            _, x, y, width, height = case.boxes[0]
            assert block[int(y) : int(y + height), int(x) : int(x + width)].all() and width * height == block.sum()


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    """EXIF by its definition: orientation says where row 0 and column 0 of the file are seen."""
    turned = np.asarray(image)
    if orientation >= 5:
        turned = turned.swapaxes(0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}[orientation]
    return Image.fromarray(np.flip(turned, flips))


def test_a_box_that_rounding_moved_beyond_the_edge_is_cut_and_counted(
    add: Add, wrists: Path, picture: Picture, tmp_path: Path
) -> None:
    change(wrists, "w1.png", boxes=[["fracture", -0.6, 30, 20, 15.9]], split="train")
    dataset = add(wrists)
    number = sources(dataset)
    case = next(case for case in everything(dataset) if number[case.case_id] == 1)
    assert case.boxes == (Box("fracture", 0, 30, 19.4, 15),)


def test_boxes_that_are_none_of_their_image_are_refused_with_their_files_and_nothing_is_left(
    add: Add, wrists: Path, tmp_path: Path
) -> None:
    bad: dict[str, tuple[list[list[object]], str]] = {
        "w1.png": ([["fracture", 70, 5, 10, 10]], "box 1 of 1 is outside the image: x 70 to 80"),
        "w3.png": (
            [["fracture", 1, 1, 9, 9], ["fracture", 40, 5, 30, 9]],
            "box 2 of 2 is outside the image: x 40 to 70",
        ),
        "w5.png": ([["fracture", 5, 5, 0, 10]], "box 1 of 1 has no size (0 × 10 px)"),
        "w7.png": ([["fracture", 5, 5, float("nan"), 10]], "box 1 of 1 has a coordinate that is not a number"),
        "w9.png": ([["fracture", 60, 5, 1, 10]], "box 1 of 1 has no size inside the image"),
    }
    for name, (boxes, _) in bad.items():
        change(wrists, name, boxes=boxes)
    with pytest.raises(BadInput, match=r"5 image\(s\) do not fit; the first: box .* Nothing was added") as refusal:
        add(wrists)
    assert ".png" not in str(refusal.value)
    for name, (_, said) in bad.items():
        assert any(note.startswith(f"{name}: {said}") for note in refusal.value.__notes__)
    assert Dataset.list_names(tmp_path / "state") == []
    assert not list((tmp_path / "state" / "datasets").glob(".building*"))


def test_masks_that_are_none_of_their_image_are_refused_with_their_files(
    add: Add, chests: Path, tmp_path: Path
) -> None:
    Image.new("L", (WIDTH, HEIGHT + 1)).save(chests / "c1_mask.png")
    (chests / "c5_mask.png").write_bytes(b"no image")
    (chests / "c9_mask.png").unlink()
    Image.new("RGB", (WIDTH, HEIGHT), (1, 2, 3)).save(chests / "c13_mask.png")
    change(chests, "c13.png", mask_values=[1])
    change(chests, "c3.png", mask_runs=[[WIDTH * HEIGHT - 2, 3]])
    with pytest.raises(BadInput, match=r"5 image\(s\) do not fit") as refusal:
        add(chests)
    said = dict(note.split(": ", 1) for note in refusal.value.__notes__)
    assert said == {
        "c1.png": "the mask has 60 × 46 px, its image 60 × 45 px",
        "c3.png": "a run of the mask (start 2698, length 3) leaves the image of 60 × 45 px",
        "c5.png": "the mask cannot be read (UnidentifiedImageError)",
        "c9.png": "the mask file is missing",
        "c13.png": "the mask has colours where single values are needed",
    }
    assert Dataset.list_names(tmp_path / "state") == []


def test_bad_boxes_of_the_official_test_set_are_named_to_the_custodian_alone(
    add: Add, tmp_path: Path, picture: Picture
) -> None:
    root = write_wrists(tmp_path / "in", picture)
    for i in range(4):
        change(root, f"w{i}.png", split="test")
    change(root, "w3.png", boxes=[["fracture", 70, 5, 10, 10]])
    with pytest.raises(BadInput, match=r"of the official test set do not fit\. Nothing") as refusal:
        add(root)
    assert "box 1" not in str(refusal.value) and "w3.png" in refusal.value.__notes__[0]


def test_only_the_wanted_values_of_a_mask_are_the_target_and_jpeg_edges_are_not(add: Add, chests: Path) -> None:
    values = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    values[:10], values[20:30] = 1, 2
    Image.fromarray(values).save(chests / "c1_mask.png")
    change(chests, "c1.png", mask_values=[2])
    block = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    block[8:24, 16:40] = 255
    Image.fromarray(block).save(chests / "c5_mask.jpg", quality=40)
    change(chests, "c5.png", mask_file="c5_mask.jpg")
    dataset = add(chests)
    number = sources(dataset)
    masks = {number[case.case_id]: pixels(case.mask) for case in everything(dataset) if case.mask}
    assert np.array_equal(masks[1], values == 2) and np.array_equal(masks[5], block > 0)


def test_the_commitment_notices_a_moved_box_and_a_changed_mask_of_any_split(add: Add, chests: Path) -> None:
    dataset = add(chests)
    assert vault.verify_commitment(dataset.folder)
    for split in ("train", "val", "test"):
        mask = next(case.mask for case in everything(dataset) if case.split == split and case.boxes)
        assert mask is not None
        honest = mask.read_bytes()
        mask.write_bytes(honest[:-1] + b"x")
        assert not vault.verify_commitment(dataset.folder)
        assert vault.verify_commitment(dataset.folder, check_images=False)
        mask.write_bytes(honest)
        table = (dataset.vault if split == "test" else dataset.folder) / "cases.csv"
        text = table.read_text(encoding="utf-8")
        row = next(row for row in text.splitlines() if f",{split}," in row and ".25," in row)
        table.write_text(text.replace(row, row.replace(".25,", ".5,", 1)), encoding="utf-8")
        assert not vault.verify_commitment(dataset.folder, check_images=False)
        table.write_text(text, encoding="utf-8")
    assert vault.verify_commitment(dataset.folder)


def test_boxes_of_a_share_of_the_training_groups_are_kept_and_the_other_cases_keep_their_label(
    add: Add, tmp_path: Path, picture: Picture
) -> None:
    root = write_wrists(tmp_path / "in", picture, 80)
    full, few = add(root), add(root, state=tmp_path / "few", keep_boxes=0.2)
    train = few.cases("train")
    with_boxes = [case for case in train if case.boxes is not None]
    assert len(train) == len(full.cases("train")) and 0.15 <= len(with_boxes) / len(train) <= 0.25
    assert {case.label for case in with_boxes} == {"fracture", "no fracture"}
    assert {case.supervision for case in train if case.boxes is None} == {"image"} and all(case.label for case in train)
    groups = {case.group for case in with_boxes}
    assert all(case.boxes is not None for case in train if case.group in groups)  # whole patients
    assert all(case.boxes is not None for case in everything(few) if case.split != "train")
    shown = json.loads((few.view / "boxes.json").read_text(encoding="utf-8"))
    assert {image["id"] for image in shown["images"]} == {case.case_id for case in with_boxes}
    assert Counter(row["supervision"] for row in rows(few.view / "cases.csv")) == {
        "box": len(with_boxes),
        "image": len(train) - len(with_boxes),
        "": len(few.cases("val")),
    }
    assert few.record.keep_boxes == 0.2 and few.record.split == full.record.split
    assert few.audit.supervision["train"] == {"box": len(with_boxes), "image": len(train) - len(with_boxes)}
    assert vault.verify_commitment(few.folder)


def test_masks_that_are_not_kept_are_nowhere(add: Add, chests: Path, tmp_path: Path) -> None:
    dataset = add(chests, keep_boxes=0.3)
    kept = {case.mask for case in everything(dataset) if case.mask is not None}
    assert kept == {*dataset.folder.rglob("masks/*.png"), *dataset.folder.rglob("val_masks/*.png")}
    assert 0 < len(list((dataset.view / "masks").iterdir())) < len(dataset.cases("train")) / 2


def test_a_share_of_boxes_of_a_folder_without_boxes_is_refused(
    add: Add, make_class_folders: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="no boxes and no masks"):
        add(make_class_folders(tmp_path / "in"), keep_boxes=0.5)
    with pytest.raises(BadInput, match="keep_boxes is 5"):
        add(tmp_path / "in", keep_boxes=5)


def test_a_dataset_without_images_that_show_nothing_can_be_added(add: Add, tmp_path: Path, picture: Picture) -> None:
    root = write_wrists(tmp_path / "in", picture, label="fracture", boxes=[["fracture", 5, 5, 10, 20]])
    dataset = add(root)
    assert dataset.classes == ["no fracture", "fracture"]
    assert dataset.counts["val"]["no fracture"] == 0 < dataset.counts["val"]["fracture"]


def test_images_without_boxes_are_all_training_because_they_cannot_be_scored(
    add: Add, tmp_path: Path, picture: Picture
) -> None:
    root = write_wrists(tmp_path / "in", picture)
    for i in range(24):
        change(root, f"w{i}.png", boxes=None)
    dataset = add(root)
    assert len(everything(dataset)) == 40
    assert {case.split for case in everything(dataset) if case.boxes is None} == {"train"}
    assert {case.split for case in everything(dataset) if case.boxes is not None} == {"train", "val", "test"}


def test_the_truth_of_a_task_carries_every_attribute_and_no_sandbox_can_read_it(isic: Dataset, tmp_path: Path) -> None:
    spec = TaskSpec(objective="Tell melanoma from nevus.", target_classes=("MEL", "NV"))
    folder = StateFolder(tmp_path).task("t1")
    folder.root.mkdir(parents=True)
    written = context.prepare_task_data(isic, spec, folder)
    val = {case.case_id: case for case in isic.cases("val") if case.label in spec.target_classes}
    truth = read_truth(written.truth)
    assert len(isic.attributes) == 3 and {case.case_id for case in truth} == val.keys() != set()
    for case in truth:
        assert case.attributes == val[case.case_id].attributes
        assert list(case.attributes) == isic.attributes
    assert any(value for case in truth for value in case.attributes.values())
    assert stat.S_IMODE(written.truth.stat().st_mode) == 0o600
    # What is mounted is the view and single files beside it, never the folder.
    assert not [path for path in written.view.rglob("*") if "truth" in path.name]
    assert context.truth_of(spec, []) == "case_id,group,label\n"
