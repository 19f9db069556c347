"""How far probabilities are from what happens, and what acting on them is worth: reliability, calibration error, net benefit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]

BINS = 15
"""Source: Guo et al. 2017."""


class Reliability(NamedTuple):
    """Cases by probability in bins of equal width; a probability on an edge counts to the upper bin, 1 to the last."""

    low: Floats
    high: Floats
    n: Ints
    mean: Floats
    """Mean probability; NaN in an empty bin."""
    share: Floats
    """Observed share of the class; NaN in an empty bin."""


def reliability(probability: Floats, is_class: Bools, bins: int = BINS) -> Reliability:
    """Return the reliability curve of N probabilities and whether each case is of the class."""
    edges, place = np.linspace(0.0, 1.0, bins + 1), binned(probability, bins)
    n = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, weights=probability, minlength=bins) / n
        share = np.bincount(place, weights=is_class, minlength=bins) / n
    return Reliability(edges[:-1], edges[1:], n, mean, share)


def calibration_error(probability: Floats, is_class: Bools, bins: int = BINS) -> float:
    """Return the expected calibration error: the mean over cases of how far their bin's mean probability is from its share; NaN without cases."""
    found = reliability(probability, is_class, bins)
    filled = found.n > 0
    if not filled.any():
        return float("nan")
    return float(np.average(np.abs(found.mean - found.share)[filled], weights=found.n[filled]))


def net_benefit(probability: Floats, is_class: Bools, thresholds: Floats) -> Floats:
    """Return the net benefit (T,) of acting on each case whose probability is at least a threshold from 0 to below 1; NaN without cases.

    True positives minus false positives times the odds of the threshold, per case. Acting on nobody is 0, acting on everybody is the value
    for probabilities of 1.

    Source: Vickers & Elkin 2006.
    """
    if not len(probability):
        return np.full(len(thresholds), np.nan)
    of_class, of_others = np.sort(probability[is_class]), np.sort(probability[~is_class])
    hits = len(of_class) - np.searchsorted(of_class, thresholds, side="left")
    false_alarms = len(of_others) - np.searchsorted(of_others, thresholds, side="left")
    return (hits - false_alarms * thresholds / (1.0 - thresholds)) / len(probability)


def binned(probability: Floats, bins: int = BINS) -> Ints:
    """Return the bin (N,) of each probability."""
    return np.searchsorted(np.linspace(0.0, 1.0, bins + 1)[1:-1], probability, side="right").astype(np.intp)
