"""The cases of a classification task under many weightings of its groups at once: what its metrics are made of.

A weighting says how often each group occurs: all ones for the data as they are, the counts of a resample for the bootstrap. Nothing is
duplicated or sorted again: what depends on the data alone (sort orders, sums per group) is computed once in `Cases`, and a weighting
costs gathers, cumulative sums and matrix products. Every value equals that of physically repeated cases.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from clinloop.scoring.metrics import OperatingPoint

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

_T = TypeVar("_T")


class Curve(NamedTuple):
    """Where the cases of one side stand among those of the other, by score."""

    positive_groups: Ints
    """(P,) group of each positive case, ascending by score."""
    negative_groups: Ints
    """(M,) group of each negative case, ascending by score."""
    below: Ints
    """(P,) number of negative cases with a smaller score."""
    not_above: Ints
    """(P,) number of negative cases with a smaller or equal score."""
    first_equal: Ints
    """(P,) number of positive cases with a smaller score."""


def order(
    scores: Floats, groups: Ints, is_positive: npt.NDArray[np.bool_], is_negative: npt.NDArray[np.bool_]
) -> Curve:
    """Sort the cases of two sides by score; a case may be on neither."""
    negatives, positives = np.flatnonzero(is_negative), np.flatnonzero(is_positive)
    negatives = negatives[np.argsort(scores[negatives], kind="stable")]
    # Positives are sorted too: ties among them are then neighbours, and neighbours in memory are read together.
    positives = positives[np.argsort(scores[positives], kind="stable")]
    ours, others = scores[positives], scores[negatives]
    return Curve(
        groups[positives],
        groups[negatives],
        np.searchsorted(others, ours, side="left"),
        np.searchsorted(others, ours, side="right"),
        np.searchsorted(ours, ours, side="left"),
    )


@dataclass(frozen=True, kw_only=True)
class Cases:
    """Truth and predictions of N cases in G groups, K classes."""

    truth: Ints
    """(N,) class index."""
    probabilities: Floats
    """(N, K)"""
    groups: Ints
    """(N,) from 0 to n_groups - 1."""
    n_groups: int
    thresholds: Floats
    """(K,) operating point of each class; NaN where there is none."""
    positive: int | None = None
    """Positive class of two; its threshold then decides."""
    confounders: Floats = field(default_factory=lambda: np.empty((0, 0)))
    """(N, C) value of each confounder of the scheme from 0 to 1, NaN where missing; without confounders any size."""
    _made: dict[object, Any] = field(default_factory=dict[object, Any], repr=False)

    @property
    def n_classes(self) -> int:
        """K."""
        return self.probabilities.shape[1]

    def curve(self, index: int) -> Curve:
        """Return the one-vs-rest order of a class, sorted at the first call."""
        is_class = self.truth == index
        return self.once(index, lambda: order(self.probabilities[:, index], self.groups, is_class, ~is_class))

    def once(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """Return what depends on the cases alone, made at the first call."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    @cached_property
    def decided(self) -> Ints:
        """(N,) decided class: the most probable, or for two classes the positive one at or above its threshold."""
        if self.positive is not None and self.n_classes == 2 and not np.isnan(self.thresholds[self.positive]):
            is_positive = self.probabilities[:, self.positive] >= self.thresholds[self.positive]
            return np.where(is_positive, self.positive, 1 - self.positive).astype(np.intp)
        return np.argmax(self.probabilities, axis=1)

    @cached_property
    def flagged(self) -> npt.NDArray[np.bool_]:
        """(N, K) whether a case is at or above the operating point of a class."""
        return self.probabilities >= self.thresholds  # False where the threshold is NaN

    @cached_property
    def sizes(self) -> Floats:
        """(G,) cases per group."""
        return np.bincount(self.groups, minlength=self.n_groups).astype(np.float64)

    @cached_property
    def decision_sums(self) -> Floats:
        """(G, 3K) per group and class: right decisions, cases, decisions."""
        classes = np.arange(self.n_classes)
        is_class, is_decided = self.truth[:, None] == classes, self.decided[:, None] == classes
        columns = np.concatenate([is_class & is_decided, is_class, is_decided], axis=1)
        return per_group(columns, self.groups, self.n_groups)

    @cached_property
    def flag_sums(self) -> Floats:
        """(G, 4K) per group and class: flagged cases, cases, unflagged others, others."""
        is_class = self.truth[:, None] == np.arange(self.n_classes)
        columns = [is_class & self.flagged, is_class, ~is_class & ~self.flagged, ~is_class]
        return per_group(np.concatenate(columns, axis=1), self.groups, self.n_groups)


