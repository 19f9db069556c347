"""The size of an image from its header, for annotations that are relative to it."""

from __future__ import annotations

from pathlib import Path

from PIL import ExifTags, Image

_EXIF_ENTRIES = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}


def shown_size(path: Path) -> tuple[int, int] | None:
    """Return (width, height) in pixels as a viewer shows the image (EXIF orientation applied), None if the header cannot be read."""
    try:
        if path.suffix.lower() == ".dcm":
            import pydicom

            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
            return int(header.Columns), int(header.Rows)
        with Image.open(path) as image:
            # Of a PNG file without such an entry Pillow would decode the pixels to look for EXIF behind them.
            may_turn = image.format != "PNG" or bool(_EXIF_ENTRIES & image.info.keys())
            turned = may_turn and image.getexif().get(ExifTags.Base.Orientation, 1) in range(5, 9)
            width, height = image.size
            return (height, width) if turned else (width, height)
    except Exception:  # decoders raise anything on malformed input; the reason is told where images are decoded
        return None
