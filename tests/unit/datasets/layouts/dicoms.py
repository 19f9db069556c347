"""Writes small DICOM files, raw or JPEG-compressed, with any header."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

CR_IMAGE = "1.2.840.10008.5.1.4.1.1.1"


def dicom(values: np.ndarray, *, jpeg: bool = False, syntax: str = "", **elements: object) -> Dataset:
    """Return a data set of gray values (rows, columns) or colours (rows, columns, 3); `elements` are keywords of the header."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = syntax or (JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian)
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = CR_IMAGE
    header.SOPInstanceUID = generate_uid(entropy_srcs=[str(elements), values.tobytes().hex()[:64]])
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.Rows, header.Columns = values.shape[:2]
    header.SamplesPerPixel = 1 if values.ndim == 2 else 3
    header.PhotometricInterpretation = "MONOCHROME2" if values.ndim == 2 else "RGB"
    if values.ndim == 3:
        header.PlanarConfiguration = 0
    header.BitsAllocated = header.BitsStored = 8 * values.dtype.itemsize
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = int(np.issubdtype(values.dtype, np.signedinteger))
    with warnings.catch_warnings(
        action="ignore"
    ):  # public files hold values that are out of form, such as the age "51"
        for keyword, value in elements.items():
            setattr(header, keyword, value)
    if jpeg:
        file = io.BytesIO()
        Image.fromarray(values).save(file, "JPEG", quality=95)
        header.PixelData = encapsulate([file.getvalue()])
        header["PixelData"].VR = "OB"
    else:
        header.PixelData = values.tobytes()
        header["PixelData"].VR = "OW" if header.BitsAllocated > 8 else "OB"
    return header


def write_dicom(path: Path, values: np.ndarray, **options: object) -> Path:
    """Write a DICOM file; see `dicom`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(action="ignore"):
        dicom(values, **options).save_as(path, enforce_file_format=True)
    return path
