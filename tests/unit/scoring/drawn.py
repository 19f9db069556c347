"""Cases that the tests of scoring draw: lesions with probabilities, images with boxes, images with masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from clinloop.scoring import service
from clinloop.scoring.service import Scheme, TruthBox, TruthCase

CLASSES = ["MEL", "NV", "BCC"]
SCHEME = Scheme(tuple(CLASSES))
BOXES = Scheme(("no fracture", "fracture"), task_type="detection", targets=("fracture",))
MASKS = replace(BOXES, task_type="segmentation")
TruthRows = list[TruthCase]


def drawn_truth() -> TruthRows:
    """Return 120 cases of three classes in 60 groups."""
    random = np.random.default_rng(0)
    return [TruthCase(f"c{index:011x}", f"g{index // 2}", CLASSES[random.integers(0, 3)]) for index in range(120)]


def predict(truth: TruthRows, *, skill: float, seed: int = 1) -> bytes:
    random = np.random.default_rng(seed)
    rows: dict[str, list[float]] = {}
    for case_id, _, label, *_ in truth:
        scores = random.random(3)
        scores[CLASSES.index(label)] += skill
        rows[case_id] = list(scores / scores.sum())
    return service.probabilities_csv(rows, CLASSES)


def drawn_boxes(*, skill: float, seed: int = 1) -> tuple[TruthRows, bytes]:
    """Return 60 cases in 30 groups, every third without a box, and boxes that are found as often as `skill` says."""
    random = np.random.default_rng(0)
    truth = [
        TruthCase(f"b{at:03d}", f"g{at // 2}", "fracture", 100, 80, (TruthBox(0, *random.uniform(5, 40, 4)),))
        if at % 3
        else TruthCase(f"b{at:03d}", f"g{at // 2}", "no fracture", 100, 80, ())
        for at in range(60)
    ]
    random = np.random.default_rng(seed)
    rows: dict[str, service.Prediction] = {}
    for case in truth:
        boxes = [
            service.Detected(*box, score=0.4 + 0.6 * random.random())
            for box in case.boxes or ()
            if random.random() < skill
        ]
        boxes += [service.Detected(0, *random.uniform(40, 60, 4), score=0.7 * random.random())] * (
            random.random() < 0.6
        )
        rows[case.case_id] = tuple(boxes)
    return truth, service.predictions_bytes(rows, BOXES)


def drawn_masks(*, skill: float) -> tuple[TruthRows, bytes]:
    """Return 40 cases in 20 groups, every fourth without a target, and masks that cover a share `skill` of it."""
    truth: TruthRows = []
    rows: dict[str, service.Prediction] = {}
    for at in range(40):
        target = 20 + at if at % 4 else 0
        truth.append(
            TruthCase(
                f"m{at:03d}",
                f"g{at // 2}",
                "fracture" if target else "no fracture",
                10,
                12,
                None,
                (120 - target, target)[: 1 + (target > 0)],
            )
        )
        found = int(target * skill) or int(at % 8 == 0)
        rows[truth[-1].case_id] = service.Mask(12, 10, (120 - found, found)[: 1 + (found > 0)])
    return truth, service.predictions_bytes(rows, MASKS)
