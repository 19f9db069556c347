"""The GRAZPEDWRI-DX stand-in: the public folders to the letter, 16-bit films, fractures that can be found but not all of them."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinloop.errors import BadInput
from clinloop.standin import STANDINS, grazpedwri

IMAGES = 120
FRACTURE = 3
STEM = r"(\d{4})_(\d{10})_(\d{2})_WRI-([LR])([123])_([MF])(\d{3})"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("standin") / "graz"
    grazpedwri.write(out, images=IMAGES, seed=4)
    return out


@pytest.fixture(scope="module")
def rows(root: Path) -> list[dict[str, str]]:
    with (root / "dataset.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def files(root: Path) -> dict[str, Path]:
    return {path.stem: path for path in root.glob("images_part*/*.png")}


def labels(root: Path, stem: str) -> list[tuple[int, list[float]]]:
    text = (root / f"folder_structure/yolov5/labels/{stem}.txt").read_text(encoding="utf-8")
    return [(int(line.split()[0]), [float(number) for number in line.split()[1:]]) for line in text.splitlines()]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file)


def test_the_folder_holds_exactly_what_the_public_download_holds(root: Path) -> None:
    parts = [f"images_part{part}" for part in range(1, 5)]
    assert sorted(path.name for path in root.iterdir()) == ["dataset.csv", "folder_structure", *parts]
    structure = root / "folder_structure"
    assert sorted(path.name for path in structure.iterdir()) == ["pascalvoc", "supervisely", "yolov5"]
    assert sorted(path.name for path in (structure / "yolov5").iterdir()) == ["images", "labels", "meta.yaml"]
    assert "  3: fracture\n" in (structure / "yolov5/meta.yaml").read_text(encoding="utf-8")
    assert all(sum(1 for _ in (root / part).iterdir()) == IMAGES // 4 for part in parts)


def test_the_table_starts_with_a_byte_order_mark_and_the_public_header(root: Path) -> None:
    first = (root / "dataset.csv").read_bytes().split(b"\n")[0]
    assert first.decode("utf-8") == (
        "\ufefffilestem,patient_id,study_number,timehash,gender,age,laterality,projection,initial_exam,ao_classification,"
        "cast,diagnosis_uncertain,osteopenia,fracture_visible,metal,pixel_spacing,device_manufacturer"
    )


def test_every_image_has_a_row_and_a_label_file_in_each_format(root: Path, rows: list[dict[str, str]]) -> None:
    stems = {row["filestem"] for row in rows}
    assert len(rows) == len(stems) == IMAGES
    assert set(files(root)) == stems
    structure = root / "folder_structure"
    for pattern in ("yolov5/labels/*.txt", "pascalvoc/*.xml", "supervisely/wrist/ann/*.json"):
        assert {path.stem for path in structure.glob(pattern)} == stems


def test_a_file_name_says_patient_time_study_side_projection_sex_and_age_as_its_row_does(
    rows: list[dict[str, str]],
) -> None:
    for row in rows:
        found = re.fullmatch(STEM, row["filestem"])
        assert found
        patient, time, study, side, projection, sex, age = found.groups()
        assert (int(patient), int(study)) == (int(row["patient_id"]), int(row["study_number"]))
        assert (side, projection, sex) == (row["laterality"], row["projection"], row["gender"])
        assert int(age) == int(float(row["age"]))
        assert row["timehash"] == str(int(time))  # the table loses leading zeros, the name keeps them
    assert any(re.fullmatch(STEM, row["filestem"])[2].startswith("0") for row in rows)  # type: ignore[index]


def test_flags_are_one_or_blank(rows: list[dict[str, str]]) -> None:
    for name in ("initial_exam", "cast", "diagnosis_uncertain", "osteopenia", "fracture_visible", "metal"):
        assert {row[name] for row in rows} <= {"1", ""}


def test_films_are_16_bit_and_saturate_when_they_are_read_as_8_bit(root: Path) -> None:
    for path in list(files(root).values())[:20]:
        counts = pixels(path)
        assert counts.dtype == np.uint16
        assert counts.max() > 8 * 255
        with Image.open(path) as file:
            assert file.mode == "I;16"


def test_fracture_visible_agrees_with_the_boxes_and_the_code_does_not_always(
    root: Path, rows: list[dict[str, str]]
) -> None:
    boxed = [any(target == FRACTURE for target, _ in labels(root, row["filestem"])) for row in rows]
    visible = [row["fracture_visible"] == "1" for row in rows]
    assert boxed == visible
    assert 0.55 < np.mean(visible) < 0.8  # 0.667 in the public set
    assert any(row["ao_classification"] and not seen for row, seen in zip(rows, visible, strict=True))


def test_other_things_are_boxed_too_and_most_of_the_clean_films_have_a_text_box(
    root: Path, rows: list[dict[str, str]]
) -> None:
    found = [{target for target, _ in labels(root, row["filestem"])} for row in rows]
    assert {FRACTURE, 5, 8} <= set.union(*found)
    clean = [targets for row, targets in zip(rows, found, strict=True) if not row["fracture_visible"]]
    assert sum(8 in targets for targets in clean) > 0.8 * len(clean)


def test_the_three_formats_hold_the_same_boxes_and_all_lie_inside_the_film(root: Path) -> None:
    structure = root / "folder_structure"
    for stem, path in list(files(root).items())[:40]:
        height, width = pixels(path).shape
        yolo = labels(root, stem)
        sheet = json.loads((structure / f"supervisely/wrist/ann/{stem}.json").read_text(encoding="utf-8"))
        voc = ET.parse(structure / f"pascalvoc/{stem}.xml").getroot()
        assert sheet["size"] == {"height": height, "width": width}
        drawn = [item for item in sheet["objects"] if item["geometryType"] == "rectangle"]
        assert [item["classTitle"] for item in sheet["objects"] if item["geometryType"] == "line"] == ["axis"]
        names = [grazpedwri.TITLES[target] for target, _ in yolo]
        assert names == [item["classTitle"] for item in drawn] == [item.findtext("name") for item in voc.iter("object")]
        for (_, (x, y, w, h)), item, node in zip(yolo, drawn, voc.iter("bndbox"), strict=True):
            corners = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
            assert np.ravel(item["points"]["exterior"]) == pytest.approx(corners, abs=0.51)
            one_based = [int(node.findtext(name) or 0) for name in ("xmin", "ymin", "xmax", "ymax")]
            assert one_based == pytest.approx(np.add(corners, (1, 1, 0, 0)), abs=0.51)
            assert min(corners) >= -0.01 and corners[2] <= width + 0.01 and corners[3] <= height + 0.01


def test_patients_come_back_with_several_views_and_some_studies_have_views_that_disagree(tmp_path: Path) -> None:
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    studies: dict[str, set[str]] = defaultdict(set)
    for patient in range(1, 500):
        for exposure in grazpedwri._plan_patient(patient, seed=1):  # pyright: ignore[reportPrivateUsage]
            row = dict(zip(grazpedwri.HEADER, exposure.row, strict=True))
            seen[row["patient_id"], row["study_number"]].add(row["fracture_visible"])
            studies[row["patient_id"]].add(row["study_number"])
    assert 0.2 < np.mean([len(numbers) > 1 for numbers in studies.values()]) < 0.5  # 0.34 in the public set
    assert 0.03 < np.mean([len(flags) > 1 for flags in seen.values()]) < 0.1  # 0.063 in the public set


def test_a_cast_and_a_second_visit_go_with_fractures_as_in_public(tmp_path: Path) -> None:
    table = [
        dict(zip(grazpedwri.HEADER, exposure.row, strict=True))
        for patient in range(1, 800)
        for exposure in grazpedwri._plan_patient(patient, seed=2)  # pyright: ignore[reportPrivateUsage]
    ]

    def share(name: str, value: str) -> float:
        return float(np.mean([row["fracture_visible"] == "1" for row in table if row[name] == value]))

    assert share("cast", "1") > 0.88 and share("cast", "") < 0.68  # .959 and .551
    assert share("initial_exam", "") > 0.82 and share("initial_exam", "1") < 0.62  # .949 and .420
    assert share("osteopenia", "1") > 0.85  # .974


def test_a_film_inside_a_fracture_box_differs_from_one_outside(root: Path) -> None:
    """What is boxed is drawn: the cortex inside the boxes is rougher than the same bone a little further up."""
    inside, outside = [], []
    for stem, path in files(root).items():
        counts = pixels(path).astype(float)
        counts /= np.percentile(counts, 99.5)
        height, width = counts.shape
        for target, (x, y, w, h) in labels(root, stem):
            if target != FRACTURE or (y + 1.5 * h) > 0.97:
                continue
            left, right = int((x - w / 2) * width), int((x + w / 2) * width)
            for shift, found in ((0.0, inside), (h, outside)):
                patch = counts[int((y + shift - h / 2) * height) : int((y + shift + h / 2) * height), left:right]
                found.append(float(np.abs(np.diff(patch.mean(axis=1), 2)).max()))
    assert len(inside) > 50
    assert np.mean(inside) > 1.2 * np.mean(outside)


def test_the_same_seed_gives_the_same_bytes_on_one_core_and_another_seed_other_ones(tmp_path: Path) -> None:
    def digest(seed: int, name: str) -> str:
        grazpedwri.write(tmp_path / name, images=60, seed=seed)
        found = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        content = b"".join(str(path.relative_to(tmp_path / name)).encode() + path.read_bytes() for path in found)
        return hashlib.sha256(content).hexdigest()

    cores = os.sched_getaffinity(0)
    first = digest(5, "all-cores")
    os.sched_setaffinity(0, {min(cores)})
    try:
        second = digest(5, "one-core")
    finally:
        os.sched_setaffinity(0, cores)
    assert first == second
    assert first != digest(6, "other-seed")


def test_progress_counts_every_film_and_what_cannot_be_is_refused(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    grazpedwri.write(tmp_path / "new", images=60, seed=0, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (60, 60)
    with pytest.raises(BadInput, match="not empty"):
        grazpedwri.write(tmp_path / "new", images=60, seed=0)
    for images in (59, 20328):
        with pytest.raises(BadInput, match="20327"):
            grazpedwri.write(tmp_path / "other", images=images, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_the_stand_in_is_found_by_name() -> None:
    assert STANDINS["grazpedwri"] is grazpedwri.write
