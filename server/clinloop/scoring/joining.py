"""Predictions of untrusted code joined with the truth: what the metrics are computed from, and the operating points fixed on it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from clinloop.errors import BadInput, BadPredictions
from clinloop.scoring import detection, segmentation
from clinloop.scoring.evaluate import AnyCases
from clinloop.scoring.metrics import OperatingPoint, Scheme, parse_rule
from clinloop.scoring.offences import too_large
from clinloop.scoring.operating import fix_operating_point, fix_operating_points
from clinloop.scoring.parse import parse_predictions
from clinloop.scoring.parse_json import parse_detections, parse_masks
from clinloop.scoring.predictions import (
    MAX_BYTES,
    Detections,
    Mask,
    Prediction,
    Probabilities,
    max_submission_bytes,
)
from clinloop.scoring.truth import TruthBox, TruthCase, confounder_value
from clinloop.scoring.weighted import Cases, Floats, Ints, thresholds_of

Points = dict[str, OperatingPoint]


class _Groups(NamedTuple):
    of_case: Ints
    total: int


def read(
    scheme: Scheme, file: int, issued: Sequence[str] | None, sizes: Mapping[str, tuple[int, int]] | None
) -> Mapping[str, Prediction]:
    """Return the predictions that a descriptor holds; `sizes` are the width and height that masks must have.

    Raises:
        BadPredictions: the file breaks its contract.
    """
    data = _content(file, MAX_BYTES if issued is None else max_submission_bytes(scheme, len(issued)))
    try:
        match scheme.task_type:
            case "classification":
                parsed = parse_predictions(data, scheme.classes, issued)
                return dict(zip(parsed.case_ids, parsed.rows, strict=True))
            case "detection":
                return parse_detections(data, scheme.targets, issued)
            case "segmentation":
                return parse_masks(data, issued, sizes)
    except MemoryError:  # the file's fault, or a hostile file could keep an evaluation from ending
        raise BadPredictions("The predictions file takes more memory than any valid one.") from None


def known_truth(rows: Sequence[Sequence[Any]], scheme: Scheme) -> list[TruthCase]:
    """Return the truth of a job, checked.

    Raises:
        BadInput: no case, a case twice, or what the task type needs is missing; never says which label a case has.
    """
    truth = [TruthCase(*row) for row in rows]
    if not truth:
        raise BadInput("There is no case to score.")
    if len({case.case_id for case in truth}) != len(truth):
        raise BadInput("The truth names a case twice.")
    match scheme.task_type:
        case "classification":
            if any(case.label not in scheme.classes for case in truth):
                raise BadInput("The truth has a label that is not among the classes of the spec.")
            if scheme.positive and scheme.positive not in scheme.classes:
                raise BadInput(
                    f"positive_class {scheme.positive[:80]!r} is none of the classes: {', '.join(scheme.classes)}."
                )
        case "detection":
            if any(case.boxes is None for case in truth):
                raise BadInput(
                    "The truth of a detection task needs boxes for every case; [] says that there is nothing."
                )
            if any(not 0 <= box[0] < len(scheme.targets) for case in truth for box in case.boxes or ()):
                raise BadInput("The truth has a box of a target that the spec does not have.")
        case "segmentation":
            if any(case.mask is None or sum(case.mask) != case.width * case.height for case in truth):
                raise BadInput(
                    "The truth of a segmentation task needs width, height and a mask of that size for every case."
                )
    return truth


def join(
    truth: Sequence[TruthCase],
    scheme: Scheme,
    file: int,
    *,
    rule: str,
    thresholds: Mapping[str, float] | None = None,
) -> tuple[AnyCases, Points]:
    """Read the file of a model and join it with the truth; without `thresholds` the rule fixes operating points on these cases.

    Raises:
        BadPredictions: the file breaks its contract.
        BadInput: no such rule, or an attribute that is no confounder.
    """
    if scheme.task_type != "segmentation":  # whose masks are decisions already
        parse_rule(rule)
    return join_rows(truth, scheme, read_for(truth, scheme, file), rule=rule, thresholds=thresholds)


def read_for(truth: Sequence[TruthCase], scheme: Scheme, file: int) -> Mapping[str, Prediction]:
    """Return what a file predicts for the cases of a truth.

    Raises:
        BadPredictions: the file breaks its contract.
    """
    sizes = {case.case_id: (case.width, case.height) for case in truth} if scheme.task_type == "segmentation" else None
    return read(scheme, file, [case.case_id for case in truth], sizes)


def join_rows(
    truth: Sequence[TruthCase],
    scheme: Scheme,
    rows: Mapping[str, Prediction],
    *,
    rule: str,
    thresholds: Mapping[str, float] | None = None,
) -> tuple[AnyCases, Points]:
    """Join what a model predicts with some or all of the cases that it was read for, as `join`.

    Raises:
        BadInput: no such rule, or an attribute that is no confounder.
    """
    # A case without a group is a group of its own; the prefixes keep ids and groups apart.
    names, of_case = np.unique(
        [f"g{case.group}" if case.group else f"c{case.case_id}" for case in truth], return_inverse=True
    )
    groups = _Groups(of_case.astype(np.intp), len(names))
    match scheme.task_type:
        case "classification":
            return _classified(truth, scheme, cast("Mapping[str, Probabilities]", rows), groups, rule, thresholds)
        case "detection":
            return _detected(truth, scheme, cast("Mapping[str, Detections]", rows), groups, rule, thresholds)
        case "segmentation":
            masks = [cast("Mask", rows[case.case_id]) for case in truth]
            return segmentation.measure([case.mask or () for case in truth], masks, groups.of_case, groups.total), {}


def _classified(
    truth: Sequence[TruthCase],
    scheme: Scheme,
    rows: Mapping[str, Probabilities],
    groups: _Groups,
    rule: str,
    thresholds: Mapping[str, float] | None,
) -> tuple[Cases, Points]:
    probabilities = np.array([rows[case.case_id] for case in truth], dtype=np.float64)
    labels = np.array([scheme.classes.index(case.label) for case in truth], dtype=np.intp)
    points: Points = {}
    if thresholds is None:
        points = fix_operating_points(rule, scheme.classes, labels, probabilities)
        cuts = thresholds_of(points, scheme.classes)
    else:
        cuts = np.array([thresholds.get(name, np.nan) for name in scheme.classes])
    cases = Cases(
        truth=labels,
        probabilities=probabilities,
        groups=groups.of_case,
        n_groups=groups.total,
        thresholds=cuts,
        positive=scheme.classes.index(scheme.positive) if scheme.positive else None,
        confounders=_confounders(truth, scheme),
    )
    return cases, points


def _confounders(truth: Sequence[TruthCase], scheme: Scheme) -> Floats:
    """Return the values (N, C) of the confounders, NaN where missing."""
    values = np.full((len(truth), len(scheme.confounders)), np.nan)
    for place, name in enumerate(scheme.confounders):
        if not any(name in case.attributes for case in truth):
            raise BadInput(f"The truth has no attribute {name[:80]!r}, so it cannot be scored as a confounder.")
        for at, case in enumerate(truth):
            value = confounder_value(name, case.attributes.get(name, ""))
            values[at, place] = np.nan if value is None else value
    return values


def _detected(
    truth: Sequence[TruthCase],
    scheme: Scheme,
    rows: Mapping[str, Detections],
    groups: _Groups,
    rule: str,
    thresholds: Mapping[str, float] | None,
) -> tuple[detection.BoxCases, Points]:
    cases = detection.match(
        [[TruthBox(*box) for box in case.boxes or ()] for case in truth],
        [rows[case.case_id] for case in truth],
        case_ids=[case.case_id for case in truth],
        n_targets=len(scheme.targets),
        groups=groups.of_case,
        n_groups=groups.total,
        threshold=np.nan if thresholds is None else thresholds.get(scheme.detected, np.nan),
    )
    if thresholds is not None:
        return cases, {}
    point = _box_point(cases, rule, scheme.detected)
    if point is None:
        return cases, {}
    return replace(cases, threshold=point.threshold), {scheme.detected: point}


def _box_point(cases: detection.BoxCases, rule: str, name: str) -> OperatingPoint | None:
    """Fix the operating point of boxes: `max_f1` on boxes, every other rule on images by their best score."""
    if rule != "max_f1":
        return fix_operating_point(rule, name, cases.has_box, cases.best)
    threshold = detection.max_f1_threshold(cases)
    if np.isnan(threshold):
        return None
    flagged = cases.best >= threshold
    return OperatingPoint(rule, name, threshold, _share(flagged[cases.has_box]), _share(~flagged[~cases.has_box]))


def _share(is_right: npt.NDArray[np.bool_]) -> float | None:
    return float(is_right.mean()) if len(is_right) else None


def _content(file: int, cap: int) -> bytes:
    """Read a descriptor up to one byte more than any valid file has."""
    size = os.fstat(file).st_size
    if size > cap:
        raise too_large(size, cap)
    os.lseek(file, 0, os.SEEK_SET)
    with open(file, "rb", closefd=False) as stream:
        return stream.read(cap + 1)
