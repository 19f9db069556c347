"""DICOM files: pixels as a person would see them, the few header fields that layouts need, and names (never values) of what identifies somebody.

Source: DICOM PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT and windows), C.7.6.3.1.2 (photometric interpretation); the tags that
identify somebody follow the idea of PS3.15 Annex E. Decoding is pydicom's; it is imported when the first file is read.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from clinloop.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom import Dataset
    from pydicom.uid import UID

    Values = NDArray[np.generic]

MAX_PIXELS = 100_000_000
MAX_BYTES = 2_000_000_000
"""A file that is larger is not read."""
RULES = {
    "dicom_modality": "modality LUT or rescale slope and intercept applied",
    "dicom_window": "first window (linear, linear exact or sigmoid) or VOI LUT of the header applied, its range mapped to 0 to 255",
    "dicom_stretch": "no window in the header: 8-bit values kept, others stretched per image from the 0.5th to the 99.5th percentile",
    "dicom_inverted": "MONOCHROME1 inverted, after the window",
    "dicom_padding": "pixels outside the exposed field (PixelPaddingValue) left out of the stretch and made black",
    "dicom_colour": "palette and YBR colours converted to RGB",
    "frames": "first frame of several",
}
"""What may be done to the pixels of a DICOM file, in the order in which it is done."""
FIELDS = ("SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "PatientSex", "PatientAge", "Modality", "BodyPartExamined",
          "ViewPosition", "Laterality", "ImageLaterality", "PhotometricInterpretation", "Manufacturer", "Rows", "Columns",
          "BitsStored")  # fmt: skip
"""Keywords that `read_header` returns."""

_SPACE = 0x7FE0
"""Group of the pixel data."""
_DEFLATED = "1.2.840.10008.1.2.1.99"
_NEUTRAL_UIDS = frozenset(
    {"SOPClassUID", "TransferSyntaxUID", "ImplementationClassUID", "MediaStorageSOPClassUID", "CodingSchemeUID"}
)
_PERSONAL = frozenset({"AccessionNumber", "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "StudyID",
                       "DeviceSerialNumber", "StudyDescription", "SeriesDescription", "ImageComments", "RequestedProcedureDescription",
                       "AdmissionID", "ProtocolName", "DeviceID", "PlateID", "CassetteID", "DetectorID", "OperatorIdentificationSequence",
                       "RequestAttributesSequence", "ReferencedPatientSequence", "PhysiciansOfRecordIdentificationSequence"})  # fmt: skip


class UnreadableDicom(Exception):
    """A DICOM file that gives no picture; the text is a clause that goes on from the file's name, without values of its header."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded DICOM file."""

    image: Image.Image
    """8-bit, mode L or RGB, upright as stored; it carries no metadata."""
    mode: str
    """Photometric interpretation and bits, for example "MONOCHROME2 12 bit"."""
    tags: tuple[str, ...]
    """Names of what the header holds that could identify somebody; never values."""
    handling: tuple[str, ...]
    """Keys of RULES that applied."""


def read(path: Path) -> Picture:
    """Decode the first frame: modality LUT, then window or VOI LUT, then MONOCHROME1 inversion.

    Raises:
        UnreadableDicom: the file is no DICOM image, is too large, or has a compression that cannot be decoded.
        Exception: whatever a decoder raises on malformed data.
    """
    with _quiet():
        from pydicom.pixels.utils import pixel_array

        header = _open(path)
        _check_pixels(header)
        colour = str(header.get("PhotometricInterpretation", "")).strip().upper()
        bits = int(header.get("BitsStored", 8))
        handling: list[str] = ["frames"] if _first_number(header.get("NumberOfFrames"), 1) > 1 else []
        values = pixel_array(header, index=0)  # colours come as RGB
        if values.ndim == 3:
            image = Image.fromarray(_eight_bits(values, bits))
            handling += ["dicom_colour"] if colour.startswith("YBR") else []
        elif colour == "PALETTE COLOR":
            image, handling = Image.fromarray(_palette(values, header)), [*handling, "dicom_colour"]
        else:
            image = Image.fromarray(_gray(values, header, colour, bits, handling))
        return Picture(image, f"{colour or 'unknown'} {bits} bit", identifying_tags(header), tuple(handling))


