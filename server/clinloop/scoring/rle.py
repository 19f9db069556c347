"""Masks as run lengths: column by column, starting with the count of zeros, as uncompressed COCO RLE has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_MOST_PIXELS = 100_000_000


class Areas(NamedTuple):
    """Pixels of two masks of one image."""

    shared: int
    one: int
    other: int


def counts_of(mask: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    """Return the run lengths of a mask (H, W)."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], edges, [len(flat)]]))
    return tuple(int(run) for run in ([0, *runs] if len(flat) and flat[0] else runs))


def mask_of(counts: Sequence[int], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Return the mask (H, W) that run lengths describe; they must sum to H x W."""
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, np.asarray(counts, dtype=np.intp)).reshape((height, width), order="F")


def read_mask(path: Path) -> tuple[int, int, tuple[int, ...]]:
    """Return width, height and run lengths of a mask image that this server has stored: every value but 0 is the target."""
    from PIL import Image

    with Image.open(path) as image:
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError(f"a mask of {image.width} x {image.height} pixels")
        mask = np.asarray(image.convert("L")) > 0
        return image.width, image.height, counts_of(mask)


def areas(one: Sequence[int], other: Sequence[int]) -> Areas:
    """Return the areas of two masks of the same size and of what they share, without drawing them."""
    ends_one, ends_other = np.cumsum(one, dtype=np.int64), np.cumsum(other, dtype=np.int64)
    ends = np.union1d(ends_one, ends_other)
    starts = np.concatenate([[0], ends[:-1]])
    # A stretch lies in the mask when an odd number of runs ended at or before its start.
    in_one = np.searchsorted(ends_one, starts, side="right") % 2 == 1
    in_other = np.searchsorted(ends_other, starts, side="right") % 2 == 1
    lengths = ends - starts
    return Areas(int(lengths[in_one & in_other].sum()), int(lengths[in_one].sum()), int(lengths[in_other].sum()))
