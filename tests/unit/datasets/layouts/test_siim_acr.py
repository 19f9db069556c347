"""SIIM-ACR Pneumothorax, with the traps of both stages and of its PNG copies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinloop.datasets.case import Case, LayoutOptions, LayoutResult, MaskFile, MaskRuns
from clinloop.datasets.dataset import Dataset
from clinloop.datasets.layouts import choose_layout
from clinloop.datasets.layouts.folder import Folder
from clinloop.datasets.layouts.siim_runs import decode_runs, reduced
from clinloop.errors import BadInput

from .dicoms import write_dicom

UID = "1.2.276.0.7230010.3.1.4.8323329.{}.1517875201.850819"
A, B, C, D = (UID.format(n) for n in (300, 301, 302, 303))
FILM = np.tile(np.arange(0, 240, 3, dtype=np.uint8), (60, 1))  # 60 rows, 80 columns


def read(root: Path, layout: str = "auto", **options: object) -> LayoutResult:
    folder, chosen_options = Folder(root), LayoutOptions(**options)
    return choose_layout(folder, layout, chosen_options).layout.read(folder, chosen_options)


def refusal_of(root: Path, layout: str = "auto", **options: object) -> str:
    """Return the text of the refusal with its notes, which name places for the custodian."""
    with pytest.raises(BadInput) as refusal:
        read(root, layout, **options)
    return "\n".join([str(refusal.value), *getattr(refusal.value, "__notes__", [])])


def write_tree(root: Path, names: tuple[str, ...] = (A, B, C, D), part: str = "train", **elements: object) -> None:
    """Write films into the tree of the first stage: study, series, image; two films a patient."""
    for at, name in enumerate(names):
        facts = {
            "PatientID": f"p{at // 2}",
            "PatientSex": "MF"[at % 2],
            "PatientAge": "51",
            "ViewPosition": "PA",
        } | elements
        write_dicom(root / f"dicom-images-{part}" / f"{name}.1" / f"{name}.2" / f"{name}.dcm", FILM, **facts)


def write_runs(root: Path, rows: str, name: str = "train-rle.csv", header: str = "ImageId, EncodedPixels") -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(f"{header}\n{rows}", encoding="utf-8")


def painted(case: Case, height: int = 60, width: int = 80) -> np.ndarray:
    """Paint a case's runs as the contract of MaskRuns has them."""
    assert isinstance(case.mask, MaskRuns)
    flat = np.zeros(height * width, bool)
    for start, length in case.mask.spans:
        flat[start : start + length] = True
    return flat.reshape(width, height).T


def case_of(result: LayoutResult, name: str) -> Case:
    return next(case for case in result.cases if name in case.source)


@pytest.mark.parametrize(
    ("header", "negative"),
    [("ImageId, EncodedPixels", " -1"), ("ImageId,EncodedPixels", "-1"), ("\ufeffImageId,EncodedPixels", " -1 ")],
)
def test_runs_are_relative_go_down_the_columns_and_minus_one_is_negative(
    header: str, negative: str, tmp_path: Path
) -> None:
    write_tree(tmp_path / "pneumothorax", (A, B))
    write_runs(tmp_path / "pneumothorax", f"{A}, 125 3 57 2\n{B},{negative}\n", header=header)
    result = read(tmp_path)
    wanted = np.zeros((60, 80), bool)
    wanted[5:8, 2] = True  # 125 = column 2, row 5
    wanted[5:7, 3] = True  # 57 after the end of the first run
    assert np.array_equal(painted(case_of(result, A)), wanted)
    negative_case = case_of(result, B)
    assert (
        negative_case.mask == MaskRuns(())
        and negative_case.label == "no pneumothorax"
        and negative_case.supervision == "mask"
    )
    assert result.classes == ["no pneumothorax", "pneumothorax"] and case_of(result, A).label == "pneumothorax"
    assert (result.task_type, result.targets) == ("segmentation", ["pneumothorax"])


