"""The model card: what a person who finds the model folder must know, in Markdown."""

from __future__ import annotations

import re

from clinloop.report import sentences, text
from clinloop.report.data import ReportData
from clinloop.report.html import TEXT_CAP, summary_lines
from clinloop.report.sections import sections_of
from clinloop.untrusted import clean


def model_card(data: ReportData) -> str:
    """Return the card; its headings follow Mitchell et al., Model Cards for Model Reporting (2019)."""
    asked, result, meaning = summary_lines(data)
    rows = [
        f"| {plain(metric.title)} | {text.number(metric.initial.value)} ({text.interval(metric.initial)}) "
        f"| {text.number(metric.refined.value)} ({text.interval(metric.refined)}) | {text.p_text(metric.p)} |"
        for metric in data.final
    ]
    what = "Show a box of" if data.task_type == "detection" else "Call"
    points = [
        f"- {what} {plain(point.class_name)} when its {'score' if data.task_type == 'detection' else 'probability'} is at least {text.number(point.threshold, 4)} "
        f"({plain(point.rule)}, fixed on validation)."
        for point in data.operating_points
        if point.model == "refined"
    ]
    counts = [f"- {name}: {sum(split.values())} images" for name, split in data.dataset.counts.items()]
    sections = {
        "Model": [
            f"- Task `{plain(data.task_id)}`, run {data.incumbent}, written {data.created_at} by clinloop {data.clinloop_version}.",
            f"- Classes: {plain(', '.join(data.dataset.classes))}.",
            f"- Checkpoint SHA-256: `{data.integrity.checkpoints.get('refined', 'not recorded')}`.",
        ],
        "Intended use": [f"Asked for: {plain(asked)}", "", "Research only. " + plain(meaning)],
        "Operating point": points or ["None was fixed."],
        "Result on the test set": [
            plain(result),
            "",
            "| Metric | Initial (95 % interval) | Refined (95 % interval) | p |",
            "|---|---|---|---|",
            *rows,
        ],
        **_caveats(data),
        "Data": [f"- {plain(data.dataset.name)}, split by {plain(data.dataset.group_kind)}.", *counts],
        "Limits": [f"- {plain(item)}" for item in (*data.limits, data.environment.licence) if item],
    }
    body = "\n\n".join("\n".join([f"## {title}", "", *lines]) for title, lines in sections.items())
    return f"# Model card: {plain(data.dataset.name)}\n\n{body}\n"


def _caveats(data: ReportData) -> dict[str, list[str]]:
    """Return calibration, subgroups and confounders as sections; none without an analysis."""
    if data.analysis is None:
        return {}
    found = sections_of(data)
    calibration = (
        [f"- {plain(sentences.of_calibration(found.calibration, found.leading))}"] if found.calibration else []
    )
    subgroups = [f"- {plain(sentences.of_subgroups(groups, found.titles))}" for groups in found.subgroups.values()]
    audits = [f"- {plain(audit.attribute)}: {plain(sentences.of_audit(audit))}" for audit in found.audits]
    named = {"Calibration": calibration, "Subgroups": subgroups, "Confounders": audits}
    return {title: lines for title, lines in named.items() if lines}


def plain(words: str) -> str:
    """Return text as one line in which Markdown and HTML have no effect."""
    return re.sub(r"([\\`*_{}\[\]()<>#|!~&])", r"\\\1", " ".join(clean(words, cap=TEXT_CAP).split()))
