"""The items of CLAIM and TRIPOD+AI that a report can answer from evidence; what nobody did is shown as not done.

Source: CLAIM 2020, item numbers of PMC8017414; TRIPOD+AI, item numbers of BMJ 2024;385:e078378. The wording is ours and shorter.
"""

from __future__ import annotations

from typing import NamedTuple

from clinloop.report.data import ReportData
from clinloop.report.text import number, short


class Item(NamedTuple):
    """One reporting item."""

    topic: str
    claim: str
    """Item numbers in CLAIM 2020."""
    tripod: str
    """Item numbers in TRIPOD+AI."""
    answer: str | None
    """What the evidence says; None = not done."""


def reporting_items(data: ReportData) -> list[Item]:
    """Return the items in the order of a paper."""
    facts = data.dataset
    split = ", ".join(f"{name} {sum(counts.values())}" for name, counts in facts.counts.items())
    test = next(iter(data.final))
    resampling = f"{test.resamples} bootstrap resamples of the {test.unit}, seed {test.seed}"
    points = "; ".join(f"{p.model} {p.class_name} at least {number(p.threshold)}" for p in data.operating_points)
    failures = (
        "confusion matrices below the result; images were not read again"
        if data.task_type == "classification"
        else None
    )
    canaries = sum(check.n for check in data.integrity.canaries)
    return [
        Item("Objective and intended use", "4, 6", "3, 4", "the request, verbatim, and the contract frozen from it"),
        Item("Retrospective or prospective", "5", "5a", "retrospective: stored images"),
        Item("Data source", "7", "5a", f"{facts.name} (layout {facts.layout}); setting, dates and centres are not recorded"),
        Item("Eligibility, recruitment, demographics of patients", "8, 33, 34", "6, 20", None),
        Item("Pre-processing", "9", "7", " ".join(facts.image_rules) or None),
        Item("De-identification", "12", "17", "names and headers are removed from the images; ids are keyed"),
        Item("Missing data", "13", "11", None),
        Item("Reference standard and its annotators", "14–18", "8", None),
        Item("Sample size, justified in advance", "19", "10", None),
        Item("Partitions and the level at which they are disjoint", "20, 21", "16", f"{split}; disjoint by {facts.group_kind}"),
        Item("Model, training and software", "22–25", "12, 22", f"revisions of {len(data.runs)} runs, image {data.environment.image}"),
        Item("How the final model was chosen", "26", "12", f"on validation by {short(data.primary_title)}, decided by the server"),
        Item("Threshold", "28", "15", f"fixed on validation: {points}" if points else None),
        Item("Metrics, uncertainty and significance", "28, 29, 36", "12, 23a", resampling),
        Item("Robustness of the model", "30", "12", f"order of files, and {canaries} canaries" if canaries else None),
        Item("Explanation of predictions", "31", "15", None),
        Item("External test data", "32", "16", None),
        Item("Fairness across groups of patients", "", "14, 23a", None),
        Item("Analysis of failures", "37", "23a", failures),
        Item("Limitations", "38", "26", "stated at the end of this report"),
        Item("Code and model", "", "18f", "frozen code and model files with their SHA-256"),
        Item("Protocol registered in advance", "40, 41", "18c, 18d", f"contract hashed before the first run: {data.spec_sha256[:12]}…"),
        Item("Funding, ethics approval, patient involvement", "42", "17–19", None),
    ]  # fmt: skip
