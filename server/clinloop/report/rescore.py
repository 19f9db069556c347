"""The test scores of a report, computed once more from its evidence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from clinloop.errors import BadInput, Refusal
from clinloop.report.data import Estimate, Evidence, FinalMetric, ReportData
from clinloop.scoring import service
from clinloop.scoring.metrics import scheme_of
from clinloop.spec import TaskSpec

MOST_RESAMPLES = 1_000_000


def score_differences(data: ReportData, evidence: Evidence, *, tolerance: float) -> list[str]:
    """Return what differs between the final metrics of a report and those that its evidence gives; empty = nothing."""
    try:
        truth = service.read_truth(evidence.truth)
    except BadInput:
        return ["evidence/truth.csv is no table of case_id, group and label"]
    settings = {(metric.resamples, metric.seed) for metric in data.final}
    if not data.final or any(not 0 <= resamples <= MOST_RESAMPLES for resamples, _ in settings):
        return [f"there must be final metrics, each with at most {MOST_RESAMPLES} resamples"]
    problems: list[str] = []
    for resamples, seed in sorted(settings):
        stated = [metric for metric in data.final if (metric.resamples, metric.seed) == (resamples, seed)]
        try:
            found = _score(data, evidence, truth, stated)
        except Refusal as refusal:
            return [f"the evidence cannot be scored: {refusal}"]
        by_name = {metric.name: metric for metric in found}
        problems += [line for metric in stated for line in _differences(metric, by_name[metric.name], tolerance)]
    return problems


def _score(
    data: ReportData, evidence: Evidence, truth: Sequence[service.TruthCase], metrics: Sequence[FinalMetric]
) -> list[service.PairedMetric]:
    points = {
        model: {
            point.class_name: {"threshold": point.threshold} for point in data.operating_points if point.model == model
        }
        for model in ("initial", "refined")
    }
    return service.final_scores(
        evidence.initial,
        evidence.refined,
        truth,
        scheme=scheme_of(TaskSpec.model_validate(data.spec)),
        metrics=[metric.name for metric in metrics],
        operating_points_initial=points["initial"],
        operating_points_refined=points["refined"],
        resamples=metrics[0].resamples,
        seed=metrics[0].seed,
        unit=metrics[0].unit,
    )


def _differences(stated: FinalMetric, found: service.PairedMetric, tolerance: float) -> Iterator[str]:
    pairs: list[tuple[str, float | None, float | None]] = [("p", stated.p, found.p), ("n", stated.n, found.n)]
    models: tuple[tuple[str, Estimate, service.Estimate], ...] = (
        ("initial", stated.initial, found.initial),
        ("refined", stated.refined, found.refined),
        ("difference", stated.difference, found.difference),
    )
    for name, one, other in models:
        pairs += [(f"{name} value", one.value, other.value), (f"{name} low", one.low, other.low)]
        pairs += [(f"{name} high", one.high, other.high)]
    if stated.direction != found.direction:
        yield f"{stated.name}: better is {found.direction}, the report states {stated.direction}"
    for name, one, other in pairs:
        if not equal(one, other, tolerance):
            yield f"{stated.name} {name}: the evidence gives {other}, the report states {one}"


def equal(one: float | None, other: float | None, tolerance: float) -> bool:
    """Return whether two numbers agree, or both are absent."""
    return one is other if one is None or other is None else math.isclose(one, other, rel_tol=0, abs_tol=tolerance)
