"""The layouts of public datasets answer damaged tables and annotations with a refusal or with cases, never with a bug."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinloop.datasets.case import LayoutOptions
from clinloop.datasets.layouts import LAYOUTS, choose_layout
from clinloop.datasets.layouts.folder import Folder
from clinloop.errors import BadInput

from .dicoms import write_dicom

FILM = np.arange(400, dtype=np.uint8).reshape(20, 20)
UID = "1.2.276.0.7230010.3.1.4.8323329.{}.1517875201.850819"
STEM = "{:04d}_0000000001_01_WRI-L1_M014"


def write_siim(root: Path) -> None:
    for at in range(4):
        write_dicom(root / "dicom-images-train" / f"{UID.format(at)}.dcm", FILM + np.uint8(at), PatientID=f"p{at}")
    rows = "".join(f"{UID.format(at)}, {'5 3 6 2' if at % 2 else '-1'}\n" for at in range(4))
    (root / "train-rle.csv").write_text(f"ImageId, EncodedPixels\n{rows}", encoding="utf-8")


def write_nih(root: Path) -> None:
    lines = [
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage[Width,Height]"
    ]
    drains = [",Image Index,Drain,Drain_a1,Drain_a2"]
    for at in range(4):
        Image.fromarray(FILM + np.uint8(at)).save(root / f"{at:08d}_000.png")
        lines.append(f"{at:08d}_000.png,{'Pneumothorax|Effusion' if at % 2 else 'No Finding'},0,{at},50,M,PA,2000,2000")
        drains.append(f"{at},{at:08d}_000.png,{at % 3},1,0")
    (root / "Data_Entry_2017.csv").write_text("\n".join(lines), encoding="utf-8")
    (root / "NIH-CX14_TubeAnnotations_NonExperts_aggregated.csv").write_text("\n".join(drains), encoding="utf-8")
    (root / "train_val_list.txt").write_text("00000000_000.png\n00000001_000.png", encoding="utf-8")
    (root / "test_list.txt").write_text("00000002_000.png\n00000003_000.png", encoding="utf-8")


def write_graz(root: Path) -> None:
    lines = ["filestem,patient_id,study_number,age,projection,cast,ao_classification,fracture_visible"]
    structure = root / "folder_structure"
    for name in ("yolov5/labels", "pascalvoc", "supervisely/wrist/ann"):
        (structure / name).mkdir(parents=True)
    for at in range(4):
        stem = STEM.format(at)
        Image.fromarray(FILM + np.uint8(at)).save(root / f"{stem}.png")
        lines.append(f"{stem},{at},1,9.5,1,,23r-M/2.1,{at % 2 or ''}")
        if at < 2:
            (structure / "yolov5/labels" / f"{stem}.txt").write_text("3 0.5 0.5 0.2 0.2\n" * at, encoding="utf-8")
        box = "<object><name>fracture</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
        if at == 2:
            (structure / "pascalvoc" / f"{stem}.xml").write_text(f"<annotation>{box}</annotation>", encoding="utf-8")
        sheet = '{"objects": [{"classTitle": "fracture", "geometryType": "rectangle", "points": {"exterior": [[1, 2], [9, 9]]}}]}'
        (structure / "supervisely/wrist/ann" / f"{stem}.json").write_text(sheet, encoding="utf-8")
    (structure / "yolov5/meta.yaml").write_text("names: [a, b, c, fracture]\n", encoding="utf-8")
    (root / "dataset.csv").write_text("\n".join(lines), encoding="utf-8-sig")


@pytest.mark.parametrize(
    ("name", "write"),
    [("siim_acr", write_siim), ("nih_chestxray14", write_nih), ("neatx", write_nih), ("grazpedwri", write_graz)],
)
def test_damaged_files_are_refused_or_read_and_never_a_bug(
    name: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    whole.mkdir()
    write(whole)
    layout = next(layout for layout in LAYOUTS if layout.name == name)
    assert len(layout.read(Folder(whole), LayoutOptions()).cases) == 4
    rng = np.random.default_rng(0)
    texts = sorted(
        path.relative_to(whole)
        for path in whole.rglob("*")
        if path.suffix in {".csv", ".txt", ".xml", ".json", ".yaml"}
    )
    n_refused = 0
    for turn in range(60):
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(whole, damaged)
        path = damaged / texts[turn % len(texts)]
        raw = bytearray(path.read_bytes())
        for _ in range(1 + turn % 4):
            at = int(rng.integers(0, len(raw) + 1))
            raw[at : at + int(rng.integers(0, 9))] = rng.choice(np.frombuffer(b'019,.;-"\n\r\0[]{}<>|/_ aF\xff\xc3', np.uint8), int(rng.integers(0, 9))).tobytes()  # fmt: skip
        path.write_bytes(raw)
        try:
            result = layout.read(Folder(damaged), LayoutOptions())
            assert all(case.label in result.classes for case in result.cases)
        except BadInput as refusal:
            n_refused += 1
            assert str(tmp_path) not in str(refusal) + str(getattr(refusal, "__notes__", ""))
    assert n_refused > 3


def test_a_folder_of_several_public_sets_is_refused_until_one_is_named(tmp_path: Path) -> None:
    for name, write in (("siim", write_siim), ("graz", write_graz)):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
    folder = Folder(tmp_path)
    with pytest.raises(
        BadInput, match=r"holds 2 public datasets: grazpedwri \(found .*\); siim_acr \(found .*Give the folder"
    ):
        choose_layout(folder, "auto", LayoutOptions())
    for name in ("siim_acr", "grazpedwri"):
        assert len(choose_layout(folder, name, LayoutOptions()).layout.read(folder, LayoutOptions()).cases) == 4


@pytest.mark.parametrize(
    ("write", "name"),
    [(write_siim, "siim_acr"), (write_nih, "neatx"), (write_graz, "grazpedwri")],
    ids=["siim", "nih", "graz"],
)
def test_public_sets_in_doubled_folders_are_found_among_the_formats_that_they_also_hold(
    write: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    inner = tmp_path / "archive" / "archive"
    inner.mkdir(parents=True)
    write(inner)
    assert choose_layout(Folder(tmp_path), "auto", LayoutOptions()).layout.name == name
