"""Boxes and masks made to fit the stored image: checked against the source, turned and scaled with it."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from clinloop.datasets.case import Box, MaskFile, MaskRuns

OVERHANG = 0.01
"""Share of the image's side, but at least OVERHANG_PX, by which a box may reach beyond the image: rounding of relative or 1-based
coordinates. It is cut; more than that is a mistake of scale or of image."""
OVERHANG_PX = 2.0

MAX_BOXES = 1000
"""An image with more boxes than this is not one that a person annotated."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to what makes an image upright; as Pillow's ImageOps.exif_transpose."""

Mask = npt.NDArray[np.bool_]
"""(height, width)."""


class Misfit(Exception):
    """Boxes or a mask do not belong to their image; the text names no file."""


class Frame(NamedTuple):
    """An image on its way: sizes are (width, height) in pixels."""

    file: tuple[int, int]
    """As the file stores it."""
    orientation: int
    """EXIF orientation, 1 = upright."""
    stored: tuple[int, int]
    """Upright and reduced: what is stored."""

    @property
    def shown(self) -> tuple[int, int]:
        """Upright, at full size: the frame of boxes and masks."""
        width, height = self.file
        return (height, width) if self.orientation in range(5, 9) else (width, height)


def fit_boxes(boxes: Sequence[Box], frame: Frame) -> tuple[tuple[Box, ...], int]:
    """Return boxes in pixels of the stored image, rounded to hundredths, and how many were cut at its edge.

    Raises:
        Misfit: a box has no size, or lies outside the image by more than OVERHANG, or there are more than MAX_BOXES.
    """
    if len(boxes) > MAX_BOXES:
        raise Misfit(f"it has {len(boxes)} boxes; at most {MAX_BOXES} can be stored")
    (width, height), (to_width, to_height) = frame.shown, frame.stored
    slack_x, slack_y = max(OVERHANG_PX, OVERHANG * width), max(OVERHANG_PX, OVERHANG * height)
    fitted: list[Box] = []
    cut = 0
    for number, box in enumerate(boxes, start=1):
        name = f"box {number} of {len(boxes)}"
        if not all(map(math.isfinite, box[1:])):
            raise Misfit(f"{name} has a coordinate that is not a number")
        if box.width <= 0 or box.height <= 0:
            raise Misfit(f"{name} has no size ({box.width:g} × {box.height:g} px)")
        left, top, right, bottom = box.x, box.y, box.x + box.width, box.y + box.height
        if min(left + slack_x, width + slack_x - right, top + slack_y, height + slack_y - bottom) < 0:
            raise Misfit(
                f"{name} is outside the image: x {left:g} to {right:g}, y {top:g} to {bottom:g} px in {width} × {height} px"
            )
        inner = max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom)
        cut += inner != (left, top, right, bottom)
        x, y, end_x, end_y = (
            round(edge * to / of, 2)
            for edge, to, of in zip(inner, (to_width, to_height) * 2, (width, height) * 2, strict=True)
        )
        if end_x <= x or end_y <= y:
            raise Misfit(f"{name} has no size inside the image")
        fitted.append(Box(box.target, x, y, round(end_x - x, 2), round(end_y - y, 2)))
    return tuple(fitted), cut


def fit_mask(mask: MaskFile | MaskRuns, frame: Frame) -> Mask:
    """Return a mask at the size of the stored image.

    When the image was reduced, a pixel belongs to the target if at least half of what it covers does; of a target too small for that,
    every pixel that it touches.

    Raises:
        Misfit: the mask cannot be read, has another size than the image, or a run leaves the image.
    """
    full = _from_runs(mask, frame.shown) if isinstance(mask, MaskRuns) else _from_file(mask, frame)
    if frame.stored == frame.shown:
        return full
    covered = np.asarray(Image.fromarray(full.astype(np.uint8) * 255).resize(frame.stored, Image.Resampling.BOX))
    half = covered >= 128
    return half if half.any() or not full.any() else covered > 0


def encode_mask(mask: Mask) -> bytes:
    """Return a mask as a 1-bit PNG."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _from_runs(mask: MaskRuns, size: tuple[int, int]) -> Mask:
    width, height = size
    flat = np.zeros(width * height, dtype=np.bool_)
    for start, length in mask.spans:
        if start < 0 or length < 1 or start + length > flat.size:
            raise Misfit(
                f"a run of the mask (start {start}, length {length}) leaves the image of {width} × {height} px"
            )
        flat[start : start + length] = True
    return flat.reshape(width, height).T


def _from_file(mask: MaskFile, frame: Frame) -> Mask:
    try:
        with Image.open(mask.source) as image:
            if image.size not in {frame.shown, frame.file}:
                raise Misfit(
                    f"the mask has {image.width} × {image.height} px, its image {frame.shown[0]} × {frame.shown[1]} px"
                )
            # A mask is drawn on what a person sees; one that has the size of the pixels in the file was made from those.
            turn = None if image.size == frame.shown else _TURNS[frame.orientation]
            turned = image if turn is None else image.transpose(turn)
            return _values(turned, image.format == "JPEG", mask.values)
    except Misfit:
        raise
    except FileNotFoundError:
        raise Misfit("the mask file is missing") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise Misfit("the mask declares too many pixels") from None
    except Exception as error:  # decoders raise anything on malformed input
        raise Misfit(f"the mask cannot be read ({type(error).__name__})") from error


def _values(image: Image.Image, is_jpeg: bool, wanted: tuple[int, ...]) -> Mask:
    """Return where a mask image has a wanted value; without any, where it is not 0 (for JPEG, whose edges ring: above half)."""
    if image.mode in {"LA", "PA"}:
        image = image.getchannel(0)
    elif image.mode == "RGBA":
        image = image.convert("RGB")
    pixels = np.asarray(image)
    if pixels.ndim == 3:
        if wanted and (pixels.min(axis=2) != pixels.max(axis=2)).any():
            raise Misfit("the mask has colours where single values are needed")
        pixels = pixels.max(axis=2)
    if wanted:
        return np.isin(pixels, wanted)
    return pixels > 127 if is_jpeg else pixels != 0
