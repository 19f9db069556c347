"""The items of CLAIM and TRIPOD+AI that a report can answer from evidence; what nobody did is shown as not done.

Source: CLAIM 2024 update (44 items, Radiol Artif Intell 2024;6(4):e240300), whose numbers were taken from a public summary of PMC11304031 and
not read again in the article; TRIPOD+AI, item numbers of BMJ 2024;385:e078378. The wording is ours and shorter.
"""

from __future__ import annotations

from typing import NamedTuple

from clinloop.report.data import ReportData
from clinloop.report.text import listed, number, short
from clinloop.scoring.analysis import Analysis, whole


class Item(NamedTuple):
    """One reporting item."""

    topic: str
    claim: str
    """Item numbers in CLAIM 2024."""
    tripod: str
    """Item numbers in TRIPOD+AI."""
    answer: str | None
    """What the evidence says; None = not done."""


def reporting_items(data: ReportData) -> list[Item]:
    """Return the items in the order of a paper."""
    facts, analysis = data.dataset, whole(data.analysis, data.undeclared)
    split = ", ".join(f"{name} {sum(counts.values())}" for name, counts in facts.counts.items())
    test = next(iter(data.final))
    resampling = f"{test.resamples} bootstrap resamples of the {test.unit}, seed {test.seed}"
    resampling += "; p-values adjusted for the number of metrics (Holm)" if analysis.adjusted_p else ""
    points = "; ".join(f"{p.model} {p.class_name} at least {number(p.threshold)}" for p in data.operating_points)
    findings = f"{len(facts.audit)} findings of the audit of the data" if facts.audit else None
    return [
        Item("Objective and intended use", "4, 6", "3, 4", "the request, verbatim, and the contract frozen from it"),
        Item("Retrospective or prospective", "5", "5a", "retrospective: stored images"),
        Item("Data source", "7", "5a", f"{facts.name} (layout {facts.layout}); setting, dates and centres are not recorded"),
        Item("Eligibility, and numbers included and excluded", "8, 35", "6, 20", findings),
        Item("Demographics of patients by part of the data", "36", "20", None),
        Item("Pre-processing", "9", "7", " ".join(facts.image_rules) or None),
        Item("De-identification", "11", "17", "names and headers are removed from the images; ids are keyed"),
        Item("Missing data", "12", "11", _missing(analysis, test.n)),
        Item("Image acquisition", "13", "5b", None),
        Item("Reference standard and its annotators", "14–18", "8", None),
        Item("Partitions and the level at which they are disjoint", "19, 20", "16", f"{split}; disjoint by {facts.group_kind}"),
        Item("Sample size, justified in advance", "21", "10", None),
        Item("Model, training and software", "22–25", "12, 22", f"revisions of {len(data.runs)} runs, image {data.environment.image}"),
        Item("How the final model was chosen", "26", "12", f"on validation by {short(data.primary_title)}, decided by the server"),
        Item("Threshold", "28", "15", f"fixed on validation: {points}" if points else None),
        Item("Metrics, uncertainty and significance", "28, 29, 38", "12, 23a", resampling),
        Item("Calibration", "28", "12, 23a", _calibration(analysis)),
        Item("Robustness of the model", "30", "12", _robustness(data, analysis)),
        Item("Explanation of predictions", "31", "15", None),
        Item("Internal test, and consistency with validation", "32", "16", f"{test.n} test cases; drop from validation to test {number(data.validation_to_test.drop)}"),
        Item("External test data", "33", "16", None),
        Item("Performance in subgroups, fairness", "37", "14, 23a", _subgroups(analysis)),
        Item("Analysis of failures", "39", "23a", _failures(data, analysis)),
        Item("Limitations", "40", "26", "stated at the end of this report"),
        Item("Implications for practice", "41", "27", None),
        Item("Protocol fixed in advance", "42", "18c, 18d", f"contract hashed before the first run: {data.spec_sha256[:12]}…; not registered elsewhere"),
        Item("Code and model", "43", "18f", "frozen code and model files with their SHA-256"),
        Item("Funding, ethics approval, patient involvement", "44", "17–19", None),
    ]  # fmt: skip


def _missing(analysis: Analysis, n: int) -> str | None:
    """Say for how many test cases each audited attribute is known."""
    known = [f"{audit.attribute} known for {audit.n} of {n}" for audit in analysis.confounders]
    return f"test cases: {', '.join(known)}; others are left out of its audit, nothing is imputed" if known else None


def _calibration(analysis: Analysis) -> str | None:
    found = [
        f"{item.name} {number(item.ece.value)}"
        for item in analysis.calibration
        if item.model == "refined" and item.ece.value is not None
    ]
    return f"expected calibration error of the refined model: {', '.join(found)}" if found else None


def _robustness(data: ReportData, analysis: Analysis) -> str | None:
    done = [f"order of files, and {n} canaries"] if (n := sum(check.n for check in data.integrity.canaries)) else []
    if analysis.confounders:
        done.append(f"confound audit of {listed([audit.attribute for audit in analysis.confounders])}")
    if any(audit.label_noise for audit in analysis.confounders):
        done.append("wrong values of predicted attributes")
    return "; ".join(done) or None


def _subgroups(analysis: Analysis) -> str | None:
    attributes = list(dict.fromkeys(group.attribute for group in analysis.subgroups))
    return f"{len(analysis.subgroups)} groups by {listed(attributes)}" if attributes else None


def _failures(data: ReportData, analysis: Analysis) -> str | None:
    done = ["confusion matrices"] if data.task_type == "classification" or analysis.confusion else []
    if data.gallery is not None:
        done.append(
            f"{data.gallery.gained} validation cases gained and {data.gallery.lost} lost, shown as pictures"
            if data.gallery.items
            else f"{data.gallery.gained} validation cases gained and {data.gallery.lost} lost"
        )
    return f"{listed(done)}; no physician read the images again" if done else None
