"""Detection metrics under many weightings of the groups at once: boxes are matched once, a weighting only adds up what was matched.

Average precision is COCO's: at each of 101 recalls the best precision at that recall or more; means are over the targets that have a box.
Its value equals that of pycocotools on physically repeated images. Boxes of equal score count in the order of case ids, then of the file.
Source: Lin et al. 2014 and pycocotools 2.0, `COCOeval`, area "all", maxDets 100, without crowd regions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from clinloop.scoring.predictions import Detected
from clinloop.scoring.truth import TruthBox
from clinloop.scoring.weighted import Cases, Floats, Ints, Weighting, per_group, ratio

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Bools = npt.NDArray[np.bool_]

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
_ALMOST_ONE = 1 - 1e-10
"""COCO's cap of an IoU threshold."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """The boxes predicted for one target, best first, of all cases."""

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
    """Match the boxes of each case and target, best score first, each to the free box of the truth that it overlaps most."""
    # By id, whatever the order of the truth: it decides between equal scores.
    in_order = sorted(range(len(case_ids)), key=case_ids.__getitem__)
    ranked: list[Ranked] = []
    for target in range(n_targets):
        scores, places, hits, true_groups = [], [], [], []
        for at in in_order:
            found = sorted((box for box in predicted[at] if box.target == target), key=lambda box: -box.score)
            boxes = [box for box in truth[at] if box.target == target]
            scores += [box.score for box in found]
            places += [groups[at]] * len(found)
            true_groups += [groups[at]] * len(boxes)
            hits.append(_match_image(found, boxes))
        best_first = np.argsort(-np.array(scores, dtype=np.float64), kind="stable")
        ranked.append(
            Ranked(
                scores=np.array(scores, dtype=np.float64)[best_first],
                groups=np.array(places, dtype=np.intp)[best_first],
                is_true=np.concatenate(hits, axis=1)[:, best_first]
                if hits
                else np.zeros((len(IOUS), 0), dtype=np.bool_),
                true_groups=np.array(true_groups, dtype=np.intp),
                n_groups=n_groups,
            )
        )
    return BoxCases(
        targets=tuple(ranked),
        has_box=np.array([len(boxes) > 0 for boxes in truth], dtype=np.bool_),
        best=np.array([max((box.score for box in found), default=0.0) for found in predicted], dtype=np.float64),
        groups=groups,
        n_groups=n_groups,
        threshold=threshold,
        largest_side=max((max(box.width, box.height) for found in predicted for box in found), default=0.0),
    )


def max_f1_threshold(cases: BoxCases) -> float:
    """Return the highest threshold of the largest F1 of boxes at IoU 0.5; NaN without a box in the truth."""
    n_true = sum(len(ranked.true_groups) for ranked in cases.targets)
    if not n_true:
        return float("nan")
    scores = np.concatenate([ranked.scores for ranked in cases.targets])
    if not len(scores):
        return 1.0
    best_first = np.argsort(-scores, kind="stable")
    scores = scores[best_first]
    found = np.cumsum(np.concatenate([ranked.is_true[0] for ranked in cases.targets])[best_first])
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # a threshold takes all boxes of a score
    f1 = 2 * found[last] / (last + 1 + n_true)
    return float(scores[last[np.flatnonzero(f1 >= f1.max() - 1e-12)[0]]])


def evaluator(cases: BoxCases, counts: Floats) -> Callable[[str], Floats]:
    """Return what computes a metric (B,) under weightings `counts` (G, B); NaN where undefined."""
    precisions: dict[int, Floats] = {}

    def value(name: str) -> Floats:
        match name:
            case "ap50" | "ap50_95":
                wanted = range(len(IOUS) if name == "ap50_95" else 1)
                if any(at not in precisions for at in wanted):
                    precisions.update(zip(wanted, _mean_precision(cases, counts, len(wanted)), strict=True))
                return np.mean([precisions[at] for at in wanted], axis=0)
            case "image_auc":
                return Weighting(cases.images, counts).auc(1)
            case _:
                return _at_threshold(cases, counts, name)

    return value