def read_header(path: Path) -> dict[str, str]:
    """Return FIELDS as text without reading pixels; "" = absent. PatientAge is in years ("045Y" gives "45").

    Raises:
        BadInput: the file is no DICOM file; the text holds no path.
    """
    with _quiet():
        try:
            header = _open(path, pixels=False)
            found = {name: _text(header.get(name)) for name in FIELDS}
        except UnreadableDicom as error:
            raise BadInput(f"{path.name}: {error}.") from error
        except Exception as error:  # the parser raises anything on malformed input
            raise BadInput(f"{path.name}: its DICOM header cannot be parsed ({type(error).__name__}).") from error
    found["PatientAge"] = _years(found["PatientAge"])
    return found


def identifying_tags(header: Dataset) -> tuple[str, ...]:
    """Return names of non-empty elements that could identify a person, a place or a moment; private ones count as one."""
    names: set[str] = set()
    for tag in header.keys():  # noqa: SIM118  # iterating a data set parses its elements
        if tag.group == _SPACE:
            continue
        if tag.is_private:
            names.add("DICOM private elements")
        elif 0x6000 <= tag.group <= 0x60FF:
            names.add("DICOM overlay")
        else:
            element = header[tag]
            keyword, value = element.keyword, element.value
            personal = tag.group == 0x0010 or element.VR in {"PN", "DA", "TM", "DT"} or keyword in _PERSONAL
            personal |= element.VR == "UI" and keyword not in _NEUTRAL_UIDS
            if personal and value is not None and str(value):
                names.add(f"DICOM {keyword or 'unknown element'}")
            elif keyword == "BurnedInAnnotation" and str(value).upper() == "YES":
                names.add("DICOM BurnedInAnnotation (text in the pixels)")
    return tuple(sorted(names))


def window(values: NDArray[np.float64], center: float, width: float, function: str = "LINEAR") -> NDArray[np.float64]:
    """Map values through a window to [0, 1].

    Source: PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2 (LINEAR_EXACT). Width: ≥ 1 for LINEAR, > 0 for the others.
    """
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -500.0, 500.0)))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0.0, 1.0)
    if width <= 1.0:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0)


def _gray(values: Values, header: Dataset, colour: str, bits: int, handling: list[str]) -> NDArray[np.uint8]:
    """Return one gray plane in 8 bits and note the rules that applied."""
    from pydicom.pixels.processing import apply_modality_lut

    padding = _padding(values, header)
    adjusted = np.asarray(apply_modality_lut(values, header))
    if adjusted is not values and not np.array_equal(adjusted, values):
        handling.append("dicom_modality")
    shown = _through_window(adjusted, header)
    if shown is not None:
        handling.append("dicom_window")
    elif bits == 8 and "dicom_modality" not in handling and values.dtype == np.uint8:
        shown = values.astype(np.float64) / 255.0
    else:
        shown = _stretched(adjusted.astype(np.float64), padding)
        handling.append("dicom_stretch")
    if colour == "MONOCHROME1":
        shown = 1.0 - shown
        handling.append("dicom_inverted")
    if padding is not None:
        shown = np.where(padding, 0.0, shown)
        handling.append("dicom_padding")
    return np.round(shown * 255.0).astype(np.uint8)


def _through_window(values: Values, header: Dataset) -> NDArray[np.float64] | None:
    """Return values in [0, 1] through the header's first VOI LUT or window; None if there is none, or it leaves nothing to see."""
    shown = _through_voi_lut(values, header)
    if shown is None:
        center, width = _first_float(header.get("WindowCenter")), _first_float(header.get("WindowWidth"))
        function = _text(header.get("VOILUTFunction")).upper() or "LINEAR"
        if center is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
            return None
        shown = window(values.astype(np.float64), center, width, function)
    return None if float(np.ptp(shown)) == 0.0 and float(np.ptp(values)) > 0 else shown


def _through_voi_lut(values: Values, header: Dataset) -> NDArray[np.float64] | None:
    from pydicom.pixels.processing import apply_voi

    table: Any = header.get("VOILUTSequence")
    if not table or "LUTDescriptor" not in table[0] or "LUTData" not in table[0]:
        return None
    whole = np.rint(values).astype(np.int64)  # a rescale makes floats of them
    looked_up = np.asarray(apply_voi(whole, header, index=0), dtype=np.float64)
    return np.clip(looked_up / (2.0 ** int(table[0].LUTDescriptor[2]) - 1.0), 0.0, 1.0)


