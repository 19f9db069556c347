"""What is wrong in a folder, whatever its layout: one refusal that names file and row, or a count of what was left out; never half a dataset."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from clinloop.cli_data import LAYOUT_HELP
from clinloop.datasets import vault
from clinloop.datasets.dataset import Dataset
from clinloop.datasets.layouts import LAYOUTS
from clinloop.errors import BadInput

from .conftest import Add, Picture
from .layouts import test_choice as general
from .layouts import test_siim_acr as siim

Spoil = Callable[[Path], None]


def replaced(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text(encoding="utf-8")
    assert old in text
    (root / name).write_text(text.replace(old, new, 1), encoding="utf-8")


def wide_wrists(root: Path) -> None:
    """GRAZPEDWRI-DX with boxes in Pascal VOC, which is in pixels."""
    from .layouts import test_grazpedwri as wrists

    for patient in range(1, 7):
        stem = wrists.stem_of(patient)
        wrists.write_wrist(root / "images_part1", stem, patient)
        wrists.as_voc(root, stem, *([("fracture", 5, 5, 20, 20)] if patient % 2 else []))
    wrists.write_table(root, [wrists.row(wrists.stem_of(p), visible="1" if p % 2 else "") for p in range(1, 7)])


def spoil_wrists(root: Path) -> None:
    path = next(root.rglob("0001_*.xml"))
    replaced(root, path.relative_to(root).as_posix(), "<xmax>20", "<xmax>200")


def films(root: Path) -> None:
    siim.write_tree(root)
    rows = [f"{siim.A}, 5 10\n", f"{siim.B}, -1\n", f"{siim.C}, 700 3\n", f"{siim.D}, -1\n"]
    siim.write_runs(root, "".join(rows))


BOXES: dict[str, tuple[Callable[[Path], None], Spoil, str]] = {
    "coco": (general.coco, lambda root: replaced(root, "annotations.json", "[12, 9, 12, 9]", "[12, 9, 120, 9]"), "images/0.png"),
    "yolo": (general.yolo, lambda root: replaced(root, "labels/0.txt", "0.3 0.3", "0.95 0.3"), "images/0.png"),
    "pascal_voc": (general.pascal_voc, lambda root: replaced(root, "Annotations/0.xml", "<xmax>24", "<xmax>240"), "images/0.png"),
    "hf_imagefolder": (
        general.hf_imagefolder,
        lambda root: replaced(root, "images/metadata.jsonl", "[12, 9, 12, 9]", "[12, 9, 12, 90]"),
        "images/0.png",
    ),
    "grazpedwri": (wide_wrists, spoil_wrists, "folder_structure/pascalvoc/0001_"),
}  # fmt: skip


@pytest.mark.parametrize("layout", BOXES)
def test_a_box_outside_its_image_is_refused_in_every_layout_of_boxes(layout: str, add: Add, tmp_path: Path) -> None:
    write, spoil, file = BOXES[layout]
    root = tmp_path / "in"
    root.mkdir()
    write(root)
    spoil(root)
    with pytest.raises(BadInput, match=r"outside (the|its) image.* Nothing was added") as refusal:
        add(root)
    assert [note.startswith(file) for note in refusal.value.__notes__] == [True]
    check_nothing_is_left(tmp_path, str(refusal.value))


def other_size(root: Path, name: str) -> None:
    Image.new("L", (61, 45), 255).save(root / name)


MASKS: dict[str, tuple[Callable[[Path], None], Spoil, str, str]] = {
    "mask_folder": (general.mask_folder, lambda root: other_size(root, "masks/2.png"), "has 61 × 45 px", "images/2.png"),
    "nnunet_raw": (general.nnunet_raw, lambda root: other_size(root, "labelsTr/2.png"), "has 61 × 45 px", "imagesTr/2_0000.png"),
    "siim_acr": (films, lambda root: replaced(root, "train-rle.csv", "700 3", "1048575 3"), "run lengths", "train-rle.csv, data row 3"),
}  # fmt: skip


@pytest.mark.parametrize("layout", MASKS)
def test_a_mask_that_does_not_fit_is_refused_in_every_layout_of_masks(layout: str, add: Add, tmp_path: Path) -> None:
    write, spoil, said, file = MASKS[layout]
    root = tmp_path / "in"
    root.mkdir()
    write(root)
    spoil(root)
    with pytest.raises(BadInput, match=said) as refusal:
        add(root)
    assert file in "\n".join([str(refusal.value), *getattr(refusal.value, "__notes__", [])])
    check_nothing_is_left(tmp_path, str(refusal.value))


@pytest.mark.parametrize("write", general.WRITERS, ids=lambda write: write.__name__)
def test_an_image_that_cannot_be_read_is_left_out_and_counted_in_every_layout(
    write: Callable[[Path], None], add: Add, tmp_path: Path
) -> None:
    root = tmp_path / "in"
    root.mkdir()
    write(root)
    (image,) = (
        path
        for path in root.rglob("*.png")
        if path.stem in {"4", "4_0000"} and path.parent.name not in {"masks", "labelsTr"}
    )
    image.write_bytes(image.read_bytes()[:300])
    dataset = add(root)
    custodian = vault.custodian_audit(dataset.folder)
    assert len(dataset.cases()) + sum(custodian.test_counts.values()) == general.N - 1
    name = image.relative_to(root).as_posix()
    told = [*custodian.unreadable, *(name for names in custodian.excluded_examples.values() for name in names)]
    assert told == [name]


def test_a_damaged_annotation_file_is_no_missing_one(add: Add, tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    general.pascal_voc(root)
    (root / "Annotations" / "4.xml").write_bytes(b"\0" * 400)
    with pytest.raises(BadInput, match="1 × an XML file of an image that holds no annotation") as refusal:
        add(root)
    assert refusal.value.__notes__[0].startswith("Annotations/4.xml")
    check_nothing_is_left(tmp_path, str(refusal.value))


def test_a_folder_that_is_none_of_these_says_what_was_looked_for(add: Add, tmp_path: Path, picture: Picture) -> None:
    root = tmp_path / "in"
    root.mkdir()
    picture(1).save(root / "scan.png")
    (root / "notes.json").write_text(json.dumps({"by": "somebody"}), encoding="utf-8")
    with pytest.raises(BadInput, match="fits no layout") as refusal:
        add(root)
    for looked_for in (
        "ISIC_2019_Training_GroundTruth.csv",
        "EncodedPixels",
        "annotations and categories",
        "train_images",
    ):
        assert looked_for in str(refusal.value)
    check_nothing_is_left(tmp_path, str(refusal.value))


def check_nothing_is_left(tmp_path: Path, text: str) -> None:
    """No dataset, no building folder, and no path of this machine in what an agent reads."""
    assert str(tmp_path) not in text
    assert Dataset.list_names(tmp_path / "state") == []
    assert not list((tmp_path / "state" / "datasets").glob(".building*"))


def test_the_command_line_names_every_layout() -> None:
    assert re.findall(r"\w+", LAYOUT_HELP.split(" of ")[1]) == [layout.name for layout in LAYOUTS]