def test_several_rows_of_an_image_are_one_mask_their_union(tmp_path: Path) -> None:
    write_tree(tmp_path, (A, B))
    write_runs(tmp_path, f"{A}, 0 2\n{B}, -1\n{A}, 1 3\n{A}, 600 1\n")
    result = read(tmp_path)
    assert len(result.cases) == 2
    assert np.flatnonzero(painted(case_of(result, A)).T.ravel()).tolist() == [0, 1, 2, 3, 600]
    assert any("2 row(s)" in note and "union" in note for note in result.notes)


def test_films_without_a_row_are_unknown_and_not_negative(tmp_path: Path) -> None:
    write_tree(tmp_path, (A, B, C))
    write_tree(tmp_path, (D,), part="test")
    write_runs(tmp_path, f"{A}, 0 2\n{B}, -1\n{C},\n{UID.format(9)}, -1\n")
    result = read(tmp_path)
    assert sorted(case.label for case in result.cases) == ["no pneumothorax", "pneumothorax"]
    assert {(item.reason, item.count) for item in result.excluded} == {
        ("an image without a row or mask: unknown, which is not negative", 2),
        ("a row without an image file", 1),
    }


def test_the_second_stage_labels_films_of_both_folders_and_its_sample_submission_is_no_label(tmp_path: Path) -> None:
    write_tree(tmp_path, (A, B))
    write_tree(tmp_path, (C,), part="test")
    write_dicom(tmp_path / "stage_2_images" / "ID_0011fe81e.dcm", FILM)
    write_runs(tmp_path, f"{A}, 0 2\n{B}, -1\n")
    write_runs(tmp_path, f"{A},0 2\n{B},-1\n{C},5 5\n", "stage_2_train.csv", "ImageId,EncodedPixels")
    write_runs(tmp_path, "ID_0011fe81e,-1\n" * 9, "stage_2_sample_submission.csv", "ImageId,EncodedPixels")
    result = read(tmp_path)
    assert len(result.cases) == 3 and case_of(result, C).label == "pneumothorax"
    assert [item.examples for item in result.excluded] == [("ID_0011fe81e",)]
    assert any("stage_2_train.csv" in note and "train-rle.csv is not used" in note for note in result.notes)


def test_groups_and_attributes_come_from_the_headers_and_doubt_is_said(tmp_path: Path) -> None:
    write_tree(tmp_path)
    write_runs(tmp_path, f"{A}, 0 2\n{B}, -1\n{C}, -1\n{D}, -1\n")
    result = read(tmp_path)
    assert result.group_kind == "patient" and [case_of(result, name).group for name in (A, B, C, D)] == [
        "p0",
        "p0",
        "p1",
        "p1",
    ]
    assert case_of(result, B).attributes == {"sex": "F", "age": "51", "view": "PA"}
    assert any("cannot be verified" in note for note in result.notes)
    assert read(tmp_path, group_by="none").group_kind == "image"
    assert read(tmp_path, attributes=("VIEW",)).attributes == ["view"]
    assert "has no attributes weight; it has sex, age, view" in refusal_of(tmp_path, attributes=("weight",))
    assert "cannot group by 'study'" in refusal_of(tmp_path, group_by="study")
    assert "fixed columns" in refusal_of(tmp_path, "siim_acr", label_column="EncodedPixels")


@pytest.mark.parametrize("patient", ["ANONYMOUS", ""])
def test_one_patient_id_for_all_films_is_no_group(patient: str, tmp_path: Path) -> None:
    write_tree(tmp_path, PatientID=patient)
    write_runs(tmp_path, f"{A}, 0 2\n{B}, -1\n{C}, -1\n{D}, -1\n")
    result = read(tmp_path)
    assert result.group_kind == "image" and {case.group for case in result.cases} == {None}
    assert any("near-duplicates" in note for note in result.notes)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (f"{A}, 5\n{B}, -1\n", "train-rle.csv, data row 1: run lengths that are not pairs"),
        (f"{A}, 5 x\n{B}, -1\n", "train-rle.csv, data row 1: run lengths that are not pairs"),
        (f"{B}, -1\n{A}, -5 3\n", "train-rle.csv, data row 2: run lengths that are not pairs"),
        (f"{B}, -1\n{A}, 4790 20\n{C}, 2000000 1\n", "train-rle.csv, data row 2: run lengths that end outside"),
        (f"{A}, 5 3\n{B}, -1\n{A}, -1\n", "train-rle.csv, data row 1: an image that is both marked and -1"),
    ],
)
def test_bad_rows_are_refused_with_file_and_row(rows: str, message: str, tmp_path: Path) -> None:
    write_tree(tmp_path, (A, B, C))
    write_runs(tmp_path, rows)
    text = refusal_of(tmp_path)
    assert message in text and text.startswith("The annotations cannot be read: ") and str(tmp_path) not in text


