"""Folders of DICOM files with a table or class folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from clinloop.datasets.case import LayoutOptions, LayoutResult
from clinloop.datasets.layouts import choose_layout
from clinloop.datasets.layouts.folder import Folder
from clinloop.errors import BadInput

Write = Callable[..., list[Dataset]]


def read(root: Path, layout: str = "auto", **options: Any) -> LayoutResult:
    folder, chosen = Folder(root), LayoutOptions(**options)
    return choose_layout(folder, layout, chosen).layout.read(folder, chosen)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write DICOM files i.dcm, two of each patient, in folders of their own; return their headers."""

    def write_tree(n: int = 6, *, folder: str = "", **elements: Any) -> list[Dataset]:
        found: list[Dataset] = []
        for i in range(n):
            header = Dataset()
            header.file_meta = dcmread_meta()
            header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", f"1.2.3.{i}"
            header.StudyInstanceUID, header.PatientID = f"1.2.9.{i // 2}", f"MRN{i // 2}"
            header.PatientName, header.PatientSex, header.PatientAge, header.Modality = (
                "Doe^Jane",
                "FM"[i % 2],
                f"0{40 + i}Y",
                "DX",
            )
            header.StudyDate, header.Manufacturer = "20200101", "Agfa"
            header.Rows, header.Columns, header.SamplesPerPixel = 4, 6, 1
            header.PhotometricInterpretation = "MONOCHROME2"
            header.BitsAllocated = header.BitsStored = 8
            header.HighBit, header.PixelRepresentation = 7, 0
            header.PixelData = np.full((4, 6), i, np.uint8).tobytes()
            for name, value in elements.items():
                setattr(header, name, value)
            path = tmp_path / folder / f"series{i}" / f"{i}.dcm"
            path.parent.mkdir(parents=True)
            header.save_as(path, enforce_file_format=True)
            found.append(header)
        return found

    return write_tree


def dcmread_meta() -> Any:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


@pytest.mark.parametrize("column", ["SOPInstanceUID", "image_id", "file_name"])
def test_a_table_names_files_by_uid_name_or_path(write: Write, tmp_path: Path, make_csv, column: str) -> None:
    headers = write()
    names = {
        "SOPInstanceUID": [str(header.SOPInstanceUID) for header in headers],
        "image_id": [str(i) for i in range(6)],
        "file_name": [f"series{i}/{i}.dcm" for i in range(6)],
    }
    make_csv(
        tmp_path / "labels.csv",
        [column, "label", "ward"],
        [[name, "ab"[i % 2], "W"] for i, name in enumerate(names[column])],
    )
    result = read(tmp_path)
    assert [(case.source, case.label, case.group) for case in result.cases][:3] == [
        ("series0/0.dcm", "a", "MRN0"), ("series1/1.dcm", "b", "MRN0"), ("series2/2.dcm", "a", "MRN1"),
    ]  # fmt: skip
    assert result.group_kind == "patient" and result.classes == ["a", "b"]
    assert {"PatientSex", "PatientAge", "Modality", "Manufacturer", "ward"} <= set(result.attributes)
    assert dict(result.cases[0].attributes) | {"PatientSex": "F", "PatientAge": "40", "ward": "W"} == dict(
        result.cases[0].attributes
    )
    text = repr(result)
    assert "Doe" not in text and "20200101" not in text and "1.2.3." not in text


@pytest.mark.parametrize("column", ["patient_id", "StudyInstanceUID"])
def test_a_table_of_patients_or_studies_labels_all_their_images(
    write: Write, tmp_path: Path, make_csv, column: str
) -> None:
    write()
    names = [f"MRN{i}" if column == "patient_id" else f"1.2.9.{i}" for i in range(3)]
    make_csv(
        tmp_path / "patients.csv",
        [column, "diagnosis", "split"],
        [[name, "xyx"[i], "test" if i else "train"] for i, name in enumerate(names)],
    )
    result = read(tmp_path)
    assert [(case.label, case.split) for case in result.cases] == [("x", "train")] * 2 + [("y", "test")] * 2 + [
        ("x", "test")
    ] * 2


