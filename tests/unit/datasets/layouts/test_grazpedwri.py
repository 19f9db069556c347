"""GRAZPEDWRI-DX in its public folders, with the traps of its table, its three annotation formats and copies of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinloop.datasets.case import Box, Case, LayoutOptions, LayoutResult
from clinloop.datasets.layouts import choose_layout
from clinloop.datasets.layouts.folder import Folder
from clinloop.errors import BadInput

HEADER = (
    "filestem,patient_id,study_number,timehash,gender,age,laterality,projection,initial_exam,ao_classification,cast,"
    "diagnosis_uncertain,osteopenia,fracture_visible,metal,pixel_spacing,device_manufacturer"
)
NAMES = (
    "boneanomaly",
    "bonelesion",
    "foreignbody",
    "fracture",
    "metal",
    "periostealreaction",
    "pronatorsign",
    "softtissue",
    "text",
)
WIDTH, HEIGHT = 50, 80


def read(root: Path, layout: str = "auto", **options: object) -> LayoutResult:
    folder, chosen_options = Folder(root), LayoutOptions(**options)
    return choose_layout(folder, layout, chosen_options).layout.read(folder, chosen_options)


def refusal_of(root: Path, layout: str = "auto", **options: object) -> str:
    with pytest.raises(BadInput) as refusal:
        read(root, layout, **options)
    return "\n".join([str(refusal.value), *getattr(refusal.value, "__notes__", [])])


def stem_of(patient: int, study: int = 1, view: int = 1) -> str:
    return f"{patient:04d}_{patient * 1000 + study:010d}_{study:02d}_WRI-L{view}_M014"


def write_wrist(root: Path, stem: str, seed: int) -> None:
    """Write a 16-bit gray PNG."""
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 5)).astype(np.uint8)
    values = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(np.uint16)
    root.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values * 16 + 300).save(root / f"{stem}.png")


def row(stem: str, *, visible: str = "", code: str = "", cast: str = "", projection: str = "1") -> str:
    patient, study = int(stem[:4]), int(stem[16:18])
    time = str(int(stem[5:15]))  # the table loses the leading zeros
    return f"{stem},{patient},{study},{time},M,14.1,L,{projection},1,{code},{cast},,,{visible},,0.144,Siemens"


def write_table(root: Path, rows: list[str], header: str = HEADER) -> None:
    (root / "dataset.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8-sig")


def yolo(root: Path, stem: str, *lines: str) -> None:
    labels = root / "folder_structure" / "yolov5" / "labels"
    labels.mkdir(parents=True, exist_ok=True)
    (labels / f"{stem}.txt").write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture
def wrists(tmp_path: Path) -> Path:
    """Four patients: a fracture in one of two views, a healed one with a code, a cast, and a healthy wrist in two studies."""
    root = tmp_path / "grazpedwri"
    stems = [stem_of(1), stem_of(1, view=2), stem_of(2), stem_of(3), stem_of(4), stem_of(4, study=2)]
    for at, stem in enumerate(stems):
        write_wrist(root / f"images_part{1 + at % 4}", stem, at)
    write_table(
        root,
        [
            row(stems[0], visible="1", code="23r-M/2.1;23u-M/2.1"),
            row(stems[1], code="23r-M/2.1", projection="2"),
            row(stems[2], code="23r-M/3.1"),
            row(stems[3], visible="1", cast="1", projection="3"),
            row(stems[4]),
            row(stems[5]),
        ],
    )
    yolo(root, stems[0], "8 0.9 0.1 0.1 0.1", "3 0.5 0.5 0.2 0.1", "3 0.25 0.75 0.1 0.05")
    yolo(root, stems[1], "8 0.9 0.1 0.1 0.1")
    yolo(root, stems[2], "5 0.5 0.5 0.2 0.1")
    yolo(root, stems[3], "3 0.96 0.5 0.1 0.1")  # ends 0.01 beyond the image, by rounding
    yolo(root, stems[4])
    yolo(root, stems[5])
    (root / "folder_structure" / "yolov5" / "meta.yaml").write_text(f"nc: 9\nnames: {list(NAMES)}\n", encoding="utf-8")
    return root


def case_of(result: LayoutResult, stem: str) -> Case:
    return next(case for case in result.cases if case.source.endswith(f"{stem}.png"))


def test_id_3_is_the_fracture_other_ids_are_dropped_and_an_empty_file_is_background(wrists: Path) -> None:
    result = read(wrists)
    assert (result.task_type, result.targets, result.classes) == (
        "detection",
        ["fracture"],
        ["no fracture", "fracture"],
    )
    broken = case_of(result, stem_of(1))
    assert broken.label == "fracture" and broken.boxes is not None
    np.testing.assert_allclose([box[1:] for box in broken.boxes], [(20, 36, 10, 8), (10, 58, 5, 4)])
    assert case_of(result, stem_of(4)).boxes == () and case_of(result, stem_of(4)).label == "no fracture"
    cut = case_of(result, stem_of(3)).boxes
    assert cut is not None and cut[0].x + cut[0].width == WIDTH
    assert any("periostealreaction, text" in note for note in result.notes)


def test_the_label_comes_from_the_boxes_and_never_from_the_ao_code(wrists: Path) -> None:
    result = read(wrists)
    assert (
        case_of(result, stem_of(1, view=2)).label == "no fracture"
        and case_of(result, stem_of(2)).label == "no fracture"
    )
    assert any("2 image(s) have one and show no fracture, 1 show one and have none" in note for note in result.notes)
    assert not any("disagree" in note for note in result.notes)
    assert "ao_classification" not in str([case.attributes for case in result.cases])
    assert "23r" not in str([case.attributes for case in result.cases])


def test_boxes_outweigh_fracture_visible_and_the_disagreement_is_counted(wrists: Path) -> None:
    yolo(wrists, stem_of(4), "3 0.5 0.5 0.1 0.1")
    yolo(wrists, stem_of(1))
    result = read(wrists)
    assert case_of(result, stem_of(4)).label == "fracture" and case_of(result, stem_of(1)).label == "no fracture"
    assert any("disagree in 2 image(s): 1 with boxes only, 1 with the flag only" in note for note in result.notes)


def test_an_image_without_annotation_file_keeps_its_image_label(wrists: Path) -> None:
    (wrists / "folder_structure" / "yolov5" / "labels" / f"{stem_of(3)}.txt").unlink()
    result = read(wrists)
    case = case_of(result, stem_of(3))
    assert (case.label, case.boxes, case.supervision) == ("fracture", None, "image")
    assert Counter(case.supervision for case in result.cases) == {"box": 5, "image": 1}


def test_flags_are_0_where_blank_and_codes_become_words(wrists: Path) -> None:
    result = read(wrists)
    assert case_of(result, stem_of(3)).attributes == {
        "sex": "M", "age": "14.1", "laterality": "L", "projection": "other", "initial_exam": "1", "cast": "1", "metal": "0", "osteopenia": "0",
        "diagnosis_uncertain": "0", "device": "Siemens", "pixel_spacing": "0.144",
    }  # fmt: skip
    assert read(wrists, attributes=("Cast", "device")).attributes == ["cast", "device"]


def test_groups_are_patients_or_studies_or_none(wrists: Path) -> None:
    result = read(wrists)
    assert result.group_kind == "patient" and {case.group for case in result.cases} == {"1", "2", "3", "4"}
    assert {case.group for case in read(wrists, group_by="study").cases} == {"1/1", "2/1", "3/1", "4/1", "4/2"}
    assert {case.group for case in read(wrists, group_by="none").cases} == {None}
    assert "use patient, study or none" in refusal_of(wrists, group_by="device")


def test_augmented_copies_and_images_without_row_are_left_out_and_doubles_count_once(wrists: Path) -> None:
    write_wrist(wrists / "images_part1", f"aug_{stem_of(1)}", 1)
    write_wrist(wrists / "images_part1", "overview", 1)
    write_wrist(wrists / "folder_structure" / "yolov5" / "images", stem_of(1), 0)
    (wrists / "images_part2" / f"{stem_of(1, view=2)}.png").unlink()
    result = read(wrists)
    assert {(item.reason, item.count) for item in result.excluded} == {
        ("an augmented copy of an image", 1),
        ("an image without a row in dataset.csv", 1),
        ("a row without an image file", 1),
    }
    assert case_of(result, stem_of(1)).source.startswith("images_part1/")
    assert any("1 image file(s) with the name of another one" in note for note in result.notes)


def as_voc(root: Path, stem: str, *boxes: tuple[str, float, float, float, float]) -> None:
    folder = root / "folder_structure" / "pascalvoc"
    folder.mkdir(parents=True, exist_ok=True)
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2 in boxes
    )
    (folder / f"{stem}.xml").write_text(
        f"<annotation><filename>{stem}.png</filename>{objects}</annotation>", encoding="utf-8"
    )


def as_supervisely(root: Path, stem: str, *boxes: tuple[str, float, float, float, float]) -> None:
    folder = root / "folder_structure" / "supervisely" / "wrist" / "ann"
    folder.mkdir(parents=True, exist_ok=True)
    objects = [
        {"classTitle": name, "geometryType": "rectangle", "points": {"exterior": [[x2, y2], [x1, y1]], "interior": []}}
        for name, x1, y1, x2, y2 in boxes
    ]
    objects.append(
        {"classTitle": "axis", "geometryType": "line", "points": {"exterior": [[1, 1], [2, 70]], "interior": []}}
    )
    (folder / f"{stem}.json").write_text(
        json.dumps({"objects": objects, "size": {"height": HEIGHT, "width": WIDTH}}), encoding="utf-8"
    )


@pytest.mark.parametrize("write", [as_voc, as_supervisely])
def test_without_yolo_files_the_other_formats_give_the_same_boxes(write: Callable[..., None], wrists: Path) -> None:
    before = read(wrists)
    for case in before.cases:
        stem = Path(case.source).stem
        write(
            wrists,
            stem,
            ("text", 1, 1, 5, 5),
            *((box.target, box.x, box.y, box.x + box.width, box.y + box.height) for box in case.boxes or ()),
        )
    for label in (wrists / "folder_structure" / "yolov5" / "labels").iterdir():
        label.unlink()
    after = read(wrists)
    assert [case.label for case in after.cases] == [case.label for case in before.cases]
    for one, other in zip(before.cases, after.cases, strict=True):
        assert one.boxes is not None and other.boxes is not None
        np.testing.assert_allclose(
            np.array([box[1:] for box in one.boxes]), np.array([box[1:] for box in other.boxes]), atol=1e-6
        )


def test_a_single_class_copy_of_the_labels_is_read_by_its_own_names(wrists: Path) -> None:
    structure = wrists / "folder_structure" / "yolov5"
    (structure / "meta.yaml").write_text("nc: 1\nnames:\n  0: fracture\n", encoding="utf-8")
    for label in (structure / "labels").iterdir():
        lines = [line for line in label.read_text(encoding="utf-8").splitlines() if line.startswith("3 ")]
        label.write_text("\n".join("0" + line[1:] for line in lines), encoding="utf-8")
    assert case_of(read(wrists), stem_of(1)).label == "fracture"
    (structure / "meta.yaml").unlink()
    assert case_of(read(wrists), stem_of(1)).label == "no fracture", (
        "without names the published ids hold: 0 is boneanomaly"
    )


def test_the_publishers_labels_go_before_a_remapped_copy_elsewhere(wrists: Path) -> None:
    (wrists / "labels").mkdir()
    (wrists / "labels" / f"{stem_of(1)}.txt").write_text("0 0.5 0.5 0.1 0.1\n", encoding="utf-8")
    boxes = case_of(read(wrists), stem_of(1)).boxes
    assert boxes is not None and len(boxes) == 2


def test_another_target_takes_its_label_from_boxes_alone(wrists: Path) -> None:
    (wrists / "folder_structure" / "yolov5" / "labels" / f"{stem_of(3)}.txt").unlink()
    result = read(wrists, label_column="periostealreaction")
    assert result.classes == ["no periostealreaction", "periostealreaction"] and len(result.cases) == 5
    assert case_of(result, stem_of(2)).boxes == (Box("periostealreaction", 20.0, 36.0, 10.0, 8.0),)
    assert any("whether it shows periostealreaction is not known" in item.reason for item in result.excluded)
    assert "has no target 'tumour'" in refusal_of(wrists, label_column="tumour")


def test_without_annotation_files_it_is_a_classification_dataset(wrists: Path) -> None:
    for label in (wrists / "folder_structure" / "yolov5" / "labels").iterdir():
        label.unlink()
    result = read(wrists)
    assert result.task_type == "classification" and {case.supervision for case in result.cases} == {"image"}
    assert case_of(result, stem_of(1)).label == "fracture"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3 0.5 0.5 0.2", "line 2: a line that is not 5 numbers"),
        ("3 0.5 nan 0.2 0.1", "line 2: a line that is not 5 numbers"),
        ("9 0.5 0.5 0.2 0.1", "line 2: a line with an id that has no name"),
        ("3 0.5 0.5 0 0.1", "line 2: a box of no size"),
        ("3 0.99 0.5 0.2 0.1", "line 2: a box outside its image"),
    ],
)
def test_bad_boxes_are_refused_with_file_and_line(line: str, message: str, wrists: Path) -> None:
    yolo(wrists, stem_of(2), "8 0.9 0.1 0.1 0.1", line)
    text = refusal_of(wrists)
    assert f"folder_structure/yolov5/labels/{stem_of(2)}.txt, {message}" in text
    assert stem_of(2) not in text.splitlines()[0] and str(wrists) not in text


def test_bad_tables_are_refused_with_the_row(wrists: Path) -> None:
    table = wrists / "dataset.csv"
    lines = table.read_text(encoding="utf-8-sig").splitlines()
    write_table(wrists, [lines[1].replace(",14.1,L,1,1,", ",14.1,L,1,maybe,"), *lines[2:]])
    assert "dataset.csv, data row 1: a flag other than 1, 0 and blank" in refusal_of(wrists)
    write_table(wrists, [*lines[1:], lines[1]])
    assert "dataset.csv, data rows 1 and 7: the same image" in refusal_of(wrists)
    write_table(wrists, lines[1:], HEADER.replace("fracture_visible", "fracture"))
    assert "no CSV with the columns filestem, patient_id and fracture_visible" in refusal_of(wrists, "grazpedwri")


def test_an_unreadable_image_is_left_to_its_decoder(wrists: Path) -> None:
    (wrists / "images_part1" / f"{stem_of(1)}.png").write_bytes(b"nothing")
    case = case_of(read(wrists), stem_of(1))
    assert (case.label, case.boxes) == ("fracture", None)


def test_ingest_stretches_16_bits_and_keeps_patients_together(tmp_path: Path, add: Callable[..., object]) -> None:
    root, rows = tmp_path / "wrists", list[str]()
    for patient in range(1, 13):
        for view in (1, 2):
            stem = stem_of(patient, view=view)
            write_wrist(root / "images_part1", stem, 10 * patient + view)
            yolo(root, stem, *(["3 0.5 0.5 0.2 0.1"] if patient % 2 else []))
            rows.append(row(stem, visible="1" if patient % 2 else ""))
    write_table(root, rows)
    dataset = add(root)
    assert dataset.record.layout == "grazpedwri" and dataset.record.task_type == "detection"
    assert dataset.record.group_kind == "patient" and dataset.record.counts["train"]["fracture"] >= 2
    image = next((tmp_path / "state").rglob("view/images/*"))
    with Image.open(image) as stored:
        assert stored.mode == "RGB" and stored.convert("L").getextrema() == (0, 255)
