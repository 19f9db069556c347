"""Distances between the outlines of two masks: the 95th percentile Hausdorff distance and the normalised surface distance, in pixels.

The outline of a mask is its pixels that have one of four neighbours outside it or outside the image; the distance of a pixel is the
Euclidean one to the nearest outline pixel of the other mask. The values are those of MONAI 1.6 (`compute_hausdorff_distance` with
percentile 95, `compute_surface_dice`); packages that weigh outlines by their length give others.
Source: Huttenlocher et al. 1993 (Hausdorff distance); Nikolov et al. 2021 (surface Dice, which is the normalised surface distance).
"""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from clinloop.scoring.weighted import Floats, Ints

Bools = npt.NDArray[np.bool_]

TOLERANCE = 2.0
"""Pixels of the image file within which outlines agree; the data have no spacing."""
_SPARSE = 20
"""Pixels for each pixel of outline from which on a search tree is faster than a map of distances."""


class Distances(NamedTuple):
    """How far two outlines are apart, in pixels."""

    hd95: float
    nsd: float
    """Share of the pixels of both outlines that are at most TOLERANCE from the other."""


def compare(one: Bools, other: Bools) -> Distances:
    """Compare the outlines of two masks (height, width) that have a pixel each."""
    there, back = directed(one, other)
    # The rank of torch.quantile and numpy.quantile: linear between neighbours.
    hd95 = max(float(np.quantile(there, 0.95)), float(np.quantile(back, 0.95)))
    near = int((there <= TOLERANCE).sum()) + int((back <= TOLERANCE).sum())
    return Distances(hd95, near / (len(there) + len(back)))


def directed(one: Bools, other: Bools) -> tuple[Floats, Floats]:
    """Return the distances from each outline pixel of one mask to the other outline, and the other way, both with a pixel at least."""
    union = one | other
    rows, columns = np.flatnonzero(union.any(axis=1)), np.flatnonzero(union.any(axis=0))
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    first, second = outline(one[box]), outline(other[box])
    return _nearest(first, second), _nearest(second, first)


def outline(mask: Bools) -> Bools:
    """Return the pixels of a mask that have one of four neighbours outside it or the picture."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _nearest(start: Bools, target: Bools) -> Floats:
    """Return the distance of each pixel of `start` to the nearest of `target`."""
    from scipy.ndimage import distance_transform_edt  # late: only these metrics need it
    from scipy.spatial import KDTree

    at = np.argwhere(start)
    if (len(at) + np.count_nonzero(target)) * _SPARSE < start.size:
        return KDTree(np.argwhere(target)).query(at)[0]
    # Where the nearest pixel lies, not how far it is: less memory, and the distance is needed on the outline alone.
    nearest = cast("Ints", distance_transform_edt(~target, return_distances=False, return_indices=True))
    return np.sqrt(np.square(nearest[:, at[:, 0], at[:, 1]].T - at).sum(axis=1).astype(np.float64))