@pytest.mark.parametrize("patient", ["", "ANON"])
def test_without_patients_the_studies_are_groups_and_a_note_says_what_that_is_worth(
    write: Write, tmp_path: Path, make_csv, patient: str
) -> None:
    write(PatientID=patient)
    make_csv(tmp_path / "labels.csv", ["image_id", "label"], [[str(i), "ab"[i % 2]] for i in range(6)])
    result = read(tmp_path)
    assert result.group_kind == "study" and [case.group for case in result.cases][1:3] == ["1.2.9.0", "1.2.9.1"]
    assert any("cannot be verified" in note for note in result.notes)
    assert all("1.2.9" not in value for case in result.cases for value in case.attributes.values())


def test_groups_can_be_chosen(write: Write, tmp_path: Path, make_csv) -> None:
    write()
    make_csv(
        tmp_path / "labels.csv", ["image_id", "label", "ward"], [[str(i), "ab"[i % 2], f"W{i % 2}"] for i in range(6)]
    )
    assert [case.group for case in read(tmp_path, group_by="ward").cases][:2] == ["W0", "W1"]
    assert read(tmp_path, group_by="none").group_kind == "image"
    assert read(tmp_path, group_by="StudyInstanceUID").group_kind == "study"
    with pytest.raises(BadInput, match="no column 'bed'"):
        read(tmp_path, group_by="bed")


def test_class_folders_of_dicom_files_have_their_groups_from_the_headers(write: Write, tmp_path: Path) -> None:
    write(4, folder="normal")
    write(4, folder="pneumonia")
    result = read(tmp_path)
    assert choose_layout(Folder(tmp_path), "auto", LayoutOptions()).layout.name == "dicom_tree"
    assert result.classes == ["normal", "pneumonia"] and result.group_kind == "patient"
    assert {case.group for case in result.cases} == {"MRN0", "MRN1"} and "Manufacturer" in result.attributes


def test_what_has_no_label_no_pixels_or_no_header_is_left_out(write: Write, tmp_path: Path, make_csv, picture) -> None:
    write()
    make_csv(
        tmp_path / "labels.csv", ["image_id", "label"], [["0", "a"], ["1", "b"], ["2", "a"], ["3", "nan"], ["99", "b"]]
    )
    (tmp_path / "series4" / "4.dcm").write_bytes(b"nothing")
    report = dcmread(tmp_path / "series5" / "5.dcm")
    del report.Rows, report.Columns, report.PixelData
    report.save_as(tmp_path / "series5" / "5.dcm")
    picture(0).save(tmp_path / "scout.png")
    result = read(tmp_path)
    assert [case.source for case in result.cases] == ["series0/0.dcm", "series1/1.dcm", "series2/2.dcm"]
    assert {(item.reason, item.examples) for item in result.excluded} == {
        ("a DICOM file without a label", ("series3/3.dcm",)),
        ("a DICOM file that cannot be read", ("series4/4.dcm",)),
        ("a DICOM file without pixels", ("series5/5.dcm",)),
        ("an image that is not a DICOM file", ("scout.png",)),
    }


def test_rows_that_disagree_and_tables_without_labels_are_refused(write: Write, tmp_path: Path, make_csv) -> None:
    write()
    make_csv(tmp_path / "labels.csv", ["image_id", "label"], [["0", "a"], ["0", "b"], ["1", "b"]])
    with pytest.raises(BadInput, match=r"differ in 'label'"):
        read(tmp_path)
    make_csv(tmp_path / "labels.csv", ["image_id", "sex"], [["0", "f"], ["1", "m"]])
    with pytest.raises(BadInput, match="has no column named like a label"):
        read(tmp_path)
    with pytest.raises(BadInput, match="has no column 'grade'"):
        read(tmp_path, "dicom_tree", label_column="grade")
    assert read(tmp_path, label_column="sex").classes == ["f", "m"]


def test_a_tree_without_table_or_classes_says_what_is_missing(write: Write, tmp_path: Path) -> None:
    write(folder="dicom-images-train")
    write(folder="dicom-images-test")
    with pytest.raises(BadInput, match="no table names them and they are in no class folders"):
        read(tmp_path, "dicom_tree")
