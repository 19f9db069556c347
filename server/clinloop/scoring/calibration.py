"""How far probabilities are from what happens, and what acting on them is worth: reliability, calibration error, net benefit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clinloop.scoring.weighted import Cases, Floats, Ints, Weighting, per_group, ratio

Bools = npt.NDArray[np.bool_]

BINS = 15
"""Source: Guo et al. 2017."""
ACT_FROM = 0.1
"""Threshold probability of the metric `net_benefit_<class>`, the same for every model so that models compare; a hit is worth 9 false alarms."""


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


def brier(weighting: Weighting) -> Floats:
    """(B,) half the squared distance between probabilities and truth, mean over cases. Source: Brier 1950, halved to [0, 1]."""
    squared = _squared(weighting.cases).sum(axis=1)
    return ratio(0.5 * (squared @ weighting.counts), weighting.n)


def brier_of_class(weighting: Weighting, index: int) -> Floats:
    """(B,) squared error of the probability of a class, mean over cases."""
    return ratio(_squared(weighting.cases)[:, index] @ weighting.counts, weighting.n)


def ece(weighting: Weighting) -> Floats:
    """(B,) expected calibration error; of two classes that of the positive (else the second), of more that of the largest probability.

    Source: Guo et al. 2017 for the largest probability (confidence).
    """
    cases = weighting.cases
    if cases.n_classes == 2:
        return ece_of_class(weighting, 1 if cases.positive is None else cases.positive)
    return _ece(weighting, cases.once("confidence", lambda: _deviations(cases, None)))


def ece_of_class(weighting: Weighting, index: int) -> Floats:
    """(B,) expected calibration error of the probability of a class."""
    cases = weighting.cases
    return _ece(weighting, cases.once(("calibration", index), lambda: _deviations(cases, index)))


def net_benefit_of_class(weighting: Weighting, index: int) -> Floats:
    """(B,) net benefit of acting on the cases whose probability of a class is at least ACT_FROM."""
    cases = weighting.cases

    def summed() -> Floats:
        is_class, acted = cases.truth == index, cases.probabilities[:, index] >= ACT_FROM
        worth = acted * np.where(is_class, 1.0, -ACT_FROM / (1.0 - ACT_FROM))
        return per_group(worth[:, None], cases.groups, cases.n_groups)[:, 0]

    return ratio(cases.once(("net benefit", index), summed) @ weighting.counts, weighting.n)


def _squared(cases: Cases) -> Floats:
    """(G, K) summed squared errors of the probability of each class."""

    def summed() -> Floats:
        errors = cases.probabilities - np.eye(cases.n_classes)[cases.truth]
        return per_group(np.square(errors), cases.groups, cases.n_groups)

    return cases.once("squared", summed)


def _deviations(cases: Cases, index: int | None) -> Floats:
    """(G, BINS) summed probability minus truth by bin; of a class, or with None of the most probable class being right."""
    if index is None:
        place = np.argmax(cases.probabilities, axis=1) if len(cases.truth) else cases.truth
        probability, happened = cases.probabilities[np.arange(len(place)), place], cases.truth == place
    else:
        probability, happened = cases.probabilities[:, index], cases.truth == index
    cells = cases.groups * BINS + binned(probability)
    columns = (probability - happened)[:, None]
    return per_group(columns, cells, cases.n_groups * BINS).reshape(cases.n_groups, BINS)


def _ece(weighting: Weighting, deviations: Floats) -> Floats:
    # |mean probability - share| x cases of a bin is the absolute sum of the deviations in it.
    return ratio(np.abs(deviations.T @ weighting.counts).sum(axis=0), weighting.n)


def binned(probability: Floats, bins: int = BINS) -> Ints:
    """Return the bin (N,) of each probability."""
    return np.searchsorted(np.linspace(0.0, 1.0, bins + 1)[1:-1], probability, side="right").astype(np.intp)