def per_group(columns: npt.NDArray[np.float64] | npt.NDArray[np.bool_], groups: Ints, n_groups: int) -> Floats:
    """Return sums of (N, C) columns within groups, (G, C)."""
    sums = np.empty((n_groups, columns.shape[1]))
    for column, target in zip(columns.T, sums.T, strict=True):
        target[:] = np.bincount(groups, weights=column, minlength=n_groups)
    return sums


class Weighting:
    """Metrics of cases under B weightings; what several metrics share is computed once."""

    def __init__(self, cases: Cases, counts: Floats) -> None:
        """Take counts (G, B): how often each group occurs in each weighting."""
        self.cases, self.counts = cases, counts
        self._aucs: dict[int, Floats] = {}

    def auc(self, index: int) -> Floats:
        """(B,) one-vs-rest ROC AUC of a class, ties by midranks; NaN where a side is empty.

        Source: the Mann-Whitney form, AUC = P(score of a case > score of another) + P(equal) / 2.
        """
        if index not in self._aucs:
            self._aucs[index] = self.auc_of(self.cases.curve(index))
        return self._aucs[index]

    def auc_of(self, curve: Curve) -> Floats:
        """(B,) ROC AUC of two sides that were ordered, as `auc`."""
        positives, ascending = self.counts[curve.positive_groups], self.ascending(curve)
        beaten = ascending[curve.below]
        if not np.array_equal(curve.below, curve.not_above):
            beaten = (beaten + ascending[curve.not_above]) * 0.5
        return ratio(np.einsum("ij,ij->j", positives, beaten), positives.sum(axis=0) * ascending[-1])

    def macro(self, metric: Callable[[int], Floats]) -> Floats:
        """(B,) mean of a per-class metric over the classes where it is defined; NaN where it is for none."""
        values = np.stack([metric(index) for index in range(self.cases.n_classes)])  # (K, B)
        defined = ~np.isnan(values)
        return ratio(np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0).astype(np.float64))

    def ascending(self, curve: Curve) -> Floats:
        """(M + 1, B) weight of the m lowest-scored cases outside the class, for m from 0 to M; valid until the next call."""
        sums = self._scratch[: len(curve.negative_groups) + 1]
        sums[0] = 0.0
        # "clip" never clips here; it spares the copy that the checking mode makes.
        np.take(self.counts, curve.negative_groups, axis=0, out=sums[1:], mode="clip")
        np.cumsum(sums[1:], axis=0, out=sums[1:])
        return sums

    @cached_property
    def n(self) -> Floats:
        """(B,) cases."""
        return self.cases.sizes @ self.counts

    @cached_property
    def decisions(self) -> Floats:
        """(3, K, B) right decisions, cases, decisions."""
        return (self.cases.decision_sums.T @ self.counts).reshape(3, self.cases.n_classes, -1)

    @cached_property
    def flags(self) -> Floats:
        """(4, K, B) flagged cases, cases, unflagged others, others."""
        return (self.cases.flag_sums.T @ self.counts).reshape(4, self.cases.n_classes, -1)

    @cached_property
    def _scratch(self) -> Floats:
        return np.empty((len(self.cases.truth) + 1, self.counts.shape[1]))


def confusion(cases: Cases) -> list[list[int]]:
    """Return the number of cases by true class (rows) and decided class (columns)."""
    flat = np.bincount(cases.truth * cases.n_classes + cases.decided, minlength=cases.n_classes**2)
    return [[int(count) for count in row] for row in flat.reshape(cases.n_classes, cases.n_classes)]


def thresholds_of(points: Mapping[str, OperatingPoint], classes: Sequence[str]) -> Floats:
    """Return the thresholds (K,) of operating points by class; NaN for a class without one."""
    return np.array([points[name].threshold if name in points else np.nan for name in classes])


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide; NaN where the denominator is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)
