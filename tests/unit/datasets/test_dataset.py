"""Reading a stored dataset: subsets, gallery, predict views, data roots."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinloop.datasets import layouts, vault
from clinloop.datasets.dataset import MTIME, Dataset
from clinloop.datasets.pictures import COLOURS, prepare_predict_view
from clinloop.datasets.roots import folder_names, resolve_in_roots
from clinloop.errors import Unknown
from clinloop_tools.inspect_dataset import shortened

from . import annotated


def test_an_unknown_dataset_or_case_is_refused_with_the_known_ones(isic: Dataset) -> None:
    state = isic.folder.parent.parent
    with pytest.raises(Unknown, match="isic"):
        Dataset.load(state, "isci")
    with pytest.raises(Unknown, match="case"):
        isic.image_path("nope")
    with pytest.raises(Unknown, match="case"):
        isic.image_path(vault.open_test(isic.folder)[0].case_id)


def test_a_subset_has_every_class_and_is_the_same_for_the_same_seed(isic: Dataset) -> None:
    subset = isic.subset("train", 20, seed=3)
    assert (
        Counter(case.label for case in subset).keys() == set(isic.classes)
        and len({case.case_id for case in subset}) == 20
    )
    assert max(Counter(case.label for case in subset).values()) == 3 and {case.split for case in subset} == {"train"}
    assert subset == isic.subset("train", 20, seed=3) != isic.subset("train", 20, seed=4)
    assert len(isic.subset("val", 10_000)) == len(isic.cases("val"))


def test_the_gallery_is_a_picture_of_bounded_size(isic: Dataset) -> None:
    with Image.open(io.BytesIO(isic.contact_sheet(4))) as sheet:
        assert sheet.format == "PNG" and 300 < max(sheet.size) <= 1600
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 1000


def test_the_gallery_draws_boxes_and_outlines_where_they_are(
    add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of gray pictures only the drawing has colours: a frame at the box, an outline at the mask, and nothing else."""
    monkeypatch.setattr(layouts, "LAYOUTS", [annotated.Annotated()])
    root = tmp_path / "in"
    root.mkdir()
    cases = []
    for i in range(12):
        noise = np.random.default_rng(i).integers(90, 110, (45, 60)).astype(np.uint8)
        Image.fromarray(noise).save(root / f"{i}.png")
        runs = [[45 * column + 10, 20] for column in range(30, 50)]  # x 30 to 50, y 10 to 30
        cases.append(
            {"source": f"{i}.png", "label": "fracture", "boxes": [["fracture", 6, 9, 12, 18]], "mask_runs": runs}
        )
    annotated.write(root, cases, task_type="segmentation", group_kind="image")
    dataset = add(root, on_leak="drop")
    with Image.open(io.BytesIO(dataset.contact_sheet(1))) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    colour = [int(COLOURS[0][at : at + 2], 16) for at in (1, 3, 5)]
    ys, xs = np.nonzero((pixels == colour).all(axis=2))
    tile = ys > 44  # below the title with its legend
    scale, left = 228 / 60, 190
    top = 44 + 228 + 6 + (228 - round(45 * scale)) // 2
    x, y = (xs[tile] - left) / scale, (ys[tile] - top) / scale
    in_box = (x > 5.4) & (x < 18.6) & (y > 8.4) & (y < 27.6)
    in_mask = (x > 29.4) & (x < 50.6) & (y > 9.4) & (y < 30.6)
    assert (in_box ^ in_mask).all() and in_box.sum() > 300 and in_mask.sum() > 200
    inside = ((x > 8) & (x < 16) & (y > 11) & (y < 25)) | ((x > 32) & (x < 48) & (y > 12) & (y < 28))
    assert not inside.any()


