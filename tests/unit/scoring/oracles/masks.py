"""Seeded pairs of masks on which the values of other implementations are stored."""

from __future__ import annotations

import numpy as np

PAIRS = (
    "blobs",
    "blobs",
    "blobs",
    "blobs",
    "noise",
    "noise",
    "apart",
    "apart",
    "one pixel",
    "at the border",
    "the same",
    "everything",
    "blobs",
    "noise",
)
"""Kind of each pair; its position is its seed."""


def make_pair(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two masks of one size, each with a pixel."""
    random = np.random.default_rng(number)
    height, width = (int(side) for side in random.integers(40, 140, 2))
    match PAIRS[number]:
        case "noise":
            one, other = (random.random((height, width)) < random.uniform(0.01, 0.6) for _ in range(2))
        case "apart":
            one, other = np.zeros((height, width), bool), np.zeros((height, width), bool)
            one[2:9, 3:12] = True
            other[-8:-1, -15:-4] = True
        case "one pixel":
            one, other = ellipses(random, height, width), np.zeros((height, width), bool)
            other[height // 3, width // 5] = True
        case "at the border":
            one, other = np.zeros((height, width), bool), np.zeros((height, width), bool)
            one[: height // 2], other[:, : width // 2] = True, True
        case "the same":
            one = other = ellipses(random, height, width)
        case "everything":
            one, other = np.ones((height, width), bool), ellipses(random, height, width)
        case _:
            one = ellipses(random, height, width)
            other = np.roll(one, tuple(random.integers(-6, 7, 2)), axis=(0, 1)) | ellipses(random, height, width, n=1)
    return one, other


def ellipses(random: np.random.Generator, height: int, width: int, n: int = 3) -> np.ndarray:
    """Return a mask of some ellipses, which may overlap and leave the picture."""
    rows, columns = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for _ in range(n):
        row, column = random.uniform(0, height), random.uniform(0, width)
        tall, wide = random.uniform(4, height / 4), random.uniform(4, width / 4)
        mask |= ((rows - row) / tall) ** 2 + ((columns - column) / wide) ** 2 <= 1
    return mask
