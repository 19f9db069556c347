"""Predicted boxes matched once with those of the truth, as COCO does it; what a weighting of the groups adds up is kept beside.

Boxes of one case and target take, best score first, the free box of the truth that they overlap most. In a range of areas, boxes of the
truth outside it are matched last, and a predicted box counts neither as right nor as false when it has such a match, or when it has no
match and lies outside the range itself. The area is width x height, where COCO takes the area of a drawn outline.
Source: Lin et al. 2014 and pycocotools 2.0, `COCOeval.evaluateImg`, maxDets 100, without crowd regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from clinloop.scoring.predictions import Detected
from clinloop.scoring.truth import TruthBox
from clinloop.scoring.weighted import Cases, Floats, Ints, per_group

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Bools = npt.NDArray[np.bool_]
Size = Literal["small", "medium", "large"]

IOUS = np.linspace(0.5, 0.95, 10)
AREAS: dict[Size, tuple[float, float]] = {
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""COCO's ranges of areas in square pixels, both ends included."""
_ALMOST_ONE = 1 - 1e-10
"""COCO's cap of an IoU threshold."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The boxes of one case and target, the predicted ones best first."""

    group: int
    scores: list[float]
    """D of them."""
    areas: Floats
    """(D,)"""
    true_areas: Floats
    """(U,)"""
    overlap: Floats
    """(D, U) intersection over union."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """The boxes predicted for one target that count, best first, of all cases."""

    scores: Floats
    """(D,)"""
    groups: Ints
    """(D,) group of the case of each box."""
    is_true: Bools
    """(T, D) whether a box has a match, by IoU threshold."""
    true_groups: Ints
    """(U,) group of the case of each box of the truth."""
    n_groups: int

    @cached_property
    def hits(self) -> Ints:
        """(H,) places of the boxes that have a match at any IoU threshold: between them precision only falls."""
        return np.flatnonzero(self.is_true.any(axis=0))

    @cached_property
    def stretches(self) -> csr_array:
        """(H, n_groups) boxes per group after the hit before, up to each hit; sparse, which makes a weighting ten times as fast."""
        from scipy.sparse import csr_array  # late: scoring a classification need not wait for it

        last = int(self.hits[-1]) + 1
        stretch = np.searchsorted(self.hits, np.arange(last), side="left")
        return csr_array((np.ones(last), (stretch, self.groups[:last])), shape=(len(self.hits), self.n_groups))


@dataclass(frozen=True, kw_only=True)
class BoxCases:
    """Matched boxes of N cases in G groups."""

    targets: tuple[Ranked, ...]
    pairs: tuple[tuple[Pair, ...], ...]
    """By target the boxes of each case, in the order of case ids: it decides between equal scores."""
    has_box: Bools
    """(N,) whether the truth has a box, of any target."""
    best: Floats
    """(N,) largest score in the case; 0 without a box."""
    groups: Ints
    """(N,) from 0 to n_groups - 1."""
    n_groups: int
    threshold: float
    """Operating point; NaN where there is none."""
    largest_side: float = 0.0
    """Of all predicted boxes, in pixels."""

    @property
    def n_hits(self) -> int:
        """Number of predicted boxes that have a match."""
        return sum(len(ranked.hits) for ranked in self.targets)

    @cached_property
    def images(self) -> Cases:
        """The cases as a classification of images, with and without a box, by their best score."""
        return Cases(
            truth=self.has_box.astype(np.intp),
            probabilities=np.stack([1 - self.best, self.best], axis=1),
            groups=self.groups,
            n_groups=self.n_groups,
            thresholds=np.array([np.nan, self.threshold]),
        )

    @cached_property
    def box_sums(self) -> Floats:
        """(G, 3) per group: boxes of the truth; predicted boxes at the operating point; those of them that have a match at IoU 0.5."""
        sums = np.zeros((self.n_groups, 3))
        for ranked in self.targets:
            shown = ranked.scores >= self.threshold
            sums[:, 0] += np.bincount(ranked.true_groups, minlength=self.n_groups)
            sums[:, 1:] += per_group(np.stack([shown, shown & ranked.is_true[0]], axis=1), ranked.groups, self.n_groups)
        return sums

    @cached_property
    def pooled(self) -> Ranked:
        """The boxes of all targets together, matched within their targets."""
        scores = np.concatenate([ranked.scores for ranked in self.targets])
        best_first = np.argsort(-scores, kind="stable")
        return Ranked(
            scores=scores[best_first],
            groups=np.concatenate([ranked.groups for ranked in self.targets])[best_first],
            is_true=np.concatenate([ranked.is_true for ranked in self.targets], axis=1)[:, best_first],
            true_groups=np.concatenate([ranked.true_groups for ranked in self.targets]),
            n_groups=self.n_groups,
        )

    @cached_property
    def _sized(self) -> dict[Size, list[list[Ranked]]]:
        return {}

    def sized(self, size: Size) -> list[list[Ranked]]:
        """Return by target the boxes that count at each of the IoU thresholds in a range of areas, matched at the first call."""
        if size not in self._sized:
            self._sized[size] = [_rank_sized(pairs, self.n_groups, *AREAS[size]) for pairs in self.pairs]
        return self._sized[size]


def match(
    truth: Sequence[Sequence[TruthBox]],
    predicted: Sequence[Sequence[Detected]],
    *,
    case_ids: Sequence[str],
    n_targets: int,
    groups: Ints,
    n_groups: int,
    threshold: float,
) -> BoxCases:
    """Match the boxes of each case and target at all IoU thresholds, whatever their area."""
    in_order = sorted(range(len(case_ids)), key=case_ids.__getitem__)
    pairs = tuple(
        tuple(
            _pair(
                [box for box in truth[at] if box.target == target],
                [box for box in predicted[at] if box.target == target],
                int(groups[at]),
            )
            for at in in_order
        )
        for target in range(n_targets)
    )
    return BoxCases(
        targets=tuple(_rank(of_target, n_groups) for of_target in pairs),
        pairs=pairs,
        has_box=np.array([len(boxes) > 0 for boxes in truth], dtype=np.bool_),
        best=np.array([max((box.score for box in found), default=0.0) for found in predicted], dtype=np.float64),
        groups=groups,
        n_groups=n_groups,
        threshold=threshold,
        largest_side=max((max(box.width, box.height) for found in predicted for box in found), default=0.0),
    )


def _pair(boxes: Sequence[TruthBox], predicted: Sequence[Detected], group: int) -> Pair:
    found = sorted(predicted, key=lambda box: -box.score)
    return Pair(
        group=group,
        scores=[box.score for box in found],
        areas=np.array([box.width * box.height for box in found], dtype=np.float64),
        true_areas=np.array([box.width * box.height for box in boxes], dtype=np.float64),
        overlap=_overlap(found, boxes),
    )


def _rank(pairs: Sequence[Pair], n_groups: int) -> Ranked:
    """Put the boxes of all cases in order of score."""
    is_true = [_match_image(pair.overlap, np.zeros(len(pair.true_areas), dtype=np.bool_))[0] for pair in pairs]
    best_first, scores, groups = _in_order(pairs)
    return Ranked(
        scores=scores,
        groups=groups,
        is_true=_joined(is_true)[:, best_first],
        true_groups=np.repeat(_groups(pairs), [len(pair.true_areas) for pair in pairs]),
        n_groups=n_groups,
    )


def _rank_sized(pairs: Sequence[Pair], n_groups: int, low: float, high: float) -> list[Ranked]:
    """Put the boxes that count in a range of areas in order of score, for each IoU threshold: which count depends on it."""

    def is_outside(areas: Floats) -> Bools:
        return (areas < low) | (areas > high)

    best_first, scores, groups = _in_order(pairs)
    is_true: list[Bools] = []
    counts: list[Bools] = []
    for pair in pairs:
        hit, left_out = _match_image(pair.overlap, is_outside(pair.true_areas))
        is_true.append(hit)
        counts.append(hit | ~(left_out | is_outside(pair.areas)))
    counted, hits = _joined(counts)[:, best_first], _joined(is_true)[:, best_first]
    inside = [int((~is_outside(pair.true_areas)).sum()) for pair in pairs]
    true_groups = np.repeat(_groups(pairs), inside)
    return [
        Ranked(
            scores=scores[counted[at]],
            groups=groups[counted[at]],
            is_true=hits[at : at + 1, counted[at]],
            true_groups=true_groups,
            n_groups=n_groups,
        )
        for at in range(len(IOUS))
    ]


def _in_order(pairs: Sequence[Pair]) -> tuple[Ints, Floats, Ints]:
    """Return the order of all predicted boxes, best first, and their scores and groups in it."""
    scores = np.array([score for pair in pairs for score in pair.scores], dtype=np.float64)
    groups = np.repeat(_groups(pairs), [len(pair.scores) for pair in pairs])
    best_first = np.argsort(-scores, kind="stable")
    return best_first, scores[best_first], groups[best_first]


def _groups(pairs: Sequence[Pair]) -> Ints:
    return np.array([pair.group for pair in pairs], dtype=np.intp)


def _joined(columns: Sequence[Bools]) -> Bools:
    return np.concatenate([np.zeros((len(IOUS), 0), dtype=np.bool_), *columns], axis=1)


def _match_image(overlap: Floats, is_outside: Bools) -> tuple[Bools, Bools]:
    """Return whether each box of one case and target, best first, has a match inside the range, and whether it has one outside, (T, D)."""
    hit = np.zeros((len(IOUS), len(overlap)), dtype=np.bool_)
    left_out = np.zeros_like(hit)
    if not overlap.size:
        return hit, left_out
    is_taken = np.zeros((len(IOUS), overlap.shape[1]), dtype=np.bool_)
    least = np.minimum(IOUS, _ALMOST_ONE)[:, None]
    rows, some_outside = np.arange(len(IOUS)), bool(is_outside.any())
    for at in np.flatnonzero(overlap.max(axis=1) >= IOUS[0]):
        fits = np.where(is_taken | (overlap[at] < least), -1.0, overlap[at])  # (T, U)
        if some_outside:
            inside = np.where(is_outside, -1.0, fits)
            fits = np.where(inside.max(axis=1, keepdims=True) >= 0, inside, fits)  # boxes inside the range go first
        mate = fits.shape[1] - 1 - np.argmax(fits[:, ::-1], axis=1)  # of equals the last, as COCO has it
        matched = fits[rows, mate] >= 0
        hit[:, at] = matched & ~is_outside[mate]
        left_out[:, at] = matched & is_outside[mate]
        is_taken[rows[matched], mate[matched]] = True
    return hit, left_out


def _overlap(found: Sequence[Detected], boxes: Sequence[TruthBox]) -> Floats:
    """Return the intersection over union (D, U)."""
    if not found or not boxes:
        return np.zeros((len(found), len(boxes)))
    one = np.array([box[1:5] for box in found])[:, None]  # (D, 1, 4)
    other = np.array([box[1:5] for box in boxes])[None]  # (1, U, 4)
    shared = np.minimum(one[..., :2] + one[..., 2:], other[..., :2] + other[..., 2:])
    sides = np.maximum(shared - np.maximum(one[..., :2], other[..., :2]), 0.0)
    area = sides[..., 0] * sides[..., 1]
    union = one[..., 2] * one[..., 3] + other[..., 2] * other[..., 3] - area
    return np.where(union > 0, area / np.where(union > 0, union, 1.0), 0.0)
