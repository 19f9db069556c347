"""A value and its resamples as a result says them: None where undefined, an interval where enough resamples are defined."""

from __future__ import annotations

import numpy as np

from clinloop.scoring.bootstrap import Floats, Interval, interval
from clinloop.scoring.results import Estimate


def estimate(value: float, drawn: Floats | None, exact: Interval | None = None) -> Estimate:
    """Return a value with the interval of its resamples (B,), or an exact one instead; None or none drawn: no interval."""
    found = or_none(value)
    if found is None or drawn is None or not len(drawn):
        return Estimate(found)
    limits = exact or interval(drawn)
    undefined = int(np.isnan(drawn).sum())
    return Estimate(found, None, None, undefined) if limits is None else Estimate(found, *limits, undefined)


def or_none(value: float) -> float | None:
    """Return a number that JSON can hold: None for NaN."""
    return None if np.isnan(value) else float(value)
