"""Which validation cases a run gets wrong, and how they are drawn."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clinloop.scoring.metrics import Scheme
from clinloop.scoring.misses import Miss, misses_of
from clinloop.scoring.predictions import Detected, Mask
from clinloop.scoring.truth import TruthBox, TruthCase
from clinloop_tools.pictures import sheet

CLASSES = Scheme(("MEL", "NV"))
BOXES = Scheme(("no", "yes"), task_type="detection", targets=("fracture", "metal"))
MASKS = Scheme(("no", "yes"), task_type="segmentation", targets=("pneumothorax",))


def boxes(case_id: str, *found: TruthBox) -> TruthCase:
    return TruthCase(case_id, "", "yes" if found else "no", 100, 100, found)


def test_the_most_confident_wrong_class_is_first_and_right_cases_are_left_out() -> None:
    truth = [TruthCase("a", "", "MEL"), TruthCase("b", "", "NV"), TruthCase("c", "", "MEL")]
    found = misses_of(CLASSES, truth, {"a": (0.4, 0.6), "b": (0.1, 0.9), "c": (0.05, 0.95)}, {})
    assert [(miss.case_id, miss.true, miss.said) for miss in found] == [
        ("c", "MEL (0.05)", "taken for NV (0.95)"),
        ("a", "MEL (0.40)", "taken for NV (0.60)"),
    ]


def test_missed_and_false_boxes_are_told_at_the_operating_point() -> None:
    fracture, metal = TruthBox(0, 10, 10, 20, 20), TruthBox(1, 60, 60, 20, 20)
    truth = [
        boxes("right", fracture),
        boxes("missed", fracture, metal),
        boxes("false"),
        boxes("faint", metal),
        boxes("none"),
    ]
    rows = {
        "right": (Detected(0, 11, 10, 20, 20, 0.9), Detected(0, 70, 70, 9, 9, 0.3)),
        "missed": (Detected(0, 10, 10, 20, 20, 0.8), Detected(0, 60, 60, 20, 20, 0.6)),
        "false": (Detected(0, 5, 5, 9, 9, 0.7), Detected(0, 50, 5, 9, 9, 0.55)),
        "faint": (Detected(1, 60, 60, 20, 20, 0.45),),
        "none": (),
    }
    found = misses_of(BOXES, truth, rows, {"any target": 0.5})
    assert [(miss.case_id, miss.true, miss.said) for miss in found] == [
        ("missed", "1 fracture, 1 metal", "missed 1, 1 false (up to 0.60)"),
        ("false", "nothing there", "2 false (up to 0.70)"),
        ("faint", "1 metal", "missed 1"),
    ]
    assert found[2].weight == pytest.approx(0.55)
    assert [box.score for box in found[1].said_boxes] == [0.7, 0.55]
    assert {miss.case_id for miss in misses_of(BOXES, truth, rows, {})} == {"right", "missed", "false"}


def test_masks_that_overlap_too_little_are_told_with_their_dice() -> None:
    def case(case_id: str, *counts: int) -> TruthCase:
        return TruthCase(case_id, "", "yes", 10, 10, None, counts)

    truth = [
        case("half", 10, 40, 50),
        case("empty", 100),
        case("good", 10, 40, 50),
        case("away", 0, 5, 95),
        case("right", 100),
    ]
    rows = {
        "half": Mask(10, 10, (45, 35, 20)),
        "empty": Mask(10, 10, (0, 3, 97)),
        "good": Mask(10, 10, (12, 40, 48)),
        "away": Mask(10, 10, (95, 5)),
        "right": Mask(10, 10, (100,)),
    }
    found = misses_of(MASKS, truth, rows, {})
    assert [(miss.case_id, miss.true, miss.said) for miss in found] == [
        ("away", "pneumothorax, 5.0%", "drew 5.0%, Dice 0.00"),
        ("empty", "no pneumothorax", "drew 3.0%"),
        ("half", "pneumothorax, 40.0%", "drew 35.0%, Dice 0.13"),
    ]


def test_the_dice_of_ragged_masks_is_that_of_drawn_ones() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        drawn = [random.random((12, 9)) < share for share in (0.3, 0.2)]
        edges = [np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=False)).tolist() for mask in drawn]
        runs = [tuple(np.diff([0, *places, 108]).tolist()) for places in edges]
        found = misses_of(MASKS, [TruthCase("a", "", "yes", 9, 12, None, runs[0])], {"a": Mask(12, 9, runs[1])}, {})
        expected = 2 * (drawn[0] & drawn[1]).sum() / (drawn[0].sum() + drawn[1].sum())
        assert found[0].weight == pytest.approx(1 - expected)


def test_what_is_true_is_drawn_in_green_and_what_was_said_in_red(tmp_path: Path) -> None:
    Image.new("L", (300, 200), 90).save(tmp_path / "grey.png")
    seen = Miss(
        case_id="a",
        weight=1,
        true="1 fracture",
        said="missed 1, 1 false (up to 0.83)",
        true_boxes=(TruthBox(0, 30, 40, 80, 60),),
        said_boxes=(Detected(0, 180, 60, 500, 90, 0.83),),
    )
    mask = Miss(
        case_id="b",
        weight=1,
        true="pneumothorax, 10.0%",
        said="drew 5.0%, Dice 0.00",
        true_mask=Mask(200, 300, (0, 6000, 54000)),
        said_mask=Mask(200, 300, (57000, 3000)),
    )
    path = tmp_path / "grey.png"
    with Image.open(io.BytesIO(sheet("run1: 2 of 2 validation misses", [(path, seen), (path, mask)]))) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int).reshape(-1, 3)
    for red, green, blue in ((44, 162, 95), (227, 26, 28)):
        assert (np.abs(pixels - (red, green, blue)).max(axis=1) < 40).sum() > 100
    blended = np.round(0.55 * 90 + 0.45 * np.array((44, 162, 95)))
    assert (np.abs(pixels - blended).max(axis=1) < 12).sum() > 1000