def _stretched(values: NDArray[np.float64], padding: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    exposed = values if padding is None or padding.all() else values[~padding]
    low, high = (float(edge) for edge in np.percentile(exposed, (0.5, 99.5)))
    return np.clip((values - low) / (high - low), 0.0, 1.0) if high > low else np.zeros_like(values)


def _padding(values: Values, header: Dataset) -> NDArray[np.bool_] | None:
    """Return which pixels are padding; None if none is, or all."""
    one = _first_float(header.get("PixelPaddingValue"))
    if one is None:
        return None
    other = _first_float(header.get("PixelPaddingRangeLimit"))
    low, high = sorted((one, one if other is None else other))
    numbers = values.astype(np.float64)
    inside = (numbers >= low) & (numbers <= high)
    return inside if inside.any() and not inside.all() else None


def _palette(values: Values, header: Dataset) -> NDArray[np.uint8]:
    from pydicom.pixels.processing import apply_color_lut

    colours = np.asarray(apply_color_lut(values, header))
    return _eight_bits(colours[..., :3], colours.dtype.itemsize * 8)


def _eight_bits(values: Values, bits: int) -> NDArray[np.uint8]:
    """Return (rows, columns, 3) colours in 8 bits."""
    return np.ascontiguousarray(values if bits <= 8 else values.astype(np.uint32) >> (bits - 8)).astype(np.uint8)


def _open(path: Path, *, pixels: bool = True) -> Dataset:
    """Parse a file; a deflated one is refused before anything is inflated."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_file_meta_info

    if path.stat().st_size > MAX_BYTES:
        raise UnreadableDicom(f"it is larger than {MAX_BYTES // 10**9} GB")
    try:
        meta: Any = read_file_meta_info(path)
        if str(meta.get("TransferSyntaxUID", "")) == _DEFLATED:
            raise UnreadableDicom("its whole data set is deflated; rewrite it uncompressed, for example with dcmconv")
        if pixels:
            return dcmread(path)
        return dcmread(path, stop_before_pixels=True, specific_tags=list(FIELDS))
    except InvalidDicomError as error:
        raise UnreadableDicom("it is not a DICOM file (the prefix DICM is missing)") from error


def _check_pixels(header: Dataset) -> None:
    """Refuse what would not decode, or not in a sane amount of memory."""
    from pydicom.pixels.decoders.base import get_decoder

    if not any(name in header for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise UnreadableDicom("it holds no pixels (a report, a contour set or another object without an image)")
    rows, columns = _first_number(header.get("Rows"), 0), _first_number(header.get("Columns"), 0)
    if not 0 < rows * columns <= MAX_PIXELS:
        raise UnreadableDicom(
            f"it declares more than {MAX_PIXELS // 1_000_000} megapixels"
            if rows * columns
            else "it declares no rows or no columns"
        )
    syntax: UID = header.file_meta.TransferSyntaxUID
    try:
        decodable = not syntax.is_encapsulated or get_decoder(syntax).is_available
    except NotImplementedError:
        decodable = False
    if not decodable:
        raise UnreadableDicom(
            f"its compression ({syntax.name}) cannot be decoded here; rewrite it uncompressed (dcmconv, gdcmconv), or install python-gdcm beside clinloop"
        )


@contextmanager
def _quiet() -> Generator[None]:
    """Keep pydicom from printing or logging header values, and from refusing values that are out of form but harmless."""
    from pydicom import config

    config.settings.reading_validation_mode = config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings(action="ignore"):
        yield


def _text(value: object) -> str:
    if value is None:
        return ""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", str(value)).strip()


def _years(age: str) -> str:
    """Return a DICOM age string (nnnD, nnnW, nnnM, nnnY) in years; other texts as they are."""
    match = re.fullmatch(r"(\d{1,3})([DWMY]?)", age.upper())
    if match is None:
        return age
    days = {"D": 1.0, "W": 7.0, "M": 30.4375, "Y": 365.25, "": 365.25}[match[2]]
    return f"{int(match[1]) * days / 365.25:.4g}"


def _first_float(value: object) -> float | None:
    """Return the first of one or several numbers, None if there is none."""
    first = next(iter(value), None) if isinstance(value, Sequence) and not isinstance(value, str) else value
    try:
        number = float(str(first))
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _first_number(value: object, default: int) -> int:
    number = _first_float(value)
    return default if number is None else int(number)