def test_a_film_that_is_no_dicom_file_stays_a_case_for_its_decoder_to_report(tmp_path: Path) -> None:
    write_tree(tmp_path, (A, B))
    next(tmp_path.rglob(f"{A}.dcm")).write_bytes(b"nothing")
    write_runs(tmp_path, f"{A}, 0 2\n{B}, -1\n")
    assert len(read(tmp_path).cases) == 2


def test_other_run_length_tables_are_not_taken_for_siim(tmp_path: Path) -> None:
    Image.fromarray(FILM).save(tmp_path / "000155de5.png")
    write_runs(tmp_path, "000155de5.jpg,264661 17\n", "train_ship_segmentations_v2.csv", "ImageId,EncodedPixels")
    assert "not those of SIIM-ACR" in refusal_of(tmp_path, "siim_acr")


def write_copy(root: Path, masks: bool = True) -> Path:
    """Write the renamed PNG copy: has_pneumo, images and masks."""
    (root / "png_images").mkdir(parents=True)
    rows = ""
    for at, name in enumerate((A, B, C, D)):
        file = f"{at}_train_{at % 2}_.png"
        rows += f"{file},{name},{at % 2}\n"
        Image.fromarray(np.roll(FILM, at)).save(root / "png_images" / file)
        if masks:
            (root / "png_masks").mkdir(exist_ok=True)
            mask = np.zeros(FILM.shape, np.uint8)
            mask[:5, :5] = 255 * (at in {1, 2})
            Image.fromarray(mask).save(root / "png_masks" / file)
    write_runs(root, rows, "stage_1_train_images.csv", "new_filename,ImageId,has_pneumo")
    return root


def test_the_png_copy_is_read_with_its_mask_files_which_outweigh_has_pneumo(tmp_path: Path) -> None:
    result = read(write_copy(tmp_path / "siim-acr-pneumothorax" / "siim-acr-pneumothorax"))
    labels = {case.source.rsplit("/", 1)[1]: case.label for case in result.cases}
    assert [labels[name] for name in sorted(labels)] == [
        "no pneumothorax",
        "pneumothorax",
        "pneumothorax",
        "no pneumothorax",
    ]
    assert all(
        isinstance(case.mask, MaskFile) and case.mask.source.rsplit("/", 1)[1] == case.source.rsplit("/", 1)[1]
        for case in result.cases
    )
    assert any("2 image(s) the mask and the column has_pneumo disagree" in note for note in result.notes)
    assert any("assumed" in note for note in result.notes) and result.group_kind == "image"


def test_the_png_copy_without_masks_is_a_classification_dataset(tmp_path: Path) -> None:
    result = read(write_copy(tmp_path, masks=False))
    assert result.task_type == "classification" and {case.supervision for case in result.cases} == {"image"}
    assert sorted(case.label for case in result.cases) == ["no pneumothorax"] * 2 + ["pneumothorax"] * 2


