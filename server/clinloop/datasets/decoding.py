"""One source, whatever its format, to an upright 8-bit RGB image: every surprise of a format ends here, nothing but pixels goes on.

Runs in worker processes; with `fitting` the only code that decodes what a stranger made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from clinloop.datasets import arrays, dicom

MAX_PIXELS = 100_000_000
"""An image that declares more is not decoded (a decoded pixel takes up to 12 bytes on the way)."""
RULES = {
    "orientation": "EXIF orientation applied to the pixels, then dropped",
    "sixteen_bit": "stretched per image: 0.5th percentile to 0, 99.5th percentile to 255",
    "alpha": "composited on black",
    "other_modes": "gray, palette, CMYK and 1-bit converted to RGB by Pillow",
    **dicom.RULES,
}
"""How formats become 8-bit RGB, by name."""

_TAG_NAME = re.compile(r"[A-Za-z0-9_ -]{1,40}")
_NOT_TAGS = frozenset({"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "gamma", "interlace", "progressive", "progression",
                       "adobe", "adobe_transform", "transparency", "background", "loop", "duration", "compression", "srgb", "exif",
                       "aspect", "version", "extension", "timestamp", "bbox", "blend", "disposal", "chromaticity", "default_image", "mp",
                       "mpoffset", "resolution", "photoshop", "xmp", "icc_profile"})  # fmt: skip


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What is known of a source beside its pixels."""

    is_jpeg: bool
    size: tuple[int, int]
    """(width, height) as the file stores it."""
    orientation: int
    mode: str
    """Pillow mode, or what a DICOM header says of colours and bits."""
    file_bytes: int
    """Of the file; for an image in an archive, of its pixels."""
    tags: tuple[str, ...]
    handling: tuple[str, ...]


def decode(source: str, max_px: int) -> tuple[Image.Image, SourceFacts]:
    """Decode an image file, a DICOM file or an image in an archive to upright 8-bit RGB with no side over `max_px`.

    Raises:
        Exception: whatever a decoder raises on malformed input; `reason` says it in words.
    """
    if arrays.is_inside(source):
        picture = arrays.read(source)
        image, rule = _to_rgb(picture)
        size_in_array = int(np.asarray(picture).nbytes)
        facts = SourceFacts(False, picture.size, 1, picture.mode, size_in_array, (), (rule,) if rule else ())
    elif source.lower().endswith(".dcm"):
        found = dicom.read(Path(source))
        image = found.image.convert("RGB")
        file_bytes = Path(source).stat().st_size
        facts = SourceFacts(False, image.size, 1, found.mode, file_bytes, found.tags, found.handling)
    else:
        image, facts = _decode_file(Path(source), max_px)
    if max(image.size) > max_px:
        image.thumbnail((max_px, max_px), Image.Resampling.LANCZOS)
    if max(facts.size) > max_px:
        facts = replace(facts, handling=(*facts.handling, "reduced"))
    # A copy that only has pixels: Pillow would write info (ICC profile, EXIF, comments) that rides along.
    return Image.frombytes("RGB", image.size, image.tobytes()), facts


def _decode_file(path: Path, max_px: int) -> tuple[Image.Image, SourceFacts]:
    with Image.open(path) as source:
        is_jpeg, mode, size = source.format in {"JPEG", "MPO"}, source.mode, source.size
        tags = _tag_names(source)
        handling: list[str] = []
        if getattr(source, "n_frames", 1) > 1:
            handling.append("frames")
        source.draft(None, (max_px, max_px))  # a JPEG decoder reduces by 2, 4 or 8 for free
        source.load()
        orientation = source.getexif().get(ExifTags.Base.Orientation, 1)
        image = ImageOps.exif_transpose(source)
    if orientation in range(2, 9):
        handling.append("orientation")
    image, rule = _to_rgb(image)
    if rule:
        handling.append(rule)
    return image, SourceFacts(is_jpeg, size, orientation, mode, path.stat().st_size, tags, tuple(handling))


def _to_rgb(image: Image.Image) -> tuple[Image.Image, str | None]:
    """Return an image as 8-bit RGB and the name of the rule that was needed."""
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return image, None
    if mode.startswith("I") or mode == "F":
        return _stretch(image), "sixteen_bit"
    if mode in {"RGBA", "LA", "PA", "RGBa"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, rgba).convert("RGB"), "alpha"
    return image.convert("RGB"), "other_modes"


def _stretch(image: Image.Image) -> Image.Image:
    """Map more than 8 bits to 8 by percentiles; a flat image becomes black."""
    values = np.asarray(image, dtype=np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = (float(edge) for edge in np.percentile(values, (0.5, 99.5)))
    scaled = (
        np.clip((values - low) / max(high - low, 1e-12) * 255.0, 0.0, 255.0) if high > low else np.zeros_like(values)
    )
    return Image.fromarray(np.round(scaled).astype(np.uint8)).convert("RGB")


def _tag_names(image: Image.Image) -> tuple[str, ...]:
    """Return names of EXIF, GPS, text and profile entries."""
    exif = image.getexif()
    names = {
        f"EXIF {_known(tag, ExifTags.TAGS)}"
        for tag in exif
        if tag not in {ExifTags.Base.ExifOffset, ExifTags.Base.GPSInfo}
    }
    names |= {f"EXIF {_known(tag, ExifTags.TAGS)}" for tag in exif.get_ifd(ExifTags.IFD.Exif)}
    names |= {f"GPS {_known(tag, ExifTags.GPSTAGS)}" for tag in exif.get_ifd(ExifTags.IFD.GPSInfo)}
    for key in image.info:
        if isinstance(key, str) and key.lower() not in _NOT_TAGS:
            names.add(f"text {key}" if _TAG_NAME.fullmatch(key) else "text (unusual name)")
    names |= {
        title
        for key, title in (("xmp", "XMP"), ("photoshop", "IPTC"), ("icc_profile", "ICC profile"))
        if key in image.info
    }
    return tuple(sorted(names))


def _known(tag: int, names: dict[int, str]) -> str:
    return names.get(tag, f"tag {tag}")


def reason(error: Exception) -> str:
    """Return why decoding failed, without paths."""
    text = str(error)
    if isinstance(error, dicom.UnreadableDicom | arrays.UnreadableArray):
        return text
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is empty or not an image of a known format"
    if "truncated" in text.lower() or "not enough" in text.lower():
        return "it is truncated"
    if isinstance(error, PermissionError):
        return "it may not be read (permission denied)"
    return f"it cannot be decoded ({type(error).__name__})"
