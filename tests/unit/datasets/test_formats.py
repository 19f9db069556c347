"""Images that are no image files: DICOM files and images in archives of arrays."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from clinloop.datasets import arrays, layouts, vault
from clinloop.datasets.dataset import CaseRow, Dataset

from . import annotated
from .conftest import Add


def everything(dataset: Dataset) -> dict[str, CaseRow]:
    """Cases by the name of their source."""
    with (dataset.vault / "sources.csv").open(encoding="utf-8", newline="") as file:
        names = {row["case_id"]: row["source"] for row in csv.DictReader(file)}
    return {names[case.case_id]: case for case in [*dataset.cases(), *vault.open_test(dataset.folder)]}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def test_every_image_of_an_archive_of_arrays_is_stored_as_it_is(add: Add, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    train, test = noise(1, 24, 28, 28, 3), noise(2, 8, 28, 28, 3)
    labels = np.arange(32)[:, None] % 2
    np.savez_compressed(
        tmp_path / "in" / "toymnist.npz",
        train_images=train,
        train_labels=labels[:24],
        test_images=test,
        test_labels=labels[:8],
    )
    dataset = add(tmp_path / "in", cache_px=(16, 224))
    cases = everything(dataset)
    assert len(cases) == 32 and dataset.cache_px == [16]  # 224 px of an image of 28 px are worth nothing
    for name, images in (("train", train), ("test", test)):
        for i, image in enumerate(images):
            case = cases[f"toymnist.npz#{name}_images/{i}"]
            assert (case.split == "test") == (name == "test") and np.array_equal(pixels(case.image), image)


@pytest.mark.parametrize(
    ("array", "source", "said"),
    [
        (noise(1, 4, 8, 8), "a.npz#images/4", "the array has 4 images"),
        (noise(1, 4, 8, 8), "a.npz#masks/0", "no such array"),
        (noise(1, 4, 8, 8), "a.npz#images", "does not name an array and a number"),
        (np.array([{"pickled": 1}], dtype=object), "a.npz#images/0", "array of object"),
        (np.zeros((4, 8, 8)), "a.npz#images/0", "array of float64"),
    ],
)
def test_what_is_no_image_of_an_archive_says_why(tmp_path: Path, array: np.ndarray, source: str, said: str) -> None:
    np.savez(tmp_path / "a.npz", images=array)
    with pytest.raises(arrays.UnreadableArray, match=said):
        arrays.read(str(tmp_path / source))


def write_dicom(path: Path, values: np.ndarray, photometric: str) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.PatientName, file.PatientID = "Secret^Name", "secret-id"
    file.PhotometricInterpretation, file.SamplesPerPixel = photometric, 1
    file.Rows, file.Columns = values.shape
    file.BitsAllocated = file.BitsStored = 8
    file.HighBit, file.PixelRepresentation = 7, 0
    file.PixelData = values.tobytes()
    file.save_as(path, enforce_file_format=True)


def test_a_dicom_file_is_stored_as_seen_with_its_boxes_and_without_its_header(
    add: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts, "LAYOUTS", [annotated.Annotated()])
    root = tmp_path / "in"
    root.mkdir()
    cases = []
    for i in range(16):
        values = noise(i, 80, 120)
        write_dicom(root / f"{i}.dcm", values if i % 2 else 255 - values, "MONOCHROME2" if i % 2 else "MONOCHROME1")
        label = "fracture" if i % 4 < 2 else "no fracture"
        cases.append(
            {"source": f"{i}.dcm", "label": label, "boxes": [["fracture", 12, 8, 60, 40]] if i % 4 < 2 else []}
        )
    (root / "15.dcm").write_bytes(b"no DICOM")
    dataset = add(annotated.write(root, cases, task_type="detection"), max_px=60)
    stored = everything(dataset)
    assert len(stored) == 15
    for i in range(15):
        case = stored[f"{i}.dcm"]
        assert case.boxes == ((("fracture", 6, 4, 30, 20),) if i % 4 < 2 else ())
        expected = Image.fromarray(noise(i, 80, 120)).convert("RGB")
        expected.thumbnail((60, 60), Image.Resampling.LANCZOS)
        assert np.array_equal(pixels(case.image), np.asarray(expected))
        assert b"ecret" not in case.image.read_bytes()
    audit = dataset.audit
    assert audit.metadata_tags["DICOM PatientName"] == audit.metadata_tags["DICOM PatientID"] == len(dataset.cases())
    assert 0 < audit.handling["dicom_inverted"] < len(dataset.cases())
    assert [item.reason for item in audit.unreadable] == ["it is not a DICOM file (the prefix DICM is missing)"]
    assert "ecret" not in (dataset.folder / "audit.json").read_text(encoding="utf-8")
