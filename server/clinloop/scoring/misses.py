"""Which validation cases a run gets most wrong: what is true, what was said, and what to draw of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from clinloop.scoring.metrics import Scheme
from clinloop.scoring.predictions import Detected, Detections, Mask, Prediction, Probabilities, shared_part
from clinloop.scoring.truth import TruthBox, TruthCase

IOU = 0.5
"""Overlap from which a box counts as found."""
DICE = 0.5
"""A mask that reaches less is a miss."""


@dataclass(frozen=True, kw_only=True)
class Miss:
    """One case that a run gets wrong."""

    case_id: str
    weight: float
    """How wrong: 1 = certain of what is not so."""
    true: str
    said: str
    true_boxes: tuple[TruthBox, ...] = ()
    said_boxes: tuple[Detected, ...] = ()
    true_mask: Mask | None = None
    said_mask: Mask | None = None

    @property
    def is_drawn(self) -> bool:
        """Whether there is something to draw into the image."""
        return bool(self.true_boxes or self.said_boxes or self.true_mask or self.said_mask)


def misses_of(
    scheme: Scheme,
    truth: Sequence[TruthCase],
    found: Mapping[str, Prediction],
    thresholds: Mapping[str, float],
) -> list[Miss]:
    """Return the cases that were got wrong, the worst first; boxes count from the operating point on, without one all do.

    `thresholds` are the operating points by class or target.
    """
    missed: Iterator[Miss | None]
    match scheme.task_type:
        case "classification":
            missed = (
                _of_classes(scheme, case, cast("Probabilities", found[case.case_id]), thresholds) for case in truth
            )
        case "detection":
            least = thresholds.get(scheme.detected, 0.0)
            missed = (_of_boxes(scheme, case, cast("Detections", found[case.case_id]), least) for case in truth)
        case "segmentation":
            missed = (_of_mask(scheme, case, cast("Mask", found[case.case_id])) for case in truth)
    return sorted((miss for miss in missed if miss is not None), key=lambda miss: (-miss.weight, miss.case_id))


def _of_classes(scheme: Scheme, case: TruthCase, row: Probabilities, thresholds: Mapping[str, float]) -> Miss | None:
    """Compare with the decided class: the most probable one, or with a declared positive class what its threshold says."""
    said, true = max(range(len(row)), key=row.__getitem__), scheme.classes.index(case.label)
    if len(row) == 2 and scheme.positive in scheme.classes and scheme.positive in thresholds:
        positive = scheme.classes.index(scheme.positive)
        said = positive if row[positive] >= thresholds[scheme.positive] else 1 - positive
    if said == true:
        return None
    return Miss(
        case_id=case.case_id,
        weight=row[said] - row[true],
        true=f"{case.label} ({row[true]:.2f})",
        said=f"taken for {scheme.classes[said]} ({row[said]:.2f})",
    )


def _of_boxes(scheme: Scheme, case: TruthCase, boxes: Detections, least: float) -> Miss | None:
    """Match the shown boxes best first; a missed box weighs by how little was said there, a false one by its score."""
    shown = sorted((box for box in boxes if box.score >= least), key=lambda box: -box.score)
    free, false = list(case.boxes or ()), list[Detected]()
    for box in shown:
        mates = [other for other in free if other.target == box.target]
        best = max(mates, key=lambda other: shared_part(box, other), default=None)
        if best is not None and shared_part(box, best) >= IOU:
            free.remove(best)
        else:
            false.append(box)
    weights = [box.score for box in false]
    for missed in free:
        near = [box.score for box in boxes if box.target == missed.target and shared_part(box, missed) >= IOU]
        weights.append(1 - max(near, default=0.0))
    if not weights:
        return None
    names = [scheme.targets[box.target] for box in case.boxes or ()]
    true = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names)) or "nothing there"
    wrong = [f"missed {len(free)}"] if free else []
    wrong += [f"{len(false)} false (up to {false[0].score:.2f})"] if false else []
    return Miss(
        case_id=case.case_id,
        weight=max(weights),
        true=true,
        said=", ".join(wrong),
        true_boxes=case.boxes or (),
        said_boxes=tuple(shown),
    )


def _of_mask(scheme: Scheme, case: TruthCase, mask: Mask) -> Miss | None:
    true = Mask(case.height, case.width, case.mask or ())
    n_true, n_said = sum(true.counts[1::2]), sum(mask.counts[1::2])
    if not n_true and not n_said:
        return None
    dice = 2 * _shared_pixels(true, mask) / (n_true + n_said)
    if dice >= DICE:
        return None
    area = case.width * case.height
    return Miss(
        case_id=case.case_id,
        weight=1 - dice,
        true=f"{scheme.detected}, {n_true / area:.1%}" if n_true else f"no {scheme.detected}",
        said=f"drew {n_said / area:.1%}, Dice {dice:.2f}" if n_true else f"drew {n_said / area:.1%}",
        true_mask=true,
        said_mask=mask,
    )


def _shared_pixels(one: Mask, other: Mask) -> int:
    shared, mates = 0, list(_stretches(other))
    at = 0
    for start, end in _stretches(one):
        while at < len(mates) and mates[at][1] <= start:
            at += 1
        place = at
        while place < len(mates) and mates[place][0] < end:
            shared += min(end, mates[place][1]) - max(start, mates[place][0])
            place += 1
    return shared


def _stretches(mask: Mask) -> Iterator[tuple[int, int]]:
    """Yield where each run of ones starts and ends."""
    position = 0
    for place, count in enumerate(mask.counts):
        if place % 2:
            yield position, position + count
        position += count
