"""The chest stand-ins: the public layouts to the letter, masks that a plain decoder gets back, drains that tempt and a faint sign to fall back on."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image

from clinloop.datasets.case import LayoutOptions, MaskRuns
from clinloop.datasets.layouts import choose_layout
from clinloop.datasets.layouts.folder import Folder
from clinloop.errors import BadInput
from clinloop.standin import STANDINS, chests, films, neatx, nih_chestxray14, siim_acr
from clinloop.standin.chests import Film

IMAGES = 110
SEED = 4


def read(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def drains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("truth") / "true_drains.csv"


@pytest.fixture(scope="module")
def siim(tmp_path_factory: pytest.TempPathFactory, drains: Path) -> Path:
    out = tmp_path_factory.mktemp("standin") / "siim"
    siim_acr.write(out, images=IMAGES, seed=SEED, true_drains=drains)
    return out


@pytest.fixture(scope="module")
def tubes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("standin") / "neatx"
    neatx.write(out, images=60, seed=SEED)
    return out


@pytest.fixture(scope="module")
def nih(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("standin") / "nih"
    nih_chestxray14.write(out, images=60, seed=SEED)
    return out


def decoded(runs: str, side: int) -> np.ndarray[Any, Any]:
    """Decode as the competition's own mask_functions.py does."""
    numbers = [int(word) for word in runs.split()]
    mask, position = np.zeros(side * side), 0
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        position += start
        mask[position : position + length] = 1
        position += length
    return mask.reshape(side, side).T > 0


