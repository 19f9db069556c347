"""Scoring as the supervisor calls it: files in, plain values out; untrusted bytes are parsed in a capped child process only.

This module imports no numpy. A predictions file may be a Path (then it must be a regular file with one link, never a symbolic link, a
pipe or a device) or bytes that were read already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clinloop.errors import BadInput
from clinloop.scoring import acceptance
from clinloop.scoring.acceptance import Decision, Look, Mode, Taken, next_look
from clinloop.scoring.analysis import Analysis
from clinloop.scoring.metrics import DEFAULT_RULES, OperatingPoint, Scheme, is_higher_better
from clinloop.scoring.predictions import (
    TOLERANCES,
    Detected,
    Detections,
    Mask,
    Prediction,
    Probabilities,
    difference,
    max_submission_bytes,
    predictions_bytes,
    probabilities_csv,
)
from clinloop.scoring.process import CHILD_LIMITS, ChildLimits, Source, Truth, new_job, run
from clinloop.scoring.results import ClassRow, Estimate, PairedMetric, ScoreResult
from clinloop.scoring.truth import TruthBox, TruthCase, read_truth, truth_csv

__all__ = [
    "CHILD_LIMITS",
    "DEFAULT_RULES",
    "TOLERANCES",
    "Analysis",
    "ChildLimits",
    "ClassRow",
    "Decision",
    "Detected",
    "Detections",
    "Estimate",
    "FinalMetric",
    "Look",
    "Mask",
    "OperatingPoint",
    "PairedMetric",
    "Prediction",
    "Probabilities",
    "Scheme",
    "ScoreResult",
    "Taken",
    "TruthBox",
    "TruthCase",
    "analyse",
    "compare",
    "decide",
    "difference",
    "final_scores",
    "is_higher_better",
    "max_submission_bytes",
    "next_look",
    "predictions_bytes",
    "probabilities_csv",
    "read_predictions",
    "read_probabilities",
    "read_truth",
    "score_predictions",
    "truth_csv",
]

FinalMetric = PairedMetric
Points = Mapping[str, OperatingPoint | Mapping[str, object]]
"""Operating points by class, as values or as they come back from JSON."""

RESAMPLES_INTERVAL = 2_000
RESAMPLES_P = 10_000


def score_predictions(
    predictions: Source,
    truth: Truth,
    *,
    scheme: Scheme,
    metrics: Sequence[str],
    primary: str,
    operating_rule: str = "",
    intervals: bool = True,
    resamples: int = RESAMPLES_INTERVAL,
    seed: int = 0,
    limits: ChildLimits = CHILD_LIMITS,
) -> ScoreResult:
    """Score validation predictions; the operating point of each class is fixed on them (rule "": the task type's default).

    Raises:
        BadPredictions: the file breaks its contract; says how, and what is valid.
        BadInput: unknown metric, rule or class.
        Refusal: the scoring process ended without an answer.
    """
    job = new_job(
        "score",
        truth=truth,
        scheme=scheme,
        metrics=metrics,
        primary=primary,
        rule=operating_rule or DEFAULT_RULES[scheme.task_type],
        resamples=resamples if intervals else 0,
        seed=seed,
    )
    return run(job, [predictions], limits, ScoreResult)


def compare(
    initial: Source,
    refined: Source,
    truth: Truth,
    *,
    scheme: Scheme,
    metrics: Sequence[str],
    operating_rule: str = "",
    operating_points: tuple[Points, Points] | None = None,
    resamples: int = RESAMPLES_P,
    seed: int = 0,
    unit: str = "group",
    limits: ChildLimits = CHILD_LIMITS,
) -> list[PairedMetric]:
    """Compare two models on the same cases and the same resamples, in the order of `metrics`.

    Without `operating_points` they are fixed by the rule on these very cases, so these must be validation cases.

    Raises:
        BadPredictions, BadInput, Refusal: as `score_predictions`.
    """
    job = new_job(
        "paired",
        truth=truth,
        scheme=scheme,
        metrics=metrics,
        rule=operating_rule or DEFAULT_RULES[scheme.task_type],
        thresholds=None if operating_points is None else [_thresholds(points) for points in operating_points],
        resamples=resamples,
        seed=seed,
        unit=unit,
    )
    return run(job, [initial, refined], limits, list[PairedMetric])


def decide(
    predictions: Source,
    incumbent: Source | None,
    truth: Truth,
    *,
    scheme: Scheme,
    primary: str,
    guards: Mapping[str, float] | None = None,
    mode: Mode = "guarded",
    operating_rule: str = "",
    look: Look | None = None,
    resamples: int = RESAMPLES_P,
    seed: int = 0,
    limits: ChildLimits = CHILD_LIMITS,
) -> Decision:
    """Decide on validation whether a run replaces the incumbent (None: there is none); `guards` maps metrics to margins.

    Raises:
        BadPredictions, BadInput, Refusal: as `score_predictions`.
    """
    if incumbent is None:
        return acceptance.decide(mode, None)
    margins = dict(guards or {})
    pairs = compare(
        incumbent,
        predictions,
        truth,
        scheme=scheme,
        metrics=list(dict.fromkeys([primary, *margins])),
        operating_rule=operating_rule or DEFAULT_RULES[scheme.task_type],
        resamples=resamples,
        seed=seed,
        limits=limits,
    )
    guarding = [pair for pair in pairs if pair.name in margins]
    return acceptance.decide(mode, pairs[0], guards=guarding, margins=margins, look=look)


def final_scores(
    initial: Source,
    refined: Source,
    truth: Truth,
    *,
    scheme: Scheme,
    metrics: Sequence[str],
    operating_points_initial: Points,
    operating_points_refined: Points,
    resamples: int = RESAMPLES_P,
    seed: int = 0,
    unit: str = "group",
    limits: ChildLimits = CHILD_LIMITS,
) -> list[FinalMetric]:
    """Score two models on the test set, each at the operating points that were fixed on validation; never fixes any.

    Raises:
        BadPredictions, BadInput, Refusal: as `score_predictions`.
    """
    return compare(
        initial,
        refined,
        truth,
        scheme=scheme,
        metrics=metrics,
        operating_points=(operating_points_initial, operating_points_refined),
        resamples=resamples,
        seed=seed,
        unit=unit,
        limits=limits,
    )


def analyse(
    initial: Source,
    refined: Source,
    truth: Truth,
    *,
    scheme: Scheme,
    primary: str,
    p_values: Mapping[str, float | None],
    operating_points: tuple[Points, Points],
    resamples: int = RESAMPLES_INTERVAL,
    seed: int = 0,
    limits: ChildLimits = CHILD_LIMITS,
) -> Analysis:
    """Analyse two models beyond their metrics, each at its operating points; `p_values` are those of the reported metrics.

    It depends on the cases, the predictions and these settings alone, not on the order of the cases.

    Raises:
        BadPredictions, BadInput, Refusal: as `score_predictions`.
    """
    job = new_job(
        "analyse",
        truth=truth,
        scheme=scheme,
        primary=primary,
        rule=DEFAULT_RULES[scheme.task_type],
        thresholds=[_thresholds(points) for points in operating_points],
        p_values=dict(p_values),
        resamples=resamples,
        seed=seed,
    )
    return run(job, [initial, refined], limits, Analysis)


def read_predictions(
    predictions: Source,
    *,
    scheme: Scheme,
    expected: Sequence[str] | None = None,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    limits: ChildLimits = CHILD_LIMITS,
) -> dict[str, Prediction]:
    """Return the predictions by case id: of a classification or segmentation file in its order, of detections in the order of `expected`.

    expected: the ids that must be there, each once; of detections a case without a box is (), and only these ids may occur.
    sizes: width and height of the image file by case id; a mask of another size is an offence.

    Raises:
        BadPredictions, Refusal: as `score_predictions`.
    """
    issued = None if expected is None else list(expected)
    job = new_job("rows", truth=(), scheme=scheme, issued=issued, sizes=None if sizes is None else dict(sizes))
    match scheme.task_type:
        case "classification":
            return {**run(job, [predictions], limits, dict[str, Probabilities])}
        case "detection":
            return {**run(job, [predictions], limits, dict[str, Detections])}
        case "segmentation":
            return {**run(job, [predictions], limits, dict[str, Mask])}


def read_probabilities(
    predictions: Source,
    *,
    scheme: Scheme,
    expected: Sequence[str] | None = None,
    limits: ChildLimits = CHILD_LIMITS,
) -> dict[str, Probabilities]:
    """Return the probabilities of a classification file; otherwise as `read_predictions`."""
    issued = None if expected is None else list(expected)
    return run(new_job("rows", truth=(), scheme=scheme, issued=issued), [predictions], limits, dict[str, Probabilities])


def _thresholds(points: Points) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, point in points.items():
        threshold = point.threshold if isinstance(point, OperatingPoint) else point["threshold"]
        if not isinstance(threshold, (int, float)):
            raise BadInput(f"The operating point of {name[:80]!r} has no threshold.")
        found[name] = float(threshold)
    return found
