"""The cross-checks of an analysis: DeLong for AUCs, McNemar for operating points, each where cases are independent."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from clinloop.scoring.analysis import CrossCheck
from clinloop.scoring.crosschecks import delong, mcnemar
from clinloop.scoring.detection import BoxCases
from clinloop.scoring.weighted import Cases, Floats

Bools = npt.NDArray[np.bool_]
SEVERAL = "not valid: groups have several cases, which are not independent of each other"
ONE_SIDED = "not computed: fewer than two cases on one side"
NO_POINT = "not computed: a model has no operating point"
NO_CASE = "not computed: no case"


def class_checks(initial: Cases, refined: Cases, names: Sequence[str], places: Sequence[int]) -> list[CrossCheck]:
    """Return the checks of the classes at `places`."""
    checks: list[CrossCheck] = []
    for place in places:
        is_class, name = initial.truth == place, names[place]
        scores = initial.probabilities[:, place], refined.probabilities[:, place]
        checks.append(_delong(f"auc_{name}", initial, is_class, *scores))
        flagged = initial.flagged[:, place], refined.flagged[:, place]
        has_points = not bool(np.isnan([initial.thresholds[place], refined.thresholds[place]]).any())
        metrics = f"sensitivity_{name}", f"specificity_{name}"
        checks.extend(_mcnemars(metrics, initial, is_class, *flagged, has_points=has_points))
    return checks


def image_checks(initial: BoxCases, refined: BoxCases) -> list[CrossCheck]:
    """Return the checks of a detection: by image, with a box or without."""
    flagged = initial.best >= initial.threshold, refined.best >= refined.threshold
    has_points = not bool(np.isnan([initial.threshold, refined.threshold]).any())
    images = initial.images
    return [
        _delong("image_auc", images, initial.has_box, initial.best, refined.best),
        *_mcnemars(
            ("image_sensitivity", "image_specificity"), images, initial.has_box, *flagged, has_points=has_points
        ),
    ]


def _delong(metric: str, cases: Cases, is_class: Bools, first: Floats, second: Floats) -> CrossCheck:
    if note := _several(cases):
        return _without("DeLong", metric, note)
    z, p = delong(is_class, first, second)
    if math.isnan(p):
        return _without("DeLong", metric, ONE_SIDED)
    return CrossCheck(
        test="DeLong",
        metric=metric,
        statistic=z if math.isfinite(z) else None,
        p=p,
        note="" if math.isfinite(z) else "neither AUC varies, so the statistic has no limit",
    )


def _mcnemars(
    metrics: tuple[str, str], cases: Cases, is_class: Bools, first: Bools, second: Bools, *, has_points: bool
) -> Iterator[CrossCheck]:
    """Yield McNemar for sensitivity among the cases of a class, and for specificity among the others."""
    sides = (is_class, first, second), (~is_class, ~first, ~second)
    for metric, (chosen, first_right, second_right) in zip(metrics, sides, strict=True):
        note = _several(cases) or ("" if has_points else NO_POINT) or ("" if chosen.any() else NO_CASE)
        if note:
            yield _without("McNemar", metric, note)
            continue
        statistic, p = mcnemar(first_right[chosen], second_right[chosen])
        yield CrossCheck(test="McNemar", metric=metric, statistic=statistic, p=p)


def _several(cases: Cases) -> str:
    return SEVERAL if cases.n_groups < len(cases.groups) else ""


def _without(test: Literal["DeLong", "McNemar"], metric: str, note: str) -> CrossCheck:
    return CrossCheck(test=test, metric=metric, statistic=None, p=None, note=note)
