"""What the analysis gives each section of the page: the class that matters first, the rest folded away, audits of declared confounders first, then those that
tell most on their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from clinloop.report.data import FinalMetric, ReportData
from clinloop.scoring.analysis import Calibration, ConfounderAudit, Curve, DecisionCurve, Subgroup, whole

MAX_AUDIT_FIGURES = 4
"""Audits of attributes that nobody declared are drawn up to this many in all; the others have tables only."""


class Sections(NamedTuple):
    """The parts of an analysis in the order in which a reader meets them."""

    leading: str
    """The class that the request puts first, or what boxes show."""
    curves: list[Curve]
    """Of the leading class."""
    more_curves: list[Curve]
    calibration: list[Calibration]
    """Of the leading class."""
    more_calibration: list[Calibration]
    decision: DecisionCurve | None
    """Of the leading class."""
    more_decisions: list[DecisionCurve]
    subgroups: dict[str, list[Subgroup]]
    """By metric."""
    audits: list[ConfounderAudit]
    """Of declared confounders; where there is none, of the attribute that tells most."""
    more_audits: list[ConfounderAudit]
    """The others, folded away."""
    shares: dict[str, float]
    """Share of each class in the test set of a classification; of boxes there is none."""
    titles: dict[str, str]
    """Title of each reported metric."""
    metrics: dict[str, FinalMetric]
    """Reported metrics by name."""
    adjusted: dict[str, float | None]
    """Holm-adjusted p-value by reported metric; empty where none was computed."""


def sections_of(data: ReportData) -> Sections:
    """Sort the analysis of a report into sections; all are empty without one."""
    analysis = whole(data.analysis, data.undeclared)
    order = _order(data, [curve.name for curve in analysis.curves] + [item.name for item in analysis.calibration])
    shown = order[:1] if _is_two_sided(data, order) else order
    leading, more = shown[0] if shown else "", shown[1:]
    decisions = {curve.name: curve for curve in analysis.decision_curves}
    audits = sorted(analysis.confounders, key=lambda audit: (not audit.is_declared, -_strength(audit)))
    open_ones = max(1, sum(audit.is_declared for audit in audits))
    counts = data.dataset.counts.get("test", {})
    total = sum(counts.values())
    subgroups = dict.fromkeys(group.metric for group in analysis.subgroups)
    return Sections(
        leading=leading,
        curves=[curve for curve in analysis.curves if curve.name == leading],
        more_curves=[curve for name in more for curve in analysis.curves if curve.name == name],
        calibration=[item for item in analysis.calibration if item.name == leading],
        more_calibration=[item for name in more for item in analysis.calibration if item.name == name],
        decision=decisions.get(leading),
        more_decisions=[decisions[name] for name in more if name in decisions],
        subgroups={metric: [group for group in analysis.subgroups if group.metric == metric] for metric in subgroups},
        audits=audits[:open_ones],
        more_audits=audits[open_ones:],
        shares={name: count / total for name, count in counts.items()}
        if total and data.task_type == "classification"
        else {},
        titles={metric.name: metric.title for metric in data.final},
        metrics={metric.name: metric for metric in data.final},
        adjusted=analysis.adjusted_p,
    )


def _strength(audit: ConfounderAudit) -> float:
    """Return how far an attribute alone tells the class, in either direction."""
    return 0.0 if audit.auc_alone is None else abs(audit.auc_alone - 0.5)


def _order(data: ReportData, names: Iterable[str]) -> list[str]:
    """Return the names once each: emphasised classes first, then the positive one, then as they come."""
    emphasised = data.spec.get("emphasised_classes")
    first = [str(item.get("class_name")) for item in emphasised if isinstance(item, dict)] if isinstance(emphasised, list) else []  # fmt: skip
    first += [str(data.spec.get("positive_class"))]
    found = list(dict.fromkeys(names))
    if len(data.dataset.classes) == 2 and data.task_type == "classification":
        first.append(data.dataset.classes[1])
    return [*dict.fromkeys(name for name in first if name in found), *(name for name in found if name not in first)]


def _is_two_sided(data: ReportData, names: list[str]) -> bool:
    """Tell whether the names are the two classes of a task: then the second says the same as the first, mirrored."""
    return data.task_type == "classification" and len(data.dataset.classes) == 2 and len(names) == 2