def test_masks_of_the_public_size_are_reduced_to_smaller_copies_of_the_images(tmp_path: Path) -> None:
    for at, name in enumerate((A, B, C)):
        Image.fromarray(np.full((256, 256), 10 + at, np.uint8)).save(tmp_path / f"{name}.png")
    square = " ".join(f"{512 * 1024 + 256 if column == 0 else 1024 - 64} 64" for column in range(64))
    write_runs(tmp_path, f"{A},{square}\n{B},-1\n{C},{300 * 1024 + 301} 1\n")
    result = read(tmp_path)
    mask = painted(case_of(result, A), 256, 256)
    ys, xs = np.nonzero(mask)
    assert (ys.min(), ys.max(), xs.min(), xs.max(), mask.sum()) == (64, 79, 128, 143, 256)
    speck = painted(case_of(result, C), 256, 256)
    assert np.argwhere(speck).tolist() == [[75, 75]], "a mask must not vanish"
    assert any("2 mask(s) of 1024 × 1024 were reduced" in note for note in result.notes)


def test_has_pneumo_other_than_0_and_1_is_refused(tmp_path: Path) -> None:
    root = write_copy(tmp_path)
    table = root / "stage_1_train_images.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(",1\n", ",2\n", 1), encoding="utf-8")
    assert "stage_1_train_images.csv, data row 2: a value of has_pneumo that is neither 0 nor 1" in refusal_of(root)


def reference_decoder(cell: str, width: int, height: int) -> np.ndarray:
    """Decode as the competition defines it: one pixel at a time, then transposed."""
    mask, position = [0] * (width * height), 0
    numbers = [int(word) for word in cell.split()]
    for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
        position += offset
        for _ in range(length):
            mask[position] = 1
            position += 1
    return np.array(mask).reshape(width, height).T.astype(bool)


def test_decoding_agrees_with_the_definition_of_the_competition_on_random_masks() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        numbers: list[int] = []
        while sum(numbers) < 700:
            numbers += [int(rng.integers(1, 60)), int(rng.integers(1, 40))]
        cell = " ".join(map(str, numbers))
        spans = decode_runs(cell)
        assert spans is not None
        flat = np.zeros(40 * 20, bool)
        for start, length in spans:
            flat[start : start + length] = True
        assert np.array_equal(flat.reshape(40, 20).T, reference_decoder(cell, 40, 20))


def test_reducing_to_the_same_size_changes_nothing() -> None:
    spans = ((5, 10), (1024 * 1024 - 3, 3))
    assert reduced(spans, (1024, 1024)) == spans


def test_ingested_films_are_upright_their_masks_lie_where_the_runs_say_and_no_header_value_stays(
    tmp_path: Path, add: Callable[..., Dataset]
) -> None:
    names = tuple(UID.format(n) for n in range(400, 424))
    bright = np.zeros((60, 80), bool)
    bright[5:14, 2:4] = True
    for at, name in enumerate(names):
        coarse = np.random.default_rng(at).integers(0, 100, (7, 9)).astype(np.uint8)
        film = np.asarray(Image.fromarray(coarse).resize((80, 60), Image.Resampling.BICUBIC)).copy()
        film[bright] = 255
        facts = {"PatientID": f"p{at // 2}", "PatientName": "Doe^Jane"}
        if at % 3 == 0:
            film, facts = 255 - film, facts | {"PhotometricInterpretation": "MONOCHROME1"}
        write_dicom(tmp_path / "src" / f"{name}.dcm", film, **facts)
    runs = {True: "125 9 51 9", False: "-1"}  # column 2 from row 5, then column 3 from row 5
    write_runs(tmp_path / "src", "".join(f"{name}, {runs[at % 4 < 2]}\n" for at, name in enumerate(names)))
    dataset = add(tmp_path / "src")
    assert (dataset.record.layout, dataset.record.task_type, dataset.record.group_kind) == (
        "siim_acr",
        "segmentation",
        "patient",
    )
    rows = [row for row in dataset.cases() if row.split != "test"]
    assert {row.label for row in rows} == {"no pneumothorax", "pneumothorax"}
    for row in rows:
        with Image.open(row.image) as image:
            assert np.array_equal(np.asarray(image.convert("L")) > 200, bright)
        if row.split == "train" and row.mask is not None:
            with Image.open(row.mask) as mask:
                assert np.array_equal(
                    np.asarray(mask, bool), bright if row.label == "pneumothorax" else np.zeros_like(bright)
                )
    everything = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("view/**/*") if path.is_file())
    assert b"Doe" not in everything and b"p11" not in everything
