"""SIIM-ACR's masks: pairs (offset from the end of the run before, length) that go down the columns of a 1024 × 1024 image.

Source: mask_functions.py of the competition's data; a decoder of absolute runs or of rows gives wrong masks without an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

Span = tuple[int, int]
"""(start, length), start counted from 0 down the columns, left to right."""
SIDE = 1024
"""Rows and columns of the public images, to which the run lengths refer."""
EMPTY = "-1"


class Row(NamedTuple):
    """One row of the table."""

    number: int
    """Counted from 1 below the header."""
    spans: list[Span]
    """[] = looked at, and there is nothing."""


class Fitted(NamedTuple):
    """Runs in the frames of their images."""

    spans: dict[str, tuple[Span, ...]]
    outside: dict[str, int]
    """Name to row number of what does not fit its image."""
    n_reduced: int
    """Masks of SIDE × SIDE that were brought to the size of a smaller copy of their image."""


def decode_runs(cell: str) -> list[Span] | None:
    """Return the runs of a cell with absolute starts, [] for -1, None if the cell is not made of such pairs."""
    words = cell.split()
    if words == [EMPTY]:
        return []
    if not words or len(words) % 2 or not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        return None
    spans: list[Span] = []
    position = 0
    for offset, length in zip(map(int, words[::2]), map(int, words[1::2]), strict=True):
        position += offset
        spans.append((position, length))
        position += length
    return [(start, length) for start, length in spans if length]


def fit(rows: Mapping[str, Sequence[Row]], sizes: Mapping[str, tuple[int, int] | None]) -> Fitted:
    """Bring the union of each image's rows into the image's own frame.

    `sizes`: (width, height) of each image, None where unknown. Runs are taken to refer to their own image; only where some of them
    end beyond it, and all fit SIDE × SIDE, the images are smaller copies and all masks are reduced (nearest pixel, never to nothing).
    """
    ends = {
        name: max((start + length for row in found for start, length in row.spans), default=0)
        for name, found in rows.items()
    }
    areas = {name: width * height for name, size in sizes.items() if size is not None for width, height in [size]}
    beyond = [name for name, end in ends.items() if end > areas.get(name, SIDE * SIDE)]
    reduces = bool(beyond) and all(areas.get(name, 0) < SIDE * SIDE and ends[name] <= SIDE * SIDE for name in beyond)
    spans: dict[str, tuple[Span, ...]] = {}
    outside: dict[str, int] = {}
    n_reduced = 0
    for name, found in rows.items():
        union = tuple(span for row in found for span in row.spans)
        size = sizes.get(name)
        if reduces and union and size is not None and size != (SIDE, SIDE):
            union = reduced(union, size)
            n_reduced += 1
        elif ends[name] > areas.get(name, SIDE * SIDE):
            outside[name] = max(
                found, key=lambda row: max((start + length for start, length in row.spans), default=0)
            ).number
        spans[name] = union
    return Fitted(spans, outside, n_reduced)


def reduced(spans: Sequence[Span], size: tuple[int, int]) -> tuple[Span, ...]:
    """Return runs of a SIDE × SIDE image as runs of a (width, height) copy of it: the nearest pixel counts."""
    flat = np.zeros(SIDE * SIDE, np.bool_)
    for start, length in spans:
        flat[start : start + length] = True
    mask = flat.reshape(SIDE, SIDE).T  # (row, column)
    width, height = size
    rows, columns = (((np.arange(n) + 0.5) * SIDE / n).astype(np.int64) for n in (height, width))
    small = mask[np.ix_(rows, columns)]
    if not small.any():  # it fell between the pixels that were looked at
        small = np.zeros((height, width), np.bool_)
        ys, xs = np.nonzero(mask)
        small[ys * height // SIDE, xs * width // SIDE] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[0], small.T.ravel().astype(np.int8), [0]])))
    return tuple((int(start), int(end - start)) for start, end in zip(edges[::2], edges[1::2], strict=True))
