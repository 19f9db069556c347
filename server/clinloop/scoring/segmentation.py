"""Segmentation metrics under many weightings of the groups at once: overlaps are measured once per case, a weighting is a matrix product.

Dice and IoU are means over the images that have the target: on an image without it they would only say whether anything was predicted,
which image_specificity says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clinloop.scoring.predictions import Mask
from clinloop.scoring.weighted import Floats, Ints, per_group, ratio


class Areas(NamedTuple):
    """Pixels of two masks of one image."""

    shared: int
    one: int
    other: int


@dataclass(frozen=True, kw_only=True)
class MaskCases:
    """Overlaps of N predicted masks with their truth, in G groups."""

    shared: Floats
    """(N,) pixels in both masks."""
    predicted: Floats
    """(N,) pixels of the prediction."""
    true: Floats
    """(N,) pixels of the truth; 0 = the image does not have the target."""
    groups: Ints
    """(N,) from 0 to n_groups - 1."""
    n_groups: int

    @property
    def has_target(self) -> npt.NDArray[np.bool_]:
        """(N,) whether the truth has a pixel."""
        return self.true > 0

    @property
    def is_found(self) -> npt.NDArray[np.bool_]:
        """(N,) whether the prediction has a pixel."""
        return self.predicted > 0

    @cached_property
    def sums(self) -> Floats:
        """(G, 6) per group: images with the target, their summed Dice, IoU and findings; images without it, those left empty."""
        has = self.has_target
        both = np.maximum(self.predicted + self.true, 1.0)
        dice, iou = 2 * self.shared / both, self.shared / np.maximum(both - self.shared, 1.0)
        columns = [has, dice, iou, has & self.is_found, ~has, ~has & ~self.is_found]
        return per_group(np.stack(columns, axis=1).astype(np.float64), self.groups, self.n_groups)


def measure(truth: Sequence[Sequence[int]], predicted: Sequence[Mask], groups: Ints, n_groups: int) -> MaskCases:
    """Measure the overlap of predictions with the run lengths of the truth, both of the same size."""
    found = [areas(one, other.counts) for one, other in zip(truth, predicted, strict=True)]
    table = np.array(found, dtype=np.float64).reshape(len(found), 3)
    return MaskCases(shared=table[:, 0], true=table[:, 1], predicted=table[:, 2], groups=groups, n_groups=n_groups)


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


# Metric name to what is divided by what, as columns of `sums`.
_RATIOS: Mapping[str, tuple[int, int]] = {
    "dice": (1, 0),
    "iou": (2, 0),
    "image_sensitivity": (3, 0),
    "image_specificity": (5, 4),
}


def evaluator(cases: MaskCases, counts: Floats) -> Callable[[str, int], Floats]:
    """Return what computes a metric (B,) under weightings `counts` (G, B); NaN where undefined."""
    weighted = cases.sums.T @ counts  # (6, B)
    return lambda name, _: ratio(weighted[_RATIOS[name][0]], weighted[_RATIOS[name][1]])
