"""One source image to one stored image with its boxes and mask: decoded once, hashed, encoded, reduced into the caches.

Runs in worker processes (see `workers`).
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import imagehash
import numpy as np
from PIL import Image, ImageFile

from clinloop.datasets import decoding
from clinloop.datasets.case import Box, MaskFile, MaskRuns
from clinloop.datasets.decoding import MAX_PIXELS
from clinloop.datasets.fitting import OVERHANG, OVERHANG_PX, Frame, Misfit, encode_mask, fit_boxes, fit_mask
from clinloop.datasets.probes import measure

THUMBNAIL_PX = 32
CACHE_OFFSET = 128
"""Bytes of the .npy header in front of a cache; numpy writes exactly this much for shapes of up to 20 digits."""
JPEG_QUALITY = 95
RULES = {
    "stored": f"8-bit RGB; JPEG quality {JPEG_QUALITY} (4:4:4) where the source was JPEG, else PNG; no EXIF, ICC profile or comment",
    **decoding.RULES,
    "boxes": "in pixels of the upright image, scaled with it, rounded to hundredths of a pixel",
    "boxes_cut": f"cut at the edge of the image where they reach beyond it by no more than {100 * OVERHANG:g} % of its side or {OVERHANG_PX:g} px",
    "masks": "1-bit PNG of the stored image's size; a pixel is target if at least half of what it covers is, or any of a target too small for that",
    "cache": "Pillow: stored.resize((px, px), BICUBIC, box=centre square), the square side being the shorter side of the image",
}
"""What is done to every image and its boxes and mask, by name."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """What is the same for all images of an ingest."""

    max_px: int
    """Longest side of a stored image; longer ones are reduced."""
    cache_px: tuple[int, ...]
    caches: tuple[str, ...]
    """File of each cache; row i starts at CACHE_OFFSET + i·px·px·3."""


@dataclass(frozen=True, slots=True)
class PixelJob:
    """One image to store."""

    source: str
    target: str | None
    """Path without suffix; None = nothing is written."""
    row: int | None
    """Row in the caches, None = the image goes into no cache."""
    wants_file: bool = False
    """Hand the files back in `ImageFacts.file` and `.mask`."""
    boxes: tuple[Box, ...] | None = None
    """In pixels of the upright source."""
    mask: MaskFile | MaskRuns | None = None
    """`MaskFile.source` is a path as it is."""
    mask_target: str | None = None
    """File of the stored mask; None = it is not written."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is known of a stored image."""

    suffix: str
    pixel_sha256: str
    """Of the decoded RGB pixels and their size, so that two files with the same picture agree."""
    file_sha256: str
    """Of the stored file."""
    phash: int
    thumbnail: bytes
    """(THUMBNAIL_PX, THUMBNAIL_PX) uint8 gray."""
    width: int
    height: int
    """Of the source, after orientation."""
    file_bytes: int
    mode: str
    """Pillow mode of the source."""
    tags: tuple[str, ...]
    """Names of the metadata that the source carried; never values."""
    handling: tuple[str, ...]
    """Which rules beyond re-encoding applied."""
    stored: tuple[int, int]
    """(width, height) of the stored image."""
    boxes: tuple[Box, ...] | None = None
    """In pixels of the stored image."""
    mask_sha256: str = ""
    """Of the stored mask; "" = there is none."""
    mask_share: float = 0.0
    """Share of the image that the mask covers."""
    probes: tuple[float, ...] = ()
    """Measurements of the picture, as `acquisition.PROBES` names them."""
    file: bytes = b""
    """Content of the stored file, for a job that wants it."""
    mask: bytes = b""
    """Content of the stored mask, for a job that wants it."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why an image could not be stored."""

    reason: str


@dataclass(frozen=True, slots=True)
class BadTruth:
    """Why the boxes or the mask of a readable image cannot be used; the text names no file."""

    reason: str


class PixelStore:
    """Stores images one by one; one instance in each worker."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._caches = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in settings.caches]
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)

    def store(self, job: PixelJob) -> ImageFacts | Unreadable | BadTruth:
        """Store one image with its boxes and its mask.

        Raises:
            OSError: the target cannot be written (disk full); an unreadable source is a result, not an exception.
        """
        try:
            image, facts = decoding.decode(job.source, self._settings.max_px)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            return Unreadable(f"it declares more than {MAX_PIXELS // 1_000_000} megapixels")
        except MemoryError:
            return Unreadable("it needs more memory than there is")
        except (
            Exception
        ) as error:  # decoders raise anything on malformed input: OSError, SyntaxError, ValueError, struct.error, …
            return Unreadable(decoding.reason(error))
        try:
            frame = Frame(facts.size, facts.orientation, image.size)
            truth = _fit_truth(job, frame)
        except Misfit as misfit:
            return BadTruth(str(misfit))
        suffix = ".jpg" if facts.is_jpeg else ".png"
        encoded = _encode(image, suffix)
        if job.target is not None:
            Path(job.target + suffix).write_bytes(encoded)
        if job.row is not None:
            self._write_caches(encoded, job.row)
        if job.mask_target is not None and truth.mask:
            Path(job.mask_target).write_bytes(truth.mask)
        gray = image.convert("L")
        return ImageFacts(
            suffix=suffix,
            pixel_sha256=hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest(),
            file_sha256=hashlib.sha256(encoded).hexdigest(),
            phash=perceptual_hash(gray),
            thumbnail=gray.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BILINEAR).tobytes(),
            width=frame.shown[0],
            height=frame.shown[1],
            file_bytes=facts.file_bytes,
            mode=facts.mode,
            tags=facts.tags,
            handling=(*facts.handling, *(("boxes_cut",) if truth.cut else ())),
            stored=image.size,
            boxes=truth.boxes,
            mask_sha256=hashlib.sha256(truth.mask).hexdigest() if truth.mask else "",
            mask_share=truth.share,
            probes=measure(image),
            file=encoded if job.wants_file else b"",
            mask=truth.mask if job.wants_file else b"",
        )

    def _write_caches(self, encoded: bytes, row: int) -> None:
        """Write the row of every cache, made from what is stored: predict.py meets the same pixels in the file."""
        with Image.open(io.BytesIO(encoded)) as image:
            for px, fd in zip(self._settings.cache_px, self._caches, strict=True):
                data = centre_square(image, px).tobytes()
                if os.pwrite(fd, data, CACHE_OFFSET + row * len(data)) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def centre_square(image: Image.Image, px: int) -> Image.Image:
    """Return the centre square of an image at px × px: the rule of the caches."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize((px, px), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def _encode(image: Image.Image, suffix: str) -> bytes:
    buffer = io.BytesIO()
    if suffix == ".jpg":
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


class _Truth(NamedTuple):
    boxes: tuple[Box, ...] | None
    cut: int
    """Boxes that were cut."""
    mask: bytes
    """Encoded; b"" = there is none."""
    share: float


def _fit_truth(job: PixelJob, frame: Frame) -> _Truth:
    """Fit boxes and mask to the stored image.

    Raises:
        Misfit: they do not belong to it.
    """
    boxes, cut = (None, 0) if job.boxes is None else fit_boxes(job.boxes, frame)
    if job.mask is None:
        return _Truth(boxes, cut, b"", 0.0)
    mask = fit_mask(job.mask, frame)
    return _Truth(boxes, cut, encode_mask(mask), float(mask.mean()))


def perceptual_hash(gray: Image.Image) -> int:
    """Return the 64-bit pHash of a gray image as a number."""
    bits = np.packbits(imagehash.phash(gray).hash.flatten())
    return int.from_bytes(bits.tobytes(), "big")