def test_a_long_summary_is_cut_and_says_where_the_rest_is() -> None:
    facts = {
        "name": "many",
        "classes": [f"class number {i} of many" for i in range(300)],
        "counts": {split: {f"class number {i} of many": i for i in range(300)} for split in ("train", "val")},
        "warnings": ["a warning " * 30] * 20,
        "attributes": [f"column {i}" for i in range(400)],
    }
    cut = shortened(facts)
    assert len(json.dumps(cut)) <= 7_000 and cut["name"] == "many" and len(facts["classes"]) == 300
    assert cut["attributes"][0] == "column 0" and cut["attributes"][-1] == "and 390 more: view 'attributes'"
    assert cut["counts"] == "too long for a summary: view 'audit'"
    assert shortened({"name": "few", "classes": ["a", "b"]}) == {"name": "few", "classes": ["a", "b"]}


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_predict_view_shows_attributes_and_no_labels(isic: Dataset, tmp_path: Path) -> None:
    prepare_predict_view(isic.cases("val"), tmp_path / "view")
    shown = read(tmp_path / "view" / "cases.csv")
    assert list(shown[0]) == ["case_id", *isic.attributes] and len(shown) == len(isic.cases("val"))
    for case in isic.cases("val"):
        assert (tmp_path / "view" / "images" / case.image.name).read_bytes() == case.image.read_bytes()
    with pytest.raises(FileExistsError):
        prepare_predict_view(isic.cases("val"), tmp_path / "view")


def test_a_renamed_predict_view_shares_no_name_order_time_or_bytes_with_what_is_stored(
    isic: Dataset, tmp_path: Path
) -> None:
    cases = [*vault.open_test(isic.folder), *isic.cases("val")]
    new_ids = {case.case_id: hashlib.sha256(case.case_id.encode()).hexdigest()[:12] for case in cases}
    prepare_predict_view(cases, tmp_path / "view", new_ids=new_ids)
    shown = [row["case_id"] for row in read(tmp_path / "view" / "cases.csv")]
    assert shown == sorted(new_ids.values())
    files = {path.stem: path for path in (tmp_path / "view" / "images").iterdir()}
    assert set(files) == set(new_ids.values())
    assert {path.stat().st_mtime for path in [tmp_path / "view", *(tmp_path / "view").rglob("*")]} == {MTIME}
    for case in cases:
        with Image.open(files[new_ids[case.case_id]]) as new, Image.open(case.image) as old:
            difference = np.abs(np.asarray(new, dtype=int) - np.asarray(old, dtype=int))
            assert new.size == old.size and not new.getexif()
            assert difference.max() == 0  # the same case, the same prediction


def test_a_folder_below_a_data_root_is_found_and_nothing_else(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    for folder in (root / "derm" / "isic", root / ".hidden", other / "xray", tmp_path / "secret"):
        folder.mkdir(parents=True)
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "derm" / "link").symlink_to(tmp_path / "secret")
    (root / "file").write_text("x", encoding="utf-8")
    roots = (tmp_path / "missing", root, other)
    assert resolve_in_roots("derm/isic", roots) == root / "derm" / "isic"
    assert resolve_in_roots("xray", roots) == other / "xray"
    for name in (
        "link",
        "derm/link",
        "../secret",
        "derm/../../secret",
        "/etc",
        ".hidden",
        "file",
        "",
        ".",
        "derm//isic",
        "a\0b",
        "nothing",
    ):
        assert resolve_in_roots(name, roots) is None
    assert folder_names(roots) == ["derm", "xray"]


def test_a_nested_name_is_stored_under_a_flat_one(add, make_class_folders, tmp_path: Path) -> None:
    dataset = add(make_class_folders(tmp_path / "in"), "derm/isic")
    assert dataset.name == "derm.isic" and Dataset.list_names(tmp_path / "state") == ["derm.isic"]


def test_reading_a_dataset_loads_nothing_heavy() -> None:
    code = "import sys, clinloop.datasets.dataset, clinloop.datasets.roots, clinloop.datasets.vault, clinloop.datasets.pictures; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert not {"numpy", "PIL", "sklearn", "scipy", "imagehash"} & set(modules)
