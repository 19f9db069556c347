"""Boxes, masks and confounders scored through the child process, as the supervisor calls it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clinloop.errors import BadInput, BadPredictions
from clinloop.scoring import service
from clinloop.scoring.metrics import metrics_of
from clinloop.scoring.service import Scheme, TruthBox, TruthCase

from .drawn import BOXES, MASKS, drawn_boxes, drawn_masks


def test_boxes_are_scored_with_their_operating_point_and_a_better_detector_is_kept() -> None:
    names = [metric.name for metric in metrics_of(BOXES)]
    truth, weak = drawn_boxes(skill=0.4)
    strong = drawn_boxes(skill=0.9)[1]
    result = service.score_predictions(strong, truth, scheme=BOXES, metrics=names, primary="ap50", resamples=200)
    assert set(result.metrics) == set(names)
    for name, estimate in result.metrics.items():
        if name == "ap50_95_large":  # no box is as large as that
            assert estimate.value is None
            continue
        assert estimate.value is not None
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= estimate.value <= estimate.high
    point = result.operating_points["fracture"]
    assert point.rule == "max_f1"
    assert (point.sensitivity, point.specificity) == (result.per_class[0].sensitivity, result.per_class[0].specificity)
    assert (result.per_class[0].n, result.per_class[0].auc) == (40, result.metrics["image_auc"].value)
    assert [sum(row) for row in result.confusion] == [20, 40]
    decision = service.decide(strong, weak, truth, scheme=BOXES, primary="ap50", guards={"recall": 0.05}, resamples=300)
    assert (decision.accepted, decision.reason) == (True, "better")
    final = service.final_scores(
        weak,
        strong,
        truth,
        scheme=BOXES,
        metrics=["ap50_95", "f1", "recall"],
        operating_points_initial={"fracture": {"threshold": 1.0}},
        operating_points_refined=result.operating_points,
        resamples=100,
    )
    assert final[0].gain is not None
    assert final[0].gain > 0
    assert (final[2].initial.value, final[2].refined.value) == (0.0, result.metrics["recall"].value)
    assert (final[0].n, final[0].groups) == (60, 30)


def test_a_rule_for_images_fixes_the_operating_point_of_boxes_by_the_best_score() -> None:
    truth, found = drawn_boxes(skill=0.9)
    result = service.score_predictions(
        found, truth, scheme=BOXES, metrics=[], primary="ap50", operating_rule="sensitivity>=0.9", intervals=False
    )
    sensitivity = result.operating_points["fracture"].sensitivity
    assert sensitivity is not None
    assert 0.9 <= sensitivity == result.per_class[0].sensitivity


def test_boxes_in_shares_of_the_image_are_pointed_out() -> None:
    truth, _ = drawn_boxes(skill=1)
    rows = {case.case_id: (service.Detected(0, 0.1, 0.2, 0.3, 0.4, 0.9),) for case in truth}
    result = service.score_predictions(
        service.predictions_bytes(rows, BOXES), truth, scheme=BOXES, metrics=[], primary="ap50", intervals=False
    )
    assert result.primary == 0.0
    assert "write pixels of the image file" in " ".join(result.notes)


def test_masks_are_scored_and_a_better_one_is_kept() -> None:
    names = [metric.name for metric in metrics_of(MASKS)]
    truth, weak = drawn_masks(skill=0.5)
    strong = drawn_masks(skill=0.9)[1]
    result = service.score_predictions(strong, truth, scheme=MASKS, metrics=names, primary="dice", resamples=200)
    assert result.operating_points == {}
    assert 0.93 < (result.primary or 0) < 0.95
    assert result.metrics["image_specificity"].value == 0.5
    assert result.confusion == [[5, 5], [0, 30]]
    assert service.decide(strong, weak, truth, scheme=MASKS, primary="dice", resamples=300).reason == "better"
    rows = service.read_predictions(strong, scheme=MASKS, sizes={case.case_id: (10, 12) for case in truth})
    assert service.predictions_bytes(rows, MASKS) == strong
    with pytest.raises(BadPredictions, match=r"size \[12, 10\]; its image has \[10, 12\]"):
        service.read_predictions(strong, scheme=MASKS, sizes={case.case_id: (12, 10) for case in truth})


def test_what_a_model_owes_to_a_confounder_is_scored_from_the_truth_file(tmp_path: Path) -> None:
    scheme = Scheme(("no pneumothorax", "pneumothorax"), positive="pneumothorax", confounders=("drain",))
    random = np.random.default_rng(0)
    truth = [
        TruthCase(
            f"p{at:03d}",
            f"g{at // 2}",
            scheme.classes[at % 2],
            attributes={"drain": "1" if (at * 7 // 5) % 2 else "0.1"},
        )
        for at in range(200)
    ]
    rows = {
        case.case_id: (1 - p, p)
        for case in truth
        for p in [
            0.2
            + 0.3 * (case.label == "pneumothorax")
            + 0.4 * (case.attributes["drain"] == "1")
            + 0.05 * random.random()
        ]
    }
    (tmp_path / "truth.csv").write_bytes(service.truth_csv(truth))
    result = service.score_predictions(
        service.predictions_bytes(rows, scheme),
        tmp_path / "truth.csv",
        scheme=scheme,
        metrics=["partial_r_drain", "conflict_auc_drain", "fp_share_drain", "raw_r_drain"],
        primary="auc_pneumothorax",
        operating_rule="sensitivity>=0.9",
        resamples=200,
    )
    values = {name: estimate.value for name, estimate in result.metrics.items()}
    assert (values["partial_r_drain"] or 0) > 0.95
    assert values["conflict_auc_drain"] == 0.0
    assert values["fp_share_drain"] == 1.0
    low = result.metrics["partial_r_drain"].low
    assert low is not None
    assert low > 0.9
    assert result.notes == []
    few = [case._replace(attributes={"drain": ""}) if at > 60 else case for at, case in enumerate(truth)]
    noted = service.score_predictions(
        service.predictions_bytes(rows, scheme), few, scheme=scheme, metrics=[], primary="f1", intervals=False
    )
    assert "positives without drain and" in noted.notes[0]
    assert "139 of 200 cases do not say drain" in noted.notes[1]
    with pytest.raises(BadInput, match="no attribute 'pacemaker'"):
        service.score_predictions(
            service.predictions_bytes(rows, scheme),
            truth,
            scheme=replace(scheme, confounders=("pacemaker",)),
            metrics=["partial_r_pacemaker"],
            primary="f1",
        )


def test_a_truth_that_lacks_what_its_task_needs_is_refused() -> None:
    boxes, found = drawn_boxes(skill=1)
    masks, mask_file = drawn_masks(skill=1)
    for truth, data, scheme in (
        ([boxes[0]._replace(boxes=None), *boxes[1:]], found, BOXES),
        ([boxes[0]._replace(boxes=(TruthBox(1, 0, 0, 5, 5),)), *boxes[1:]], found, BOXES),
        ([masks[0]._replace(mask=None), *masks[1:]], mask_file, MASKS),
        ([masks[0]._replace(width=11), *masks[1:]], mask_file, MASKS),
    ):
        with pytest.raises(BadInput, match="The truth"):
            service.score_predictions(
                data, truth, scheme=scheme, metrics=[], primary="ap50" if scheme is BOXES else "dice"
            )