def rows_of(siim: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for image, runs in read(siim / "train-rle.csv")[1:]:
        found.setdefault(image, []).append(runs)
    return found


def dicoms(siim: Path, part: str) -> dict[str, Any]:
    return {path.stem: pydicom.dcmread(path) for path in (siim / f"dicom-images-{part}").glob("*/*/*.dcm")}


def layout_of(root: Path, name: str) -> Any:
    folder = Folder(root)
    choice = choose_layout(folder, "auto", LayoutOptions())
    assert choice.layout.name == name
    return choice.layout.read(folder, LayoutOptions())


def test_siim_has_the_tree_the_header_and_the_negatives_of_stage_1(siim: Path) -> None:
    assert sorted(path.name for path in siim.iterdir()) == ["dicom-images-test", "dicom-images-train", "train-rle.csv"]
    text = (siim / "train-rle.csv").read_text(encoding="utf-8")
    assert text.startswith("ImageId, EncodedPixels\n")
    assert text.count(", -1\n") > IMAGES / 2
    train = dicoms(siim, "train")
    assert len(train) == IMAGES
    assert 0 < len(train.keys() - rows_of(siim).keys()) <= 3  # unknown, not negative
    assert not dicoms(siim, "test").keys() & rows_of(siim).keys()


def test_a_mask_is_the_union_of_relative_column_wise_rows_and_lies_on_the_drawn_pneumothorax(siim: Path) -> None:
    with_several = 0
    for name, rows in rows_of(siim).items():
        if rows == [" -1"]:
            continue
        with_several += len(rows) > 1
        parts = [decoded(runs, chests.SIDE) for runs in rows]
        assert np.sum(parts, axis=0).max() == 1  # rows do not overlap
        column = np.nonzero(np.any(parts, axis=0).any(axis=0))[0] / chests.SIDE
        assert column.max() < 0.5 or column.min() > 0.5, (
            name
        )  # one side of the chest; a row-wise decoder smears over both
    assert with_several >= 2
    film = films.paint(Film(pneumothorax=True, side=-1), films.Seeds((1,), (2,)))
    assert np.array_equal(decoded(siim_acr.encode(film.mask), chests.SIDE), film.mask)


def test_siim_files_hold_what_makes_dicom_hard(siim: Path) -> None:
    files = list(dicoms(siim, "train").values())
    assert {ds.PhotometricInterpretation for ds in files} == {"MONOCHROME1", "MONOCHROME2"}
    assert {ds.file_meta.TransferSyntaxUID.is_compressed for ds in files} == {True, False}
    assert {ds.BitsStored for ds in files} == {8, 12}
    assert all(ds.PatientName and ds.PatientBirthDate and ds.InstitutionName for ds in files)  # what must not get out
    assert all(re.fullmatch(r"\d{2}", str(ds.PatientAge)) for ds in files)  # not "051Y", as the standard has it
    inverted = next(ds for ds in files if ds.PhotometricInterpretation == "MONOCHROME1")
    plain = next(ds for ds in files if ds.PhotometricInterpretation == "MONOCHROME2")
    corner = (slice(100, 180), slice(0, 3))  # beside the chest: black on a film
    assert inverted.pixel_array[corner].mean() > 0.8 * 2**inverted.BitsStored
    assert plain.pixel_array[corner].mean() < 0.3 * 2**plain.BitsStored
    assert 1 < max(Counter(ds.PatientID for ds in files).values()) <= 4


def test_drains_come_at_the_rates_of_the_paper_and_their_truth_is_written_only_where_asked(
    siim: Path, drains: Path
) -> None:
    there = {name: int(drain) for name, drain in read(drains)[1:]}
    positive = {name for name, rows in rows_of(siim).items() if rows != [" -1"]}
    negative = rows_of(siim).keys() - positive
    assert len(positive) / IMAGES == pytest.approx(0.222, abs=0.03)
    assert np.mean([there[name] for name in positive]) == pytest.approx(0.6, abs=0.1)
    assert np.mean([there[name] for name in negative]) == pytest.approx(0.1, abs=0.03)
    assert drains.parent != siim and not any("drain" in path.name for path in siim.rglob("*"))


def test_the_layout_siim_acr_reads_the_stand_in(siim: Path) -> None:
    found = layout_of(siim, "siim_acr")
    assert found.task_type == "segmentation"
    assert Counter(case.label for case in found.cases)["pneumothorax"] == len(
        [rows for rows in rows_of(siim).values() if rows != [" -1"]]
    )
    assert all(isinstance(case.mask, MaskRuns) for case in found.cases)
    assert len(found.cases) == len(rows_of(siim))
    assert len({case.group for case in found.cases}) < len(found.cases)


def test_nih_has_commas_inside_its_header_and_lists_that_share_no_patient(nih: Path) -> None:
    labels = read(nih / "Data_Entry_2017_v2020.csv")
    assert ",".join(labels[0]).endswith("View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]")
    assert {len(row) for row in labels} == {11}
    assert read(nih / "BBox_List_2017.csv")[0] == [
        "Image Index",
        "Finding Label",
        "Bbox [x",
        "y",
        "w",
        "h]",
        "",
        "",
        "",
    ]
    patients = {
        part: {name[:8] for name in (nih / part).read_text(encoding="utf-8").split()}
        for part in ("train_val_list.txt", "test_list.txt")
    }
    assert not patients["train_val_list.txt"] & patients["test_list.txt"]
    assert len(list(nih.glob("images_*/images/*.png"))) == len(labels) - 1 == 60
    assert {name for row in labels[1:] for name in row[1].split("|")} - {"No Finding"} <= {
        *chests.FINDINGS,
        "Pneumothorax",
    }
    for row in read(nih / "BBox_List_2017.csv")[1:]:
        x, y, width, height = map(float, row[2:6])
        assert 0 <= x < x + width <= chests.SIDE
        assert 0 <= y < y + height <= chests.SIDE
    assert len(layout_of(nih, "nih_chestxray14").cases) == 60


def test_neatx_annotates_films_with_a_pneumothorax_alone(tubes: Path) -> None:
    table = read(tubes / "NIH-CX14_TubeAnnotations_NonExperts_aggregated.csv")
    assert table[0] == ["", "Image Index", "Drain", "Drain_a1", "Drain_Location_a1", "Drain_a2", "Drain_Location_a2"]
    labels = {row[0]: row[1].split("|") for row in read(tubes / "Data_Entry_2017_v2020.csv")[1:]}
    annotated = [row[1] for row in table[1:]]
    assert len(annotated) == 60 < len(labels)
    assert all("Pneumothorax" in labels[name] for name in annotated)
    assert all("Pneumothorax" not in labels[name] for name in labels.keys() - set(annotated))
    assert 0.3 < np.mean([row[2] == "1" for row in table[1:]]) < 0.6
    found = layout_of(tubes, "neatx")
    assert sorted(Path(case.source).name for case in found.cases) == sorted(annotated)
    assert Counter(case.label for case in found.cases) == {
        "drain": sum(row[2] == "1" for row in table[1:]),
        "no drain": sum(row[2] == "0" for row in table[1:]),
    }


def test_some_films_are_in_siim_and_in_neatx_as_both_come_from_the_same_archive(siim: Path, tubes: Path) -> None:
    pictures = {path.name: np.asarray(Image.open(path), float) for path in tubes.glob("images_*/images/*.png")}
    alike: set[tuple[str, str]] = set()
    for name, ds in dicoms(siim, "train").items():
        pixels = ds.pixel_array / 2 ** (ds.BitsStored - 8)
        pixels = 255 - pixels if ds.PhotometricInterpretation == "MONOCHROME1" else pixels
        alike |= {(name, other) for other, picture in pictures.items() if np.abs(picture - pixels).mean() < 4}
    assert len(alike) == round(60 * films.SHARED)
    assert all(rows_of(siim).get(name) != [" -1"] for name, _ in alike)


def test_the_drain_is_a_plain_sign_and_the_pneumothorax_a_faint_one() -> None:
    def change(part: str, number: int) -> tuple[float, float]:
        """Return how much a film changes inside its lungs' half and in the other one when one part is added, in grey values."""
        seeds = films.Seeds((1, number), (2, number))
        without, with_it = (films.paint(Film(**{part: there}), seeds).pixels.astype(float) for there in (False, True))
        difference = np.abs(with_it - without)
        halves = difference[:, : chests.SIDE // 2 - 20], difference[:, chests.SIDE // 2 + 20 :]
        strongest = [float(np.percentile(half, 99.5)) for half in halves]
        return strongest[1], strongest[0]

    tube, air = (np.array([change(part, number) for number in range(12)]) for part in ("drain", "pneumothorax"))
    assert max(tube[:, 1].max(), air[:, 1].max()) == 0  # nothing else in the film changes
    assert air[:, 0].min() > 3
    assert np.median(tube[:, 0]) > 2.0 * np.median(air[:, 0])


def test_the_same_seed_gives_the_same_bytes_on_one_core(tmp_path: Path, tubes: Path) -> None:
    def digest(root: Path) -> str:
        files = sorted(path for path in root.rglob("*") if path.is_file())
        content = b"".join(str(path.relative_to(root)).encode() + path.read_bytes() for path in files)
        return hashlib.sha256(content).hexdigest()

    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        neatx.write(tmp_path / "again", images=60, seed=SEED)
    finally:
        os.sched_setaffinity(0, cores)
    assert digest(tubes) == digest(tmp_path / "again")


@pytest.mark.parametrize("module", [siim_acr, neatx, nih_chestxray14])
def test_a_folder_with_content_or_an_impossible_size_is_refused_and_nothing_written(
    module: Any, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(BadInput, match="not empty"):
        module.write(tmp_path / "mine", images=100, seed=0)
    for images in (59, module.LIMITS[1] + 1):
        with pytest.raises(BadInput, match=str(module.LIMITS[1])):
            module.write(tmp_path / "new", images=images, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_chest_stand_ins_are_found_by_name() -> None:
    assert STANDINS.keys() >= {"siim_acr", "neatx", "nih_chestxray14"}
