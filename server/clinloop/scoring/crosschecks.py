"""Tests of another kind beside the bootstrap, and the correction for several of them: DeLong, McNemar, Holm.

DeLong and McNemar take cases as independent, so they are valid only where every group has one case. Neither needs scipy, whose statistics
would cost each scoring process half a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class Components(NamedTuple):
    """What each case contributes to an AUC."""

    auc: float
    positives: Floats
    """(P,) share of the negatives that each positive case outranks."""
    negatives: Floats
    """(M,) share of the positives that outrank each negative case."""


def components(truth: Bools, scores: Floats) -> Components:
    """Return the structural components of an AUC, ties by midranks; there must be a case on both sides.

    Source: DeLong et al. 1988; by ranks as in Sun & Xu 2014, which avoids the comparison of all pairs.
    """
    ascending = np.sort(scores[truth]), np.sort(scores[~truth])
    n_positive, n_negative = len(ascending[0]), len(ascending[1])
    of_positives = _midrank(scores[truth], ascending[1]) / n_negative
    of_negatives = 1.0 - _midrank(scores[~truth], ascending[0]) / n_positive
    return Components(float(of_positives.mean()), of_positives, of_negatives)


def delong_variance(truth: Bools, scores: Floats) -> tuple[float, float]:
    """Return an AUC and its variance; both NaN with less than two cases on a side."""
    if min(truth.sum(), (~truth).sum()) < 2:
        return math.nan, math.nan
    found = components(truth, scores)
    return found.auc, float(
        found.positives.var(ddof=1) / len(found.positives) + found.negatives.var(ddof=1) / len(found.negatives)
    )


def delong(truth: Bools, first: Floats, second: Floats) -> tuple[float, float]:
    """Compare two AUCs on the same N cases: z, positive where the second is larger, and the two-sided p-value.

    Both are NaN with less than two cases on a side. Two models of one ranking have z = 0 and p = 1.

    Source: DeLong, DeLong & Clarke-Pearson 1988.
    """
    if min(truth.sum(), (~truth).sum()) < 2:
        return math.nan, math.nan
    one, other = components(truth, first), components(truth, second)
    # The variance of a difference is that of the differences of the components.
    positives, negatives = other.positives - one.positives, other.negatives - one.negatives
    variance = float(positives.var(ddof=1) / len(positives) + negatives.var(ddof=1) / len(negatives))
    difference = other.auc - one.auc
    if abs(difference) < 1e-12:
        return 0.0, 1.0
    if variance < 1e-24:  # two constants that differ
        return math.copysign(math.inf, difference), 0.0
    z = difference / math.sqrt(variance)
    return z, math.erfc(abs(z) / math.sqrt(2))


def mcnemar(first_right: Bools, second_right: Bools) -> tuple[float, float]:
    """Compare two models by whether each of N cases is right: the smaller number of discordant cases, and the two-sided p-value.

    The p-value is the exact binomial one whatever the number of cases, so no approximation has to be chosen.

    Source: McNemar 1947; the exact conditional form of statsmodels' `mcnemar(exact=True)`.
    """
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    fewer, n = min(only_first, only_second), only_first + only_second
    total = term = 1
    for k in range(fewer):
        term = term * (n - k) // (k + 1)  # the binomial coefficient n over k + 1, in whole numbers
        total += term
    return float(fewer), min(1.0, 2 * total / 2**n)


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values of one family for their number; None stays None and does not count.

    Source: Holm 1979, step-down: the i-th smallest of m times m - i + 1, never below a smaller one, at most 1.
    """
    known = sorted((value, place) for place, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    largest = 0.0
    for rank, (value, place) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - rank)))
        adjusted[place] = largest
    return adjusted


def _midrank(scores: Floats, ascending: Floats) -> Floats:
    """Return how many sorted values each score exceeds, equal ones counted half."""
    below = np.searchsorted(ascending, scores, side="left")
    return 0.5 * (below + np.searchsorted(ascending, scores, side="right")).astype(np.float64)
