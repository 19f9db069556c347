"""The files that other parts write for scoring: predictions of the sandbox runtime, truth of stored datasets."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as oracle

from clinloop.datasets.truth import mask_cell
from clinloop.errors import BadPredictions
from clinloop.scoring import service
from clinloop.scoring.metrics import Scheme
from clinloop.scoring.service import TruthBox, TruthCase

BOXES = Scheme(("no fracture", "fracture"), task_type="detection", targets=("fracture", "metal"))
MASKS = Scheme(("no", "yes"), task_type="segmentation", targets=("pneumothorax",))


def drawn(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return [np.zeros((9, 14), bool), np.ones((9, 14), bool), random.random((9, 14)) < 0.5][seed % 3]


def test_boxes_that_the_runtime_writes_are_read_and_score_as_what_they_are(runtime: ModuleType, tmp_path: Path) -> None:
    truth = [
        TruthCase("c1", "g1", "fracture", 200, 100, (TruthBox(0, 10, 20, 30, 40), TruthBox(1, 100, 20, 30, 40))),
        TruthCase("c2", "g2", "no fracture", 200, 100, ()),
        TruthCase("c3", "g3", "fracture", 200, 100, (TruthBox(0, 5, 5, 30, 40),)),
    ]
    found = [[(*box, 0.9) for box in case.boxes or ()] for case in truth]
    runtime.write_detections(tmp_path / "predictions", [case.case_id for case in truth], found)
    result = service.score_predictions(
        tmp_path / "predictions", truth, scheme=BOXES, metrics=["ap50_95", "f1"], primary="ap50", intervals=False
    )
    assert {name: estimate.value for name, estimate in result.metrics.items()} == {"ap50": 1, "ap50_95": 1, "f1": 1}
    assert list(result.operating_points) == ["any target"]
    crowded = [(0, 1.0, 2.0, 3.0, 4.0, 0.5)] * runtime.MAX_DETECTIONS
    runtime.write_detections(tmp_path / "crowded", ["c1"], [crowded])
    assert len(service.read_predictions(tmp_path / "crowded", scheme=BOXES, expected=["c1"])["c1"]) == len(crowded)


def test_masks_that_the_runtime_writes_are_those_that_a_dataset_stores(runtime: ModuleType, tmp_path: Path) -> None:
    masks = {f"c{seed}": drawn(seed) for seed in range(9)}
    truth: list[TruthCase] = []
    for case_id, mask in masks.items():
        Image.fromarray(mask).convert("1").save(tmp_path / "mask.png")
        cell = f"case_id,group,label,width,height,mask\n{case_id},,yes,14,9,{mask_cell(tmp_path / 'mask.png')}\n"
        truth += service.read_truth(cell.encode())
        compressed = oracle.frPyObjects({"size": [9, 14], "counts": list(truth[-1].mask or ())}, 9, 14)
        assert compressed["counts"] == oracle.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    runtime.write_masks(tmp_path / "predictions", list(masks), list(masks.values()))
    rows = service.read_predictions(tmp_path / "predictions", scheme=MASKS, expected=list(masks))
    assert {case.case_id: service.Mask(9, 14, case.mask or ()) for case in truth} == rows
    names = ["iou", "image_sensitivity", "image_specificity"]
    result = service.score_predictions(
        tmp_path / "predictions",
        truth,
        scheme=MASKS,
        metrics=names,
        primary="dice",
        operating_rule="none",
        resamples=50,
    )
    assert {estimate.value for estimate in result.metrics.values()} == {1.0}
    runtime.write_masks(tmp_path / "turned", list(masks), [mask.T for mask in masks.values()])
    with pytest.raises(BadPredictions, match=r"the mask of 'c0' has size \[14, 9\]; its image has \[9, 14\]"):
        service.score_predictions(
            tmp_path / "turned", truth, scheme=MASKS, metrics=[], primary="dice", operating_rule="none"
        )
