"""The report as one HTML page: no script, no network, figures inline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from clinloop.report import sentences, text
from clinloop.report.cases import GalleryItem
from clinloop.report.checklist import reporting_items
from clinloop.report.data import FinalMetric, ReportData, RunSummary
from clinloop.report.evidence import Evidence
from clinloop.report.scorecard import STAGES
from clinloop.report.sections import MAX_AUDIT_FIGURES, sections_of
from clinloop.signing import fingerprint
from clinloop.spec import canonical
from clinloop.untrusted import clean

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

TEXT_CAP: Final = 8000
"""Longest foreign text that is shown, in characters."""

_PLURAL: Final = {"patient": "patients", "lesion": "lesions", "study": "studies"}

Figures = Mapping[str, str]
"""Inline SVG by name: metrics, trajectory, and where there is something to show class_auc, learning, confusion and those of `sections`."""


def draw_figures(data: ReportData, evidence: Evidence | None) -> dict[str, str]:
    """Draw every figure that the data supports."""
    from clinloop.report import figures
    from clinloop.report.evidence import confusion

    drawn = {
        "metrics": figures.metric_bars_svg(headline_metrics(data.final)),
        "trajectory": figures.trajectory_svg(data.runs, data.primary_title),
        "class_auc": figures.class_auc_svg(data.final),
        "learning": figures.learning_svg(data.runs, data.primary_title, data.incumbent),
    }
    if data.tradeoff is not None:
        from clinloop.report.tradeoff_figure import tradeoff_svg

        drawn["tradeoff"] = tradeoff_svg(data.tradeoff)
    decided = {item.model: item for item in data.analysis.confusion} if data.analysis else {}
    if len(decided) == 2:
        drawn["confusion"] = figures.confusion_svg(
            decided["refined"].names, decided["initial"].matrix, decided["refined"].matrix
        )
    elif evidence is not None and data.task_type == "classification":
        classes = data.dataset.classes
        before, after = (confusion(evidence.truth, rows, classes) for rows in (evidence.initial, evidence.refined))
        drawn["confusion"] = figures.confusion_svg(classes, before, after)
    if data.analysis is not None:
        drawn |= _draw_analysis(data)
    return {name: svg for name, svg in drawn.items() if svg}


def _draw_analysis(data: ReportData) -> dict[str, str | None]:
    """Draw the figures of the analysis, each under the name that its section uses."""
    from clinloop.report import analysis_figures as figures
    from clinloop.report.confound_figures import confounder_svg

    found, drawn = sections_of(data), dict[str, str | None]()
    if found.curves:
        drawn["curves"] = figures.curves_svg("curves", found.curves, found.shares)
    if found.more_curves:
        drawn["more_curves"] = figures.curve_panels_svg("more-curves", found.more_curves, found.shares)
    if found.calibration:
        drawn["calibration"] = figures.calibration_svg("calibration", found.calibration)
    if found.more_calibration:
        drawn["more_calibration"] = figures.calibration_panels_svg("more-calibration", found.more_calibration)
    if found.decision is not None:
        drawn["decision"] = figures.decision_svg("decision", found.decision)
    if found.more_decisions:
        drawn["more_decisions"] = figures.decision_panels_svg("more-decisions", found.more_decisions)
    for metric, subgroups in found.subgroups.items():
        drawn[f"subgroups_{metric}"] = figures.subgroups_svg(
            f"subgroups-{len(drawn)}", subgroups, found.titles.get(metric, metric)
        )
    audits = [*found.audits, *found.more_audits]
    for place, audit in enumerate(audits[: max(MAX_AUDIT_FIGURES, len(found.audits))]):
        drawn[f"confounder_{place}"] = confounder_svg(f"confounder-{place}", audit)
    return drawn


def headline_metrics(metrics: Sequence[FinalMetric]) -> list[FinalMetric]:
    """Return the metrics without the AUC of classes that have nothing else, because those have a figure of their own."""
    names = {metric.name for metric in metrics}
    per_class = [metric for metric in metrics if metric.name.startswith("auc_")]
    lone = {metric.name for metric in per_class if f"sensitivity_{metric.name.removeprefix('auc_')}" not in names}
    return [metric for metric in metrics if metric.name not in lone] or list(metrics)


def render_html(data: ReportData, figures: Figures) -> str:
    """Return the page; the same data and figures always give the same bytes."""
    from markupsafe import Markup

    from clinloop.report.figures import DARK, LIGHT, css_variables

    return _template().render(
        data=data,
        ledger_fingerprint=fingerprint(data.ledger_key),
        figures={name: Markup(svg) for name, svg in figures.items()},  # noqa: S704 - drawn by us, texts escaped there
        light=css_variables(LIGHT),
        dark=css_variables(DARK),
        summary=summary_lines(data),
        splits=[name for name in ("train", "val", "test") if name in data.dataset.counts],
        items=reporting_items(data),
        stages=STAGES,
        found=sections_of(data),
        learned=_learned(data),
        picture=_picture,
        say=sentences,
        text=text,
        canonical=canonical,
    )


def summary_lines(data: ReportData) -> tuple[str, str, str]:
    """Return what was asked, what the model does on unseen cases, and what this does not mean, in plain words."""
    primary = next(metric for metric in data.final if metric.name == data.primary_metric)
    groups = data.dataset.groups.get("test")
    kind = _PLURAL.get(data.dataset.group_kind, f"{data.dataset.group_kind} groups")
    grouped = "" if groups is None or data.dataset.group_kind == "image" else f" from {groups:,} {kind}"
    asked = " ".join(clean(data.request, cap=400).split())
    unchanged = data.incumbent == min(run.number for run in data.runs)
    is_chosen = any(run.chosen and run.number == data.incumbent for run in data.runs)
    result = f"On {primary.n:,} test images{grouped}, {_result(primary, unchanged=unchanged, is_chosen=is_chosen)}"
    sentences = [_at_threshold(data, point.class_name) for point in data.operating_points if point.model == "refined"]
    sentences += [_at_box_threshold(data)] if data.task_type == "detection" else []
    result += "".join([sentence for sentence in sentences if sentence][:2])
    meaning = (
        "This is a measurement on one stored data set, for research use only. It does not show that the model is safe or "
        f"useful for patients. Guarantee level {data.guarantee.level} ({data.guarantee.name}): {data.guarantee.meaning}"
    )
    return (f"“{asked}”", result, meaning)


def _result(metric: FinalMetric, *, unchanged: bool, is_chosen: bool) -> str:
    value = f"{text.short(metric.title)} {text.number(metric.refined.value)} (95\u00a0% interval {text.interval(metric.refined)})"
    if unchanged:
        why = "The clinician chose it" if is_chosen else "No later run was accepted"
        return f"the model reaches {value}. {why}, so it is the initial model."
    change = {
        "better": "The change is larger than chance explains",
        "worse": "The refined model is worse than the initial one",
        "no difference shown": "The data do not show a difference",
        "not comparable": "The two cannot be compared",
    }[text.verdict(metric)]
    return (
        f"the refined model reaches {value}; the initial model reached {text.number(metric.initial.value)} "
        f"({text.interval(metric.initial)}). {change} ({text.p_text(metric.p)})."
    )


def _at_threshold(data: ReportData, name: str) -> str:
    found = {metric.name: metric.refined for metric in data.final}
    sensitivity, specificity = found.get(f"sensitivity_{name}"), found.get(f"specificity_{name}")
    if sensitivity is None or specificity is None:
        return ""
    return (
        f" At the threshold fixed beforehand it finds {text.percent(sensitivity.value)} of {name} "
        f"({_percent_interval(sensitivity.low, sensitivity.high)}) and clears {text.percent(specificity.value)} of the others "
        f"({_percent_interval(specificity.low, specificity.high)})."
    )


def _at_box_threshold(data: ReportData) -> str:
    found = {metric.name: metric.refined for metric in data.final}
    recall, precision = found.get("recall"), found.get("precision")
    if recall is None or precision is None:
        return ""
    targets = data.spec.get("targets")
    what = " or ".join(map(str, targets)) if isinstance(targets, list) else "the target"
    return (
        f" At the threshold fixed beforehand it marks {text.percent(recall.value)} of the boxes of {what} "
        f"({_percent_interval(recall.low, recall.high)}), and {text.percent(precision.value)} of its marks are right "
        f"({_percent_interval(precision.low, precision.high)})."
    )


def _percent_interval(low: float | None, high: float | None) -> str:
    return "no interval" if low is None or high is None else f"{100 * low:.0f} to {100 * high:.0f}\u00a0%"


def _learned(data: ReportData) -> str:
    """Return the sentence below the learning curves; none where no run has a curve."""
    if not any(len(run.validations) > 1 for run in data.runs if run.mode == "full"):
        return ""
    primary = next(metric for metric in data.final if metric.name == data.primary_metric)
    return sentences.of_learning(data.runs, data.incumbent, is_higher_better=primary.direction == "higher")


def _picture(item: GalleryItem) -> Markup:
    """Return a picture whole: other text is cut at TEXT_CAP. Its characters were checked when it was read."""
    from markupsafe import Markup

    return Markup(item.picture)  # noqa: S704 - base64 only


def run_state(run: RunSummary) -> str:
    """Return the word that the trajectory table shows for a run."""
    return run.decision if run.decision != "none" else "smoke test" if run.mode == "smoke" else "no score"


def _shown(value: object) -> object:
    return clean(value, cap=TEXT_CAP) if isinstance(value, str) and not hasattr(value, "__html__") else value


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters["run_state"] = run_state
    return environment.get_template("report.html.j2")
