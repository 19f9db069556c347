"""The group bootstrap: patients, lesions or studies are drawn with replacement, with all their cases.

Intervals are percentile intervals, or bias-corrected and accelerated ones where asked for; p-values come from the paired differences of the same resamples, (b + 1) / (B + 1), so they agree with
the interval and are never 0. A resample in which a metric is undefined is left out and counted.
Source: Efron & Tibshirani 1993, chapters 13, 14 and 16; Davison & Hinkley 1997, 4.2, for the + 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clinloop.scoring.evaluate import AnyCases, cells_of, evaluate
from clinloop.scoring.metrics import Scheme

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
MIN_DEFINED = 0.5
"""Share of resamples in which a metric must be defined for an interval or a p-value to be given."""
_CELLS = 100_000
"""Cases x resamples at once: about the size of a processor's cache, where the cumulative sums are fastest."""

_ROUNDING = 1e-13


class Interval(NamedTuple):
    """Limits of an interval."""

    low: float
    high: float


def draw_counts(n_groups: int, resamples: int, *, seed: int, chunk: int = 1024) -> Iterator[Floats]:
    """Yield counts (G, b) of groups drawn with replacement, `resamples` columns in all; the chunk size does not change them."""
    generator = np.random.default_rng(seed)
    for done in range(0, resamples, chunk):
        size = min(chunk, resamples - done)
        drawn = generator.integers(0, n_groups, size=(size, n_groups))  # row by row: independent of the chunk
        cells = drawn * size + np.arange(size)[:, None]
        yield np.bincount(cells.ravel(), minlength=n_groups * size).reshape(n_groups, size).astype(np.float64)


def bootstrap(names: Sequence[str], scheme: Scheme, models: Sequence[AnyCases], *, resamples: int, seed: int) -> Floats:
    """Return metrics (models, M, B) of several models on the same resamples of the same groups; NaN where undefined."""
    first = models[0]
    if any(model.n_groups != first.n_groups for model in models):
        raise ValueError("models of a paired bootstrap share their groups")
    result = np.empty((len(models), len(names), resamples))
    chunk, done = max(16, min(2048, _CELLS // max(1, cells_of(first)))), 0
    for counts in draw_counts(first.n_groups, resamples, seed=seed, chunk=chunk):
        for model, target in zip(models, result, strict=True):
            target[:, done : done + counts.shape[1]] = evaluate(names, scheme, model, counts)
        done += counts.shape[1]
    return result


def interval(values: Floats, level: float = LEVEL) -> Interval | None:
    """Return the percentile interval of (B,) resampled values; None when too few are defined."""
    if (defined := _defined(values)) is None:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def leave_one_out(names: Sequence[str], scheme: Scheme, models: Sequence[AnyCases]) -> Floats:
    """Return metrics (models, M, G) with each group left out in turn; it costs as much as G resamples."""
    n_groups = models[0].n_groups
    result = np.empty((len(models), len(names), n_groups))
    chunk = max(16, min(2048, _CELLS // max(1, cells_of(models[0]))))
    for start in range(0, n_groups, chunk):
        left_out = np.arange(start, min(n_groups, start + chunk))
        counts = np.ones((n_groups, len(left_out)))
        counts[left_out, np.arange(len(left_out))] = 0.0
        for model, target in zip(models, result, strict=True):
            target[:, left_out] = evaluate(names, scheme, model, counts)
    return result


def interval_bca(values: Floats, value: float, left_out: Floats, level: float = LEVEL) -> Interval | None:
    """Return the bias-corrected and accelerated interval of (B,) resampled values of a metric.

    `value` is the metric of the cases as they are, `left_out` (G,) that with each group left out. None when too few resamples are
    defined, or none of them lies on one side of the value, so that the bias cannot be told.

    Source: Efron 1987; Efron & Tibshirani 1993, 14.3.
    """
    known = left_out[~np.isnan(left_out)]
    if (defined := _defined(values)) is None or not len(known):
        return None
    below = ((defined < value).mean() + (defined <= value).mean()) / 2  # equal ones counted half
    if not 0 < below < 1:
        return None
    normal, influence = NormalDist(), known.mean() - known
    varies = np.abs(influence).max() > _ROUNDING  # rounding errors would pass for skewness
    acceleration = float((influence**3).sum() / (6 * np.square(influence).sum() ** 1.5)) if varies else 0.0
    bias = normal.inv_cdf(float(below))
    shares: list[float] = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        shifted = bias + normal.inv_cdf(share)
        if (shrink := 1 - acceleration * shifted) <= 0:
            return None
        shares.append(normal.cdf(bias + shifted / shrink))
    low, high = np.quantile(defined, shares)
    return Interval(float(low), float(high))


def p_two_sided(differences: Floats) -> float | None:
    """Return the p-value of "no difference" from (B,) resampled paired differences; None when too few are defined."""
    if (defined := _defined(differences)) is None:
        return None
    beyond = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(defined) + 1))


def p_of_gain(gains: Floats) -> float | None:
    """Return the one-sided p-value of "no gain" from (B,) resampled paired gains; None when too few are defined."""
    if (defined := _defined(gains)) is None:
        return None
    return (int((defined <= 0).sum()) + 1) / (len(defined) + 1)


def _defined(values: Floats) -> Floats | None:
    defined = values[~np.isnan(values)]
    return defined if len(defined) and len(defined) >= MIN_DEFINED * len(values) else None
