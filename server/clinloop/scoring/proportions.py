"""Intervals of metrics that are proportions of independent cases, where a formula beats the bootstrap.

At 0 or 100 % every resample is the same and the bootstrap says nothing; the Wilson interval still does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist

import numpy as np

from clinloop.scoring import thresholded
from clinloop.scoring.bootstrap import LEVEL, Interval
from clinloop.scoring.evaluate import AnyCases
from clinloop.scoring.metrics import Scheme, resolve
from clinloop.scoring.weighted import Cases, Weighting


def wilson(successes: int, n: int, level: float = LEVEL) -> Interval | None:
    """Return the Wilson score interval of a proportion; None without cases. Source: Wilson 1927."""
    if not n:
        return None
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, widened = successes / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / widened
    half = z / widened * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the formula gives 0 and 1 up to rounding.
    return Interval(0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half)


def wilson_of(name: str, scheme: Scheme, cases: AnyCases, level: float = LEVEL) -> Interval | None:
    """Return the Wilson interval of a metric of the scheme; None unless it is a proportion and every group has one case.

    Raises:
        BadInput: the name is no metric of the scheme.
    """
    found = resolve(name, scheme)
    count = _PROPORTIONS.get(found.metric.name)
    if count is None or not isinstance(cases, Cases) or len(cases.truth) != cases.n_groups:
        return None
    successes, n = count(Weighting(cases, np.ones((cases.n_groups, 1))), found.place or 0)
    return wilson(int(successes[0]), int(n[0]), level)


def _accuracy(weighting: Weighting, _: int) -> thresholded.Share:
    return weighting.decisions[0].sum(axis=0), weighting.n


_PROPORTIONS: Mapping[str, Callable[[Weighting, int], thresholded.Share]] = {
    "accuracy": _accuracy,
    "sensitivity_<class>": thresholded.found_of_cases,
    "specificity_<class>": thresholded.rejected_of_others,
    "ppv_<class>": thresholded.found_of_flagged,
    "npv_<class>": thresholded.rejected_of_unflagged,
}