def _at_threshold(cases: BoxCases, counts: Floats, name: str) -> Floats:
    if np.isnan(cases.threshold):
        return np.full(counts.shape[1], np.nan)
    true, shown, found = cases.box_sums.T @ counts
    if name == "f1":
        return ratio(2 * found, true + shown)
    return ratio(found, shown if name == "precision" else true)


def _mean_precision(cases: BoxCases, counts: Floats, n_ious: int) -> Floats:
    """Return average precisions (n_ious, B), each the mean over the targets that have a box in the weighting."""
    values = np.stack([_average_precision(ranked, counts, n_ious) for ranked in cases.targets])  # (targets, n_ious, B)
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0).astype(np.float64))


def _average_precision(ranked: Ranked, counts: Floats, n_ious: int) -> Floats:
    """Return average precisions (n_ious, B) of one target; NaN without a box in the truth.

    Recall rises at matched boxes only, and the best precision from there on is also reached at one; the others are only counted.
    """
    n_true = counts[ranked.true_groups].sum(axis=0)  # (B,)
    result = np.where(n_true > 0, 0.0, np.nan) * np.ones((n_ious, 1))
    hits = ranked.hits
    if not len(hits):
        return result
    shown = np.cumsum(ranked.stretches @ counts, axis=0)  # (H, B)
    for at in range(n_ious):
        is_true = ranked.is_true[at, hits]
        if not is_true.any():
            continue
        found = np.cumsum(counts[ranked.groups[hits[is_true]]], axis=0)  # (H', B)
        precision = found / (shown[is_true] + np.spacing(1))
        precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        recall = np.ascontiguousarray(ratio(found, n_true).T)  # (B, H')
        best = np.concatenate(
            [precision, np.zeros((1, precision.shape[1]))]
        ).T  # (B, H' + 1): nothing beyond the last recall
        for column in np.flatnonzero(n_true > 0):
            reached = np.searchsorted(recall[column], RECALLS, side="left")
            result[at, column] = best[column][reached].mean()
    return result


def _match_image(found: Sequence[Detected], boxes: Sequence[TruthBox]) -> Bools:
    """Return whether each box of one case and target, best first, has a match, (T, D)."""
    is_true = np.zeros((len(IOUS), len(found)), dtype=np.bool_)
    if not found or not boxes:
        return is_true
    overlap = _overlap(found, boxes)
    is_taken = np.zeros((len(IOUS), len(boxes)), dtype=np.bool_)
    least = np.minimum(IOUS, _ALMOST_ONE)[:, None]
    for at in np.flatnonzero(overlap.max(axis=1) >= IOUS[0]):
        fits = np.where(is_taken | (overlap[at] < least), -1.0, overlap[at])  # (T, U)
        mate = fits.shape[1] - 1 - np.argmax(fits[:, ::-1], axis=1)  # of equals the last, as COCO has it
        rows = np.flatnonzero(fits[np.arange(len(IOUS)), mate] >= 0)
        is_true[rows, at] = True
        is_taken[rows, mate[rows]] = True
    return is_true


def _overlap(found: Sequence[Detected], boxes: Sequence[TruthBox]) -> Floats:
    """Return the intersection over union (D, U)."""
    one = np.array([box[1:5] for box in found])[:, None]  # (D, 1, 4)
    other = np.array([box[1:5] for box in boxes])[None]  # (1, U, 4)
    shared = np.minimum(one[..., :2] + one[..., 2:], other[..., :2] + other[..., 2:])
    sides = np.maximum(shared - np.maximum(one[..., :2], other[..., :2]), 0.0)
    area = sides[..., 0] * sides[..., 1]
    union = one[..., 2] * one[..., 3] + other[..., 2] * other[..., 3] - area
    return np.where(union > 0, area / np.where(union > 0, union, 1.0), 0.0)
