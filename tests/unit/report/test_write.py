"""A report folder is complete or absent, and report.json is exactly what was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clinloop.report.data import ReportData
from clinloop.report.evidence import Evidence, confusion, truth_csv
from clinloop.report.write import write_report
from clinloop.scoring import service


def test_report_folder_holds_every_part(data: ReportData, evidence: Evidence, tmp_path: Path) -> None:
    paths = write_report(data, tmp_path / "task" / "report", evidence)
    files = {str(file.relative_to(paths.html.parent)) for file in paths.html.parent.rglob("*") if file.is_file()}
    assert files == {
        "report.html",
        "report.json",
        "model_card.md",
        "evidence/truth.csv",
        "evidence/initial.csv",
        "evidence/refined.csv",
    }
    assert ReportData.model_validate_json(paths.json.read_bytes()) == data
    assert paths.json.read_bytes().isascii()
    assert (paths.html.parent / "evidence" / "truth.csv").read_bytes() == evidence.truth
    assert paths.model_card.read_text(encoding="utf-8").startswith("# Model card: isic")


def test_writing_again_replaces_the_report_and_leaves_nothing_else(
    data: ReportData, evidence: Evidence, tmp_path: Path
) -> None:
    write_report(data, tmp_path / "report", evidence)
    paths = write_report(
        data.model_copy(update={"created_at": "2026-11-21T00:00:00+00:00"}), tmp_path / "report", evidence
    )
    assert "2026-11-21" in paths.json.read_text(encoding="utf-8")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report"]


def test_report_that_cannot_be_drawn_leaves_the_old_one(data: ReportData, evidence: Evidence, tmp_path: Path) -> None:
    before = write_report(data, tmp_path / "report", evidence).json.read_bytes()
    broken = Evidence(truth=evidence.truth, initial=b"case_id\nx\n", refined=evidence.refined)
    with pytest.raises(KeyError):
        write_report(data, tmp_path / "report", broken)
    assert (tmp_path / "report" / "report.json").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["report"]


def test_groups_of_the_evidence_carry_new_names_in_the_old_order() -> None:
    written = truth_csv(
        [
            service.TruthCase("b2", "patient-77", "x"),
            service.TruthCase("a1", "patient-9", "y"),
            service.TruthCase("c3", "patient-77", 'q"r'),
            service.TruthCase("d4", "", "x"),
        ]
    )
    assert written == b'case_id,group,label\na1,g000002,y\nb2,g000001,x\nc3,g000001,"q""r"\nd4,g000000,x\n'


def test_evidence_gives_the_very_intervals_of_the_cases_it_was_written_from() -> None:
    rng = np.random.default_rng(0)
    cases = [
        service.TruthCase(f"{value:04x}", f"lesion-{value % 17}" if value % 3 else "", "ab"[value % 2])
        for value in range(60)
    ]
    tables = {
        model: service.probabilities_csv(
            {case.case_id: (p, 1 - p) for case, p in zip(cases, rng.random(60), strict=True)}, "ab"
        )
        for model in ("initial", "refined")
    }
    truths = [[cases[place] for place in rng.permutation(60)], service.read_truth(truth_csv(cases))]
    first, second = (
        service.final_scores(
            tables["initial"],
            tables["refined"],
            truth,
            scheme=service.Scheme(("a", "b")),
            metrics=["auc_a", "brier"],
            operating_points_initial={},
            operating_points_refined={},
            resamples=100,
        )
        for truth in truths
    )
    for one, other in zip(first, second, strict=True):
        assert one.refined.low == pytest.approx(other.refined.low, abs=1e-12)
        assert one.difference.high == pytest.approx(other.difference.high, abs=1e-12)


def test_evidence_of_boxes_masks_and_confounders_gives_the_very_intervals_too() -> None:
    rng = np.random.default_rng(1)
    classes = ("no", "yes")
    cases = [
        service.TruthCase(
            f"{value:04x}",
            f"patient-{value % 17}" if value % 3 else "",
            classes[value % 2],
            20,
            10,
            (service.TruthBox(0, 2.5, 3.25, 8, 5),) * (value % 2),
            (200 - 50 * (value % 2), 50)[: 1 + value % 2],
            {"drain": f"{rng.random():.3f}" if value % 5 else ""},
        )
        for value in range(60)
    ]

    def box() -> service.Detected:
        return service.Detected(
            0, *(rng.normal((2.5, 3.25, 8, 5), 0.7)), round(rng.random(), 1)
        )  # scores that are equal

    for scheme, names, needed, predict in (
        (
            service.Scheme(classes, "detection", ("rib",)),
            ["ap50", "ap50_95", "f1", "image_auc"],
            ("boxes",),
            lambda: (box(), box()),
        ),
        (
            service.Scheme(classes, "segmentation", ("rib",)),
            ["dice", "image_specificity"],
            ("width", "height", "mask"),
            lambda: service.Mask(10, 20, (200 - (size := int(rng.integers(1, 90))), size)),
        ),
        (
            service.Scheme(classes, positive="yes", confounders=("drain",)),
            ["partial_r_drain", "conflict_auc_drain", "fp_share_drain"],
            ("attributes",),
            lambda: (1 - (p := rng.random()), p),
        ),
    ):
        kept = [service.TruthCase(*case[:3], **{name: getattr(case, name) for name in needed}) for case in cases]
        tables = [service.predictions_bytes({case.case_id: predict() for case in kept}, scheme) for _ in range(2)]
        truths = [[kept[place] for place in rng.permutation(60)], service.read_truth(truth_csv(kept))]
        point = {name: {"threshold": 0.3} for name in ("rib", "yes")}
        first, second = (
            service.final_scores(
                tables[0],
                tables[1],
                truth,
                scheme=scheme,
                metrics=names,
                operating_points_initial=point,
                operating_points_refined=point,
                resamples=100,
            )
            for truth in truths
        )
        for one, other in zip(first, second, strict=True):
            assert one.difference.low is not None
            assert one.p == other.p
            for side in ("initial", "refined", "difference"):
                assert vars(getattr(one, side)) == pytest.approx(vars(getattr(other, side)), abs=1e-12)


def test_confusion_counts_true_rows_and_predicted_columns() -> None:
    truth = b"case_id,group,label\na,g0,cat\nb,g1,dog\nc,g2,dog\n"
    predictions = b"case_id,p_cat,p_dog\nc,0.9,0.1\nb,0.2,0.8\na,0.6,0.4\n"
    assert confusion(truth, predictions, ["cat", "dog"]) == [[1, 0], [1, 1]]
