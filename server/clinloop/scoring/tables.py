"""What a score says besides its metrics: rows per class or target, a confusion matrix, and notes that a reader must know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clinloop.scoring.confounders import PRESENT
from clinloop.scoring.detection import BoxCases
from clinloop.scoring.evaluate import AnyCases, evaluate_once
from clinloop.scoring.metrics import OperatingPoint, Scheme
from clinloop.scoring.results import CONFUSION_IS, ClassRow
from clinloop.scoring.segmentation import MaskCases
from clinloop.scoring.weighted import Cases, Ints, Weighting, confusion

FEW_GROUPS = 30
FEW_GROUPS_OF_CLASS = 5
FEW_IN_CONFLICT = 20
IMAGES_ARE = "rows are images without and with a target, columns images in which nothing and something was found"


class Tables(NamedTuple):
    """The tables of a score."""

    rows: list[ClassRow]
    confusion: list[list[int]]
    confusion_is: str
    notes: list[str]


def tables_of(cases: AnyCases, scheme: Scheme, points: Mapping[str, OperatingPoint]) -> Tables:
    """Return the tables of scored predictions; boxes and masks are told per image, as whether anything is there and was found."""
    few = [f"Only {cases.n_groups} groups: intervals and p-values are unreliable."] * (cases.n_groups < FEW_GROUPS)
    match cases:
        case Cases():
            return _of_classes(cases, scheme, few)
        case BoxCases():
            point = points.get(scheme.detected)
            found = np.zeros_like(cases.has_box) if point is None else cases.best >= point.threshold
            auc = float(Weighting(cases.images, np.ones((cases.n_groups, 1))).auc(1)[0])
            return _of_images(cases.has_box, found, cases.groups, scheme.detected, auc, few + _box_notes(cases))
        case MaskCases():
            return _of_images(cases.has_target, cases.is_found, cases.groups, scheme.detected, np.nan, few)


def _of_classes(cases: Cases, scheme: Scheme, notes: Sequence[str]) -> Tables:
    classes = scheme.classes
    names = [f"{family}_{name}" for family in ("auc", "sensitivity", "specificity") for name in classes]
    table = evaluate_once(names, Scheme(classes), cases).reshape(3, len(classes))
    groups_of = [len(np.unique(cases.groups[cases.truth == index])) for index in range(len(classes))]
    rows = [
        ClassRow(
            class_name=name,
            n=int((cases.truth == index).sum()),
            groups=groups_of[index],
            auc=_or_none(table[0, index]),
            sensitivity=_or_none(table[1, index]),
            specificity=_or_none(table[2, index]),
        )
        for index, name in enumerate(classes)
    ]
    more = [*_class_notes(classes, groups_of), *_confounder_notes(cases, scheme)]
    return Tables(rows, confusion(cases), CONFUSION_IS, [*notes, *more])


def _of_images(
    has: npt.NDArray[np.bool_],
    found: npt.NDArray[np.bool_],
    groups: Ints,
    name: str,
    auc: float,
    notes: Sequence[str],
) -> Tables:
    row = ClassRow(
        class_name=name,
        n=int(has.sum()),
        groups=len(np.unique(groups[has])),
        auc=_or_none(auc),
        sensitivity=float(found[has].mean()) if has.any() else None,
        specificity=float((~found[~has]).mean()) if not has.all() else None,
    )
    more = [] if has.any() else [f"No image has {name}: what needs one is undefined."]
    if has.any() and row.groups < FEW_GROUPS_OF_CLASS:
        more = [f"Only {row.groups} groups have {name}: what depends on them is unreliable."]
    return Tables([row], by_finding(has, found), IMAGES_ARE, [*notes, *more])


def by_finding(has: npt.NDArray[np.bool_], found: npt.NDArray[np.bool_]) -> list[list[int]]:
    """Return the number of images by whether they have a target (rows) and whether anything was found (columns); no comes first."""
    return [
        [int((found == is_found)[has == is_there].sum()) for is_found in (False, True)] for is_there in (False, True)
    ]


def _box_notes(cases: BoxCases) -> list[str]:
    """Say what is probably a mistake of the code that wrote the boxes."""
    if cases.largest_side and cases.largest_side <= 1.5:
        return ["No predicted box is larger than 1.5 pixels: write pixels of the image file, not shares of its size."]
    return []


def _class_notes(classes: Sequence[str], groups_of: Sequence[int]) -> list[str]:
    notes: list[str] = []
    if empty := [name for name, count in zip(classes, groups_of, strict=True) if count == 0]:
        notes.append(
            f"Means over classes leave out {', '.join(empty)}: {len(classes) - len(empty)} of {len(classes)} have cases."
        )
    few = [
        f"{name} ({count})" for name, count in zip(classes, groups_of, strict=True) if 0 < count < FEW_GROUPS_OF_CLASS
    ]
    if few:
        notes.append(
            f"Fewer than {FEW_GROUPS_OF_CLASS} groups have a case of {', '.join(few)}: what depends on them is unreliable."
        )
    return notes


def _confounder_notes(cases: Cases, scheme: Scheme) -> list[str]:
    """Say of which confounder there are too few cases in which it conflicts with the label, or none is known."""
    notes: list[str] = []
    positive = scheme.positive_index
    for place, name in enumerate(scheme.confounders if positive is not None else ()):
        value, is_positive = cases.confounders[:, place], cases.truth == positive
        without, having = int((is_positive & (value < PRESENT)).sum()), int((~is_positive & (value >= PRESENT)).sum())
        if min(without, having) < FEW_IN_CONFLICT:
            notes.append(
                f"Only {without} positives without {name} and {having} negatives with it: conflict_auc_{name} is unreliable."
            )
        if missing := int(np.isnan(value).sum()):
            notes.append(f"{missing} of {len(value)} cases do not say {name}: its metrics leave them out.")
    return notes


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
