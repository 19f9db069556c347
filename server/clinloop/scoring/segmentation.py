"""Segmentation metrics under many weightings of the groups at once: a case is measured once, a weighting is a matrix product.

Empty masks: dice, iou, hd95 and nsd are means over the images that have the target, for on an image without it they would only say whether
anything was predicted, which image_specificity says. On an image that has the target and where nothing is predicted, dice, iou and nsd are 0
and hd95 is the diagonal of the image, which no distance exceeds. dice_all is over all images: 1 where both masks are empty, 0 where one is.
Distances cost far more than overlaps and are measured at the first metric that needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clinloop.scoring.predictions import Mask
from clinloop.scoring.rle import drawn
from clinloop.scoring.surfaces import compare
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
    true_runs: Sequence[Sequence[int]]
    """N run lengths of the truth."""
    masks: Sequence[Mask]
    """N predictions."""

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
        """(G, 8) per group: images with the target, their summed Dice, IoU and findings; images without it, those left empty; images, their summed Dice."""
        has = self.has_target
        both = np.maximum(self.predicted + self.true, 1.0)
        dice, iou = 2 * self.shared / both, self.shared / np.maximum(both - self.shared, 1.0)
        is_left = ~has & ~self.is_found
        columns = [has, dice, iou, has & self.is_found, ~has, is_left, np.ones(len(has)), dice + is_left]
        return per_group(np.stack(columns, axis=1).astype(np.float64), self.groups, self.n_groups)

    @cached_property
    def distances(self) -> Floats:
        """(N, 2) hd95 and nsd of the images that have the target; 0 for the others."""
        table = np.zeros((len(self.groups), 2))
        for at in map(int, np.flatnonzero(self.has_target)):
            height, width, runs = self.masks[at]
            if not self.is_found[at]:
                table[at, 0] = np.hypot(height, width)
                continue
            table[at] = compare(drawn(runs, height, width), drawn(self.true_runs[at], height, width))
        return table

    @cached_property
    def distance_sums(self) -> Floats:
        """(G, 3) per group: images with the target, their summed hd95 and nsd."""
        columns = np.concatenate([self.has_target[:, None].astype(np.float64), self.distances], axis=1)
        return per_group(columns, self.groups, self.n_groups)


def measure(truth: Sequence[Sequence[int]], predicted: Sequence[Mask], groups: Ints, n_groups: int) -> MaskCases:
    """Measure the overlap of predictions with the run lengths of the truth, both of the same size."""
    found = [areas(one, other.counts) for one, other in zip(truth, predicted, strict=True)]
    table = np.array(found, dtype=np.float64).reshape(len(found), 3)
    return MaskCases(
        shared=table[:, 0],
        true=table[:, 1],
        predicted=table[:, 2],
        groups=groups,
        n_groups=n_groups,
        true_runs=truth,
        masks=predicted,
    )


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
    "dice_all": (7, 6),
}
_DISTANCES: Mapping[str, int] = {"hd95": 1, "nsd": 2}
"""Metric name to column of `distance_sums`; column 0 divides."""


def evaluator(cases: MaskCases, counts: Floats) -> Callable[[str, int], Floats]:
    """Return what computes a metric (B,) under weightings `counts` (G, B); NaN where undefined."""
    weighted = cases.sums.T @ counts  # (8, B)

    def value(name: str, _: int) -> Floats:
        if name in _DISTANCES:
            return ratio(*(cases.distance_sums[:, [_DISTANCES[name], 0]].T @ counts))
        above, below = _RATIOS[name]
        return ratio(weighted[above], weighted[below])

    return value
