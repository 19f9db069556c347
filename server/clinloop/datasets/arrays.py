"""Single images out of .npz archives: `file.npz#train_images/12` is image 12 of the array train_images. Nothing is ever unpickled."""

from __future__ import annotations

import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

MARK: Final = ".npz#"
MAX_BYTES: Final = 3 << 29
"""Bytes of an array that is read; each image worker holds up to three in memory."""


class UnreadableArray(Exception):
    """An image that is not in its archive; the text is a clause that goes on from the image's name."""


class Place(NamedTuple):
    """Where an image lies in an archive."""

    archive: Path
    array: str
    number: int


def is_inside(source: str) -> bool:
    """Tell whether a source is an image in an archive of arrays."""
    return MARK in source


def file_of(source: str) -> str:
    """Return the file that a source lies in: the source itself unless it is an image in an archive."""
    return source.split(MARK, 1)[0] + ".npz" if is_inside(source) else source


def place_of(source: str) -> Place:
    """Return where an image lies.

    Raises:
        UnreadableArray: the source does not say so.
    """
    inner = source.split(MARK, 1)[1]
    array, _, index = inner.rpartition("/")
    if not array or not index.isdecimal():
        raise UnreadableArray("it does not name an array and a number")
    return Place(Path(file_of(source)), array, int(index))


def read(source: str) -> Image.Image:
    """Return an image of an array (N, H, W), (N, H, W, 1) or (N, H, W, 3): 8-bit as it is, 16-bit gray as mode I;16.

    Raises:
        UnreadableArray: there is no such array or image, or it is none of these.
        Exception: whatever zipfile and numpy raise on malformed data.
    """
    place = place_of(source)
    stat = place.archive.stat()
    values = _array(place.archive, place.array, stat.st_mtime_ns)
    if not 0 <= place.number < len(values):
        raise UnreadableArray(f"the array has {len(values)} images")
    picture = values[place.number]
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[..., 0]
    return Image.fromarray(np.ascontiguousarray(picture))


def size_of(source: str) -> tuple[int, int] | None:
    """Return (width, height) of an image from the header of its array, None if it cannot be read."""
    try:
        place = place_of(source)
        with zipfile.ZipFile(place.archive) as members:
            height, width = _check_header(members, place.array)[1:3]
    except (UnreadableArray, OSError, ValueError, zipfile.BadZipFile, NotImplementedError, EOFError):
        return None
    return width, height


@lru_cache(maxsize=3)
def _array(archive: Path, name: str, _changed: int) -> npt.NDArray[np.generic]:
    with zipfile.ZipFile(archive) as members:
        _check_header(members, name)
        with members.open(f"{name}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)


def _check_header(members: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    """Return the shape of a stack of images that can be read."""
    if f"{name}.npy" not in members.namelist():
        raise UnreadableArray("the archive has no such array")
    with members.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
    is_gray = len(shape) == 3 or (len(shape) == 4 and shape[3] == 1)
    is_colour = len(shape) == 4 and shape[3] == 3
    if not (dtype == np.uint8 and (is_gray or is_colour)) and not (dtype == np.uint16 and is_gray):
        raise UnreadableArray(f"an array of {dtype} and shape {shape} is no stack of 8-bit images or 16-bit gray ones")
    if (size := int(np.prod(shape, dtype=np.int64)) * dtype.itemsize) > MAX_BYTES:
        raise UnreadableArray(f"its array has {size / 1e9:.1f} GB; at most {MAX_BYTES / 1e9:.1f} GB are read")
    return shape
