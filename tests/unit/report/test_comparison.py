"""Our numbers beside the paper's: nothing is compared in silence, and the figures are there to look at."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinloop.paper import NUMBERS
from clinloop.report import paper_figures
from clinloop.report.comparison import Setup, compare, differences, findings, write_comparison
from clinloop.report.confounding import SUBGROUPS, confounding
from clinloop.report.data import Estimate, FinalMetric, OperatingPoint, ReportData

SETUP = Setup(data="a drawn stand-in of isic2019 with 2000 training images", gpus=0, has_weights=False, seconds=93.0)


def metric(name: str, before: float, after: float, direction: str = "higher") -> FinalMetric:
    change = after - before
    return FinalMetric(
        name=name,
        title=name,
        direction=direction,  # type: ignore[arg-type]
        initial=Estimate(value=before, low=before - 0.05, high=before + 0.05),
        refined=Estimate(value=after, low=after - 0.05, high=after + 0.05),
        difference=Estimate(value=change, low=change - 0.04, high=change + 0.04),
        p=0.0004,
        n=320,
        unit="patient",
        resamples=10_000,
        seed=0,
    )


@pytest.fixture
def confounded(data: ReportData) -> ReportData:
    """The report of a task like the paper's fifth."""
    final = (
        metric("conflict_auc_drain", 0.4, 0.62),
        metric("auc_pneumothorax", 0.86, 0.83),
        metric("partial_r_drain", 0.48, 0.26, "lower"),
        metric("raw_r_drain", 0.67, 0.53, "lower"),
        metric("fp_share_drain", 0.6, 0.31, "lower"),
    )
    points = [
        OperatingPoint(
            model=model,  # type: ignore[arg-type]
            class_name="pneumothorax",
            rule="youden",
            threshold=threshold,
            validation_sensitivity=0.8,
            validation_specificity=0.8,
        )
        for model, threshold in (("initial", 0.5), ("refined", 0.4))
    ]
    spec = {**data.spec, "positive_class": "pneumothorax", "confounders": [{"attribute": "drain", "why": "treatment"}]}
    changes = {"final": final, "primary_metric": "conflict_auc_drain", "spec": spec, "operating_points": tuple(points)}
    return data.model_copy(update=changes)


@pytest.fixture
def evidence_folder(tmp_path: Path) -> Path:
    """Evidence of 200 films: the baseline follows the drain, the refined model does so less."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "evidence"
    folder.mkdir()
    sick, drain = rng.random(200) < 0.4, rng.random(200)
    names = [f"{number:012x}" for number in range(200)]
    label = ["pneumothorax" if value else "no pneumothorax" for value in sick]
    rows = zip(names, names, label, [f"{value:.4f}" for value in drain], strict=True)
    write(folder / "truth.csv", ["case_id", "group", "label", "attr:drain"], list(rows))
    for model, weight in (("initial", 0.5), ("refined", 0.1)):
        p = np.clip(0.2 + 0.3 * sick + weight * (drain >= 0.5) + rng.normal(0, 0.05, 200), 0, 1)
        header = ["case_id", "p_no pneumothorax", "p_pneumothorax"]
        write(folder / f"{model}.csv", header, [(name, 1 - value, value) for name, value in zip(names, p, strict=True)])
    return tmp_path


def write(path: Path, header: list[str], rows: list[tuple[object, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def test_a_table_holds_each_of_our_metrics_once_with_the_papers_value_where_it_has_one(data: ReportData) -> None:
    table = compare("isic8", data, SETUP)

    names = [row["name"] for row in table["metrics"]]
    assert sorted(names) == sorted({metric.name for metric in data.final})
    auc = next(row for row in table["metrics"] if row["name"] == "macro_auc")
    assert auc["paper"]["refined"] == {"value": 0.9153, "low": 0.9054, "high": 0.9245}
    ours = next(metric for metric in data.final if metric.name == "macro_auc")
    assert auc["ours"]["refined"] == ours.refined.model_dump()
    assert auc["ours"]["p"] == ours.p
    quoted = [row["paper"] is not None for row in table["metrics"]]
    assert quoted == sorted(quoted, reverse=True)  # the paper's first
    assert any(quoted) and not all(quoted)


def test_every_point_of_the_protocol_is_said_for_the_paper_and_for_us(data: ReportData) -> None:
    said = differences("isic8", data, SETUP)

    points = [line.split(":", 1)[0] for line in said]
    assert points == [
        "data", "split", "budget", "seed network", "acceptance", "resample unit", "threshold", "primary metric",
    ]  # fmt: skip
    assert all("paper: " in line and "; here: " in line for line in said)
    assert "drawn stand-in" in said[0]
    assert "no GPU" in said[2]
    assert "random start" in said[3]


def test_the_price_of_debiasing_in_auc_is_said_with_how_much_less_the_confounder_decides(
    confounded: ReportData,
) -> None:
    text = " ".join(findings(confounded))
    assert "Partial correlation with drain: 0.480 → 0.260, 46\u00a0% less" in text
    assert "Share of false positives with drain: 60\u00a0% → 31\u00a0%" in text
    assert "The price in AUC over all test cases: 0.860 → 0.830, so it cost 0.030" in text


def test_subgroups_are_by_disease_and_confounder_and_by_name(confounded: ReportData, evidence_folder: Path) -> None:
    found = confounding(confounded, evidence_folder)

    assert found is not None
    medians = {
        model: dict(zip(SUBGROUPS, (float(np.median(own)) for own in groups), strict=True))
        for model, groups in found.probabilities.items()
    }
    assert medians["initial"][False, True] > medians["initial"][True, False]  # a drain is worth more than the disease
    assert medians["refined"][False, True] < medians["refined"][True, False]
    assert 0.4 < found.share_of_negatives < 0.6
    assert found.thresholds == {"initial": 0.5, "refined": 0.4}
    assert sum(map(len, found.probabilities["initial"])) == 200


def test_there_is_no_figure_5_without_a_confounder_or_where_the_evidence_is_sealed(
    data: ReportData, confounded: ReportData, evidence_folder: Path, tmp_path: Path
) -> None:
    assert confounding(data, evidence_folder) is None
    (evidence_folder / "evidence" / "truth.csv").rename(tmp_path / "truth.csv.age")
    assert confounding(confounded, evidence_folder) is None


def test_every_figure_is_a_picture_that_can_be_looked_at(
    data: ReportData, confounded: ReportData, evidence_folder: Path, tmp_path: Path
) -> None:
    found = confounding(confounded, evidence_folder)
    assert found is not None
    paper_figures.draw_bars(tmp_path, {"isic8": data, "pneumothorax": confounded})
    paper_figures.draw_evolution(tmp_path, "wrist-5pct", data)
    paper_figures.draw_confounding(tmp_path, confounded, found)
    for number in (3, 4, 5):
        with Image.open(tmp_path / f"figure-{number}.png") as image:
            assert image.width > 700
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 50
        svg = (tmp_path / f"figure-{number}.svg").read_text(encoding="utf-8")
        assert "<svg" in svg and "</svg>" in svg


def test_tables_json_holds_what_was_compared(data: ReportData, tmp_path: Path) -> None:
    table = compare("isic8", data, SETUP)
    write_comparison(tmp_path, {"isic8": table})
    stored = json.loads((tmp_path / "tables.json").read_text(encoding="utf-8"))
    assert stored == {"paper": "arXiv 2604.17110 v1", "tasks": {"isic8": table}}
    assert set(NUMBERS["isic8"]) & {row["name"] for row in stored["tasks"]["isic8"]["metrics"]}
