"""Metrics of predictions of any task type under many weightings of their groups at once.

A weighting says how often each group occurs: all ones for the data as they are, the counts of a resample for the bootstrap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clinloop.scoring import detection, segmentation
from clinloop.scoring.classification import CLASSIFICATION_METRICS
from clinloop.scoring.confounders import CONFOUNDER_METRICS
from clinloop.scoring.detection import BoxCases
from clinloop.scoring.metrics import Resolved, Scheme, resolve
from clinloop.scoring.segmentation import MaskCases
from clinloop.scoring.weighted import Cases, Floats, Weighting

AnyCases = Cases | BoxCases | MaskCases


def evaluate(names: Sequence[str], scheme: Scheme, cases: AnyCases, counts: Floats) -> Floats:
    """Return metrics (M, B) under the weightings `counts` (G, B); NaN where undefined.

    Raises:
        BadInput: a name is no metric of the scheme.
    """
    resolved = [resolve(name, scheme) for name in names]
    if not resolved:
        return np.empty((0, counts.shape[1]))
    match cases:
        case Cases():
            weighting = Weighting(cases, counts)
            return np.stack([_classification(weighting, scheme, found) for found in resolved])
        case BoxCases():
            value = detection.evaluator(cases, counts)
        case MaskCases():
            value = segmentation.evaluator(cases, counts)
    return np.stack([value(found.metric.name, -1 if found.place is None else found.place) for found in resolved])


def evaluate_once(names: Sequence[str], scheme: Scheme, cases: AnyCases) -> Floats:
    """Return metrics (M,) of the cases as they are."""
    return evaluate(names, scheme, cases, np.ones((cases.n_groups, 1)))[:, 0]


def cells_of(cases: AnyCases) -> int:
    """Return how many numbers a weighting costs, for the size of chunks."""
    return max(cases.n_hits, len(cases.groups)) if isinstance(cases, BoxCases) else len(cases.groups)


def _classification(weighting: Weighting, scheme: Scheme, found: Resolved) -> Floats:
    place = -1 if found.place is None else found.place
    if not found.metric.per_confounder:
        return CLASSIFICATION_METRICS[found.metric.name](weighting, place)
    positive = scheme.positive_index
    assert positive is not None, "resolve() gives confounder metrics to two classes only"
    return CONFOUNDER_METRICS[found.metric.name](weighting, positive, place)
