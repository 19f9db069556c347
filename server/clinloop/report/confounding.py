"""What predictions owe to a confounder, from the evidence of a report: the four subgroups of the paper's figure 5."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from clinloop.report.data import ReportData
from clinloop.scoring.truth import confounder_value

SUBGROUPS: tuple[tuple[bool, bool], ...] = ((True, True), (True, False), (False, True), (False, False))
"""(has the disease, has the confounder)."""


@dataclass(frozen=True)
class Confounding:
    """Predicted probabilities of the test cases by disease and confounder."""

    positive: str
    """The disease: the positive class."""
    confounder: str
    """Attribute; a case has it from .5 on."""
    probabilities: dict[str, list[list[float]]]
    """For `initial` and `refined` the probabilities of each of SUBGROUPS."""
    thresholds: dict[str, float]
    """Operating point of each model, fixed on validation."""
    share_of_negatives: float
    """Share of the cases without the disease that have the confounder: what chance would give of the false positives."""


def confounding(data: ReportData, folder: Path) -> Confounding | None:
    """Return it from a report folder; None without a confounder in the contract, or where the evidence is sealed."""
    named = data.spec.get("confounders")
    positive = data.spec.get("positive_class")
    if not isinstance(named, list) or not named or not isinstance(positive, str) or not positive:
        return None
    first = named[0]
    assert isinstance(first, dict)
    confounder, files = str(first["attribute"]), folder / "evidence"
    if not (files / "truth.csv").is_file():
        return None
    truth = _rows(files / "truth.csv")
    column = f"attr:{confounder}"
    known = {row["case_id"]: row for row in truth if row.get(column)}
    probabilities: dict[str, list[list[float]]] = {}
    for model in ("initial", "refined"):
        groups: list[list[float]] = [[] for _ in SUBGROUPS]
        for row in _rows(files / f"{model}.csv"):
            if (case := known.get(row["case_id"])) is not None:
                cell = (case["label"] == positive, _has(case[column]))
                groups[SUBGROUPS.index(cell)].append(float(row[f"p_{positive}"]))
        probabilities[model] = groups
    negatives = [_has(row[column]) for row in known.values() if row["label"] != positive]
    return Confounding(
        positive=positive,
        confounder=confounder,
        probabilities=probabilities,
        thresholds={point.model: point.threshold for point in data.operating_points if point.class_name == positive},
        share_of_negatives=sum(negatives) / max(len(negatives), 1),
    )


def _has(value: str) -> bool:
    return (confounder_value("", value) or 0.0) >= 0.5


def _rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
