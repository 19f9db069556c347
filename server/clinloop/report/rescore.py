"""The test scores and the analysis of a report, computed once more from its evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import cast

from clinloop.errors import BadInput, Refusal
from clinloop.report.data import Estimate, FinalMetric, ReportData
from clinloop.report.evidence import Evidence
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


def analysis_differences(
    data: ReportData, stated: service.Analysis, evidence: Evidence, *, tolerance: float, words: bool
) -> list[str]:
    """Return what differs between the analysis of a report and that which its evidence gives; `words`: sentences and notes too."""
    if not 0 <= stated.resamples <= MOST_RESAMPLES:
        return [f"there must be at most {MOST_RESAMPLES} resamples"]
    try:
        found = service.analyse(
            evidence.initial,
            evidence.refined,
            service.read_truth(evidence.truth),
            scheme=scheme_of(TaskSpec.model_validate(data.spec)),
            primary=data.primary_metric,
            p_values={metric.name: metric.p for metric in data.final},
            operating_points=(_points(data, "initial"), _points(data, "refined")),
            resamples=stated.resamples,
            seed=stated.seed,
        )
    except Refusal as refusal:
        return [f"the evidence cannot be analysed: {refusal}"]
    return list(_apart("", asdict(stated), asdict(found), tolerance, words))


def _apart(where: str, stated: object, found: object, tolerance: float, words: bool) -> Iterator[str]:
    """Yield where two values of the same form differ; where lists or mappings have other members these are not compared."""
    if isinstance(stated, Mapping) and isinstance(found, Mapping):
        one, other = cast("Mapping[str, object]", stated), cast("Mapping[str, object]", found)
        if set(one) != set(other):
            yield f"{where}: the evidence gives {_few(other)}, the report states {_few(one)}"
            return
        for name in one:
            yield from _apart(f"{where}.{name}".lstrip("."), one[name], other[name], tolerance, words)
    elif isinstance(stated, list | tuple) and isinstance(found, list | tuple):
        first, second = cast("Sequence[object]", stated), cast("Sequence[object]", found)
        if len(first) != len(second):
            yield f"{where}: the evidence gives {len(second)} entries, the report states {len(first)}"
            return
        for place, (left, right) in enumerate(zip(first, second, strict=True)):
            yield from _apart(f"{where}[{place}]", left, right, tolerance, words)
    elif _is_number(stated) and _is_number(found):
        if not equal(cast("float", stated), cast("float", found), tolerance):
            yield f"{where}: the evidence gives {found}, the report states {stated}"
    elif stated != found and (words or not (isinstance(stated, str) and isinstance(found, str))):
        yield f"{where}: the evidence gives {str(found)[:120]!r}, the report states {str(stated)[:120]!r}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _few(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:8]) or "nothing"


def _points(data: ReportData, model: str) -> dict[str, dict[str, object]]:
    return {point.class_name: {"threshold": point.threshold} for point in data.operating_points if point.model == model}


def _score(
    data: ReportData, evidence: Evidence, truth: Sequence[service.TruthCase], metrics: Sequence[FinalMetric]
) -> list[service.PairedMetric]:
    return service.final_scores(
        evidence.initial,
        evidence.refined,
        truth,
        scheme=scheme_of(TaskSpec.model_validate(data.spec)),
        metrics=[metric.name for metric in metrics],
        operating_points_initial=_points(data, "initial"),
        operating_points_refined=_points(data, "refined"),
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


TOLERANCE = 1e-9


def same(one: object, other: object) -> bool:
    """Return whether two JSON values agree, numbers within TOLERANCE."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return equal(one, other, TOLERANCE)
    return one == other


def equal(one: float | None, other: float | None, tolerance: float) -> bool:
    """Return whether two numbers agree, or both are absent."""
    return one is other if one is None or other is None else math.isclose(one, other, rel_tol=0, abs_tol=tolerance)
