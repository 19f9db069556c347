"""One test for many questions at once: are sums of scores over independent groups larger than chance signs would make them?

A score is a product of two residuals, so its expectation is 0 under the null whatever the sizes of the groups. Source: sign-flipped score
contributions, Hemerik, Goeman and Finos (2020, doi 10.1111/rssb.12369); the largest statistic of each draw corrects for the number of questions
(Westfall and Young 1993).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
DRAWS = 4_000
_CHUNK = 500
_MARGIN = 1e-9
"""Relative: sums that differ by rounding alone count as equal."""


def sums_by_group(scores: Floats, groups: Ints) -> Floats:
    """Return scores (N, K) summed within each group, (G, K)."""
    names, of_case = np.unique(groups, return_inverse=True)
    summed = np.zeros((len(names), scores.shape[1]))
    np.add.at(summed, of_case, scores)
    return summed


def flip_test(summed: Floats, *, seed: int, one_sided: bool = False, draws: int = DRAWS) -> Floats:
    """Return p-values (K,) of the columns of (G, K), each corrected for all of them; NaN for a column without any score."""
    scale = np.sqrt((summed**2).sum(axis=0))  # the same for every draw
    usable = scale > 0
    if not usable.any():
        return np.full(summed.shape[1], np.nan)
    unit = (summed[:, usable] / scale[usable]).astype(np.float32)
    observed = unit.sum(axis=0) if one_sided else np.abs(unit.sum(axis=0))
    rng, larger = np.random.default_rng(seed), np.zeros(unit.shape[1], dtype=np.intp)
    for start in range(0, draws, _CHUNK):
        signs = rng.integers(0, 2, (min(_CHUNK, draws - start), len(unit)), dtype=np.int8).astype(np.float32) * 2 - 1
        drawn = signs @ unit  # (chunk, K)
        largest = (drawn if one_sided else np.abs(drawn)).max(axis=1)
        larger += (largest[:, None] >= observed[None, :] * (1 - _MARGIN)).sum(axis=0)
    found = np.full(summed.shape[1], np.nan)
    found[usable] = (larger + 1) / (draws + 1)
    return found


def residuals(values: Floats, strata: Ints) -> Floats:
    """Return values (N, K) minus their mean in the case's stratum; NaN, a value that is missing, becomes 0 and counts for nothing."""
    centred = np.zeros_like(values)
    for stratum in np.unique(strata):
        own = strata == stratum
        known = ~np.isnan(values[own])
        mean = np.where(known, values[own], 0.0).sum(axis=0) / np.maximum(1, known.sum(axis=0))
        centred[own] = np.where(known, values[own] - mean, 0.0)
    return centred
