"""DICOM pixels come out as a person would see them, and header values never come out by accident."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.pixels.processing import apply_windowing

from clinloop.datasets.dicom import UnreadableDicom, read, read_header, window
from clinloop.errors import BadInput

from .dicoms import dicom, write_dicom

RAMP = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
TWELVE_BITS = np.tile(np.arange(0, 4096, 16, dtype=np.uint16), (16, 1))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(read(path).image)


def test_eight_bit_values_without_a_window_stay_as_they_are(tmp_path: Path) -> None:
    picture = read(write_dicom(tmp_path / "a.dcm", RAMP))
    assert np.array_equal(np.asarray(picture.image), RAMP) and picture.image.mode == "L"
    assert (picture.mode, picture.handling) == ("MONOCHROME2 8 bit", ())


def test_monochrome1_is_inverted_after_the_window(tmp_path: Path) -> None:
    options = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 1024, "WindowWidth": 1024}
    plain = pixels(write_dicom(tmp_path / "2.dcm", TWELVE_BITS, **options))
    inverted = read(write_dicom(tmp_path / "1.dcm", TWELVE_BITS, PhotometricInterpretation="MONOCHROME1", **options))
    assert plain[0, 0] == 0 and plain[0, -1] == 255
    assert np.array_equal(np.asarray(inverted.image), 255 - plain)
    assert inverted.handling == ("dicom_window", "dicom_inverted") and inverted.mode == "MONOCHROME1 12 bit"


def test_the_modality_lut_comes_before_the_window(tmp_path: Path) -> None:
    hounsfield = np.array([[0, 924, 1024, 1124, 3000]], dtype=np.uint16)
    path = write_dicom(
        tmp_path / "ct.dcm", hounsfield, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=0, WindowWidth=200
    )
    assert pixels(path)[0].tolist() == [0, 0, 128, 255, 255]
    assert read(path).handling == ("dicom_modality", "dicom_window")


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_agree_with_pydicom(function: str) -> None:
    header = dicom(TWELVE_BITS, BitsStored=12, HighBit=11, WindowCenter=900.5, WindowWidth=731, VOILUTFunction=function)
    ours = window(TWELVE_BITS.astype(np.float64), 900.5, 731.0, function)
    np.testing.assert_allclose(ours, apply_windowing(TWELVE_BITS, header) / 4095, atol=1e-9)


def test_the_first_of_several_windows_counts_and_a_useless_one_does_not(tmp_path: Path) -> None:
    first = pixels(write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=[64, 200], WindowWidth=[64, 64]))
    assert first[0, 100] == 255 and first[0, 32] == 0
    useless = read(write_dicom(tmp_path / "b.dcm", RAMP, WindowCenter=5000, WindowWidth=10))
    assert np.array_equal(np.asarray(useless.image), RAMP) and useless.handling == ()


def test_a_voi_lut_is_looked_up(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 16], [int(65535 * (i / 255) ** 2) for i in range(256)]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    shown = read(write_dicom(tmp_path / "a.dcm", RAMP, VOILUTSequence=[table]))
    assert np.abs(np.asarray(shown.image)[0].astype(float) - 255 * (np.arange(256) / 255) ** 2).max() <= 1
    assert shown.handling == ("dicom_window",)


def test_twelve_bits_without_a_window_are_stretched_and_padding_does_not_count(tmp_path: Path) -> None:
    values = TWELVE_BITS.copy()
    values[:, :40] = 4095
    values[:, 40:] = values[:, 40:] // 8 + 100
    options = {"BitsStored": 12, "HighBit": 11, "PixelPaddingValue": 4095, "PhotometricInterpretation": "MONOCHROME1"}
    shown = read(write_dicom(tmp_path / "a.dcm", values, **options))
    image = np.asarray(shown.image)
    assert (image[:, :40] == 0).all() and image[0, 40] == 255 and image[0, -1] == 0
    assert shown.handling == ("dicom_stretch", "dicom_inverted", "dicom_padding")


def test_signed_values_and_flat_images_are_no_trouble(tmp_path: Path) -> None:
    signed = np.tile(np.arange(-500, 500, 10, dtype=np.int16), (10, 1))
    assert pixels(write_dicom(tmp_path / "a.dcm", signed))[0, [0, -1]].tolist() == [0, 255]
    assert not pixels(write_dicom(tmp_path / "b.dcm", np.full((8, 8), 700, np.uint16))).any()


def test_jpeg_inside_is_decoded_in_gray_and_in_colour(tmp_path: Path) -> None:
    gray = pixels(write_dicom(tmp_path / "g.dcm", RAMP, jpeg=True))
    assert np.abs(gray.astype(int) - RAMP).max() <= 6
    colour = np.zeros((16, 16, 3), np.uint8) + np.array([200, 40, 90], np.uint8)
    shown = read(write_dicom(tmp_path / "c.dcm", colour, jpeg=True, PhotometricInterpretation="YBR_FULL_422"))
    assert shown.image.mode == "RGB" and shown.handling == ("dicom_colour",)
    assert np.abs(np.asarray(shown.image).astype(int) - colour).max() <= 6


def test_the_first_of_several_frames_is_taken(tmp_path: Path) -> None:
    two = np.concatenate([RAMP, 255 - RAMP])
    shown = read(write_dicom(tmp_path / "a.dcm", two, Rows=16, NumberOfFrames=2))
    assert np.array_equal(np.asarray(shown.image), RAMP) and shown.handling == ("frames",)


def test_names_of_identifying_tags_come_out_and_never_their_values(tmp_path: Path) -> None:
    header = dicom(RAMP, PatientName="Doe^Jane", PatientID="MRN-77", PatientBirthDate="19500101", InstitutionName="St. Elsewhere",
                   StudyDate="20190101", AccessionNumber="", BurnedInAnnotation="YES", Modality="CR", ViewPosition="PA")  # fmt: skip
    header.private_block(0x0011, "Doe^Jane", create=True).add_new(0x01, "LO", "Doe^Jane")
    header.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    picture = read(tmp_path / "a.dcm")
    assert picture.tags == (
        "DICOM BurnedInAnnotation (text in the pixels)", "DICOM InstitutionName", "DICOM PatientBirthDate", "DICOM PatientID",
        "DICOM PatientName", "DICOM SOPInstanceUID", "DICOM StudyDate", "DICOM private elements",
    )  # fmt: skip
    assert not any(value in str(picture) for value in ("Doe", "MRN", "1950", "Elsewhere"))
    assert picture.image.info == {}


def test_a_header_is_read_without_pixels_and_ages_are_years(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "a.dcm", RAMP, PatientID=" 12\x00", PatientAge="018M", PatientSex="F", ViewPosition="AP"
    )
    path.write_bytes(path.read_bytes()[:-1000])  # the pixels are cut off
    found = read_header(path)
    assert (found["PatientID"], found["PatientAge"], found["PatientSex"], found["ViewPosition"]) == (
        "12",
        "1.5",
        "F",
        "AP",
    )
    assert found["StudyInstanceUID"] == "" and found["Rows"] == "16"


def test_what_is_no_dicom_image_is_said_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "text.dcm").write_text("hello", encoding="utf-8")
    with pytest.raises(UnreadableDicom, match="not a DICOM file"):
        read(tmp_path / "text.dcm")
    with pytest.raises(BadInput, match=r"^text\.dcm: it is not a DICOM file") as refusal:
        read_header(tmp_path / "text.dcm")
    assert str(tmp_path) not in str(refusal.value)
    report = dicom(RAMP)
    del report.PixelData
    report.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    with pytest.raises(UnreadableDicom, match="holds no pixels"):
        read(tmp_path / "report.dcm")


@pytest.mark.parametrize(
    ("syntax", "message"),
    [("1.2.840.10008.1.2.4.70", "JPEG Lossless"), ("1.2.840.10008.1.2.1.99", "deflated")],
)
def test_compressions_that_cannot_or_must_not_be_decoded_are_named(syntax: str, message: str, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, jpeg=True, syntax="1.2.840.10008.1.2.4.50")
    raw = path.read_bytes().replace(b"1.2.840.10008.1.2.4.50", syntax.encode().ljust(22, b"\x00"))
    path.write_bytes(raw)
    with pytest.raises(UnreadableDicom, match=message):
        read(path)


def test_a_header_that_declares_a_huge_image_is_refused_before_decoding(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, Rows=60_000, Columns=60_000)
    with pytest.raises(UnreadableDicom, match="more than 100 megapixels"):
        read(path)


def test_truncated_and_scrambled_files_raise_and_never_hang(tmp_path: Path) -> None:
    raw = write_dicom(tmp_path / "a.dcm", RAMP, jpeg=True, PatientName="Doe^Jane").read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set[str]()
    for i in range(60):
        damaged = bytearray(raw[: int(rng.integers(1, len(raw)))] if i % 2 else raw)
        for at in rng.integers(0, len(damaged), 20):
            damaged[at] = int(rng.integers(0, 256))
        (tmp_path / "b.dcm").write_bytes(damaged)
        try:
            outcomes.add(read(tmp_path / "b.dcm").image.mode)
        except Exception as error:
            outcomes.add(type(error).__name__)
        try:
            read_header(tmp_path / "b.dcm")
        except BadInput as refusal:
            assert "Doe" not in str(refusal)
    assert "UnreadableDicom" in outcomes


def test_pydicom_is_not_loaded_before_the_first_file() -> None:
    code = "import sys, clinloop.datasets.dicom, clinloop.datasets.layouts; sys.exit('pydicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_image_made_from_dicom_saves_as_a_plain_png(tmp_path: Path) -> None:
    read(write_dicom(tmp_path / "a.dcm", RAMP, PatientName="Doe^Jane")).image.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.info == {} and image.size == (256, 16)
