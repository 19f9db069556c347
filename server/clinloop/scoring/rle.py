"""Masks drawn from run lengths: column by column, starting with the count of zeros."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def drawn(counts: Sequence[int], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Return the mask (height, width) of run lengths, which sum to height x width."""
    is_in = np.arange(len(counts)) % 2 == 1
    return np.repeat(is_in, counts).reshape(width, height).T
